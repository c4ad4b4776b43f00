"""`flashcast disarm`: back to sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flashcast.cli import shield
from flashcast.cli.common import JsonOption
from flashcast.cli.fleet_options import EngineOption, LaunchArgument, OperatorOption, Reach, StateOption
from flashcast.cli.order import order
from flashcast.errors import ExitCode, FlashcastError

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def disarm(
    launch: LaunchArgument,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an arming or armed launch back to sealed: workers let go of it and close its connections."""

    async def work(store: Store) -> LaunchRecord:
        from flashcast.launch_control.arming import disarm

        record = await disarm(store, launch)
        still_up.append(await shield.lowered(store, record))
        return record

    still_up: list[FlashcastError | None] = []
    reach = Reach(engine, state, operator)
    order(reach, work, as_json=as_json, told=lambda record: f"{record.launch} is {record.state.value} again")
    if any(still_up):
        raise typer.Exit(int(ExitCode.ENVIRONMENT))
