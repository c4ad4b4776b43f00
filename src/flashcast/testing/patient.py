"""A client's part of the bargain: what to do when the engine did not answer, so that it looks as if it always did.

A write without an answer is repeated, and what the repetition says is read with that in mind:

    create   finds the key with the very value: it was ours
    update   conflicts, and the key has the very value: it was ours
    put, delete, get, entries, watch   are simply repeated

So values must tell who wrote them. And an update that another client has overwritten since looks like one that never
happened: who must know writes it into the value, as a launch's record does with its trail.

This holds as long as no write lands after its client was told that there was no answer. Where one may (`Faults.late`),
decide by `create` and by `update` alone: a late one of these finds that its time has passed, unless it had no rival.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

from flashcast.engine.base import (
    Engine,
    EngineUnavailable,
    Entry,
    KeyExistsError,
    KeyValue,
    RevisionConflictError,
    Watch,
)

T = TypeVar("T")

TRIES_MAX: Final = 200
"""Where half of all tries fail, one call in 10^60 needs more."""
PAUSE_S: Final = 0.001


async def insist(attempt: Callable[[bool], Awaitable[T]]) -> T:
    """Repeats ``attempt``, telling it whether an earlier try may have done it. Raises EngineUnavailable in the end."""
    for number in range(TRIES_MAX):
        try:
            return await attempt(number > 0)
        except EngineUnavailable:
            if number == TRIES_MAX - 1:
                raise
            await asyncio.sleep(PAUSE_S)
    raise AssertionError("not reached")


async def create_or_mine(kv: KeyValue, key: str, value: bytes) -> tuple[bool, Entry | None]:
    """Creates the key, through every EngineUnavailable: whether it was us, and what is there (None: removed since).

    ``value`` must be one that nobody else writes.
    """

    async def attempt(_repeated: bool) -> tuple[bool, Entry | None]:
        try:
            return True, Entry(key, value, await kv.create(key, value))
        except KeyExistsError as error:
            return error.entry is not None and error.entry.value == value, error.entry

    return await insist(attempt)


class PatientKeyValue:
    """A KeyValue that raises EngineUnavailable only when nothing helps."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    async def get(self, key: str) -> Entry | None:
        return await insist(lambda _: self._kv.get(key))

    async def create(self, key: str, value: bytes) -> int:
        async def attempt(repeated: bool) -> int:
            try:
                return await self._kv.create(key, value)
            except KeyExistsError as error:
                if repeated and error.entry is not None and error.entry.value == value:
                    return error.entry.revision
                raise

        return await insist(attempt)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        async def attempt(repeated: bool) -> int:
            try:
                return await self._kv.update(key, value, revision)
            except RevisionConflictError:
                present = await self._kv.get(key) if repeated else None
                if present is not None and present.value == value:
                    return present.revision
                raise

        return await insist(attempt)

    async def put(self, key: str, value: bytes) -> int:
        return await insist(lambda _: self._kv.put(key, value))

    async def delete(self, key: str, revision: int | None = None) -> None:
        await insist(lambda _: self._kv.delete(key, revision))

    async def entries(self, prefix: str = "") -> list[Entry]:
        return await insist(lambda _: self._kv.entries(prefix))

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        async def attempt(_repeated: bool) -> Watch:
            return await stack.enter_async_context(self._kv.watch(prefix))

        async with AsyncExitStack() as stack:
            yield await insist(attempt)


class PatientEngine:
    """An Engine around another one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.durable = PatientKeyValue(engine.durable)
        self.volatile = PatientKeyValue(engine.volatile)

    def __repr__(self) -> str:
        return f"<PatientEngine of {self._engine!r}>"

    @property
    def address(self) -> str:
        return self._engine.address

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._engine.warnings

    async def close(self) -> None:
        await self._engine.close()

    async def __aenter__(self) -> PatientEngine:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._engine.__aexit__(kind, error, trace)
