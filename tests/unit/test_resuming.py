"""What is told to whoever would resume a fleet's launch that is not paused."""

from __future__ import annotations

import asyncio

from control_data import Control, armed, beating, ready, simulated

from flashcast.campaign.records import ShardRecord, shard_key
from flashcast.errors import LifecycleError
from flashcast.go.release import press_go
from flashcast.launch_control.resuming import not_paused


async def told(control: Control, workers: int) -> LifecycleError:
    """What is said of a live launch with one of its two shards settled."""
    await armed(control.honest())
    record = await press_go(control.store("kim@desk"), "superbowl")
    settled = ShardRecord(owner="w1", epoch=1, settled=True)
    await control.engine().durable.create(shard_key(record.launch, 0), settled.to_bytes())
    beats = [asyncio.create_task(beating(control, f"w{number}", ready())) for number in range(workers)]
    try:
        return await not_paused(control.honest(), record)
    finally:
        for one in beats:
            one.cancel()


def test_with_workers_at_work_there_is_nothing_to_do_but_to_look_or_to_call_it_off() -> None:
    error = simulated(lambda control: told(control, workers=2))
    assert "GO was pressed by kim@desk at" in error.message
    assert "1 of 2 shards are settled, and 2 workers are at work on the other 1" in error.message
    assert "`flashcast status superbowl --watch` follows it" in error.remedy


def test_without_workers_one_is_to_be_started() -> None:
    error = simulated(lambda control: told(control, workers=0))
    assert "and no worker is at work on the other 1" in error.message
    assert error.remedy == "Start a worker (`flashcast worker`): it takes the shards over and sends the rest by itself."
