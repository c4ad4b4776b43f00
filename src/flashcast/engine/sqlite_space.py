"""One space of the embedded engine: what the event loop calls, and the thread that answers.

The event loop appends calls to an inbox and wakes the thread; whatever lies in the inbox by the time the last commit is
done becomes the next transaction, so a hundred claims cost about as many fsyncs as one. Answers come back with one
callback for the whole group. The event loop never waits for the disk.

A watch pulls: it remembers the revision it has read up to, and the thread reads the rows after it whenever something
was written, here or elsewhere. So a slow reader costs no memory, and what changed twice meanwhile is given once.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flashcast.engine.base import EngineUnavailable, Entry, checked_key, checked_value
from flashcast.engine.doorbell import Doorbell
from flashcast.engine.sqlite_file import Act, Follower, SpaceFile, Write
from flashcast.errors import EnvironmentFault, FlashcastError

GROUP_WRITES_MAX: Final = 512
"""One transaction's worth, some 10 ms; other processes get their turn after it."""
GROUP_BYTES_MAX: Final = 8 << 20
CALLS_MAX: Final = 4_096
"""Calls that may wait for a space's thread; more wait in their own tasks."""
LOOK_S: Final = 0.1
"""How often an open watch looks without having been rung: what a lost ring costs."""
LOOK_S_WITHOUT_BELL: Final = 0.02
"""Likewise, where the folder's file system has no sockets."""


@dataclass(slots=True)
class _Call:
    """Something for a space's thread: a write, a read, or a watch that wants to read on."""

    future: asyncio.Future[Any] | None = None
    write: Write | None = None
    read: Callable[[SpaceFile], Any] | None = None
    watch: _Watch | None = None


class _Watch:
    """An open watch, as its reader has it. The thread uses ``follower`` only while ``asked`` is set."""

    def __init__(self, prefix: str, ask: Callable[[_Watch], None]) -> None:
        self.follower = Follower(prefix)
        self.asked = False
        self.ended = False
        self._ask = ask
        self._fault: FlashcastError | None = None
        self._buffer: deque[Entry | None] = deque()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watch {self.follower.prefix!r} at {self.follower.cursor}{' ended' if self.ended else ''}>"

    def __aiter__(self) -> AsyncIterator[Entry | None]:
        return self

    async def __anext__(self) -> Entry | None:
        while not self._buffer:
            if self._fault is not None:
                raise self._fault
            if self.ended:
                raise StopAsyncIteration
            # What was read goes into the buffer, not to whoever waits: a reader that gives up waiting loses nothing.
            self._news.clear()
            if not self.asked:
                self.asked = True
                self._ask(self)
            await self._news.wait()
        return self._buffer.popleft()

    def take(self, batch: list[Entry | None]) -> None:
        """What the thread has read."""
        self.asked = False
        self._buffer.extend(batch)
        self._news.set()

    def end(self, fault: FlashcastError | None = None) -> None:
        """Nothing more will come."""
        self.ended = True
        self._fault = fault
        self._news.set()


