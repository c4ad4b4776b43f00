"""A launch control in memory for tests: an engine that may misbehave, virtual time, and operators."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from flashcast.arm.readiness import Beat, Holding, ProviderReadiness
from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import LaunchRecord, SnapshotRef, worker_key
from flashcast.campaign.store import Operator, Store
from flashcast.model import Provider
from flashcast.testing.memory_engine import Faults, MemoryEngine, MemorySpace
from flashcast.testing.virtual_time import VirtualClock, VirtualLoop

T = TypeVar("T")

TEXT = """\
name = "Kick-off"

[apns]
topic = "com.example.app"
alert.title = "Kick-off"
"""
OTHER_TEXT = TEXT.replace("Kick-off", "Half-time")
SNAPSHOT = SnapshotRef(
    url="/snapshots/superbowl-1", digest="d" * 64, sealed_at=1_700_000_000.0, rows={Provider.APNS: 1_000}, shards=2
)


class Control:
    """An engine's truth, and stores of operators that reach it over a network with ``faults``."""

    def __init__(self, loop: VirtualLoop, faults: Faults | None = None, seed: int = 0) -> None:
        self.loop = loop
        self.faults = faults or Faults.none()
        self.space = MemorySpace()
        self.clock = VirtualClock(loop)
        self._rng = random.Random(seed)

    def engine(self, faults: Faults | None = None) -> MemoryEngine:
        """Another client of the engine."""
        return MemoryEngine(self.space, faults or self.faults, random.Random(self._rng.random()))

    def store(self, operator: str = "kim@desk", faults: Faults | None = None, clock_ahead_s: float = 0.0) -> Store:
        """Another operator's terminal."""
        clock = VirtualClock(self.loop, clock_ahead_s)
        return Store(self.engine(faults), Operator(operator, operator.partition("@")[2]), clock, self._rng)

    def honest(self) -> Store:
        """A terminal with a perfect connection, to see how things are."""
        return self.store("witness@desk", Faults.none())


def simulated(work: Callable[[Control], Coroutine[Any, Any, T]], *, faults: Faults | None = None, seed: int = 0) -> T:
    """Runs ``work`` on virtual time."""
    loop = VirtualLoop()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(_begun(loop, work, faults, seed))
    finally:
        loop.close()


async def _begun(
    loop: VirtualLoop, work: Callable[[Control], Coroutine[Any, Any, T]], faults: Faults | None, seed: int
) -> T:
    return await work(Control(loop, faults, seed))


async def sealed(store: Store, name: str = "superbowl", **terms: object) -> LaunchRecord:
    """A campaign with a launch that is sealed, without a snapshot on any disk."""
    campaign = await store.create_campaign(name, TEXT)
    changes = {"snapshot": SNAPSHOT, **terms}
    return await store.transition(campaign.latest, Input.SEAL, lambda record: record.model_copy(update=changes))


async def armed(store: Store, name: str = "superbowl", **terms: object) -> LaunchRecord:
    """A campaign with a launch that workers have called ready."""
    record = await sealed(store, name, **terms)
    await store.transition(record.launch, Input.ARM)
    return await store.transition(record.launch, Input.READY)


def beat(worker: str, at: float, sequence: int = 1, **holdings: Holding) -> Beat:
    """A worker's beat; ``holdings`` by launch, with _ for -."""
    return Beat(
        worker=worker, host="rack", pid=1, version="0", at=at, sequence=sequence, devices_max=10_000,
        launches={launch.replace("_", "-"): holding for launch, holding in holdings.items()},
    )  # fmt: skip


def ready(rows: int = 500, **more: Any) -> Holding:
    """What a worker that is ready for APNs rows says of a launch."""
    part = ProviderReadiness(rows=rows, connections=4, connections_wanted=4, streams=1_000, rate_per_s=10_000.0)
    return Holding(**{"shards": (0,), "ready": True, "providers": {Provider.APNS: part}, **more})


async def beating(control: Control, worker: str, holding: Holding, launch: str = "superbowl-1") -> None:
    """A worker's heartbeat, five times a second until it is cancelled."""
    engine, sequence = control.engine(Faults.none()), 0
    while True:
        sequence += 1
        told = beat(worker, control.clock.time(), sequence).model_copy(update={"launches": {launch: holding}})
        await engine.volatile.put(worker_key(worker), told.to_bytes())
        await asyncio.sleep(0.2)
