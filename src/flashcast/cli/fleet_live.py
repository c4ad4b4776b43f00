"""A launch and its workers as a table: for `flashcast status`, and live after GO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flashcast.cli.common import err, interactive
from flashcast.limits import DISPLAY_HZ

if TYPE_CHECKING:
    from flashcast.arm.readiness import ProviderReadiness
    from flashcast.campaign.records import LaunchRecord
    from flashcast.go.follow import Heard, Sighting

WORKERS_SHOWN_MAX: Final = 30
"""Lines of workers; what is beyond a screen is counted."""


class Picture:
    """Draws sightings of one launch; remembers the one before, for rates."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, int]] = (0.0, {})
        self._rates: dict[str, float] = {}
        self._told: Sighting | None = None

    def draw(self, sighting: Sighting) -> RenderableType:
        """The launch now."""
        self._measure(sighting)
        parts: list[RenderableType] = [headline(sighting.record, sighting.at)]
        if sighting.record.paused is not None:
            paused = sighting.record.paused
            parts.append(Text(f"PAUSED by {paused.by}: {paused.why or 'no reason given'}", style="bold yellow"))
        if sighting.total.providers:
            self._told = sighting
        if self._told is not None:  # workers that have let go of a launch tell no more of it
            parts.append(self._providers(self._told))
        if sighting.heard:
            parts.append(self._workers(sighting))
        return Group(*parts)

    def _measure(self, sighting: Sighting) -> None:
        counts = {provider.value: _replied(part) for provider, part in sighting.total.providers.items()}
        for worker, holding in sighting.holdings.items():
            counts[f"worker {worker}"] = sum(_replied(part) for part in holding.providers.values())
        before_s, before = self._before
        span_s = sighting.at - before_s
        if before and span_s < 0.5 / DISPLAY_HZ:
            return
        # Counters fall where a worker is lost; that is no negative rate.
        self._rates = {name: max(0, count - before.get(name, count)) / span_s for name, count in counts.items()}
        self._before = sighting.at, counts

    def _providers(self, sighting: Sighting) -> Table:
        table = _table("", "replies/s", "accepted", "rejected", "failed", "unknown", "in flight", "to send", "open")
        for provider, part in sorted(sighting.total.providers.items()):
            done = _replied(part) + part.unknown + part.in_flight
            rows = sighting.record.snapshot.rows.get(provider, 0) if sighting.record.snapshot is not None else part.rows
            settled = part.accepted, part.rejected, part.failed, part.unknown, part.in_flight
            figures = (self._rates.get(provider.value, 0.0), *settled, max(0, rows - done), part.connections)
            table.add_row(provider.value, *(f"{figure:,.0f}" for figure in figures))
        return table

    def _workers(self, sighting: Sighting) -> Table:
        table = _table("worker", "age", "ready", "shards", "rows", "replies/s", "in flight", "open")
        table.add_column("", overflow="fold")
        launch = sighting.record.launch
        ordered = sorted(sighting.heard, key=lambda one: (launch not in one.beat.launches, not one.alive))
        for one in ordered[:WORKERS_SHOWN_MAX]:
            name = f"worker {one.beat.worker}"
            table.add_row(*_worker_cells(one, launch, self._rates.get(name, 0.0)))
        more = len(ordered) - WORKERS_SHOWN_MAX
        if more > 0:
            table.add_row(f"and {more:,} more")
        return table


def headline(record: LaunchRecord, now: float) -> Text:
    """The launch's name and state, and how long it has been so."""
    told = f"{record.launch}: {record.state.value}, {record.rows:,} devices"
    if record.go is not None:
        until = record.closed_at if record.closed_at is not None else now
        told += f", GO + {max(0.0, until - record.go.at):.1f} s by {record.go.by}"
        if record.stages:
            told += f", stage {record.stage + 1} of {record.last_stage + 1}"
        if record.settling:
            told += f", window {record.window_s:g} s"
        if record.ended and record.settling:
            told += ", settling"
    elif record.trail:
        told += f" for {_span(now - record.trail[-1].at)}, by {record.trail[-1].by}"
    return Text(told, style="bold")


def _span(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _worker_cells(one: Heard, launch: str, rate_per_s: float) -> list[Text]:
    holding = one.beat.launches.get(launch)
    parts = list(holding.providers.values()) if holding is not None else []
    faults = [fault for fault in (one.beat.fault, holding.fault if holding is not None else "") if fault]
    told = "silent" if not one.alive else "; ".join(dict.fromkeys(faults)) or ("leaving" if one.beat.draining else "")
    cells: list[Any] = [
        one.beat.worker, f"{one.age_s:.1f} s", "" if holding is None else "yes" if holding.ready else "no",
        f"{len(holding.shards):,}" if holding is not None else "", f"{sum(p.rows for p in parts):,}",
        f"{rate_per_s:,.0f}", f"{sum(p.in_flight for p in parts):,}", f"{sum(p.connections for p in parts):,}", told,
    ]  # fmt: skip
    style = "" if one.alive else "dim"
    return [Text(cell, style=style) for cell in cells]


def _replied(part: ProviderReadiness) -> int:
    return part.accepted + part.rejected + part.failed


def _table(first: str, *figures: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


@contextmanager
def live_picture() -> Iterator[Callable[[Sighting], None]]:
    """A function that shows a sighting in place of the one before; nothing where nobody watches."""
    if not interactive():
        yield lambda sighting: None
        return
    picture = Picture()
    with Live(console=err, auto_refresh=False) as live:
        yield lambda sighting: live.update(picture.draw(sighting), refresh=True)