class Space:
    """A KeyValue; see the module's docstring."""

    def __init__(self, folder: Path, name: str, *, synced: bool) -> None:
        self._name = name
        self._file = SpaceFile(folder / f"{name}.db", synced=synced)
        self._bell = Doorbell(folder / "watchers", name)
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(CALLS_MAX)
        self._inbox: deque[_Call] = deque()
        self._watches: dict[int, _Watch] = {}
        self._closing = False
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._over = asyncio.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        self._woken = False
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        # The thread's own.
        self._hungry: list[_Watch] = []
        self._taken: list[_Call] = []
        self._look_s = LOOK_S_WITHOUT_BELL
        self._listening = False
        self._missed = False
        self._thread = threading.Thread(target=self._run, name=f"flashcast-engine-{name}", daemon=True)

    def __repr__(self) -> str:
        watches = f"watches={len(self._watches)} idle={len(self._hungry)}"
        return f"<Space {self._name} {'closed' if self._over.is_set() else 'open'} calls={len(self._inbox)} {watches}>"

    # --- for the event loop --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Starts the thread. Raises EnvironmentFault where the file cannot be used."""
        self._thread.start()
        await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Answers what was asked, ends the watches, lets go of the file. May be called again."""
        self._closing = True
        if self._thread.ident is None:
            self._let_go()
        elif not self._over.is_set():
            self._wake()
            await self._over.wait()

    async def get(self, key: str) -> Entry | None:
        checked_key(key)
        found: Entry | None = await self._answer(_Call(read=lambda file: file.get(key)))
        return found

    async def create(self, key: str, value: bytes) -> int:
        return await self._write(Write(Act.CREATE, checked_key(key), checked_value(key, value)))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._write(Write(Act.UPDATE, checked_key(key), checked_value(key, value), revision))

    async def put(self, key: str, value: bytes) -> int:
        return await self._write(Write(Act.PUT, checked_key(key), checked_value(key, value)))

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._write(Write(Act.DELETE, checked_key(key), None, revision))

    async def entries(self, prefix: str = "") -> list[Entry]:
        _checked_prefix(prefix)
        found: list[Entry] = await self._answer(_Call(read=lambda file: file.entries(prefix)))
        return found

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[_Watch]:
        watch = _Watch(_checked_prefix(prefix), self._ask)
        self._check_open()
        self._watches[id(watch)] = watch
        try:
            yield watch
        finally:
            self._watches.pop(id(watch), None)
            watch.end()

    async def _write(self, write: Write) -> int:
        revision: int = await self._answer(_Call(write=write))
        return revision

    async def _answer(self, call: _Call) -> Any:
        async with self._room:
            self._check_open()
            call.future = self._loop.create_future()
            self._inbox.append(call)
            self._wake()
            return await call.future

    def _ask(self, watch: _Watch) -> None:
        self._inbox.append(_Call(watch=watch))
        self._wake()

    def _check_open(self) -> None:
        if self._closing or self._over.is_set():
            raise EngineUnavailable("the engine is closed")

    def _wake(self) -> None:
        # The flag is put down before the inbox is read, so a call that finds it up will be read with that.
        if not self._woken and not self._over.is_set():
            self._woken = True
            os.write(self._wake_writer, b"!")

    def _deliver(self, done: Sequence[tuple[_Call, Any]]) -> None:
        """Hands out answers; a caller that was cancelled gets none."""
        for call, answer in done:
            if call.watch is not None:
                call.watch.end(answer) if isinstance(answer, FlashcastError) else call.watch.take(answer)
            elif call.future is not None and not call.future.done():
                if isinstance(answer, FlashcastError):
                    call.future.set_exception(answer)
                else:
                    call.future.set_result(answer)

    def _finish(self) -> None:
        """The thread has ended: nobody may wait for it any more."""
        self._thread.join()
        self._let_go()
        _settle(self._opened, EngineUnavailable("the engine's thread ended while it was opening"))
        left = [call for call in (*self._taken, *self._inbox) if call.watch is None]
        self._deliver([(call, EngineUnavailable("the engine was closed before it had answered")) for call in left])
        self._inbox.clear()
        for watch in self._watches.values():
            watch.end()

    def _let_go(self) -> None:
        if not self._over.is_set():
            self._over.set()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    # --- for the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        try:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            if self._open():
                while not self._closing or self._inbox:
                    self._turn(selector)
        finally:
            # Whatever ended it, the loop must hear of it.
            selector.close()
            self._bell.close()
            self._file.close()
            self._post(self._finish)

    def _open(self) -> bool:
        fault: FlashcastError | None = None
        try:
            self._file.open()
        except FlashcastError as error:
            fault = error
        self._post(_settle, self._opened, fault)
        return fault is None

    def _turn(self, selector: selectors.BaseSelector) -> None:
        """Waits for something to do and does all of it."""
        ready = selector.select(0 if self._inbox else self._look_s if self._hungry else None)
        descriptors = {key.fd for key, _ in ready}
        if self._wake_reader in descriptors:
            os.read(self._wake_reader, 64)
        rung = bool(descriptors - {self._wake_reader})
        if rung:
            self._bell.drain()
        self._woken = False
        self._taken = self._take()
        asking = [call.watch for call in self._taken if call.watch is not None]
        if asking and not self._listening:
            self._listen(selector)
        self._read()
        wrote = self._commit()
        self._taken = []
        self._hungry = [watch for watch in self._hungry if not watch.ended]
        if self._hungry and (rung or wrote or self._missed or self._changed()):
            asking += self._hungry
            self._hungry = []
        self._feed(asking)

    def _take(self) -> list[_Call]:
        """The next group from the inbox."""
        taken: list[_Call] = []
        size = 0
        while self._inbox and len(taken) < GROUP_WRITES_MAX and size < GROUP_BYTES_MAX:
            call = self._inbox.popleft()
            taken.append(call)
            size += call.write.bytes if call.write is not None else 0
        return taken

    def _listen(self, selector: selectors.BaseSelector) -> None:
        self._listening = True
        receiver = self._bell.listen()
        if receiver is not None:
            selector.register(receiver, selectors.EVENT_READ)
            self._look_s = LOOK_S

    def _read(self) -> None:
        done: list[tuple[_Call, Any]] = []
        for call in self._taken:
            if call.read is not None:
                try:
                    done.append((call, call.read(self._file)))
                except FlashcastError as error:
                    done.append((call, error))
        if done:
            self._post(self._deliver, done)

    def _commit(self) -> bool:
        """Writes the group; whether anything was written."""
        calls = [call for call in self._taken if call.write is not None and not _given_up(call)]
        if not calls:
            return False
        answers: list[Any]
        try:
            answers = list(self._file.apply([call.write for call in calls if call.write is not None]))
        except EnvironmentFault as error:
            # One exception for each caller: a shared one would gather all their tracebacks.
            answers = [_again(error) for _ in calls]
        wrote = any(not isinstance(answer, FlashcastError) for answer in answers)
        if wrote:
            self._bell.ring()
        self._post(self._deliver, list(zip(calls, answers, strict=True)))
        return wrote

    def _changed(self) -> bool:
        try:
            return self._file.changed_elsewhere()
        except EnvironmentFault:
            return True

    def _feed(self, watches: Sequence[_Watch]) -> None:
        """Gives each what it has not seen; who has seen everything goes hungry."""
        self._missed = False
        done: list[tuple[_Call, Any]] = []
        for watch in watches:
            if watch.ended:
                continue
            try:
                batch: Any = self._file.changes(watch.follower)
            except EngineUnavailable:
                # A watch outlives this: the next look reads it.
                self._missed = True
                batch = []
            except EnvironmentFault as error:
                batch = error
            if batch:
                done.append((_Call(watch=watch), batch))
            else:
                self._hungry.append(watch)
        if done:
            self._post(self._deliver, done)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop was closed without closing the engine: there is nobody to answer.
            self._closing = True


def _checked_prefix(prefix: str) -> str:
    return checked_key(prefix) if prefix else prefix


def _settle(future: asyncio.Future[None], fault: FlashcastError | None) -> None:
    if future.done():
        return
    if fault is None:
        future.set_result(None)
    else:
        future.set_exception(fault)


def _given_up(call: _Call) -> bool:
    """Whether the caller was cancelled before its turn came: it may then be left out."""
    return call.future is not None and call.future.cancelled()


def _again(error: EnvironmentFault) -> EnvironmentFault:
    if isinstance(error, EngineUnavailable):
        return EngineUnavailable(error.message, remedy=error.remedy)
    return EnvironmentFault(error.message, remedy=error.remedy)
