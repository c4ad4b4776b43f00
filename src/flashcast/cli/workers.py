"""`flashcast workers`: who is there to send."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from flashcast.cli.common import JsonOption, failures, print_json, print_rich
from flashcast.cli.fleet_options import EngineOption, Reach, StateOption, controlled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from flashcast.campaign.store import Store
    from flashcast.go.follow import Heard

SKEW_MS_SHOWN_MIN: Final = 50.0
"""A difference of clocks below this says more about the way of a heartbeat than about the clock."""


def workers(engine: EngineOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the workers: where they run, what they hold, how far their clocks are off, and what is wrong."""
    with failures(as_json=as_json):

        async def work(store: Store) -> Sequence[Heard]:
            from flashcast.launch_control.status import workers

            return await workers(store)

        found = controlled(Reach(engine, state), work)
        if as_json:
            from flashcast.launch_control.status import worker_document

            print_json({"workers": [worker_document(one) for one in found]})
        else:
            print_rich(partial(_show, found))


def _show(found: Sequence[Heard], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found:
        console.print("no workers: start one with `flashcast worker`", markup=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("worker", "host", "pid", "version", "heard", "clock", "rows", "of", "launches", ""):
        table.add_column(name, overflow="fold")
    for one in found:
        beat = one.beat
        skew = "" if one.skew_s is None or abs(one.skew_s) * 1e3 < SKEW_MS_SHOWN_MIN else f"{one.skew_s:+.2f} s"
        told = [fault for fault in (beat.fault, *(held.fault for held in beat.launches.values())) if fault]
        told += ["leaving"] if beat.draining else []
        cells = (
            beat.worker, beat.host, str(beat.pid), beat.version, f"{one.age_s:.1f} s" if one.alive else "silent", skew,
            f"{beat.rows:,}", f"{beat.devices_max:,}", ", ".join(beat.launches), "; ".join(dict.fromkeys(told)),
        )  # fmt: skip
        table.add_row(*(Text(cell, style="" if one.alive else "dim") for cell in cells))
    console.print(table)
