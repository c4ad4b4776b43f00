"""An engine in memory, with seeded faults: what a real one may do to its clients at worst, done often.

    MemorySpace          the truth: both spaces, in one place, never wrong
    MemoryEngine         one client of it; between the two lies a network that delays, loses and repeats

A call is two journeys, there and back. Either may be lost, and then the client is told `EngineUnavailable`: a write
whose way there was lost has not happened, one whose way back was lost has. A request may also come late: after its
client was told that there was no answer. Journeys belong to nobody: the client may be cancelled, stopped or killed
meanwhile, and its request lands all the same.

Nothing here knows the time or a thread; what waits, waits in ``sleep`` for as long as ``rng`` drew. On a loop with
virtual time the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from flashcast.engine.base import (
    EngineUnavailable,
    Entry,
    KeyExistsError,
    RevisionConflictError,
    checked_key,
    checked_value,
    is_below,
)
from flashcast.errors import FlashcastError

T = TypeVar("T")

HISTORY_MAX: Final = 4_096
"""Writes remembered one by one; a watch that is further behind is given the latest of each key."""
Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad the network of one client is. Spans are seconds, from and to; the rest are probabilities."""

    request_s: tuple[float, float] = (0.0, 0.0)
    reply_s: tuple[float, float] = (0.0, 0.0)
    request_lost: float = 0.0
    reply_lost: float = 0.0
    late: float = 0.0
    """Of a request: it lands after its client was told EngineUnavailable."""
    late_s: tuple[float, float] = (0.0, 1.0)
    """How long after that."""
    patience_s: tuple[float, float] = (0.05, 1.0)
    """How long a client waits for an answer that does not come."""
    hung: float = 0.5
    """Of a journey that meets a partition: it waits for the end of it, where others are lost."""
    event_s: tuple[float, float] = (0.0, 0.0)
    """Between a change and its event. The order of events stays."""
    event_repeated: float = 0.0
    event_merged: float = 0.0
    """Of what a watch reads at once: only the latest of each key."""
    marker_late: float = 0.0
    """Of a watch that has been given what is there: it is given changes before it is told that it has caught up."""

    @classmethod
    def none(cls) -> Faults:
        """An ideal engine: every call is answered in the next turns of the loop."""
        return cls()

    @classmethod
    def some(cls) -> Faults:
        """A bad day: about one call in ten fails, and events come as they like."""
        return cls(
            request_s=(0.0001, 0.02),
            reply_s=(0.0001, 0.02),
            request_lost=0.05,
            reply_lost=0.05,
            event_s=(0.0001, 0.05),
            event_repeated=0.1,
            event_merged=0.5,
            marker_late=0.3,
        )


class _Table:
    """One space. Every method is one indivisible step."""

    def __init__(self) -> None:
        self.revision = 0
        self.latest: dict[str, Entry] = {}
        """Deleted keys too, at the revision that deleted them."""
        self.history: deque[Entry] = deque(maxlen=HISTORY_MAX)
        self.listeners: dict[int, asyncio.Event] = {}

    def get(self, key: str) -> Entry | None:
        entry = self.latest.get(key)
        return entry if entry is not None and entry.value is not None else None

    def create(self, key: str, value: bytes) -> int:
        present = self.get(key)
        if present is not None:
            raise KeyExistsError(key, present)
        return self._write(key, value)

    def update(self, key: str, value: bytes, revision: int) -> int:
        present = self.get(key)
        if present is None or present.revision != revision:
            raise RevisionConflictError(key, revision)
        return self._write(key, value)

    def put(self, key: str, value: bytes) -> int:
        return self._write(key, value)

    def delete(self, key: str, revision: int | None) -> None:
        present = self.get(key)
        if present is None:
            return
        if revision is not None and present.revision != revision:
            raise RevisionConflictError(key, revision)
        self._write(key, None)

    def entries(self, prefix: str) -> list[Entry]:
        below = (entry for key, entry in sorted(self.latest.items()) if is_below(key, prefix))
        return [entry for entry in below if entry.value is not None]

    def changes(self, after: int, prefix: str, *, merged: bool) -> list[Entry]:
        """What was written after a revision, in order; every write where it is still known, or the latest of each."""
        known = not merged and self.history and self.history[0].revision <= after + 1
        source = self.history if known else sorted(self.latest.values(), key=lambda entry: entry.revision)
        return [entry for entry in source if entry.revision > after and is_below(entry.key, prefix)]

    def clear(self) -> None:
        self.latest.clear()
        self.history.clear()

    def _write(self, key: str, value: bytes | None) -> int:
        self.revision += 1
        entry = Entry(key, value, self.revision)
        self.latest[key] = entry
        self.history.append(entry)
        for listener in self.listeners.values():
            listener.set()
        return self.revision


