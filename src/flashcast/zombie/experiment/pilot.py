"""The experiment's controller: which share of the users is served, at each moment. Pure.

The share is taken from a short ladder. Which step fits is what the forecast says, made before the push: the one at
which the users that are served ask for about what the service can do. What its monitoring shows corrects that by a
step: where requests wait too long it takes the lower of the two steps around the forecast's share, where none waits
the upper. So a queue of about a second stands before the service, which is never idle while users want more than it
can do, and never so far behind that they lose patience.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.document import Level, Terms, Writes, terms
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.herd.advice import Shield, advise
from flashcast.zombie.herd.curves import Floats
from flashcast.zombie.herd.forecast import forecast

NONE: Final = 0.05
"""In parts of the apps' patience (four seconds), as are the others. Less waiting than this is none."""
IDLE: Final = 0.2
"""Where they wait less than this, the service will soon have nothing to do."""
BUSY: Final = 0.375
"""Above this the way back halts ..."""
BAD: Final = 0.625
"""... and above this it goes back a step, before anybody gives up."""
DWELL: Final = 0.25
"""Between two decisions: what a step does shows only when most apps have heard of it."""
AHEAD: Final = 0.25
"""Forecast and queue are looked at for so much later: until most apps have heard."""


@dataclass(frozen=True)
class Flight:
    """What was decided before the push. Times are seconds since the start of the run."""

    go_s: float
    shield: Shield
    step_s: float
    load: Floats
    """Requests per second that users will want, one for each ``step_s`` since GO."""
    capacity_rps: float
    patience_s: float
    """How long apps wait for an answer."""
    backs: tuple[float, ...]
    """The ladder: shares of users that are served, up to 1."""

    def fitting(self, t_s: float) -> float:
        """The share of users whose requests fill the capacity, by the forecast; 1 where all fit."""
        at = int((t_s - self.go_s) / self.step_s)
        if not 0 <= at < self.load.size:
            return 1.0
        return min(self.capacity_rps / float(self.load[at]), 1.0)


@dataclass(frozen=True)
class State:
    """Where it stands: the level, the share of users that are served, and since when."""

    level: Level = Level.NORMAL
    back: float = 1.0
    since_s: float = float("-inf")


def flight(p: Parameters) -> Flight:
    """What the forecast of these parameters advises."""
    curves = forecast(p.scenario())
    shield = advise(curves).shield
    assert shield is not None, "the experiment's herd is one that needs a shield"
    lowest = 1 - shield.share
    backs = (lowest, *(back for back in p.steps if back > lowest * 1.1))
    return Flight(p.go_s, shield, curves.step_s, curves.rate(curves.load), p.capacity_rps, p.timeout_s, backs)


def decide(state: State, plan: Flight, signals: Mapping[str, Any], t_s: float) -> State:
    """The state after ``signals`` at ``t_s``; the same object where nothing changes."""
    if t_s < state.since_s + DWELL * plan.patience_s:
        return state
    if "waiting" not in signals:
        # Nobody knows how it stands: no protection is given up.
        return state
    wait = expected_wait(signals, plan)
    back = _step(plan.backs, plan.fitting(t_s + AHEAD * plan.patience_s), wait)
    if back > state.back:
        # One step at a time, and none while the service is behind.
        back = state.back if wait > BUSY else _above(plan.backs, state.back)
    elif wait < NONE and state.level is not Level.NORMAL:
        # Nobody waits: nobody else needs to be held, whatever the forecast says.
        back = state.back
    if wait > BAD and state.level is not Level.NORMAL:
        back = min(back, _below(plan.backs, state.back))
    if back == state.back and not (back == 1.0 and state.level is Level.RECOVERING and wait < IDLE):
        return state
    return State(_level(state, back), back, t_s)


def expected_wait(signals: Mapping[str, Any], plan: Flight) -> float:
    """How long a request will wait a little later, in parts of the apps' patience.

    From what waits already and what comes faster than it is done. Latencies would tell the same too late: they are
    those of requests that came when the queue was another.
    """
    growth = float(signals["offered_rps"]) / plan.capacity_rps - 1
    waiting_s = float(signals["waiting"]) / plan.capacity_rps
    return max(waiting_s / plan.patience_s + growth * AHEAD, 0.0)


def _step(backs: tuple[float, ...], fitting: float, wait: float) -> float:
    """The step of the ladder for a share that fits: the upper of its neighbours, the lower, or the nearer one."""
    lower = max((back for back in backs if back <= fitting), default=backs[0])
    upper = min((back for back in backs if back >= fitting), default=1.0)
    if wait < IDLE:
        return upper
    if wait > BUSY:
        return lower
    return lower if fitting / lower < upper / fitting else upper


def _above(backs: tuple[float, ...], back: float) -> float:
    return min((other for other in backs if other > back), default=1.0)


def _below(backs: tuple[float, ...], back: float) -> float:
    return max((other for other in backs if other < back), default=backs[0])


def _level(state: State, back: float) -> Level:
    if back < state.back:
        return Level.ZOMBIE
    return Level.NORMAL if back == state.back == 1.0 else Level.RECOVERING


def told(state: State, plan: Flight, p: Parameters, app: str, salt: str) -> Terms:
    """The document's terms for a state."""
    k = p.clock_factor
    normal = state.level is Level.NORMAL
    return terms(
        app=app, level=state.level, buckets=0 if normal else round(BUCKETS * (1 - state.back)), salt=salt,
        off=() if normal else ("*",), writes=Writes.SEND if normal else Writes.QUEUE,
        drain_s=round(plan.shield.drain_s * k), poll_s=round(p.poll_s * k),
        poll_jitter_s=round(p.poll_jitter_s * k), wait_s=round(p.poll_s * k),
        incident="" if normal else "experiment",
    )  # fmt: skip
