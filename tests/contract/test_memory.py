"""The engine in memory keeps the contract, with faults for clients that insist; and its faults are had at will."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from flashcast.engine.base import Engine, EngineUnavailable, Entry, KeyExistsError, RevisionConflictError
from flashcast.testing.contract_base import told, until_caught_up, until_seen
from flashcast.testing.engine_contract import EngineContract
from flashcast.testing.memory_engine import Faults, MemoryEngine, MemorySpace
from flashcast.testing.patient import PatientEngine, create_or_mine
from flashcast.testing.virtual_time import Process, VirtualLoop

CLIENTS = 5
SEEDS = pytest.mark.parametrize("seed", range(20))


def run(main: Coroutine[Any, Any, Any], loop: VirtualLoop | None = None) -> Any:
    """Runs on virtual time: what waits costs nothing."""
    loop = loop or VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


class TestIdealMemoryEngine(EngineContract):
    @asynccontextmanager
    async def open(self, clients: int = 1) -> AsyncIterator[Sequence[Engine]]:
        space = MemorySpace()
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(MemoryEngine(space)) for _ in range(clients)]


@pytest.mark.parametrize("seed", range(5))
class TestMemoryEngineOnABadDay(EngineContract):
    @pytest.fixture(autouse=True)
    def _seeded(self, seed: int) -> None:
        self.seed = seed

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    @asynccontextmanager
    async def open(self, clients: int = 1) -> AsyncIterator[Sequence[Engine]]:
        space = MemorySpace()
        async with AsyncExitStack() as stack:
            engines = [MemoryEngine(space, Faults.some(), random.Random(f"{self.seed}/{n}")) for n in range(clients)]
            yield [await stack.enter_async_context(PatientEngine(engine)) for engine in engines]


# --- calls without an answer -------------------------------------------------------------------------------------


@SEEDS
def test_who_repeats_a_create_without_an_answer_is_told_whether_it_was_theirs(seed: int) -> None:
    faults = replace(Faults.some(), request_lost=0.3, reply_lost=0.3, late=0.3)
    space = MemorySpace()
    keys = [f"claims.{number}" for number in range(20)]

    async def claim(name: str, rng: random.Random) -> list[str]:
        async with MemoryEngine(space, faults, rng) as engine:
            answers = await asyncio.gather(*(create_or_mine(engine.durable, key, name.encode()) for key in keys))
            return [key for key, (mine, _) in zip(keys, answers, strict=True) if mine]

    async def main() -> list[list[str]]:
        names = [f"worker-{number}" for number in range(CLIENTS)]
        return await asyncio.gather(*(claim(name, random.Random(f"{seed}/{name}")) for name in names))

    won = run(main())
    assert sorted(key for mine in won for key in mine) == sorted(keys)


def test_a_lost_request_was_not_done_and_a_lost_reply_was() -> None:
    async def main() -> None:
        space = MemorySpace()
        lost, mute = MemoryEngine(space, Faults(request_lost=1)), MemoryEngine(space, Faults(reply_lost=1))
        await told(lost.durable.create("key", b"lost"), EngineUnavailable)
        assert space.durable.get("key") is None
        await told(mute.durable.create("key", b"done"), EngineUnavailable)
        entry = space.durable.get("key")
        assert entry is not None and entry.value == b"done"
        # Without an answer a refusal is unknown as well.
        await told(mute.durable.create("key", b"refused"), EngineUnavailable)
        assert space.durable.get("key") == entry

    run(main())


def test_a_late_request_lands_after_its_client_was_told_that_there_is_no_answer() -> None:
    async def main() -> None:
        space = MemorySpace()
        engine = MemoryEngine(space, Faults(late=1, late_s=(1, 1)))
        await told(engine.durable.create("key", b"late"), EngineUnavailable)
        assert space.durable.get("key") is None
        await asyncio.sleep(2)
        entry = space.durable.get("key")
        assert entry is not None and entry.value == b"late"

    run(main())


def test_a_request_of_a_killed_client_lands_all_the_same() -> None:
    loop = VirtualLoop()
    space = MemorySpace()
    engine = MemoryEngine(space, Faults(request_s=(1, 1)))

    async def main() -> None:
        victim = Process("victim")
        loop.spawn(victim, engine.durable.create("key", b"posthumous"))
        await asyncio.sleep(0.5)
        loop.kill_process(victim)
        assert space.durable.get("key") is None
        await asyncio.sleep(1)
        entry = space.durable.get("key")
        assert entry is not None and entry.value == b"posthumous"

    run(main(), loop)
    assert loop.faults == []


def test_a_request_whose_caller_gave_up_lands_all_the_same() -> None:
    async def main() -> None:
        space = MemorySpace()
        engine = MemoryEngine(space, Faults(request_s=(1, 1)))
        await told(asyncio.wait_for(engine.durable.put("key", b"written"), 0.5), TimeoutError)
        await asyncio.sleep(1)
        assert space.durable.get("key") is not None

    run(main())


# --- partitions --------------------------------------------------------------------------------------------------


def test_in_a_partition_calls_fail_and_go_on_when_it_is_healed() -> None:
    async def main() -> None:
        space = MemorySpace()
        engine, other = MemoryEngine(space, Faults(hung=0)), MemoryEngine(space)
        engine.partition()
        assert engine.partitioned and not other.partitioned
        await told(engine.durable.put("key", b"1"), EngineUnavailable)
        await told(engine.durable.entries(), EngineUnavailable)
        await other.durable.create("key", b"2")
        engine.heal()
        await told(engine.durable.create("key", b"3"), KeyExistsError)

    run(main())


def test_in_a_partition_calls_may_hang_until_it_is_healed() -> None:
    async def main() -> None:
        engine = MemoryEngine(MemorySpace(), Faults(hung=1))
        engine.partition()
        call = asyncio.ensure_future(engine.durable.create("key", b""))
        await asyncio.sleep(100)
        assert not call.done()
        engine.heal()
        assert await call == 1

    run(main())


def test_a_partition_on_the_way_back_leaves_the_write_done() -> None:
    async def main() -> None:
        space = MemorySpace()
        engine = MemoryEngine(space, Faults(reply_s=(1, 1), hung=0))
        call = asyncio.ensure_future(engine.durable.create("key", b""))
        await asyncio.sleep(0.5)
        engine.partition()
        await told(call, EngineUnavailable)
        assert space.durable.get("key") is not None

    run(main())


def test_a_watch_stalls_in_a_partition_and_catches_up_after_it() -> None:
    async def main() -> None:
        space = MemorySpace()
        engine, other = MemoryEngine(space, Faults(hung=0)), MemoryEngine(space)
        async with engine.durable.watch() as watch:
            await until_caught_up(watch)
            engine.partition()
            reading = asyncio.ensure_future(until_seen(watch, "key", b"3"))
            for number in range(4):
                await other.durable.put("key", str(number).encode())
            await asyncio.sleep(100)
            assert not reading.done()
            engine.heal()
            assert [entry.value for entry in await reading] == [b"0", b"1", b"2", b"3"]

    run(main())


def test_closing_in_a_partition_ends_calls_and_watches() -> None:
    async def main() -> None:
        engine = MemoryEngine(MemorySpace(), Faults(hung=1))
        async with engine.durable.watch() as watch:
            await until_caught_up(watch)
            engine.partition()
            call = asyncio.ensure_future(engine.durable.put("key", b""))
            reading = asyncio.ensure_future(anext(aiter(watch)))
            await asyncio.sleep(1)
            await engine.close()
            await told(call, EngineUnavailable)
            await told(reading, StopAsyncIteration)

    run(main())


# --- events ------------------------------------------------------------------------------------------------------


async def _events(faults: Faults) -> list[Entry | None]:
    space = MemorySpace()
    async with MemoryEngine(space, faults) as engine:
        space.durable.put("there", b"")
        async with engine.durable.watch() as watch:
            events: list[Entry | None] = list(await until_caught_up(watch))
            for number in range(3):
                space.durable.put("key", str(number).encode())
            events += await until_seen(watch, "key", b"2")
            space.durable.put("end", b"")
            return events + list(await until_seen(watch, "end", b""))


def test_without_faults_a_watch_gives_every_change_once() -> None:
    events = run(_events(Faults.none()))
    assert [entry.revision for entry in events] == [1, 2, 3, 4, 5]


def test_repeated_events_come_twice_in_a_row() -> None:
    events = run(_events(Faults(event_repeated=1)))
    assert [entry.revision for entry in events] == [1, 1, 2, 2, 3, 3, 4, 4, 5]


def test_merged_events_leave_out_what_came_between() -> None:
    events = run(_events(Faults(event_merged=1)))
    assert [entry.revision for entry in events] == [1, 4, 5]


def test_a_watch_that_fell_out_of_the_history_gets_the_latest_of_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashcast.testing.memory_engine.HISTORY_MAX", 2)
    events = run(_events(Faults.none()))
    assert [entry.revision for entry in events] == [1, 4, 5]


def test_a_volatile_space_that_was_restarted_gives_only_what_is_written_anew() -> None:
    async def main() -> None:
        space = MemorySpace()
        async with MemoryEngine(space) as engine:
            revision = await engine.volatile.put("beat.a", b"old")
            await engine.volatile.put("beat.b", b"old")
            await engine.durable.put("kept", b"")
            async with engine.volatile.watch() as watch:
                await until_caught_up(watch)
                space.restart_volatile()
                assert await engine.volatile.entries() == []
                assert await engine.durable.get("kept") is not None
                await told(engine.volatile.update("beat.a", b"", revision), RevisionConflictError)
                assert await engine.volatile.create("beat.a", b"new") > revision
                seen = await until_seen(watch, "beat.a", b"new")
                assert [entry.key for entry in seen] == ["beat.a"]

    run(main())


# --- the same seed is the same run -------------------------------------------------------------------------------


async def _story(seed: int) -> list[str]:
    """What three clients live through on a very bad day, with the times."""
    space = MemorySpace()
    loop = asyncio.get_running_loop()
    said: list[str] = []
    engines = [
        MemoryEngine(space, replace(Faults.some(), late=0.2), random.Random(f"{seed}/{number}")) for number in range(3)
    ]

    async def follow(number: int) -> None:
        async with PatientEngine(engines[number]).durable.watch() as watch:
            async for entry in watch:
                said.append(f"{loop.time()} {number} sees {entry}")

    async def write(number: int) -> None:
        for step in range(30):
            try:
                said.append(f"{loop.time()} {number} wrote {await engines[number].durable.put(f'k{step % 4}', b'')}")
            except EngineUnavailable as error:
                said.append(f"{loop.time()} {number} {error}")
            if step == 10 * number:
                engines[number].partition()
                loop.call_later(0.5, engines[number].heal)

    following = [asyncio.ensure_future(follow(number)) for number in range(3)]
    await asyncio.gather(*(write(number) for number in range(3)))
    await asyncio.sleep(10)
    for engine in engines:
        await engine.close()
    await asyncio.gather(*following)
    return said


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    code = "import test_memory, sys; print(test_memory.run(test_memory._story(7)))"
    stories = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.path.dirname(__file__)},  # noqa: PTH120
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert stories[0] == stories[1]
    assert run(_story(7)) != run(_story(8))
