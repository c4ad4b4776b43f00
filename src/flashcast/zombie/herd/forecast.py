"""The curves of one scenario: sent, opened, requested, per step of the time axis.

Amounts are per step; divide by ``step_s`` for rates (`Forecast.rate`). Time 0 is GO; step i is from ``t_s[i]`` on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from flashcast.zombie.herd.curves import (
    Floats,
    LogNormal,
    OpenCurve,
    Table,
    delivered_by,
    opened_by,
    per_step,
    spread,
)
from flashcast.zombie.herd.scenario import BINS_MAX, Scenario
from flashcast.zombie.herd.storm import Retries, Storm, serve

OPENED_ENOUGH: Final = 0.98
"""By default the axis ends when so many of those who open have done so ..."""
HORIZON_S_MIN: Final = 300.0
HORIZON_S_MAX: Final = 7_200.0
"""... but not before five minutes, to show the way back, nor after two hours: what comes later is no herd."""
BINS_DEFAULT_MAX: Final = 20_000
"""A retry storm is played step by step: 20,000 take a quarter of a second."""


@dataclass(frozen=True)
class Forecast:
    """What is expected if nothing is done. The arrays are amounts per step; ``after`` is what comes past the axis."""

    scenario: Scenario
    step_s: float
    sent: Floats
    opens: Floats
    herd: Floats
    """Requests that the push causes: on receipt, of first screens, of the rest of sessions; without retries."""
    background: Floats
    after: dict[str, float]
    """``sent``, ``opens`` and ``herd`` past the end of the axis."""

    def __repr__(self) -> str:
        return f"<Forecast {self.t_s.size} steps of {self.step_s:g} s, peak {self.peak_rps:,.0f}/s>"

    @property
    def t_s(self) -> Floats:
        """The begin of each step, seconds since GO."""
        return np.arange(self.herd.size, dtype=np.float64) * self.step_s

    @property
    def load(self) -> Floats:
        """Herd and background, per step."""
        return self.herd + self.background

    def rate(self, amounts: Floats) -> Floats:
        """Per second."""
        return amounts / self.step_s

    @property
    def peak_rps(self) -> float:
        """The largest load of a step, per second."""
        return float(self.load.max() / self.step_s)

    @property
    def peak_at_s(self) -> float:
        return float(self.t_s[int(self.load.argmax())])

    def storm(self, fresh: Floats | None = None) -> Storm:
        """What becomes of ``fresh`` (by default the whole load), with the scenario's retries and capacity."""
        s = self.scenario
        retries = Retries(s.retries, s.retry_delay_s, s.retry_growth)
        return serve(self.load if fresh is None else fresh, s.capacity_rps * self.step_s, retries, s.waste, self.step_s)


def forecast(scenario: Scenario) -> Forecast:
    """The curves of a scenario. Pure: the same scenario, the same arrays."""
    curve = curve_of(scenario)
    step_s = scenario.step_s
    steps = axis_steps(scenario, curve)
    edges = np.arange(steps + 1, dtype=np.float64) * step_s
    sent_by = delivered_by(edges, scenario.push_s)
    opened = opened_by(edges, scenario.push_s, curve)
    openers = scenario.audience * scenario.open_share
    sent, opens = per_step(sent_by, scenario.audience), per_step(opened, openers)
    cold = 1 - scenario.cache_warmth
    parts = (
        spread(sent * scenario.receipt_requests * cold, scenario.receipt_spread_s, step_s),
        spread(opens * scenario.first_requests * cold, scenario.first_s, step_s),
        spread(opens * scenario.later_requests * cold, scenario.session_s, step_s),
    )
    herd = np.sum([part[:steps] for part in parts], axis=0)
    after = {
        "sent": float(scenario.audience * (1 - sent_by[-1])),
        "opens": float(openers * (1 - opened[-1])),
    }
    unopened = after["opens"] * (scenario.first_requests + scenario.later_requests)
    unsent = after["sent"] * scenario.receipt_requests
    after["herd"] = float(sum(part[steps:].sum() for part in parts) + (unopened + unsent) * cold)
    background = np.full(steps, scenario.background_rps * step_s)
    return Forecast(scenario, step_s, sent, opens, herd, background, after)


def curve_of(scenario: Scenario) -> OpenCurve:
    """The open curve that a scenario states."""
    if scenario.open_points is not None:
        return Table(scenario.open_points)
    return LogNormal(scenario.open_median_s, scenario.open_sigma)


def axis_steps(scenario: Scenario, curve: OpenCurve) -> int:
    """How many steps the axis has."""
    if scenario.horizon_s is not None:
        return min(max(math.ceil(scenario.horizon_s / scenario.step_s), 2), BINS_MAX)
    tail_s = scenario.push_s + curve.quantile_s(OPENED_ENOUGH) + scenario.session_s
    horizon_s = min(max(tail_s, scenario.push_s + HORIZON_S_MIN), max(HORIZON_S_MAX, 2 * scenario.push_s))
    return min(max(math.ceil(horizon_s / scenario.step_s), 2), BINS_DEFAULT_MAX)
