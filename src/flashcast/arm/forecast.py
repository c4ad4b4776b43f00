"""When the last reply should come: rows, rates, pace, stages and quotas, put together. Pure arithmetic.

Every worker sends what it holds, so the slowest decides, not the sum of the rates; arm/plan.py says how a worker's
rate comes about. A stage ends when its last reply has come; then its hold passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flashcast.campaign.records import Stage
from flashcast.model import Provider

MINUTE_S = 60.0


class Part(NamedTuple):
    """One provider's rows at one worker, and what that worker expects to send per second."""

    rows: int
    rate_per_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a fleet is about to do for one provider.

    ``quota_per_minute`` is what the provider takes from the project, None without such a bound.
    """

    parts: tuple[Part, ...]
    latency_s: float
    pace_per_s: float | None = None
    quota_per_minute: int | None = None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def rate_per_s(self) -> float:
        """Of all workers together, at most the pace."""
        rate = sum(part.rate_per_s for part in self.parts if part.rows)
        return rate if self.pace_per_s is None else min(rate, self.pace_per_s)

    def send_s(self, share: float = 1.0) -> float:
        """Seconds to send ``share`` of the rows, infinite where a worker with rows cannot send."""
        if not self.rows:
            return 0.0
        slowest = max(p.rows / p.rate_per_s if p.rate_per_s > 0 else math.inf for p in self.parts if p.rows)
        paced = self.rows / self.pace_per_s if self.pace_per_s is not None else 0.0
        return share * max(slowest, paced)


def quota_s(rows: int, send_s: float, quota_per_minute: int | None) -> float:
    """Seconds to send ``rows`` that would take ``send_s`` without a quota.

    The quota is a bucket: full at GO, refilled whole each minute. The refill is aligned with nothing, so a whole minute
    is counted for each.
    """
    if quota_per_minute is None or not rows or rows / send_s * MINUTE_S <= quota_per_minute:
        return send_s
    refills = math.ceil(rows / quota_per_minute) - 1
    rest = rows - refills * quota_per_minute
    return refills * MINUTE_S + send_s * rest / rows


def reached(rows: int, window_s: float, send_s: float, quota_per_minute: int | None) -> int:
    """How many of ``rows`` a quota and the sending rate let through before the window closes."""
    if not rows:
        return 0
    by_rate = rows if send_s <= window_s else int(rows * window_s / send_s)
    if quota_per_minute is None:
        return by_rate
    # What is refilled in the very last moment of the window is of no use.
    buckets = max(1, math.ceil(window_s / MINUTE_S))
    return min(by_rate, buckets * quota_per_minute)


def forecast(loads: Mapping[Provider, Load], stages: Sequence[Stage] = ()) -> dict[Provider, float]:
    """Seconds from GO to the last reply, by provider; infinite where rows cannot be sent."""
    before_s, share = 0.0, 0.0
    for stage in stages:
        # A stage ends for all providers together.
        slowest = max((_replied_s(load, stage.share - share) for load in loads.values()), default=0.0)
        before_s += slowest + stage.hold_s
        share = stage.share
    holds_s = sum(stage.hold_s for stage in stages)
    found = {}
    for provider, load in loads.items():
        staged = before_s + _replied_s(load, 1.0 - share)
        limited = quota_s(load.rows, load.send_s(), load.quota_per_minute) + load.latency_s + holds_s
        found[provider] = max(staged, limited) if load.rows else 0.0
    return found


def _replied_s(load: Load, share: float) -> float:
    return load.send_s(share) + load.latency_s if load.rows else 0.0
