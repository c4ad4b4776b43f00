"""Following a watch for as long as a worker lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flashcast.engine.base import EngineUnavailable, Entry, KeyValue
from flashcast.worker.hands import Hands

RETRY_S: Final = 0.1
"""How soon the engine is asked again after it did not answer."""


async def follow(
    hands: Hands, space: KeyValue, prefix: str, told: Callable[[Entry], object], caught_up: asyncio.Event | None = None
) -> None:
    """Calls ``told`` (a function or coroutine function) for every entry below ``prefix``, until it is cancelled.

    ``caught_up`` is set when everything that was there at first has been told.
    """
    while True:
        try:
            async with space.watch(prefix) as watch:
                async for entry in watch:
                    if entry is None:
                        if caught_up is not None:
                            caught_up.set()
                        continue
                    answer = told(entry)
                    if asyncio.iscoroutine(answer):
                        await answer
        except EngineUnavailable:
            pass  # it says so itself when it was asked for something
        await hands.sleep(RETRY_S)
