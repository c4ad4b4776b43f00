"""Both clients against a real server: what they believe, decide and keep, and that no server breaks them."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from zombie_data import KEY, NOW, OTHER, document, normal, sealed, zombie
from zombie_server import Place, Way, serving, status, without_an_answer

from flashcast.clock import FixedClock
from flashcast.errors import BusyError, EnvironmentFault, InputError
from flashcast.zombie.client import (
    Action,
    AsyncZombieClient,
    Decision,
    Fate,
    HttpRequest,
    HttpResponse,
    News,
    Options,
    QueueFullError,
    Result,
    TransportError,
    Why,
    ZombieClient,
)
from flashcast.zombie.client.http import urllib_transport
from flashcast.zombie.client.session import Session
from flashcast.zombie.document import Cohort, Level, Terms
from flashcast.zombie.envelope import seal

WRITE = "https://api.example/progress"
WAYS = without_an_answer() | {
    f"says {code}": status(code, b"no") for code in (204, 206, 301, 400, 401, 403, 500, 502, 503)
}


class Driven:
    """One of the two clients behind the methods that they share, so that a test is written once."""

    def __init__(self, kind: str, place: Place, clock: FixedClock, options: Options, transport: Any = None) -> None:
        self.clock = clock
        self.place = place
        self.ended = False
        self.runner = asyncio.Runner() if kind == "async" else None
        chosen, chance = transport or self.carry, random.Random(5)
        injected = {"clock": clock, "random": chance.random}
        if self.runner is not None:
            opening = AsyncZombieClient.open(options, transport=chosen, **injected)
            self.client: Any = self.runner.run(opening)
        else:
            self.client = ZombieClient(options, transport=chosen, **injected)

    def carry(self, request: HttpRequest) -> HttpResponse:
        """The plain transport, but for its patience; writes go to the test's server wherever they were addressed to."""
        url = request.url.replace("https://api.example", self.place.url)
        return urllib_transport(HttpRequest(request.method, url, request.headers, request.body, 0.5, 100_000))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if self.runner is None or not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self.runner.run(found(*arguments, **options))

    def fetch(self, feature: str, request: HttpRequest, fallback: Callable[[Decision], HttpResponse]) -> HttpResponse:
        async def later(decision: Decision) -> HttpResponse:
            return fallback(decision)

        if self.runner is None:
            return self.client.fetch(feature, request, fallback)
        return self.runner.run(self.client.fetch(feature, request, later))

    def call(self, feature: str, send: Callable[[], Any], fallback: Callable[[Decision], Any]) -> Any:
        async def now() -> Any:
            return send()

        async def later(decision: Decision) -> Any:
            return fallback(decision)

        if self.runner is None:
            return self.client.call(feature, send, fallback)
        return self.runner.run(self.client.call(feature, now, later))

    def poll(self) -> None:
        """Waits until a poll is due, and makes it."""
        asked = self.client.statistics().polls
        while self.client.statistics().polls == asked:
            self.clock.advance(self.step())

    def until_idle(self, seconds: float) -> None:
        """Does everything that becomes due within ``seconds``."""
        end = self.clock.time() + seconds
        while (left := end - self.clock.time()) > 0:
            self.clock.advance(min(self.step(), left) or 0.001)

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.close()
        if self.runner is not None:
            self.runner.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place() -> Iterator[Place]:
    with serving() as made:
        yield made


