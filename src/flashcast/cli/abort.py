"""`flashcast abort`: a launch is called off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli import shield
from flashcast.cli.common import JsonOption, failures, print_json
from flashcast.cli.fleet_options import (
    EngineOption,
    LaunchArgument,
    Leaving,
    NoteOption,
    OperatorOption,
    Reach,
    StateOption,
    answer,
    controlled,
    document_of,
    say,
)
from flashcast.errors import EnvironmentFault, ExitCode, FlashcastError

if TYPE_CHECKING:
    from flashcast.campaign.store import Store
    from flashcast.go.abort import Drained


def abort(
    launch: LaunchArgument,
    note: NoteOption = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Look on until every worker says that it has stopped.")
    ] = True,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call off a launch that is arming, armed or live. Asks nothing.

    A live one stops within 250 ms; replies to what was on the wire are awaited for two seconds, and told as overshoot.
    """
    with failures(as_json=as_json):

        async def work(store: Store) -> Drained:
            from flashcast.go.abort import Drained
            from flashcast.launch_control.orders import abort, drained

            record = await abort(store, launch, note)
            say(f"{record.launch} is called off{': workers stop sending' if record.go is not None else ''}")
            leaving.text = f"{record.launch} stays called off; its workers settle what was on the wire"
            lowering = asyncio.create_task(shield.lowered(store, record))
            done = await drained(store, record) if wait else Drained(record)
            still_up.append(await lowering)
            return done

        still_up: list[FlashcastError | None] = []
        with Leaving() as leaving:
            done = controlled(Reach(engine, state, operator), work)
        if as_json:
            print_json({**document_of(done.record), "overshoot": done.overshoot, "waiting_for": list(done.waiting_for)})
        elif wait and done.record.go is not None and done.complete:
            answer(f"nothing is sent any more; {done.overshoot:,} requests were on the wire. See `flashcast report`")
    if not done.complete:
        with failures():
            raise EnvironmentFault(
                f"{done.record.launch} is called off, but {', '.join(done.waiting_for)} did not say to have stopped",
                remedy="A worker without the engine stops by itself within a second; see `flashcast workers`.",
            )
    if any(still_up):
        raise typer.Exit(int(ExitCode.ENVIRONMENT))
