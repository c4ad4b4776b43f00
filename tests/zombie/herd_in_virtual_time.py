"""The experiment without a machine: its own apps, service, monitoring and controller on one loop of virtual time.

What is left out is what the machine does: processes, sockets and threads. A request is a call, a question to a server
takes `ANSWER_S`, and the rest is the code that `flashcast zombie demo` runs. So a herd is the same each time, whatever
else the machine is doing.

    python tests/zombie/herd_in_virtual_time.py [RULES.toml]     how well rules hold up against 49 herds; two minutes
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import pytest

from flashcast.testing.virtual_time import EPOCH_S, VirtualLoop
from flashcast.zombie import controller as controller_module
from flashcast.zombie import signals as signals_module
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, TransportError
from flashcast.zombie.experiment import app, clocks, conductor, control, herd, measure, monitoring, service
from flashcast.zombie.experiment.app import Client, Log, World
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.control import Desk
from flashcast.zombie.experiment.document_server import Files
from flashcast.zombie.experiment.monitoring import Monitoring
from flashcast.zombie.experiment.parameters import DEFAULT, Parameters
from flashcast.zombie.experiment.plan import visits
from flashcast.zombie.experiment.service import Database, Service
from flashcast.zombie.experiment.wire import Exchange, NoAnswerError
from flashcast.zombie.keys import SigningKey
from flashcast.zombie.rules import Rules, load_rules

T = TypeVar("T")
SERVICE, METRICS, MONITORING, DOCUMENTS = 1, 2, 3, 4
"""Ports."""
ANSWER_S: Final = 0.01
"""How long a request is on its way."""
STEPS_MAX: Final = 20_000_000


class _Call(Exchange):
    """An exchange without a connection."""

    def __init__(self, request: HttpRequest, done: asyncio.Future[HttpResponse | None]) -> None:
        super().__init__(lambda exchange: None)
        self.method, self.path = request.method, "/" + request.url.split("://", 1)[-1].partition("/")[2]
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        self.body, self._answered = request.body, done

    def answer(self, status: int, body: bytes = b"", headers: Any = None) -> None:
        if not self._answered.done():
            names = {name.lower(): value for name, value in (headers or {}).items()}
            self._answered.set_result(HttpResponse(status, names, body))

    def hang_up(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)


class _Later(BaseException):
    """Thrown where blocking code would wait for a server."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request


class _Net:
    """Calls between the parts, for code that awaits and for code that blocks."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[Exchange], None]] = {}
        self._heard: HttpResponse | Exception | None = None

    async def call(self, port: int, request: HttpRequest, timeout_s: float) -> HttpResponse:
        """As `wire.call`."""
        done: asyncio.Future[HttpResponse | None] = asyncio.get_running_loop().create_future()
        exchange = _Call(request, done)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(ANSWER_S)
                self.handlers[port](exchange)
                answer = await done
        except TimeoutError:
            exchange.gone = True
            raise NoAnswerError("no answer in time") from None
        if answer is None:
            raise NoAnswerError("hung up")
        return answer

    def transport_to(self, ports: dict[str, int], clock_factor: float) -> Transport:
        """As `control.transport_to`."""

        def transport(request: HttpRequest) -> HttpResponse:
            heard, self._heard = self._heard, None
            if heard is None:
                raise _Later(request)
            if isinstance(heard, Exception):
                raise heard
            return heard

        self._ports, self._clock_factor = ports, clock_factor
        return transport

    def in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """As `threads.in_thread`. What asks a server is begun anew with the answer, so that it measures no latency."""

        async def run() -> T:
            try:
                return work()
            except _Later as later:
                request = later.request
            port = self._ports[request.url.split("://", 1)[1].partition("/")[0]]
            try:
                answer: HttpResponse | Exception = await self.call(
                    port, request, request.timeout_s / self._clock_factor
                )
            except NoAnswerError as error:
                answer = TransportError(str(error))
            self._heard = answer
            return work()

        return asyncio.ensure_future(run())


class _Tap:
    """Monitoring's standard input."""

    def __init__(self, told: Monitoring) -> None:
        self._told = told

    def tell(self, document: dict[str, Any]) -> None:
        self._told.speaks = document["speaks"]


