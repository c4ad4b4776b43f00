"""How far apart the machines' clocks are, as far as heartbeats can tell. Pure.

The problem: a launch's window is counted from the moment that the presser's clock showed at GO, and reports put the
workers' times beside each other. A listener sees, for every heartbeat, when it was written (the worker's clock) and
when it came (its own):

    came - written  =  how far the worker's clock is behind the listener's  +  how long the heartbeat was on its way

The second part is never negative and varies; the least of several heartbeats has the least of it. So

- a negative least is certain: that worker's clock is ahead by at least so much;
- the clock of a worker is behind by **at most** the least. How much of it is the way cannot be told from one side;
- two workers' leasts differ as their clocks do, give or take the difference of their shortest ways.

So what is told is a spread, the listener among them, and beside it what a heartbeat needs at least where the listener
knows it (its own, there and back through the same engine). Left out: asking each worker and halving the round trip, as
NTP does. It would halve the error, and needs an answer from every worker; one millisecond more or less decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

HEARTBEATS_MIN: Final = 5
"""Of so many heartbeats, a second's worth, one is seldom held up: fewer are no measurement."""
LISTENER: Final = "here"


@dataclass(frozen=True, slots=True)
class Spread:
    """The clocks of ``machines`` and the listener are at most ``ms`` apart; ``error_ms`` of it may be the way alone."""

    ms: float
    error_ms: float
    behind: str
    ahead: str
    machines: int

    @property
    def certain_ms(self) -> float:
        """What is left when the way is taken off."""
        return max(0.0, self.ms - self.error_ms)


def least_ms(heartbeats: Iterable[tuple[float, float]]) -> float | None:
    """The least of (came - written) in ms, from pairs (written, came) in Unix s; None of fewer than HEARTBEATS_MIN."""
    differences = [came - written for written, came in heartbeats]
    return min(differences) * 1e3 if len(differences) >= HEARTBEATS_MIN else None


def spread(leasts_ms: Mapping[str, float], transit_ms: float | None = None) -> Spread:
    """How far apart the clocks are, from each machine's least (`least_ms`) and what a heartbeat needs at least."""
    known = {**leasts_ms, LISTENER: 0.0}
    behind, ahead = max(known, key=lambda name: (known[name], name)), min(known, key=lambda name: (known[name], name))
    return Spread(known[behind] - known[ahead], transit_ms or 0.0, behind, ahead, len(leasts_ms))
