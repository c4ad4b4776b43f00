"""The engine contract's watches: what is there, then what changes, in order, and nothing missed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from flashcast.engine.base import VALUE_BYTES_MAX, Engine, Entry, KeyValue
from flashcast.testing.contract_base import (
    ContractBase,
    assert_in_order,
    contract,
    latest,
    of,
    on_both_spaces,
    until_caught_up,
    until_seen,
)

WRITERS = 3
WRITES = 60
TURNS = 30
KEYS = [f"busy.{number}" for number in range(7)]


async def _write_busily(kv: KeyValue, name: str, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(WRITES):
        key = rng.choice(KEYS)
        if rng.random() < 0.2:
            await kv.delete(key)
        else:
            await kv.put(key, f"{name}-{number}".encode())
        if rng.random() < 0.3:
            await asyncio.sleep(0)


async def _all_write(engines: Sequence[Engine], space: str) -> None:
    writers = (_write_busily(of(engine, space), f"w{number}", number) for number, engine in enumerate(engines))
    await asyncio.gather(*writers)
    await of(engines[0], space).put("busy.end", b"all have written")


async def _play(kv: KeyValue, mine: str, theirs: str, *, serve: bool) -> None:
    """Writes, waits for the other to have written, and so on."""
    async with kv.watch(theirs) as watch:
        for turn in range(TURNS):
            if not serve:
                await until_seen(watch, theirs, str(turn).encode())
            await kv.put(mine, str(turn).encode())
            if serve:
                await until_seen(watch, theirs, str(turn).encode())


class WatchContract(ContractBase):
    """Watching."""

    @on_both_spaces
    @contract
    async def test_a_watch_gives_what_is_there_then_says_so_then_gives_changes(self, space: str) -> None:
        async with self.open(2) as (one, two):
            kv = of(one, space)
            for key in ("b", "a", "c"):
                await kv.put(key, f"{key} at first".encode())
            await kv.delete("c")
            async with of(two, space).watch() as watch:
                before = await until_caught_up(watch)
                assert latest(before) == {"a": b"a at first", "b": b"b at first"}
                revision = await kv.put("b", b"b then")
                last = await kv.create("d", b"d then")
                after = await until_seen(watch, "d", b"d then")
                assert_in_order([*before, *after])
                assert Entry("b", b"b then", revision) in after
                assert after[-1] == Entry("d", b"d then", last)

    @on_both_spaces
    @contract
    async def test_a_watch_of_nothing_has_caught_up_at_once(self, space: str) -> None:
        async with self.open() as (engine,), of(engine, space).watch("nothing") as watch:
            assert await until_caught_up(watch) == []
            await of(engine, space).create("nothing.yet", b"something")
            seen = await until_seen(watch, "nothing.yet", b"something")
            assert {entry.key for entry in seen} == {"nothing.yet"}

    @on_both_spaces
    @contract
    async def test_a_deletion_is_an_entry_without_a_value(self, space: str) -> None:
        async with self.open(2) as (one, two):
            revision = await of(one, space).create("worker", b"here")
            async with of(two, space).watch("worker") as watch:
                assert latest(await until_caught_up(watch)) == {"worker": b"here"}
                await of(one, space).delete("worker")
                seen = await until_seen(watch, "worker", None)
                assert seen[-1].revision > revision
                again = await of(one, space).create("worker", b"back")
                assert again > seen[-1].revision
                assert (await until_seen(watch, "worker", b"back"))[-1].revision == again

    @contract
    async def test_a_deletion_that_found_nothing_is_no_change(self) -> None:
        async with self.open() as (engine,), engine.durable.watch() as watch:
            await until_caught_up(watch)
            await engine.durable.delete("never")
            await engine.durable.put("something", b"")
            assert {entry.key for entry in await until_seen(watch, "something", b"")} == {"something"}

    @on_both_spaces
    @contract
    async def test_a_watch_covers_whole_words_only(self, space: str) -> None:
        async with self.open() as (engine,):
            kv = of(engine, space)
            outside = ("a", "a.bc", "a.b-c", "a.b0", "a.b_", "ab", "b.a.b")
            for key in (*outside, "a.b", "a.b.c"):
                await kv.put(key, b"before")
            async with kv.watch("a.b") as watch:
                assert latest(await until_caught_up(watch)) == {"a.b": b"before", "a.b.c": b"before"}
                for key in (*outside, "a.b", "a.b.c.d"):
                    await kv.put(key, b"after")
                seen = await until_seen(watch, "a.b.c.d", b"after")
                assert latest(seen) == {"a.b": b"after", "a.b.c.d": b"after"}

    @on_both_spaces
    @contract
    async def test_a_watch_misses_nothing_while_many_write(self, space: str) -> None:
        async with self.open(WRITERS + 1) as (reader, *writers), of(reader, space).watch("busy") as watch:
            await until_caught_up(watch)
            writing = asyncio.ensure_future(_all_write(writers, space))
            seen = await until_seen(watch, "busy.end", b"all have written")
            await writing
            assert_in_order(seen)
            there = {entry.key: entry.value for entry in await of(reader, space).entries("busy")}
            assert latest(seen) == there

    @on_both_spaces
    @contract
    async def test_a_watch_that_begins_while_many_write_misses_nothing(self, space: str) -> None:
        async with self.open(WRITERS + 1) as (reader, *writers):
            for key in KEYS:
                await of(writers[0], space).put(key, b"at first")
            writing = asyncio.ensure_future(_all_write(writers, space))
            await asyncio.sleep(0)
            async with of(reader, space).watch("busy") as watch:
                seen = await until_seen(watch, "busy.end", b"all have written")
            await writing
            assert_in_order(seen)
            there = {entry.key: entry.value for entry in await of(reader, space).entries("busy")}
            assert latest(seen) == there

    @on_both_spaces
    @contract
    async def test_what_is_there_comes_before_the_marker_even_while_it_is_written(self, space: str) -> None:
        async with self.open(2) as (reader, writer):
            for key in KEYS:
                await of(writer, space).put(key, b"at first")

            async def rewrite() -> None:
                for number in range(200):
                    await of(writer, space).put(KEYS[number % len(KEYS)], str(number).encode())

            writing = asyncio.ensure_future(rewrite())
            for _ in range(5):
                async with of(reader, space).watch("busy") as watch:
                    assert sorted(latest(await until_caught_up(watch))) == KEYS
            await writing

    @contract
    async def test_what_a_watch_gives_can_be_swapped(self) -> None:
        async with self.open(2) as (one, two):
            await one.durable.create("launch", b"armed")
            async with two.durable.watch("launch") as watch:
                entry = (await until_seen(watch, "launch", b"armed"))[-1]
                revision = await two.durable.update("launch", b"live", entry.revision)
                assert (await until_seen(watch, "launch", b"live"))[-1].revision == revision

    @on_both_spaces
    @contract
    async def test_two_clients_that_wait_for_each_other_wake_each_other(self, space: str) -> None:
        async with self.open(2) as (one, two):
            await asyncio.gather(
                _play(of(one, space), "ball.one", "ball.two", serve=True),
                _play(of(two, space), "ball.two", "ball.one", serve=False),
            )

    @on_both_spaces
    @contract
    async def test_two_tasks_of_one_client_that_wait_for_each_other_wake_each_other(self, space: str) -> None:
        async with self.open() as (engine,):
            await asyncio.gather(
                _play(of(engine, space), "ball.one", "ball.two", serve=True),
                _play(of(engine, space), "ball.two", "ball.one", serve=False),
            )

    @contract
    async def test_two_watches_do_not_disturb_each_other(self) -> None:
        async with self.open() as (engine,):
            kv = engine.durable
            await kv.put("one.a", b"1")
            async with kv.watch("one") as first:
                assert latest(await until_caught_up(first)) == {"one.a": b"1"}
                async with kv.watch() as second:
                    assert latest(await until_caught_up(second)) == {"one.a": b"1"}
                    await kv.put("two.a", b"2")
                    await kv.put("one.b", b"3")
                    assert latest(await until_seen(second, "one.b", b"3")) == {"two.a": b"2", "one.b": b"3"}
                seen = await until_seen(first, "one.b", b"3")
                await kv.put("one.c", b"4")
                seen += await until_seen(first, "one.c", b"4")
                assert latest(seen) == {"one.b": b"3", "one.c": b"4"}

    @contract
    async def test_a_reader_that_gives_up_waiting_loses_nothing(self) -> None:
        async with self.open(2) as (one, two), two.durable.watch("busy") as watch:
            await until_caught_up(watch)
            seen: list[Entry] = []
            for number in range(20):
                writing = asyncio.ensure_future(one.durable.put(f"busy.{number}", b"written"))
                reading = asyncio.ensure_future(anext(aiter(watch)))
                # Sometimes the write is done first, sometimes neither is: whatever was read then must come again.
                await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
                reading.cancel()
                await asyncio.wait((writing, reading))
                if not reading.cancelled() and (entry := reading.result()) is not None:
                    seen.append(entry)
            await one.durable.put("busy.end", b"written")
            if "busy.end" not in latest(seen):
                seen += await until_seen(watch, "busy.end", b"written")
            assert_in_order(seen)
            assert sorted(latest(seen)) == sorted([*(f"busy.{number}" for number in range(20)), "busy.end"])

    @contract
    async def test_large_values_come_through_a_watch(self) -> None:
        async with self.open(2) as (one, two), two.durable.watch("large") as watch:
            values = {f"large.{number}": bytes([number]) * VALUE_BYTES_MAX for number in range(12)}
            await asyncio.gather(*(one.durable.put(key, value) for key, value in values.items()))
            await one.durable.put("large.end", b"")
            seen = await until_seen(watch, "large.end", b"")
            assert latest(seen) == {**values, "large.end": b""}
            async with one.durable.watch("large") as again:
                assert latest(await until_caught_up(again)) == {**values, "large.end": b""}

    @contract
    async def test_a_slow_reader_sees_the_end_of_it(self) -> None:
        async with self.open(2) as (one, two), two.volatile.watch() as watch:
            await until_caught_up(watch)
            for number in range(300):
                await one.volatile.put("beat", str(number).encode())
            seen = await until_seen(watch, "beat", b"299")
            assert_in_order(seen)

    @contract
    async def test_a_watch_ends_with_its_block_and_the_engine_goes_on(self) -> None:
        async with self.open() as (engine,):
            await engine.durable.put("key", b"1")
            async with engine.durable.watch() as watch:
                await until_caught_up(watch)
            assert [entry async for entry in watch] == []
            await engine.durable.put("key", b"2")
            entry = await engine.durable.get("key")
            assert entry is not None and entry.value == b"2"

    @on_both_spaces
    @contract
    async def test_closing_the_engine_ends_its_watches(self, space: str) -> None:
        async with self.open(2) as (one, two):
            caught_up = asyncio.Event()

            async def follow() -> list[str]:
                keys = []
                async with of(one, space).watch() as watch:
                    async for entry in watch:
                        if entry is None:
                            caught_up.set()
                        else:
                            keys.append(entry.key)
                return keys

            await of(two, space).put("key", b"")
            following = asyncio.ensure_future(follow())
            await caught_up.wait()
            await one.close()
            assert set(await following) == {"key"}
            await of(two, space).put("key", b"still here")
