"""From answers to values: a probe's window, a query's result, a pushed line. Pure."""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, Final, Literal, NamedTuple

from flashcast.zombie.rule_parts import SAMPLES_MAX

LARGEST: Final = 1.7976931348623157e308
"""Stands for infinity, which JSON has not: a quantile above every bucket is bad, not missing."""
AHEAD_S_MAX: Final = 60.0
"""How far a pushed value's clock may be ahead of ours. A value from next year would stay fresh until then."""


class Sample(NamedTuple):
    """One answer of a probe, or none. Times in nanoseconds of the monotonic clock."""

    at_ns: int
    failed: bool
    latency_ms: float


class Window:
    """The latest answers of a probe."""

    def __init__(self, window_s: float) -> None:
        self._window_ns = int(window_s * 1e9)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def __repr__(self) -> str:
        return f"<Window {len(self._samples)} samples>"

    def add(self, sample: Sample) -> None:
        """Notes an answer. They come in the order of their times."""
        self._samples.append(sample)

    def measures(self, now_ns: int) -> tuple[float, dict[str, float]]:
        """The age of the newest answer in seconds, and each measure; none where there is no answer in the window."""
        while self._samples and now_ns - self._samples[0].at_ns > self._window_ns:
            self._samples.popleft()
        if not self._samples:
            return math.inf, {}
        latencies = sorted(sample.latency_ms for sample in self._samples)
        found = {"failures": sum(sample.failed for sample in self._samples) / len(latencies)}
        found |= {f"p{percent}_ms": percentile(latencies, percent) for percent in (50, 90, 95, 99)}
        return max(0.0, (now_ns - self._samples[-1].at_ns) / 1e9), found


def percentile(ordered: list[float], percent: int) -> float:
    """The nearest-rank percentile of ascending values: one of them, never one that was not measured."""
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def prometheus_value(body: bytes, many: Literal["max", "min", "sum", "mean"] | None, empty: float | None) -> float:
    """The value of an instant query's answer (https://prometheus.io/docs/prometheus/latest/querying/api/).

    Raises ValueError, which says why there is none.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the answer is no JSON") from None
    if not isinstance(answer, dict) or answer.get("status") != "success":
        kind = answer.get("errorType") if isinstance(answer, dict) else None
        raise ValueError(f"the query fails: {kind}" if isinstance(kind, str) else "the answer is no query's")
    values = [value for value in _values(answer.get("data")) if not math.isnan(value)]
    if not values:
        if empty is None:
            raise ValueError("the query has no value; `empty` can say what that means")
        return empty
    if len(values) > 1 and many is None:
        raise ValueError(f"the query has {len(values)} values; `many` can say which counts")
    total = sum(values)
    made = {"max": max(values), "min": min(values), "sum": total, "mean": total / len(values), None: values[0]}[many]
    return max(-LARGEST, min(LARGEST, made))


def _values(data: Any) -> list[float]:
    kind = data.get("resultType") if isinstance(data, dict) else None
    if kind not in ("scalar", "vector"):
        raise ValueError("the query's result is neither scalar nor vector")
    result = data.get("result")
    try:
        # A sample is [time, "value"], in text because of NaN and infinity.
        return [float(result[1])] if kind == "scalar" else [float(one["value"][1]) for one in result]
    except (TypeError, ValueError, KeyError, IndexError):
        raise ValueError("the query's result is not what Prometheus gives") from None


class Pushed(NamedTuple):
    """A value that was brought; ``at`` in Unix seconds."""

    value: float
    at: float


def pushed_value(lines: bytes, name: str, written_at: float, now: float) -> Pushed:
    """The last value of ``name`` among JSON lines; one without `at` is as old as the file. Raises ValueError."""
    for line in reversed(lines.splitlines()):
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut off at our end of the file, or half written at the other
        if isinstance(said, dict) and said.get("signal") == name:
            return checked_push(said.get("value"), said.get("at", written_at), now)
    raise ValueError(f"no line is about {name}")


def checked_push(value: object, at: object, now: float) -> Pushed:
    """What was pushed, where it is a number and not from the future. Raises ValueError."""
    numbers = [n for n in (value, at) if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != 2 or not all(-LARGEST <= n <= LARGEST for n in numbers):
        raise ValueError("value and at must be numbers")
    if numbers[1] > now + AHEAD_S_MAX:
        raise ValueError(f"it is from {numbers[1] - now:.0f} s ahead; are the clocks right?")
    return Pushed(float(numbers[0]), float(numbers[1]))
