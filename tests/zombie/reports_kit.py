"""What the tests of complaints are made of: a file, a history, an endpoint that really listens."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flashcast.clock import Clock, SystemClock
from flashcast.zombie.client.http import HttpRequest, HttpResponse, urllib_transport
from flashcast.zombie.reports.complaint import Intake, Record, Taken
from flashcast.zombie.reports.config import ReportsConfig, config_of
from flashcast.zombie.reports.endpoint import Endpoint
from flashcast.zombie.reports.store import Store
from flashcast.zombie.serving import address_of, listen, serving

NOW = 1_800_000_000
"""A Friday, 08:00 UTC."""
DAY_S = 86_400
TOKEN = b"a-token-for-tests-alone"


def config(folder: Path, **changes: Any) -> ReportsConfig:
    """Two live sources, one of them open, and one that is imported; two features."""
    said: dict[str, Any] = {
        "app": "shop",
        "store": str(folder / "reports.sqlite3"),
        "sources": {"support": {}, "shake": {"open": True}, "store": {"via": "import"}},
        "features": {"feed": {"words": ["feed", "Zeitleiste"]}, "payments": {"names": ["Checkout"], "words": ["pay"]}},
    }
    return config_of(said | changes)


def said(number: object, **more: Any) -> dict[str, Any]:
    """A complaint as it comes."""
    return {"id": f"c{number}", "source": "support", "time": NOW - 60, "text": "my feed is empty"} | more


def records(of: ReportsConfig, *complaints: dict[str, Any], now: float = NOW) -> list[Record]:
    return taken(of, *complaints, now=now).records


def taken(of: ReportsConfig, *complaints: object, now: float = NOW, **how: Any) -> Taken:
    return Intake(of).take(complaints, now, **how)


def hears(store: Store, of: ReportsConfig, since: float, until: float) -> None:
    """Every source of the alarm was heard."""
    for name in of.watched:
        store.heard(name, since, until)
        store.add([], [(name, until)])


def complains(store: Store, of: ReportsConfig, times: Sequence[float], feature: str = "feed", tag: str = "") -> None:
    store.add(records(of, *(said(f"{tag}{feature}{at}-{i}", time=at, feature=feature) for i, at in enumerate(times)),
                      now=max(times, default=NOW)))  # fmt: skip


def history(store: Store, of: ReportsConfig, *, days: int = 15, each: int = 2, now: float = NOW) -> None:
    """``each`` complaints about the feed in the hour before ``now`` on every earlier day, all heard."""
    hears(store, of, now - days * DAY_S - 7_200, now)
    for day in range(1, days + 1):
        complains(store, of, [now - day * DAY_S - 600 * (i + 1) for i in range(each)], tag=f"d{day}-")


class Listening(NamedTuple):
    """An endpoint that listens in a thread of its own."""

    url: str
    endpoint: Any
    loop: asyncio.AbstractEventLoop

    def asks(self, path: str, body: Any = None, *, token: bytes | None = TOKEN, **headers: str) -> HttpResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token.decode()}"
        if body is None:
            return urllib_transport(HttpRequest("GET", self.url + path, sent, timeout_s=20))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
        return urllib_transport(HttpRequest("POST", self.url + path, sent, data, timeout_s=20))


@contextmanager
def listening(make: Callable[[], Any]) -> Iterator[Listening]:
    """Serves the app that ``make`` makes, in the thread of its event loop, on a free port."""
    made = listen("0")
    up, down = threading.Event(), asyncio.Event()
    found: list[Listening] = []

    async def serve() -> None:
        app = make()
        async with serving(app, made, connections=100):
            found.append(Listening(address_of(made), app, asyncio.get_running_loop()))
            up.set()
            await down.wait()
        if isinstance(app, Endpoint):
            await app.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert up.wait(20)
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(down.set)
        thread.join(30)


@contextmanager
def endpoint(of: ReportsConfig, clock: Clock | None = None, **options: Any) -> Iterator[Listening]:
    with listening(lambda: Endpoint(of, clock=clock or SystemClock(), **({"token": TOKEN} | options))) as found:
        yield found
