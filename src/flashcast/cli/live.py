"""What a person sees after GO: a table of rates, five times a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from flashcast.cli.common import err, interactive
from flashcast.limits import DISPLAY_HZ

if TYPE_CHECKING:
    from flashcast.deliver.run import Run
    from flashcast.model import Provider

def watch(run: Run) -> None:
    """Waits for the end of a launch, showing how it goes. Ctrl-C aborts it in order; a second one gives up waiting."""
    try:
        _watch(run)
    except KeyboardInterrupt:
        err.print("[bold yellow]aborting:[/] nothing more is sent; waiting for replies to what is on the wire")
        run.abort()
        try:
            _watch(run)
        except KeyboardInterrupt:
            err.print("not waiting for the rest: rows without a reply are unknown")


def _watch(run: Run) -> None:
    if not interactive():
        while not run.wait(0.2):
            pass
        return
    rates: dict[Provider, tuple[float, int]] = {}
    with Live(console=err, refresh_per_second=DISPLAY_HZ, auto_refresh=False) as live:
        done = False
        while not done:
            done = run.wait(1 / DISPLAY_HZ)
            live.update(_table(run, rates), refresh=True)


def _table(run: Run, rates: dict[Provider, tuple[float, int]]) -> Table:
    elapsed_s = run.elapsed_s()
    table = Table(title=f"GO + {elapsed_s:6.1f} s", title_justify="left", expand=False)
    table.add_column("provider")
    for name in ("replies/s", "accepted", "rejected", "failed", "unknown", "in flight", "to send", "connections"):
        table.add_column(name, justify="right")
    for provider, now in run.progress().items():
        replied = now.accepted + now.rejected + now.failed
        before_s, before = rates.get(provider, (0.0, 0))
        rate = (replied - before) / max(elapsed_s - before_s, 1e-3)
        rates[provider] = elapsed_s, replied
        left = max(0, now.rows - replied - now.unknown - now.in_flight)
        figures = (rate, now.accepted, now.rejected, now.failed, now.unknown, now.in_flight, left, now.connections_ready)
        table.add_row(provider.value, *(f"{figure:,.0f}" for figure in figures))
    return table
