"""`flashcast go`: GO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json, show
from flashcast.cli.fleet_options import (
    EngineOption,
    LaunchArgument,
    OperatorOption,
    Reach,
    StateOption,
    check_can_ask,
    controlled,
    document_of,
    entered,
    say,
)
from flashcast.cli.interrupts import held_interrupts
from flashcast.cli.launch import YesOption
from flashcast.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store
    from flashcast.cli.interrupts import Interrupts


def go(
    launch: LaunchArgument,
    yes: YesOption = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Follow it to its end, and show the report.")
    ] = True,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Launch what is armed. Shows what preflight says, waits for ENTER, and follows the launch to its report.

    With --yes GO is pressed at once, without preflight. Of several who press, one launches; the others are told who was
    first, and leave with exit code 5. Ctrl-C after GO ends only the watching: `flashcast abort` calls a launch off.
    """
    with failures(as_json=as_json):
        check_can_ask(yes=yes)
        reach = Reach(engine, state, operator)

        async def work(store: Store) -> tuple[LaunchRecord, dict[str, Any] | None]:
            return await _launch(store, launch, reach.state_path, yes=yes, watch=watch)

        record, document = controlled(reach, work, warn=True)
        if document is None:
            print_json(document_of(record)) if as_json else None
            return
        show(document, as_json=as_json)
        from flashcast.report.summary import exit_code

        raise typer.Exit(int(exit_code(document)))


async def _launch(
    store: Store, name: str, state: Path, *, yes: bool, watch: bool
) -> tuple[LaunchRecord, dict[str, Any] | None]:
    """The launch's record, and its report where it was followed to its end."""
    from flashcast.go.release import press_go

    seen = None if yes else await _asked(store, name)
    pressed_at = store.clock.time()
    with held_interrupts() as interrupts:
        record = await press_go(store, name if seen is None else seen.launch, at=pressed_at, seen=seen)
        say(f"GO for {record.launch}: {record.rows:,} devices. `flashcast abort {record.campaign}` calls it off")
        if not watch:
            return record, None
        record = await _follow(store, record, interrupts)
        if interrupts.count:
            say(f"watching ends; {record.launch} GOES ON. `flashcast abort {record.campaign}` calls it off")
            raise typer.Exit(int(ExitCode.ABORTED))
        from flashcast.launch_control.reports import report

        return record, await report(store, record, state)


async def _asked(store: Store, name: str) -> LaunchRecord:
    """What the operator saw before pressing ENTER. Leaves the command where they did not."""
    from flashcast.campaign.lifecycle import Input, State
    from flashcast.campaign.refusal import refusal
    from flashcast.cli.preflight import show_verdict
    from flashcast.go.release import approval_fault
    from flashcast.launch_control.advice import preflight

    record, verdict = await preflight(store, name)
    if record.state is not State.ARMED:
        raise refusal(record, Input.GO)
    show_verdict(record, verdict, err)
    fault = approval_fault(record, store.operator.name)
    if fault is not None:
        raise fault
    anyway = "" if verdict.go else " all the same"
    if not await entered(f"Press ENTER to send to {record.rows:,} devices at {record.to}{anyway}"):
        say("\nnothing was sent")
        raise typer.Exit(int(ExitCode.ABORTED))
    return record


async def _follow(store: Store, record: LaunchRecord, interrupts: Interrupts) -> LaunchRecord:
    """Shows the launch until its books are closed, or somebody presses Ctrl-C; its record then."""
    from flashcast.cli.fleet_live import live_picture
    from flashcast.launch_control.status import status_stream

    with live_picture() as show_sighting:
        async for status in status_stream(store, record.launch):
            record = status.sighting.record
            show_sighting(status.sighting)
            if interrupts.count:
                break
    return record
