"""The pictures of the page, drawn as SVG text: no script, no library, nothing to load.

Colours come from CSS classes, so that the pictures follow light and dark. Each picture tells in words what
it shows (``aria-label``), and each column of it its figures on hover (``<title>``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast import latency
from flashcast.report.charts import Charts

Scale = Callable[[float], float]
"""A value to its place on the picture."""

WIDTH: Final = 1_000
_LEFT: Final = 64
_RIGHT: Final = 12
_TOP: Final = 26
_BOTTOM: Final = 34
_PLOT: Final = WIDTH - _LEFT - _RIGHT
_TICKS: Final = 5
_CHARACTER: Final = 8.6
"""Width of a character of a percentile's label, generously."""
_GAP: Final = 6
_COLUMNS_MAX: Final = 60
"""Columns of a distribution: buckets are merged until so many are left, for a calm outline."""


def throughput(charts: Charts, height: int = 280) -> str:
    """Accepted rows per second over the time since GO, stacked by provider."""
    bins = max((counts.size for counts in charts.accepted.values()), default=0)
    per_s = 1_000 / charts.bin_ms
    series = {provider.value: counts * per_s for provider, counts in charts.accepted.items()}
    total: NDArray[np.float64] = np.sum(list(series.values()), axis=0, dtype=np.float64) if bins else np.zeros(1)
    top = _nice_ceiling(float(total.max()))
    if top == 0:
        return _empty("No request was accepted.")
    seconds = bins * charts.bin_ms / 1_000
    plot_height = height - _TOP - _BOTTOM

    def y(value: float) -> float:
        return _TOP + plot_height * (1 - value / top)

    parts = list(_horizontal_grid(top, y))
    parts.append(f'<text class="axis-name" x="{_LEFT}" y="14">accepted per second</text>')
    base = np.zeros(bins)
    for name, values in series.items():
        parts.append(f'<path class="area {name}" d="{_steps(base, base + values, y)}"/>')
        base = base + values
    parts += [_x_label(_LEFT + _PLOT * second / seconds, height, f"{second:g} s") for second in _ticks(seconds, 8)]
    step = _PLOT / bins
    for i in range(bins):
        told = ", ".join(f"{name} {values[i]:,.0f}/s" for name, values in series.items())
        title = f"{i * charts.bin_ms / 1_000:g} to {(i + 1) * charts.bin_ms / 1_000:g} s: {told}"
        parts.append(_hover(_LEFT + i * step, step, plot_height, title))
    peak = int(total.argmax())
    label = (
        f"Accepted per second since GO, over {seconds:g} seconds; "
        f"the peak is {total[peak]:,.0f} per second at {peak * charts.bin_ms / 1_000:g} seconds."
    )
    return _svg(label, height, parts)


def latency_distribution(charts: Charts, marks: Mapping[str, float | None], height: int = 260) -> str:
    """How reply times are spread, on a logarithmic axis, with ``marks`` (name -> milliseconds) as lines."""
    columns = _columns(charts.latency_us)
    if not columns:
        return _empty("No reply was timed.")
    left, right = math.log(columns[0][0]), math.log(columns[-1][1])
    plot_height = height - _TOP - _BOTTOM
    # A column's area, not its height, is its count: columns of one doubling differ in width on this axis.
    density = [count / (math.log(last) - math.log(first)) for first, last, count in columns]
    tallest, total = max(density), sum(count for _, _, count in columns)

    def x(us: float) -> float:
        return _LEFT + _PLOT * (math.log(us) - left) / (right - left)

    parts = [_grid_line(height - _BOTTOM)]
    for (first, last, count), share in zip(columns, density, strict=True):
        tall = plot_height * share / tallest
        parts.append(
            f'<rect class="column" x="{x(first):.1f}" width="{max(x(last) - x(first) - 0.5, 0.5):.1f}" '
            f'y="{height - _BOTTOM - tall:.1f}" height="{tall:.1f}">'
            f"<title>{_ms(first)} to {_ms(last)}: {count:,} replies, "
            f"{100 * count / total:.2f} %</title></rect>"
        )
    parts += _marks(marks, x, math.exp(right), height)
    edges = (math.exp(left), math.exp(right))
    parts += [_x_label(x(us), height, _ms(us)) for us in _decades(*edges)]
    told = ", ".join(f"{name} {ms:g} ms" for name, ms in marks.items() if ms is not None)
    return _svg(f"Distribution of reply times; {told}.", height, parts)


def share_bar(counts: Mapping[str, int], height: int = 34) -> str:
    """One bar cut into the outcomes. A part too thin to see is drawn two units wide."""
    total = sum(counts.values())
    shown = {name: count for name, count in counts.items() if count}
    if not total:
        return _empty("There was no device.")
    widths = {name: max(WIDTH * count / total, 2.0) for name, count in shown.items()}
    largest = max(widths, key=lambda name: widths[name])
    widths[largest] -= sum(widths.values()) - WIDTH
    parts, at = [], 0.0
    for name, width in widths.items():
        title = f"{name}: {shown[name]:,} of {total:,}, {100 * shown[name] / total:.2f} %"
        parts.append(
            f'<rect class="{escape(name)}" x="{at:.2f}" width="{max(width - 1, 1):.2f}" height="{height}">'
            f"<title>{escape(title)}</title></rect>"
        )
        at += width
    told = ", ".join(f"{name} {count:,}" for name, count in shown.items())
    return _svg(f"Outcomes of {total:,} devices: {told}.", height, parts, kind="bar")


