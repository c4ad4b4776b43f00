"""The parts of the experiment: who comes when, the service that wastes its work, who protects it, and the figures."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner

from flashcast.cli.main import app
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.document import Document, Level
from flashcast.zombie.experiment import control, demo, measure, show
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.control import RULES, Desk, raise_shield, transport_to
from flashcast.zombie.experiment.document_server import Files
from flashcast.zombie.experiment.monitoring import Monitoring, metrics_of
from flashcast.zombie.experiment.parameters import DEFAULT, Parameters, parameters_of
from flashcast.zombie.experiment.plan import visits
from flashcast.zombie.experiment.service import Database, Service
from flashcast.zombie.experiment.wire import Exchange, NoAnswerError, call, listen
from flashcast.zombie.herd.advice import advise
from flashcast.zombie.herd.forecast import forecast
from flashcast.zombie.keys import SigningKey, trusted
from flashcast.zombie.measures import prometheus_value
from flashcast.zombie.publish import OvertakenError, publish, read_published
from flashcast.zombie.rules import Rules, load_rules

SAID = load_rules(RULES)
LOOK = SAID.levels.zombie


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
        usual, faster = forecast(DEFAULT.scenario(LOOK)), forecast(quick.scenario(LOOK))
        assert faster.peak_rps == pytest.approx(usual.peak_rps, rel=0.03)
        assert quick.drain_period_s(LOOK) == pytest.approx(DEFAULT.drain_period_s(LOOK) / 2)


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

        async def play() -> tuple[dict[str, float], list[_Answers]]:
            database = Database(tmp_path / "service.db")
            service = Service(database, p)
            left = _Answers(b'{"op": "left"}')
            left.gone = True
            others = [_Answers(b'{"op": "stays"}') for _ in range(2)]
            for exchange in (left, *others):
                service.handle(exchange)
            await others[0].answered.wait()
            told = service.metrics()
            database.close()
            return told, [left, *others]

        told, exchanges = asyncio.run(play())
        assert [exchange.status for exchange in exchanges] == [200, 200, 503]
        assert told["service_errors"] == 2 * told["service_goodput"] > 0
        assert told["service_load"] == pytest.approx(3 / p.capacity_rps), "three within a second"
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


class TestMonitoring:
    def test_it_answers_queries_as_prometheus_does_with_what_the_service_shows(self, tmp_path: Path) -> None:
        async def play() -> tuple[HttpResponse, HttpResponse, HttpResponse]:
            database = Database(tmp_path / "service.db")
            service = Service(database, DEFAULT)
            side, side_port = await listen(lambda asked: asked.answer(200, service.page()))
            monitoring = Monitoring(side_port)
            server, port = await listen(monitoring.handle)
            async with side, server:
                await monitoring.scrape()
                found = [await _query(port, name) for name in ("service_load", "no_such_metric")]
                side.close()
                await side.wait_closed()
                await monitoring.scrape()
                found.append(await _query(port, "service_load"))
            database.close()
            return found[0], found[1], found[2]

        known, unknown, gone = asyncio.run(play())
        assert prometheus_value(known.body, None, None) == 0.0
        for answer in (unknown, gone):
            with pytest.raises(ValueError, match="no value"):
                prometheus_value(answer.body, None, None)

    def test_silent_it_takes_questions_and_answers_none(self) -> None:
        async def play() -> None:
            monitoring = Monitoring(1)
            monitoring.speaks = False
            server, port = await listen(monitoring.handle)
            async with server:
                await _query(port, "service_load", 0.05)

        with pytest.raises(NoAnswerError):
            asyncio.run(play())

    def test_a_page_of_metrics_is_read_without_its_comments(self) -> None:
        assert metrics_of("# TYPE a gauge\na 0.5\n\nb 1e3\n") == {"a": 0.5, "b": 1000.0}


async def _query(port: int, name: str, timeout_s: float = 10.0) -> HttpResponse:
    return await call(port, HttpRequest("POST", "http://m/api/v1/query", body=f"query={name}".encode()), timeout_s)


class TestWhoProtectsIt:
    def test_the_rules_are_what_the_forecast_advises_and_somewhat_more(self) -> None:
        advised = advise(forecast(DEFAULT.scenario(LOOK))).shield
        assert advised is not None
        assert advised.share < LOOK.share < advised.share + 0.1
        assert LOOK.drain_s == advised.drain_s * DEFAULT.clock_factor

    def test_no_step_of_the_way_back_is_a_herd_of_its_own(self) -> None:
        served = (1 - LOOK.share, *SAID.recovery.steps)
        assert max(after / before for before, after in pairwise(served)) < 1.7

    def test_addresses_name_the_runs_processes_and_deadlines_are_by_its_clock(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[HttpRequest] = []

        def carried(request: HttpRequest) -> HttpResponse:
            seen.append(request)
            return HttpResponse(200)

        monkeypatch.setattr(control, "urllib_transport", carried)
        transport = transport_to({"monitoring": 81}, 10.0)
        transport(HttpRequest("GET", "http://monitoring/api?x=1", timeout_s=5.0))
        transport(HttpRequest("GET", "http://other.example/", timeout_s=5.0))
        assert [(one.url, one.timeout_s) for one in seen] == [
            ("http://127.0.0.1:81/api?x=1", 0.5), ("http://other.example/", 0.5),
        ]  # fmt: skip

    def test_at_go_the_launchs_shield_is_published_and_signed_and_zombie_is_not_lowered_for_it(
        self, tmp_path: Path
    ) -> None:
        desk = _desk(tmp_path)
        said = raise_shield(desk)
        assert said is not None
        assert said == _published(desk)
        assert (said.level, said.buckets, said.off) == (Level.SHIELDED, 150, ("feed",))
        assert said.manual is not None
        assert said.manual.by == "launch:herd-1"
        zombie = SAID.terms(Level.ZOMBIE, 850, origin=Level.ZOMBIE, salt="s", incident="")
        publish(desk.folder, zombie, [desk.key], clock=desk.clock)
        assert raise_shield(desk) is None
        assert _published(desk).level is Level.ZOMBIE
        assert raise_shield(_desk(tmp_path / "none", shield_share=0.0)) is None

    def test_a_shield_that_was_overtaken_is_published_over_what_is_there_now(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk, attempts = _desk(tmp_path), []

        def overtaken_once(*args: Any, **options: Any) -> Any:
            attempts.append(options["expect"])
            if len(attempts) == 1:
                normal = SAID.terms(Level.NORMAL, 0, origin=Level.NORMAL, salt="s", incident="")
                publish(desk.folder, normal, [desk.key], clock=desk.clock)
                raise OvertakenError("somebody else has published")
            return publish(*args, **options)

        monkeypatch.setattr(control, "publish", overtaken_once)
        assert raise_shield(desk) == _published(desk)
        assert attempts[0] == 0 < attempts[1]


def _desk(folder: Path, **changes: Any) -> Desk:
    return Desk(SAID, DEFAULT.changed(**changes), folder, SigningKey.generate(), FastClock(0.0, 1.7e9, 10.0))


def _published(desk: Desk) -> Document:
    document = read_published(desk.folder, SAID.app, trusted([desk.key])).document
    assert document is not None
    return document


def record(
    *, zombie: bool = True, served: float = 1.0, lost: int = 0, twice: int = 0, p: Parameters = DEFAULT
) -> Record:
    """A run as it might have been: a share of what users want is answered at once, up to the capacity."""
    found = Record(zombie, p, SAID)
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
    levels = [(0.0, "normal", 0), *([(5.0, "zombie", 800), (18.0, "recovering", 0), (19.0, "normal", 0)] * zombie)]
    found.published = [
        {"t": t, "level": level, "buckets": buckets, "back": 1 - buckets / 1000, "why": "so it is"}
        for t, level, buckets in levels
    ]
    found.trace = "the trace\n"
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
        del held.published[2:]
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
        assert "+2.0 s  zombie       80 %  so it is" in text
        assert show.text(*pair, unicode=False).isascii()
        assert f"Seed {DEFAULT.seed}" in show.parameters_text(pair[1])


class TestTheCommand:
    """`flashcast zombie demo`, with runs as they might have been."""

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
        found = [record(zombie=False, served=0.0, lost=4), record()]

        def run(p: Parameters, rules: Rules, *, zombie: bool, folder: Path, progress: object) -> Record:
            found[zombie].rules = rules
            return found[zombie]

        monkeypatch.setattr(demo, "run", run)
        return found

    def test_it_prints_both_runs_and_writes_what_came_of_them(self, runs: list[Record], tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert "with: none is applied twice" in done.stdout
        assert "Seed 1" in done.stdout, "its parameters are printed"
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
            [demo.PICTURE, demo.SUMMARY, demo.RULES_USED, *demo.TRACES]
        )

    def test_other_rules_are_those_that_the_controller_gets(self, runs: list[Record], tmp_path: Path) -> None:
        mine = tmp_path / "mine.toml"
        mine.write_text(RULES.read_text().replace("share = 0.85", "share = 0.5"))
        done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path / "out"), "--rules", str(mine)])
        assert done.exit_code == 0, done.output
        assert runs[1].rules.levels.zombie.share == 0.5
        assert (tmp_path / "out" / demo.RULES_USED).read_bytes() == mine.read_bytes()

    def test_rules_that_are_none_are_told_before_anything_runs(self, runs: list[Record], tmp_path: Path) -> None:
        for path, told in ((tmp_path / "none.toml", "cannot read"), (Path(__file__), "is no TOML")):
            done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path / "out"), "--rules", str(path)])
            assert done.exit_code != 0
            assert told in done.stderr
        assert not (tmp_path / "out").exists()

    def test_what_it_was_to_show_and_did_not_is_its_exit_code(self, runs: list[Record], tmp_path: Path) -> None:
        runs[1] = record(lost=1)
        runs[1].late_s = 3.2
        done = CliRunner().invoke(app, ["zombie", "demo", "--out", str(tmp_path), "--json"])
        assert done.exit_code == 1
        document = json.loads(done.stdout)
        assert [one["name"] for one in document["conditions"] if not one["holds"]] == ["with: no write is lost"]
        assert "3.2 s late" in done.stderr
