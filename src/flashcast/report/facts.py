"""What those who sent measured of a launch: one process for itself, or each worker of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flashcast import latency
from flashcast.campaign.records import Record
from flashcast.model import Provider
from flashcast.outcomes import Reason


class TakeOver(Record):
    """A shard that a worker took from another after GO."""

    shard: int
    from_worker: str
    epoch: int
    """The shard's epoch since."""
    at: float
    """Unix time at the worker that took it."""
    inherited: bool = False
    """Whether the journal of the one before could be read, so that only rows in flight are unknown."""
    rows: int = 0
    """Rows of it that were left to send."""


class WorkerFacts(Record):
    """What one worker measured of one launch; written beside the outcomes whenever it has settled a shard.

    Times are by the worker's own clock. None stands for what was not measured.
    """

    launch: str
    worker: str
    host: str = ""
    version: str = ""
    go_to_first_request_ms: float | None = None
    """From the launch's GO, the Unix time at its presser, to the first request handed to a socket here."""
    first_request_at: float | None = None
    """Unix time of that request."""
    go_to_last_reply_s: float | None = None
    clock_offset_ms: float | None = None
    """This worker's clock less that of the machine where GO was pressed."""
    latency_us: tuple[tuple[int, int], ...] = ()
    """Reply times: the buckets of `latency` that are in use, as (bucket, count)."""
    sent: int = 0
    """Requests written."""
    rows: dict[Provider, int] = Field(default_factory=dict)
    """Rows of the shards it settled."""
    cpu_us_per_notification: float | None = None
    peak_rss_mib: float | None = None
    connections: dict[Provider, int] = Field(default_factory=dict)
    overshoot: int = 0
    """Rows on the wire when an abort or a stop took effect."""
    claims: int = 0
    """Chunks it claimed."""
    seal_s: float | None = None
    arm_s: float | None = None
    stopped: dict[Provider, str] = Field(default_factory=dict)
    """The reason that stopped a provider."""
    paused: tuple[str, ...] = ()
    """Why it paused by itself."""
    take_overs: tuple[TakeOver, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def first_request_ms(self) -> float | None:
        """`go_to_first_request_ms` on the clock of the machine where GO was pressed, as far as the offset is known."""
        told = self.go_to_first_request_ms
        return None if told is None else told - (self.clock_offset_ms or 0.0)

    def histogram(self) -> NDArray[np.int64]:
        """Reply times as int64[latency.BUCKETS]. A bucket that this version does not know counts as the last one."""
        counts = latency.empty()
        for bucket, count in self.latency_us:
            counts[min(max(bucket, 0), latency.BUCKETS - 1)] += count
        return counts


def sparse(histogram: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """A histogram as `WorkerFacts.latency_us` has it."""
    return tuple((int(bucket), int(histogram[bucket])) for bucket in np.flatnonzero(histogram))


@dataclass(frozen=True, kw_only=True)
class LaunchFacts:
    """What is known of one launch besides its rows.

    ``started_at`` is GO in Unix seconds. ``latency_us_histogram`` int64[latency.BUCKETS]. ``overshoot``
    counts rows that were on the wire when an abort took effect, ``resumed`` those left over by a process that
    died and sent by another, ``warnings`` what a person should know besides. None stands for what was not measured.
    ``workers``, ``audit`` (ready for JSON), the shards without outcomes or without their last word, and ``sources`` (a
    digest of the files that were merged) are a fleet's.
    """

    launch: str
    destination: str
    started_at: float
    latency_us_histogram: NDArray[np.int64]
    peak_rss_mib: float | None = None
    go_to_first_request_ms: float | None = None
    go_to_last_reply_s: float | None = None
    sender_cpu_us_per_notification: float | None = None
    seal_s: float | None = None
    arm_s: float | None = None
    aborted: bool = False
    stopped: Mapping[Provider, Reason] = field(default_factory=dict)
    connections: Mapping[Provider, int] = field(default_factory=dict)
    overshoot: int = 0
    resumed: int = 0
    warnings: tuple[str, ...] = ()
    workers: tuple[WorkerFacts, ...] = ()
    audit: Mapping[str, Any] | None = None
    shards_missing: tuple[int, ...] = ()
    shards_partial: tuple[int, ...] = ()
    sources: str | None = None
