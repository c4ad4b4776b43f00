"""Publishing: readers see the old or the new, operators see each other, and versions only grow."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from zombie_data import KEY, NOW, OTHER, TRUSTED, normal, sealed, zombie
from zombie_nginx import nginx
from zombie_s3 import Bucket, s3_in_environment

from flashcast.clock import FixedClock
from flashcast.errors import BusyError, EnvironmentFault, InputError
from flashcast.zombie.client.http import HttpRequest, HttpResponse, TransportError, urllib_transport
from flashcast.zombie.document import Level
from flashcast.zombie.envelope import open_sealed
from flashcast.zombie.keys import trusted
from flashcast.zombie.public import Seen, check_public
from flashcast.zombie.publish import OvertakenError, publish, read_published
from flashcast.zombie.targets import CACHE_CONTROL, LOCK_NAME, DirectoryTarget, StoreTarget, open_target

CLOCK = FixedClock(NOW)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with s3_in_environment(monkeypatch) as made:
        yield made


@pytest.fixture(params=["directory", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "site")
    request.getfixturevalue("bucket")
    return "s3://bucket/zombie"


put = partial(publish, keys=[KEY], clock=CLOCK)


# --- Both kinds of target ----------------------------------------------------------------------------


def test_nothing_is_published_at_first(target: str) -> None:
    found = read_published(target, "shop", TRUSTED)
    assert (found.document, found.version, found.is_whole) == (None, 0, True)


def test_what_is_published_can_be_read_back(target: str) -> None:
    done = put(target, zombie(), lasts_s=600)
    assert done.files == ("shop.json",)
    assert done.compared
    assert done.document.terms == zombie()
    assert done.document.expires_at == NOW + 600
    assert read_published(target, "shop", TRUSTED).document == done.document


def test_versions_begin_with_the_time_and_grow_by_one(target: str) -> None:
    assert [put(target, zombie()).document.version for _ in range(3)] == [NOW, NOW + 1, NOW + 2]
    later = FixedClock(NOW + 3_600)
    assert put(target, normal(), clock=later).document.version == NOW + 3_600


def test_a_clock_that_goes_wrong_takes_no_version_back(target: str) -> None:
    put(target, zombie(), clock=FixedClock(NOW + 10**8))
    assert put(target, zombie()).document.version == NOW + 10**8 + 1


def test_every_cohort_has_its_file_and_all_have_one_version(target: str) -> None:
    done = put(target, zombie(buckets=300, cohorts=[8]))
    assert done.files == ("shop.json", *(f"shop.{index}-of-8.json" for index in range(8)))
    found = read_published(target, "shop", TRUSTED)
    assert found.is_whole
    assert sum(file.opened.document.buckets == 1_000 for file in found.cohorts if file.opened) == 3


def test_splits_that_were_published_go_on_being_published(target: str) -> None:
    put(target, zombie(cohorts=[4]))
    assert put(target, normal(cohorts=[2])).document.cohorts == (2, 4)
    found = read_published(target, "shop", TRUSTED)
    assert [file.name for file in found.cohorts][:2] == ["shop.0-of-2.json", "shop.1-of-2.json"]
    assert {file.opened.document.level for file in found.cohorts if file.opened} == {Level.NORMAL}


def test_a_split_that_is_given_up_is_set_to_normal_for_the_last_time(target: str) -> None:
    put(target, zombie(cohorts=[2]))
    done = put(target, zombie(), forget_cohorts=True)
    assert done.document.cohorts == ()
    assert "shop.0-of-2.json" in done.files
    last = open_target(target).read("shop.0-of-2.json")
    assert last is not None
    assert open_sealed(last.data, TRUSTED).document.level is Level.NORMAL
    assert put(target, zombie()).files == ("shop.json",)


def test_more_than_four_splits_are_refused(target: str) -> None:
    put(target, zombie(cohorts=[2, 3, 4, 5]))
    with pytest.raises(InputError, match="more than 4 splits"):
        put(target, zombie(cohorts=[6]))
    assert put(target, zombie(cohorts=[6]), forget_cohorts=True).document.cohorts == (6,)


def test_who_decided_on_something_else_is_told(target: str) -> None:
    seen = put(target, zombie()).document.version
    put(target, zombie(), expect=seen)
    with pytest.raises(OvertakenError) as caught:
        put(target, normal(), expect=seen)
    assert caught.value.version == seen + 1
    with pytest.raises(OvertakenError):
        put(target, normal(), expect=0)
    document = read_published(target, "shop", TRUSTED).document
    assert document is not None and document.level is Level.ZOMBIE


def test_a_foreign_file_is_replaced_only_when_that_is_asked_for(target: str) -> None:
    publish(target, zombie(), [OTHER], clock=CLOCK)
    with pytest.raises(InputError, match="is not genuine"):
        put(target, normal())
    assert put(target, normal(), replace=True).document.level is Level.NORMAL


def test_a_key_is_rotated(target: str) -> None:
    old = put(target, zombie()).document.version
    both = publish(target, zombie(), [KEY, OTHER], trusted=trusted([KEY]), clock=CLOCK).document
    assert read_published(target, "shop", trusted([KEY])).document == both
    assert read_published(target, "shop", trusted([OTHER])).document == both
    new = publish(target, zombie(), [OTHER], clock=CLOCK).document
    assert (both.version, new.version) == (old + 1, old + 2)
    assert read_published(target, "shop", trusted([KEY])).document is None


def test_apps_are_published_side_by_side(target: str) -> None:
    put(target, zombie())
    put(target, normal(app="bank"))
    for app, level in (("shop", Level.ZOMBIE), ("bank", Level.NORMAL)):
        document = read_published(target, app, TRUSTED).document
        assert document is not None and document.level is level


def test_another_apps_file_under_this_name_is_not_believed(target: str) -> None:
    at = open_target(target)
    with at.exclusive():
        at.write("shop.json", sealed(zombie(app="bank")), None)
    assert read_published(target, "shop", TRUSTED).main.fault == "it is another app's or another cohort's"


def test_what_nobody_can_have_meant_is_not_published(target: str) -> None:
    with pytest.raises(InputError, match="says nothing sensible"):
        put(target, zombie(off=[], keep=[]))
    assert read_published(target, "shop", TRUSTED).document is None


def test_an_interrupted_publication_is_seen_and_mended(target: str) -> None:
    put(target, zombie(cohorts=[4]))
    at = open_target(target)
    before = at.read("shop.3-of-4.json")
    put(target, normal())
    now = at.read("shop.3-of-4.json")
    assert before is not None
    with at.exclusive():
        at.write("shop.3-of-4.json", before.data, now)
    assert not read_published(target, "shop", TRUSTED).is_whole
    put(target, normal())
    assert read_published(target, "shop", TRUSTED).is_whole


# --- A directory -------------------------------------------------------------------------------------


def test_a_web_server_can_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        put(tmp_path, zombie())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shop.json").stat().st_mode) == 0o644


def test_no_two_documents_have_one_time_of_modification(tmp_path: Path) -> None:
    # nginx makes its ETag of the second and the size.
    times = []
    for _ in range(4):
        put(tmp_path, zombie())
        times.append(int((tmp_path / "shop.json").stat().st_mtime))
    assert len(set(times)) == 4
    assert times == sorted(times)


def test_two_publishers_of_one_directory_take_turns(tmp_path: Path) -> None:
    at = DirectoryTarget(tmp_path)
    with at.exclusive(), pytest.raises(BusyError, match="somebody else is publishing"):
        put(tmp_path, zombie())
    put(tmp_path, zombie())


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault, match="cannot lock"):
        put(tmp_path / "file" / "site", zombie())


def test_what_a_killed_publisher_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".shop.json.abc12_x.tmp").write_text("half")
    (tmp_path / ".other.tmp").write_text("not ours")
    put(tmp_path, zombie())
    assert {path.name for path in tmp_path.iterdir()} == {"shop.json", ".other.tmp", LOCK_NAME}


def test_somebody_who_does_not_lock_is_noticed(tmp_path: Path) -> None:
    put(tmp_path, zombie())
    at = DirectoryTarget(tmp_path)
    before = at.read("shop.json")
    (tmp_path / "shop.json").write_bytes(b"edited by hand")
    with at.exclusive(), pytest.raises(BusyError, match="changed under our hands"):
        at.write("shop.json", b"new", before)


LINES = re.findall(
    r"^```nginx\n(.*?)^```$", (ROOT / "docs/reference/zombie-document.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


def test_behind_nginx_each_change_is_seen_by_those_who_ask_with_an_etag(
    tmp_path: Path, require_command: Callable[[str], str]
) -> None:
    (lines,) = LINES
    with nginx(require_command("nginx"), tmp_path / "site", tmp_path / "nginx", lines) as url:
        etag = ""
        for said in (zombie(incident="a"), zombie(incident="b"), zombie(incident="c")):
            # All within one second, and of one size.
            done = put(tmp_path / "site", said, public_url=url)
            assert done.public == (f"{url}/shop.json", Seen.NEW, done.document.version, 0.0, ())
            headers = {"If-None-Match": etag} if etag else {}
            answer = urllib_transport(HttpRequest("GET", f"{url}/shop.json", headers))
            assert answer.status == 200
            assert answer.headers["cache-control"] == CACHE_CONTROL
            etag = answer.headers["etag"]
        again = urllib_transport(HttpRequest("GET", f"{url}/shop.json", {"If-None-Match": etag}))
        assert again.status == 304
        hidden = urllib_transport(HttpRequest("GET", f"{url}/{LOCK_NAME}"))
        assert hidden.status == 404


# --- A bucket ----------------------------------------------------------------------------------------


def test_caches_are_told_how_to_keep_it(bucket: Bucket) -> None:
    put("s3://bucket/zombie", zombie())
    stored = bucket.objects["zombie/shop.json"]
    assert (stored.content_type, stored.cache_control) == ("application/json", CACHE_CONTROL)


def test_each_file_is_one_put_and_the_apps_is_the_first(bucket: Bucket) -> None:
    put("s3://bucket/zombie", zombie(cohorts=[3]))
    assert bucket.puts[0] == "zombie/shop.json"
    assert sorted(bucket.puts) == sorted(bucket.objects)


def test_of_two_who_publish_at_once_one_is_told(bucket: Bucket) -> None:
    put("s3://bucket", zombie(cohorts=[2]))
    other: list[Any] = []

    def meanwhile(key: str) -> None:
        bucket.before_put = lambda key: None
        other.append(put("s3://bucket", normal()))

    bucket.before_put = meanwhile
    with pytest.raises(OvertakenError) as caught:
        put("s3://bucket", zombie())
    assert caught.value.version == other[0].document.version
    assert read_published("s3://bucket", "shop", TRUSTED).document == other[0].document
    assert read_published("s3://bucket", "shop", TRUSTED).is_whole


def test_a_slow_publisher_does_not_write_its_cohorts_over_newer_ones(bucket: Bucket) -> None:
    put("s3://bucket", zombie(cohorts=[2]))

    def meanwhile(key: str) -> None:
        bucket.after_put = lambda key: None
        put("s3://bucket", normal())

    bucket.after_put = meanwhile
    with pytest.raises(OvertakenError):
        put("s3://bucket", zombie())
    found = read_published("s3://bucket", "shop", TRUSTED)
    assert found.is_whole
    assert found.document is not None and found.document.level is Level.NORMAL


def test_many_who_publish_at_once_leave_one_of_them_whole(bucket: Bucket) -> None:
    put("s3://bucket", zombie(cohorts=[2]))
    done: list[int] = []

    def one(number: int) -> None:
        try:
            done.append(put("s3://bucket", zombie(incident=f"inc-{number}")).document.version)
        except OvertakenError:
            pass

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_published("s3://bucket", "shop", TRUSTED)
    assert len(done) == len(set(done)) >= 1
    assert found.main.version >= max(done)


def test_a_store_that_cannot_compare_is_written_to_and_that_is_told(bucket: Bucket) -> None:
    bucket.knows_conditions = False
    assert not put("s3://bucket", zombie(cohorts=[2])).compared
    assert read_published("s3://bucket", "shop", TRUSTED).is_whole


def test_a_put_whose_answer_is_lost_is_not_taken_for_somebody_elses(bucket: Bucket) -> None:
    bucket.lose_answers = 1
    assert put("s3://bucket", zombie()).document.version == NOW


def test_a_store_that_keeps_something_else_is_found_out(bucket: Bucket) -> None:
    bucket.alter = lambda data: data[:-1]
    with pytest.raises(EnvironmentFault, match="is not what was written to it"):
        put("s3://bucket", zombie())


def test_a_cohort_that_cannot_be_written_keeps_no_other_from_it(bucket: Bucket) -> None:
    put("s3://bucket", zombie(cohorts=[4]))
    bucket.refuse.add("shop.1-of-4.json")
    with pytest.raises(EnvironmentFault, match="1 of 4 cohorts' files are not"):
        put("s3://bucket", normal())
    found = read_published("s3://bucket", "shop", TRUSTED)
    assert [file.version - NOW for file in (found.main, *found.cohorts)] == [1, 1, 0, 1, 1]
    bucket.refuse.clear()
    put("s3://bucket", normal())
    assert read_published("s3://bucket", "shop", TRUSTED).is_whole


def test_no_access_is_told_without_secrets(bucket: Bucket) -> None:
    bucket.refuse.add("shop.json")
    with pytest.raises(EnvironmentFault) as caught:
        put("s3://bucket", zombie())
    assert "cannot write s3://bucket/shop.json" in str(caught.value)
    assert "AWS_SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://x/y", "https://x/y", "s3://bucket/x?X-Amz-Signature=abc"])
def test_addresses_that_are_no_target_are_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_target(url)
    assert "abc" not in str(caught.value)


def test_addresses_lead_to_their_kind() -> None:
    assert isinstance(open_target("file:///tmp/a%20b"), DirectoryTarget)
    assert open_target("file:///tmp/a%20b").url == "/tmp/a b"
    assert isinstance(open_target("gs://b/x"), StoreTarget)


# --- The public address ------------------------------------------------------------------------------


class Edge:
    """A cache that shows what it has, once for each request."""

    def __init__(self, *answers: HttpResponse | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request.url)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise TransportError("no answer")
        return answer


GOOD = {"etag": '"a"', "cache-control": "public, max-age=10", "content-type": "application/json"}


def look(edge: Edge, version: int = 7) -> Any:
    slept: list[float] = []
    check = check_public("https://cdn.example/z/", "shop.json", version, TRUSTED, transport=edge, sleep=slept.append)
    assert sum(slept) == check.waited_s
    return check


def test_the_public_address_shows_it_at_once() -> None:
    edge = Edge(HttpResponse(200, GOOD, sealed()))
    assert look(edge) == ("https://cdn.example/z/shop.json", Seen.NEW, 7, 0.0, ())
    assert edge.asked == ["https://cdn.example/z/shop.json"]


def test_the_public_address_is_asked_until_it_shows_it() -> None:
    old, new = HttpResponse(200, GOOD, sealed(version=6)), HttpResponse(200, GOOD, sealed())
    check = look(Edge(old, old, None, new))
    assert (check.seen, check.waited_s) == (Seen.NEW, 6.0)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (HttpResponse(200, GOOD, sealed(version=6)), Seen.OLD),
        (HttpResponse(403, {}, b""), Seen.REFUSED),
        (HttpResponse(200, GOOD, b"<html>"), Seen.REFUSED),
        (None, Seen.UNREACHABLE),
    ],
)
def test_what_the_public_address_shows_instead_is_told_after_half_a_minute(answer: Any, seen: Seen) -> None:
    check = look(Edge(answer))
    assert (check.seen, check.waited_s) == (seen, 30.0)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"cache-control": "no-store"}, "no max-age"),
        ({"cache-control": "max-age=3600"}, "max-age=3600"),
        ({"etag": ""}, "no ETag"),
        ({"content-type": "text/html; charset=utf-8"}, "content-type is text/html"),
    ],
)
def test_headers_that_would_trouble_apps_are_told(headers: dict[str, str], told: str) -> None:
    (advice,) = look(Edge(HttpResponse(200, GOOD | headers, sealed()))).advice
    assert told in advice


def test_publishing_looks_at_the_public_address(tmp_path: Path) -> None:
    def served(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, GOOD, (tmp_path / request.url.rpartition("/")[2]).read_bytes())

    done = put(tmp_path, zombie(), public_url="https://cdn.example", transport=served)
    assert done.public is not None and done.public.seen is Seen.NEW
