"""From rows, rates, streams and round trip to lanes and connections. Pure arithmetic, no IO.

Little's law: to answer R requests per second that take L seconds each, R * L must be in flight; a connection
carries as many as the provider allows streams. A connection costs a handshake and memory, so no more are opened
than the target needs, and a lane (a thread) drives as many as one core can feed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from flashcast.limits import CONNECTIONS_MAX, FCM_STREAMS, LANES_MAX
from flashcast.model import Provider

TARGET_S: Final = 2.5
"""Send everything in this time where machine and provider allow it: half of the five seconds of an advertisement."""
HEADROOM: Final = 1.3
"""Connections above what Little's law asks for: replies do not come evenly."""
LANE_RATE: Final = 1_000_000.0
"""Requests per second one lane writes on one core (benchmarks/wire.py prints the machine's own figure)."""
ASSUMED_STREAMS: Final = {Provider.APNS: 1_000, Provider.FCM: FCM_STREAMS}
"""Before the first connection has told: FCM documents 100; APNs shows 1 at first and about 1,000 later."""
ASSUMED_LATENCY_MS: Final = {Provider.APNS: 40.0, Provider.FCM: 100.0}
CONNECTIONS_MIN: Final = 4
"""One lost connection must not halve the rate."""


@dataclass(frozen=True)
class Plan:
    """What to open for one provider, and when the last reply should come."""

    connections: int
    lanes: int
    predicted_s: float


def plan(
    provider: Provider,
    rows: int,
    *,
    cores: int,
    pace_per_s: float | None = None,
    streams: int | None = None,
    reply_latency_ms: float | None = None,
    connections: int | None = None,
    lanes: int | None = None,
) -> Plan:
    """The plan for ``rows`` requests; what is given is taken, what is None is worked out.

    ``cores`` is what this process may use for the provider. ``streams`` and ``reply_latency_ms`` are expectations.
    """
    streams = streams or ASSUMED_STREAMS[provider]
    latency_s = (reply_latency_ms or ASSUMED_LATENCY_MS[provider]) / 1e3
    if lanes is None:
        lanes = max(1, min(LANES_MAX, cores - 1, math.ceil(rows / TARGET_S / LANE_RATE)))
    wanted_rate = min(rows / TARGET_S, lanes * LANE_RATE)
    if pace_per_s is not None:
        wanted_rate = min(wanted_rate, pace_per_s)
    if connections is None:
        needed = math.ceil(wanted_rate * latency_s * HEADROOM / streams)
        # A connection for a handful of rows would only cost its handshake.
        useful = max(1, math.ceil(rows / streams))
        connections = max(1, min(max(CONNECTIONS_MIN, needed), useful, CONNECTIONS_MAX))
    lanes = min(lanes, connections)
    rate = min(wanted_rate, connections * streams / latency_s)
    return Plan(connections, lanes, rows / rate + latency_s if rate else 0.0)
