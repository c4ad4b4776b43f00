"""Pictures of curves over time, as SVG text: no script, no library, nothing to load; light and dark.

A `Panel` is one set of axes that series are drawn into; `page` puts panels into a grid. A file of its own: the style
is inside. Each panel tells in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scale = Callable[[float], float]

WIDTH: Final = 1_000
_GUTTER: Final = 24
_LEFT: Final = 58
_RIGHT: Final = 10
_TOP: Final = 46
_BOTTOM: Final = 30
_HEAD: Final = 64
_LINE: Final = 18
_TICKS: Final = 5
POINTS_MAX: Final = 800
"""Points drawn of a series: more than a panel has pixels across tell nothing. The maximum of each group is kept."""

STYLE: Final = """
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #222; } .small { fill: #666; font-size: 12px; } .title { font-size: 19px; font-weight: 600; }
.name { font-size: 14px; font-weight: 600; } .grid { stroke: #ddd; } .rule { stroke: #c0392b; stroke-dasharray: 5 4; }
.mark { stroke: #888; stroke-dasharray: 2 3; } .band { fill: #8e44ad; opacity: .10; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .area { stroke: none; opacity: .85; }
.s0 { --c: #2f6fb5; } .s1 { --c: #b9c4cf; } .s2 { --c: #c0392b; } .s3 { --c: #2e8b57; } .s4 { --c: #d08a1d; }
.area { fill: var(--c); } .line { stroke: var(--c); } .key { fill: var(--c); }
@media (prefers-color-scheme: dark) { svg { background: #16181c; } text { fill: #e6e6e6; } .small { fill: #a0a6ad; }
.grid { stroke: #33373d; } .s0 { --c: #5fa0e6; } .s1 { --c: #4d5762; } .s2 { --c: #e8685a; } .s3 { --c: #56b981; }
.s4 { --c: #e3a94a; } .rule { stroke: #e8685a; } }
"""


class Panel:
    """One set of axes: ``x`` from ``x0`` to ``x1`` in ``unit``, ``y`` from 0 to ``top`` in a unit of the caller's.

    ``told`` says in words what the picture shows. Series are drawn in the order in which they are added.
    """

    def __init__(
        self, name: str, x0: float, x1: float, top: float, *, height: int = 260, told: str = "", unit: str = "s"
    ) -> None:
        self.name = name
        self.unit = unit
        self.height = height
        self.told = told or name
        self._x0, self._x1 = x0, max(x1, x0 + 1e-9)
        self._top = nice_ceiling(top)
        self._series: list[tuple[str, int, Floats, Floats, Floats | None]] = []
        self._rules: list[tuple[float, str]] = []
        self._marks: list[tuple[float, str]] = []
        self._bands: list[tuple[float, float, str]] = []

    def area(self, label: str, colour: int, x: Floats, y: Floats, base: Floats | None = None) -> None:
        """Fills between ``base`` (by default 0) and ``y``."""
        self._series.append((label, colour, x, y, np.zeros_like(y) if base is None else base))

    def line(self, label: str, colour: int, x: Floats, y: Floats) -> None:
        """A line; where ``y`` is NaN it is broken."""
        self._series.append((label, colour, x, y, None))

    def rule(self, y: float, label: str) -> None:
        """A horizontal line, such as a capacity."""
        self._rules.append((y, label))

    def mark(self, x: float, label: str) -> None:
        """A vertical line at a moment."""
        self._marks.append((x, label))

    def band(self, x0: float, x1: float, label: str) -> None:
        """A stretch of time, shaded."""
        self._bands.append((x0, x1, label))

    def draw(self, left: float, top: float, width: float) -> str:
        """The panel's SVG with its upper left corner at (``left``, ``top``)."""
        box = _Box(left + _LEFT, top + _TOP, width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM)

        def px(x: float) -> float:
            return box.left + box.width * (min(max(x, self._x0), self._x1) - self._x0) / (self._x1 - self._x0)

        def py(y: float) -> float:
            return box.top + box.height * (1 - min(max(y / self._top, 0.0), 1.0))

        parts = [
            f'<text class="name" x="{left:.0f}" y="{top + 14:.0f}">{escape(self.name)}</text>',
            *(_band(px(x0), px(x1), label, box) for x0, x1, label in self._bands),
            *(_grid(y, py(y), box) for y in ticks(self._top, _TICKS)),
            *(_drawn(*series, px, py) for series in self._series),
            *(_rule(py(y), label, box) for y, label in self._rules),
            *(_mark(px(x), label, row, box) for row, (x, label) in enumerate(self._marks)),
            *(_moment(self._x0 + x, self.unit, px(self._x0 + x), box) for x in ticks(self._x1 - self._x0, 6)),
            _legend([(label, colour) for label, colour, *_ in self._series], left, top + 32),
        ]
        return f'<g role="img" aria-label="{escape(self.told)}">{"".join(parts)}</g>'


def page(title: str, lines: Sequence[str], panels: Sequence[Sequence[Panel]]) -> str:
    """A picture with a title, some lines of text and rows of panels, as a whole SVG file."""
    parts = [f'<text class="title" x="16" y="32">{escape(title)}</text>']
    parts += [f'<text class="small" x="16" y="{54 + _LINE * i}">{escape(line)}</text>' for i, line in enumerate(lines)]
    top: float = _HEAD + _LINE * len(lines)
    for row in panels:
        width = (WIDTH - 32 - _GUTTER * (len(row) - 1)) / len(row)
        parts += [panel.draw(16 + i * (width + _GUTTER), top, width) for i, panel in enumerate(row)]
        top += max(panel.height for panel in row) + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" width="{WIDTH}" height="{top:.0f}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def ticks(top: float, wanted: int) -> list[float]:
    """Round values from 0 to ``top``, about ``wanted`` of them."""
    step = _nice_step(top / wanted)
    return [i * step for i in range(math.floor(top / step + 1e-9) + 1)]


def nice_ceiling(value: float) -> float:
    """The next round value, so that the highest curve stays inside."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    step = _nice_step(value / _TICKS)
    return math.ceil(value / step - 1e-9) * step


def short(value: float) -> str:
    """``12k``, ``1.5M``."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{name}"
    return f"{value:.4g}"


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS_MAX` points, of each group the highest: a peak one step wide stays in the picture."""
    if x.size <= POINTS_MAX:
        return x, y
    group = math.ceil(x.size / POINTS_MAX)
    whole = x.size // group * group
    rows = y[:whole].reshape(-1, group)
    chosen = np.arange(0, whole, group) + np.nan_to_num(rows, nan=-1.0).argmax(axis=1)
    chosen = np.append(chosen, np.arange(whole, x.size))
    return x[chosen], y[chosen]


class _Box(NamedTuple):
    """Where a panel's curves are, in units of the picture."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


def _band(x0: float, x1: float, label: str, box: _Box) -> str:
    place = f'x="{x0:.1f}" y="{box.top:.1f}" width="{max(x1 - x0, 0):.1f}" height="{box.height:.1f}"'
    return f'<rect class="band" {place}><title>{escape(label)}</title></rect>'


def _grid(value: float, y: float, box: _Box) -> str:
    line = f'<line class="grid" x1="{box.left:.1f}" x2="{box.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(box.left - 8, y + 4, short(value), "end")


def _rule(y: float, label: str, box: _Box) -> str:
    line = f'<line class="rule" x1="{box.left:.1f}" x2="{box.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(box.right - 4, y - 5, label, "end")


def _mark(x: float, label: str, row: int, box: _Box) -> str:
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{box.top - 4:.1f}" y2="{box.bottom:.1f}"/>'
    # Near the right edge the label stands on the left of its line; neighbours stand at different heights.
    end = x > box.left + box.width * 0.8
    return line + _text(x + (-4 if end else 4), box.top + 10 + 14 * (row % 4), label, "end" if end else "start")


def _moment(value: float, unit: str, x: float, box: _Box) -> str:
    return _text(x, box.bottom + 20, f"{short(value)} {unit}", "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _drawn(label: str, colour: int, x: Floats, y: Floats, base: Floats | None, px: Scale, py: Scale) -> str:
    if base is None:
        kind, path = "line", _path(x, y, px, py)
    else:
        kind, path = "area", _outline(x, y, base, px, py)
    return f'<path class="{kind} s{colour}" d="{path}"><title>{escape(label)}</title></path>'


def _path(x: Floats, y: Floats, px: Scale, py: Scale) -> str:
    found, pen = [], "M"
    for at, value in zip(*thinned(x, y), strict=True):
        if math.isnan(value):
            pen = "M"
            continue
        found.append(f"{pen}{px(float(at)):.1f} {py(float(value)):.1f}")
        pen = "L"
    return "".join(found)


def _outline(x: Floats, y: Floats, base: Floats, px: Scale, py: Scale) -> str:
    upper, lower = list(zip(*thinned(x, y), strict=True)), list(zip(*thinned(x, base), strict=True))
    points = [f"{px(float(a)):.1f} {py(float(b)):.1f}" for a, b in (*upper, *reversed(lower))]
    return f"M{'L'.join(points)}Z"


def _legend(keys: Iterable[tuple[str, int]], left: float, y: float) -> str:
    parts, at = [], left
    for label, colour in keys:
        parts.append(
            f'<rect class="key s{colour}" x="{at:.0f}" y="{y - 9:.0f}" width="10" height="10"/>'
            f'<text class="small" x="{at + 14:.0f}" y="{y:.0f}">{escape(label)}</text>'
        )
        at += 14 + 6.6 * len(label) + 14
    return "".join(parts)
