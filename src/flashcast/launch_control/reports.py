"""The report of a launch, made from what its workers wrote beside the snapshot. Needs no worker any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flashcast.campaign.records import AuditEntry, LaunchRecord
from flashcast.campaign.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHE: Final = "cache"
"""In the state folder: shards fetched from object storage, shared with the workers of this machine."""


async def report(store: Store, record: LaunchRecord, state: Path) -> dict[str, Any]:
    """The report's document; see docs/reference/report.md.

    Raises LifecycleError for a launch that has not gone live, SnapshotError and EnvironmentFault where this machine
    cannot read the snapshot or the outcomes.
    """
    trail = await store.trail(record)
    return await asyncio.to_thread(_report, record, trail, state)


def _report(record: LaunchRecord, trail: Sequence[AuditEntry], state: Path) -> dict[str, Any]:
    from flashcast.audience.fetch import SnapshotSource
    from flashcast.report.fleet import fleet_report, outcomes_place, saved_report, sent_snapshot

    ref = sent_snapshot(record)
    outcomes = outcomes_place(ref, record.launch)
    saved = saved_report(record, outcomes)
    if saved is not None:
        return saved
    with SnapshotSource(ref.url, ref.digest, state / CACHE) as snapshot:
        return fleet_report(record, outcomes, snapshot, trail=trail)
