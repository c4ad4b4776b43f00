"""Who could take over what a lost worker held, by the rows each says it may hold. Pure.

By rows alone: a take-over moves whole shards, so that of a room that is just enough a part may stay empty.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flashcast.arm.facts import Facts
from flashcast.arm.readiness import Holding


@dataclass(frozen=True, slots=True)
class Loss:
    """What would be lost with a worker, or with all workers of a machine."""

    name: str
    rows: int
    """Rows of this launch that it holds."""
    room: int
    """Rows that those who are left could hold beside their own."""

    @property
    def homeless(self) -> int:
        """Rows that nobody would have room for."""
        return max(0, self.rows - self.room)


def spare_rows(facts: Facts) -> dict[str, int]:
    """Rows that each live worker could take of this launch, beside what it holds of any launch (`--max-devices`).

    None for one that is ending or has just failed to make a shard ready: it takes no shards, and is left out.
    """
    launch = facts.record.launch
    beats = {name: heard.beat for name, heard in facts.live.items()}
    return {
        name: max(0, beat.devices_max - beat.rows)
        for name, beat in beats.items()
        if not (beat.draining or beat.launches.get(launch, Holding()).cooling)
    }


def worker_losses(facts: Facts) -> list[Loss]:
    """What would be lost with each worker that holds a part of the launch."""
    return [_loss(facts, name, {name}) for name in sorted(facts.holdings)]


def machine_losses(facts: Facts) -> list[Loss]:
    """What would be lost with each machine that holds a part of the launch, where there is another machine."""
    machines: dict[str, set[str]] = {}
    for name, heard in facts.live.items():
        machines.setdefault(heard.beat.host, set()).add(name)
    if len(machines) == 1:
        return []
    held = {facts.live[name].beat.host for name in facts.holdings}
    return [_loss(facts, f"machine {host}", machines[host]) for host in sorted(held)]


def _loss(facts: Facts, name: str, gone: Collection[str]) -> Loss:
    holdings = [holding for worker, holding in facts.holdings.items() if worker in gone]
    held = sum(part.rows for holding in holdings for part in holding.providers.values())
    return Loss(name, held, sum(room for worker, room in spare_rows(facts).items() if worker not in gone))
