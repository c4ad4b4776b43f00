"""One app of one user. `NaiveApp` calls and retries; `ClientApp` is the same app with Flashcast's client in it.

Both want the same things at the same times, have the same patience, and try a read that failed as often. The client's
own `Session` decides what is called and has the writes; this module is the IO around it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Final

from flashcast.clock import Clock
from flashcast.zombie.client.core import Action
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.client.options import Options, Result
from flashcast.zombie.client.session import Session, Step
from flashcast.zombie.client.writes import Fate
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.experiment.plan import Ask, Visit
from flashcast.zombie.experiment.wire import NoAnswerError, call
from flashcast.zombie.keys import PublicKey

CUT_OFF: Final = -1
FEED: Final = "feed"
PROGRESS: Final = "progress"
FIRST_POLL_S_MAX: Final = 1.0
"""An app that was just opened waits no longer than this for the document before it goes on as ever."""


@dataclass
class Log:
    """What the herd wanted and got. Times are seconds since the start of the run.

    ``asks``      op, kind ("read" or "write"), wanted at, done at, outcome: "ok", "local" (answered from what the app
                  has), "failed" (given up), "pending" (queued, or being tried, at the end)
    ``attempts``  begun at, ended at, status (0: none in time; `CUT_OFF`: still open when the run ended)
    """

    start: float
    asks: list[tuple[str, str, float, float, str]] = field(default_factory=list)
    attempts: list[tuple[float, float, int]] = field(default_factory=list)
    polls: int = 0
    polls_failed: int = 0
    late_s: float = 0.0
    """The latest that anything was asked for, after its time."""

    def now(self) -> float:
        return time.monotonic() - self.start


@dataclass(frozen=True)
class World:
    """What all apps share."""

    parameters: Parameters
    log: Log
    service_port: int


@dataclass(frozen=True)
class Client:
    """What apps with the client have besides."""

    app: str
    clock: Clock
    document_port: int
    trusted: PublicKey


class NaiveApp:
    """Calls, waits, retries, gives up."""

    def __init__(self, world: World, visit: Visit) -> None:
        self._world = world
        self._visit = visit
        self._random = random.Random(f"{world.parameters.seed} {visit.user}")
        self._tasks: list[asyncio.Task[None]] = []
        self._open: dict[str, tuple[Ask, float]] = {}
        """What is wanted and not settled, by operation, and since when."""

    async def live(self) -> None:
        """The whole session, until nothing is left to do."""
        for ask in self._visit.asks:
            await self._until(self._visit.at_s + ask.after_s)
            now = self._world.log.now()
            self._world.log.late_s = max(self._world.log.late_s, now - self._visit.at_s - ask.after_s)
            self._open[ask.op] = (ask, now)
            self._tasks.append(asyncio.create_task(self._want(ask)))
        await asyncio.gather(*self._tasks)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(at_s - self._world.log.now(), 0))

    async def _want(self, ask: Ask) -> None:
        request = _write_request(ask) if ask.kind == "write" else HttpRequest("GET", "http://service/feed")
        self._settle(ask.op, "ok" if await self._insist(request) else "failed")

    async def _insist(self, request: HttpRequest) -> bool:
        """Tries as often as apps do. Whether it was answered well in the end."""
        p = self._world.parameters
        for attempt in range(p.retries + 1):
            response = await self._call(request)
            if response is not None and response.status == 200:
                return True
            if attempt < p.retries:
                await asyncio.sleep(p.retry_first_s * 2**attempt * (0.5 + self._random.random()))
        return False

    async def _call(self, request: HttpRequest) -> HttpResponse | None:
        """One attempt; None where there was no answer in time."""
        log = self._world.log
        begun = log.now()
        try:
            response = await call(self._world.service_port, request, self._world.parameters.timeout_s)
        except NoAnswerError:
            log.attempts.append((begun, log.now(), 0))
            return None
        except asyncio.CancelledError:
            log.attempts.append((begun, log.now(), CUT_OFF))
            raise
        log.attempts.append((begun, log.now(), response.status))
        return response

    def _settle(self, op: str, outcome: str) -> None:
        ask, wanted = self._open.pop(op)
        self._world.log.asks.append((op, ask.kind, wanted, self._world.log.now(), outcome))

    def leave(self) -> None:
        """The run is over; what still waits is told as it stands."""
        for op in list(self._open):
            self._settle(op, "pending")


class ClientApp(NaiveApp):
    """Asks the client before every call, and gives it every write. This is the loop that the client's session wants."""

    def __init__(self, world: World, visit: Visit, client: Client) -> None:
        super().__init__(world, visit)
        self._client = client
        options = Options(app=client.app, base_url="http://documents", trusted=[client.trusted], user=visit.user)
        self._session = Session(options, clock=client.clock, random=self._random.random)
        self._wake = asyncio.Event()
        self._written = asyncio.Event()

    async def live(self) -> None:
        await self._until(max(self._visit.at_s, 0.0))
        await self._carry(self._session.next(), FIRST_POLL_S_MAX)
        loop = asyncio.create_task(self._loop())
        try:
            await super().live()
            # The session is over; queued writes are left.
            while self._open:
                self._written.clear()
                await self._written.wait()
        finally:
            loop.cancel()
            (ended,) = await asyncio.gather(loop, return_exceptions=True)
            self._session.close()
            if isinstance(ended, Exception):
                raise ended

    async def _want(self, ask: Ask) -> None:
        if ask.kind == "write":
            await self._write(ask)
            return
        p = self._world.parameters
        for attempt in range(p.retries + 1):
            if self._session.decide(FEED).action is not Action.SEND:
                self._settle(ask.op, "local")
                return
            response = await self._call(HttpRequest("GET", "http://service/feed"))
            if response is not None:
                self._session.heard(FEED, response)
                if response.status == 200:
                    self._settle(ask.op, "ok")
                    return
            if attempt < p.retries:
                await asyncio.sleep(p.retry_first_s * 2**attempt * (0.5 + self._random.random()))
        self._settle(ask.op, "failed")

    async def _write(self, ask: Ask) -> None:
        begun = self._session.begin_write(PROGRESS, _write_request(ask), write_id=ask.op)
        if begun.written is None:
            written = self._session.end_write(begun, await self._call(begun.write.request(replayed=False)))
            if written.result is not Result.QUEUED:
                self._settle(ask.op, "ok" if written.result is Result.APPLIED else "failed")
        self._wake.set()

    async def _loop(self) -> None:
        """The loop of the session's own docstring, on a fast clock."""
        while True:
            self._wake.clear()
            step = self._session.next()
            if step.request is not None:
                await self._carry(step, self._world.parameters.timeout_s)
                continue
            try:
                async with asyncio.timeout(step.idle_s / self._world.parameters.clock_factor):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _carry(self, step: Step, timeout_s: float) -> None:
        assert step.request is not None
        if step.write_id:
            judged = self._session.done(step, await self._call(step.request))
            if judged is not None and judged[0] is not Fate.AGAIN:
                self._settle(step.write_id, "ok" if judged[0] is Fate.APPLIED else "failed")
                self._written.set()
            return
        log = self._world.log
        log.polls += 1
        response: HttpResponse | None
        try:
            response = await call(self._client.document_port, step.request, timeout_s)
        except NoAnswerError:
            response = None
            log.polls_failed += 1
        self._session.done(step, response)


def _write_request(ask: Ask) -> HttpRequest:
    body = json.dumps({"op": ask.op}).encode()
    return HttpRequest("POST", "http://service/done", {"Content-Type": "application/json"}, body)
