"""The parts of the experiment: who comes when, the service that wastes its work, the controller, and the figures."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from level_data import TABLE
from typer.testing import CliRunner

from flashcast.cli.main import app
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.document import Level, Writes
from flashcast.zombie.experiment import demo, measure, show
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.document_server import Files
from flashcast.zombie.experiment.parameters import DEFAULT, Parameters, parameters_of
from flashcast.zombie.experiment.pilot import BAD, DWELL, State, decide, flight, told
from flashcast.zombie.experiment.plan import visits
from flashcast.zombie.experiment.service import Database, Service
from flashcast.zombie.experiment.wire import Exchange, NoAnswerError, call, listen
from flashcast.zombie.trace import replay

PLAN = flight(DEFAULT)
CALM = {"waiting": 0, "offered_rps": 0.0}


class TestWhoComesWhen:
    def test_a_seed_is_a_herd_and_another_seed_another_of_the_same_size(self) -> None:
        one, again, other = visits(DEFAULT), visits(DEFAULT), visits(DEFAULT.changed(seed=2))
        assert one == again
        assert one != other
        assert abs(len(one) - len(other)) <= 2

    def test_nobody_of_the_herd_comes_before_the_push_and_everybody_asks_within_the_run(self) -> None:
        found = visits(DEFAULT)
        herd = [visit for visit in found if visit.herd]
        assert len(herd) == pytest.approx(DEFAULT.opens, abs=3), "hardly anybody opens after the run's end"
        assert min(visit.at_s for visit in herd) > DEFAULT.go_s
        times = [visit.at_s + ask.after_s for visit in found for ask in visit.asks]
        assert min(times) >= 0
        assert max(times) < DEFAULT.length_s
        ops = Counter(ask.op for visit in found for ask in visit.asks)
        assert set(ops.values()) == {1}

    def test_the_everyday_load_is_even_from_the_first_second_on(self) -> None:
        times = [visit.at_s + ask.after_s for visit in visits(DEFAULT) if not visit.herd for ask in visit.asks]
        counts, _ = np.histogram(times, np.arange(0, DEFAULT.length_s - 4, 5.0))
        assert counts / 5 == pytest.approx(DEFAULT.everyday_rps, rel=0.15)

    def test_parameters_survive_the_way_to_another_process(self) -> None:
        assert parameters_of(json.loads(json.dumps(DEFAULT.as_dict()))) == DEFAULT

    def test_a_faster_experiment_has_the_same_rates(self) -> None:
        quick = DEFAULT.faster(2)
        assert quick.capacity_rps == DEFAULT.capacity_rps
        assert max(flight(quick).load) == pytest.approx(max(PLAN.load), rel=0.03)


class TestTheService:
    def test_a_key_is_applied_once_and_what_has_none_as_often_as_it_comes(self, tmp_path: Path) -> None:
        database = Database(tmp_path / "service.db")
        assert database.apply("a", "key-a")
        assert not database.apply("a", "key-a")
        assert database.apply("b", None)
        assert database.apply("b", None)
        database.close()
        with closing(sqlite3.connect(tmp_path / "service.db")) as db:
            assert dict(db.execute("select op, count(*) from effects group by op")) == {"a": 1, "b": 2}
            assert db.execute("select sum(seen) from keys").fetchone() == (1,)

    def test_work_is_done_for_a_client_that_has_left_and_a_full_queue_turns_away(self, tmp_path: Path) -> None:
        p = DEFAULT.changed(slots=1, service_s=0.01, queue_max=2, lost_answers=0.0)

        async def play() -> tuple[dict[str, Any], list[_Answers]]:
            database = Database(tmp_path / "service.db")
            service = Service(database, p)
            left = _Answers(b'{"op": "left"}')
            left.gone = True
            others = [_Answers(b'{"op": "stays"}') for _ in range(2)]
            for exchange in (left, *others):
                service.handle(exchange)
            await others[0].answered.wait()
            told = service.signals()
            database.close()
            return told, [left, *others]

        told, exchanges = asyncio.run(play())
        assert [exchange.status for exchange in exchanges] == [200, 200, 503]
        assert (told["goodput_rps"], told["errors_rps"]) == (1.0, 2.0)
        with closing(sqlite3.connect(tmp_path / "service.db")) as db:
            assert set(db.execute("select op from effects")) == {("left",), ("stays",)}

    def test_an_answer_can_get_lost_after_the_write_was_applied(self, tmp_path: Path) -> None:
        async def play() -> bool:
            database = Database(tmp_path / "service.db")
            service = Service(database, DEFAULT.changed(slots=1, service_s=0.001, lost_answers=1.0))
            exchange = _Answers(b'{"op": "a"}')
            service.handle(exchange)
            await exchange.answered.wait()
            database.close()
            return exchange.hung_up

        assert asyncio.run(play())
        with closing(sqlite3.connect(tmp_path / "service.db")) as db:
            assert db.execute("select op from effects").fetchall() == [("a",)]


class _Answers(Exchange):
    """An exchange without a connection, which notes what it is answered."""

    def __init__(self, body: bytes) -> None:
        super().__init__(lambda exchange: None)
        self.method, self.path, self.body = "POST", "/done", body
        self.status = 0
        self.hung_up = False
        self.answered = asyncio.Event()

    def answer(self, status: int, body: bytes = b"", headers: Any = None) -> None:
        self.status = status
        self.answered.set()

    def hang_up(self) -> None:
        self.hung_up = True
        self.answered.set()


class TestTheWire:
    def test_a_request_arrives_as_it_was_sent_and_so_does_its_answer(self) -> None:
        seen: list[Exchange] = []

        def handle(exchange: Exchange) -> None:
            seen.append(exchange)
            exchange.answer(200, b"hello", {"ETag": '"x"'})

        async def play() -> HttpResponse:
            server, port = await listen(handle)
            async with server:
                return await call(port, HttpRequest("POST", "http://a/done?x=1", {"A-Key": "k"}, b"body"), 10.0)

        response = asyncio.run(play())
        assert (response.status, response.headers["etag"], response.body) == (200, '"x"', b"hello")
        (exchange,) = seen
        assert (exchange.method, exchange.path, exchange.headers["a-key"], exchange.body) == (
            "POST", "/done?x=1", "k", b"body",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("handle", "timeout_s"),
        [(lambda exchange: exchange.hang_up(), 10.0), (lambda exchange: None, 0.05)],
        ids=["hung up on", "never answered"],
    )
    def test_no_answer_is_told_as_such(self, handle: Any, timeout_s: float) -> None:
        async def play() -> None:
            server, port = await listen(handle)
            async with server:
                await call(port, HttpRequest("GET", "http://a/"), timeout_s)

        with pytest.raises(NoAnswerError):
            asyncio.run(play())

    @pytest.mark.parametrize(
        "sent", [b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"x" * 20_000]
    )
    def test_what_is_no_request_is_refused(self, sent: bytes) -> None:
        async def play() -> bytes:
            server, port = await listen(lambda exchange: exchange.answer(200))
            async with server:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                answer = await reader.read()
                writer.close()
                return answer

        assert asyncio.run(play()).startswith(b"HTTP/1.1 400 ")

    def test_documents_are_served_with_etags_and_nothing_else_is(self, tmp_path: Path) -> None:
        (tmp_path / "documents").mkdir()
        (tmp_path / "documents" / "herd.json").write_bytes(b"{}")
        (tmp_path / "secret").write_bytes(b"no")

        async def play() -> list[HttpResponse]:
            server, port = await listen(Files(tmp_path / "documents").handle)
            async with server:
                first = await call(port, HttpRequest("GET", "http://d/herd.json"), 10.0)
                known = {"If-None-Match": first.headers["etag"]}
                wanted = [("herd.json", known), ("../secret", {}), ("none.json", {}), ("", {})]
                return [first, *[await call(port, HttpRequest("GET", f"http://d/{n}", h), 10.0) for n, h in wanted]]

        assert [response.status for response in asyncio.run(play())] == [200, 304, 404, 404, 404]


class TestTheController:
    def test_the_shield_goes_up_when_the_load_passes_the_capacity_and_not_before(self) -> None:
        need = DEFAULT.go_s + PLAN.shield.needed_from_s
        busy = {"waiting": 30, "offered_rps": 90.0}
        assert decide(State(), PLAN, busy, need - 2) == State()
        raised = decide(State(), PLAN, busy, need + 1)
        assert raised.level is Level.ZOMBIE
        assert raised.back < 1

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 480), st.floats(0, 2_000))), max_size=190))
    def test_whatever_it_sees_it_keeps_to_its_ladder_its_dwell_time_and_its_signals(
        self, seen: list[tuple[int, float] | None]
    ) -> None:
        state = State()
        for tick, one in enumerate(seen):
            t = tick * DEFAULT.tick_s
            signals = {} if one is None else {"waiting": one[0], "offered_rps": one[1]}
            after = decide(state, PLAN, signals, t)
            if after is not state:
                assert one is not None, "a missing signal decides nothing"
                assert t >= state.since_s + DWELL * DEFAULT.timeout_s
                assert after.back in PLAN.backs
                between = [back for back in PLAN.backs if state.back < back < after.back]
                assert between == [], "users come back one step at a time"
                assert after.level is not Level.NORMAL or after.back == 1
            state = after

    def test_when_all_is_calm_again_everybody_comes_back_step_by_step(self) -> None:
        state, steps = State(Level.ZOMBIE, PLAN.backs[0], 8.0), []
        for tick in range(200):
            after = decide(state, PLAN, CALM, 20.0 + tick * DEFAULT.tick_s)
            if after is not state:
                steps.append((after.level, after.back))
            state = after
        assert [back for _, back in steps] == [*PLAN.backs[1:], 1.0]
        assert [level for level, _ in steps] == [Level.RECOVERING] * (len(steps) - 1) + [Level.NORMAL]

    def test_it_goes_back_a_step_before_anybody_loses_patience(self) -> None:
        state = State(Level.RECOVERING, PLAN.backs[2], 8.0)
        behind = {"waiting": int(DEFAULT.capacity_rps * DEFAULT.timeout_s * BAD) + 20, "offered_rps": 60.0}
        assert decide(state, PLAN, behind, 30.0).back == PLAN.backs[1]

    def test_its_documents_say_what_it_decided_in_the_apps_time(self) -> None:
        held = told(State(Level.ZOMBIE, 0.25, 5.0), PLAN, DEFAULT, "herd", "salt")
        assert (held.buckets, held.off, held.writes) == (750, ("*",), Writes.QUEUE)
        assert held.drain_s == PLAN.shield.drain_s * DEFAULT.clock_factor
        assert held.problems() == []
        normal = told(State(), PLAN, DEFAULT, "herd", "salt")
        assert (normal.level, normal.buckets, normal.off) == (Level.NORMAL, 0, ())
        assert normal.drain_s == held.drain_s, "who comes back late drains all the same"
        assert normal.problems() == []


def record(
    *, zombie: bool = True, served: float = 1.0, lost: int = 0, twice: int = 0, p: Parameters = DEFAULT
) -> Record:
    """A run as it might have been: a share of what users want is answered at once, up to the capacity."""
    found = Record(zombie, p, PLAN)
    room = Counter[int]()
    writes = 0
    for visit in visits(p):
        for ask in visit.asks:
            at = visit.at_s + ask.after_s
            bin_ = int((at + 0.1) / measure.BIN_S)
            room[bin_] += 1
            good = room[bin_] <= p.capacity_rps * measure.BIN_S * served
            if ask.kind == "write":
                writes += 1
                found.applied.update({ask.op: (1 + (writes <= twice), at + 0.1)} if writes > lost else {})
            outcome = "ok" if good or (zombie and ask.kind == "write") else "local" if zombie else "failed"
            found.asks.append((ask.op, ask.kind, at, at + 0.1, outcome))
            if outcome != "local":
                found.attempts.append((at, at + 0.1, 200 if good else 0))
    found.decisions = [{"t": 0.0, "level": "normal", "back": 1.0}]
    if zombie:
        found.decisions += [{"t": 4.0, "level": "zombie", "back": 0.2}, {"t": 18.0, "level": "recovering", "back": 1.0}]
    return found


class TestTheFigures:
    def test_a_service_that_does_all_it_can_has_a_goodput_of_its_capacity(self) -> None:
        figures = measure.summary(record())
        assert figures["goodput_share_min"] >= measure.GOODPUT_SHARE_MIN
        assert figures["everybody_back_s"] == 18.0
        assert figures["writes"] == {
            "made": figures["writes"]["made"], "applied": figures["writes"]["made"], "waiting": 0, "lost": 0,
            "applied_twice": 0, "kept_from_twice": 0,
        }  # fmt: skip
        assert figures["reads"]["from_the_app"] > 0

    def test_one_that_does_half_of_it_has_half_and_never_recovers(self) -> None:
        figures = measure.summary(record(zombie=False, served=0.5))
        assert figures["goodput_share_mean"] == pytest.approx(0.5, abs=0.05)
        assert figures["recovered_s"] is None

    def test_writes_that_are_lost_or_applied_twice_are_found_in_the_database(self) -> None:
        held = {one.name: one for one in measure.conditions(record(zombie=False, served=0.0), record(lost=3, twice=5))}
        assert not held["with: no write is lost"].holds
        assert not held["with: none is applied twice"].holds
        assert measure.writes(record(lost=3))["lost"] == 3
        assert measure.writes(record(lost=3, twice=5))["applied_twice"] == 2

    def test_every_condition_holds_or_fails_for_what_it_names(self) -> None:
        down = record(zombie=False, served=0.0)
        assert all(one.holds for one in measure.conditions(down, record()))
        bad = {
            one.name.partition(":")[0] for one in measure.conditions(record(zombie=False), record()) if not one.holds
        }
        assert bad == {"without"}
        slow = [one.name for one in measure.conditions(down, record(served=0.5)) if not one.holds]
        assert slow[0].startswith("with: goodput")

    def test_users_who_are_still_held_at_the_end_have_not_recovered(self) -> None:
        held = record()
        held.decisions.pop()
        assert measure.everybody_back_s(held) is None
        conditions = {one.name: one.holds for one in measure.conditions(record(zombie=False, served=0.0), held)}
        assert not conditions["with: recovery ends within the drain period"]

    def test_an_experiment_is_shown_in_all_three_ways(self) -> None:
        pair = record(zombie=False, served=0.0, lost=4), record()
        document = json.loads(json.dumps(show.document(*pair), allow_nan=False))
        assert document["holds"]
        assert document["parameters"]["capacity_rps"] == DEFAULT.capacity_rps
        ET.fromstring(show.picture(*pair))
        text = show.text(*pair)
        assert "✓ with: no write is lost" in text
        assert show.text(*pair, unicode=False).isascii()
        assert f"Seed {DEFAULT.seed}" in show.parameters_text(pair[1])

    def test_a_trace_is_one_that_the_controllers_replay_reads(self) -> None:
        found = record()
        signals = {"goodput_rps": 60.0, "errors_rps": 0.0, "latency_p95_ms": 104.2, "level": "normal", "back": 1.0}
        found.signals = [{"t": tick * 0.25, **signals} for tick in range(40)]
        replayed = replay((line.encode() for line in found.trace().splitlines(keepends=True)), TABLE)
        assert replayed.ticks == 40


class TestTheCommand:
    """`flashcast zombie demo`, with runs as they might have been."""

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
        found = [record(zombie=False, served=0.0, lost=4), record()]

        def run(p: Parameters, *, zombie: bool, folder: Path, progress: object) -> Record:
            return found[zombie]

        monkeypatch.setattr(demo, "run", run)
        return found

    def test_it_prints_both_runs_and_writes_what_came_of_them(self, runs: list[Record], tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert "with: none is applied twice" in done.stdout
        assert "Seed 1" in done.stdout, "its parameters are printed"
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
            [demo.PICTURE, demo.SUMMARY, *demo.TRACES]
        )

    def test_what_it_was_to_show_and_did_not_is_its_exit_code(self, runs: list[Record], tmp_path: Path) -> None:
        runs[1] = record(lost=1)
        runs[1].late_s = 3.2
        done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path), "--json"])
        assert done.exit_code == 1
        document = json.loads(done.stdout)
        assert [one["name"] for one in document["conditions"] if not one["holds"]] == ["with: no write is lost"]
        assert "3.2 s late" in done.stderr
