"""Deleting campaigns and launches: what the engine keeps of them, and with it, if one likes, what lies on disks.

The problem: a campaign is many keys, and an engine deletes one at a time. In between somebody may arm what is being
deleted, or the one who deletes may be killed. So the order is:

    1. a `DeletedCampaign` is written: how many launches the name has had, and which files are to go as well
    2. each launch's record is deleted, by compare-and-swap from a state in which nobody has anything to do with it:
       whoever arms it in the same moment wins or loses, and nothing is sent of what is gone
    3. its shards, claims and pages of audit, which nobody looks at without the record
    4. the campaign's record, by compare-and-swap: a launch that was opened meanwhile is met, and judged likewise
    5. the files

Every step may be repeated, and one that was broken off is finished by deleting again. What stays of 1. is the number:
a campaign that is made again under the name goes on counting, for old outcome files must never meet a launch of the
same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flashcast.campaign.names import split_launch
from flashcast.campaign.records import (
    AUDIT,
    CLAIMS,
    SHARDS,
    CampaignRecord,
    DeletedCampaign,
    Remains,
    campaign_key,
    deleted_key,
    launch_key,
)
from flashcast.campaign.store import Store
from flashcast.campaign.swap import first_come, swap
from flashcast.engine.base import Entry, RevisionConflictError
from flashcast.errors import InputError
from flashcast.launch_control.doomed import (
    Doomed,
    campaign_there,
    check_over,
    deleted_before,
    doomed,
    launch_there,
    patiently,
)
from flashcast.launch_control.remains import Files, remove_files

DELETES_AT_ONCE_MAX: Final = 128
"""Keys deleted side by side: an engine writes them in groups."""
_PARTS: Final = (SHARDS, CLAIMS, AUDIT)


@dataclass(frozen=True)
class Deleted:
    """What was deleted."""

    campaign: str
    whole: bool
    launches: tuple[str, ...]
    keys: dict[str, int]
    """Records that went with the launches: shards, claims, pages of audit."""
    files: tuple[Files, ...] = ()
    kept: tuple[str, ...] = field(default=())
    """Where the snapshots and outcomes lie that stay."""


async def delete(store: Store, name: str, only: str | None = None, *, with_snapshot: bool = False) -> Deleted:
    """Deletes the campaign with all its launches, or ``only`` one of them; see the module's docstring.

    ``with_snapshot`` deletes their snapshots and outcome files too, but for a snapshot that another launch was sealed
    with. Raises InputError where there is nothing of that name, LifecycleError for what is armed, live or not closed,
    EngineUnavailable where it is not known how far it came: delete again then.
    """
    target = await doomed(store, name, only)
    alone = target.launches and target.launches[0].campaign == target.launches[0].launch
    if alone and with_snapshot:
        raise InputError(
            f"{name} was launched by one process, which keeps its files in its state folder",
            remedy=f"Delete the folder launches/{name} there, and leave out --with-snapshot.",
        )
    if only is not None:
        await _open_another(store, target)
    if not alone:
        await _write_intent(store, target, with_snapshot=with_snapshot)
    launches: list[str] = []
    keys = dict.fromkeys(_PARTS, 0)
    while True:
        for launch in target.ids:
            launches += [launch] if await _delete_launch(store, launch) else []
            for part in _PARTS:
                keys[part] += await _delete_below(store, f"{part}.{launch}")
        if not target.whole or await _delete_campaign(store, target):
            break
        target = await doomed(store, name)  # another launch was opened meanwhile
        await _write_intent(store, target, with_snapshot=with_snapshot)
    files, kept = ((), ()) if alone else await _sweep(store, name)
    kept += tuple(r.snapshot.url for r in target.launches if r.snapshot is not None and not with_snapshot)
    return Deleted(name, target.whole, tuple(launches), keys, files, tuple(dict.fromkeys(kept)))


async def _open_another(store: Store, target: Doomed) -> None:
    """The latest launch of a campaign is made again by whoever looks for it: another must be the latest first."""
    campaign = await campaign_there(store, target.campaign)
    if campaign is not None and target.launches and campaign.latest == target.ids[0]:
        await patiently(lambda: store.open_launch(target.ids[0]))


async def _write_intent(store: Store, target: Doomed, *, with_snapshot: bool) -> None:
    """Step 1."""
    numbers = [split[1] for launch in target.ids if (split := split_launch(launch)) is not None]
    remains = [
        Remains(launch=record.launch, url=record.snapshot.url, digest=record.snapshot.digest)
        for record in target.launches
        if with_snapshot and record.snapshot is not None
    ]
    if not (target.whole or remains or await deleted_before(store, target.campaign)):
        return  # its campaign is there to count on

    there = {record.launch for record in target.launches}

    def noted(known: DeletedCampaign) -> DeletedCampaign:
        # What was asked for an earlier time counts where that came as far as deleting the launch.
        left = [one for one in known.remains if one.launch not in there]
        return known.model_copy(
            update={
                "launches": max(known.launches, *numbers) if target.whole else known.launches,
                "at": store.clock.time(), "by": store.operator.name, "remains": (*left, *remains),
            }
        )  # fmt: skip

    await _change_intent(store, target.campaign, noted)


async def _change_intent(
    store: Store, campaign: str, change: Callable[[DeletedCampaign], DeletedCampaign]
) -> DeletedCampaign:
    fresh = DeletedCampaign(campaign=campaign, launches=0, at=store.clock.time(), by=store.operator.name)
    entry = await first_come(store.engine.durable, deleted_key(campaign), fresh.to_bytes())

    async def changed(entry: Entry) -> bytes | None:
        known = store.read(DeletedCampaign, entry)
        wanted = change(known)
        return None if wanted == known else wanted.to_bytes()

    return store.read(DeletedCampaign, await swap(store.engine.durable, entry, changed))


async def _delete_launch(store: Store, launch: str) -> bool:
    """Step 2. Whether it was there. Raises LifecycleError where somebody was quicker and needs it."""
    deleted = False
    while (there := await launch_there(store, launch)) is not None:
        record, revision = there
        check_over(record)
        deleted = await _deleted(store, launch_key(launch), revision) or deleted
    return deleted


async def _delete_campaign(store: Store, target: Doomed) -> bool:
    """Step 4. False where the campaign has another launch by now."""
    key = campaign_key(target.campaign)
    while (entry := await patiently(lambda: store.engine.durable.get(key))) is not None and entry.value is not None:
        if store.read(CampaignRecord, entry).latest not in target.ids:
            return False
        await _deleted(store, key, entry.revision)
    # Whoever looked for the latest launch in between has made it again, in draft.
    await _delete_launch(store, target.ids[-1])
    return True


async def _delete_below(store: Store, prefix: str) -> int:
    """Step 3: how many keys."""
    entries = await patiently(lambda: store.engine.durable.entries(prefix))
    for start in range(0, len(entries), DELETES_AT_ONCE_MAX):
        part = entries[start : start + DELETES_AT_ONCE_MAX]
        await asyncio.gather(*(_deleted(store, entry.key) for entry in part))
    return len(entries)


async def _deleted(store: Store, key: str, revision: int | None = None) -> bool:
    """Whether the key is deleted; not where it has another revision by now."""
    try:
        await patiently(lambda: store.engine.durable.delete(key, revision))
    except RevisionConflictError:
        return False
    return True


async def _sweep(store: Store, campaign: str) -> tuple[tuple[Files, ...], tuple[str, ...]]:
    """Step 5, also of an earlier time that was broken off: the files that are gone, and the places that stay."""
    intent = await deleted_before(store, campaign)
    if intent is None or not intent.remains:
        return (), ()
    records = await patiently(store.launches)
    there = {record.launch for record in records}
    used = {record.snapshot.url for record in records if record.snapshot is not None}
    swept, files, kept = [], [], []
    for remains in intent.remains:
        if remains.launch in there:
            continue  # it was armed before it could be deleted
        stays = remains.url in used
        removed = await asyncio.to_thread(remove_files, remains, snapshot=not stays)
        files.append(removed)
        kept += [remains.url] if stays else []
        swept += [] if removed.again else [remains]
    await _change_intent(
        store, campaign,
        lambda known: known.model_copy(update={"remains": tuple(r for r in known.remains if r not in swept)}),
    )  # fmt: skip
    return tuple(files), tuple(kept)
