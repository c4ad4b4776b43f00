"""Counts over time: what was asked for, as JSON, as a table, as a picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from flashcast.errors import InputError
from flashcast.zombie.plot import Panel, page
from flashcast.zombie.reports.bounds import SLOT_S, STEPS_MAX
from flashcast.zombie.reports.complaint import DAY_S, seconds_of_time
from flashcast.zombie.reports.store import DIMENSIONS, Store

_UNITS: Final = {"d": DAY_S, "h": 3_600, "m": 60, "s": 1}
COLOURS: Final = 5
"""Series that are drawn; the smallest are drawn as one."""


class Asked(NamedTuple):
    """From ``since`` until before ``until`` (Unix seconds) in steps, by one of `DIMENSIONS`, where others are so."""

    since: int
    until: int
    every_s: int
    by: str
    only: dict[str, str]

    @classmethod
    def of(cls, said: Mapping[str, str], now: float) -> Asked:
        """From `since` (24h, 7d, or a time), `every` (1h), `by`, and values of dimensions. Raises InputError.

        Steps are whole ones of the UTC clock; the last one holds now, and is not over.
        """
        unknown = set(said) - {"since", "every", "by", *DIMENSIONS}
        if unknown:
            raise InputError(f"{min(unknown)!r} is not known", remedy="There is since, every, by, and a dimension.")
        by = said.get("by", "feature")
        if by not in DIMENSIONS:
            raise InputError(f"by: {by!r} is none of {', '.join(DIMENSIONS)}")
        every_s = duration_s(said.get("every", "1h"), "every")
        since = said.get("since", "24h")
        try:
            back_s = now - seconds_of_time(since) if "-" in since else duration_s(since, "since")
        except ValueError as error:
            raise InputError(f"since: {error}") from None
        if every_s < 60 or back_s <= 0:
            raise InputError(f"every: {every_s} s is less than 60" if every_s < 60 else "since: is not in the past")
        steps = -int(-back_s // every_s)
        if steps > STEPS_MAX:
            raise InputError(
                f"since and every: are {steps:,} steps, more than {STEPS_MAX:,}", remedy="Ask for longer steps."
            )
        until = -int(-now // every_s) * every_s
        if until < steps * every_s:
            raise InputError("since: is before 1970", remedy="Ask for less, or for shorter steps.")
        return cls(until - steps * every_s, until, every_s, by, {n: said[n] for n in DIMENSIONS if n in said})

    @property
    def steps(self) -> int:
        """How many."""
        return (self.until - self.since) // self.every_s


def duration_s(text: str, name: str) -> int:
    """``7d``, ``24h``, ``90m`` or ``300s`` in seconds. Raises InputError."""
    found = re.fullmatch(r"(\d{1,8})([dhms])", text.strip())
    if found is None:
        raise InputError(f"{name}: {text[:40]!r} is no duration", remedy="Write 7d, 24h, 90m or 300s.")
    return int(found[1]) * _UNITS[found[2]]


def series_document(store: Store, asked: Asked, watched: Sequence[str] = ()) -> dict[str, Any]:
    """Counts by step for each value, the most frequent first; `unheard` has the steps that were not wholly heard."""
    rows: dict[str, list[int]] = {}
    for cell in store.cells(asked.since, asked.until, asked.every_s, asked.by, asked.only):
        rows.setdefault(cell.value, [0] * asked.steps)[cell.step] = cell.complaints
    heard = {name: store.slots(name, asked.since, asked.until) for name in watched}
    until = store.heard_until()
    unheard = {name: [step for step in range(asked.steps) if not _is_heard(asked, step, heard[name], until.get(name))]
               for name in watched}  # fmt: skip
    return {
        "since": asked.since, "until": asked.until, "every_s": asked.every_s, "by": asked.by, "only": asked.only,
        "series": dict(sorted(rows.items(), key=lambda row: (-sum(row[1]), row[0]))), "unheard": unheard,
    }  # fmt: skip


def table(said: Mapping[str, Any], zone: ZoneInfo, columns: int = 8) -> list[list[str]]:
    """Rows of cells: a step each, with the most frequent values as columns. `-` where a source was not heard."""
    series: dict[str, list[int]] = said["series"]
    names = list(series)[:columns]
    rest = list(series)[columns:]
    head = ["from", *(name or "(none)" for name in names), *([f"{len(rest)} others"] if rest else []), "all", "heard"]
    missing = Counter(step for steps in said["unheard"].values() for step in steps)
    rows = [head]
    for step in range((said["until"] - said["since"]) // said["every_s"]):
        at = datetime.fromtimestamp(said["since"] + step * said["every_s"], UTC).astimezone(zone)
        values = [series[name][step] for name in names]
        others = sum(series[name][step] for name in rest)
        gap = [name for name, steps in said["unheard"].items() if step in steps] if missing[step] else []
        rows.append([
            f"{at:%a %d %b %H:%M}", *map(str, values), *([str(others)] if rest else []), str(sum(values) + others),
            f"not {', '.join(gap)}" if gap else "yes",
        ])  # fmt: skip
    return rows


def picture(said: Mapping[str, Any], app: str, zone: ZoneInfo) -> str:
    """The counts, one upon the other, as SVG."""
    series = {name or "(none)": np.array(values, dtype=np.float64) for name, values in said["series"].items()}
    names = list(series)
    shown, rest = names[: COLOURS - 1], names[COLOURS - 1 :]
    if len(rest) > 1:
        series[f"{len(rest)} others"] = np.sum([series[name] for name in rest], axis=0)
        shown.append(f"{len(rest)} others")
    else:
        shown += rest
    steps = (said["until"] - said["since"]) // said["every_s"]
    hours = said["every_s"] / 3_600
    # A step is drawn as one: both its ends have its height.
    x = np.repeat(np.arange(steps + 1, dtype=np.float64) * hours, 2)[1:-1]
    total = np.sum(list(series.values()), axis=0) if names else np.zeros(steps)
    if len(rest) > 1:
        total = total - series[f"{len(rest)} others"]
    begins = datetime.fromtimestamp(said["since"], UTC).astimezone(zone)
    panel = Panel(
        f"complaints in {said['every_s'] // 60} min, by {said['by']}", 0, steps * hours, float(total.max(initial=0)),
        height=340, told=f"Complaints by {said['by']} over time, {int(total.sum())} in all", unit="h",
    )  # fmt: skip
    base = np.zeros(2 * steps)
    for colour, name in enumerate(shown):
        top = base + np.repeat(series[name], 2)
        panel.area(name, colour, x, top, base)
        base = top
    for step in sorted({step for steps in said["unheard"].values() for step in steps}):
        panel.band(step * hours, (step + 1) * hours, "not heard")
    lines = [
        f"Hours since {begins:%Y-%m-%d %H:%M} {zone.key}. {int(total.sum())} complaints. Shaded: not wholly heard."
    ]
    return page(f"Complaints about {app}", lines, [[panel]])


def _is_heard(asked: Asked, step: int, heard: set[int], until: int | None) -> bool:
    """Whether a source was heard in a step, as far as that is over."""
    since = asked.since + step * asked.every_s
    end = min(since + asked.every_s, until or 0) if step == asked.steps - 1 else since + asked.every_s
    slots = range(since // SLOT_S, -(-end // SLOT_S))
    return len(slots) > 0 and all(slot in heard for slot in slots)
