"""Complaints and pushed values as signals: a real controller, a real endpoint, a real store."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reports_kit import DAY_S, NOW, TOKEN, Listening, complains, config, endpoint, hears, history, listening
from watch_data import Watch, rules
from zombie_data import KEY

from flashcast.clock import FixedClock
from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.client.http import HttpRequest, HttpResponse, urllib_transport
from flashcast.zombie.document import Level
from flashcast.zombie.push import PushDoor
from flashcast.zombie.reports.config import ReportsConfig
from flashcast.zombie.reports.store import Store
from flashcast.zombie.rules import Rules
from flashcast.zombie.serving import address_of, listen
from flashcast.zombie.signals import Signals

N, S = Level.NORMAL, Level.SHIELDED


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


def watched(**signal_: Any) -> Rules:
    """Shielded while there is an alarm."""
    asked = {"kind": "reports", "every_s": 5, "timeout_s": 20, "fresh_s": 120} | signal_
    many = {"signal": "complaints", "level": "shielded", "above": 1, "clear": 0, "for_s": 0, "clear_for_s": 60}
    return rules(signals={"complaints": asked}, rules={"many": many})


def file_of(folder: Path) -> Path:
    path = folder / "reports.toml"
    path.write_text(
        'app = "shop"\n[sources.support]\n[sources.shake]\nopen = true\n[features.feed]\nwords = ["feed"]\n'
    )
    return path


def spike(store: Store, of: ReportsConfig, at: float, tag: str = "spike") -> None:
    complains(store, of, [at - 2 * i - 1 for i in range(40)], tag=tag)


async def goes_on(watch: Watch, seconds: int, heartbeat: Callable[[], Any] | None) -> Level:
    """Ten seconds at a time, with a heartbeat in each."""
    for _ in range(seconds // 10):
        watch.clock.advance(9)
        if heartbeat is not None:
            heartbeat()
        await watch.goes_on(1)
    return watch.controller.state.level


async def begun(folder: Path, said: Rules) -> Watch:
    clock = FixedClock(NOW)

    def transport(request: HttpRequest) -> HttpResponse:
        return urllib_transport(replace(request, timeout_s=20))

    return await Watch(folder, said=said, clock=clock, signals=Signals.of(said, clock, transport)).begins()


def test_a_spike_shields_a_calm_hour_clears_and_silence_holds(tmp_path: Path) -> None:
    async def story() -> None:
        path = file_of(tmp_path)
        of = config(tmp_path, features={"feed": {"words": ["feed"]}}, sources={"support": {}, "shake": {"open": True}})
        with Store(Path(of.store)) as store:
            history(store, of)
            watch = await begun(tmp_path, watched(config=str(path)))

            def heartbeat() -> None:
                store.add([], [(name, watch.clock.time()) for name in of.watched])

            assert await goes_on(watch, 60, heartbeat) is N
            spike(store, of, watch.clock.time())
            assert await goes_on(watch, 20, heartbeat) is S
            assert "many: complaints is " in watch.told("changed")[0]
            # The endpoint has died: what is no longer heard is not calm, for as long as it takes.
            assert await goes_on(watch, 2 * 3_600, None) is S
            assert '"why":"held_missing"' in watch.trace.read_text().splitlines()[-1]
            fault = watch.controller.signals.faults["complaints"]
            assert fault.startswith("no source of complaints has been heard for 72")
            # It is back, and has nothing to say about the time between.
            assert await goes_on(watch, 600, heartbeat) is S
            # An hour heard as a whole, and calm.
            assert await goes_on(watch, 2 * 3_600, heartbeat) is N

    run(story)


def test_the_controller_follows_an_endpoint_and_holds_when_it_dies(tmp_path: Path) -> None:
    async def story() -> None:
        of, clock = config(tmp_path), FixedClock(NOW)
        token = tmp_path / "token"
        token.write_bytes(TOKEN)
        with Store(Path(of.store)) as store:
            history(store, of)
        with endpoint(of, clock) as at:
            said = watched(url=at.url, token_file=str(token), feature="feed")
            signals = Signals.of(said, clock, lambda request: urllib_transport(replace(request, timeout_s=20)))
            watch = await Watch(tmp_path, said=said, clock=clock, signals=signals).begins()

            def heartbeat() -> None:
                asyncio.run_coroutine_threadsafe(at.endpoint.beat(), at.loop).result(20)

            assert await goes_on(watch, 60, heartbeat) is N
            now = watch.clock.time()
            many = [{"id": f"s{i}", "source": "support", "text": "no feed", "time": now - i} for i in range(40)]
            assert (await asyncio.to_thread(at.asks, "/reports", many)).status == 200
            assert await goes_on(watch, 20, heartbeat) is S
            token.write_text("another-token-than-that")
            assert await goes_on(watch, 300, heartbeat) is S
            assert watch.controller.signals.faults == {"complaints": "the answer is 401"}
            token.write_bytes(TOKEN)
        assert await goes_on(watch, 3_600, None) is S
        assert watch.controller.signals.readings()["complaints"].age_s > 120
        assert watch.published.level is S

    run(story)


@pytest.mark.parametrize("wrong", ["file", "store", "feature", "damaged"])
def test_what_cannot_be_read_is_a_missing_signal(tmp_path: Path, wrong: str) -> None:
    async def story() -> None:
        path, of = file_of(tmp_path), config(tmp_path, features={"feed": {}}, sources={"support": {}, "shake": {}})
        with Store(Path(of.store)) as store:
            hears(store, of, NOW - 15 * DAY_S, NOW)
        if wrong == "file":
            path.write_text("app = 5")
        elif wrong == "store":
            Path(of.store).unlink()
        elif wrong == "damaged":
            for one in tmp_path.glob("reports.sqlite3*"):
                one.write_bytes(b"no database" * 1_000)
        watch = await begun(tmp_path, watched(config=str(path), feature="login" if wrong == "feature" else "*"))
        await watch.goes_on(1)
        assert watch.controller.signals.readings() == {}
        assert list(watch.controller.signals.faults) == ["complaints"]

    run(story)


@pytest.mark.parametrize(
    ("signal_", "told"),
    [({}, "needs either config or url"), ({"config": "a", "url": "http://b"}, "needs either config or url"),
     ({"url": "http://u:p@b"}, "user name or password"), ({"config": "a", "feature": "A B"}, "feature")],
)  # fmt: skip
def test_rules_say_where_complaints_are(signal_: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        watched(**signal_)


# --- Pushed values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "token", "status"),
    [
        ("/signals/errors", {"value": 50}, TOKEN, 204),
        ("/signals/errors", {"value": 50.5, "at": NOW - 3}, TOKEN, 204),
        ("/signals/errors", {"value": 50}, None, 401),
        ("/signals/errors", {"value": 50}, b"wrong-token-wrong-token", 401),
        ("/signals/other", {"value": 50}, TOKEN, 404),
        ("/signals/errors", {"value": "50"}, TOKEN, 422),
        ("/signals/errors", {"value": True}, TOKEN, 422),
        ("/signals/errors", b'{"value": NaN}', TOKEN, 422),
        ("/signals/errors", {"value": 1, "at": NOW + 999}, TOKEN, 422),
        ("/signals/errors", {"value": 1, "more": 2}, TOKEN, 422),
        ("/signals/errors", {"at": 1}, TOKEN, 422),
        ("/signals/errors", [], TOKEN, 422),
        ("/signals/errors", b"{", TOKEN, 400),
        ("/signals/errors", b" " * 5_000, TOKEN, 413),
        ("/signals/errors", None, TOKEN, 405),
        ("/signals", {"value": 1}, TOKEN, 404),
        ("/health", None, None, 200),
    ],
)
def test_a_value_is_pushed_by_who_has_the_token(path: str, body: Any, token: bytes | None, status: int) -> None:
    signals = Signals.of(rules(), FixedClock(NOW))
    with listening(lambda: PushDoor(signals.push, TOKEN)) as at:
        answer = at.asks(path, body, token=token)
    assert answer.status == status
    assert set(signals.readings()) == ({"errors"} if status == 204 else set())


def test_a_controller_that_listens_goes_where_pushed_values_lead(tmp_path: Path) -> None:
    """The command itself, another process that pushes, and SIGTERM."""
    (tmp_path / "rules.toml").write_text(
        'app = "shop"\ntick_s = 0.05\n[signals.errors]\nkind = "pushed"\n'
        '[rules.down]\nsignal = "errors"\nlevel = "zombie"\nabove = 10\nclear = 4\nfor_s = 0\n'
    )
    KEY.save(tmp_path / "key")
    command = [sys.executable, "-m", "flashcast", "zombie", "watch", "--target", "site", "--key", "key", "--rules",
               "rules.toml", "--listen", "0", "--state", "state", "--json"]  # fmt: skip
    variables = os.environ | {"FLASHCAST_ZOMBIE_PUSH_TOKEN": TOKEN.decode()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=variables) as process:
        assert process.stdout is not None
        events = (json.loads(line) for line in process.stdout)
        at = Listening(next(one["listening"] for one in events if one["event"] == "watching"), None, None)  # type: ignore[arg-type]
        assert at.asks("/signals/errors", {"value": 50}).status == 204
        assert next(one["level"] for one in events if one["event"] == "changed") == "zombie"
        process.send_signal(signal.SIGTERM)
        assert list(events)[-1]["event"] == "ended"
    assert process.returncode == 0


def test_a_port_that_is_taken_and_an_address_that_is_none_are_told() -> None:
    with listen("0") as taken:
        assert address_of(taken).startswith("http://127.0.0.1:")
        with pytest.raises(EnvironmentFault, match=r"cannot listen at 127\.0\.0\.1 port"):
            listen(str(taken.getsockname()[1]))
    for wrong in ("x", "1:99999", "", "host:"):
        with pytest.raises(InputError, match="no address to listen at"):
            listen(wrong)
