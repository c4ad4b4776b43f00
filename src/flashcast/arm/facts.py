"""What preflight goes by, and what it answers. Values alone: whoever asks collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from flashcast.arm.readiness import LEASE_S, Beat, Holding, Total, total
from flashcast.campaign.records import LaunchRecord, ShardRecord
from flashcast.model import Provider


class Level(StrEnum):
    """What a check says. One `FAIL` is a no-go."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One question answered: ``text`` with its figures, ``remedy`` where something can be done."""

    name: str
    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Go or no-go, with each reason. ``predicted_s`` from GO to the last reply; None where rows cannot be sent."""

    go: bool
    checks: tuple[Check, ...]
    predicted_s: float | None
    rows_covered: int
    rows: int

    def at(self, level: Level) -> list[Check]:
        """The checks of one level."""
        return [check for check in self.checks if check.level is level]


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker as the listener has heard it."""

    beat: Beat
    """The latest."""
    age_s: float
    """Since it came, by the listener's monotonic clock."""
    heartbeats: tuple[tuple[float, float], ...] = ()
    """Some seconds' worth, each as (written, came): Unix time at the worker, Unix time at the listener."""


@dataclass(frozen=True)
class Facts:
    """A launch and its fleet at one moment. ``now_s`` is the listener's Unix time."""

    record: LaunchRecord
    heard: tuple[Heard, ...]
    owners: Mapping[int, ShardRecord]
    """By shard; a shard that nobody has held yet may be missing."""
    now_s: float
    operator: str
    """Who would press GO."""
    engine_warnings: tuple[str, ...] = ()
    quotas: Mapping[Provider, int] = field(default_factory=dict)
    """Messages a minute by the listener's own settings, 0 for none; what the workers say goes before it."""
    transit_ms: float | None = None
    """What a write needs at least to come back to the listener through the engine."""
    shield: Check | None = None
    """What the listener has found out about the launch's shield, where it has one."""

    @cached_property
    def live(self) -> dict[str, Heard]:
        """The workers that hold their lease, by name."""
        return {heard.beat.worker: heard for heard in self.heard if heard.age_s <= LEASE_S}

    @cached_property
    def holdings(self) -> dict[str, Holding]:
        """What the live workers hold of this launch, by worker; those that hold nothing are left out."""
        launch = self.record.launch
        found = {name: heard.beat.launches.get(launch) for name, heard in self.live.items()}
        return {name: holding for name, holding in found.items() if holding is not None and holding.shards}

    @cached_property
    def total(self) -> Total:
        """The launch over all live workers."""
        return total(self.record.launch, (heard.beat for heard in self.live.values()))

    @cached_property
    def rows(self) -> dict[Provider, int]:
        """Rows of the snapshot, of the providers that have any."""
        ref = self.record.snapshot
        return {provider: count for provider, count in ref.rows.items() if count} if ref is not None else {}

    @cached_property
    def missing(self) -> dict[int, str]:
        """The shards that no live worker holds ready, each with the reason."""
        ref = self.record.snapshot
        told = {shard: self._missing(shard) for shard in range(ref.shards)} if ref is not None else {}
        return {shard: why for shard, why in told.items() if why}

    def _missing(self, shard: int) -> str:
        owner = self.owners.get(shard, ShardRecord()).owner
        if owner is None:
            return "held by nobody"
        if owner not in self.live:
            return f"held by {owner}, which is silent"
        holding = self.holdings.get(owner)
        if holding is None or shard not in holding.shards:
            return f"{owner} has just taken it"
        return "" if holding.ready else f"{owner} is not ready"

    @cached_property
    def rows_covered(self) -> int:
        """Rows that would be sent if GO were pressed now."""
        if not self.missing:
            return sum(self.rows.values())
        ready = [holding for holding in self.holdings.values() if holding.ready]
        held = sum(part.rows for holding in ready for part in holding.providers.values())
        return min(held, max(0, sum(self.rows.values()) - 1))
