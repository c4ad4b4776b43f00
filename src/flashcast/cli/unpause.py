"""What `flashcast resume NAME` does to a launch in the engine: a paused one goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashcast.cli.fleet_options import Reach, controlled

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def unpaused(reach: Reach, name: str) -> LaunchRecord | None:
    """Lets the launch of that name go on. None where the engine has none that is live and paused."""
    if not reach.exists():
        return None

    async def work(store: Store) -> LaunchRecord | None:
        from flashcast.errors import InputError
        from flashcast.launch_control.orders import resume

        try:
            record, _ = await store.launch(name)
        except InputError:
            return None
        return await resume(store, record.launch) if record.paused is not None and not record.ended else None

    return controlled(reach, work)
