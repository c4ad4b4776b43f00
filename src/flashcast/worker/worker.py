"""A worker: it registers by its heartbeat, serves every launch that is arming, armed or live, and leaves in order.

    run:   heartbeat 5 Hz | watch of launches -> one `LaunchWork` each | watch of the other workers' heartbeats
    end:   take no more shards; finish what is claimed; hand the rest back; write what is known; delete the heartbeat

There is no leader: every worker sees the same keys and decides alike (arm/share.py); where two act at once, the
engine's compare-and-swap lets one of them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from flashcast import __version__
from flashcast.arm.readiness import BEATS_HZ, LEASE_S, Beat
from flashcast.campaign.lifecycle import HELD
from flashcast.campaign.records import LAUNCHES, WORKERS, LaunchRecord, launch_key, read_record, worker_key
from flashcast.campaign.store import Operator, Store
from flashcast.engine.base import Engine, EngineUnavailable, Entry
from flashcast.errors import FlashcastError
from flashcast.limits import WORKER_DEVICES_DEFAULT
from flashcast.worker.follow import follow
from flashcast.worker.hands import Hands
from flashcast.worker.late import LateWords
from flashcast.worker.launch_work import LaunchWork
from flashcast.worker.members import Members

FENCE_S: Final = LEASE_S * 0.9
"""A worker stops sending this long after its last heartbeat that was heard: before the others call it dead."""


@dataclass(frozen=True)
class WorkerOptions:
    """``name`` is unique to the process. ``launches`` limits it to some; None serves all."""

    name: str
    host: str
    state: Path
    devices_max: int = WORKER_DEVICES_DEFAULT
    launches: frozenset[str] | None = None
    pauses: bool = True
    """A reason that stops a launch pauses it for everybody, rather than ending this worker's part of it."""
    keep: bool = False
    """Whoever runs the worker closes connections and journal, and may read them afterwards."""


