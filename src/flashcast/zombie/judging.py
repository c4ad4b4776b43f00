"""What a rule makes of a signal: bad for long enough, good again for long enough, or not known. Pure."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from flashcast.zombie.document import Level


class Part(BaseModel):
    """Values that are kept as JSON."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Rule(Part):
    """When a signal is bad, when it is good again, and what follows. ``high``: large values are the bad ones."""

    name: str
    signal: str
    level: Level
    high: bool
    limit: float
    for_s: float
    clear: float
    clear_for_s: float
    fresh_s: float
    missing_raises_s: float | None = None
    step_back: bool = False
    """While users are let back in: whether a step is taken back rather than the whole way."""


class Reading(NamedTuple):
    """A signal's latest value, and how many seconds ago it was so. NaN counts as missing."""

    value: float
    age_s: float


class Verdict(StrEnum):
    """What a reading means to a rule."""

    BREACH = "breach"
    """Above `above`, or below `below`."""
    BETWEEN = "between"
    """Neither bad nor good: it holds what is."""
    CLEAR = "clear"
    """At `clear`, or better."""
    MISSING = "missing"
    """There is no value, or one older than `fresh_s`."""
    LOST = "lost"
    """Missing for so long that the rule fires."""


class Judged(Part):
    """What a rule knows. Times are of the decisions' clock."""

    verdict: Verdict = Verdict.MISSING
    breach_since: float | None = None
    clear_since: float | None = None
    missing_since: float | None = None
    firing: bool = False
    """It was bad for long enough, and has not been clear for long enough since."""
    cleared: bool = False
    """It has been clear for long enough."""

    @property
    def urgent(self) -> bool:
        """Whether the rule asks for more now. One that fired, and whose signal is good again, waits to be clear."""
        return self.firing and self.verdict in (Verdict.BREACH, Verdict.LOST)

    def moved(self, by_s: float) -> Self:
        """The same, its times moved with the clock."""
        times = ("breach_since", "clear_since", "missing_since")
        since = {name: getattr(self, name) for name in times}
        return self.model_copy(update={name: at + by_s for name, at in since.items() if at is not None})


def judge(rule: Rule, before: Judged, reading: Reading | None, now: float, gap_s: float = 0.0) -> Judged:
    """What a rule knows after a reading; ``gap_s`` is how long nobody had looked."""
    verdict = verdict_of(rule, reading)
    unseen = gap_s > rule.fresh_s
    if verdict is Verdict.MISSING:
        since = now if before.missing_since is None or unseen else before.missing_since
        lost = rule.missing_raises_s is not None and now - since >= rule.missing_raises_s
        # A breach goes on until a reading says otherwise; being clear does not.
        return Judged(
            verdict=Verdict.LOST if lost else verdict,
            breach_since=before.breach_since,
            missing_since=since,
            firing=before.firing or lost,
        )
    if verdict is Verdict.BREACH:
        since = now if before.breach_since is None else before.breach_since
        return Judged(verdict=verdict, breach_since=since, firing=before.firing or now - since >= rule.for_s)
    if verdict is Verdict.BETWEEN:
        return Judged(verdict=verdict, firing=before.firing)
    since = now if before.clear_since is None or unseen else before.clear_since
    cleared = now - since >= rule.clear_for_s
    return Judged(verdict=verdict, clear_since=since, firing=before.firing and not cleared, cleared=cleared)


def verdict_of(rule: Rule, reading: Reading | None) -> Verdict:
    """What a reading means to a rule."""
    if reading is None or reading.age_s > rule.fresh_s or math.isnan(reading.value):
        return Verdict.MISSING
    value, limit, clear = (
        (reading.value, rule.limit, rule.clear) if rule.high else (-reading.value, -rule.limit, -rule.clear)
    )
    if value > limit:
        return Verdict.BREACH
    return Verdict.CLEAR if value <= clear else Verdict.BETWEEN