def _columns(histogram: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(first us, first us of the next, count) of columns, from the first in use to the last."""
    used = np.flatnonzero(histogram)
    if not used.size:
        return []
    span = int(used[-1] - used[0]) + 1
    width = next((w for w in (1, 2, 4, 8, 16) if span <= w * _COLUMNS_MAX), latency.SUB_BUCKETS)
    columns = []
    for start in range(int(used[0]) // width * width, int(used[-1]) + 1, width):
        first, _ = latency.bounds(start)
        _, last = latency.bounds(start + width - 1)
        # A logarithmic axis has no zero: what took less than a microsecond is drawn as if it took one.
        columns.append((max(first, 1), max(last + 1, 2), int(histogram[start : start + width].sum())))
    return columns


def _marks(marks: Mapping[str, float | None], x: Scale, us_max: float, height: int) -> Iterable[str]:
    """A line and a label per percentile, each label where it hides no other and no other's line."""
    known = {
        f"{name} {_ms(ms * 1_000)}": x(min(max(ms * 1_000, 1), us_max)) for name, ms in marks.items() if ms is not None
    }
    taken: list[tuple[float, float, int]] = []
    for text, at in known.items():
        others = [line for line in known.values() if line != at]
        left, right, level = _label_place(at, len(text) * _CHARACTER + _GAP, others, taken)
        taken.append((left, right, level))
        side = f'x="{at - _GAP:.1f}" text-anchor="end"' if left < at else f'x="{at + _GAP:.1f}"'
        yield f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 18}" y2="{height - _BOTTOM}"/>'
        yield f'<text class="mark-name" {side} y="{_TOP - 8 + 16 * level}">{escape(text)}</text>'


def _label_place(
    at: float, width: float, lines: Sequence[float], taken: Sequence[tuple[float, float, int]]
) -> tuple[float, float, int]:
    """Left edge, right edge and level of a label beside ``at``: the first free place, on the right if it can be.

    Where every place is crossed by a line, one that only hides no label will do.
    """
    places = [(edge, edge + width, level) for level in range(len(taken) + 1) for edge in (at, at - width)]
    inside = [place for place in places if place[1] <= WIDTH and place[0] >= 0] or places
    free = [p for p in inside if not any(p[2] == t[2] and p[0] < t[1] and t[0] < p[1] for t in taken)] or inside
    clear = [p for p in free if not any(p[0] < line < p[1] for line in lines)]
    return (clear or free)[0]


def _steps(low: NDArray[np.float64], high: NDArray[np.float64], y: Scale) -> str:
    """The outline of a staircase between two series: forth along the upper edge, back along the lower."""
    step = _PLOT / high.size
    forth = [f"{_LEFT + (i + k) * step:.1f} {y(float(v)):.1f}" for i, v in enumerate(high) for k in (0, 1)]
    back = [f"{_LEFT + (i + k) * step:.1f} {y(float(low[i])):.1f}" for i in range(low.size - 1, -1, -1) for k in (1, 0)]
    return "M" + " L".join(forth + back) + "Z"


def _horizontal_grid(top: float, y: Scale) -> Iterable[str]:
    for value in _ticks(top, _TICKS):
        at = y(value)
        yield _grid_line(at)
        yield f'<text class="tick" x="{_LEFT - 10}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>'


def _grid_line(at: float) -> str:
    return f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'


def _ticks(top: float, wanted: int) -> Sequence[float]:
    """Round values from 0 to ``top``, about ``wanted`` of them."""
    step = _nice_step(top / wanted)
    return [i * step for i in range(math.floor(top / step + 1e-9) + 1)]


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _nice_ceiling(value: float) -> float:
    if value <= 0:
        return 0.0
    step = _nice_step(value / _TICKS)
    return math.ceil(value / step - 1e-9) * step


def _decades(first_us: float, last_us: float) -> list[float]:
    """1, 2, 5, 10 ... between the ends of a logarithmic axis; powers of ten alone where that is too many."""
    low, high = math.floor(math.log10(first_us)), math.ceil(math.log10(last_us))
    for steps in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        found = [s * 10.0**e for e in range(low, high + 1) for s in steps if first_us <= s * 10.0**e <= last_us]
        if len(found) <= 12:
            break
    return found


def _ms(us: float) -> str:
    return f"{us / 1e6:.3g} s" if us >= 999_500 else f"{us / 1e3:.3g} ms"


def _short(value: float) -> str:
    for size, name in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{name}"
    return f"{value:g}"


def _x_label(at: float, height: int, text: str) -> str:
    anchor = "end" if at > WIDTH - 30 else "middle"
    return f'<text class="tick" x="{at:.1f}" y="{height - 12}" text-anchor="{anchor}">{escape(text)}</text>'


def _hover(at: float, width: float, height: float, title: str) -> str:
    return (
        f'<rect class="hover" x="{at:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _svg(label: str, height: int, parts: Iterable[str], kind: str = "chart") -> str:
    fit = ' preserveAspectRatio="none"' if kind == "bar" else ""
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {height}"{fit}>'
        f"{''.join(parts)}</svg>"
    )


def _empty(text: str) -> str:
    return f'<p class="nothing">{escape(text)}</p>'
