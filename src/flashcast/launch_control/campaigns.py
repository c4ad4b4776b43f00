"""A campaign in the engine, and sealing: who gets it, and in which words."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from flashcast.campaign.lifecycle import Input, following
from flashcast.campaign.names import launch_id
from flashcast.campaign.records import CampaignRecord, LaunchRecord, SnapshotRef
from flashcast.campaign.refusal import refusal
from flashcast.campaign.store import Store
from flashcast.errors import InputError, LifecycleError

if TYPE_CHECKING:
    from flashcast.audience.manifest import Manifest
    from flashcast.audience.seal import SealOptions
    from flashcast.audience.source import AudienceSource

T = TypeVar("T")
Progress = Callable[[int, int | None], None]
"""Called, perhaps from another thread, with what is done and how much there is, if that is known."""
SNAPSHOTS: Final = "snapshots"


@dataclass(frozen=True)
class Sealed:
    """What sealing made: the launch's record, the manifest, and where the snapshot lies (a path or an address)."""

    record: LaunchRecord
    manifest: Manifest
    url: str


async def create(store: Store, name: str, text: str, file: str) -> CampaignRecord:
    """See `Store.create_campaign`."""
    return await store.create_campaign(name, text, file)


async def edit(store: Store, name: str, text: str, file: str) -> tuple[CampaignRecord, LaunchRecord]:
    """See `Store.edit_campaign`; the campaign and its latest launch."""
    campaign = await store.edit_campaign(name, text, file)
    return campaign, (await store.launch(campaign.latest))[0]


async def seal_campaign(
    store: Store,
    name: str,
    audience: AudienceSource,
    options: SealOptions,
    *,
    folder: Path,
    out: str | None = None,
    progress: Progress | None = None,
) -> Sealed:
    """Seals ``audience`` for the campaign's open launch, or for its next one where the latest has ended.

    ``out`` is the path or object storage address of the snapshot, by default a folder of the launch's below ``folder``,
    which replaces what was sealed for it before. Raises LifecycleError where the launch is armed or live, or its
    campaign is edited meanwhile; and what sealing raises.
    """
    from flashcast.campaign.load import parse_campaign
    from flashcast.campaign.terms import launch_terms

    launch, _ = await store.launch(name)
    campaign = await store.campaign(launch.campaign)
    number = campaign.launches + 1 if launch.ended else campaign.launches
    if not launch.ended:
        _check_may_seal(launch, campaign)
    parsed = parse_campaign(campaign.text.encode(), f"campaign {campaign.campaign}")
    where = folder / SNAPSHOTS / launch_id(campaign.campaign, number)
    manifest, url = await _in_thread(
        lambda told: _sealed(parsed, audience, options, where, out, told), progress or _nobody
    )
    ref = SnapshotRef(
        url=url,
        digest=manifest.digest,
        sealed_at=store.clock.time(),
        rows={provider: rows for provider, rows in manifest.counts.kept.items() if rows},
        shards=len(manifest.shards),
    )
    terms = {**launch_terms(parsed), "snapshot": ref, "approval": None}

    def sealed(record: LaunchRecord) -> LaunchRecord:
        if record.campaign_digest != campaign.digest:
            raise LifecycleError(
                f"campaign {campaign.campaign} was edited while its audience was being sealed", remedy="Seal again."
            )
        return record.model_copy(update=terms)

    opened, _ = await store.open_launch(name)
    return Sealed(await store.transition(opened.launch, Input.SEAL, sealed), manifest, url)


def _check_may_seal(launch: LaunchRecord, campaign: CampaignRecord) -> None:
    """Before the work is done; the transition checks again."""
    if following(launch.state, Input.SEAL) is None:
        raise refusal(launch, Input.SEAL)
    if launch.campaign_digest != campaign.digest:
        raise InputError(
            f"campaign {campaign.campaign} is being edited, or an edit of it was broken off",
            remedy=f"See `flashcast campaign show {campaign.campaign}`, and edit it again.",
        )


def _sealed(
    campaign: object, audience: AudienceSource, options: SealOptions, where: Path, out: str | None, progress: Progress
) -> tuple[Manifest, str]:
    """Blocks: seals into ``where`` or ``out``, and returns the manifest and where the snapshot is."""
    from flashcast.audience.seal import seal
    from flashcast.campaign.file import Campaign

    assert isinstance(campaign, Campaign)
    remote = out is not None and "://" in out
    place = where if out is None or remote else Path(out).expanduser().absolute()
    if place == where:
        # The folder is the launch's own, and while it is being sealed nobody sends from it.
        options = replace(options, force=True)
    with seal(campaign, audience, place, options, progress) as snapshot:
        manifest = snapshot.manifest
    if out is None or not remote:
        return manifest, str(place)
    from flashcast.audience.upload import upload_snapshot

    url = upload_snapshot(place, out, replace=options.force, progress=progress).url
    shutil.rmtree(place, ignore_errors=True)
    return manifest, url


class _Stopped(Exception):  # noqa: N818 - never seen outside of this module
    """The thread was told to end."""


async def _in_thread(work: Callable[[Progress], T], progress: Progress) -> T:
    """Runs blocking work; when this task is cancelled, the work ends at its next report of progress."""
    stop = threading.Event()

    def told(done: int, total: int | None) -> None:
        progress(done, total)
        if stop.is_set():
            raise _Stopped

    running = asyncio.get_running_loop().run_in_executor(None, work, told)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        with suppress(_Stopped):
            await running
        raise


def _nobody(done: int, total: int | None) -> None:
    """Nobody watches."""
