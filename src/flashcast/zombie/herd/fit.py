"""The open curve of past launches.

The problem: a log of opens ends when somebody looked, say after ten minutes, and those who open later are not in it.
The obvious answer, the mean and deviation of the logarithms, then makes the curve too steep and the open share too low.

So the logarithms are taken for a normal distribution cut off at the end of the log. Its maximum likelihood is where the
first two moments agree (it is an exponential family), which leaves one equation in one unknown: how many deviations the
cut lies above the mean. That is found by bisection. A curve of which too little was seen is refused, not guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from flashcast.errors import InputError
from flashcast.zombie.herd.curves import Floats, LogNormal

DELAYS_MIN: Final = 50
"""Below this the deviation is uncertain by more than a tenth (1 / sqrt(2 n))."""
DELAY_S_MIN: Final = 0.05
"""A shorter delay is a clock's error: nobody unlocks a phone within it. Such opens count as so late."""
SEEN_SHARE_MIN: Final = 0.3
"""A log that ends before 30 % have opened says next to nothing about the rest: the fit becomes a guess."""
BETA_MAX: Final = 12.0
TABLE_POINTS: Final = 200


@dataclass(frozen=True)
class Fit:
    """A fitted curve and how well it fits.

    ``seen_share`` of those who open have done so before the log ends at ``window_s``; ``distance`` is the largest
    difference between the curve and what was seen (Kolmogorov and Smirnov), 0 to 1.
    """

    median_s: float
    sigma: float
    opens: int
    window_s: float
    seen_share: float
    distance: float

    @property
    def curve(self) -> LogNormal:
        return LogNormal(self.median_s, self.sigma)

    def open_share(self, audience: int) -> float:
        """Share of an audience that opens sooner or later, of which the log has seen a part."""
        return min(self.opens / self.seen_share / audience, 1.0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "median_s": round(self.median_s, 3), "sigma": round(self.sigma, 4), "opens": self.opens,
            "window_s": round(self.window_s, 3), "seen_share": round(self.seen_share, 4),
            "distance": round(self.distance, 4),
        }  # fmt: skip


def fit_lognormal(delays_s: Floats, window_s: float | None = None) -> Fit:
    """Fits delays between push and open, in seconds, of a log that ends ``window_s`` after the push.

    Without a window the log is taken to be complete. Raises InputError where there are too few delays, where they do
    not vary, or where the log ends too early to tell.
    """
    delays = _usable(delays_s, window_s)
    logs = np.log(delays)
    mean, deviation = float(logs.mean()), float(logs.std())
    if deviation < 1e-6:
        raise InputError("all opens have the same delay; a curve needs delays that vary")
    if window_s is None:
        fit = LogNormal(math.exp(mean), deviation)
        return Fit(fit.median_s, fit.sigma, delays.size, float(delays.max()), 1.0, _distance(delays, fit, None))
    cut = math.log(window_s)
    beta = _beta(mean, deviation, cut)
    seen = NormalDist().cdf(beta)
    if seen < SEEN_SHARE_MIN:
        raise InputError(
            f"the log of opens ends after {window_s:g} s, too early to tell how the rest goes on",
            remedy="Take a log that covers more time after the push.",
        )
    hazard = _hazard(beta)
    sigma = deviation / math.sqrt(1 - beta * hazard - hazard**2)
    fit = LogNormal(math.exp(mean + sigma * hazard), sigma)
    return Fit(fit.median_s, fit.sigma, delays.size, window_s, seen, _distance(delays, fit, window_s))


def table_of(delays_s: Floats) -> tuple[tuple[float, float], ...]:
    """The curve as it was seen: at most ``TABLE_POINTS`` quantiles, for `Scenario.open_points`. Raises InputError."""
    delays = np.sort(_usable(delays_s, None))
    shares = np.linspace(0, 1, min(delays.size, TABLE_POINTS) + 1)
    times = np.quantile(delays, shares)
    points = [(0.0, 0.0)]
    for t, share in zip(times[1:], shares[1:], strict=True):
        # Equal times are one point: the higher share holds.
        if t <= points[-1][0]:
            points[-1] = (points[-1][0], float(share)) if len(points) > 1 else points[-1]
        else:
            points.append((float(t), float(share)))
    return tuple(points)


def _usable(delays_s: Floats, window_s: float | None) -> Floats:
    delays = np.asarray(delays_s, dtype=np.float64)
    delays = delays[np.isfinite(delays) & (delays >= 0)]
    if window_s is not None:
        delays = delays[delays <= window_s]
    if delays.size < DELAYS_MIN:
        raise InputError(f"{delays.size} opens are too few to fit a curve; at least {DELAYS_MIN} are needed")
    return np.maximum(delays, DELAY_S_MIN)


def _beta(mean: float, deviation: float, cut: float) -> float:
    """How many standard deviations the cut lies above the uncut distribution's mean."""
    wanted = (cut - mean) / deviation

    def apart(beta: float) -> float:
        hazard = _hazard(beta)
        return (beta + hazard) / math.sqrt(1 - beta * hazard - hazard**2)

    # apart() grows with beta, from 1 (the cut distribution is then an exponential one) without bound.
    low, high = -6.0, BETA_MAX
    if wanted >= apart(high):
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if apart(middle) < wanted else (low, middle)
    return (low + high) / 2


def _hazard(beta: float) -> float:
    """By how many deviations cutting the upper end at ``beta`` lowers a standard normal's mean."""
    return NormalDist().pdf(beta) / NormalDist().cdf(beta)


def _distance(delays: Floats, curve: LogNormal, window_s: float | None) -> float:
    ordered = np.sort(delays)
    expected = curve.share(ordered)
    if window_s is not None:
        expected = expected / curve.share(np.array([window_s]))[0]
    ranks = np.arange(ordered.size + 1) / ordered.size
    return float(max(np.abs(expected - ranks[1:]).max(), np.abs(expected - ranks[:-1]).max()))
