"""What the sender itself measured of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flashcast.model import Provider
from flashcast.outcomes import Reason


@dataclass(frozen=True, kw_only=True)
class LaunchFacts:
    """What the sender measured of one launch; the journal tells the rest.

    ``started_at`` is GO in Unix seconds. ``latency_us_histogram`` int64[latency.BUCKETS]. ``overshoot``
    counts rows that were on the wire when an abort took effect, ``resumed`` those left over by a process that
    died and sent by this one, ``warnings`` what a person should know besides. None stands for what was not measured.
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
