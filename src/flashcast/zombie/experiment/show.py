"""An experiment for people and programs: one picture with both runs side by side, a table, one JSON document."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from flashcast.zombie import plot
from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.measure import (
    BIN_S,
    Condition,
    Curves,
    conditions,
    curves,
    everybody_back_s,
    overload_s,
    summary,
)
from flashcast.zombie.plot import Floats, Panel

FORMAT: Final = "flashcast.zombie.experiment/1"
TITLES: Final = ("Without zombie mode", "With zombie mode")
LEVEL_COLOURS: Final = {"shielded": 4, "zombie": 2, "recovering": 0}


def document(without: Record, with_zombie: Record) -> dict[str, Any]:
    """Everything as JSON."""
    found = conditions(without, with_zombie)
    look = with_zombie.rules.levels.zombie
    return {
        "format": FORMAT,
        "holds": all(one.holds for one in found),
        "conditions": [{"name": one.name, "holds": one.holds, "told": one.told} for one in found],
        "parameters": with_zombie.parameters.as_dict()
        | {
            "capacity_rps": with_zombie.parameters.capacity_rps,
            "drain_period_s": with_zombie.parameters.drain_period_s(look),
        },
        "without": summary(without) | {"would_have_decided": without.decisions},
        "with": summary(with_zombie) | {"decisions": with_zombie.decisions, "published": with_zombie.published},
    }


def picture(without: Record, with_zombie: Record) -> str:
    """Both runs side by side, on the same scales, as an SVG file."""
    pairs = [(record, curves(record)) for record in (without, with_zombie)]
    rows = [
        _requests(pairs),
        _held(pairs),
        _offered(pairs),
        _latency(pairs),
        _writes(pairs),
    ]
    p = with_zombie.parameters
    setting = (
        f"One service that does {p.capacity_rps:g} requests/s, an everyday load of {p.everyday_rps:g}/s, one push at "
        f"{p.go_s:g} s that {p.opens} users open."
    )
    head = [
        setting,
        f"Measured, seed {p.seed}. Shaded: users want more than the capacity.",
        *(f"{'✓' if one.holds else '✗'} {one.name}: {one.told}" for one in conditions(without, with_zombie)),
    ]
    return plot.page("The same herd, without and with zombie mode", head, rows)


def _panel(name: str, record: Record, top: float, height: int, told: str) -> Panel:
    panel = Panel(name, 0, record.parameters.length_s, top, height=height, told=f"{name}. {told}")
    panel.band(*overload_s(record), "users want more than the capacity")
    return panel


def _requests(pairs: list[tuple[Record, Curves]]) -> list[Panel]:
    top = max(float(found.wanted.max()) for _, found in pairs)
    panels = []
    for title, (record, found) in zip(TITLES, pairs, strict=True):
        capacity = record.parameters.capacity_rps
        told = f"Goodput is {found.goodput[-20:].mean():.0f}/s at the end."
        panel = _panel(f"{title}: requests/s", record, top, 250, told)
        panel.area("users want", 1, _middles(found), found.wanted)
        panel.area("answered in time", 3, _middles(found), found.goodput)
        panel.rule(capacity, "capacity")
        panel.mark(record.parameters.go_s, "GO")
        panels.append(panel)
    return panels


def _held(pairs: list[tuple[Record, Curves]]) -> list[Panel]:
    panels = []
    for record, _ in pairs:
        panel = _panel("Users in zombie mode, %, by the level that is published", record, 100, 160, "")
        ends = [published["t"] for published in record.published[1:]] + [record.parameters.length_s]
        # A step: what is published holds until the next publication.
        x = np.array([t for one, end in zip(record.published, ends, strict=True) for t in (one["t"], end)])
        for level, colour in LEVEL_COLOURS.items():
            share = [100.0 * (1 - one["back"]) if one["level"] == level else 0.0 for one in record.published]
            panel.area(level, colour, np.maximum(x, 0.0), np.repeat(np.array(share), 2))
        panels.append(panel)
    return panels


def _offered(pairs: list[tuple[Record, Curves]]) -> list[Panel]:
    top = max(float(curve.max()) for _, found in pairs for curve in (found.offered, found.failed))
    panels = []
    for record, found in pairs:
        panel = _panel("Tries and retries/s; dashed: the capacity", record, top, 200, "")
        panel.line("offered", 0, _middles(found), found.offered)
        panel.line("failed", 2, _middles(found), found.failed)
        panel.rule(record.parameters.capacity_rps, "")
        panels.append(panel)
    return panels


def _latency(pairs: list[tuple[Record, Curves]]) -> list[Panel]:
    top = max(record.parameters.timeout_s for record, _ in pairs)
    panels = []
    for record, found in pairs:
        panel = _panel("How long answers take, seconds", record, top, 180, "")
        panel.line("half of them", 0, _middles(found), found.latency_p50_ms / 1e3)
        panel.line("95 of 100", 4, _middles(found), found.latency_p95_ms / 1e3)
        panel.rule(record.parameters.timeout_s, "apps give up")
        panels.append(panel)
    return panels


def _writes(pairs: list[tuple[Record, Curves]]) -> list[Panel]:
    top = max(float(found.unapplied_writes.max()) for _, found in pairs)
    panels = []
    for record, found in pairs:
        told = summary(record)["writes"]
        name = f"Writes waiting; {told['lost']} lost, {told['applied_twice']} applied twice"
        panel = _panel(name, record, top, 180, "")
        panel.area("not applied", 2 if told["lost"] else 0, _middles(found), found.unapplied_writes)
        back = everybody_back_s(record)
        if back is not None:
            panel.mark(back, "everybody back")
            end = back + record.parameters.drain_period_s(record.rules.levels.zombie)
            panel.mark(end, "end of the drain period")
        panels.append(panel)
    return panels


def _middles(found: Curves) -> Floats:
    return np.asarray(found.t_s + BIN_S / 2, dtype=np.float64)


def text(without: Record, with_zombie: Record, *, unicode: bool = True) -> str:
    """A table of both runs and the conditions, for a terminal."""
    bare, held = summary(without), summary(with_zombie)
    rows = [("", "without", "with zombie mode"), *_rows(bare, held, with_zombie.parameters.window_s)]
    lines = [f"{name:<44}{left:>16}{right:>18}".rstrip() for name, left, right in rows]
    marks = ("✓", "✗") if unicode else ("yes", "NO ")
    told = [_line(one, marks) for one in conditions(without, with_zombie)]
    parts = [_chart(without, with_zombie, unicode=unicode), _story(with_zombie), lines, told]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _story(record: Record) -> list[str]:
    """What apps were told after GO, and why."""
    go_s = record.parameters.go_s
    lines = [
        f"{published['t'] - go_s:>+6.1f} s  {published['level']:<11}{100 * published['buckets'] / BUCKETS:>4.0f} %  "
        f"{published['why']}"
        for published in record.published[1:]
    ]
    return ["What was published after GO: level, users in it, why", *(lines or ["nothing"])]


def _rows(bare: dict[str, Any], held: dict[str, Any], window_s: float) -> list[tuple[str, str, str]]:
    def both(name: str, show: Any) -> tuple[str, str, str]:
        return name, show(bare), show(held)

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.0f} s"

    return [
        both("goodput while users want more than capacity:", lambda s: ""),
        both("  on the whole", lambda s: f"{s['goodput_share_mean']:.1%}"),
        both(f"  in the worst {window_s:g} s", lambda s: f"{s['goodput_share_min']:.1%}"),
        both(
            "goodput at the end, users want", lambda s: f"{s['goodput_after_rps']:.0f} of {s['wanted_after_rps']:.0f}/s"
        ),
        both("most that the service got", lambda s: f"{s['peak_offered_rps']:,.0f}/s"),
        both("requests that failed", lambda s: f"{s['attempts_failed']:,} of {s['attempts']:,}"),
        both("slowest 5 % of answers, at worst", lambda s: f"{(s['latency_p95_ms_max'] or 0) / 1e3:.1f} s"),
        both("users served as ever, after GO", lambda s: seconds(s["recovered_s"])),
        both("reads answered", lambda s: f"{s['reads']['answered']:,}"),
        both("reads answered by the app itself", lambda s: f"{s['reads']['from_the_app']:,}"),
        both("reads failed", lambda s: f"{s['reads']['failed']:,}"),
        both("writes lost", lambda s: f"{s['writes']['lost']:,}"),
        both("writes applied twice", lambda s: f"{s['writes']['applied_twice']:,}"),
        both("writes kept from it by their key", lambda s: f"{s['writes']['kept_from_twice']:,}"),
    ]


def _line(one: Condition, marks: tuple[str, str]) -> str:
    return f"{marks[0 if one.holds else 1]} {one.name}\n    {one.told}"


_LEVELS: Final = " ▁▂▃▄▅▆▇█"


def _chart(without: Record, with_zombie: Record, *, unicode: bool) -> list[str]:
    """Goodput over time, one line for each run: the full height is the capacity."""
    lines = []
    for title, record in zip(TITLES, (without, with_zombie), strict=True):
        found = curves(record)
        share = np.clip(found.goodput / record.parameters.capacity_rps, 0, 1)
        per = -(-share.size // 60)
        groups = [float(share[i : i + per].mean()) for i in range(0, share.size, per)]
        levels = _LEVELS if unicode else " .:-=+*%#"
        lines.append(f"{title:<20} |{''.join(levels[round(8 * value)] for value in groups)}|")
    length = f"{with_zombie.parameters.length_s:g} s"
    width = len(lines[0])
    return ["Goodput over time; full height is the capacity.", *lines, length.rjust(width)]


def parameters_text(record: Record) -> str:
    """The parameters, so that nothing is hidden."""
    p, look = record.parameters, record.rules.levels.zombie
    least_s, most_s = look.poll_s / p.clock_factor, (look.poll_s + look.poll_jitter_s) / p.clock_factor
    return (
        f"One service: {p.slots} requests at a time, {p.service_s:g} s each, so {p.capacity_rps:g}/s; up to "
        f"{p.queue_max} more wait, first come, first served. Everyday load {p.everyday_rps:g}/s.\n"
        f"One push at {p.go_s:g} s, sent over {p.push_s:g} s; {p.opens} users open it (median {p.open_median_s:g} s, "
        f"sigma {p.open_sigma:g}), {p.requests_per_open} requests each; the forecast said {p.forecast_opens}.\n"
        f"Apps wait {p.timeout_s:g} s and retry {p.retries} times from {p.retry_first_s:g} s on, doubling; "
        f"{p.lost_answers:.0%} of writes' answers get lost. Apps and controller live {p.clock_factor:g} times as fast; "
        f"in zombie mode apps poll every {least_s:g} to {most_s:g} s. Seed {p.seed}; {p.length_s:g} s for each run.\n"
    )
