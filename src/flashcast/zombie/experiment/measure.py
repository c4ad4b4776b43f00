"""What a run's log says: curves over time, and whether it shows what it is meant to show. Pure.

Goodput counts requests that were answered well while their app still waited, as the apps saw it. It is held against the
capacity or, where users asked for less than that, against what they asked for: a service cannot do more than it is
asked. What users asked for includes what their apps answered themselves or queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flashcast.zombie.experiment.app import CUT_OFF
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.plan import visits
from flashcast.zombie.plot import Floats

BIN_S: Final = 0.5
GOODPUT_SHARE_MIN: Final = 0.9
DOWN_SHARE_MAX: Final = 0.2
"""A service is down that does less than a fifth of what its everyday users ask for."""
AFTER_S: Final = 10.0
"""The last seconds of a run: long after the peak."""
NORMAL_SHARE_MIN: Final = 0.95
WINDOW_PARTS: Final = 3
"""The overload begins and ends to a third of the window over which goodput is judged: a second."""


@dataclass(frozen=True)
class Curves:
    """Per bin of ``BIN_S`` seconds, rates per second; latency NaN where nothing was answered."""

    t_s: Floats
    wanted: Floats
    offered: Floats
    goodput: Floats
    failed: Floats
    latency_p50_ms: Floats
    latency_p95_ms: Floats
    unapplied_writes: Floats
    """Writes that users have made and the service has not applied, at the end of each bin."""


@dataclass(frozen=True)
class Condition:
    """Something that the experiment is to show, and whether it did."""

    name: str
    holds: bool
    told: str


def curves(record: Record) -> Curves:
    """The curves of a run."""
    edges = np.arange(0, record.parameters.length_s + BIN_S / 2, BIN_S)
    begun = np.array([attempt[0] for attempt in record.attempts])
    ended = np.array([attempt[1] for attempt in record.attempts])
    good = np.array([attempt[2] == 200 for attempt in record.attempts], dtype=bool)
    bad = np.array([attempt[2] not in (200, CUT_OFF) for attempt in record.attempts], dtype=bool)
    took_ms = (ended - begun) * 1e3
    wanted = _rate([ask[2] for ask in record.asks], edges)
    which = np.digitize(ended, edges) - 1
    latency = [took_ms[(which == i) & good] for i in range(edges.size - 1)]
    writes = [ask for ask in record.asks if ask[1] == "write"]
    applied_at = [record.applied[ask[0]][1] for ask in writes if ask[0] in record.applied]
    made = np.searchsorted(np.sort([ask[2] for ask in writes]), edges[1:], side="right")
    done = np.searchsorted(np.sort(applied_at), edges[1:], side="right")
    return Curves(
        edges[:-1], wanted, _rate(begun, edges), _rate(ended[good], edges), _rate(ended[bad], edges),
        _percentiles(latency, 50), _percentiles(latency, 95), (made - done).astype(np.float64),
    )  # fmt: skip


def _rate(times: Any, edges: Floats) -> Floats:
    counts, _ = np.histogram(np.asarray(times, dtype=np.float64), edges)
    return np.asarray(counts / BIN_S, dtype=np.float64)


def _percentiles(groups: list[Any], share: float) -> Floats:
    return np.array([np.percentile(group, share) if group.size else np.nan for group in groups], dtype=np.float64)


def overload_s(record: Record) -> tuple[float, float]:
    """From when to when users want more than the capacity, by the plan and by whole seconds: the same in both runs."""
    p = record.parameters
    per_bin = p.window_s / WINDOW_PARTS
    asked = [visit.at_s + ask.after_s for visit in visits(p) for ask in visit.asks]
    counts, edges = np.histogram(asked, np.arange(0, p.length_s + per_bin / 2, per_bin))
    over = np.flatnonzero(counts > p.capacity_rps * per_bin)
    return float(edges[over[0]]), float(edges[over[-1] + 1])


def everybody_back_s(record: Record) -> float | None:
    """When the last users were let back for good; None where they never were, or nobody was ever held."""
    held = [i for i, published in enumerate(record.published) if published["buckets"]]
    if not held or held[-1] + 1 == len(record.published):
        return None
    return float(record.published[held[-1] + 1]["t"])


def goodput_shares(record: Record, begin_s: float, end_s: float) -> Floats:
    """Goodput over what was possible, for each window of ``window_s`` within the given time, a bin apart.

    Never more than 1: a window also gets answers to what was asked before it.
    """
    found = curves(record)
    p = record.parameters
    size = round(p.window_s / BIN_S)
    first, last = int(np.ceil(begin_s / BIN_S)), int(end_s / BIN_S)
    last = min(max(last, first + size), found.t_s.size)
    shares = []
    for at in range(first, last - size + 1):
        window = slice(at, at + size)
        possible = min(p.capacity_rps, float(found.wanted[window].mean()))
        shares.append(min(float(found.goodput[window].mean()) / possible, 1.0) if possible else 1.0)
    return np.array(shares)


def writes(record: Record) -> dict[str, int]:
    """What became of the writes, by the service's database."""
    made = {ask[0]: ask[4] for ask in record.asks if ask[1] == "write"}
    return {
        "made": len(made),
        "applied": sum(op in record.applied for op in made),
        "waiting": sum(outcome == "pending" for outcome in made.values()),
        "lost": sum(op not in record.applied and outcome != "pending" for op, outcome in made.items()),
        "applied_twice": sum(count > 1 for count, _ in record.applied.values()),
        "kept_from_twice": record.kept_off,
    }


