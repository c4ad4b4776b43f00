"""What to tell somebody who would resume a fleet's launch that is not paused: workers take over by themselves."""

from __future__ import annotations

from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import LaunchRecord
from flashcast.campaign.refusal import moment, refusal
from flashcast.campaign.store import Store
from flashcast.errors import LifecycleError
from flashcast.go.follow import hear
from flashcast.launch_control.status import count_shards


async def not_paused(store: Store, record: LaunchRecord) -> LifecycleError:
    """How it stands with a launch that is not paused, and what to do. Listens to the workers for up to three beats."""
    if record.state is not State.LIVE or record.go is None:
        return refusal(record, Input.RESUME)
    heard, shards = await hear(store.engine, store.clock), await count_shards(store, record)
    at_it = [one.beat.worker for one in heard if one.alive and record.launch in one.beat.launches]
    left = shards.all - shards.settled
    go = record.go
    return LifecycleError(
        f"launch {record.launch} is live and not paused, so there is nothing to resume: GO was pressed by {go.by} at "
        f"{moment(go.at)}, {shards.settled:,} of {shards.all:,} shards are settled, "
        f"{_counted(len(at_it))} on the other {left:,}",
        remedy=_remedy(record, window_over=store.clock.time() >= go.at + record.window_s, served=bool(at_it)),
    )


def _counted(workers: int) -> str:
    if not workers:
        return "and no worker is at work"
    return "and 1 worker is at work" if workers == 1 else f"and {workers:,} workers are at work"


def _remedy(record: LaunchRecord, *, window_over: bool, served: bool) -> str:
    name = record.campaign
    if served:
        return f"`flashcast status {name} --watch` follows it, `flashcast abort {name}` calls it off."
    if window_over:
        return "Start a worker (`flashcast worker`): the window is over, so it sends nothing more and closes the books."
    return "Start a worker (`flashcast worker`): it takes the shards over and sends the rest by itself."
