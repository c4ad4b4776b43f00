"""The write queue, whatever happens: nothing lost, nothing applied twice, lanes in order, bounds kept."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zombie_data import KEY, NOW, normal, sealed, zombie

from flashcast.clock import FixedClock
from flashcast.zombie.bounds import DRAIN_S_MAX, REPLAY_BACKOFF_S_MAX, RETRY_AFTER_S_MAX
from flashcast.zombie.client import (
    Fate,
    HttpRequest,
    HttpResponse,
    Options,
    Result,
    TransportError,
    Write,
    ZombieClient,
)
from flashcast.zombie.client.store import Store
from flashcast.zombie.client.writes import Queue, fate_of

MISHAPS = ("lost before", "lost after", 500, 503, 429, 401, 409, 425, 302)


class Server:
    """Applies each key once, and does what it is told to go wrong."""

    def __init__(self) -> None:
        self.file = sealed(normal(), version=1)
        self.effects: list[tuple[str, str]] = []
        """Key and lane, in the order in which they took effect."""
        self.mishaps: list[Any] = []
        self.asked_to_wait_until = 0.0
        self.clock: FixedClock

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method == "GET":
            return HttpResponse(200, {}, self.file)
        mishap = self.mishaps.pop(0) if self.mishaps else None
        key, lane = request.headers["Idempotency-Key"], request.body.decode()
        if mishap in (None, "lost after", 500) and key not in [known for known, _ in self.effects]:
            self.effects.append((key, lane))
        if isinstance(mishap, str):
            raise TransportError("no answer")
        return HttpResponse(mishap or 200, {"retry-after": "30"} if mishap == 503 else {})


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(["", "a", "b"])),
        st.tuples(st.just("mishaps"), st.lists(st.sampled_from(MISHAPS), max_size=6)),
        st.tuples(st.just("pass"), st.integers(1, 900)),
        st.tuples(st.just("zombie"), st.integers(0, 1_000)),
        st.tuples(st.just("normal"), st.none()),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=30,
)


class App:
    """A client on a file, that can be ended and started again."""

    def __init__(self, path: Path, server: Server) -> None:
        self.clock, self.server, self.chance = FixedClock(NOW), server, random.Random(1)
        self.options = Options(app="shop", base_url="http://cdn", trusted=[KEY.public], user="u1", path=path)
        self.version = 1
        self.start()

    def start(self) -> None:
        self.client = ZombieClient(
            self.options, transport=self.server, clock=self.clock, random=self.chance.random, new_id=self.new_id
        )

    def new_id(self) -> str:
        return f"{self.chance.getrandbits(64):x}"

    def does(self, what: str, given: Any) -> str | None:
        """One operation; a write's id."""
        match what:
            case "write":
                request = HttpRequest("POST", "http://api/x", {}, given.encode())
                return self.client.write("progress", request, lane=given).id
            case "mishaps":
                self.server.mishaps = list(given)
            case "pass":
                self.passes(given)
            case "zombie":
                self.publish(zombie(buckets=given, drain_s=300))
            case "normal":
                self.publish(normal(drain_s=300))
            case "restart":
                self.client.close()
                self.start()
        return None

    def publish(self, said: Any) -> None:
        self.version += 1
        self.server.file = sealed(said, version=self.version, now=self.clock.time(), lasts_s=86_400)

    def passes(self, seconds: float) -> None:
        end = self.clock.time() + seconds
        while (left := end - self.clock.time()) > 0:
            self.clock.advance(min(self.client.step() or 0.01, left))


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_every_write_takes_effect_once_and_lanes_keep_their_order(
    operations: list[tuple[str, Any]],
) -> None:
    with TemporaryDirectory() as folder:
        app = App(Path(folder) / "zombie.db", server := Server())
        made: list[tuple[str, str]] = []
        for what, given_ in operations:
            if (write_id := app.does(what, given_)) is not None:
                made.append((write_id, given_))
        server.mishaps = []
        app.publish(normal(drain_s=300))
        app.passes(2_000)
        assert app.client.pending() == []
        app.client.close()
    assert Counter(server.effects) == Counter(made)
    for lane in ("a", "b"):
        assert [each for each in server.effects if each[1] == lane] == [each for each in made if each[1] == lane]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*MISHAPS, 200]), max_size=40), st.integers(0, 10**6))