def run_in_virtual_time(
    p: Parameters, rules: Rules, folder: Path, patch: pytest.MonkeyPatch, *, zombie: bool = True
) -> Record:
    """As `conductor.run`."""
    loop, net = VirtualLoop(steps_max=STEPS_MAX), _Net()  # type: ignore[abstract]
    time = SimpleNamespace(monotonic=loop.time, time=lambda: EPOCH_S + loop.elapsed_s, process_time=lambda: 0.0)
    for module in (app, clocks, conductor, herd, monitoring, service):
        patch.setattr(module, "time", time)
    for module in (app, monitoring):
        patch.setattr(module, "call", net.call)
    for module in (controller_module, signals_module, conductor):
        patch.setattr(module, "in_thread", net.in_thread)
    patch.setattr(control, "transport_to", net.transport_to)
    record = Record(zombie, p, rules)
    documents = folder / "documents"
    documents.mkdir(parents=True)

    async def play() -> float:
        key, start = SigningKey.generate(), loop.time() + conductor.LEAD_S
        clock = FastClock(start, float(int(EPOCH_S)), p.clock_factor)
        served = Service(Database(folder / "service.db"), p)
        watched = Monitoring(METRICS)
        net.handlers = {
            SERVICE: served.handle,
            METRICS: lambda asked: asked.answer(200, served.page()),
            MONITORING: watched.handle,
            DOCUMENTS: Files(documents).handle,
        }

        async def scrape() -> None:
            while True:
                await watched.scrape()
                await asyncio.sleep(monitoring.SCRAPE_S / p.clock_factor)

        desk = Desk(rules, p, documents, key, clock)
        conducted = conductor._Conductor(record, start, desk, _Tap(watched))  # type: ignore[arg-type]
        watch = control.controller(
            desk, {"service": SERVICE, "monitoring": MONITORING}, folder / "controller.json", folder / "trace.jsonl",
            dry_run=not zombie, tell=conducted.told,
        )  # fmt: skip
        log = Log(start)
        client = Client(rules.app, clock, DOCUMENTS, key.public) if zombie else None
        scraping = asyncio.create_task(scrape())
        live = asyncio.create_task(herd.run(World(p, log, SERVICE), client, visits(p)))
        await conducted.conduct(watch, None)
        await live
        for task in (scraping, *served._slots):
            task.cancel()
        record.asks, record.attempts, record.polls = log.asks, log.attempts, log.polls
        return start

    start = loop.run_until_complete(play())
    record.trace = (folder / "trace.jsonl").read_text(encoding="utf-8")
    with closing(sqlite3.connect(folder / "service.db")) as db:
        rows = db.execute("select op, count(*), min(at) from effects group by op")
        record.applied = {op: (count, at - start) for op, count, at in rows}
        (record.kept_off,) = db.execute("select coalesce(sum(seen), 0) from keys").fetchone()
    return record


def main(path: Path) -> None:
    """Tells for each herd the worst window of goodput, and what became of writes."""
    rules, least = load_rules(path), []
    for seed in range(1, 50):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            record = run_in_virtual_time(DEFAULT.changed(seed=seed), rules, Path(folder), patch)
        found = measure.summary(record)
        least.append(found["goodput_share_min"])
        told = {name: found["writes"][name] for name in ("lost", "waiting", "applied_twice")}
        print(f"seed {seed}: goodput never below {least[-1]:.1%}, writes {told}", flush=True)
    print(f"{sum(one >= measure.GOODPUT_SHARE_MIN for one in least)} of {len(least)} hold; the worst {min(least):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else control.RULES)
