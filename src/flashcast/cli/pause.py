"""`flashcast pause`: nothing new is sent for now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashcast.cli.common import JsonOption
from flashcast.cli.fleet_options import EngineOption, LaunchArgument, NoteOption, OperatorOption, Reach, StateOption
from flashcast.cli.order import order

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def pause(
    launch: LaunchArgument,
    note: NoteOption = "",
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a live launch: nothing new is sent until `flashcast resume`. Its window keeps running."""

    async def work(store: Store) -> LaunchRecord:
        from flashcast.launch_control.orders import pause

        return await pause(store, launch, note)

    order(Reach(engine, state, operator), work, as_json=as_json, told=_told)


def _told(record: LaunchRecord) -> str:
    return (
        f"{record.launch} is paused, and its window of {record.window_s:g} s keeps running. "
        f"`flashcast resume {record.campaign}` lets it go on, `flashcast abort {record.campaign}` calls it off"
    )
