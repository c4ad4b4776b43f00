"""The endpoint of complaints, over the network: who may send and read, what is taken, what happens when disks fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reports_kit import NOW, TOKEN, Listening, complains, config, endpoint, history, listening, said

from flashcast.clock import FixedClock
from flashcast.zombie.reports.bounds import BATCH_COMPLAINTS_MAX, CLIENTS_MAX, FAULTS_TOLD_MAX, OPEN_BODY_BYTES_MAX
from flashcast.zombie.reports.config import EndpointOf
from flashcast.zombie.reports.endpoint import Endpoint
from flashcast.zombie.reports.limiter import Limiter, site
from flashcast.zombie.reports.store import Store
from flashcast.zombie.serving import Patience, listen, serving


def now_said(number: object, **more: Any) -> dict[str, Any]:
    """A complaint of now, by the machine's clock."""
    return {name: value for name, value in said(number, **more).items() if name != "time"}


def told(answer: Any) -> dict[str, Any]:
    found = json.loads(answer.body)
    assert isinstance(found, dict)
    return found


# --- Taking -------------------------------------------------------------------------------------------------------


def test_one_an_array_and_lines_are_taken_and_each_counts_once(tmp_path: Path) -> None:
    with endpoint(config(tmp_path)) as at:
        assert told(at.asks("/reports", now_said(1)))["new"] == 1
        assert told(at.asks("/reports", [now_said(1), now_said(2), now_said(2)])) == {
            "new": 1, "known": 2, "old": 0, "retimed": 0, "refused": [],
        }  # fmt: skip
        lines = b"\n".join(json.dumps(now_said(i)).encode() for i in (2, 3)) + b"\n{\n"
        answer = told(at.asks("/reports", lines, Content_Type="application/x-ndjson; charset=utf-8"))
        assert (answer["new"], answer["known"]) == (1, 1)
        assert answer["refused"] == [{"index": 2, "fields": [{"field": "complaint", "message": "is no object"}]}]
    with Store(tmp_path / "reports.sqlite3") as store:
        assert store.totals() == {("support", "feed"): 3}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"[]", {}, 422),
        (b"5", {}, 422),
        ({"id": "x", "source": "fax"}, {}, 422),
        ([{"id": "x", "source": "fax"}], {}, 422),
        ([{}] * (BATCH_COMPLAINTS_MAX + 1), {}, 413),
        (b"x" * 2_000_000, {}, 413),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {"Content_Encoding": "gzip"}, 415),
    ],
)
def test_what_is_no_complaint_is_refused_and_nothing_is_kept(
    tmp_path: Path, body: Any, headers: dict[str, str], status: int
) -> None:
    with endpoint(config(tmp_path)) as at:
        answer = at.asks("/reports", body, **headers)
        assert answer.status == status
        assert "error" in told(answer) or told(answer)["refused"]
    with Store(tmp_path / "reports.sqlite3") as store:
        assert store.totals() == {}


def test_many_at_once_are_each_counted_once(tmp_path: Path) -> None:
    with endpoint(config(tmp_path)) as at, ThreadPoolExecutor(16) as pool:
        bodies = [[now_said(f"{i}"), now_said(f"shared-{i % 10}")] for i in range(120)]
        answers = list(pool.map(lambda body: told(at.asks("/reports", body)), bodies))
    assert sum(answer["new"] for answer in answers) == 130
    with Store(tmp_path / "reports.sqlite3") as store:
        assert sum(store.totals().values()) == 130