def reads(record: Record) -> dict[str, int]:
    """What became of the reads."""
    outcomes = [ask[4] for ask in record.asks if ask[1] == "read"]
    return {
        "made": len(outcomes),
        "answered": outcomes.count("ok"),
        "from_the_app": outcomes.count("local"),
        "failed": outcomes.count("failed"),
    }


def summary(record: Record) -> dict[str, Any]:
    """A run in figures."""
    p = record.parameters
    begin, end = overload_s(record)
    back = everybody_back_s(record)
    shares = goodput_shares(record, begin, max(end, back or 0.0))
    found = curves(record)
    last = found.t_s >= p.length_s - AFTER_S
    asked = float(found.wanted[last].mean())
    queued = [at for op, (_, at) in record.applied.items()]
    return {
        "zombie": record.zombie,
        "goodput_share_min": _rounded(float(shares.min())),
        "goodput_share_mean": _rounded(float(shares.mean())),
        "goodput_after_rps": _rounded(float(found.goodput[last].mean())),
        "wanted_after_rps": _rounded(asked),
        "offered_after_rps": _rounded(float(found.offered[last].mean())),
        "peak_wanted_rps": _rounded(float(found.wanted.max())),
        "peak_offered_rps": _rounded(float(found.offered.max())),
        "attempts": len(record.attempts),
        "attempts_failed": sum(attempt[2] not in (200, CUT_OFF) for attempt in record.attempts),
        "latency_p95_ms_max": None
        if np.isnan(found.latency_p95_ms).all()
        else _rounded(np.nanmax(found.latency_p95_ms)),
        "everybody_back_s": None if back is None else _rounded(back),
        "last_write_s": _rounded(max(queued)) if queued else None,
        "recovered_s": _recovered_s(record, found),
        "reads": reads(record),
        "writes": writes(record),
        "polls": record.polls,
        "herd_cpu_s": _rounded(record.cpu_s),
        "late_s": _rounded(record.late_s),
    }


def _recovered_s(record: Record, found: Curves) -> float | None:
    """From when on the service does what users ask for, until the end of the run; None where it never does again.

    Counted from GO. Nobody is held back any more, and windows of goodput are within a tenth of what is wanted.
    """
    p = record.parameters
    size = round(p.window_s / BIN_S)
    kernel = np.ones(size) / size
    wanted, goodput = np.convolve(found.wanted, kernel, "valid"), np.convolve(found.goodput, kernel, "valid")
    bad = np.flatnonzero(goodput < np.minimum(wanted, p.capacity_rps) * GOODPUT_SHARE_MIN)
    first = float(bad[-1] + 1) * BIN_S if bad.size else p.go_s
    if bad.size and bad[-1] == wanted.size - 1:
        return None
    back = everybody_back_s(record) if record.zombie else 0.0
    return None if back is None else _rounded(max(first, back, p.go_s) - p.go_s)


def conditions(without: Record, with_zombie: Record) -> list[Condition]:
    """Everything that the experiment is to show."""
    bare, held = summary(without), summary(with_zombie)
    return [*_collapse(bare), *_protected(held, with_zombie), *_written(held)]


def _collapse(bare: dict[str, Any]) -> list[Condition]:
    down = bare["goodput_after_rps"] <= DOWN_SHARE_MAX * bare["wanted_after_rps"]
    told = (
        f"in the last {AFTER_S:g} s users want {bare['wanted_after_rps']:.0f}/s, their apps try "
        f"{bare['offered_after_rps']:.0f}/s, and get {bare['goodput_after_rps']:.1f}/s"
    )
    return [Condition("without: collapses, and stays down after the peak", down, told)]


def _protected(held: dict[str, Any], record: Record) -> list[Condition]:
    p = record.parameters
    least, back, last = held["goodput_share_min"], held["everybody_back_s"], held["last_write_s"]
    period_s = p.drain_period_s(record.rules.levels.zombie)
    took = None if back is None or last is None else max(_last_queued_s(record) - back, 0.0)
    return [
        Condition(
            f"with: goodput stays at or above {GOODPUT_SHARE_MIN:.0%} of capacity", least >= GOODPUT_SHARE_MIN,
            f"never below {least:.1%} over {p.window_s:g} s; {held['goodput_share_mean']:.1%} on the whole",
        ),
        Condition(
            "with: recovery ends within the drain period", took is not None and took <= period_s,
            "users are still held back at the end" if took is None
            else f"{took:.1f} s from the last step to the last queued write; the period is {period_s:g} s",
        ),
        Condition(
            "with: everyday service afterwards",
            held["goodput_after_rps"] >= NORMAL_SHARE_MIN * min(held["wanted_after_rps"], p.capacity_rps),
            f"in the last {AFTER_S:g} s users want {held['wanted_after_rps']:.0f}/s and get "
            f"{held['goodput_after_rps']:.1f}/s",
        ),
    ]  # fmt: skip


def _last_queued_s(record: Record) -> float:
    """When the last write was applied that was made before everybody was back: the queued ones are among those."""
    back = everybody_back_s(record) or 0.0
    made = [ask[0] for ask in record.asks if ask[1] == "write" and ask[2] <= back]
    return max((record.applied[op][1] for op in made if op in record.applied), default=back)


def _written(held: dict[str, Any]) -> list[Condition]:
    told = held["writes"]
    return [
        Condition(
            "with: no write is lost", told["lost"] == 0 and told["waiting"] == 0,
            f"{told['applied']:,} of {told['made']:,} applied",
        ),
        Condition(
            "with: none is applied twice", told["applied_twice"] == 0,
            f"{told['applied_twice']}; keys kept {told['kept_from_twice']} from it",
        ),
    ]  # fmt: skip


def _rounded(value: float) -> float:
    return round(value, 4)
