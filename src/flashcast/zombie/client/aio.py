"""The client for asyncio. All it does itself is carry requests and wait; what touches the disk runs in a thread."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from flashcast.zombie.client.core import Action, Decision
from flashcast.zombie.client.http import (
    AsyncTransport,
    HttpRequest,
    HttpResponse,
    Transport,
    TransportError,
    urllib_transport,
)
from flashcast.zombie.client.options import Options, Written
from flashcast.zombie.client.session import IDLE_S_MAX, Session, Step
from flashcast.zombie.client.shell import Shell

T = TypeVar("T")
_LOG: Final = logging.getLogger("flashcast.zombie")


class AsyncZombieClient(Shell):
    """`ZombieClient` for asyncio: the same session, methods of the same names. Used in one event loop.

        async with await AsyncZombieClient.open(options) as client: ...

    ``transport`` may be a plain function, which then runs in a thread, or an ``async`` one.
    """

    def __init__(self, session: Session, *, transport: Transport | AsyncTransport = urllib_transport) -> None:
        super().__init__(session)
        self._transport: Any = transport
        self._is_async = any(map(inspect.iscoroutinefunction, (transport, type(transport).__call__)))
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[Written]] = set()

    @classmethod
    async def open(
        cls, options: Options, *, transport: Transport | AsyncTransport = urllib_transport, **injected: Any
    ) -> Self:
        """A client whose file is open. ``injected``: clock, random, new_id as in `Session`."""
        return cls(await asyncio.to_thread(Session, options, **injected), transport=transport)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Starts the task that polls and replays."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._loop(), name="flashcast-zombie")

    async def close(self) -> None:
        """Stops polling, waits for writes that are being sent, closes the file. What is queued stays on disk."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._writing, return_exceptions=True)
        await asyncio.to_thread(self.session.close)

    async def step(self) -> float:
        """Does what is due, one request at most. Returns the seconds until more will be; 0 to be called at once."""
        deciding = asyncio.ensure_future(asyncio.to_thread(self.session.next))
        try:
            step = await asyncio.shield(deciding)
        except asyncio.CancelledError:
            # The thread decides all the same; what it takes is given back.
            deciding.add_done_callback(lambda done: self.session.release(done.result()))
            raise
        if step.request is None:
            return step.idle_s
        try:
            response = await self._carried(step)
        except asyncio.CancelledError:
            self.session.release(step)
            raise
        await asyncio.to_thread(self.session.done, step, response)
        return 0.0

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            try:
                idle_s = await self.step()
            except Exception:  # noqa: BLE001 - whatever it is, an app that hears no more of it is worse
                _LOG.exception("a step of the zombie client failed")
                idle_s = IDLE_S_MAX
            if idle_s > 0:
                try:
                    await asyncio.wait_for(self._wake.wait(), idle_s)
                except TimeoutError:
                    pass

    async def _sent(self, request: HttpRequest) -> HttpResponse:
        answer: Any = self._transport(request) if self._is_async else await asyncio.to_thread(self._transport, request)
        if inspect.isawaitable(answer):
            answer = await asyncio.wait_for(answer, request.timeout_s)
        response: HttpResponse = answer
        return response

    async def _carried(self, step: Step) -> HttpResponse | None:
        try:
            return await self._sent(self._prepared(step))
        except (TransportError, OSError):
            return None  # a TimeoutError is an OSError
        except Exception:  # noqa: BLE001 - it is the app's own transport or `prepare`
            _LOG.exception("a request could not be made")
            return None

    async def call(
        self, feature: str, send: Callable[[], Awaitable[T]], fallback: Callable[[Decision], Awaitable[T]]
    ) -> T:
        """See `ZombieClient.call`."""
        decision = self.decide(feature)
        return await (send() if decision.action is Action.SEND else fallback(decision))

    async def fetch(
        self, feature: str, request: HttpRequest, fallback: Callable[[Decision], Awaitable[HttpResponse]]
    ) -> HttpResponse:
        """See `ZombieClient.fetch`."""
        decision = self.decide(feature)
        if decision.action is not Action.SEND:
            return await fallback(decision)
        response = await self._sent(self.session.options.prepare(request))
        held = self.session.heard(feature, response)
        return await fallback(held) if held is not None else response

    async def write(self, feature: str, request: HttpRequest, *, lane: str = "", write_id: str = "") -> Written:
        """See `ZombieClient.write`. Whoever awaits it may be cancelled; the write goes on."""
        task = asyncio.ensure_future(self._write(feature, request, lane, write_id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _write(self, feature: str, request: HttpRequest, lane: str, write_id: str) -> Written:
        begun = await asyncio.to_thread(self.session.begin_write, feature, request, lane=lane, write_id=write_id)
        written = begun.written
        if written is None:
            response = await self._carried(begun.step)
            written = await asyncio.to_thread(self.session.end_write, begun, response)
        self._wake.set()
        return written

    async def forget(self, write_id: str) -> None:
        """See `ZombieClient.forget`."""
        await asyncio.to_thread(self.session.forget, write_id)

    async def again(self, write_id: str) -> bool:
        """See `ZombieClient.again`."""
        found = await asyncio.to_thread(self.session.again, write_id)
        self._wake.set()
        return found

    async def log_in(self, user: str, *, take_writes: bool = False) -> None:
        """See `ZombieClient.log_in`."""
        await asyncio.to_thread(self.session.log_in, user, take_writes=take_writes)
        self._wake.set()

    def poll_soon(self) -> None:
        """See `ZombieClient.poll_soon`."""
        self.session.poll_soon()
        self._wake.set()
