"""`flashcast approve`: a second operator's word for a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashcast.cli.common import JsonOption
from flashcast.cli.fleet_options import EngineOption, LaunchArgument, OperatorOption, Reach, StateOption
from flashcast.cli.order import order

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def approve(
    launch: LaunchArgument,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve exactly the campaign, snapshot and destination that a launch has now; another operator then presses GO.

    Campaigns with `require_approval = true` do not go without. Sealing or editing anew takes the approval away, and it
    is not for another destination: before the launch is armed, that is production.
    """

    async def work(store: Store) -> LaunchRecord:
        from flashcast.launch_control.orders import approve

        return await approve(store, launch)

    order(Reach(engine, state, operator), work, as_json=as_json, told=_told)


def _told(record: LaunchRecord) -> str:
    assert record.approval is not None
    word = record.approval
    return (
        f"{record.launch} approved by {word.by}: {record.rows:,} devices to {word.to}, campaign "
        f"{word.campaign_digest[:12]}, snapshot {word.snapshot_digest[:12]}. Another operator presses GO."
    )
