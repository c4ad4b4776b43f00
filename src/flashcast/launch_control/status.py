"""What is to be seen: a launch with its workers, the workers themselves, and who did what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flashcast.campaign.records import SHARDS, AuditEntry, LaunchRecord, ShardRecord, as_document
from flashcast.campaign.store import Store
from flashcast.go.follow import Heard, Sighting, following, hear


class Shards(NamedTuple):
    """The shards of a launch: how many there are, have an owner, and are settled."""

    all: int
    held: int
    settled: int


@dataclass(frozen=True)
class Status:
    """A launch at one moment; ``shards`` is None where they were not counted."""

    sighting: Sighting
    shards: Shards | None = None

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        record, total = self.sighting.record, self.sighting.total
        told = as_document(record)
        del told["trail"]
        shards = {} if self.shards is None else {"shards": self.shards._asdict()}
        workers = [worker_document(one, record.launch) for one in self.sighting.heard]
        return {"at": self.sighting.at, **told, **shards, "total": as_document(total), "workers": workers}


def worker_document(one: Heard, launch: str | None = None) -> dict[str, Any]:
    """A worker for `--json`; with ``launch``, what it holds of that alone."""
    told = as_document(one.beat)
    if launch is not None:
        told["launches"] = {name: held for name, held in told["launches"].items() if name == launch}
    return {**told, "age_s": round(one.age_s, 3), "alive": one.alive, "skew_s": one.skew_s}


async def status(store: Store, name: str) -> Status:
    """The launch now. Listens to the workers for up to three beats."""
    heard = await hear(store.engine, store.clock)
    record, _ = await store.launch(name)
    return Status(Sighting(record, heard, store.clock.time()), await count_shards(store, record))


async def status_stream(store: Store, launch: str) -> AsyncIterator[Status]:
    """The launch of that id, at most five times a second, until it has ended and its books are closed."""
    async with following(store.engine, launch, store.clock) as sightings:
        async for sighting in sightings:
            yield Status(sighting)
            if sighting.record.ended and not sighting.record.settling:
                return


async def count_shards(store: Store, record: LaunchRecord) -> Shards:
    """The shards as their records have them."""
    entries = await store.engine.durable.entries(f"{SHARDS}.{record.launch}")
    shards = [store.read(ShardRecord, entry) for entry in entries]
    everyone = record.snapshot.shards if record.snapshot is not None else 0
    return Shards(everyone, sum(s.owner is not None for s in shards), sum(s.settled for s in shards))


async def overview(store: Store) -> list[LaunchRecord]:
    """The latest launch of every campaign, by name of the campaign."""
    launches = {record.launch: record for record in await store.launches()}
    latest = [launches.get(campaign.latest) for campaign in await store.campaigns()]
    return [record for record in latest if record is not None]


async def workers(store: Store) -> Sequence[Heard]:
    """Every worker that has registered and not left, by id."""
    return await hear(store.engine, store.clock)


async def audit(store: Store, name: str) -> tuple[LaunchRecord, tuple[AuditEntry, ...]]:
    """A launch, and everything that was done to it, the oldest first."""
    record, _ = await store.launch(name)
    return record, await store.trail(record)
