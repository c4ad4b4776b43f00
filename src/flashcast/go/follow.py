"""A launch seen from outside: its record and its workers' beats, brought together from two watches.

A worker's silence is measured on our own clock, from the arrival of its last beat. Only for beats that were there
before us the worker's clock has to do, until the next one comes a fifth of a second later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from flashcast.arm.readiness import LEASE_S, Beat, Holding, Total, total
from flashcast.campaign.lookup import read_sound
from flashcast.campaign.records import WORKERS, LaunchRecord, launch_key, read_record
from flashcast.clock import Clock, SystemClock
from flashcast.engine.base import Engine, EngineUnavailable, Entry
from flashcast.errors import InputError
from flashcast.limits import DISPLAY_HZ

HEAR_S: Final = 0.6
"""Three beats: who was not heard in that time is not there, or about to lose its lease."""
HEARTBEATS_MAX: Final = 16
"""Arrivals remembered of each worker: three seconds' worth tells how far its clock is off."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker's latest beat, how long ago it came (s), and whether the worker has kept its lease."""

    beat: Beat
    age_s: float
    alive: bool
    heartbeats: tuple[tuple[float, float], ...] = ()
    """Those that came while we watched, as (written, came): Unix time at the worker, Unix time here."""

    @property
    def skew_s(self) -> float | None:
        """The worker's clock ahead of ours, less what a beat takes to arrive; None until one came."""
        return max((written - came for written, came in self.heartbeats), default=None)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One launch at one moment. ``heard`` are all workers, also those that hold nothing of it, by id."""

    record: LaunchRecord
    heard: tuple[Heard, ...]
    at: float
    """Unix time of the observer."""

    @property
    def total(self) -> Total:
        """The launch over the workers that are alive: what a silent one held is counted where it is taken over."""
        return total(self.record.launch, (one.beat for one in self.heard if one.alive))

    @property
    def holdings(self) -> dict[str, Holding]:
        """What the workers that are alive hold of it, by worker."""
        name = self.record.launch
        return {
            one.beat.worker: one.beat.launches[name] for one in self.heard if one.alive and name in one.beat.launches
        }


class Fleet:
    """The workers' beats as they come in. ``launch`` is one whose holdings are remembered when a worker drops them."""

    def __init__(self, clock: Clock, launch: str | None = None) -> None:
        self._clock = clock
        self._launch = launch
        self.dropped: dict[str, Holding] = {}
        """What workers that live on told last of the launch, by worker."""
        self._beats: dict[str, tuple[Beat, int]] = {}
        self._heartbeats: dict[str, deque[tuple[float, float]]] = {}
        self.caught_up = asyncio.Event()

    def take(self, entry: Entry | None) -> None:
        """One entry of the watch on `workers`. A beat that cannot be read is left out: its worker counts as silent."""
        if entry is None:
            self.caught_up.set()
            return
        worker = entry.key.removeprefix(f"{WORKERS}.")
        if entry.value is None:
            self._beats.pop(worker, None)
            return
        try:
            beat = read_record(Beat, entry)
        except ValidationError:
            return
        known, now_ns, now = self._beats.get(worker), self._clock.monotonic_ns(), self._clock.time()
        if known is not None and (known[0].pid, known[0].sequence) == (beat.pid, beat.sequence):
            return  # given twice
        if self._launch in beat.launches:
            self.dropped.pop(worker, None)
        elif known is not None and known[0].pid == beat.pid and self._launch in known[0].launches:
            assert self._launch is not None
            self.dropped[worker] = known[0].launches[self._launch]
        if self.caught_up.is_set():
            self._heartbeats.setdefault(worker, deque(maxlen=HEARTBEATS_MAX)).append((beat.at, now))
            self._beats[worker] = beat, now_ns
        else:
            self._beats[worker] = beat, now_ns - max(0, int((now - beat.at) * 1e9))

    def heard(self) -> tuple[Heard, ...]:
        """Every worker, by id."""
        now_ns = self._clock.monotonic_ns()
        ages = {worker: max(0.0, (now_ns - came_ns) / 1e9) for worker, (_, came_ns) in self._beats.items()}
        return tuple(
            Heard(beat, ages[worker], ages[worker] <= LEASE_S, tuple(self._heartbeats.get(worker, ())))
            for worker, (beat, _) in sorted(self._beats.items())
        )


