"""What a worker needs of the world besides its engine: time, files, connections.

The control code awaits these and the engine, and nothing else, so that a simulation can run it on a virtual clock with
an in-memory network, and stop, delay or kill it at any of these points.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar

from flashcast.arm.destination import destination, rehearsed
from flashcast.arm.target import target_for
from flashcast.arm.warm import Crew, build_crew
from flashcast.audience.fetch import SnapshotSource
from flashcast.audience.manifest import Manifest
from flashcast.audience.places import Place, place
from flashcast.audience.shards import Shard
from flashcast.campaign.records import SnapshotRef
from flashcast.clock import Clock, SystemClock
from flashcast.model import Provider, RequestTemplate
from flashcast.wire.warm import compile_kernels

T = TypeVar("T")
THREADS: Final = 4
"""Shards fetched at once, outcome files written at once: more would only contend for the disk."""


class Source(Protocol):
    """A sealed snapshot, wherever it lies. Methods block."""

    def manifest(self) -> Manifest: ...
    def shard(self, index: int) -> Shard: ...
    @property
    def templates(self) -> Mapping[Provider, Sequence[RequestTemplate]]: ...


class Hands(Protocol):
    """See the module's docstring."""

    @property
    def clock(self) -> Clock: ...

    @property
    def keeps_fresh(self) -> bool:
        """Whether a thread of the run's own may renew credentials."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...

    async def call(self, function: Callable[[], T]) -> T:
        """Runs ``function``, which may block, without holding up the worker."""
        ...

    async def wait_for(self, event: asyncio.Event, timeout_s: float) -> None:
        """Waits for ``event``, at most ``timeout_s``."""
        ...

    def from_thread(self, callback: Callable[[], None]) -> Callable[[], None]:
        """A function that any thread may call to have ``callback`` run by the worker's loop."""
        ...

    def source(self, ref: SnapshotRef) -> Source:
        """The snapshot of a launch. Blocks."""
        ...

    def outcomes(self, ref: SnapshotRef, launch: str) -> Place:
        """Where the outcome files of a launch go. Blocks."""
        ...

    def templates(self, source: Source, to: str) -> Mapping[Provider, Sequence[RequestTemplate]]:
        """The messages as they go to destination ``to``. Blocks."""
        ...

    def crew(self, provider: Provider, to: str, rows: int, pace_per_s: float | None) -> Crew:
        """Lanes to a provider, opened and not waited for. Blocks."""
        ...


class RealHands:
    """The machine's own clock, threads, files and sockets."""

    def __init__(
        self, cache: Path, *, lanes: int | None = None, clock: Clock | None = None, outcomes: Path | None = None
    ) -> None:
        """``cache`` keeps what is fetched from object storage; ``lanes`` overrides the plan's.

        ``outcomes`` is a folder for outcome files in the place of the one beside the snapshot.
        """
        self._outcomes = outcomes
        self._clock = clock or SystemClock()
        self._cache = cache
        self._lanes = lanes
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
        self._kernels = threading.Lock()

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def keeps_fresh(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def wait_for(self, event: asyncio.Event, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def from_thread(self, callback: Callable[[], None]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(callback)
            except RuntimeError:
                pass  # the loop has ended; a lane's last word comes too late

        return call

    def source(self, ref: SnapshotRef) -> Source:
        return SnapshotSource(ref.url, ref.digest, self._cache)

    def outcomes(self, ref: SnapshotRef, launch: str) -> Place:
        return place(ref.url).beside(".outcomes").child(launch) if self._outcomes is None else place(self._outcomes)

    def templates(self, source: Source, to: str) -> Mapping[Provider, Sequence[RequestTemplate]]:
        found = source.templates
        return {p: rehearsed(tuple(t)) for p, t in found.items()} if destination(to).rehearsal else found

    def crew(self, provider: Provider, to: str, rows: int, pace_per_s: float | None) -> Crew:
        config = destination(to).config
        with self._kernels:
            compile_kernels()
        return build_crew(
            target_for(provider, config, self._clock), rows, self._clock,
            pace_per_s=pace_per_s, lanes=self._lanes or config.lanes,
        )  # fmt: skip

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True)
