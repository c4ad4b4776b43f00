"""Arming: workers are asked to take the shards of a sealed launch, and to hold connections ready."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.names import launch_id, split_launch
from flashcast.campaign.records import LaunchRecord
from flashcast.campaign.store import Store
from flashcast.errors import InputError, LifecycleError
from flashcast.go.follow import Sighting, following
from flashcast.limits import CHUNK_ROWS
from flashcast.model import Provider

CHUNK_ROWS_MIN: Final = 256
"""A claim is a durable write: 256 rows keep its cost below a tenth of what sending them takes."""
CHUNK_S: Final = 0.1
"""A paced launch claims what it sends in this time: so much is unknown when a worker is lost."""
WORDS: Final = ("production", "sandbox")
_REUSED: Final = (
    "snapshot", "window_s", "unknown_policy", "pace", "stages", "guard", "require_approval", "shield",
)  # fmt: skip
"""What the next launch of the same snapshot has from the one before it."""


def chunk_rows_for(pace: Mapping[Provider, float]) -> int:
    """Rows claimed at once: the power of two nearest to what the slowest pace sends in `CHUNK_S`, within bounds."""
    if not pace:
        return CHUNK_ROWS
    nearest = 1 << round(math.log2(max(1.0, min(pace.values()) * CHUNK_S)))
    return min(max(nearest, CHUNK_ROWS_MIN), CHUNK_ROWS)


def destination_of(to: str, *, one_machine: bool) -> str:
    """What `LaunchRecord.to` holds: a word of `WORDS`, or the absolute path of a flashcast.toml.

    With ``one_machine`` the file must be there now; elsewhere it must be on every worker's machine. Raises InputError.
    """
    if to in WORDS:
        return to
    if to == "simulator":
        raise InputError(
            "--to simulator: workers start no simulators",
            remedy="Start one with `flashcast simulate`, and name the flashcast.toml that it writes.",
        )
    path = Path(to).expanduser().absolute()
    if one_machine and not path.is_file():
        raise InputError(f"--to {to}: there is no such file", remedy="Name production, sandbox, or a flashcast.toml.")
    return str(path)


async def arm(store: Store, name: str, to: str) -> LaunchRecord:
    """Asks the workers to take the campaign's sealed launch, bound for ``to`` (see `destination_of`).

    Where the latest launch has ended, the next is opened with the same snapshot. Raises LifecycleError where nothing is
    sealed, or the campaign was edited since.
    """
    launch, _ = await store.open_launch(name)
    if launch.state is State.DRAFT and not launch.trail:
        await _seal_like_the_last(store, launch)

    def armed(record: LaunchRecord) -> LaunchRecord:
        return record.model_copy(update={"to": to, "chunk_rows": chunk_rows_for(record.pace)})

    return await store.transition(launch.launch, Input.ARM, armed, note=f"to {to}")


async def _seal_like_the_last(store: Store, launch: LaunchRecord) -> None:
    """Gives a launch that is new the snapshot of the one before, if that was made of the same campaign text."""
    split = split_launch(launch.launch)
    if split is None or split[1] == 1:
        return
    try:
        before, _ = await store.launch(launch_id(split[0], split[1] - 1))
    except InputError:
        return  # it was deleted
    if before.snapshot is None:
        return
    if before.campaign_digest != launch.campaign_digest:
        raise LifecycleError(
            f"campaign {launch.campaign} was edited after {before.launch}, so its snapshot says something else",
            remedy=f"Seal again: `flashcast seal {launch.campaign} --audience ...`.",
        )
    same: dict[str, Any] = {field: getattr(before, field) for field in _REUSED}
    note = f"the snapshot of {before.launch}"
    await store.transition(launch.launch, Input.SEAL, lambda record: record.model_copy(update=same), note)


async def disarm(store: Store, name: str) -> LaunchRecord:
    """Back to sealed: workers let the shards go. An approval stands, for what was approved and where it went."""
    return await store.transition((await store.launch(name))[0].launch, Input.DISARM)


async def until_armed(store: Store, launch: str) -> AsyncIterator[Sighting]:
    """Sightings of an arming launch; the last is of the state that it came to."""
    async with following(store.engine, launch, store.clock) as sightings:
        async for sighting in sightings:
            yield sighting
            if sighting.record.state is not State.ARMING:
                return