class Follower:
    """An async iterator of sightings, at most `DISPLAY_HZ` a second, and one at least twice a second."""

    def __init__(self, engine: Engine, launch: str, clock: Clock) -> None:
        self._engine = engine
        self._launch = launch
        self._clock = clock
        self._fleet = Fleet(clock, launch)
        self._record: LaunchRecord | None = None
        self._record_read = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._next_s = 0.0

    def start(self) -> None:
        """Opens the watches."""
        self._tasks = [asyncio.create_task(work) for work in (self._watch_launch(), self._watch_workers())]

    async def stop(self) -> None:
        """Closes them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Sighting:
        """The launch as it is now. Raises InputError where there is no such launch, and what the watches raise."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        await self._while_watching(self._fleet.caught_up.wait())
        await self._while_watching(self._record_read.wait())
        await self._while_watching(self._a_change())
        self._changed.clear()
        self._next_s = loop.time() + 1 / DISPLAY_HZ
        await self._why_dropped()
        if self._record is None:
            raise InputError(f"there is no launch {self._launch} in {self._engine.address}")
        return Sighting(self._record, tuple(map(self._as_it_ended, self._fleet.heard())), self._clock.time())

    async def _why_dropped(self) -> None:
        """A worker drops a launch that has ended, and its counts stand; or its shards are others' now, who count them.

        The two watches are not in step, so a worker may be heard to drop a launch before that is heard to end: the
        record tells, for it was written first.
        """
        if not self._fleet.dropped or (self._record is not None and self._record.ended):
            return
        try:
            entry = await self._engine.durable.get(launch_key(self._launch))
        except EngineUnavailable:
            return  # not known yet: what was told last stands
        if entry is not None:
            self._record = read_sound(LaunchRecord, entry, self._engine)
        if self._record is None or not self._record.ended:
            self._fleet.dropped.clear()

    def _as_it_ended(self, one: Heard) -> Heard:
        """The worker with what it held of the launch when that ended."""
        held = self._fleet.dropped.get(one.beat.worker)
        if held is None:
            return one
        launches = {**one.beat.launches, self._launch: held}
        return replace(one, beat=one.beat.model_copy(update={"launches": launches}))

    async def _a_change(self) -> None:
        """Until something changed, or long enough that a worker's silence shows."""
        try:
            await asyncio.wait_for(self._changed.wait(), LEASE_S / 2)
        except TimeoutError:
            pass

    async def _while_watching(self, work: Coroutine[Any, Any, Any]) -> None:
        """Awaits ``work``; a watch that fails ends it with its error."""
        waiting = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        for task in done - {waiting}:
            await task

    async def _watch_launch(self) -> None:
        async with self._engine.durable.watch(launch_key(self._launch)) as watch:
            async for entry in watch:
                if entry is None:
                    self._record_read.set()
                else:
                    self._record = read_sound(LaunchRecord, entry, self._engine) if entry.value is not None else None
                self._changed.set()

    async def _watch_workers(self) -> None:
        async with self._engine.volatile.watch(WORKERS) as watch:
            async for entry in watch:
                self._fleet.take(entry)
                self._changed.set()


@asynccontextmanager
async def following(engine: Engine, launch: str, clock: Clock | None = None) -> AsyncIterator[Follower]:
    """Follows the launch of that id for as long as the block lasts."""
    follower = Follower(engine, launch, clock or SystemClock())
    follower.start()
    try:
        yield follower
    finally:
        await follower.stop()


async def hear(
    engine: Engine, clock: Clock | None = None, *, beats: int = 1, patience_s: float = HEAR_S
) -> tuple[Heard, ...]:
    """Every worker that has left a beat, by id; listens until each was heard ``beats`` times or the patience is over.

    So who lives is told by our own clock, whatever theirs say, and how far theirs are off is known.
    """
    fleet = Fleet(clock or SystemClock())
    try:
        async with asyncio.timeout(patience_s), engine.volatile.watch(WORKERS) as watch:
            async for entry in watch:
                fleet.take(entry)
                if fleet.caught_up.is_set() and all(len(one.heartbeats) >= beats for one in fleet.heard()):
                    break
    except TimeoutError:
        pass
    return tuple(replace(one, alive=one.alive and bool(one.heartbeats)) for one in fleet.heard())


__all__ = ["Follower", "Heard", "Sighting", "following", "hear"]
