"""What an overloaded service and its impatient clients do to each other.

A fluid model in steps, no queue: in each step the service gets ``offered`` requests. Up to its capacity all of them
succeed. Above it, ``capacity * (capacity / offered) ** waste`` do, the same share of every attempt's; the rest comes
back after a delay, as often as clients retry, and is then given up. So the load that fails is the load of the next
minutes: the retry storm. With ``waste`` above 0 a service that was knocked over can stay down although the herd has
gone, because the retries of its everyday load alone are more than it can take.

More capacity never makes anything worse in this model: the share that fails falls with capacity and grows with load,
so attempt after attempt there is less of everything. (A property test holds it to that.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from flashcast.zombie.herd.curves import Floats

JITTER: Final = 0.5
"""A retry's delay is spread evenly over this share of it to either side, as decent clients do."""


@dataclass(frozen=True)
class Retries:
    """How clients retry: ``count`` times, the first after ``delay_s``, each later one ``growth`` times as late."""

    count: int
    delay_s: float
    growth: float


@dataclass(frozen=True)
class Storm:
    """What became of a load, as amounts per step: ``fresh`` plus retries is ``offered``; ``useful`` of it succeeded.

    ``given_up`` failed for the last time. ``pending`` (a number) still waits for its retry when the axis ends, so
    ``fresh.sum() == useful.sum() + given_up.sum() + pending``.
    """

    fresh: Floats
    offered: Floats
    useful: Floats
    given_up: Floats
    pending: float
    capacity: float
    """Per step."""
    step_s: float

    @property
    def failed_share(self) -> float:
        """Of what users wanted, the share that failed for good."""
        wanted = float(self.fresh.sum())
        return float(self.given_up.sum()) / wanted if wanted else 0.0

    @property
    def overloaded(self) -> slice | None:
        """The steps from the first in which more was offered than the service takes to the last."""
        over = np.flatnonzero(self.offered > self.capacity * (1 + 1e-9))
        return slice(int(over[0]), int(over[-1]) + 1) if over.size else None


def serve(fresh: Floats, capacity: float, retries: Retries, waste: float, step_s: float) -> Storm:
    """Plays ``fresh`` requests per step against ``capacity`` per step. See the module's docstring for the model."""
    steps = fresh.size
    windows = [_window(retries.delay_s * retries.growth**n, step_s) for n in range(retries.count)]
    room = steps + max((last for _, last in windows), default=0)
    due = np.zeros((retries.count + 1, room))
    due[0, :steps] = fresh
    offered, useful, given_up = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for i in range(steps):
        attempts = due[:, i]
        load = float(attempts.sum())
        offered[i] = load
        good = _good_share(load, capacity, waste)
        useful[i] = load * good
        given_up[i] = attempts[-1] * (1 - good)
        for n, (first, last) in enumerate(windows):
            due[n + 1, i + first : i + last] += attempts[n] * (1 - good) / (last - first)
    pending = float(due[:, steps:].sum())
    return Storm(fresh, offered, useful, given_up, pending, capacity, step_s)


def _good_share(load: float, capacity: float, waste: float) -> float:
    """Share of the requests of a step that succeed."""
    if load <= capacity:
        return 1.0
    return float((capacity / load) ** (1 + waste))


def _window(delay_s: float, step_s: float) -> tuple[int, int]:
    """The steps from now, first and one past the last, over which a retry is spread: never this very step."""
    first = max(round(delay_s * (1 - JITTER) / step_s), 1)
    return first, max(round(delay_s * (1 + JITTER) / step_s), first + 1)