class MemorySpace:
    """The truth that every `MemoryEngine` on it shares."""

    def __init__(self) -> None:
        self.durable = _Table()
        self.volatile = _Table()
        self.context = contextvars.copy_context()
        """What journeys run in: the context of whoever made the space, and of no client."""
        self.numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<MemorySpace durable={len(self.durable.latest)} volatile={len(self.volatile.latest)}>"

    def restart_volatile(self) -> None:
        """Empties the volatile space without a word, as the restart of a server that kept it in memory does."""
        self.volatile.clear()


class MemoryEngine:
    """One client of ``space``. An Engine."""

    def __init__(
        self,
        space: MemorySpace,
        faults: Faults | None = None,
        rng: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.space = space
        self.faults = faults or Faults.none()
        """May be replaced at any time."""
        self.rng = rng or random.Random(0)
        self.sleep = sleep
        self.closed = False
        self.durable = _MemoryKeyValue(self, space.durable)
        self.volatile = _MemoryKeyValue(self, space.volatile)
        self.watches: dict[int, _MemoryWatch] = {}
        self._connected = asyncio.Event()
        self._connected.set()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._journeys: dict[int, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else "partitioned" if self.partitioned else "open"
        return f"<MemoryEngine {state} calls={len(self._waiting)} watches={len(self.watches)}>"

    @property
    def address(self) -> str:
        return "memory"

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    async def __aenter__(self) -> MemoryEngine:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends watches and calls. What is under way lands all the same."""
        self.closed = True
        self._connected.set()
        for watch in self.watches.values():
            watch.end()
        for future in self._waiting.values():
            _answer(future, EngineUnavailable("the engine was closed before it had answered"))

    # --- faults --------------------------------------------------------------------------------------------

    @property
    def partitioned(self) -> bool:
        """Whether this client is cut off."""
        return not self._connected.is_set()

    def partition(self) -> None:
        """Cuts this client off: calls and answers are lost or wait, watches stall."""
        if not self.closed:
            self._connected.clear()

    def heal(self) -> None:
        """Ends the partition: what waited goes on, watches catch up."""
        self._connected.set()

    async def connected(self) -> None:
        """Waits until there is no partition, or the engine is closed."""
        while self.partitioned:
            await self._connected.wait()

    async def wait(self, span_s: tuple[float, float]) -> None:
        """Waits for a time drawn from ``span_s``; for one turn of the loop where that is nothing."""
        await self.sleep(self.rng.uniform(*span_s) if span_s[1] > 0 else 0)

    def check_open(self) -> None:
        """Raises EngineUnavailable once the engine is closed."""
        if self.closed:
            raise EngineUnavailable("the engine is closed")

    # --- calls ---------------------------------------------------------------------------------------------

    async def call(self, work: Callable[[], T]) -> T:
        """Does ``work`` on the truth, and brings its result or error back. Or does not."""
        self.check_open()
        number = next(self.space.numbers)
        loop = asyncio.get_running_loop()
        future = self._waiting[number] = loop.create_future()
        journey = self._journeys[number] = loop.create_task(
            self._journey(work, future), name=f"journey {number}", context=self.space.context
        )
        journey.add_done_callback(lambda _: self._journeys.pop(number, None))
        try:
            # An error comes as a result too: a client that was killed meanwhile would leave an exception unheard.
            outcome = await future
        finally:
            self._waiting.pop(number, None)
        if isinstance(outcome, FlashcastError):
            raise outcome
        answer: T = outcome
        return answer

    async def _journey(self, work: Callable[[], object], future: asyncio.Future[Any]) -> None:
        faults = self.faults
        if await self._is_lost(faults.request_s, faults.request_lost):
            await self._give_up(future)
            return
        if self.rng.random() < faults.late:
            await self._give_up(future)
            await self.wait(faults.late_s)
        outcome: object
        try:
            outcome = work()
        except FlashcastError as error:
            outcome = error
        if await self._is_lost(faults.reply_s, faults.reply_lost):
            await self._give_up(future)
        else:
            _answer(future, outcome)

    async def _is_lost(self, span_s: tuple[float, float], share: float) -> bool:
        """One way: takes its time, and may not arrive."""
        lost = self.rng.random() < share
        hung = self.rng.random() < self.faults.hung
        await self.wait(span_s)
        if self.partitioned and not hung:
            return True
        await self.connected()
        return lost

    async def _give_up(self, future: asyncio.Future[Any]) -> None:
        """The client's patience ends."""
        await self.wait(self.faults.patience_s)
        _answer(future, EngineUnavailable("the engine did not answer"))


class _MemoryKeyValue:
    """One space as one client has it. A KeyValue."""

    def __init__(self, engine: MemoryEngine, table: _Table) -> None:
        self._engine = engine
        self._table = table

    async def get(self, key: str) -> Entry | None:
        checked_key(key)
        return await self._engine.call(lambda: self._table.get(key))

    async def create(self, key: str, value: bytes) -> int:
        checked_value(checked_key(key), value)
        return await self._engine.call(lambda: self._table.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        checked_value(checked_key(key), value)
        return await self._engine.call(lambda: self._table.update(key, value, revision))

    async def put(self, key: str, value: bytes) -> int:
        checked_value(checked_key(key), value)
        return await self._engine.call(lambda: self._table.put(key, value))

    async def delete(self, key: str, revision: int | None = None) -> None:
        checked_key(key)
        await self._engine.call(lambda: self._table.delete(key, revision))

    async def entries(self, prefix: str = "") -> list[Entry]:
        _checked_prefix(prefix)
        return await self._engine.call(lambda: self._table.entries(prefix))

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[_MemoryWatch]:
        watch = _MemoryWatch(self._engine, self._table, _checked_prefix(prefix))
        # Opening one takes an answer, like any call.
        await self._engine.call(watch.start)
        self._engine.check_open()
        try:
            yield watch
        finally:
            watch.end()


class _MemoryWatch:
    """An open watch: reads the truth up to its present end, whenever that has moved and the network lets it."""

    def __init__(self, engine: MemoryEngine, table: _Table, prefix: str) -> None:
        self._engine = engine
        self._table = table
        self._prefix = prefix
        self._number = next(engine.space.numbers)
        self._cursor: int | None = None
        self._caught_up = False
        self._ended = False
        self._buffer: deque[Entry | None] = deque()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MemoryWatch {self._prefix!r} at {self._cursor}{' ended' if self._ended else ''}>"

    def start(self) -> None:
        """From now on changes are heard."""
        if not self._ended and not self._engine.closed:
            self._table.listeners[self._number] = self._news
            self._engine.watches[self._number] = self

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._table.listeners.pop(self._number, None)
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Entry | None]:
        return self

    async def __anext__(self) -> Entry | None:
        while not self._buffer and not self._ended:
            if self._caught_up and self._table.revision == self._cursor:
                self._news.clear()
                await self._news.wait()
                continue
            await self._engine.wait(self._engine.faults.event_s)
            await self._engine.connected()
            # Reading is one step: whoever gives up waiting before it has lost nothing.
            if not self._ended:
                self._read()
        if not self._buffer:
            raise StopAsyncIteration
        return self._buffer.popleft()

    def _read(self) -> None:
        faults, rng = self._engine.faults, self._engine.rng
        found: list[Entry]
        if self._cursor is None:
            found = sorted(self._table.entries(self._prefix), key=lambda entry: entry.revision)
        else:
            merged = rng.random() < faults.event_merged
            found = self._table.changes(self._cursor, self._prefix, merged=merged)
        self._cursor = self._table.revision
        for entry in found:
            self._buffer.append(entry)
            if rng.random() < faults.event_repeated:
                self._buffer.append(entry)
        if not self._caught_up and rng.random() >= faults.marker_late:
            self._caught_up = True
            self._buffer.append(None)


def _checked_prefix(prefix: str) -> str:
    return checked_key(prefix) if prefix else prefix


def _answer(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)
