"""Blocking work beside an event loop, in threads that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Does ``work`` in a thread of its own; the future has its result or its exception.

    An executor's threads are joined when the process ends: a name server that says nothing would hold a controller that
    was told to go. Whoever calls bounds how many there are.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - it is the future's
            error = caught
        with suppress(RuntimeError):  # the loop has ended: nobody is interested any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="flashcast-zombie", daemon=True).start()
    return future
