"""What to do about a forecast: send more slowly, shield a share of the users and for how long, drain their writes.

All of it aims below the usable capacity, which is the stated one less the headroom.

- **Pace**: the shortest push whose peak fits. A longer push only ever averages the same opens over more time.
- **Shield**: the share of users in zombie mode at which the rest fits; whole buckets, of 1,000. An app in zombie mode
  still makes ``shield_keeps`` of its requests. Then the way back: for each step (1, 5, 25, 50, 100 % of users back) the
  first moment from which on the load fits for good, with what the drain takes set aside.
- **Drain**: the writes that shielded apps queued come back spread over a period in which they take no more than
  ``drain_share`` of the capacity, and no more than half of what the everyday load leaves.

An app hears of a document within its poll interval, so a shield is raised that much before it is needed: at the latest
at GO, because the first thing an opened app asks for is the document. Often that is before GO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.herd.curves import Floats
from flashcast.zombie.herd.forecast import Forecast, forecast
from flashcast.zombie.herd.scenario import PUSH_S_MAX, Scenario
from flashcast.zombie.herd.storm import Storm

STEPS: Final = (0.01, 0.05, 0.25, 0.5, 1.0)
"""Shares of users that are back, one step of the way after the other."""
PACE_PRECISION: Final = 0.01
DRAIN_ROUND_S: Final = 10.0


@dataclass(frozen=True)
class Step:
    """From ``at_s`` after GO on, ``back`` of the users are out of zombie mode."""

    at_s: float
    back: float


@dataclass(frozen=True)
class Shield:
    """A share of users in zombie mode, in whole buckets, and the way back. Times in seconds since GO.

    ``needed_from_s`` is when the load would pass the usable capacity; ``raise_at_s`` when to raise the shield, so that
    apps in use have heard by then (negative: before GO); ``clear`` whether the axis saw everybody back.
    """

    buckets: int
    raise_at_s: float
    needed_from_s: float
    steps: tuple[Step, ...]
    clear: bool
    queued_writes: float
    drain_s: float
    drain_rps: float

    @property
    def share(self) -> float:
        return self.buckets / BUCKETS

    @property
    def until_s(self) -> float | None:
        """When everybody is back; None where the forecast does not reach so far."""
        return self.steps[-1].at_s if self.clear else None

    def back_at(self, t_s: Floats) -> Floats:
        """Share of users that are back at each time; those outside the shield always are."""
        back = np.full(t_s.size, 1 - self.share)
        for step in self.steps:
            back[t_s >= step.at_s - 1e-9] = step.back
        return np.asarray(np.maximum(back, 1 - self.share), dtype=np.float64)


@dataclass(frozen=True)
class Advice:
    """What is recommended. ``push_s`` or ``shield`` is None where it cannot help alone; ``why`` then has the reason."""

    usable_rps: float
    needed: bool
    push_s: float | None
    shield: Shield | None
    why: dict[str, str]


def advise(f: Forecast) -> Advice:
    """What to do so that the load stays within the usable capacity."""
    s = f.scenario
    usable = usable_rps(s)
    if f.peak_rps <= usable:
        return Advice(usable, False, s.push_s, None, {})
    why: dict[str, str] = {}
    push_s, shield = None, None
    if s.background_rps >= usable:
        why["push_s"] = (
            f"the everyday load of {s.background_rps:,.0f}/s leaves nothing of the usable {usable:,.0f}/s for a herd"
        )
    else:
        push_s = slower_push_s(s)
        if push_s is None:
            why["push_s"] = f"even a push over {PUSH_S_MAX / 3600:g} hours passes the usable {usable:,.0f}/s"
    buckets = shield_buckets(f)
    if buckets is None:
        left = float(f.rate(_left_at(f, 0.0)).max())
        why["shield"] = f"with every user shielded {left:,.0f}/s remain, more than the usable {usable:,.0f}/s"
    else:
        shield = _shield(f, buckets)
    return Advice(usable, True, push_s, shield, why)


def usable_rps(s: Scenario) -> float:
    """The capacity less the headroom, per second."""
    return s.capacity_rps * (1 - s.headroom)


def slower_push_s(s: Scenario) -> float | None:
    """The shortest push, in seconds, whose peak fits the usable capacity; None where none up to ``PUSH_S_MAX`` does."""

    def fits(push_s: float) -> bool:
        longer = s.changed(push_s=push_s, horizon_s=None, step_s=max(s.step_s, push_s / 2_000))
        return forecast(longer).peak_rps <= usable_rps(s)

    low, high = s.push_s, max(2 * s.push_s, 8.0)
    while not fits(high):
        if high >= PUSH_S_MAX:
            return None
        low, high = high, min(2 * high, PUSH_S_MAX)
    while high - low > PACE_PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def shield_buckets(f: Forecast) -> int | None:
    """The fewest buckets in zombie mode at which the rest fits; None where not even all of them are enough."""
    excess = f.load - usable_rps(f.scenario) * f.step_s
    over = excess > 0
    if not over.any():
        return 0
    relieved = _relieved(f)[over]
    if (relieved <= 0).any():
        return None
    buckets = math.ceil(float((excess[over] / relieved).max()) * BUCKETS - 1e-9)
    return buckets if buckets <= BUCKETS else None


def shielded_load(f: Forecast, shield: Shield) -> Floats:
    """The load per step with the shield, the way back and the replayed writes."""
    load = _left_at(f, shield.back_at(f.t_s))
    if shield.clear and shield.drain_s:
        # Each step's writes come back over the drain period that begins with it.
        at = 1 - shield.share
        queued = shield.queued_writes
        for step in shield.steps:
            part = queued * (step.back - at) / shield.share
            since = np.clip((np.arange(f.herd.size + 1) * f.step_s - step.at_s) / shield.drain_s, 0, 1)
            load = load + np.diff(since) * part
            at = step.back
    return load


def variants(f: Forecast, advice: Advice) -> dict[str, Storm]:
    """What becomes of the load if nothing is done, and with each piece of the advice that there is."""
    found = {"as planned": f.storm()}
    if advice.needed and advice.push_s is not None:
        slower = forecast(f.scenario.changed(push_s=advice.push_s))
        found["slower push"] = slower.storm()
    if advice.shield is not None:
        found["shielded"] = f.storm(shielded_load(f, advice.shield))
    return found


def _relieved(f: Forecast) -> Floats:
    """What each step is spared with every user in zombie mode."""
    s = f.scenario
    return np.asarray((f.herd + f.background * s.background_app_share) * (1 - s.shield_keeps), dtype=np.float64)


def _left_at(f: Forecast, back: Floats | float) -> Floats:
    """The load per step with a share of users back."""
    return np.asarray(f.load - _relieved(f) * (1 - np.asarray(back)), dtype=np.float64)


def _shield(f: Forecast, buckets: int) -> Shield:
    s = f.scenario
    usable = usable_rps(s)
    drain_rps = min(s.drain_share * s.capacity_rps, max(usable - s.background_rps, 0.0) / 2)
    needed_from_s = float(f.t_s[int(np.argmax(f.load > usable * f.step_s))])
    steps = _way_back(f, 1 - buckets / BUCKETS, (usable - drain_rps) * f.step_s)
    clear = bool(steps) and steps[-1].back == 1.0
    raise_at_s = min(needed_from_s - s.poll_s, 0.0)
    held = Shield(buckets, raise_at_s, needed_from_s, steps, clear, 0.0, 0.0, drain_rps)
    queued = float((f.opens * (1 - held.back_at(f.t_s))).sum() * s.writes_per_open)
    drain_s = math.ceil(queued / drain_rps / DRAIN_ROUND_S) * DRAIN_ROUND_S if drain_rps > 0 else 0.0
    return replace(held, clear=clear and drain_rps > 0, queued_writes=queued, drain_s=drain_s)


def _way_back(f: Forecast, open_share: float, room: float) -> tuple[Step, ...]:
    """For each step the first moment from which on its load is within ``room`` for good."""
    peak = int(f.load.argmax())
    found: list[Step] = []
    for back in STEPS:
        if back <= open_share:
            continue
        over = np.flatnonzero(_left_at(f, back) > room)
        first = int(over[-1]) + 1 if over.size else peak
        if first >= f.herd.size:
            break
        found.append(Step(max(first, peak) * f.step_s, back))
    return tuple(found)


def advice_document(advice: Advice) -> dict[str, Any]:
    """The advice as JSON."""
    shield = advice.shield
    return {
        "needed": advice.needed,
        "usable_rps": round(advice.usable_rps, 3),
        "push_s": None if advice.push_s is None else round(advice.push_s, 1),
        "shield": None
        if shield is None
        else {
            "buckets": shield.buckets,
            "share": shield.share,
            "raise_at_s": shield.raise_at_s,
            "needed_from_s": shield.needed_from_s,
            "until_s": shield.until_s,
            "steps": [{"at_s": step.at_s, "back": step.back} for step in shield.steps],
            "queued_writes": round(shield.queued_writes),
            "drain_s": shield.drain_s,
            "drain_rps": round(shield.drain_rps, 3),
        },
        "why_not": advice.why,
    }
