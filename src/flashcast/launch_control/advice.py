"""Preflight: collects what is known of a launch and its fleet, and has it judged (arm/preflight.py)."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from flashcast.arm.clocks import HEARTBEATS_MIN
from flashcast.arm.facts import Check, Facts, Verdict
from flashcast.arm.facts import Heard as Listened
from flashcast.arm.preflight import preflight as judge
from flashcast.arm.readiness import LEASE_S
from flashcast.campaign.records import SHARDS, LaunchRecord, ShardRecord
from flashcast.campaign.store import Store
from flashcast.clock import Clock
from flashcast.engine.base import Engine
from flashcast.go.follow import Heard, hear
from flashcast.launch_control.shielding import shield_check

LISTEN_S: Final = 1.6
"""Eight beats, of which five are wanted to compare the clocks."""
_PROBES: Final = 3
_PROBE_S_MAX: Final = 1.0


async def preflight(store: Store, name: str) -> tuple[LaunchRecord, Verdict]:
    """Go or no-go for pressing GO now, on behalf of the store's operator. Listens to the workers for `LISTEN_S`."""
    facts = await gather_facts(store, name)
    return facts.record, judge(facts)


async def gather_facts(store: Store, name: str) -> Facts:
    """What preflight goes by."""
    record, _ = await store.launch(name)
    transit_s, heard, shield = await asyncio.gather(
        transit(store.engine),
        hear(store.engine, store.clock, beats=HEARTBEATS_MIN, patience_s=LISTEN_S),
        _shield(record, store.clock),
    )
    record, _ = await store.launch(record.launch)
    entries = await store.engine.durable.entries(f"{SHARDS}.{record.launch}")
    return Facts(
        record=record,
        heard=tuple(_listened(one) for one in heard),
        owners={int(entry.key.rpartition(".")[2]): store.read(ShardRecord, entry) for entry in entries},
        now_s=store.clock.time(),
        operator=store.operator.name,
        engine_warnings=store.engine.warnings,
        transit_ms=None if transit_s is None else transit_s * 1e3,
        shield=shield,
    )


async def _shield(record: LaunchRecord, clock: Clock) -> Check | None:
    return await asyncio.to_thread(shield_check, record, clock) if record.shield is not None else None


def _listened(one: Heard) -> Listened:
    # One that left a beat by a clock ahead of ours and was not heard since is silent, whatever its age seems to be.
    age_s = one.age_s if one.alive else max(one.age_s, 2 * LEASE_S)
    return Listened(one.beat, age_s, one.heartbeats)


async def transit(engine: Engine) -> float | None:
    """The least seconds that a write took to come back by a watch; None where it did not in time."""
    key = f"probes.{secrets.token_hex(8)}"
    best: float | None = None
    try:
        async with asyncio.timeout(_PROBE_S_MAX), engine.volatile.watch(key) as watch:
            entries = aiter(watch)
            while await anext(entries) is not None:
                pass
            for number in range(_PROBES):
                began = time.perf_counter()
                value = str(number).encode()
                await engine.volatile.put(key, value)
                while (entry := await anext(entries)) is None or entry.value != value:
                    pass
                took = time.perf_counter() - began
                best = took if best is None else min(best, took)
    except TimeoutError:
        pass
    finally:
        await engine.volatile.delete(key)
    return best
