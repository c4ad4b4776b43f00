"""Which level holds: pure decisions over (table, state, readings, orders, time).

    normal --> shielded --> zombie --> recovering --> normal
       \\----------------------^  ^--------'  (worse again: a step back, or all the way)

The problem: protect at once when signals are bad, and never flap. The obvious answer, a threshold, flaps: the herd is
kept out, so signals are good, so it is let in, so they are bad. Chosen here:

- **Raising** waits only for the rule's `for_s`. **Lowering** waits until every rule has been clear for its
  `clear_for_s` by a threshold of its own, and until the level or step has lasted its dwell time; and it goes in steps.
- **A signal that is missing or stale is not clear.** So it holds the level and the step, and lowers nothing; a rule may
  also fire after a while without a signal. Where nobody looked (the controller was down), nothing was clear.
- **A person's decision wins** over rules until it ends (`Hold`). A launch's is a floor: rules raise above it.
- **Time is `now`**, any clock in seconds. If it is set back, the state's times move with it, so that nothing that had
  begun waits for the clock to catch up. `until` of a hold is a date and stays.

Left out: prediction, weights between signals, learning. An operator must be able to say at night why it is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import Field

from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.document import Level
from flashcast.zombie.judging import Judged, Part, Reading, Rule, judge


class Input(StrEnum):
    """What can happen to a level."""

    SHIELD = "shield"
    """A rule asks for `shielded`, or recovery from it has failed."""
    ZOMBIE = "zombie"
    """A rule asks for `zombie`, or recovery from it has failed."""
    BACK = "back"
    """A rule fires while users are let back in: the last step is taken back."""
    CLEAR = "clear"
    """Every rule is clear: the next step of recovery, or its first."""
    FINISH = "finish"
    """Every rule is clear, and everybody is back."""


_L, _I = Level, Input
TRANSITIONS: Final[dict[tuple[Level, Input], Level]] = {
    (_L.NORMAL, _I.SHIELD): _L.SHIELDED,
    (_L.NORMAL, _I.ZOMBIE): _L.ZOMBIE,
    (_L.SHIELDED, _I.SHIELD): _L.SHIELDED,
    (_L.SHIELDED, _I.ZOMBIE): _L.ZOMBIE,
    (_L.SHIELDED, _I.CLEAR): _L.RECOVERING,
    (_L.ZOMBIE, _I.ZOMBIE): _L.ZOMBIE,
    (_L.ZOMBIE, _I.CLEAR): _L.RECOVERING,
    (_L.RECOVERING, _I.CLEAR): _L.RECOVERING,
    (_L.RECOVERING, _I.BACK): _L.RECOVERING,
    (_L.RECOVERING, _I.SHIELD): _L.SHIELDED,
    (_L.RECOVERING, _I.ZOMBIE): _L.ZOMBIE,
    (_L.RECOVERING, _I.FINISH): _L.NORMAL,
}
"""What is not in it does not happen. From a level to itself: more users are in it, or fewer while recovering. A person
may order any level from any other."""
DWELL: Final[dict[tuple[Level, Input], str]] = {
    (_L.SHIELDED, _I.CLEAR): "shielded_min_s",
    (_L.ZOMBIE, _I.CLEAR): "zombie_min_s",
    (_L.RECOVERING, _I.CLEAR): "step_min_s",
    (_L.RECOVERING, _I.FINISH): "step_min_s",
    (_L.RECOVERING, _I.BACK): "back_min_s",
}
"""How long a level or step lasts before this can happen: a field of `Table`. What is not in it happens at once."""


class Table(Part):
    """The rules, the dwell times and the steps: all that decisions depend on beside signals and time."""

    rules: tuple[Rule, ...]
    shielded_min_s: float
    zombie_min_s: float
    step_min_s: float
    back_min_s: float
    shielded_buckets: int
    zombie_buckets: int
    steps: tuple[float, ...]
    """Shares of all users that are back, rising to 1."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """The buckets that are still in it at each step: falling to 0."""
        return tuple(BUCKETS - math.floor(round(BUCKETS * share, 6)) for share in self.steps)

    def buckets_of(self, level: Level) -> int:
        """The buckets that are in it at the height of a level."""
        return {Level.SHIELDED: self.shielded_buckets, Level.ZOMBIE: self.zombie_buckets}.get(level, 0)


class Hold(Part):
    """A decision of somebody's, until when (Unix seconds). A ``floor`` may be raised above, not lowered."""

    by: str
    until: float
    floor: bool = False


class Order(Part):
    """What somebody else has published. Without ``until`` rules go on from there."""

    level: Level
    buckets: int = Field(ge=0, le=BUCKETS)
    full: int | None = None
    """RECOVERING: the buckets that were in it at its height, where known."""
    origin: Level = Level.ZOMBIE
    """RECOVERING: what is recovered from."""
    by: str = ""
    until: float | None = None
    floor: bool = False
    lapsed: bool = False
    """Nobody has decided: the document in force has expired, so that apps are on their own."""


