"""What the NATS engine keeps when servers die, networks freeze, leaders change and buckets vanish.

Writers repeat what got no answer, as every user of the engine does; what was acknowledged is noted, and must be there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from flashcast.engine import nats_watch
from flashcast.engine.base import EngineUnavailable, Entry, KeyExistsError, KeyValue, RevisionConflictError, Watch
from flashcast.engine.nats import NatsEngine, NatsOptions
from flashcast.testing.contract_base import assert_in_order, latest, of, told, until_caught_up, until_seen
from nats_servers import NatsCluster, NatsServer, TcpProxy

T = TypeVar("T")
HANG_S = 60.0
DURABLE, VOLATILE = "KV_flashcast_durable", "KV_flashcast_volatile"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as running:
        yield running


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path) as running:
        yield running


def run(main: Awaitable[None]) -> None:
    """Runs a test; one that takes absurdly long has hung."""

    async def bounded() -> None:
        async with asyncio.timeout(HANG_S):
            await main

    asyncio.run(bounded())


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats until there is an answer."""
    while True:
        try:
            return await attempt()
        except EngineUnavailable:
            await asyncio.sleep(0.01)


async def create(kv: KeyValue, key: str, value: bytes) -> bool:
    """Whether this writer has the key, after as many tries as it takes: an unanswered one may have been the one."""
    try:
        await insist(lambda: kv.create(key, value))
    except KeyExistsError as error:
        entry = error.entry or await insist(lambda: kv.get(key))
        return entry is not None and entry.value == value
    return True


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that the test itself brings about."""
    while not condition():
        await asyncio.sleep(0.01)


async def until_down(engine: NatsEngine) -> None:
    """Waits until the engine knows that its connection is gone."""
    assert engine._link is not None
    while engine._link.up:
        await asyncio.sleep(0.01)


class Writers:
    """Several clients that race for the same keys, one after the other, until they are told to stop."""

    def __init__(self, kvs: list[KeyValue]) -> None:
        self.kvs = kvs
        self.won: dict[str, list[int]] = {}
        self._stopped = False

    @property
    def keys(self) -> int:
        """How many keys have a winner."""
        return len(self.won)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writers]:
        """Writes while the block runs, and then to the end of what was begun."""
        tasks = [asyncio.create_task(self._write(number, kv)) for number, kv in enumerate(self.kvs)]
        try:
            yield self
        finally:
            self._stopped = True
            await asyncio.gather(*tasks)

    async def more(self, keys: int) -> None:
        """Waits until so many more keys have been won."""
        goal = self.keys + keys
        await until(lambda: self.keys >= goal)

    async def _write(self, writer: int, kv: KeyValue) -> None:
        number = 0
        while not self._stopped:
            key = f"claims.{number}"
            if await create(kv, key, str(writer).encode()):
                self.won.setdefault(key, []).append(writer)
            number += 1

    def assert_books_balance(self, there: list[Entry]) -> None:
        """One winner for each key, and everybody who was told that they won is the one who is there."""
        assert {key: writers for key, writers in self.won.items() if len(writers) > 1} == {}
        found = {entry.key: entry.value for entry in there}
        assert {key: str(writers[0]).encode() for key, writers in self.won.items()} == found


def watched(watch: Watch, seen: list[Entry | None]) -> asyncio.Task[None]:
    """Reads a watch into ``seen`` until it ends."""

    async def read() -> None:
        async for entry in watch:
            seen.append(entry)

    return asyncio.create_task(read())


def values(seen: list[Entry | None]) -> dict[str, bytes]:
    """What a watch has shown to be present."""
    return latest([entry for entry in seen if entry is not None])


# --- a server that dies ------------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_a_killed_server(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as one, NatsEngine(server.url) as two, NatsEngine(server.url) as reader:
            seen: list[Entry | None] = []
            async with reader.durable.watch("claims") as watch:
                reading = watched(watch, seen)
                async with Writers([one.durable, two.durable]).writing() as writers:
                    for _ in range(3):
                        await writers.more(20)
                        await asyncio.to_thread(server.restart)
                    await writers.more(20)
                there = await insist(lambda: reader.durable.entries("claims"))
                writers.assert_books_balance(there)
                await until(lambda: values(seen) == {entry.key: entry.value for entry in there})
                assert seen.count(None) == 1
                assert_in_order([entry for entry in seen if entry is not None])
                reading.cancel()

    run(main())


def test_while_no_server_is_there_calls_say_so_and_do_nothing_later(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as engine:
            await engine.durable.create("key", b"before")
            server.kill()
            await until_down(engine)
            attempts: list[Callable[[], Awaitable[object]]] = [
                lambda: engine.durable.create("late", b""),
                lambda: engine.durable.put("key", b"late"),
                lambda: engine.durable.get("key"),
                lambda: engine.durable.entries(),
                lambda: engine.volatile.put("late", b""),
            ]
            for attempt in attempts:
                error = await told(attempt(), EngineUnavailable)
                assert isinstance(error, EngineUnavailable) and error.retryable
                assert server.url in str(error)
            server.restart()
            there = await insist(engine.durable.entries)
            assert [(entry.key, entry.value) for entry in there] == [("key", b"before")]
            assert await insist(engine.volatile.entries) == []

    run(main())


def test_a_volatile_space_comes_back_empty_and_its_watches_go_on(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as one, NatsEngine(server.url) as two:
            old = await one.volatile.put("workers.a", b"1")
            async with two.volatile.watch("workers") as watch:
                assert latest(await until_caught_up(watch)) == {"workers.a": b"1"}
                await asyncio.to_thread(server.restart)
                assert await insist(two.volatile.entries) == []
                await told(insist(lambda: one.volatile.update("workers.a", b"2", old)), RevisionConflictError)
                new = await insist(lambda: one.volatile.put("workers.a", b"3"))
                assert new > old
                assert (await until_seen(watch, "workers.a", b"3"))[-1].revision == new

    run(main())


def test_a_watch_may_be_opened_and_an_engine_closed_while_no_server_is_there(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as engine:
            await engine.durable.put("key", b"value")
            server.kill()
            async with engine.durable.watch() as watch:
                reading = asyncio.create_task(until_caught_up(watch))
                server.restart()
                assert latest(await reading) == {"key": b"value"}
            server.kill()

    run(main())


def test_nothing_is_printed_when_servers_come_and_go(server: NatsServer, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as engine, engine.durable.watch() as watch:
            await until_caught_up(watch)
            await asyncio.to_thread(server.restart)
            await insist(lambda: engine.durable.put("key", b"value"))
            await until_seen(watch, "key", b"value")

    run(main())
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


# --- a network that is cut or frozen -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "freeze", "freeze until it is given up"])
def test_one_behind_a_broken_network_is_told_and_comes_back(server: NatsServer, fault: str) -> None:
    async def main() -> None:
        options = NatsOptions(timeout_s=0.3)
        with TcpProxy(server.port) as proxy:
            async with (
                NatsEngine(proxy.url, options) as far,
                NatsEngine(server.url, options) as near,
                far.durable.watch() as durable,
                far.volatile.watch() as volatile,
            ):
                await until_caught_up(durable)
                await until_caught_up(volatile)
                proxy.cut() if fault == "cut" else proxy.freeze()
                await told(far.durable.create("key", b"far"), EngineUnavailable)
                if fault == "freeze until it is given up":
                    await until_down(far)
                await near.durable.put("elsewhere", b"1")
                await near.durable.put("elsewhere", b"2")
                await near.durable.put("gone", b"1")
                await near.durable.delete("gone")
                await near.volatile.put("beat", b"1")
                proxy.heal()
                seen = await until_seen(durable, "elsewhere", b"2")
                assert_in_order(seen)
                assert "gone" not in latest(seen)
                await until_seen(volatile, "beat", b"1")
                # Whether the unanswered write went through is unknown; what it left is the same for both.
                assert await create(far.durable, "key", b"far")
                entry = await near.durable.get("key")
                assert entry is not None and entry.value == b"far"

    run(main())


def test_what_was_refused_while_disconnected_is_not_sent_later(server: NatsServer) -> None:
    async def main() -> None:
        with TcpProxy(server.port) as proxy:
            async with NatsEngine(proxy.url) as far, NatsEngine(server.url) as near:
                proxy.cut()
                await until_down(far)
                errors = await asyncio.gather(
                    *(far.durable.create(f"late.{number}", b"") for number in range(50)), return_exceptions=True
                )
                assert all(isinstance(error, EngineUnavailable) for error in errors)
                proxy.heal()
                await insist(lambda: far.durable.create("now", b""))
                assert [entry.key for entry in await near.durable.entries()] == ["now"]

    run(main())


def test_a_server_that_stands_still_is_given_up_and_taken_up_again(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url, NatsOptions(timeout_s=0.3)) as engine, engine.volatile.watch() as watch:
            await until_caught_up(watch)
            server.pause()
            await told(engine.volatile.put("beat", b"1"), EngineUnavailable)
            await until_down(engine)
            server.unpause()
            await insist(lambda: engine.volatile.put("beat", b"2"))
            await until_seen(watch, "beat", b"2")

    run(main())


# --- what dies inside the server ---------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["durable", "volatile"])
def test_a_watch_outlives_its_consumer(server: NatsServer, space: str) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as one, NatsEngine(server.url) as two:
            await of(one, space).put("key", b"1")
            async with of(one, space).watch() as watch:
                await until_caught_up(watch)
                stream = DURABLE if space == "durable" else VOLATILE
                for name in await _api(two, f"CONSUMER.NAMES.{stream}", "consumers"):
                    await _api(two, f"CONSUMER.DELETE.{stream}.{name}", "success")
                await of(two, space).put("key", b"2")
                seen = await until_seen(watch, "key", b"2")
                assert [entry.value for entry in seen] == [b"2"]

    run(main())


@pytest.mark.parametrize("space", ["durable", "volatile"])
def test_a_watch_goes_on_in_a_bucket_that_was_made_anew(server: NatsServer, space: str) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as one:
            for number in range(5):
                await of(one, space).put("key", str(number).encode())
            async with of(one, space).watch() as watch:
                await until_caught_up(watch)
                await _api(one, f"STREAM.DELETE.{DURABLE if space == 'durable' else VOLATILE}", "success")
                async with NatsEngine(server.url) as two:
                    # In the durable bucket the sequence has started over, far below what the watch has seen.
                    await of(two, space).put("key", b"anew")
                    await until_seen(watch, "key", b"anew")
                    entry = await of(one, space).get("key")
                    assert entry is not None and entry.value == b"anew"

    run(main())


def test_a_durable_bucket_that_is_gone_is_not_made_anew_behind_ones_back(server: NatsServer) -> None:
    async def main() -> None:
        async with NatsEngine(server.url) as engine:
            await engine.durable.put("key", b"value")
            await _api(engine, f"STREAM.DELETE.{DURABLE}", "success")
            assert DURABLE in str(await told(engine.durable.get("key"), EngineUnavailable))
            assert DURABLE in str(await told(engine.durable.create("key", b"again"), EngineUnavailable))

    run(main())


def test_a_slow_reader_makes_nothing_pile_up(server: NatsServer) -> None:
    keys, rounds = nats_watch.READY_MAX + 4 * nats_watch.BATCH, 2

    async def main() -> None:
        async with NatsEngine(server.url) as one, NatsEngine(server.url) as two, two.volatile.watch() as watch:
            await until_caught_up(watch)
            for number in range(rounds):
                value = str(number).encode()
                await asyncio.gather(*(one.volatile.put(f"key.{key}", value) for key in range(keys)))
                await until(lambda: watch.full)
            assert len(watch._ready) <= nats_watch.READY_MAX + nats_watch.BATCH
            await one.volatile.put("end", b"")
            seen = await until_seen(watch, "end", b"")
            assert_in_order(seen)
            assert latest(seen) == {"end": b"", **{f"key.{key}": str(rounds - 1).encode() for key in range(keys)}}
            # What was replaced while it waited at the server was left out.
            assert len(seen) < rounds * keys

    run(main())


# --- a cluster ---------------------------------------------------------------------------------------------

# Without a leader's word its followers wait 4 to 9 s before they elect another: nats-server has no setting for it.
slow = pytest.mark.slow


@slow
def test_in_a_cluster_nothing_acknowledged_is_lost_with_its_leader(cluster: NatsCluster) -> None:
    async def main() -> None:
        options = NatsOptions(replicas=3)
        async with (
            NatsEngine(cluster.url, options) as one,
            NatsEngine(cluster.url, options) as two,
            NatsEngine(cluster.url, options) as reader,
        ):
            assert not any("one server" in warning for warning in one.warnings)
            seen: list[Entry | None] = []
            async with reader.durable.watch("claims") as watch:
                reading = watched(watch, seen)
                async with Writers([one.durable, two.durable]).writing() as writers:
                    await writers.more(20)
                    killed = await asyncio.to_thread(cluster.kill_leader, DURABLE)
                    await writers.more(20)
                    await asyncio.to_thread(killed.restart)
                    await asyncio.to_thread(cluster.until_ready)
                    await writers.more(20)
                there = await insist(lambda: reader.durable.entries("claims"))
                writers.assert_books_balance(there)
                await until(lambda: values(seen) == {entry.key: entry.value for entry in there})
                assert seen.count(None) == 1
                assert_in_order([entry for entry in seen if entry is not None])
                reading.cancel()

    run(main())


@slow
def test_in_a_cluster_beats_go_on_without_their_leader(cluster: NatsCluster) -> None:
    async def main() -> None:
        options = NatsOptions(replicas=3)
        async with (
            NatsEngine(cluster.url, options) as one,
            NatsEngine(cluster.url, options) as two,
            two.volatile.watch("workers") as watch,
        ):
            await until_caught_up(watch)
            await one.volatile.put("workers.a", b"1")
            await until_seen(watch, "workers.a", b"1")
            await asyncio.to_thread(cluster.kill_leader, VOLATILE)
            await insist(lambda: one.volatile.put("workers.a", b"2"))
            await until_seen(watch, "workers.a", b"2")

    run(main())


def test_one_address_of_a_cluster_is_enough_to_outlive_that_server(cluster: NatsCluster) -> None:
    async def main() -> None:
        first = cluster.servers[0]
        async with NatsEngine(first.url, NatsOptions(replicas=3)) as engine:
            await engine.durable.put("key", b"1")
            first.kill()
            await insist(lambda: engine.durable.put("key", b"2"))
            assert engine.address == first.url

    run(main())


async def _api(engine: NatsEngine, name: str, field: str) -> list[str]:
    """One call of JetStream's API that must succeed; a field of its answer."""
    assert engine._link is not None
    answer = json.loads((await engine._link.request(f"$JS.API.{name}")).data)
    assert "error" not in answer, answer
    found = answer[field]
    return list(found) if isinstance(found, list) else []
