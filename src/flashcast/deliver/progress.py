"""What lanes count, and the sum of it: how far one provider's part of a launch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flashcast.deliver.job import Job


@dataclass(frozen=True)
class LaneStatistics:
    """A lane at one moment. Bytes are those of the connections it has now, before encryption."""

    connections: int
    ready: int
    wanted: int
    in_flight: int
    accepted: int
    rejected: int
    failed: int
    unknown: int
    sent: int
    volleys: int
    stops: int
    """Replies that would meet every other row too."""
    bad_tokens: int
    """Replies whose reason is one of `outcomes.BAD_TOKENS`."""
    first_request_ns: int | None
    last_reply_ns: int | None
    round_trip_us: int | None
    streams: int
    overshoot: int
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class Progress:
    """One provider at one moment, all lanes together."""

    rows: int
    """Rows of the shards that are held which were not dealt with when they came."""
    accepted: int
    rejected: int
    failed: int
    unknown: int
    in_flight: int
    sent: int
    connections_ready: int
    stops: int = 0
    """Replies that would meet every other row too."""
    stop_reason: str = ""
    """The first of these since GO or `Run.resume`, in the provider's word."""
    bad_tokens: int = 0
    """Replies that call a token wrong, rather than gone."""
    pace_per_s: float | None = None


def progress_of(job: Job, rows: int, lanes: Sequence[LaneStatistics]) -> Progress:
    """The sum over a provider's lanes; ``rows`` are those of the shards that are held."""
    return Progress(
        rows=rows,
        accepted=sum(lane.accepted for lane in lanes),
        rejected=sum(lane.rejected for lane in lanes),
        failed=sum(lane.failed for lane in lanes),
        unknown=sum(lane.unknown for lane in lanes),
        in_flight=sum(lane.in_flight for lane in lanes),
        sent=sum(lane.sent for lane in lanes),
        connections_ready=sum(lane.ready for lane in lanes),
        stops=sum(lane.stops for lane in lanes),
        stop_reason=job.stop_reason.value if job.stop_reason is not None else "",
        bad_tokens=sum(lane.bad_tokens for lane in lanes),
        pace_per_s=job.pace_per_s,
    )
