"""What `flashcast resume NAME` does to a launch in the engine: a paused one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashcast.cli.fleet_options import Reach, controlled

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def unpaused(reach: Reach, name: str) -> LaunchRecord | None:
    """Lets the launch of that name go on. None where the engine has none, or it is one of a process on this machine.

    Raises LifecycleError, which says how it stands, for a fleet's launch that is not paused.
    """
    if not reach.exists():
        return None

    async def work(store: Store) -> LaunchRecord | None:
        from flashcast.errors import InputError
        from flashcast.launch_control.orders import resume
        from flashcast.launch_control.resuming import not_paused

        try:
            record, _ = await store.launch(name)
        except InputError:
            return None
        if record.paused is not None and not record.ended:
            return await resume(store, record.launch)
        if record.campaign == record.launch:
            return None  # `flashcast launch` made it; its journal is in the state folder
        raise await not_paused(store, record)

    return controlled(reach, work)
