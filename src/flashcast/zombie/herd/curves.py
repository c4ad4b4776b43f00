"""From a push to requests per second, on a time axis of equal steps from GO.

The problem: opens come after delays, requests after opens, and books must balance: what is drawn has to sum to audience
times opens times requests, whatever the width of a step. The obvious answer, sampling densities, loses a steep curve
between its samples. So every array here holds the *amount of a step*, taken as the difference of a closed integral
(opens), or spread by weights that sum to one (requests). What lies beyond the axis is told and not dropped.

All arrays are float64; ``edges`` has one element more than there are steps.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ERF = np.frompyfunc(math.erf, 1, 1)
"""The error function; numpy has none. A microsecond an element, for some ten thousand of them."""


class OpenCurve(Protocol):
    """Of those who open, who has done so when."""

    def share(self, t_s: Floats) -> Floats:
        """Share that has opened within ``t_s`` of its push (0 before 0)."""
        ...

    def integral(self, t_s: Floats) -> Floats:
        """The integral of `share` from 0 to ``t_s``, in seconds."""
        ...

    def quantile_s(self, share: float) -> float:
        """After how many seconds ``share`` (below 1) has opened."""
        ...


class LogNormal:
    """Delays whose logarithm is normal: a few at once, most within minutes, a long tail.

    ``median_s`` is the median delay, ``sigma`` the standard deviation of its natural logarithm.
    """

    def __init__(self, median_s: float, sigma: float) -> None:
        self.median_s: Final = median_s
        self.sigma: Final = sigma

    def __repr__(self) -> str:
        return f"<LogNormal median {self.median_s:g} s, sigma {self.sigma:g}>"

    def share(self, t_s: Floats) -> Floats:
        return _normal(self._z(t_s))

    def integral(self, t_s: Floats) -> Floats:
        # Integrated by parts: t F(t) - (mean of what is below t). The mean of a log-normal restricted to values below
        # t is the mean times the normal distribution at z - sigma.
        z = self._z(t_s)
        mean = self.median_s * math.exp(self.sigma**2 / 2)
        whole = np.maximum(t_s, 0.0) * _normal(z) - mean * _normal(z - self.sigma)
        return np.asarray(np.maximum(whole, 0.0), dtype=np.float64)

    def quantile_s(self, share: float) -> float:
        return self.median_s * math.exp(self.sigma * NormalDist().inv_cdf(share))

    def _z(self, t_s: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(t_s, 0.0) / self.median_s)
        return np.asarray(logs / self.sigma, dtype=np.float64)


class Table:
    """A curve by its points, straight between them: what was seen, without a model. See `Scenario.open_points`."""

    def __init__(self, points: tuple[tuple[float, float], ...]) -> None:
        self._t = np.array([t for t, _ in points], dtype=np.float64)
        self._f = np.array([share for _, share in points], dtype=np.float64)
        widths = np.diff(self._t)
        self._slope = np.append(np.diff(self._f) / widths, 0.0)
        self._g = np.append(0.0, np.cumsum(widths * (self._f[1:] + self._f[:-1]) / 2))

    def __repr__(self) -> str:
        return f"<Table of {self._t.size} points up to {self._t[-1]:g} s>"

    def share(self, t_s: Floats) -> Floats:
        return np.asarray(np.interp(t_s, self._t, self._f), dtype=np.float64)

    def integral(self, t_s: Floats) -> Floats:
        t = np.maximum(t_s, 0.0)
        at = np.clip(np.searchsorted(self._t, t, side="right") - 1, 0, self._t.size - 1)
        since = t - self._t[at]
        return np.asarray(self._g[at] + since * (self._f[at] + self._slope[at] * since / 2), dtype=np.float64)

    def quantile_s(self, share: float) -> float:
        at = int(np.searchsorted(self._f, share))
        if at == 0:
            return float(self._t[0])
        rise = self._f[at] - self._f[at - 1]
        return float(self._t[at - 1] + (share - self._f[at - 1]) / rise * (self._t[at] - self._t[at - 1]))


def delivered_by(edges_s: Floats, push_s: float) -> Floats:
    """Share of the audience that has been sent to by each time; at an even pace over ``push_s`` from time 0."""
    if push_s == 0:
        return np.asarray(edges_s >= 0, dtype=np.float64)
    return np.clip(edges_s / push_s, 0.0, 1.0)


def opened_by(edges_s: Floats, push_s: float, curve: OpenCurve) -> Floats:
    """Share of those who open that has opened by each time, if the push goes out evenly over ``push_s``.

    The mean of the curve over the moments of sending, in closed form: (G(t) - G(t - push)) / push.
    """
    if push_s == 0:
        return curve.share(edges_s)
    moved = curve.integral(edges_s) - curve.integral(edges_s - push_s)
    # Differences of large integrals lose their last digits; a share that fell by them would open somebody twice.
    return np.asarray(np.maximum.accumulate(np.clip(moved / push_s, 0.0, 1.0)), dtype=np.float64)


def per_step(by_edges: Floats, total: float) -> Floats:
    """Amount of each step from a share reached by its edges; what came before the first edge is in the first step."""
    amounts = np.diff(by_edges) * total
    amounts[0] += by_edges[0] * total
    return np.asarray(amounts, dtype=np.float64)


def spread(amounts: Floats, over_s: float, step_s: float) -> Floats:
    """Each step's amount spread evenly over the ``over_s`` that follow its begin; as long as ``amounts`` and its tail.

    The sum stays the same.
    """
    weights = even_weights(over_s, step_s)
    if weights.size == 1:
        return amounts.copy()
    return np.asarray(np.convolve(amounts, weights), dtype=np.float64)


def even_weights(over_s: float, step_s: float) -> Floats:
    """The share of an even stretch of ``over_s`` that falls into each step; sums to one."""
    steps = max(math.ceil(over_s / step_s - 1e-9), 1)
    if steps == 1:
        return np.ones(1)
    weights = np.full(steps, step_s / over_s)
    weights[-1] = 1.0 - weights[:-1].sum()
    return weights


def _normal(z: Floats) -> Floats:
    """The standard normal distribution."""
    return np.asarray((1.0 + np.asarray(_ERF(z / math.sqrt(2.0)), dtype=np.float64)) / 2.0, dtype=np.float64)
