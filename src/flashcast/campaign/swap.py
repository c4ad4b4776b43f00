"""A compare-and-swap that knows in the end whether it happened.

The problem: a write that got no answer may have been made. Writing again could do a thing twice, giving up could leave
it undone. So the caller says how to tell: ``change`` gets what is there now and returns the value that should be there,
or None where it is there already. Every try names the revision it replaces, so of two tries at most one is ever made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from flashcast.engine.base import EngineUnavailable, Entry, KeyExistsError, KeyValue, RevisionConflictError
from flashcast.errors import BusyError

_PAUSE_S_FIRST: Final = 0.02
_PAUSE_S_MAX: Final = 1.0
_PATIENCE_S: Final = 15.0
"""How long a write is repeated while the engine gives no answer: three elections of a NATS stream's leader."""
_CONFLICTS_MAX: Final = 200
"""Times somebody else may be quicker. A launch's record is written a few times a second at most, by a few."""

Change = Callable[[Entry], Awaitable[bytes | None]]


class Patience:
    """Pauses between tries, each twice as long as the one before, until it has been tried for long enough."""

    def __init__(self) -> None:
        self._until_s = asyncio.get_running_loop().time() + _PATIENCE_S
        self._pause_s = _PAUSE_S_FIRST

    async def wait(self, error: EngineUnavailable) -> None:
        """Waits before the next try. Raises ``error`` when there shall be none."""
        if asyncio.get_running_loop().time() >= self._until_s:
            raise error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _PAUSE_S_MAX)


async def swap(space: KeyValue, entry: Entry, change: Change) -> Entry:
    """Replaces ``entry``, a key as it was read, by what ``change`` makes of it; returns what is there then.

    ``change`` is called again with what others wrote in between. What it raises ends the swap, `EngineUnavailable`
    excepted. Raises EngineUnavailable where the engine stays away: whether the write happened is unknown then.
    """
    patience = Patience()
    for _ in range(_CONFLICTS_MAX):
        try:
            value = await change(entry)
            if value is None:
                return entry
            return Entry(entry.key, value, await space.update(entry.key, value, entry.revision))
        except RevisionConflictError:
            entry = await _reread(space, entry, patience, later=True)
        except EngineUnavailable as error:
            await patience.wait(error)
            entry = await _reread(space, entry, patience, later=False)
    raise BusyError(f"{entry.key} was changed by others {_CONFLICTS_MAX} times in a row", retryable=True)


async def _reread(space: KeyValue, known: Entry, patience: Patience, *, later: bool) -> Entry:
    """The key as it is now. A read may lag, so it is repeated until it shows a ``later`` revision than the known."""
    while True:
        try:
            entry = await space.get(known.key)
            if entry is not None and (entry.revision > known.revision or not later):
                return entry if entry.revision >= known.revision else known
            await patience.wait(EngineUnavailable(f"reads of {known.key} lag behind its writes"))
        except EngineUnavailable as error:
            await patience.wait(error)


async def first_come(space: KeyValue, key: str, value: bytes) -> Entry:
    """Creates ``key``, unless somebody was first; returns what is there. Raises EngineUnavailable as `swap` does."""
    patience = Patience()
    while True:
        try:
            return Entry(key, value, await space.create(key, value))
        except KeyExistsError as error:
            if error.entry is not None:
                return error.entry
            await patience.wait(EngineUnavailable(f"{key} comes and goes"))
        except EngineUnavailable as error:
            await patience.wait(error)
