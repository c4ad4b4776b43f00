"""What an operator orders of a launch that is armed or live; `press_go` and `approve` are in go/, and so is `abort`."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import LaunchRecord, Pause
from flashcast.campaign.refusal import moment
from flashcast.campaign.store import Store
from flashcast.errors import FlashcastError, LifecycleError
from flashcast.go import abort as going
from flashcast.go.abort import DRAINED_S_MAX, Drained, abort
from flashcast.go.release import approve, press_go

__all__ = ["Drained", "abort", "approve", "drained", "pause", "press_go", "resume"]


async def drained(store: Store, record: LaunchRecord, patience_s: float = DRAINED_S_MAX) -> Drained:
    """As `flashcast.go.abort.drained`; once the books are closed, the overshoot is what the workers wrote into them.

    Their heartbeats come five times a second, and a worker that has closed its books tells no more of the launch: it
    may have done so between two of them.
    """
    done = await going.drained(store, record, patience_s)
    latest, _ = await store.launch(record.launch)
    if latest.closed_at is None:
        return done
    told = 0
    with suppress(FlashcastError):  # the place may be out of this machine's reach: then the heartbeats count
        told = await asyncio.to_thread(_overshoot, latest)
    return Drained(latest, max(done.overshoot, told))


def _overshoot(record: LaunchRecord) -> int:
    from flashcast.report.fleet import outcomes_place, sent_snapshot
    from flashcast.report.settled import read_facts

    place = outcomes_place(sent_snapshot(record), record.launch)
    return sum(facts.overshoot for facts in read_facts(place, record.launch))


async def pause(store: Store, launch: str, why: str = "") -> LaunchRecord:
    """Nothing new is sent until `resume`; the window keeps running. Raises LifecycleError where it is not live."""
    at = store.clock.time()

    def paused(record: LaunchRecord) -> LaunchRecord:
        if record.paused is not None:
            raise LifecycleError(
                f"launch {record.launch} is paused already, by {record.paused.by} at {moment(record.paused.at)}",
                remedy=f"`flashcast resume {record.campaign}` lets it go on, `flashcast abort` calls it off.",
            )
        return record.model_copy(update={"paused": Pause(at=at, by=store.operator.name, why=why)})

    return await store.transition(launch, Input.PAUSE, paused, note=why, at=at)


async def resume(store: Store, launch: str) -> LaunchRecord:
    """Lets a paused launch go on. Where its misfire guard had paused it, the guard is off from here on."""

    def resumed(record: LaunchRecord) -> LaunchRecord:
        if record.paused is None:
            raise LifecycleError(f"launch {record.launch} is not paused")
        off = record.guard_off or record.paused.guard
        return record.model_copy(update={"paused": None, "guard_off": off})

    return await store.transition(launch, Input.RESUME, resumed)
