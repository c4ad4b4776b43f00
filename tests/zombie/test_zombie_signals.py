"""Signals: a value has an age, and a server that fails costs its own signal and nothing else."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring_server import Monitoring, vector
from watch_data import Watch, rules
from zombie_data import NOW

from flashcast.clock import FixedClock
from flashcast.errors import InputError
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, TransportError, urllib_transport
from flashcast.zombie.document import Level
from flashcast.zombie.judging import Reading
from flashcast.zombie.measures import LARGEST, Sample, Window, percentile, prometheus_value, pushed_value
from flashcast.zombie.rule_parts import SAMPLES_MAX
from flashcast.zombie.rules import Rules
from flashcast.zombie.signals import TAIL_BYTES_MAX, Signals

Z, R, N = Level.ZOMBIE, Level.RECOVERING, Level.NORMAL


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


@pytest.fixture
def server() -> Iterator[Monitoring]:
    with Monitoring() as monitoring:
        yield monitoring


def watched(signals: dict[str, Any], **changes: Any) -> Rules:
    """Rules with these signals; `errors` leads to zombie."""
    down = {"signal": "errors", "level": "zombie", "above": 10, "clear": 4, "for_s": 0, "clear_for_s": 20}
    return rules(**({"signals": signals, "rules": {"down": down}} | changes))


# --- Prometheus ---------------------------------------------------------------------------------------------


def prometheus(server: Monitoring, **changes: Any) -> dict[str, Any]:
    asked = {"kind": "prometheus", "url": server.url, "query": "sum(up)", "every_s": 10, "timeout_s": 0.05}
    return {"errors": asked | changes}


async def watch_with(said: Rules, folder: Path, transport: Transport = urllib_transport) -> Watch:
    clock = FixedClock(NOW)
    return await Watch(folder, said=said, clock=clock, signals=Signals.of(said, clock, transport)).begins()


@pytest.mark.parametrize("way", ["silent", "closed", "garbage", "refusing", "dripping", "broken off"])
@pytest.mark.parametrize("at", [Z, R])
def test_no_protection_is_lost_when_prometheus_stops_answering(tmp_path: Path, at: Level, way: str) -> None:
    patience_s = 5.0

    def transport(request: HttpRequest) -> HttpResponse:
        return urllib_transport(replace(request, timeout_s=patience_s))

    async def story() -> None:
        nonlocal patience_s
        with Monitoring() as server:
            watch = await watch_with(watched(prometheus(server)), tmp_path, transport)
            server.value = "50"
            await watch.until(Z)
            server.value = "1"
            if at is R:
                await watch.until(R)
            before = watch.published
            if way in ("silent", "dripping"):
                patience_s = 0.05
            if way == "silent":
                server.falls_silent()
            server.drips, server.breaks_off = way == "dripping", way == "broken off"
            server.body = b"<html>502</html>" if way == "garbage" else None
            server.status = 503 if way == "refusing" else 200
            if way != "closed":
                await watch.goes_on(600, every_s=60)
        if way == "closed":
            await watch.goes_on(600, every_s=60)
        assert list(watch.controller.signals.faults) == ["errors"]
        assert watch.controller.state.level is at
        assert (watch.published.level, watch.published.buckets) == (before.level, before.buckets)
        assert '"why":"held_missing"' in watch.trace.read_text().splitlines()[-1]

    run(story)


def test_when_prometheus_is_back_recovery_goes_on(tmp_path: Path, server: Monitoring) -> None:
    async def story() -> None:
        watch = await watch_with(watched(prometheus(server, timeout_s=5.0)), tmp_path)
        server.value = "50"
        await watch.until(Z)
        server.value, server.status = "1", 503
        await watch.goes_on(300, every_s=10)
        assert watch.controller.state.level is Z
        server.status = 200
        await watch.until(N)
        assert server.queries[0] == "sum(up)"

    run(story)


def test_a_server_that_says_nothing_costs_no_other_signal_and_no_decision(tmp_path: Path, server: Monitoring) -> None:
    async def story() -> None:
        with Monitoring() as silent:
            silent.falls_silent()
            signals = {
                **prometheus(silent, timeout_s=30.0),
                "api": {"kind": "http", "url": f"{server.url}/health", "every_s": 1, "timeout_s": 5},
            }
            fast = {"signal": "api.failures", "level": "zombie", "above": 0.5, "clear": 0.1, "for_s": 0}
            watch = await watch_with(watched(signals, rules={"down": fast}), tmp_path)
            server.status = 500
            watch.controller.tick()
            while silent.asked._value == 0 or "api.failures" not in watch.controller.signals.readings():
                await asyncio.sleep(0)
            watch.clock.advance(1)
            assert watch.controller.tick().state.level is Z
            assert "errors" in watch.controller.signals._asking
            # Asked once: it has not answered, so it is not asked again.
            watch.clock.advance(100)
            watch.controller.signals.start_due()
            assert silent.asked._value == 1
            await watch.controller.signals.close()

    run(story)


@pytest.mark.parametrize(
    ("body", "many", "empty", "value"),
    [
        (vector("3.5"), None, None, 3.5),
        (vector("1", "5", "3"), "max", None, 5.0),
        (vector("1", "5", "3"), "min", None, 1.0),
        (vector("1", "5", "3"), "sum", None, 9.0),
        (vector("1", "5", "3"), "mean", None, 3.0),
        (vector("NaN", "5"), None, None, 5.0),
        (vector("+Inf"), None, None, LARGEST),
        (vector(), None, 0.0, 0.0),
        (vector("NaN"), None, 0.0, 0.0),
        (b'{"status":"success","data":{"resultType":"scalar","result":[1.5,"7"]}}', None, None, 7.0),
    ],
)
def test_a_query_gives_one_value(body: bytes, many: Any, empty: float | None, value: float) -> None:
    assert prometheus_value(body, many, empty) == value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (vector("1", "2"), "has 2 values"),
        (vector(), "has no value"),
        (vector("NaN"), "has no value"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no query's"),
        (b'{"status":"error","errorType":"timeout","error":"secret"}', "the query fails: timeout"),
        (b'{"status":"success"}', "neither scalar nor vector"),
        (b'{"status":"success","data":{"resultType":"matrix","result":[]}}', "neither scalar nor vector"),
        (b'{"status":"success","data":{"resultType":"vector","result":[{}]}}', "not what Prometheus gives"),
        (b'{"status":"success","data":{"resultType":"vector","result":7}}', "not what Prometheus gives"),
        (b'{"status":"success","data":{"resultType":"scalar","result":[]}}', "not what Prometheus gives"),
    ],
)
def test_an_answer_without_a_value_says_why(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prometheus_value(body, None, None)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["status", "data", "resultType", "result", "value", "success"]), inner)
).map(lambda said: json.dumps(said).encode()))  # fmt: skip
def test_whatever_a_server_says_is_a_value_or_a_reason(body: bytes) -> None:
    with suppress(ValueError):
        assert math.isfinite(prometheus_value(body, "max", None))


def test_a_token_is_sent_and_never_told(tmp_path: Path, server: Monitoring) -> None:
    async def story() -> None:
        token = tmp_path / "token"
        token.write_text("s3cret\n")
        watch = await watch_with(watched(prometheus(server, timeout_s=5.0, token_file=str(token))), tmp_path)
        await watch.goes_on()
        assert server.headers[0]["authorization"] == "Bearer s3cret"
        token.unlink()
        await watch.goes_on(20, every_s=10)
        assert watch.controller.signals.faults == {"errors": f"cannot read {token}: No such file or directory"}
        assert "s3cret" not in watch.trace.read_text()

    run(story)


# --- Probes -----------------------------------------------------------------------------------------------------


def probing(clock: FixedClock, transport: Callable[[HttpRequest], HttpResponse], **changes: Any) -> Signals:
    spec = {"kind": "http", "url": "http://service/health", "every_s": 1, "timeout_s": 2, "window_s": 20}
    return Signals.of(watched({"api": spec | changes}, rules={}), clock, transport)


def asked(answers: list[HttpResponse | Exception | float], **changes: Any) -> dict[str, Reading]:
    """What a probe measures after these answers: a number is a fine answer after so many seconds."""
    clock = FixedClock(NOW)
    left = list(answers)

    def transport(_: HttpRequest) -> HttpResponse:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            clock.advance(answer)
            return HttpResponse(200)
        return answer

    async def story() -> None:
        for _ in answers:
            clock.advance(1)
            signals.start_due()
            await signals.settle()

    signals = probing(clock, transport, **changes)
    run(story)
    return signals.readings()


def test_a_probe_measures_how_often_it_fails_and_how_long_answers_take() -> None:
    found = asked([0.1, 0.2, 0.3, 0.4, HttpResponse(500)])
    assert found["api.failures"].value == 0.2
    assert found["api.p50_ms"].value == pytest.approx(200)
    assert found["api.p95_ms"].value == pytest.approx(400)
    assert found["api.p50_ms"].age_s == 0


def test_no_answer_is_a_failure_as_slow_as_the_timeout() -> None:
    for error in (TransportError("no answer within 2 s"), ConnectionRefusedError()):
        found = asked([0.1, error])
        assert found["api.failures"].value == 0.5
        assert found["api.p95_ms"].value == 2000


@pytest.mark.parametrize(
    ("status", "expect", "failures"),
    [(204, [], 0), (302, [], 0), (404, [], 1), (503, [], 1), (401, [401], 0), (200, [401], 1)],
)
def test_which_status_is_a_failure_can_be_said(status: int, expect: list[int], failures: int) -> None:
    assert asked([HttpResponse(status)], expect=expect)["api.failures"].value == failures


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    window = Window(10.0)
    window.add(Sample(0, True, 1.0))
    assert window.measures(int(10e9))[1]["failures"] == 1
    assert window.measures(int(10e9) + 1) == (math.inf, {})


def test_a_window_keeps_no_more_than_its_maximum() -> None:
    window = Window(1e6)
    for i in range(SAMPLES_MAX + 50):
        window.add(Sample(i, False, 1.0))
    assert repr(window) == f"<Window {SAMPLES_MAX} samples>"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([50, 90, 95, 99]))
def test_a_percentile_is_a_measured_value_with_that_share_at_or_below_it(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < len(values) * percent / 100


def test_percentiles_agree_with_the_standard_library_on_many_values() -> None:
    values = sorted(random.Random(1).expovariate(1) for _ in range(10_001))
    assert percentile(values, 95) == pytest.approx(statistics.quantiles(values, n=20)[18], rel=0.01)


# --- Pushed values ------------------------------------------------------------------------------------------------


def pushed(folder: Path, lines: bytes | None, written_at: float = NOW) -> dict[str, Reading]:
    file = folder / "values.jsonl"
    if lines is not None:
        file.write_bytes(lines)
        os.utime(file, (written_at, written_at))
    clock = FixedClock(NOW)
    signals = Signals.of(watched({"errors": {"kind": "pushed", "file": str(file)}}), clock)

    async def story() -> None:
        signals.start_due()
        await signals.settle()

    run(story)
    return signals.readings()


def line(value: object, signal: str = "errors", **more: object) -> bytes:
    return json.dumps({"signal": signal, "value": value, **more}).encode() + b"\n"


def test_the_last_line_about_a_signal_counts(tmp_path: Path) -> None:
    lines = line(1, at=NOW - 30) + line(2, at=NOW - 20) + line(9, signal="other") + b'{"signal": "err'
    assert pushed(tmp_path, lines) == {"errors": Reading(2.0, 20.0)}


def test_a_line_without_a_time_is_as_old_as_the_file(tmp_path: Path) -> None:
    assert pushed(tmp_path, line(3), written_at=NOW - 70) == {"errors": Reading(3.0, 70.0)}


@pytest.mark.parametrize(
    "lines",
    [
        None,
        b"",
        b"\x00\xff\n",
        line("3"),
        line(True),
        line(None),
        line(1, at="now"),
        line(1, at=NOW + 3_600),
        line(1e999),
    ],
)
def test_what_is_no_value_is_a_missing_one(tmp_path: Path, lines: bytes | None) -> None:
    assert pushed(tmp_path, lines) == {}


def test_of_a_large_file_only_the_end_is_read(tmp_path: Path) -> None:
    old = line(1, at=NOW)
    assert pushed(tmp_path, old + b" " * TAIL_BYTES_MAX) == {}
    assert pushed(tmp_path, b"x" * 5_000_000 + b"\n" + old) == {"errors": Reading(1.0, 0.0)}


def test_a_value_can_be_pushed_by_a_call(tmp_path: Path) -> None:
    async def story() -> None:
        said = watched({"errors": {"kind": "pushed", "fresh_s": 30}})
        watch = await watch_with(said, tmp_path)
        watch.controller.signals.push("errors", 50.0)
        watch.controller.signals.push("errors", 1.0, at=NOW - 5)
        assert await watch.goes_on() is Z
        await watch.goes_on(200)
        assert watch.controller.state.level is Z
        for name, value, told in (("other", 1.0, "nobody pushes it"), ("errors", math.nan, "must be numbers")):
            with pytest.raises(InputError, match=told):
                watch.controller.signals.push(name, value)

    run(story)


@given(st.binary(max_size=300))
def test_whatever_is_in_a_file_is_a_value_or_a_reason(lines: bytes) -> None:
    with pytest.raises(ValueError):
        pushed_value(lines, "errors", NOW, NOW)
