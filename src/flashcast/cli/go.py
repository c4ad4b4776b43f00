"""`flashcast go`: GO."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flashcast.cli import shield
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
from flashcast.errors import ExitCode, FlashcastError

if TYPE_CHECKING:
    from pathlib import Path

    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store
    from flashcast.cli.interrupts import Interrupts

_WATCH_AGAIN_S: Final = 1.0
"""How soon a watch that broke is tried again, while the operator is being asked."""


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
        unshielded: list[FlashcastError | None] = []

        async def work(store: Store) -> tuple[LaunchRecord, dict[str, Any] | None]:
            return await _launch(store, launch, reach.state_path, unshielded, yes=yes, watch=watch)

        try:
            record, document = controlled(reach, work, warn=True)
        except (KeyboardInterrupt, _Declined):
            say(f"\n{_how_it_is(reach, launch)}")
            raise typer.Exit(int(ExitCode.ABORTED)) from None
        if document is None:
            print_json(document_of(record)) if as_json else None
            raise typer.Exit(int(ExitCode.ENVIRONMENT if any(unshielded) else ExitCode.OK))
        show(document, as_json=as_json)
        from flashcast.report.summary import exit_code

        code = exit_code(document)
        raise typer.Exit(int(ExitCode.ENVIRONMENT if code is ExitCode.OK and any(unshielded) else code))


async def _launch(
    store: Store, name: str, state: Path, unshielded: list[FlashcastError | None], *, yes: bool, watch: bool
) -> tuple[LaunchRecord, dict[str, Any] | None]:
    """The launch's record, and its report where it was followed to its end.

    What kept the shield from being raised at GO comes into ``unshielded``.
    """
    import asyncio

    from flashcast.go.release import press_go

    seen = None if yes else await _asked(store, name)
    pressed_at = store.clock.time()
    with held_interrupts() as interrupts:
        record = await press_go(store, name if seen is None else seen.launch, at=pressed_at, seen=seen)
        say(f"GO for {record.launch}: {record.rows:,} devices. `flashcast abort {record.campaign}` calls it off")
        shielding = asyncio.create_task(shield.raised(store, record, "go"))
        try:
            if not watch:
                return record, None
            record = await _follow(store, record, interrupts)
        finally:
            unshielded.append(await shielding)
        if interrupts.count:
            say(f"watching ends; {record.launch} GOES ON. `flashcast abort {record.campaign}` calls it off")
            raise typer.Exit(int(ExitCode.ABORTED))
        from flashcast.launch_control.reports import report

        return record, await report(store, record, state)


class _Declined(Exception):  # noqa: N818 - never seen outside of this module
    """The operator pressed Ctrl-D at the question, the end of input."""


def _how_it_is(reach: Reach, name: str) -> str:
    """What to tell somebody who did not press GO: others may have."""
    from flashcast.campaign.refusal import moment

    try:
        record, _ = controlled(reach, lambda store: store.launch(name))
    except FlashcastError:
        return "GO was not pressed here; the engine does not say whether another operator did"
    if record.go is None:
        return "interrupted; nothing was sent"
    by = f"by {record.go.by} at {moment(record.go.at)} from {record.go.host}"
    return f"GO was not pressed here, but {by}: {record.launch} is {record.state.value}"


async def _asked(store: Store, name: str) -> LaunchRecord:
    """What the operator saw before pressing ENTER. Raises what ends the question before: see `_turned`."""
    import asyncio

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
    question = f"Press ENTER to send to {record.rows:,} devices at {record.to}{anyway}"
    asking = asyncio.create_task(entered(question))
    watching = asyncio.create_task(_turned(store, record))
    try:
        await asyncio.wait((asking, watching), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            say("")
            raise await watching
        if not asking.result():
            raise _Declined
        return record
    finally:
        asking.cancel()
        watching.cancel()
        await asyncio.gather(asking, watching, return_exceptions=True)


async def _turned(store: Store, seen: LaunchRecord) -> FlashcastError:
    """Waits until another operator has launched what was ``seen``, or changed it; returns what to say of it."""
    import asyncio

    from flashcast.campaign.lifecycle import Input, State
    from flashcast.campaign.refusal import lost, refusal
    from flashcast.engine.base import EngineUnavailable
    from flashcast.go.follow import following

    while True:
        with suppress(EngineUnavailable):  # it may be back when ENTER is pressed
            async with following(store.engine, seen.launch, store.clock) as sightings:
                async for sighting in sightings:
                    record = sighting.record
                    if record.go is not None:
                        return lost(record, store.clock.time(), pressed=False)
                    if record.state is not State.ARMED or record.arming != seen.arming:
                        return refusal(record, Input.GO)
        await asyncio.sleep(_WATCH_AGAIN_S)


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
