"""From the store to findings: which windows, what was heard, and what each feature's counts say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from flashcast.zombie.reports.complaint import moment
from flashcast.zombie.reports.config import OTHER, ReportsConfig, load_config
from flashcast.zombie.reports.spikes import Finding, Verdict, Window, judge, worst
from flashcast.zombie.reports.store import Store
from flashcast.zombie.reports.windows import Span, earlier

ANY: Final = "*"
"""The feature that stands for the worst of all."""


class Watched(NamedTuple):
    """What is known at a time. ``findings`` has one for each feature, the worst of its windows."""

    at: float
    """Up to when the sources of the alarm that are heard were heard; never ahead of the clock."""
    gap: str
    """What is not heard any more; empty where all is."""
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all features together."""
        return worst(self.findings).verdict

    def of(self, feature: str) -> Finding:
        """A feature's finding, or the worst with `ANY`. Raises KeyError."""
        if feature == ANY:
            return worst(self.findings)
        return next(one for one in self.findings if one.feature == feature)


def watch(store: Store, config: ReportsConfig, now: float) -> Watched:
    """What the alarm says of each feature, with windows that end where the sources that are heard were heard last.

    A source that is not heard any more does not stop them: what the others bring can be an alarm, though never calm.
    """
    sources, until = config.watched, store.heard_until()
    late = [name for name in sources if now - until.get(name, -math.inf) > config.sources[name].late_s]
    gaps = [f"{name} was last heard {moment(until[name])}" if name in until else f"{name} was never heard"
            for name in late]  # fmt: skip
    gap = "; ".join(gaps) if sources else "no source is watched (`alarm`)"
    heard = [until[name] for name in sources if name not in late]
    known = [until[name] for name in sources if name in until]
    end = float(min(now, min(heard) if heard else max(known, default=now)))
    names = (*config.features, OTHER)
    found: dict[str, list[Finding]] = {name: [] for name in names}
    for minutes in config.alarm.windows_m:
        span = Span(end - 60 * minutes, end)
        for name, window in _windows(store, config, span, minutes, gap, names).items():
            found[name].append(judge(name, window, config.alarm))
    return Watched(end, gap, tuple(worst(found[name]) for name in names))


def watch_file(path: Path, now: float) -> Watched:
    """The same for the file of complaints at ``path``. Raises FlashcastError."""
    config = load_config(path)
    with Store(Path(config.store), create=False) as store:
        return watch(store, config, now)


def document(watched: Watched) -> dict[str, Any]:
    """As JSON."""
    findings = [
        {
            "feature": one.feature, "verdict": one.verdict.value, "window_m": one.window_m, "count": one.count,
            "expected": None if math.isnan(one.expected) else one.expected, "ratio": one.ratio, "chance": one.chance,
            "days": one.days, "value": one.value, "text": one.text,
        }
        for one in watched.findings
    ]  # fmt: skip
    return {"at": watched.at, "verdict": watched.verdict.value, "gap": watched.gap, "findings": findings}


def value_of(said: object, feature: str) -> tuple[float, float]:
    """Value and time of a feature in a `document` that came over the network. Raises ValueError where it is not known.

    What is not known is a missing signal, never a calm one. An alarm is one, whatever else is not known.
    """
    findings = said.get("findings") if isinstance(said, Mapping) else None
    at = said.get("at") if isinstance(said, Mapping) else None
    if not isinstance(findings, list) or not _is_number(at) or not findings:
        raise ValueError("the answer is none about complaints")
    chosen = [one for one in findings if isinstance(one, Mapping) and feature in (ANY, one.get("feature"))]
    if not chosen:
        raise ValueError(f"there is no feature {feature!r}")
    values = [_value(one) for one in chosen]
    alarms = [value for value in values if value is not None and value > 0]
    if not alarms and None in values:
        first = next(one for one, value in zip(chosen, values, strict=True) if value is None)
        raise ValueError(f"not known: {str(first.get('text'))[:300]}")
    return max(alarms, default=0.0), float(at)  # type: ignore[arg-type]


def _value(one: Mapping[str, Any]) -> float | None:
    """0 for calm, more for an alarm, None for what is not known, or makes no sense."""
    value, verdict = one.get("value"), one.get("verdict")
    if verdict == Verdict.ALARM.value:
        # An alarm whose value is missing or no number is one all the same.
        return float(value) if _is_number(value) and value > 0 else 1.0  # type: ignore[operator,arg-type]
    return 0.0 if verdict == Verdict.CALM.value else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _windows(
    store: Store, config: ReportsConfig, span: Span, minutes: int, gap: str, names: Iterable[str]
) -> dict[str, Window]:
    alarm, sources = config.alarm, config.watched
    before = list(earlier(span, config.time_zone, alarm.days, 7 if alarm.same_weekday else 1))
    heard = {
        name: store.slots(name, min((one.since for one in before), default=span.since), span.until) for name in sources
    }
    if not gap:
        holes = [name for name in sources if not span.is_in(heard[name])]
        gap = f"not heard all the time: {', '.join(holes)}" if holes else ""
    counted = [
        store.counts(one.since, one.until, sources)
        for one in before
        if all(one.is_in(heard[name]) for name in sources)
    ]  # fmt: skip
    current = _folded(store.counts(span.since, span.until, sources), names)
    past = [_folded(one, names) for one in counted]
    return {name: Window(minutes, current[name], [one[name] for one in past], gap) for name in names}


def _folded(counts: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """A feature that is no longer in the file counts as other."""
    found = dict.fromkeys(names, 0)
    for name, count in counts.items():
        found[name if name in found else OTHER] += count
    return found
