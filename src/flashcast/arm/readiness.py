"""What a worker tells of itself, and the sum over a fleet. Pure: no IO, no clock of its own.

A worker writes one `Beat` to the volatile space five times a second. Its arrival is the heartbeat, its content the
readiness before GO and the progress after it; whoever wants a total adds the beats up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydantic import Field

from flashcast.campaign.records import Record
from flashcast.model import Provider

BEATS_HZ: Final = 5
LEASE_S: Final = 1.0
"""A worker that has not been heard of for so long loses its shards. Measured on the listener's own clock."""


class ProviderReadiness(Record):
    """One provider's part of a launch at one worker. Counters are since GO, over every row this worker holds."""

    rows: int = 0
    connections: int = 0
    """Connections over which requests may be sent now."""
    connections_wanted: int = 0
    streams: int = 0
    """Streams the peer allows on one connection."""
    round_trip_us: int | None = None
    rate_per_s: float = 0.0
    """What this worker expects to send per second after GO (arm/plan.py)."""
    credential_until: float | None = None
    """Unix time until which the credential is good, None where it renews itself or never ends."""
    quota_per_minute: int | None = None
    """What the provider takes from the whole project, by the worker's settings; 0 for no quota, None unsaid."""
    endpoint: str = ""
    sent: int = 0
    in_flight: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    unknown: int = 0
    bad_tokens: int = 0
    """Replies that say BadDeviceToken or its like; the misfire guard adds them up."""
    stops: int = 0
    """Replies whose reason stops a launch."""
    stop_reason: str = ""
    pace_per_s: float | None = None
    """This worker's share of the pace, None where there is none."""


class Holding(Record):
    """One launch at one worker."""

    arming: int = 0
    """The arming (`LaunchRecord.arming`) that it is ready for, or becoming so."""
    shards: tuple[int, ...] = ()
    ready: bool = False
    """Every shard it holds is mapped and checked, and every provider has connections."""
    providers: dict[Provider, ProviderReadiness] = Field(default_factory=dict)
    stage_sent: int = -1
    """The last stage of which every row this worker holds is settled."""
    stage_sent_at: float | None = None
    """When the last of those rows was settled, Unix time at the worker; None where it does not say."""
    fault: str = ""
    """What keeps it from being ready, in a sentence."""
    cooling: bool = False
    """It could not make a shard ready, and leaves shards to others for a while."""
    go_to_first_request_ms: float | None = None
    overshoot: int = 0
    quiet: bool = False
    """Nothing left to claim, send or wait for."""


class Beat(Record):
    """A worker at one moment."""

    worker: str
    host: str
    pid: int
    version: str
    at: float
    """Unix time at the worker."""
    sequence: int
    devices_max: int
    disk_free_bytes: int | None = None
    draining: bool = False
    """It was asked to end and takes no shards."""
    launches: dict[str, Holding] = Field(default_factory=dict)
    fault: str = ""

    @property
    def rows(self) -> int:
        """Rows it holds, all launches together."""
        return sum(p.rows for holding in self.launches.values() for p in holding.providers.values())


class Total(Record):
    """A launch over all its workers."""

    workers: int = 0
    shards: int = 0
    ready_workers: int = 0
    providers: dict[Provider, ProviderReadiness] = Field(default_factory=dict)
    faults: dict[str, str] = Field(default_factory=dict)
    """By worker."""


def total(launch: str, beats: Iterable[Beat]) -> Total:
    """Adds up what ``beats`` say of ``launch``. Streams and round trips are the least favourable of any worker."""
    holdings = {beat.worker: beat.launches[launch] for beat in beats if launch in beat.launches}
    providers: dict[Provider, ProviderReadiness] = {}
    for holding in holdings.values():
        for provider, part in holding.providers.items():
            providers[provider] = _added(providers.get(provider), part)
    return Total(
        workers=len(holdings),
        shards=sum(len(holding.shards) for holding in holdings.values()),
        ready_workers=sum(holding.ready for holding in holdings.values()),
        providers=providers,
        faults={worker: holding.fault for worker, holding in holdings.items() if holding.fault},
    )


_SUMMED: Final = (
    "rows", "connections", "connections_wanted", "rate_per_s", "sent", "in_flight", "accepted", "rejected", "failed",
    "unknown", "bad_tokens", "stops",
)  # fmt: skip


def _added(one: ProviderReadiness | None, other: ProviderReadiness) -> ProviderReadiness:
    if one is None:
        return other
    trips = [trip for trip in (one.round_trip_us, other.round_trip_us) if trip is not None]
    ends = [end for end in (one.credential_until, other.credential_until) if end is not None]
    streams = [count for count in (one.streams, other.streams) if count]
    quotas = [quota for quota in (one.quota_per_minute, other.quota_per_minute) if quota is not None]
    return other.model_copy(
        update={
            **{name: getattr(one, name) + getattr(other, name) for name in _SUMMED},
            "round_trip_us": max(trips, default=None),
            "credential_until": min(ends, default=None),
            "streams": min(streams, default=0),
            # A project's, not a worker's: never summed; the least that a worker is told, and 0 is no quota.
            "quota_per_minute": min((quota for quota in quotas if quota), default=0 if quotas else None),
            "endpoint": other.endpoint or one.endpoint,
            "stop_reason": one.stop_reason or other.stop_reason,
        }
    )
