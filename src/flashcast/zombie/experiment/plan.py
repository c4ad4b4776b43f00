"""Who opens the app when, and what each asks for: the same in both runs. Pure, from a seed.

Opens follow the log-normal curve by its quantiles, each with a small random shift, rather than by independent draws:
two herds of the same parameters then differ in detail and not in size, and a verdict is about the service.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from flashcast.zombie.experiment.parameters import Parameters

Kind = Literal["read", "write"]


@dataclass(frozen=True)
class Ask:
    """Something a user wants: ``op`` names it, the same in both runs."""

    after_s: float
    kind: Kind
    op: str


@dataclass(frozen=True)
class Visit:
    """One user's session, beginning ``at_s`` after the start of the run."""

    user: str
    at_s: float
    asks: tuple[Ask, ...]
    herd: bool
    """Whether the push brought this user."""


def visits(p: Parameters) -> list[Visit]:
    """Everybody who opens the app in a run, in the order of time."""
    chance = random.Random(f"visits {p.seed}")
    found = [_visit(p, f"herd-{i:05d}", at, herd=True) for i, at in enumerate(_herd_times(p, chance))]
    found += [_visit(p, f"day-{i:05d}", at, herd=False) for i, at in enumerate(_everyday_times(p, chance))]
    return sorted(found, key=lambda visit: visit.at_s)


def _herd_times(p: Parameters, chance: random.Random) -> list[float]:
    ranks = list(range(p.opens))
    chance.shuffle(ranks)
    times = []
    for sent, rank in enumerate(ranks):
        quantile = (rank + chance.random()) / p.opens
        delay = p.open_median_s * 2.718281828459045 ** (
            p.open_sigma * NormalDist().inv_cdf(min(max(quantile, 1e-6), 1 - 1e-6))
        )
        times.append(p.go_s + p.push_s * sent / p.opens + delay)
    return [at for at in times if at < p.length_s]


def _everyday_times(p: Parameters, chance: random.Random) -> list[float]:
    per_s = p.everyday_rps / p.requests_per_open
    # Sessions that began before the run would still be asking: they begin earlier, so that the load is even from 0 on.
    first = -p.session_s
    count = int((p.length_s - first) * per_s)
    return [first + (i + chance.random()) / per_s for i in range(count)]


def _visit(p: Parameters, user: str, at_s: float, *, herd: bool) -> Visit:
    wanted = [(after, "read") for after in p.reads_at_s] + [(after, "write") for after in p.writes_at_s]
    asks = [
        Ask(after, "write" if kind == "write" else "read", f"{user}:{i}")
        for i, (after, kind) in enumerate(sorted(wanted))
        # What lies before the run's begin was asked before it; what lies past its end is not asked.
        if 0 <= at_s + after < p.length_s
    ]
    return Visit(user, at_s, tuple(asks), herd)
