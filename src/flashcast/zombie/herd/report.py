"""A forecast for people and programs: one JSON document, a picture, and text for a terminal."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from flashcast.zombie import plot
from flashcast.zombie.herd.advice import Advice, advice_document, shielded_load, variants
from flashcast.zombie.herd.curves import Floats
from flashcast.zombie.herd.forecast import Forecast
from flashcast.zombie.herd.storm import Storm

FORMAT: Final = "flashcast.herd.forecast/1"
SERIES_MAX: Final = 600
"""Points of a series in JSON: a picture needs no more. Each is the mean over its stretch."""
COLUMNS: Final = 72
ROWS: Final = 12
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"


def document(f: Forecast, advice: Advice) -> dict[str, Any]:
    """Everything as JSON: the scenario, totals, the peak, what becomes of it, the advice, and series."""
    s = f.scenario
    told = variants(f, advice)
    shielded = None if advice.shield is None else shielded_load(f, advice.shield)
    group = -(-f.herd.size // SERIES_MAX)
    return {
        "format": FORMAT,
        "scenario": s.model_dump(),
        "totals": {
            "opens": round(s.audience * s.open_share, 3),
            "requests": round(float(f.herd.sum()) + f.after["herd"], 3),
            "requests_after_axis": round(f.after["herd"], 3),
        },
        "peak": {
            "rps": round(f.peak_rps, 3),
            "at_s": f.peak_at_s,
            "of_capacity": round(f.peak_rps / s.capacity_rps, 4),
        },
        "variants": {name: _brief(storm) for name, storm in told.items()},
        "advice": advice_document(advice),
        "series": {
            "step_s": f.step_s * group,
            "herd_rps": _means(f.rate(f.herd), group),
            "background_rps": _means(f.rate(f.background), group),
            "offered_rps": _means(f.rate(told["as planned"].offered), group),
            "useful_rps": _means(f.rate(told["as planned"].useful), group),
            "shielded_rps": None if shielded is None else _means(f.rate(shielded), group),
        },
    }


def _brief(storm: Storm) -> dict[str, Any]:
    """What became of a load."""
    over, step_s = storm.overloaded, storm.step_s
    back = None if over is None or over.stop == storm.fresh.size else over.stop * step_s
    return {
        "peak_offered_rps": round(float(storm.offered.max()) / step_s, 3),
        "least_useful_rps": round(float(storm.useful.min()) / step_s, 3),
        "failed_share": round(storm.failed_share, 6),
        "overloaded_from_s": None if over is None else over.start * step_s,
        "recovered_at_s": back,
        "stays_down": over is not None and back is None,
    }


def _means(values: Floats, group: int) -> list[float]:
    padded = np.append(values, np.full(-values.size % group, np.nan))
    return [round(float(v), 3) for v in np.nanmean(padded.reshape(-1, group), axis=1)]


def picture(f: Forecast, advice: Advice) -> str:
    """The forecast as an SVG file: what comes, what retries make of it, and what is left with a shield."""
    s = f.scenario
    end = _interesting_s(f, advice)
    shown = f.t_s <= end
    x = f.t_s[shown]
    storm = f.storm()
    wanted = plot.Panel(
        "Requests a second that users cause", 0, end, max(f.peak_rps, s.capacity_rps) * 1.05, height=300,
        told=f"The load peaks at {f.peak_rps:,.0f} a second after {f.peak_at_s:g} s; the capacity is "
        f"{s.capacity_rps:,.0f}.",
    )  # fmt: skip
    wanted.area("everyday load", 1, x, f.rate(f.background)[shown])
    wanted.area("herd", 0, x, f.rate(f.load)[shown], f.rate(f.background)[shown])
    wanted.rule(s.capacity_rps, "capacity")
    panels = [wanted]
    if advice.needed:
        panels.append(_storm_panel(f, storm, shown, end))
        if advice.shield is not None:
            panels.append(_shield_panel(f, advice, shown, end))
    lines = summary_lines(f, advice)
    return plot.page("Herd forecast", lines, [[panel] for panel in panels])


def _storm_panel(f: Forecast, storm: Storm, shown: Any, end: float) -> plot.Panel:
    top = max(float(storm.offered[shown].max()) / f.step_s, f.scenario.capacity_rps)
    panel = plot.Panel(
        "If nothing is done: offered with retries, and what succeeds", 0, end, top, height=240,
        told=f"With retries up to {top:,.0f} requests a second are offered.",
    )  # fmt: skip
    panel.area("useful", 3, f.t_s[shown], f.rate(storm.useful)[shown])
    panel.line("offered", 2, f.t_s[shown], f.rate(storm.offered)[shown])
    panel.rule(f.scenario.capacity_rps, "capacity")
    return panel


def _shield_panel(f: Forecast, advice: Advice, shown: Any, end: float) -> plot.Panel:
    assert advice.shield is not None
    load = f.rate(shielded_load(f, advice.shield))
    panel = plot.Panel(
        f"With {advice.shield.share:.1%} of users shielded, and the way back", 0, end,
        max(float(load.max()), f.scenario.capacity_rps), height=240,
        told=f"Shielded, the load peaks at {load.max():,.0f} a second.",
    )  # fmt: skip
    panel.area("load with replayed writes", 0, f.t_s[shown], load[shown])
    panel.rule(f.scenario.capacity_rps, "capacity")
    for step in advice.shield.steps:
        panel.mark(step.at_s, f"{step.back:.0%} back")
    return panel


def text(f: Forecast, advice: Advice, *, unicode: bool = True) -> str:
    """The forecast for a terminal, ``COLUMNS`` wide and some more for the scale."""
    end = _interesting_s(f, advice)
    steps = max(int(end / f.step_s), 1)
    chart = columns(f.rate(f.background)[:steps], f.rate(f.load)[:steps], f.scenario.capacity_rps, end, unicode=unicode)
    return "\n".join([*chart, "", *summary_lines(f, advice)]) + "\n"


def columns(base: Floats, top: Floats, capacity: float, end_s: float, *, unicode: bool = True) -> list[str]:
    """A chart in characters: ``base`` light, from there to ``top`` dark, the capacity as a line across.

    A column shows the highest of its steps, so that a short peak is seen.
    """
    highest = max(float(top.max()), capacity) or 1.0
    groups = np.array_split(np.arange(top.size), min(COLUMNS, top.size))
    low = [float(base[g].max()) * ROWS / highest for g in groups]
    high = [float(top[g].max()) * ROWS / highest for g in groups]
    line = min(round(capacity * ROWS / highest), ROWS)
    light, dark, rule = ("░", "█", "─") if unicode else (".", "#", "-")
    rows = []
    for row in range(ROWS, 0, -1):
        cells = []
        for under, over in zip(low, high, strict=True):
            if over >= row:
                cells.append(light if under >= row - 0.5 else dark)
            elif row == line and over <= row - 0.5:
                cells.append(rule)
            elif over > row - 1 and unicode and under <= row - 1:
                cells.append(_EIGHTHS[int((over - row + 1) * 8)])
            else:
                cells.append(light if under >= row - 0.5 else " ")
        name = "capacity" if row == line else plot.short(float(f"{highest * row / ROWS:.2g}")) if row % 3 == 0 else ""
        rows.append(f"{name:>9} {''.join(cells)}".rstrip())
    width = len(groups)
    ends = f"{end_s:,.0f} s"
    middle = f"{end_s / 2:,.0f} s"
    scale = "GO".ljust(width // 2) + middle
    return [*rows, " " * 10 + scale.ljust(width - len(ends)) + ends]


def summary_lines(f: Forecast, advice: Advice) -> list[str]:
    """What the forecast says, in sentences."""
    s = f.scenario
    opens = s.audience * s.open_share
    peak = (
        f"{s.audience:,} devices in {s.push_s:g} s, {opens:,.0f} opens: the load peaks at {f.peak_rps:,.0f}/s "
        f"{f.peak_at_s:g} s after GO, {f.peak_rps / s.capacity_rps:.1f} times the capacity of {s.capacity_rps:,.0f}/s."
    )
    lines = [peak]
    if not advice.needed:
        return [*lines, f"That fits: {s.headroom:.0%} headroom is kept. Nothing needs to be done."]
    told = _brief(f.storm())
    end = "and the service stays down" if told["stays_down"] else f"until {told['recovered_at_s'] or 0:,.0f} s after GO"
    if told["overloaded_from_s"] is None:
        lines.append(f"It fits the capacity, but not with {s.headroom:.0%} headroom.")
    else:
        lines.append(
            f"If nothing is done: overload from {told['overloaded_from_s']:,.0f} s {end}; with retries up to "
            f"{told['peak_offered_rps']:,.0f}/s are offered, {told['failed_share']:.1%} of requests fail for good."
        )
    if advice.push_s is not None:
        pace = s.audience / advice.push_s
        lines.append(
            f"Slower push: {advice.push_s:,.0f} s ({pace:,.0f} devices/s) leaves the {s.headroom:.0%} headroom."
        )
    else:
        lines.append(f"A slower push does not help: {advice.why['push_s']}.")
    return [*lines, *_shield_lines(advice)]


def _shield_lines(advice: Advice) -> list[str]:
    shield = advice.shield
    if shield is None:
        return [f"A shield is not enough: {advice.why['shield']}."]
    steps = ", ".join(f"{step.back:.0%} at {step.at_s:,.0f} s" for step in shield.steps)
    held = (
        f"Shield: {shield.share:.1%} of users ({shield.buckets} buckets) from {_at(shield.raise_at_s)} on; needed from "
        f"{shield.needed_from_s:,.0f} s after. Back: {steps or 'not within this forecast'}."
    )
    lines = [held]
    if shield.clear:
        lines.append(
            f"Queued writes: about {shield.queued_writes:,.0f}; a drain period of {shield.drain_s:,.0f} s keeps them "
            f"within {shield.drain_rps:,.0f}/s."
        )
    else:
        lines.append("The forecast ends before everybody is back: look further with horizon_s, or add capacity.")
    return lines


def _at(seconds: float) -> str:
    return "GO" if seconds > -0.5 else f"{-seconds:,.0f} s before GO"


def _interesting_s(f: Forecast, advice: Advice) -> float:
    """Where pictures end: when the herd has shrunk to a tenth of its peak, and everybody is back."""
    large = np.flatnonzero(f.herd > f.herd.max() / 10)
    end = float(f.t_s[large[-1]]) if large.size else 60.0
    shield = advice.shield
    if shield is not None and shield.until_s is not None:
        end = max(end, shield.until_s + shield.drain_s)
    return float(min(max(end * 1.1, 60.0), f.herd.size * f.step_s))
