"""What an operator orders of a launch that is armed or live; `press_go` and `approve` are in go/, and so is `abort`."""

from __future__ import annotations

from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import LaunchRecord, Pause
from flashcast.campaign.refusal import moment
from flashcast.campaign.store import Store
from flashcast.errors import LifecycleError
from flashcast.go.abort import Drained, abort, drained
from flashcast.go.release import approve, press_go

__all__ = ["Drained", "abort", "approve", "drained", "pause", "press_go", "resume"]


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