# --- Who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/counts", "/alarm", "/metrics"])
@pytest.mark.parametrize("token", [None, b"wrong-token-wrong-token"])
def test_nobody_reads_without_the_token(tmp_path: Path, path: str, token: bytes | None) -> None:
    with endpoint(config(tmp_path)) as at:
        answer = at.asks(path, token=token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    with endpoint(config(tmp_path), token=None) as at:
        assert at.asks(path, token=TOKEN).status == 401


def test_without_the_token_only_open_sources_are_taken(tmp_path: Path) -> None:
    with endpoint(config(tmp_path)) as at:
        assert at.asks("/reports", now_said(1, source="shake"), token=None).status == 200
        answer = at.asks("/reports", now_said(2), token=None)
        assert (answer.status, told(answer)["fields"][0]["message"]) == (422, "support needs a token")
        assert at.asks("/reports", now_said(3), token=b"wrong-token-wrong-token").status == 401
        assert at.asks("/reports", b" " * (OPEN_BODY_BYTES_MAX + 1), token=None).status == 413
    with endpoint(config(tmp_path, sources={"support": {}})) as at:
        assert at.asks("/reports", now_said(4), token=None).status == 401


def test_who_sends_too_much_without_a_token_is_told_when_to_come_back(tmp_path: Path) -> None:
    rates = {"client_per_minute": 6.0, "client_burst": 3}
    with endpoint(config(tmp_path, endpoint=rates), FixedClock(NOW)) as at:
        shakes = [at.asks("/reports", said(i, source="shake"), token=None) for i in range(4)]
        assert [answer.status for answer in shakes] == [200, 200, 200, 429]
        assert shakes[3].headers["retry-after"] == "10"
        assert at.asks("/reports", [said(i, source="shake") for i in range(9)], token=None).status == 413
        assert at.asks("/reports", [said(i) for i in range(9)]).status == 200


def test_rates_are_by_address_and_in_all_and_memory_is_bounded() -> None:
    limiter = Limiter(EndpointOf(client_per_minute=60.0, client_burst=2, all_per_minute=60.0, all_burst=3))
    assert [limiter.wait_s("1.1.1.1", 1, 0.0) for _ in range(3)] == [0, 0, 1]
    assert limiter.wait_s("2.2.2.2", 1, 0.0) == 0
    assert limiter.wait_s("3.3.3.3", 1, 0.0) == 1
    assert limiter.wait_s("3.3.3.3", 1, 1.0) == 0
    for i in range(CLIENTS_MAX + 50):
        limiter.wait_s(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 1, 2.0)
    assert repr(limiter) == f"<Limiter {CLIENTS_MAX} clients>"


def test_an_ipv6_household_is_one_client() -> None:
    assert site("2001:db8::1") == site("2001:db8::ffff:2") != site("2001:db8:0:1::1")
    assert site("::ffff:1.2.3.4") == site("1.2.3.4")
    assert site(None) == site("no address") == ""


def test_pages_of_named_origins_may_send(tmp_path: Path) -> None:
    origin = "https://www.example.com"
    with endpoint(config(tmp_path, endpoint={"origins": [origin]})) as at:
        answer = at.asks("/reports", now_said(1, source="shake"), token=None, Origin=origin)
        assert answer.headers["access-control-allow-origin"] == origin
        other = at.asks("/reports", now_said(2, source="shake"), token=None, Origin="https://evil.example")
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-origin" not in at.asks("/counts", Origin=origin).headers


# --- Reading ------------------------------------------------------------------------------------------------------


def test_counts_alarm_and_metrics_tell_the_same(tmp_path: Path) -> None:
    of, clock = config(tmp_path), FixedClock(NOW)
    with Store(tmp_path / "reports.sqlite3") as store:
        history(store, of)
        complains(store, of, [NOW - 30 * i - 1 for i in range(40)])
    with endpoint(of, clock) as at:
        assert sum(told(at.asks("/counts?since=1h&every=10m"))["series"]["feed"]) == 40
        feed = next(one for one in told(at.asks("/alarm"))["findings"] if one["feature"] == "feed")
        assert (feed["verdict"], feed["days"]) == ("alarm", 14)
        lines = at.asks("/metrics").body.decode().splitlines()
        assert f'flashcast_reports_alarm{{feature="feed"}} {feed["value"]:.15g}' in lines
        assert 'flashcast_reports_alarm{feature="payments"} 0' in lines
        assert at.asks("/counts?since=x").status == 422
        assert at.asks("/nothing").status == 404
        assert at.asks("/alarm", {}).status == 405


def test_what_is_not_known_is_not_in_the_metrics(tmp_path: Path) -> None:
    with endpoint(config(tmp_path), FixedClock(NOW)) as at:
        assert "flashcast_reports_alarm{" not in at.asks("/metrics").body.decode()


# --- When things fail ---------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_ends_health_and_heartbeats_until_it_can(tmp_path: Path) -> None:
    of, clock = config(tmp_path), FixedClock(NOW)
    heard: list[str] = []
    with endpoint(of, clock, tell=heard.append) as at:
        assert at.asks("/health").status == 200
        store = at.endpoint._opened
        works = store.add_each

        def fails(*_: Any) -> Any:
            raise OSError("the disk is gone")

        store.add_each = fails
        answer = at.asks("/reports", said(1))
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        assert b"disk" not in answer.body
        assert at.asks("/health").status == 503
        clock.advance(600)
        assert told(at.asks("/alarm"))["gap"].startswith("support was last heard 2027-01-15T08:00:00Z")
        store.add_each = works
        assert told(at.asks("/reports", said(1)))["new"] == 1
        assert at.asks("/health").status == 200
        assert heard == ["complaints cannot be written: OSError: the disk is gone", "complaints can be written again"]


def test_what_was_answered_is_there_after_kill_9(tmp_path: Path) -> None:
    text = 'app = "shop"\n[sources.support]\n[features.feed]\nwords = ["feed"]\n'
    (tmp_path / "reports.toml").write_text(text)
    command = [sys.executable, "-m", "flashcast", "zombie", "reports", "serve", "--listen", "0", "--json"]
    variables = {"FLASHCAST_ZOMBIE_REPORTS_TOKEN": TOKEN.decode(), "FLASHCAST_ZOMBIE_REPORTS": "reports.toml"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=os.environ | variables) as process:
        assert process.stdout is not None
        at = Listening(json.loads(process.stdout.readline())["url"], None, None)  # type: ignore[arg-type]
        answers = [told(at.asks("/reports", now_said(i))) for i in range(20)]
        process.send_signal(signal.SIGKILL)
    assert [answer["new"] for answer in answers] == [1] * 20
    with Store(tmp_path / "reports.sqlite3") as store:
        assert store.totals() == {("support", "feed"): 20}


def test_it_can_be_mounted_into_another_app(tmp_path: Path) -> None:
    """As Starlette and FastAPI mount: with a root path, and without a lifespan."""

    class Outer:
        def __init__(self) -> None:
            self.inner = Endpoint(config(tmp_path), token=TOKEN)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            await self.inner(dict(scope, root_path="/complaints"), receive, send)

    with listening(Outer) as at:
        assert told(at.asks("/complaints/reports", now_said(1)))["new"] == 1
        assert at.asks("/complaints/counts").status == 200
        asyncio.run_coroutine_threadsafe(at.endpoint.inner.close(), at.loop).result(20)


# --- Slow and long ------------------------------------------------------------------------------------------------


def test_too_many_faults_are_not_all_told(tmp_path: Path) -> None:
    with endpoint(config(tmp_path)) as at:
        answer = at.asks("/reports", now_said(1, **{f"field{i}": i for i in range(5_000)}))
    assert answer.status == 422
    assert len(told(answer)["fields"]) == FAULTS_TOLD_MAX


@pytest.mark.parametrize(
    "query", ["&".join(f"f{i}=1" for i in range(30)), "since=99999999d&every=99999d", "since=9d&every=0m"]
)
def test_a_question_that_cannot_be_answered_is_the_askers_fault(tmp_path: Path, query: str) -> None:
    with endpoint(config(tmp_path)) as at:
        answer = at.asks(f"/counts?{query}")
    assert answer.status == 422 and told(answer)["error"]


def test_who_connects_and_says_nothing_is_let_go(tmp_path: Path) -> None:
    async def silent() -> list[bytes]:
        made = listen("0")
        app = Endpoint(config(tmp_path), token=TOKEN)
        async with serving(app, made, connections=10, head_s=0.05):
            host, port = made.getsockname()
            opened = [await asyncio.open_connection(host, port) for _ in range(3)]
            opened[1][1].write(b"POST /reports HTTP/1.1\r\nHost: x\r\n")
            opened[2][1].write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\n")
            said = [await asyncio.wait_for(reader.read(), 20) for reader, _ in opened]
            for _, writer in opened:
                writer.close()
        await app.close()
        return said

    nothing, head, answered = asyncio.run(silent())
    assert (nothing, head) == (b"", b"")
    assert answered.startswith(b"HTTP/1.1 200 ") and answered.count(b"HTTP/1.1") == 1


class _Connection:
    """As `Patience` sees one of uvicorn's."""

    def __init__(self) -> None:
        self.cycle: Any = None

    def asks(self, *, answered: bool) -> None:
        self.cycle = SimpleNamespace(response_complete=answered)


def test_patience_is_for_each_request_anew_and_a_request_under_way_needs_none() -> None:
    patience, silent, busy, working = Patience(10), _Connection(), _Connection(), _Connection()
    connections = [silent, busy, working]
    working.asks(answered=False)
    busy.asks(answered=True)
    assert patience.exhausted(connections, 0) == []
    busy.asks(answered=True)
    assert patience.exhausted(connections, 9) == []
    assert patience.exhausted(connections, 10) == [silent]
    assert patience.exhausted([busy, working], 18.9) == []
    assert patience.exhausted([busy, working], 19) == [busy]
    assert repr(patience) == "<Patience 1 waiting>"
