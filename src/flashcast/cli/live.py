"""What a person sees after GO: a table of rates, five times a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.live import Live
from rich.table import Table

from flashcast.cli.common import err, interactive
from flashcast.limits import DISPLAY_HZ

if TYPE_CHECKING:
    from flashcast.cli.interrupts import Interrupts
    from flashcast.deliver.run import Run
    from flashcast.model import Provider
    from flashcast.service import LaunchSession

_POLL_S: Final = 0.05
"""How soon an interrupt is noticed: an abort takes effect within 250 ms, lanes included."""


def watch(session: LaunchSession, interrupts: Interrupts) -> None:
    """Waits for the end of a launch, showing how it goes; an interrupt aborts it in order, a second ends the wait."""
    run = session.run
    assert run is not None
    paused: str | None = None
    with _display(run) as show:
        while not session.wait(_POLL_S) and not interrupts.count:
            show()
            if session.paused != paused:
                paused = session.paused
                if paused is not None and not _goes_on(session, paused):
                    break
        else:
            if not interrupts.count:
                return
    session.abort()
    err.print("[bold yellow]aborting:[/] nothing more is sent; waiting for replies to what is on the wire")
    with _display(run) as show:
        while not session.wait(_POLL_S):
            if interrupts.count > 1:
                err.print("not waiting for the rest: rows without a reply are unknown")
                return
            show()


def _goes_on(session: LaunchSession, why: str) -> bool:
    """Says why nothing is sent for now. Returns whether somebody is there to decide; without, it is called off."""
    err.print(f"paused: {why}", style="bold yellow", markup=False, soft_wrap=True)
    if interactive():
        err.print(f"`flashcast resume {session.id}` in another terminal goes on; Ctrl-C calls it off", markup=False)
    return interactive()


@contextmanager
def _display(run: Run) -> Iterator[Callable[[], None]]:
    """A function that brings the live table up to date, at most `DISPLAY_HZ` times a second."""
    if not interactive():
        yield lambda: None
        return
    rates: dict[Provider, tuple[float, int]] = {}
    with Live(console=err, auto_refresh=False) as live:
        shown_s = 0.0

        def show() -> None:
            nonlocal shown_s
            now_s = run.elapsed_s()
            if now_s - shown_s >= 1 / DISPLAY_HZ:
                shown_s = now_s
                live.update(_table(run, rates), refresh=True)

        yield show
        live.update(_table(run, rates), refresh=True)


def _table(run: Run, rates: dict[Provider, tuple[float, int]]) -> Table:
    elapsed_s = run.elapsed_s()
    # Figures up to 9,999,999 fit into 80 columns.
    table = Table(title=f"GO + {elapsed_s:.1f} s", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in ("replies/s", "accepted", "rejected", "failed", "unknown", "in flight", "to send", "open"):
        table.add_column(name, justify="right", no_wrap=True)
    for provider, now in run.progress().items():
        replied = now.accepted + now.rejected + now.failed
        before_s, before = rates.get(provider, (0.0, 0))
        rate = (replied - before) / max(elapsed_s - before_s, 1e-3)
        rates[provider] = elapsed_s, replied
        left = max(0, now.rows - replied - now.unknown - now.in_flight)
        settled = (now.accepted, now.rejected, now.failed, now.unknown)
        figures = (rate, *settled, now.in_flight, left, now.connections_ready)
        table.add_row(provider.value, *(f"{figure:,.0f}" for figure in figures))
    return table