class State(Part):
    """Where it stands. Kept over restarts as JSON."""

    at: float
    """When it was decided last."""
    level: Level = Level.NORMAL
    level_since: float
    since: float
    """When the level or the step last changed: what dwell times count from."""
    buckets: int = 0
    full: int = 0
    """The buckets at the height of what is recovered from."""
    origin: Level = Level.NORMAL
    """The level whose features are off: while recovering, the one that is recovered from."""
    hold: Hold | None = None
    rules: dict[str, Judged] = Field(default_factory=dict)

    @classmethod
    def new(cls, now: float) -> State:
        """Normal, and nothing known."""
        return cls(at=now, level_since=now, since=now)


class Why(StrEnum):
    """Why a decision is what it is. The first ones change something, the others hold."""

    RAISED = "raised"
    """A rule has fired."""
    LOWERED = "lowered"
    """All is clear: recovery begins."""
    STEP = "step"
    """All is clear: more users are let back in."""
    FINISHED = "finished"
    """All is clear with everybody back: normal."""
    STEP_BACK = "step_back"
    """A rule fires while users are let back in: the last step is taken back."""
    ORDERED = "ordered"
    """Somebody has published another decision: it holds from here."""
    LAPSED = "lapsed"
    """The document expired while nobody looked: apps are on their own, and so it begins anew."""
    STEADY = "steady"
    """Normal, and no rule fires."""
    HELD_BY_HAND = "held_by_hand"
    """A person's decision holds."""
    HELD_AS_FLOOR = "held_as_floor"
    """All is clear, and a launch's shield still lasts."""
    HELD_MISSING = "held_missing"
    """A signal is missing or stale, so nothing is lowered."""
    HELD_UNCLEAR = "held_unclear"
    """A rule is not clear, or not for long enough."""
    HELD_DWELL = "held_dwell"
    """The level or step has not lasted long enough."""


class Decision(NamedTuple):
    """The new state, and why. ``text`` says it to a person."""

    state: State
    why: Why
    text: str


def decide(
    table: Table, state: State, readings: Mapping[str, Reading], now: float, order: Order | None = None
) -> Decision:
    """What holds from ``now`` on. ``order`` is given once, when another's document is first seen."""
    state = caught_up(state, now)
    gap_s = now - state.at
    rules = {
        rule.name: judge(rule, state.rules.get(rule.name, Judged()), readings.get(rule.signal), now, gap_s)
        for rule in table.rules
    }
    state = state.model_copy(update={"at": now, "rules": rules})
    if order is not None:
        return _ordered(table, state, order, now)
    hold = state.hold
    if hold is not None and now >= hold.until:
        state, hold = state.model_copy(update={"hold": None}), None
    if hold is not None and not hold.floor:
        return Decision(state, Why.HELD_BY_HAND, f"{hold.by} decides for {hold.until - now:.0f} s more")
    urgent = [rule for rule in table.rules if rules[rule.name].urgent]
    if urgent:
        return _worse(table, state, urgent, readings, now)
    waiting = _unclear(table, state, readings, now)
    if state.level is Level.NORMAL:
        return Decision(state, Why.STEADY, waiting.text if waiting else "every rule is clear")
    return waiting or _better(table, state, now)


def caught_up(state: State, now: float) -> State:
    """The state, its times moved with a clock that was set back, as if no time had passed."""
    late = now - state.at
    if late >= 0:
        return state
    rules = {name: known.moved(late) for name, known in state.rules.items()}
    times = {"at": now, "level_since": state.level_since + late, "since": state.since + late}
    return state.model_copy(update={**times, "rules": rules})


def step_of(table: Table, state: State) -> int:
    """How many steps of recovery are taken: 0 before the first."""
    if state.level is not Level.RECOVERING:
        return 0
    return sum(rung >= state.buckets for rung in table.rungs)


def _worse(table: Table, state: State, urgent: list[Rule], readings: Mapping[str, Reading], now: float) -> Decision:
    cause = max(urgent, key=lambda rule: (rule.level is Level.ZOMBIE, not rule.step_back))
    told = _fired(cause, readings, state.rules[cause.name], now)
    steps_back = state.level is Level.RECOVERING and (cause.step_back or cause.level is Level.SHIELDED)
    between = [rung for rung in table.rungs if state.buckets < rung < state.full] if steps_back else []
    asked = state.origin if steps_back else cause.level
    what = Input.BACK if between else Input.ZOMBIE if asked is Level.ZOMBIE else Input.SHIELD
    level = TRANSITIONS.get((state.level, what))
    full = max(state.buckets, state.full if steps_back else table.buckets_of(asked))
    if level is None or (level is state.level and what is not Input.BACK and full == state.buckets):
        return Decision(state, Why.HELD_UNCLEAR, told)
    wait_s = _dwell_left_s(table, state, Input.BACK if steps_back else what, now)
    if wait_s > 0:
        return Decision(state, Why.HELD_DWELL, f"{told}; the last step is judged for {wait_s:.0f} s more")
    if between:
        return Decision(_moved(state, level, min(between), now), Why.STEP_BACK, told)
    after = _moved(state, level, full, now).model_copy(update={"origin": level, "full": full})
    return Decision(after, Why.RAISED, told)


