"""`flashcast audit`: everything that was done to a launch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flashcast.cli.common import JsonOption, failures, print_json, print_rich
from flashcast.cli.fleet_options import EngineOption, LaunchArgument, Reach, StateOption, controlled

if TYPE_CHECKING:
    from rich.console import Console

    from flashcast.campaign.records import AuditEntry, LaunchRecord
    from flashcast.campaign.store import Store


def audit(
    launch: LaunchArgument, engine: EngineOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show who did what to a launch, when, from where, and with which campaign and snapshot."""
    with failures(as_json=as_json):

        async def work(store: Store) -> tuple[LaunchRecord, tuple[AuditEntry, ...]]:
            from flashcast.launch_control.status import audit

            return await audit(store, launch)

        record, entries = controlled(Reach(engine, state), work)
        if as_json:
            told = [entry.model_dump(mode="json") for entry in entries]
            print_json(
                {"launch": record.launch, "campaign": record.campaign, "state": record.state.value, "trail": told}
            )
        else:
            print_rich(partial(_show, record, entries))


def _show(record: LaunchRecord, entries: tuple[AuditEntry, ...], console: Console) -> None:
    from flashcast.campaign.refusal import moment

    lines = [f"{record.launch}: {record.state.value}"]
    for entry in entries:
        what = entry.what.value if entry.before is entry.after else f"{entry.what.value} -> {entry.after.value}"
        digests = f"campaign {entry.campaign_digest[:12]}"
        digests += f" snapshot {entry.snapshot_digest[:12]}" if entry.snapshot_digest else ""
        note = f" ({entry.note})" if entry.note else ""
        lines.append(f"{moment(entry.at)}  {what:<16} by {entry.by} from {entry.host}, {digests}{note}")
    # One line each, however narrow the terminal: it is read with grep as often as by eye.
    console.print("\n".join(lines), markup=False, soft_wrap=True)
