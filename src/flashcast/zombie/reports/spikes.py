"""Whether there are too many complaints: this window against the same hour of earlier days. Pure.

**The model.** On each day the window's count is a negative binomial: Poisson about a rate that itself differs from day
to day. Its mean is that of the earlier days, and half a complaint more in all, so that a history of zeros does not make
the first complaint infinitely unlikely. Its variance is the Poisson one, and what days differ beyond it: as much as the
earlier days do, and no less than `SPREAD_MIN` of the mean, since two weeks may have been quiet by chance. The error of
a mean of so few days is added.

**One bad day must not hide the next.** An earlier incident would raise both mean and variance; a day's count beyond
`CLIP_DEVIATIONS` Poisson deviations above the median counts as much as that and no more.

**The chance** that the model brings as many or more is bounded from above: beyond the mean each probability is a
smaller share of the one before, so their sum is below that of a geometric series.

**An alarm** needs all three: chance at most `chance_max`, at least `factor` times the expected count, and `minimum`
complaints. So with one question a minute, as long as the model holds, false alarms are at most 1,440 * `chance_max` a
day for each feature and window: one in 231 days for a feature by the defaults, three windows and 1e-6. Questions a
minute apart mostly count the same complaints, so they are far fewer; tests/zombie/test_reports_rates.py simulates it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from flashcast.zombie.reports.config import AlarmOf

SPREAD_MIN: Final = 0.3
"""Standard deviation of a day's rate, as a share of its mean, that is always allowed for."""
CLIP_DEVIATIONS: Final = 6.0
HALF: Final = 0.5
"""What is added to the earlier days' sum: Jeffreys' prior for a Poisson rate."""


class Verdict(StrEnum):
    """What is known of a feature."""

    CALM = "calm"
    """All was heard, and there are no more than usual."""
    ALARM = "alarm"
    """There are too many. What was not heard can only add to it."""
    UNKNOWN = "unknown"
    """No alarm, but something was not heard, or there are too few earlier days: nobody may take it for calm."""


@dataclass(frozen=True)
class Finding:
    """One feature in one window."""

    feature: str
    window_m: int
    verdict: Verdict
    count: int
    expected: float
    """What earlier days lead to expect; NaN where there are too few."""
    chance: float
    """An upper bound of the chance of as many; 1 where there are no more than expected."""
    days: int
    """Earlier days that were compared with."""
    text: str

    @property
    def ratio(self) -> float:
        """Count by expected count; 0 where nothing is expected to be known."""
        return self.count / self.expected if self.expected > 0 else 0.0

    @property
    def value(self) -> float:
        """As a signal: how many times what is expected while there is an alarm, else 0."""
        return self.ratio if self.verdict is Verdict.ALARM else 0.0


@dataclass(frozen=True)
class Window:
    """What was counted. ``gap`` says what was not heard of the window itself; empty where all was."""

    minutes: int
    count: int
    earlier: Sequence[int]
    gap: str = ""


def judge(feature: str, window: Window, alarm: AlarmOf) -> Finding:
    """What one window says about a feature."""
    count, days = window.count, len(window.earlier)
    told = f"{feature}: {count} in the last {window.minutes} min"
    if days < alarm.days_min:
        heard = {0: "no earlier day was", 1: "only 1 earlier day was"}.get(days, f"only {days} earlier days were")
        few = f"{told}; {heard} heard at this hour"
        if count < alarm.minimum and not window.gap:
            return _finding(feature, window, Verdict.CALM, f"{few}: calm, fewer than {alarm.minimum}")
        gap = f"; {window.gap}" if window.gap else ""
        return _finding(feature, window, Verdict.UNKNOWN, f"{few}: not known{gap}")
    mean, variance = expectation(window.earlier)
    chance = tail(count, mean, variance)
    told = f"{told}, {mean:.3g} expected ({days} days), p {'<' if chance < 1 else ''}= {chance:.1g}"
    missing = [
        why
        for fails, why in (
            (chance > alarm.chance_max, f"p is above {alarm.chance_max:g}"),
            (count < alarm.factor * mean, f"less than {alarm.factor:g} times"),
            (count < alarm.minimum, f"fewer than {alarm.minimum}"),
        )
        if fails
    ]
    if not missing:
        verdict, told = Verdict.ALARM, f"{told}: alarm"
    elif window.gap:
        verdict, told = Verdict.UNKNOWN, f"{told}: not known; {window.gap}"
    else:
        verdict, told = Verdict.CALM, f"{told}: calm, {' and '.join(missing)}"
    return _finding(feature, window, verdict, told, mean, chance)


def worst(findings: Iterable[Finding]) -> Finding:
    """The one that counts of a feature's windows: an alarm, else what is not known, else calm."""
    order = {Verdict.ALARM: 2, Verdict.UNKNOWN: 1, Verdict.CALM: 0}
    return max(findings, key=lambda one: (order[one.verdict], -one.chance, one.count))


def expectation(earlier: Sequence[int]) -> tuple[float, float]:
    """Mean and variance of what a window brings, from what it brought on earlier days, at least two."""
    median = statistics.median(earlier)
    most = median + CLIP_DEVIATIONS * math.sqrt(median + 1)
    counts = [min(float(count), most) for count in earlier]
    mean = (sum(counts) + HALF) / len(counts)
    between = max(statistics.variance(counts) - mean, (SPREAD_MIN * mean) ** 2)
    return mean, (mean + between) * (1 + 1 / len(counts))


def tail(count: int, mean: float, variance: float) -> float:
    """An upper bound of P(X >= count) for a negative binomial; 1 where ``count`` is not above the mean.

    With size r = mean^2 / (variance - mean) and q = 1 - mean / variance, P(k + 1) / P(k) = q (k + r) / (k + 1). That
    falls towards q where r > 1 and rises towards it where r < 1, so the larger of it and q bounds all that follow.
    """
    if count <= mean:
        return 1.0
    size, q = mean * mean / (variance - mean), 1 - mean / variance
    log_first = (
        math.lgamma(count + size) - math.lgamma(size) - math.lgamma(count + 1)
        + size * math.log(mean / variance) + count * math.log(q)
    )  # fmt: skip
    ratio = max(q, q * (count + size) / (count + 1))
    return min(1.0, math.exp(log_first) / (1 - ratio)) if ratio < 1 else 1.0


def _finding(
    feature: str, window: Window, verdict: Verdict, text: str, mean: float = math.nan, chance: float = 1.0
) -> Finding:
    return Finding(feature, window.minutes, verdict, window.count, mean, chance, len(window.earlier), text)
