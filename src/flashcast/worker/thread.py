"""A worker in a thread of this process, for a launch on one machine: `flashcast launch`, `demo`, `resume`.

The same worker as in a process of its own, on an event loop of its own; the caller goes on with blocking code and hands
coroutines over with `do`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from flashcast.engine.base import Engine
from flashcast.errors import FlashcastError
from flashcast.worker.hands import RealHands
from flashcast.worker.worker import Worker, WorkerOptions

T = TypeVar("T")


class WorkerThread:
    """See the module's docstring. `start`, any number of `do`, `stop`."""

    def __init__(self, engine: Engine, hands: RealHands, options: WorkerOptions) -> None:
        """``engine`` is not opened yet: it lives on the thread's loop."""
        self.engine = engine
        self._hands = hands
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._task: asyncio.Task[None] | None = None
        self.worker: Worker | None = None

    def __repr__(self) -> str:
        return f"<WorkerThread {self.worker!r}>"

    def start(self) -> Worker:
        """Opens the engine and starts the worker. Raises what keeps the engine from opening."""
        self._thread.start()
        try:
            self.worker = self.do(self._start())
        except BaseException:
            self._end_loop()
            raise
        return self.worker

    async def _start(self) -> Worker:
        await self.engine.__aenter__()
        worker = Worker(self.engine, self._hands, self._options)
        self._task = asyncio.create_task(worker.run(), name=worker.name)
        return worker

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` on the worker's loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def running(self) -> bool:
        """Whether the worker serves: false when it has ended or broken."""
        return self._task is not None and not self._task.done()

    @property
    def fault(self) -> FlashcastError | None:
        """What broke the worker, None while it is sound."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        error = self._task.exception()
        if error is None or isinstance(error, FlashcastError):
            return error
        fault = FlashcastError(f"the worker broke: {type(error).__name__}: {error}")
        fault.__cause__ = error
        return fault

    def stop(self) -> None:
        """Lets the worker leave in order, then closes engine and loop. Raises what broke the worker.

        Safe to call twice, and after a start that failed.
        """
        if self._loop.is_closed():
            return
        try:
            if self.worker is not None:
                self.do(self._stop())
        finally:
            self._end_loop()
            self._hands.close()

    async def _stop(self) -> None:
        assert self.worker is not None and self._task is not None
        try:
            self.worker.end()
            await self._task
        finally:
            await self.engine.close()

    def _end_loop(self) -> None:
        if self._thread.ident is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()
