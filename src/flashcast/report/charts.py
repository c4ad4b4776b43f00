"""The series behind the pictures of a report: small, and kept beside it to draw the page again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast import latency
from flashcast.model import Provider
from flashcast.outcomes import Outcome
from flashcast.report.ledger import NO_REPLY, Rows, SnapshotView

BINS_MAX: Final = 200
"""Points of a picture: five pixels for each on an ordinary page."""
_BINS_MS: Final = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000)


@dataclass(frozen=True, slots=True)
class Charts:
    """Accepted rows per ``bin_ms`` since GO and provider, int64[bins] each; reply times int64[BUCKETS]."""

    bin_ms: int
    accepted: Mapping[Provider, NDArray[np.int64]]
    latency_us: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The series as JSON; of the histogram only the buckets in use, as [bucket, count]."""
        used = np.flatnonzero(self.latency_us)
        return {
            "bin_ms": self.bin_ms,
            "accepted": {provider.value: counts.tolist() for provider, counts in self.accepted.items()},
            "latency_us": [[int(bucket), int(self.latency_us[bucket])] for bucket in used],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Charts:
        """Reads `to_json` back. Raises KeyError, IndexError, TypeError or ValueError for anything else."""
        histogram = latency.empty()
        for bucket, count in document["latency_us"]:
            histogram[bucket] = count
        accepted = {Provider(p): np.array(counts, np.int64) for p, counts in document["accepted"].items()}
        return cls(int(document["bin_ms"]), accepted, histogram)


def charts(snapshot: SnapshotView, rows: Rows, latency_us: NDArray[np.int64]) -> Charts:
    """Counts accepted rows over time, in the finest bins of which at most `BINS_MAX` cover the launch."""
    last_ms = max((_last_ms(rows, shard.base, shard.base + shard.rows) for shard in snapshot.shards), default=0)
    coarsest = -(-(last_ms + 1) // BINS_MAX)
    bin_ms = next((ms for ms in _BINS_MS if (last_ms // ms) < BINS_MAX), coarsest)
    accepted: dict[Provider, NDArray[np.int64]] = {}
    for shard in snapshot.shards:
        times = _accepted_ms(rows, shard.base, shard.base + shard.rows)
        counts = np.bincount(times // np.uint32(bin_ms), minlength=last_ms // bin_ms + 1)
        provider = Provider(shard.provider)
        accepted[provider] = accepted[provider] + counts if provider in accepted else counts
    return Charts(bin_ms, accepted, latency_us)


def _accepted_ms(rows: Rows, start: int, stop: int) -> NDArray[np.uint32]:
    times = rows.reply_ms[start:stop]
    chosen: NDArray[np.uint32] = times[(rows.outcome[start:stop] == Outcome.ACCEPTED) & (times != NO_REPLY)]
    return chosen


def _last_ms(rows: Rows, start: int, stop: int) -> int:
    return int(_accepted_ms(rows, start, stop).max(initial=0))