def test_every_wait_is_within_its_bounds_and_no_shorter_than_asked(answers: list[Any], seed: int) -> None:
    queue, now = Queue(random.Random(seed).random, user=""), float(NOW)
    queue.add(Write("a", "f", "POST", "http://x", due_at=now))
    for answer in answers:
        if queue.take(now) is None:
            break
        response = None if isinstance(answer, str) else HttpResponse(answer, {"retry-after": "30"})
        judged = queue.answered("a", response, now)
        assert judged is not None
        if judged[0] is not Fate.AGAIN:
            break
        assert judged[1].due_at is not None
        wait = judged[1].due_at - now
        assert (30 if response else 1) <= wait <= max(REPLAY_BACKOFF_S_MAX, 45)
        now = judged[1].due_at


@given(st.integers(1, 60), st.integers(0, DRAIN_S_MAX), st.integers(0, 10**6))
def test_writes_that_are_let_in_are_spread_in_order_within_the_drain_period(
    count: int, drain_s: int, seed: int
) -> None:
    queue = Queue(random.Random(seed).random, user="")
    for number in range(count):
        queue.add(Write(str(number), "f", "POST", "http://x"))
    queue.plan(lambda feature: False, drain_s, NOW)
    times = [write.due_at for write in queue.writes]
    assert times == sorted(times, key=lambda time: time or 0)
    assert all(time is not None and NOW <= time <= NOW + drain_s for time in times)


def test_many_devices_together_are_an_even_load() -> None:
    times = []
    for device in range(400):
        queue = Queue(random.Random(device).random, user="")
        for number in range(1 + device % 10):
            queue.add(Write(str(number), "f", "POST", "http://x"))
        queue.plan(lambda feature: False, 600, 0)
        times += [write.due_at or 0 for write in queue.writes]
    tenths = Counter(int(time // 60) for time in times)
    assert min(tenths.values()) > 0.75 * len(times) / 10
    assert max(tenths.values()) < 1.25 * len(times) / 10


def test_one_write_that_always_fails_lets_the_others_pass() -> None:
    queue, now, done = Queue(lambda: 0.5, user=""), 0.0, []
    queue.add(Write("poison", "f", "POST", "http://x", due_at=0))
    for number in range(20):
        queue.add(Write(str(number), "f", "POST", "http://x", due_at=0))
    while len(done) < 20 and now < 10_000:
        write = queue.take(now)
        if write is None:
            now = queue.next_at(now) or now
            continue
        response = HttpResponse(500 if write.id == "poison" else 200)
        if queue.answered(write.id, response, now)[0] is Fate.APPLIED:  # type: ignore[index]
            done.append(write.id)
    assert sorted(done, key=int) == [str(number) for number in range(20)]


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_means_something(status: int) -> None:
    fate = fate_of(HttpResponse(status))
    assert (fate is Fate.APPLIED) == (200 <= status < 300)
    assert fate is not Fate.REFUSED or 400 <= status < 500


def test_a_retry_after_of_a_year_is_an_hour_and_a_half_at_most() -> None:
    queue = Queue(lambda: 1.0, user="")
    queue.add(Write("a", "f", "POST", "http://x", due_at=0))
    queue.take(0)
    judged = queue.answered("a", HttpResponse(503, {"retry-after": "31536000"}), 0)
    assert judged is not None and judged[1].due_at == 1.5 * RETRY_AFTER_S_MAX


WRITES = st.builds(
    Write,
    id=st.uuids().map(str),
    feature=st.text(st.characters(codec="utf-8"), max_size=20),
    method=st.just("POST"),
    url=st.just("http://x/ä"),
    headers=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), st.just("v"), max_size=3),
    body=st.binary(max_size=50),
    lane=st.sampled_from(["", "a"]),
    user=st.text(st.characters(codec="utf-8"), max_size=20),
    queued_at=st.floats(0, 1e10),
    due_at=st.none() | st.floats(0, 1e10),
    attempts=st.integers(0, 1_000),
    refused=st.sampled_from([0, 422]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(WRITES, max_size=10, unique_by=lambda write: write.id), st.data())
def test_what_is_kept_comes_back_as_it_was_and_in_its_order(writes: list[Write], data: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "zombie.db"
        store = Store(path)
        store.change(put=writes)
        gone = data.draw(st.sets(st.sampled_from([write.id for write in writes]))) if writes else set()
        kept = [replace(write, attempts=write.attempts + 1, due_at=5.0) for write in writes if write.id not in gone]
        store.change(put=reversed(kept), gone=gone)
        store.keep_document(b"file", '"etag"')
        store.close()
        store = Store(path)
        assert store.writes() == kept
        assert store.document() == (b"file", '"etag"')
        store.close()


def test_results_are_what_the_app_is_told(tmp_path: Path) -> None:
    app = App(tmp_path / "zombie.db", server := Server())
    server.mishaps = [500]
    assert app.client.write("f", HttpRequest("POST", "http://api/x")).result is Result.QUEUED
    app.client.close()
