"""What a fleet's engine says, as it says it: conditions to wait for, and when each change was seen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flashcast.arm.readiness import Beat
from flashcast.campaign.records import (
    CLAIMS,
    LAUNCHES,
    SHARDS,
    WORKERS,
    ClaimRecord,
    LaunchRecord,
    ShardRecord,
    read_record,
)
from flashcast.engine.base import EngineUnavailable, Entry, KeyValue
from flashcast.engine.open import open_engine

T = TypeVar("T")
DEADLINE_S = 90.0
"""For any one condition. A test that is right waits for a few seconds; other tests may be running beside it."""
RETRY_S = 0.05


@dataclass(frozen=True)
class Owned:
    """A shard's record, and when (this process's monotonic clock, seconds) it was seen."""

    at: float
    shard: int
    record: ShardRecord


@dataclass
class View:
    """Everything that was seen so far. Times are of this process's monotonic clock, in seconds."""

    launches: dict[str, LaunchRecord] = field(default_factory=dict)
    shards: dict[str, dict[int, ShardRecord]] = field(default_factory=dict)
    claims: dict[str, dict[tuple[int, int], ClaimRecord]] = field(default_factory=dict)
    beats: dict[str, Beat] = field(default_factory=dict)
    owned: list[Owned] = field(default_factory=list)
    claimed: list[tuple[float, int, int, str]] = field(default_factory=list)
    """(when, shard, chunk, worker) of every change of a claim."""
    states: list[tuple[float, LaunchRecord]] = field(default_factory=list)

    def claims_of(self, launch: str, worker: str) -> list[tuple[int, int]]:
        """The chunks that are ``worker``'s now, as (shard, chunk)."""
        return sorted(key for key, claim in self.claims.get(launch, {}).items() if claim.worker == worker)

    def shards_of(self, launch: str, worker: str) -> list[int]:
        """The shards that ``worker`` holds now."""
        return sorted(index for index, shard in self.shards.get(launch, {}).items() if shard.owner == worker)


class Observer:
    """Watches an engine from a thread of its own; a context manager. It reconnects for as long as it is open."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.view = View()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._fault: BaseException | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        stop = self._stop
        if stop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(stop.set)
        self._thread.join()

    def wait(self, condition: Callable[[View], T], what: str, check: Callable[[], None] | None = None) -> T:
        """Waits until ``condition`` holds of what was seen and returns what it gave.

        ``check`` is called now and then and raises what makes waiting useless. ``what`` is told when it never came.
        """
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while not (value := condition(self.view)):
                if self._fault is not None:
                    raise AssertionError(f"the observer broke while waiting: {what}") from self._fault
                assert time.monotonic() < deadline, f"it never came true: {what}\n{self._told()}"
                self._changed.wait(0.1)
                if check is not None:
                    check()
        return value

    def _told(self) -> str:
        seen = self.view.launches.values()
        lines = [f"launch {r.launch}: {r.state} paused={r.paused} closed={r.closed_at}" for r in seen]
        for launch, shards in self.view.shards.items():
            lines += [f"{launch} shard {index}: {record}" for index, record in sorted(shards.items())]
        for worker, beat in self.view.beats.items():
            held = {name: (h.shards, h.ready, h.quiet, h.fault) for name, h in beat.launches.items()}
            lines.append(f"worker {worker}: #{beat.sequence} {held} {beat.fault}")
        return "\n".join(lines)

    # --- on the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._observe())
        except BaseException as fault:  # noqa: BLE001 - told to whoever waits
            self._fault = fault
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _observe(self) -> None:
        self._stop = asyncio.Event()
        async with open_engine(self.address, state=Path()) as engine:
            following = [
                asyncio.create_task(self._follow(engine.durable, LAUNCHES, self._launch)),
                asyncio.create_task(self._follow(engine.durable, SHARDS, self._shard)),
                asyncio.create_task(self._follow(engine.durable, CLAIMS, self._claim)),
                asyncio.create_task(self._follow(engine.volatile, WORKERS, self._beat)),
            ]
            stopping = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([stopping, *following], return_when=asyncio.FIRST_COMPLETED)
            for task in [*following, stopping]:
                task.cancel()
            await asyncio.gather(*following, stopping, return_exceptions=True)
            for task in done - {stopping}:
                task.result()

    async def _follow(self, space: KeyValue, prefix: str, told: Callable[[Entry, float], None]) -> None:
        while True:
            try:
                async with space.watch(prefix) as watch:
                    async for entry in watch:
                        # What is deleted stays in the view as it was; a worker that leaves deletes its beat.
                        if entry is not None and (entry.value is not None or prefix == WORKERS):
                            with self._changed:
                                told(entry, time.monotonic())
                                self._changed.notify_all()
            except EngineUnavailable:
                pass
            await asyncio.sleep(RETRY_S)

    def _launch(self, entry: Entry, at: float) -> None:
        record = read_record(LaunchRecord, entry)
        self.view.launches[record.launch] = record
        self.view.states.append((at, record))

    def _shard(self, entry: Entry, at: float) -> None:
        _, launch, shard = entry.key.split(".")
        record = read_record(ShardRecord, entry)
        self.view.shards.setdefault(launch, {})[int(shard)] = record
        self.view.owned.append(Owned(at, int(shard), record))

    def _claim(self, entry: Entry, at: float) -> None:
        _, launch, shard, chunk = entry.key.split(".")
        record = read_record(ClaimRecord, entry)
        self.view.claims.setdefault(launch, {})[int(shard), int(chunk)] = record
        self.view.claimed.append((at, int(shard), int(chunk), record.worker))

    def _beat(self, entry: Entry, at: float) -> None:
        worker = entry.key.rpartition(".")[2]
        if entry.value is None:
            self.view.beats.pop(worker, None)
        else:
            self.view.beats[worker] = read_record(Beat, entry)
