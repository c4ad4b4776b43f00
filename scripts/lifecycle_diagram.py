"""The lifecycle's table as a picture: docs/reference/lifecycle.svg. Pure: the table in, SVG out.

The way to the end runs from left to right. What leads back runs below, an end ahead of time above; what changes nothing
stands in the state itself.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Final

from flashcast.campaign.lifecycle import TRANSITIONS, Input, State

_ROW: Final = [state for state in State if state is not State.ABORTED]
_STEP, _LEFT, _WIDTH, _HEIGHT = 170, 20, 116, 50
_ABOVE, _MIDDLE = 30, 150
_DEPTH: Final = 32
"""How much lower each level of ways back runs."""
_STYLE: Final = """
  text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .state { font-weight: 600 } .stays { font-size: 10.5px; fill: #59636e } .label { font-size: 12px; fill: #0550ae }
  rect.box { fill: #f6f8fa; stroke: #59636e; rx: 8 } rect.live { fill: #ffebe9; stroke: #cf222e; rx: 8 }
  path { fill: none; stroke: #59636e; stroke-width: 1.4; marker-end: url(#head) } rect.behind { fill: #ffffff }
"""
_HEAD: Final = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" style="fill:#59636e;stroke:none;marker-end:none"/>'
    "</marker></defs>"
)


def diagram() -> str:
    """The whole picture."""
    edges: dict[tuple[State, State], list[Input]] = defaultdict(list)
    for (before, what), after in TRANSITIONS.items():
        edges[before, after].append(what)
    ways = {pair: " ".join(inputs) for pair, inputs in edges.items() if pair[0] is not pair[1]}
    stays = {before: [*inputs] for (before, after), inputs in edges.items() if before is after}
    levels = _levels(list(ways))
    drawn = [_way(*pair, label, levels.get(pair, 0)) for pair, label in ways.items()]
    width = _LEFT * 2 + _STEP * (len(_ROW) - 1) + _WIDTH
    height = _MIDDLE + _HEIGHT + _DEPTH * max(levels.values()) + 25
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>The lifecycle of a launch</title>",
        f"<style>{_STYLE}</style>",
        _HEAD,
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(path for path, _ in drawn),
        *(label for _, label in drawn),
        *(_box(state, stays.get(state, [])) for state in State),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place(state: State) -> tuple[int, int]:
    """The upper left corner of a state's box."""
    if state is State.ABORTED:
        return _LEFT + _STEP * _ROW.index(State.ARMED), _ABOVE
    return _LEFT + _STEP * _ROW.index(state), _MIDDLE


def _box(state: State, stays: list[Input]) -> str:
    x, y = _place(state)
    kind = "live" if state is State.LIVE else "box"
    middle = x + _WIDTH // 2
    told = escape(" ".join(stays))
    name_y = y + (22 if stays else 30)
    below = f'<text class="stays" x="{middle}" y="{y + 39}">{told}</text>' if stays else ""
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f'<text class="state" x="{middle}" y="{name_y}">{state.value}</text>{below}'
    )


def _levels(ways: list[tuple[State, State]]) -> dict[tuple[State, State], int]:
    """How deep each way back runs: short ones first, and none on the level of another that it would cover."""
    levels: dict[tuple[State, State], int] = {}
    back = [(a, b) for a, b in ways if State.ABORTED not in (a, b) and _ROW.index(b) < _ROW.index(a)]
    for before, after in sorted(back, key=lambda way: (_ROW.index(way[0]) - _ROW.index(way[1]), _ROW.index(way[1]))):
        level = 1
        while any(at == level and _meet((before, after), way) for way, at in levels.items()):
            level += 1
        levels[before, after] = level
    return levels


def _meet(one: tuple[State, State], other: tuple[State, State]) -> bool:
    return _ROW.index(one[1]) < _ROW.index(other[0]) and _ROW.index(other[1]) < _ROW.index(one[0])


def _way(before: State, after: State, label: str, level: int) -> tuple[str, str]:
    """An arrow, and its label."""
    (x1, y1), (x2, y2) = _place(before), _place(after)
    if after is State.ABORTED:
        side = (x1 - x2) // _STEP
        begin = (x1 + _WIDTH // 2, y1)
        end = (x2 + _WIDTH // 2, y2 + _HEIGHT) if side == 0 else (x2 if side < 0 else x2 + _WIDTH, y2 + _HEIGHT // 2)
        bend = (begin[0], end[1]) if side else begin
        path = f"M{begin[0]} {begin[1]} Q{bend[0]} {bend[1]} {end[0]} {end[1]}"
        return _path(path), _label((begin[0] + bend[0]) // 2, (y1 + y2 + _HEIGHT) // 2 + 4, label)
    if x2 > x1:
        y = y1 + _HEIGHT // 2
        return _path(f"M{x1 + _WIDTH} {y} H{x2}"), _label((x1 + _WIDTH + x2) // 2, y - 7, label)
    # Ways back leave and arrive side by side, the deeper ones further out.
    begin_x, end_x = x1 + _WIDTH // 2 + 12 * (3 - level), x2 + _WIDTH // 2 - 12 * (level - 1)
    bottom = y1 + _HEIGHT
    low = bottom + _DEPTH * level
    path = f"M{begin_x} {bottom} C{begin_x} {low} {begin_x} {low} {begin_x - 30} {low} H{end_x + 30} C{end_x} {low} "
    return _path(f"{path}{end_x} {low} {end_x} {bottom}"), _label((begin_x + end_x) // 2, low + 4, label)


def _path(d: str) -> str:
    return f'<path d="{d}"/>'


def _label(x: int, y: int, text: str) -> str:
    half = 4 * len(text) + 3
    behind = f'<rect class="behind" x="{x - half}" y="{y - 11}" width="{2 * half}" height="14"/>'
    return f'{behind}<text class="label" x="{x}" y="{y}">{escape(text)}</text>'