@pytest.fixture
def make(kind: str, place: Place, tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    """Makes a client of the kind that is asked for; all are closed in the end."""
    made: list[Driven] = []
    clock = FixedClock(NOW)

    def make(transport: Any = None, **changes: Any) -> Driven:
        said: dict[str, Any] = {
            "app": "shop", "base_url": place.url, "trusted": [KEY.public], "user": "u1", "path": tmp_path / "zombie.db",
        }  # fmt: skip
        made.append(Driven(kind, place, clock, Options(**(said | changes)), transport))
        return made[-1]

    yield make
    for each in made:
        each.end()


Make = Callable[..., Driven]


def publish(place: Place, said: Terms, version: int, **more: Any) -> None:
    place.file = sealed(said, version=version, **more)


# --- Hearing of it -----------------------------------------------------------------------------------


def test_before_the_first_document_everything_is_on(make: Make) -> None:
    client = make()
    assert client.standing().level is Level.NORMAL
    assert not client.is_off("feed")
    client.poll()
    assert client.statistics().news == {News.NONE: 1}
    assert client.decide("feed") == (Action.SEND, Why.ON, 0)


def test_a_document_turns_features_off_and_the_next_turns_them_on(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(message={"*": "Back soon", "de": "Gleich"}), 7)
    client.poll()
    assert client.is_off("feed")
    assert not client.is_off("payments")
    assert client.message("de-AT") == "Gleich"
    assert client.decide("feed") == (Action.FALLBACK, Why.OFF, 45)
    assert client.decide("feed", write=True).action is Action.QUEUE
    publish(place, normal(), 8)
    client.poll()
    assert not client.is_off("feed")
    assert client.message("de") is None


def test_what_has_not_changed_is_not_sent_again(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7)
    for _ in range(3):
        client.poll()
    assert client.statistics().news == {News.CHANGED: 1, News.UNCHANGED: 2}
    assert [poll.get("if-none-match") for poll in place.polls] == [None, place.etag, place.etag]


def test_a_client_of_a_cohort_asks_for_its_file_and_says_who_it_is(make: Make, place: Place) -> None:
    asked: list[str] = []

    def carry(request: HttpRequest) -> HttpResponse:
        asked.append(request.url)
        said = zombie().document(version=7, now=NOW, lasts_s=60, cohort=Cohort(index=3, of=8))
        return HttpResponse(200, {}, seal(said, [KEY]))

    client = make(carry, cohort=Cohort(index=3, of=8), who="a b/c")
    client.poll()
    assert asked == [f"{place.url}/shop.3-of-8.json?who=a%20b%2Fc"]
    assert client.is_off("feed")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_whatever_a_server_does_the_last_document_holds_until_its_end(make: Make, place: Place, way: Way) -> None:
    client = make()
    publish(place, zombie(), 7, lasts_s=600)
    client.poll()
    place.way = way
    client.poll()
    assert client.statistics().news == {News.CHANGED: 1, News.FAILED: 1}
    assert client.is_off("feed")
    client.clock.advance(600)
    assert not client.is_off("feed")
    place.way = None
    publish(place, zombie(), 8, now=NOW + 600)
    client.poll()
    assert client.is_off("feed")


REFUSED = {
    "malformed": b"<html>502</html>",
    "unknown_key": seal(document(normal(), version=9), [OTHER]),
    "bad_signature": sealed(normal(), version=9)[:-10] + b'AAAAAA"}]}',
    "replayed": sealed(normal(), version=6),
    "conflict": sealed(normal(), version=7),
    "expired": sealed(normal(), version=9, now=NOW - 4_000),
    "too_early": sealed(normal(), version=9, now=NOW + 4_000),
    "wrong_app": sealed(normal(app="bank"), version=9),
    "oversized": b" " * 30_000,
}


@pytest.mark.parametrize(("why", "file"), REFUSED.items(), ids=REFUSED)
def test_what_is_forged_or_old_changes_nothing_now_and_after_a_restart(
    make: Make, place: Place, why: str, file: bytes
) -> None:
    client = make()
    publish(place, zombie(), 7)
    client.poll()
    place.file = file
    client.poll()
    client.poll()
    assert client.statistics().refusals == {why: 2}
    # What is asked for is still the good one's successor.
    assert place.polls[-1]["if-none-match"] == f'"{place_etag(sealed(zombie(), version=7))}"'
    assert client.is_off("feed")
    client.end()
    again = make()
    assert again.is_off("feed")
    assert again.statistics().version == 7


def place_etag(file: bytes) -> str:
    place = Place()
    place.file = file
    return place.etag.strip('"')


def test_after_a_restart_the_last_document_holds_before_any_poll(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7)
    client.poll()
    client.end()
    again = make()
    assert again.is_off("feed")
    again.poll()
    assert again.statistics().news == {News.UNCHANGED: 1}


def test_after_a_restart_with_another_key_nothing_old_is_believed(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7)
    client.poll()
    client.end()
    again = make(trusted=[OTHER.public.text])
    assert not again.is_off("feed")
    place.file = seal(document(zombie(), version=3), [OTHER])
    again.poll()
    assert again.statistics().version == 3


def test_a_forgotten_zombie_mode_ends_though_the_server_shows_it_for_ever(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7, lasts_s=300)
    client.until_idle(1_000)
    assert not client.is_off("feed")
    assert client.statistics().version == 7


def test_polls_are_spread_over_the_interval_and_its_jitter(make: Make, place: Place) -> None:
    client, times = make(), []
    publish(place, zombie(poll_s=60, poll_jitter_s=30), 7, lasts_s=86_400)
    for _ in range(40):
        client.poll()
        times.append(client.clock.time())
    gaps = [after - before for before, after in pairwise(times)]
    assert all(59.9 <= gap <= 90.1 for gap in gaps)
    assert max(gaps) - min(gaps) > 10


def test_an_app_that_comes_to_the_front_hears_at_once_but_not_all_the_time(make: Make, place: Place) -> None:
    client = make()
    client.poll()
    publish(place, zombie(), 7)
    client.clock.advance(6)
    client.poll_soon()
    assert client.step() == 0
    assert client.is_off("feed")
    client.poll_soon()
    assert client.step() > 4


def test_a_clock_that_is_set_back_stops_no_polling(kind: str, place: Place, make: Make) -> None:
    client = make()
    publish(place, zombie(), 7)
    client.poll()
    past = FixedClock(NOW - 10**7)
    client.client.session._clock = past
    assert client.step() == 0
    assert client.statistics().polls == 2


# --- Hooks -------------------------------------------------------------------------------------------


def test_calls_that_are_off_are_answered_by_the_fallback_and_never_made(make: Make, place: Place) -> None:
    client = make()
    assert client.call("feed", lambda: "fresh", lambda decision: "kept") == "fresh"
    publish(place, zombie(), 7)
    client.poll()
    assert client.call("feed", lambda: pytest.fail("was called"), lambda decision: decision.wait_s) == 45
    assert client.call("payments", lambda: "paid", lambda decision: "kept") == "paid"


def test_fetching_asks_the_server_only_when_the_feature_is_on(make: Make, place: Place) -> None:
    client, request = make(), HttpRequest("GET", f"{place.url}/feed.json")
    kept = HttpResponse(299, {}, b"kept")
    place.way = status(200, b"fresh")
    assert client.fetch("feed", request, lambda decision: kept).body == b"fresh"
    place.way = None
    publish(place, zombie(), 7)
    client.poll()
    before = len(place.polls)
    assert client.fetch("feed", request, lambda decision: kept) is kept
    assert len(place.polls) == before


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_asks_to_be_left_alone_is(make: Make, place: Place, code: int) -> None:
    client, request = make(), HttpRequest("GET", f"{place.url}/feed.json")
    kept = HttpResponse(299, {}, b"kept")
    place.way = status(code, b"", {"Retry-After": "100"})
    assert client.fetch("feed", request, lambda decision: kept) is kept
    place.way = status(200, b"fresh")
    client.clock.advance(99)
    assert client.fetch("feed", request, lambda decision: kept) is kept
    assert client.fetch("search", request, lambda decision: kept).body == b"fresh"
    client.clock.advance(51)
    assert client.fetch("feed", request, lambda decision: kept).body == b"fresh"


def test_a_fetch_without_an_answer_is_told_to_the_app(make: Make, place: Place) -> None:
    place.way = WAYS["resets the connection"]
    with pytest.raises(TransportError):
        make().fetch("feed", HttpRequest("GET", f"{place.url}/feed.json"), lambda decision: HttpResponse(299))


# --- Writes ------------------------------------------------------------------------------------------


def write(client: Driven, body: bytes = b"{}", **more: Any) -> Any:
    return client.write("progress", HttpRequest("POST", WRITE, {"Content-Type": "application/json"}, body), **more)


def test_a_write_is_sent_at_once_with_its_key(make: Make, place: Place) -> None:
    client = make()
    written = write(client, b"one")
    assert written.result is Result.APPLIED
    assert written.response.status == 200
    ((key, headers, body),) = place.writes
    assert (key, body) == (written.id, b"one")
    assert not any(name.startswith("zombie-") for name in headers)
    assert client.pending() == []


def test_writes_wait_while_it_lasts_and_come_spread_over_the_drain_period(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(drain_s=1_000), 7, lasts_s=7_200)
    client.poll()
    ids = []
    for number in range(20):
        written = write(client, str(number).encode(), lane="progress")
        assert written.result is Result.QUEUED
        ids.append(written.id)
    client.until_idle(500)
    assert place.writes == []
    publish(place, normal(drain_s=1_000), 8, now=client.clock.time(), lasts_s=7_200)
    client.poll()
    let_in, times = client.clock.time(), []
    while client.pending():
        before = len(place.writes)
        client.clock.advance(client.step())
        times += [client.clock.time() - let_in] * (len(place.writes) - before)
    assert [key for key, _, _ in place.writes] == ids
    assert times[-1] <= 1_000
    # Twenty even draws leave no half of the period empty, but once in a million.
    assert sum(time < 500 for time in times) not in (0, 20)
    assert {headers["zombie-incident"] for _, headers, _ in place.writes} == {"inc-1"}
    assert place.writes[0][1]["zombie-queued-at"].isdigit()


def test_the_end_of_the_document_alone_lets_writes_go(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(drain_s=100), 7, lasts_s=300)
    client.poll()
    write(client)
    place.way = WAYS["resets the connection"]
    client.until_idle(290)
    assert place.writes == []
    client.until_idle(115)
    assert len(place.writes) == 1


def test_a_write_whose_answer_is_lost_is_sent_again_and_applied_once(make: Make, place: Place) -> None:
    client = make()
    place.answers = [(200, {"lost": "yes"})]
    written = write(client)
    assert written.result is Result.QUEUED
    client.until_idle(30)
    assert [key for key, _, _ in place.writes] == [written.id] * 2
    assert place.applied == {written.id: 1}
    assert client.pending() == []


def test_a_server_in_trouble_is_given_the_time_it_asks_for(make: Make, place: Place) -> None:
    client = make()
    place.answers = [(503, {"Retry-After": "200"})]
    assert write(client).result is Result.QUEUED
    # The feature is left alone, and so is the server by everything in the queue.
    assert write(client).result is Result.QUEUED
    client.until_idle(199)
    assert len(place.writes) == 1
    client.until_idle(110)
    assert len(place.writes) == 3
    assert client.pending() == []


def test_a_write_that_the_server_does_not_want_is_told_to_the_app(make: Make, place: Place) -> None:
    client = make()
    place.answers = [(422, {})]
    written = write(client)
    assert (written.result, written.response.status) == (Result.REFUSED, 422)
    assert client.pending() == []


def test_a_queued_write_that_the_server_does_not_want_is_kept_and_told(make: Make, place: Place) -> None:
    told: list[tuple[str, Fate | None]] = []
    client = make(on_write=lambda write, fate: told.append((write.id, fate)))
    publish(place, zombie(), 7, lasts_s=120)
    client.poll()
    written = write(client)
    place.answers = [(422, {})]
    client.until_idle(1_000)
    (kept,) = client.pending()
    assert (kept.id, kept.refused) == (written.id, 422)
    assert told == [(written.id, Fate.REFUSED)]
    assert client.again(written.id)
    client.until_idle(10)
    assert told[-1] == (written.id, Fate.APPLIED)
    assert client.pending() == []
    assert not client.again(written.id)


def test_writes_survive_a_restart_with_their_keys_and_times(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7, lasts_s=120)
    client.poll()
    ids = [write(client, bytes([number])).id for number in range(5)]
    place.way = WAYS["resets the connection"]
    client.until_idle(121)
    before = {each.id: each.due_at for each in client.pending()}
    client.end()
    again = make()
    again.step()
    assert {each.id: each.due_at for each in again.pending()} == before
    assert None not in before.values()
    again.until_idle(700)
    assert sorted(place.applied) == sorted(ids)
    assert set(place.applied.values()) == {1}


def test_the_same_write_twice_is_one(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(), 7)
    client.poll()
    assert write(client, write_id="order-1").id == "order-1"
    assert write(client, write_id="order-1").result is Result.QUEUED
    assert len(client.pending()) == 1


def test_a_write_of_a_lane_waits_for_those_before_it(make: Make, place: Place) -> None:
    client = make()
    place.answers = [(500, {})]
    first = write(client, b"1", lane="name")
    second = write(client, b"2", lane="name")
    other = write(client, b"3")
    assert [first.result, second.result, other.result] == [Result.QUEUED, Result.QUEUED, Result.APPLIED]
    client.until_idle(30)
    assert [body for _, _, body in place.writes] == [b"1", b"3", b"1", b"2"]


def test_writes_wait_for_who_made_them(make: Make, place: Place) -> None:
    client = make()
    publish(place, zombie(drain_s=10), 7, lasts_s=120)
    client.poll()
    first = write(client, b"1").id
    client.log_in("u2")
    client.until_idle(200)
    assert place.writes == []
    assert client.user == "u2"
    client.log_in("u1")
    client.until_idle(30)
    assert place.applied == {first: 1}


def test_what_was_written_before_the_first_login_can_go_along(make: Make, place: Place) -> None:
    client = make(user="installation-5")
    publish(place, zombie(drain_s=10), 7, lasts_s=120)
    client.poll()
    first = write(client, b"1").id
    client.log_in("u1", take_writes=True)
    client.end()
    again = make(user="u1")
    again.until_idle(200)
    assert place.applied == {first: 1}


def test_credentials_are_added_when_a_write_is_sent_and_never_kept(make: Make, place: Place, tmp_path: Path) -> None:
    tokens = iter(["fresh-1", "fresh-2"])
    client = make(prepare=lambda request: request.with_headers({"Authorization": next(tokens)}))
    place.answers = [(401, {})]
    write(client)
    client.until_idle(10)
    assert [headers["authorization"] for _, headers, _ in place.writes] == ["fresh-1", "fresh-2"]
    assert not any(b"fresh-" in path.read_bytes() for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="the header authorization would lie on disk"):
        client.write("progress", HttpRequest("POST", WRITE, {"authorization": "x"}))
    assert "authorization" not in place.polls[-1]


NEVER = ["file:///etc/passwd", "http://x/\r\nEvil: 1", "http://u:secret@x/", "http://u@x", "http://a\\@x/", "http:///x"]


@pytest.mark.parametrize("url", NEVER)
def test_a_write_that_could_never_be_sent_is_not_taken(make: Make, url: str) -> None:
    client = make()
    with pytest.raises(InputError):
        client.write("progress", HttpRequest("POST", url))
    assert client.pending() == []


@pytest.mark.parametrize("url", ["http://x?mail=a@b", "http://x/@me", "http://[::1]:80/a#b"])
def test_an_address_with_an_at_elsewhere_is_one_like_any_other(make: Make, place: Place, url: str) -> None:
    publish(place, zombie(), 1)
    client = make()
    client.poll()
    assert client.write("progress", HttpRequest("POST", url)).result is Result.QUEUED


def test_texts_that_are_no_unicode_are_refused_where_they_come_in(make: Make, place: Place) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        make(user="\udc80")
    publish(place, zombie(), 1)
    client = make()
    client.poll()
    with pytest.raises(InputError, match="lone surrogate"):
        client.log_in("\udc80")
    with pytest.raises(InputError, match="lone surrogate"):
        client.write("progress\udc80", HttpRequest("POST", WRITE))
    with pytest.raises(InputError, match="lone surrogate"):
        client.write("progress", HttpRequest("POST", WRITE), lane="\udc80")
    assert client.is_off("feed")
    assert client.pending() == []


class LoggingIn(FixedClock):
    """Somebody logs in when it is read for the second time: a write is being made then."""

    client: Any = None
    reads = 0

    def time(self) -> float:
        self.reads += 1
        if self.client is not None and self.reads == 2:
            self.client.session.log_in("another")
        return super().time()


def test_a_write_is_not_sent_as_who_logs_in_while_it_is_made() -> None:
    clock, sent = LoggingIn(NOW), list[HttpRequest]()

    def carry(request: HttpRequest) -> HttpResponse:
        sent.append(request)
        return HttpResponse(201)

    options = Options(app="shop", base_url="http://cdn.example", trusted=[KEY.public], user="one")
    client = ZombieClient(options, transport=carry, clock=clock)
    clock.client, clock.reads = client, 0
    assert client.write("progress", HttpRequest("POST", WRITE)).result is Result.QUEUED
    assert client.user == "another"
    assert sent == []
    client.log_in("one")
    while client.pending():
        client.step()
    assert [request.url for request in sent if request.method == "POST"] == [WRITE]
    client.close()


def test_an_app_whose_own_code_fails_is_polled_for_all_the_same(
    make: Make, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    client = make(prepare=broken, on_news=broken, on_write=broken)
    publish(place, zombie(), 7)
    client.poll()
    assert client.is_off("feed")
    publish(place, normal(), 8)
    client.poll()
    assert write(client).result is Result.QUEUED
    assert caplog.text.count("ZeroDivisionError") >= 3


# --- A queue that is full, a disk that fails ---------------------------------------------------------


def queued(make: Make, place: Place, **options: Any) -> Driven:
    client = make(**options)
    publish(place, zombie(), 7)
    client.poll()
    return client


def test_a_full_queue_refuses_by_default_and_says_so(make: Make, place: Place) -> None:
    client = queued(make, place, queue_writes_max=3)
    ids = [write(client).id for _ in range(3)]
    with pytest.raises(QueueFullError, match="3 writes"):
        write(client)
    assert [each.id for each in client.pending()] == ids


def test_a_full_queue_drops_the_oldest_if_the_app_says_so(make: Make, place: Place) -> None:
    told: list[tuple[str, Fate | None]] = []
    client = queued(
        make,
        place,
        queue_writes_max=3,
        on_full="drop-oldest",
        on_write=lambda write, fate: told.append((write.id, fate)),
    )
    ids = [write(client).id for _ in range(5)]
    assert [each.id for each in client.pending()] == ids[2:]
    assert told == [(ids[0], None), (ids[1], None)]
    assert client.statistics().dropped == 2


def test_a_full_queue_drops_what_the_app_chooses(make: Make, place: Place) -> None:
    client = queued(
        make, place, queue_writes_max=3, on_full=lambda new, kept: [each.id for each in kept if each.body == b"like"]
    )
    for body in (b"like", b"order", b"like", b"order"):
        write(client, body)
    assert [each.body for each in client.pending()] == [b"order", b"order"]
    write(client, b"order")
    with pytest.raises(QueueFullError):
        write(client, b"order")


def test_bytes_are_bounded_as_well(make: Make, place: Place) -> None:
    client = queued(make, place, queue_bytes_max=2_000, on_full="drop-oldest")
    for _ in range(10):
        write(client, b"x" * 500)
    assert 0 < client.statistics().queued_bytes <= 2_000
    assert client.statistics().queued_bytes == sum(each.size_bytes for each in client.pending())
    with pytest.raises(QueueFullError):
        write(client, b"x" * 2_500)
    with pytest.raises(InputError, match="too large for the queue"):
        write(client, b"x" * 300_000)


def test_a_full_queue_keeps_no_write_from_being_sent(make: Make, place: Place) -> None:
    client = queued(make, place, queue_writes_max=1)
    write(client)
    client.write("payments", HttpRequest("POST", WRITE, {}, b"pay"))
    assert [body for _, _, body in place.writes] == [b"pay"]
    place.answers = [(500, {})]
    with pytest.raises(QueueFullError):
        client.write("payments", HttpRequest("POST", WRITE, {}, b"pay"))


def fail_writing(client: Driven) -> None:
    client.client.session._store._db.execute("pragma query_only=on")


def test_a_disk_that_fails_takes_no_write_that_must_wait_and_stops_nothing_else(make: Make, place: Place) -> None:
    client = queued(make, place)
    fail_writing(client)
    with pytest.raises(EnvironmentFault, match="cannot write"):
        write(client)
    assert client.pending() == []
    assert client.write("payments", HttpRequest("POST", WRITE)).result is Result.APPLIED
    publish(place, normal(), 8)
    client.poll()
    assert not client.is_off("feed")
    assert client.statistics().disk_faults == 1


def test_a_refusal_is_told_though_the_disk_fails_to_forget_the_write(make: Make, place: Place) -> None:
    client = make()

    def refuses(request: HttpRequest) -> HttpResponse:
        fail_writing(client)
        return HttpResponse(422, {}, b"no")

    client.client._transport = refuses
    written = write(client)
    assert (written.result, written.response.body) == (Result.REFUSED, b"no")
    assert client.pending() == []
    assert client.statistics().disk_faults == 2


def test_a_write_that_was_applied_and_could_not_be_forgotten_is_not_applied_twice(make: Make, place: Place) -> None:
    client = make()
    client.client.session._attempted, real = lambda *_: None, client.client.session._attempted
    written = write(client)
    client.client.session._attempted = real
    client.end()
    again = make()
    again.until_idle(5)
    assert place.applied == {written.id: 1}
    assert len(place.writes) == 2
    assert again.pending() == []


@pytest.mark.parametrize("damage", [b"this is no database at all, though it is long enough for one" * 40, b"SQLite"])
def test_a_damaged_file_is_put_aside_and_the_app_starts(
    make: Make, place: Place, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / "zombie.db").write_bytes(damage)
    client = make()
    assert (tmp_path / "zombie.db.damaged-1").read_bytes() == damage
    assert client.statistics().disk_faults == 1
    publish(place, zombie(), 7)
    client.poll()
    assert client.is_off("feed")


def test_a_file_whose_pages_are_garbled_is_put_aside(make: Make, place: Place, tmp_path: Path) -> None:
    client = queued(make, place)
    for _ in range(50):
        write(client, b"x" * 1_000)
    client.end()
    file = bytearray((tmp_path / "zombie.db").read_bytes())
    file[4_096:] = bytes(len(file) - 4_096)
    (tmp_path / "zombie.db").write_bytes(file)
    again = make()
    assert again.pending() == []
    assert (tmp_path / "zombie.db.damaged-1").exists()


def test_two_processes_do_not_share_a_file(make: Make) -> None:
    make()
    with pytest.raises(BusyError, match="another process uses"):
        make()


def test_a_file_that_cannot_be_made_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault, match="cannot open"):
        make(path=tmp_path / "file" / "zombie.db")


def test_the_file_is_its_users_alone(make: Make, place: Place, tmp_path: Path) -> None:
    client = queued(make, place)
    write(client)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_without_a_file_all_is_kept_in_memory(make: Make, place: Place, tmp_path: Path) -> None:
    client = queued(make, place, path=None)
    assert write(client).result is Result.QUEUED
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_cannot_be_made_lets_go_of_its_file(make: Make) -> None:
    with pytest.raises(InputError):
        make(trusted=["nonsense"])
    make()


# --- The loop ----------------------------------------------------------------------------------------


def test_the_loop_polls_replays_and_ends(kind: str, place: Place, tmp_path: Path) -> None:
    publish(place, zombie(drain_s=0), 7)
    options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1", path=tmp_path / "z.db")
    clock = FixedClock(NOW)
    request = HttpRequest("POST", f"{place.url}/w")

    async def asynchronous() -> None:
        async with await AsyncZombieClient.open(options, clock=clock) as client:
            while not client.is_off("feed"):
                await asyncio.sleep(0)
            assert (await client.write("feed", request)).result is Result.QUEUED
            publish(place, normal(drain_s=0), 8)
            clock.advance(6)
            client.poll_soon()
            while client.pending():
                await asyncio.sleep(0)

    if kind == "async":
        asyncio.run(asynchronous())
    else:
        with ZombieClient(options, clock=clock) as client:
            wait(lambda: client.is_off("feed"))
            assert client.write("feed", request).result is Result.QUEUED
            publish(place, normal(drain_s=0), 8)
            clock.advance(6)
            client.poll_soon()
            wait(lambda: not client.pending())
    assert len(place.applied) == 1


def wait(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.005)


def test_many_threads_write_at_once_and_each_write_is_applied_once(place: Place, tmp_path: Path) -> None:
    options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1", path=tmp_path / "z.db")
    place.answers = [(503, {"Retry-After": "0"}), (200, {}), (200, {"lost": "yes"}), (200, {})] * 10
    taken: list[str] = []
    clock = FixedClock(NOW)
    client = ZombieClient(options, clock=clock)

    def app() -> None:
        for _ in range(20):
            taken.append(client.write("feed", HttpRequest("POST", f"{place.url}/w")).id)

    threads = [threading.Thread(target=app) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or client.pending():
        clock.advance(min(client.step(), 5.0))
    client.close()
    assert len(set(taken)) == 120
    assert place.applied == dict.fromkeys(taken, 1)


def test_a_step_that_fails_ends_no_loop(kind: str, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1")
    failed = threading.Event()

    def fails() -> Any:
        failed.set()
        raise ZeroDivisionError

    async def asynchronous() -> None:
        client = await AsyncZombieClient.open(options)
        client.session.next, real = fails, client.session.next  # type: ignore[method-assign]
        async with client:
            while not failed.is_set():
                await asyncio.sleep(0)
            client.session.next = real  # type: ignore[method-assign]
            while not client.statistics().news:
                client.poll_soon()
                await asyncio.sleep(0)

    if kind == "async":
        asyncio.run(asynchronous())
    else:
        client = ZombieClient(options)
        client.session.next, real = fails, client.session.next  # type: ignore[method-assign]
        with client:
            wait(failed.is_set)
            client.session.next = real  # type: ignore[method-assign]
            wait(lambda: client.poll_soon() or bool(client.statistics().news))  # type: ignore[func-returns-value]
    assert "a step of the zombie client failed" in caplog.text


def test_a_loop_that_is_closed_while_a_server_is_silent_ends(kind: str, place: Place, tmp_path: Path) -> None:
    place.way = WAYS["says nothing"]
    options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1", path=tmp_path / "z.db")

    def carry(request: HttpRequest) -> HttpResponse:
        return urllib_transport(HttpRequest(request.method, request.url, timeout_s=0.3))

    async def asynchronous() -> None:
        async with await AsyncZombieClient.open(options, transport=carry):
            while not place.polls:
                await asyncio.sleep(0)

    if kind == "async":
        asyncio.run(asynchronous())
    else:
        with ZombieClient(options, transport=carry):
            wait(lambda: bool(place.polls))
    Session(options).close()


def test_an_asynchronous_transport_is_given_no_longer_than_the_request_says(place: Place) -> None:
    async def never(request: HttpRequest) -> HttpResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def quickly(request: HttpRequest) -> HttpResponse:
        return await asyncio.wait_for(never(request), 0.01)

    async def main() -> None:
        options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1")
        client = await AsyncZombieClient.open(options, transport=quickly)
        assert await client.step() == 0
        assert client.statistics().news == {News.FAILED: 1}
        await client.close()

    asyncio.run(main())


def test_a_write_whose_caller_is_cancelled_goes_on(place: Place, tmp_path: Path) -> None:
    async def main() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def carry(request: HttpRequest) -> HttpResponse:
            asked.set()
            await answer.wait()
            return HttpResponse(200)

        options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1", path=tmp_path / "z.db")
        client = await AsyncZombieClient.open(options, transport=carry)
        writing = asyncio.create_task(client.write("feed", HttpRequest("POST", WRITE)))
        await asked.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        answer.set()
        await client.close()
        session = Session(options)
        assert session.pending() == []
        session.close()

    asyncio.run(main())


def test_a_transport_that_gives_something_to_await_is_awaited(place: Place) -> None:
    async def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {}, sealed(zombie()))

    async def main() -> None:
        options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1")
        client = await AsyncZombieClient.open(options, transport=lambda request: answer(request), clock=FixedClock(NOW))
        await client.step()
        assert client.is_off("feed")
        await client.close()

    asyncio.run(main())


def test_a_replay_that_is_broken_off_can_be_taken_up_again(place: Place) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def carry(request: HttpRequest) -> HttpResponse:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1")
        clock = FixedClock(NOW)
        session = Session(options, clock=clock)
        session.done(session.next(), None)
        begun = session.begin_write("feed", HttpRequest("POST", WRITE))
        session.end_write(begun, None)
        clock.advance(3)
        client = AsyncZombieClient(session, transport=carry)
        stepping = asyncio.create_task(client.step())
        await asked.wait()
        stepping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stepping
        assert session.next().write_id == begun.write.id
        await client.close()

    asyncio.run(main())
