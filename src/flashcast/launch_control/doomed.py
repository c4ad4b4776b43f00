"""What deleting a campaign, or one of its launches, would delete, and what keeps it from being deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from flashcast.campaign.lifecycle import HELD, State
from flashcast.campaign.names import is_name, launch_id
from flashcast.campaign.records import (
    CampaignRecord,
    DeletedCampaign,
    LaunchRecord,
    campaign_key,
    deleted_key,
    launch_key,
)
from flashcast.campaign.refusal import moment
from flashcast.campaign.store import Store
from flashcast.campaign.swap import Patience
from flashcast.engine.base import EngineUnavailable
from flashcast.errors import InputError, LifecycleError
from flashcast.go.follow import hear

T = TypeVar("T")


@dataclass(frozen=True)
class Doomed:
    """What would be deleted. ``whole`` is the campaign with all its launches; ``ids`` may have been deleted before."""

    campaign: str
    whole: bool
    ids: tuple[str, ...]
    launches: tuple[LaunchRecord, ...]
    """Those of ``ids`` that are there."""


async def doomed(store: Store, name: str, only: str | None = None) -> Doomed:
    """What `delete` would delete now. Raises InputError, and LifecycleError for a launch that is still needed."""
    campaign, gone = await campaign_there(store, name), await deleted_before(store, name)
    if campaign is None and gone is None:
        return await _doomed_alone(store, name, only)
    numbers = max(campaign.launches if campaign is not None else 0, gone.launches if gone is not None else 0)
    ids = tuple(launch_id(name, number) for number in range(1, numbers + 1))
    if only is not None:
        if only not in ids:
            raise InputError(f"{only} is no launch of campaign {name}", remedy=_known(ids))
        ids = (only,)
    launches = tuple([there[0] for launch in ids if (there := await launch_there(store, launch)) is not None])
    if campaign is None and gone is not None and not (launches or gone.remains):
        raise InputError(
            f"campaign {name} was deleted by {gone.by} at {moment(gone.at)}", remedy="Nothing is left of it."
        )
    for record in launches:
        check_over(record)
        if only is not None and campaign is not None and only == campaign.latest and not record.ended:
            raise LifecycleError(
                f"launch {only} is the one that campaign {name} has open",
                remedy=f"Delete the campaign: `flashcast campaign delete {name}`.",
            )
    await _check_let_go(store, launches)
    return Doomed(name, only is None, ids, launches)


async def _doomed_alone(store: Store, name: str, only: str | None) -> Doomed:
    """A launch of `flashcast launch`, which has no campaign in the engine."""
    there = await launch_there(store, name) if is_name(name) else None
    if there is None or there[0].campaign != name or only not in (None, name):
        await store.campaign(name)  # which says what there is instead
        raise InputError(f"{only} is no launch of {name}")
    check_over(there[0])
    return Doomed(name, False, (name,), (there[0],))


def _known(ids: tuple[str, ...]) -> str:
    return f"It has had {ids[0]} to {ids[-1]}." if len(ids) > 1 else f"It has had {ids[0]}."


def check_over(record: LaunchRecord) -> None:
    """Raises LifecycleError where workers have, or may get, anything to do with a launch."""
    launch = record.launch
    if record.state in HELD:
        end = "abort" if record.state is State.LIVE else "disarm"
        raise LifecycleError(
            f"launch {launch} is {record.state}, and is not deleted",
            remedy=f"`flashcast {end} {launch}` first, if it is not wanted.",
        )
    if record.settling:
        raise LifecycleError(
            f"launch {launch} was aborted, and its books are not closed yet",
            remedy="Wait for its workers, or start one: `flashcast worker`.",
        )


async def _check_let_go(store: Store, launches: tuple[LaunchRecord, ...]) -> None:
    """Raises LifecycleError where a worker that lives has not let go of a launch: it may be writing what it knows."""
    if not any(record.go is not None for record in launches):
        return
    names = {record.launch for record in launches}
    for one in await patiently(lambda: hear(store.engine, store.clock)):
        for launch in sorted(names & one.beat.launches.keys()) if one.alive else ():
            raise LifecycleError(
                f"worker {one.beat.worker} has not let go of launch {launch} yet", remedy="Delete it in a moment."
            )


# --- reading -----------------------------------------------------------------------------------------------


async def campaign_there(store: Store, name: str) -> CampaignRecord | None:
    entry = await patiently(lambda: store.engine.durable.get(campaign_key(name))) if is_name(name) else None
    return store.read(CampaignRecord, entry) if entry is not None and entry.value is not None else None


async def deleted_before(store: Store, name: str) -> DeletedCampaign | None:
    entry = await patiently(lambda: store.engine.durable.get(deleted_key(name))) if is_name(name) else None
    return store.read(DeletedCampaign, entry) if entry is not None and entry.value is not None else None


async def launch_there(store: Store, launch: str) -> tuple[LaunchRecord, int] | None:
    entry = await patiently(lambda: store.engine.durable.get(launch_key(launch)))
    if entry is None or entry.value is None:
        return None
    return store.read(LaunchRecord, entry), entry.revision


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What ``ask`` answers, asked again while the engine gives no answer."""
    patience = Patience()
    while True:
        try:
            return await ask()
        except EngineUnavailable as error:
            await patience.wait(error)