class Worker:
    """See the module's docstring. `run` once; `end` from the same loop."""

    def __init__(self, engine: Engine, hands: Hands, options: WorkerOptions) -> None:
        self.engine = engine
        self.hands = hands
        self.options = options
        self.name = options.name
        self.members = Members(self.name, hands.clock.monotonic_ns())
        self.store = Store(engine, Operator(self.name, options.host), hands.clock)
        self.works: dict[str, LaunchWork] = {}
        self.late = LateWords(self)
        self.draining = False
        self.fault = ""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beat_due = asyncio.Event()
        self._ending = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._sequence = 0
        self._started_ns = hands.clock.monotonic_ns()
        self._lease_ns = 0
        self._unheard = 0
        """Heartbeats written since the last one that came back."""
        self._refused = False
        """The engine did not take the last heartbeat."""
        self.lapses = 0
        """How often the lease ran out: since the first time others may have taken what is held here."""
        self._written_ns: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Worker {self.name}, {len(self.works)} launches{', draining' if self.draining else ''}>"

    # --- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves until `end` was called and everything is handed over. Raises what no retry can mend."""
        # The first heartbeat before anything else: whoever counts the workers must not miss one that takes shards.
        async with asyncio.TaskGroup() as group:
            self._group = group
            following = [
                group.create_task(self._beating(), name=f"{self.name} beats"),
                group.create_task(
                    follow(self.hands, self.engine.volatile, WORKERS, self._heard), name=f"{self.name} members"
                ),
                group.create_task(
                    follow(self.hands, self.engine.durable, LAUNCHES, self._told), name=f"{self.name} launches"
                ),
                group.create_task(self.late.run(), name=f"{self.name} late words"),
            ]
            await self._ending.wait()
            for work in list(self._tasks.values()):
                await work
            for task in following:
                task.cancel()
        try:
            await self.engine.volatile.delete(worker_key(self.name))
        except EngineUnavailable:
            pass  # the others notice by the silence

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of this worker's. What it raises without being caught is a mistake of ours, and ends the worker.

        As a crash would: its heartbeats cease and others take over. A worker that beat on with a dead task would hold
        its shards for good.
        """
        assert self._group is not None
        return self._group.create_task(work, name=f"{self.name} {name}")

    def end(self) -> None:
        """Begins to leave: shards are handed over, what is claimed is finished."""
        self.draining = True
        self._beat_due.set()
        for work in self.works.values():
            work.changed.set()
        self._ending.set()

    def soon(self) -> None:
        """Makes the next heartbeat go out at once: readiness has changed."""
        self._beat_due.set()

    @property
    def lease_ns(self) -> int:
        """Until when this worker may send, on its monotonic clock."""
        return self._lease_ns

    @property
    def engine_away_s(self) -> float | None:
        """For how long the engine has been out of reach: since the last heartbeat that came back. None where it is not.

        It is when the lease has run out by it. A process that was stopped itself has missed heartbeats too, and has not
        written any meanwhile: that is not the engine's doing.
        """
        heard_ns = self._lease_ns - int(FENCE_S * 1e9) if self._lease_ns else self._started_ns
        since_s = (self.hands.clock.monotonic_ns() - heard_ns) / 1e9
        lost = since_s >= FENCE_S and (self._refused or self._unheard >= _UNHEARD_MAX)
        return since_s if lost else None

    # --- heartbeats --------------------------------------------------------------------------------------

    async def _beating(self) -> None:
        while True:
            self._beat_due.clear()
            written_ns = self.hands.clock.monotonic_ns()
            beat = self.beat()
            self._written_ns[beat.sequence] = written_ns
            self._unheard += 1
            while len(self._written_ns) > _BEATS_KEPT:
                del self._written_ns[min(self._written_ns)]
            try:
                await self.engine.volatile.put(worker_key(self.name), beat.to_bytes())
                self._refused = False
            except EngineUnavailable:
                self._refused = True
            left_s = 1 / BEATS_HZ - (self.hands.clock.monotonic_ns() - written_ns) / 1e9
            await self.hands.wait_for(self._beat_due, max(0.01, left_s))

    def beat(self, *, count: bool = True) -> Beat:
        """This worker now; ``count`` where it is a heartbeat to be written."""
        self._sequence += count
        return Beat(
            worker=self.name,
            host=self.options.host,
            pid=os.getpid(),
            version=__version__,
            at=self.hands.clock.time(),
            sequence=self._sequence,
            devices_max=self.options.devices_max,
            disk_free_bytes=_free_bytes(self.options.state),
            draining=self.draining,
            launches={name: work.holding() for name, work in self.works.items()},
            fault=self.fault,
        )

    async def _heard(self, entry: Entry) -> None:
        worker = entry.key.rpartition(".")[2]
        now_ns = self.hands.clock.monotonic_ns()
        if entry.value is None:
            self.members.left(worker)
        else:
            try:
                beat = read_record(Beat, entry)
            except ValidationError:
                return  # a version that speaks otherwise; it is not ours to judge
            fresh = beat.worker != self.name or beat.sequence in self._written_ns
            self.members.heard(beat, now_ns)
            if beat.worker == self.name and fresh:
                await self._renew(self._written_ns[beat.sequence], now_ns)
        for work in self.works.values():
            work.changed.set()

    async def _renew(self, written_ns: int, now_ns: int) -> None:
        """Our heartbeat came back: the lease runs from when it was written.

        After a lease that had run out, what happened meanwhile is read first: the launch may have been aborted, our
        shards may be others' by now.
        """
        if self._lease_ns and now_ns > self._lease_ns:
            self.lapses += 1
            for work in list(self.works.values()):
                try:
                    await work.catch_up()
                except EngineUnavailable:
                    return
        self._lease_ns = max(self._lease_ns, written_ns + int(FENCE_S * 1e9))
        self._unheard = 0
        for work in self.works.values():
            work.renew_lease(self._lease_ns)

    # --- launches ----------------------------------------------------------------------------------------

    async def _told(self, entry: Entry) -> None:
        launch = entry.key.rpartition(".")[2]
        if self.options.launches is not None and launch not in self.options.launches:
            return
        if entry.value is None:
            if launch in self.works:  # one that was cut off while others closed it
                self.works[launch].was_deleted()
            return
        try:
            record = read_record(LaunchRecord, entry)
        except ValidationError as error:
            self.fault = f"launch {launch} cannot be read by this version: {error.error_count()} faults"
            return
        if record.closed_at is not None and not self.options.keep:
            self.late.closed(record)
        work = self.works.get(launch)
        if work is not None:
            work.told(record, entry.revision)
        else:
            self._take_up(record, entry.revision)

    def _take_up(self, record: LaunchRecord, revision: int) -> None:
        """Begins to serve a launch, if it needs workers."""
        if self.draining or not (record.state in HELD or record.settling):
            return
        work = self.works[record.launch] = LaunchWork(self, record, revision)
        work.renew_lease(self._lease_ns)
        self._tasks[record.launch] = self.spawn(self._serve(work), record.launch)

    async def _serve(self, work: LaunchWork) -> None:
        broken = False
        try:
            await work.run()
        except FlashcastError as error:
            broken = True
            self.fault = f"launch {work.launch}: {error.message}"
            work.error = error
        finally:
            work.over.set()
            if not self.options.keep:
                self.works.pop(work.launch, None)
                self._tasks.pop(work.launch, None)
                if not (broken or work.deleted):
                    # It may have been disarmed and armed again while we let go.
                    self._take_up(work.record, work.revision)
            self.soon()

    async def read_launch(self, launch: str) -> tuple[LaunchRecord, int] | None:
        """The launch's record as it is now; None where it is not to be read: reads may lag behind writes."""
        entry = await self.engine.durable.get(launch_key(launch))
        return None if entry is None or entry.value is None else (read_record(LaunchRecord, entry), entry.revision)


_UNHEARD_MAX: Final = int(BEATS_HZ * LEASE_S)
"""A lease's worth of heartbeats: where so many are written and none is heard, there is no engine to be heard by."""
_BEATS_KEPT: Final = 50
"""Ten seconds of heartbeats whose echo may still come."""


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
