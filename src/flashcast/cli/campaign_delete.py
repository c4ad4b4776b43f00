"""`flashcast campaign delete`: a campaign that is over leaves the engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, failures, print_json
from flashcast.cli.completion import complete_launch
from flashcast.cli.fleet_options import (
    CampaignName,
    EngineOption,
    Leaving,
    OperatorOption,
    Reach,
    StateOption,
    answer,
    check_can_ask,
    controlled,
    entered,
    say,
)
from flashcast.errors import ExitCode

if TYPE_CHECKING:
    from flashcast.campaign.store import Store
    from flashcast.launch_control.deleting import Deleted
    from flashcast.launch_control.doomed import Doomed


def delete(
    name: CampaignName,
    launch: Annotated[
        str | None,
        typer.Option(
            "--launch", metavar="ID", help="Only this launch of it, not the campaign.", show_default=False,
            autocompletion=complete_launch,
        ),
    ] = None,
    with_snapshot: Annotated[
        bool, typer.Option("--with-snapshot", help="Its snapshots, outcome files and reports as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Without asking.")] = False,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Delete a campaign with all its launches from the engine, or one launch: records, claims and audit trail.

    Only what is draft, sealed, done or aborted, and has its books closed. A deletion that was broken off is finished by
    giving the command again. Snapshots and outcome files stay unless you say so, but without the launch's record
    `flashcast report` reads them no more: write the report's files first. A campaign that is made again under the name
    goes on counting its launches.
    """
    with failures(as_json=as_json):
        check_can_ask(yes=yes)

        async def work(store: Store) -> Deleted:
            from flashcast.launch_control.deleting import delete
            from flashcast.launch_control.doomed import doomed

            if not yes:
                target = await doomed(store, name, launch)
                if not await entered(f"{_plan(target, with_snapshot=with_snapshot)}. Press ENTER to delete"):
                    say("\nnothing was deleted")
                    raise typer.Exit(int(ExitCode.ABORTED))
            leaving.text = f"broken off: give the command again to delete what is left of {launch or name}"
            return await delete(store, name, launch, with_snapshot=with_snapshot)

        with Leaving() as leaving:
            leaving.text = "nothing was deleted"
            deleted = controlled(Reach(engine, state, operator), work)
        if as_json:
            print_json(asdict(deleted))
        else:
            answer("\n".join(_told(deleted)))
        if any(files.fault for files in deleted.files):
            raise typer.Exit(int(ExitCode.ENVIRONMENT))


def _plan(target: Doomed, *, with_snapshot: bool) -> str:
    states = ", ".join(f"{record.launch} ({record.state})" for record in target.launches) or "what is left of it"
    what = f"campaign {target.campaign}: {states}" if target.whole else states
    return f"{what}, {'with' if with_snapshot else 'without'} snapshots and outcome files"


def _told(deleted: Deleted) -> list[str]:
    """What was deleted, in lines."""
    counts = {"shards": "shards", "claims": "claims", "audit": "pages of audit"}
    keys = ", ".join(f"{deleted.keys[part]:,} {word}" for part, word in counts.items())
    what = f"campaign {deleted.campaign}, " if deleted.whole else ""
    lines = [f"deleted {what}{', '.join(deleted.launches) or 'what was left of it'}: {keys}"]
    for files in deleted.files:
        told = (
            f"  {files.snapshot_files:,} files of {files.url}, {files.outcome_files:,} outcome files of {files.launch}"
        )
        lines.append(f"{told}{f'; not all: {files.fault}' if files.fault else ''}")
    lines += [f"  kept: {url}, and what lies beside it" for url in deleted.kept]
    return lines