def _better(table: Table, state: State, now: float) -> Decision:
    done = state.level is Level.RECOVERING and state.buckets == 0
    what = Input.FINISH if done else Input.CLEAR
    if state.hold is not None:
        return Decision(state, Why.HELD_AS_FLOOR, f"{state.hold.by} holds it for {state.hold.until - now:.0f} s more")
    wait_s = _dwell_left_s(table, state, what, now)
    if wait_s > 0:
        return Decision(state, Why.HELD_DWELL, f"every rule is clear; {state.level.value} lasts {wait_s:.0f} s more")
    level = TRANSITIONS[state.level, what]
    if done:
        after = _moved(state, level, 0, now).model_copy(update={"full": 0, "origin": Level.NORMAL})
        return Decision(after, Why.FINISHED, "every rule is clear with everybody back")
    lower = max((rung for rung in table.rungs if rung < state.buckets), default=0)
    after = _moved(state, level, lower, now)
    if state.level is Level.RECOVERING:
        return Decision(after, Why.STEP, f"every rule is clear: {_share(BUCKETS - lower)} of users are let in")
    after = after.model_copy(update={"full": state.buckets, "origin": state.level})
    return Decision(after, Why.LOWERED, f"every rule is clear: {_share(BUCKETS - lower)} of users are let in")


def _unclear(table: Table, state: State, readings: Mapping[str, Reading], now: float) -> Decision | None:
    """The decision to wait, where a rule is not clear; signals that are missing are named before others."""
    unclear = [(rule, state.rules[rule.name]) for rule in table.rules if not state.rules[rule.name].cleared]
    for rule, known in sorted(unclear, key=lambda one: one[1].missing_since is None):
        why = Why.HELD_UNCLEAR if known.missing_since is None else Why.HELD_MISSING
        return Decision(state, why, _waited(rule, readings, known, now))
    return None


def _ordered(table: Table, state: State, order: Order, now: float) -> Decision:
    buckets = 0 if order.level is Level.NORMAL else order.buckets
    recovers = order.level is Level.RECOVERING
    origin = order.origin if recovers else order.level
    full = max(buckets, table.buckets_of(origin) if order.full is None else order.full) if recovers else buckets
    held = order.until is not None and order.until > now
    hold = Hold(by=order.by, until=order.until or 0.0, floor=order.floor) if held else None
    after = _moved(state, order.level, buckets, now)
    after = after.model_copy(update={"origin": origin, "full": full, "hold": hold})
    if order.lapsed:
        return Decision(after, Why.LAPSED, "the document expired while nobody looked: apps are on their own")
    who = order.by or "somebody else"
    until = f" for {order.until - now:.0f} s" if held and order.until is not None else ""
    told = f"{who} has published {order.level.value} for {_share(buckets)} of users{until}"
    return Decision(after, Why.ORDERED, told)


def _moved(state: State, level: Level, buckets: int, now: float) -> State:
    if level is state.level and buckets == state.buckets:
        return state
    level_since = state.level_since if level is state.level else now
    return state.model_copy(update={"level": level, "level_since": level_since, "since": now, "buckets": buckets})


def _dwell_left_s(table: Table, state: State, what: Input, now: float) -> float:
    name = DWELL.get((state.level, what))
    least: float = getattr(table, name) if name else 0.0
    return least - (now - state.since)


def _fired(rule: Rule, readings: Mapping[str, Reading], known: Judged, now: float) -> str:
    if known.missing_since is not None:
        return f"{rule.name}: {rule.signal} is missing for {now - known.missing_since:.0f} s"
    side = "above" if rule.high else "below"
    lasted = now - (known.breach_since if known.breach_since is not None else now)
    return f"{rule.name}: {rule.signal} is {readings[rule.signal].value:.6g}, {side} {rule.limit:g} for {lasted:.0f} s"


def _waited(rule: Rule, readings: Mapping[str, Reading], known: Judged, now: float) -> str:
    if known.missing_since is not None:
        reading = readings.get(rule.signal)
        gone = "missing" if reading is None or math.isnan(reading.value) else f"{reading.age_s:.0f} s old"
        return f"{rule.name}: {rule.signal} is {gone}, so nothing is lowered"
    value = readings[rule.signal].value
    if known.clear_since is not None:
        left = rule.clear_for_s - (now - known.clear_since)
        return f"{rule.name}: {rule.signal} is {value:.6g}, and must be clear for {left:.0f} s more"
    side = "at most" if rule.high else "at least"
    return f"{rule.name}: {rule.signal} is {value:.6g}; it is clear at {side} {rule.clear:g}"


def _share(buckets: int) -> str:
    return f"{buckets * 100 / BUCKETS:g} %"
