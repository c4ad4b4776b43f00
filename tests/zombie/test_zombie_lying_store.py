"""Publishing to a store, and through a cache, that show something else than what was published: it is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, normal, sealed, zombie
from zombie_s3 import Bucket, s3_in_environment
from zombie_server import Place, closed, reset, says, serving, status

from flashcast.clock import FixedClock
from flashcast.errors import EnvironmentFault
from flashcast.zombie.envelope import seal
from flashcast.zombie.public import Seen
from flashcast.zombie.publish import OvertakenError, publish, read_published

put = partial(publish, keys=[KEY], clock=FixedClock(NOW))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with s3_in_environment(monkeypatch) as made:
        yield made


@pytest.fixture
def cdn() -> Iterator[Place]:
    with serving() as place:
        yield place


# --- A store that is read back -----------------------------------------------------------------------


def test_a_store_that_goes_on_showing_the_old_document_is_found_out_and_nobody_else_is_blamed(bucket: Bucket) -> None:
    put("s3://bucket", zombie())
    before = bucket.objects["shop.json"].data
    bucket.shows = lambda key, data: before
    with pytest.raises(EnvironmentFault) as caught:
        put("s3://bucket", normal())
    assert not isinstance(caught.value, OvertakenError)
    assert f"s3://bucket/shop.json is not what was written to it: reading it back gives still version {NOW}" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("shows", "told"),
    [
        (lambda data: data[:-1], "is no JSON object"),
        (lambda data: data.replace(b'"payload":"ey', b'"payload":"ez'), "no trusted key's signature fits"),
        (lambda data: seal(document(), [OTHER]), "no signature is by a trusted key"),
        (lambda data: b"<html>", "is no JSON object"),
        (lambda data: data + b" ", f"version {NOW + 1}, in other bytes"),
        (lambda data: None, "no file"),
    ],
    ids=["cut short", "changed", "another's", "a page", "longer", "nothing"],
)
def test_a_store_that_changes_what_it_is_given_is_found_out(
    bucket: Bucket, shows: Callable[[bytes], bytes | None], told: str
) -> None:
    put("s3://bucket", zombie())
    bucket.after_put = lambda key: setattr(bucket, "shows", lambda key, data: shows(data))
    with pytest.raises(EnvironmentFault) as caught:
        put("s3://bucket", normal())
    assert not isinstance(caught.value, OvertakenError)
    assert "reading it back gives" in str(caught.value) and told in str(caught.value)


def test_a_store_that_keeps_one_cohorts_old_file_is_found_out(bucket: Bucket) -> None:
    put("s3://bucket", zombie(cohorts=[4]))
    before = {key: stored.data for key, stored in bucket.objects.items()}
    bucket.shows = lambda key, data: before[key] if "2-of-4" in key else data
    with pytest.raises(EnvironmentFault, match=r"1 of 4 cohorts' files are not: shop.2-of-4.json: .* still version"):
        put("s3://bucket", normal())
    bucket.shows = lambda key, data: data
    put("s3://bucket", normal())
    assert read_published("s3://bucket", "shop", TRUSTED).is_whole


# --- The public address, over HTTP -------------------------------------------------------------------


def seen_by_apps(site: Path, cdn: Place) -> Any:
    """What a publisher finds at the public address, after how long."""
    slept: list[float] = []
    done = put(site, zombie(), public_url=cdn.url, sleep=slept.append)
    assert done.public is not None and sum(slept) == done.public.waited_s
    return done.public


def test_a_cache_that_shows_the_new_document_is_believed_at_once(tmp_path: Path, cdn: Place) -> None:
    cdn.file = sealed(version=NOW)
    assert (seen_by_apps(tmp_path, cdn)[1:4], len(cdn.polls)) == ((Seen.NEW, NOW, 0.0), 1)


def test_a_cache_that_shows_the_old_document_is_told_with_its_version(tmp_path: Path, cdn: Place) -> None:
    cdn.file = sealed(version=7)
    assert seen_by_apps(tmp_path, cdn)[1:4] == (Seen.OLD, 7, 30.0)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (sealed(version=NOW)[:-1], "is no JSON object"),
        (sealed(version=NOW).replace(b'"payload":"ey', b'"payload":"ez'), "no trusted key's signature fits"),
        (seal(document(version=NOW), [OTHER]), "no signature is by a trusted key"),
        (b"<html>We will be back soon</html>", "is no JSON object"),
    ],
    ids=["cut short", "changed", "another's", "a page"],
)
def test_a_cache_that_shows_what_apps_would_refuse_is_told(tmp_path: Path, cdn: Place, file: bytes, told: str) -> None:
    cdn.file = file
    check = seen_by_apps(tmp_path, cdn)
    assert check.seen is Seen.REFUSED
    assert told in check.advice[0]


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        (status(404), Seen.REFUSED),
        (status(503, b"", {"Retry-After": "30"}), Seen.REFUSED),
        (status(301, b"", {"Location": "https://elsewhere.example/shop.json"}), Seen.REFUSED),
        (reset, Seen.UNREACHABLE),
        (closed, Seen.UNREACHABLE),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), Seen.UNREACHABLE),
    ],
    ids=["404", "503", "301", "reset", "closed", "breaks off"],
)
def test_a_cache_that_shows_nothing_is_told(tmp_path: Path, cdn: Place, way: Any, seen: Seen) -> None:
    cdn.way = way
    assert seen_by_apps(tmp_path, cdn).seen is seen
    # What the caches do changes nothing about what is published.
    assert read_published(tmp_path, "shop", TRUSTED).version == NOW
