"""The embedded engine keeps the contract; and what only it promises."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from flashcast.engine import embedded, sqlite_file, sqlite_space
from flashcast.engine.base import Engine, EngineUnavailable
from flashcast.engine.doorbell import Doorbell
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.engine.sqlite_file import Follower, SpaceFile, Write
from flashcast.testing.contract_base import HANG_S, assert_in_order, latest, of, told, until_caught_up, until_seen
from flashcast.testing.engine_contract import EngineContract


class TestEmbeddedEngine(EngineContract):
    @asynccontextmanager
    async def open(self, clients: int = 1) -> AsyncIterator[Sequence[Engine]]:
        with TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                yield [await stack.enter_async_context(EmbeddedEngine(Path(folder))) for _ in range(clients)]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, HANG_S))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """As if another process were stopped in the middle of a transaction."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


# --- what stays -------------------------------------------------------------------------------------------------


def test_the_durable_space_survives_and_the_volatile_one_is_emptied_by_the_first_to_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as first:
            revision = await first.durable.create("kept", b"kept")
            await first.volatile.create("lost", b"lost")
            async with EmbeddedEngine(tmp_path) as second:
                assert await second.volatile.get("lost") is not None
        async with EmbeddedEngine(tmp_path) as third:
            entry = await third.durable.get("kept")
            assert entry is not None and (entry.value, entry.revision) == (b"kept", revision)
            assert await third.volatile.entries() == []
            assert await third.durable.put("next", b"") > revision

    run(main())


def test_nothing_stays_behind_of_an_engine_that_was_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The name is longer than a socket's may be, so there is a link to remove as well.
    folder = tmp_path / ("x" * 120)

    def counts() -> tuple[int, int, int]:
        watchers = folder / "watchers"
        sockets = len(list(watchers.iterdir())) if watchers.exists() else 0
        return len(list(Path("/dev/fd").iterdir())), threading.active_count(), sockets

    async def main(links: Path) -> None:
        # The first call starts the default executor's thread, which stays.
        await asyncio.to_thread(int)
        before = counts()
        async with EmbeddedEngine(folder) as engine, engine.durable.watch() as watch:
            await until_caught_up(watch)
            assert all(now > then for now, then in zip(counts(), before, strict=True))
            assert len(list(links.iterdir())) == 1
        assert counts() == before
        assert list(links.iterdir()) == []

    with TemporaryDirectory() as links:
        monkeypatch.setattr(tempfile, "tempdir", links)
        run(main(Path(links)))
    assert sorted(path.name for path in folder.iterdir()) == ["durable.db", "open.lock", "volatile.db", "watchers"]


def test_many_may_open_a_new_folder_at_the_same_moment(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            engines = [EmbeddedEngine(tmp_path / "new") for _ in range(8)]
            await asyncio.gather(*(stack.enter_async_context(engine) for engine in engines))
            await asyncio.gather(*(engine.durable.put("key", b"") for engine in engines))

    run(main())


def test_a_closed_engine_is_not_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        engine = EmbeddedEngine(tmp_path)
        await told(_get(engine), EngineUnavailable)
        async with engine:
            await engine.durable.put("key", b"")
        await told(engine.__aenter__(), RuntimeError)

    async def _get(engine: EmbeddedEngine) -> None:
        await engine.durable.get("key")

    run(main())


# --- groups and locks --------------------------------------------------------------------------------------------


def test_writes_that_wait_together_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    apply = SpaceFile.apply

    def spy(file: SpaceFile, writes: Sequence[Write]) -> object:
        groups.append(len(writes))
        return apply(file, writes)

    monkeypatch.setattr(SpaceFile, "apply", spy)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            with locked(tmp_path / "durable.db"):
                first = asyncio.ensure_future(engine.durable.create("first", b""))
                while not groups:
                    await asyncio.sleep(0)
                rest = [asyncio.ensure_future(engine.durable.create(f"key.{number}", b"")) for number in range(500)]
                await asyncio.sleep(0)
            await asyncio.gather(first, *rest)
        assert groups == [1, 500]

    run(main())


def test_heartbeats_go_on_while_a_write_waits_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_WAIT_S_MAX", 2 * HANG_S)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            with locked(tmp_path / "durable.db"):
                writing = asyncio.ensure_future(engine.durable.create("key", b"at last"))
                for number in range(20):
                    await engine.volatile.put("beat", str(number).encode())
                assert not writing.done()
            await writing

    run(main())


def test_a_lock_that_is_held_too_long_is_told_and_the_engine_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_WAIT_S_MAX", 0.02)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            await engine.durable.create("key", b"before")
            with locked(tmp_path / "durable.db"):
                error = await told(engine.durable.put("key", b"meanwhile"), EngineUnavailable)
                assert "another process" in str(error) and str(tmp_path / "durable.db") in str(error)
                entry = await engine.durable.get("key")
                assert entry is not None and entry.value == b"before"
            await engine.durable.put("key", b"after")

    run(main())


# --- watches -----------------------------------------------------------------------------------------------------


async def until_idle(space: object) -> None:
    """Waits until a watch of ``space`` has read everything and waits for more."""
    while "idle=1" not in repr(space):
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["x", "x" * 120], ids=["a short path", "a path longer than a socket's name may be"])
@pytest.mark.parametrize("space", ["durable", "volatile"])
def test_each_write_rings_at_the_watches_of_others(
    space: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its own look now and then, a watch that was not rung would wait for ever.
    monkeypatch.setattr(sqlite_space, "LOOK_S", 2 * HANG_S)

    async def main() -> None:
        folder = tmp_path / name
        async with EmbeddedEngine(folder) as one, EmbeddedEngine(folder) as two, of(two, space).watch() as watch:
            await until_caught_up(watch)
            for number in range(10):
                reading = asyncio.ensure_future(until_seen(watch, "key", str(number).encode()))
                await until_idle(of(two, space))
                await of(one, space).put("key", str(number).encode())
                await reading

    run(main())


def test_a_watch_that_could_not_read_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = 3
    changes = SpaceFile.changes

    def fail(file: SpaceFile, follower: Follower) -> object:
        nonlocal failures
        if follower.caught_up and failures:
            failures -= 1
            raise EngineUnavailable("the disk cannot be read")
        return changes(file, follower)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as one, EmbeddedEngine(tmp_path) as two, two.durable.watch() as watch:
            await until_caught_up(watch)
            monkeypatch.setattr(SpaceFile, "changes", fail)
            await one.durable.put("key", b"once")
            await until_seen(watch, "key", b"once")

    run(main())
    assert failures == 0


def test_a_watch_that_is_not_rung_looks_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doorbell, "ring", lambda bell: None)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as one, EmbeddedEngine(tmp_path) as two, two.durable.watch() as watch:
            await until_caught_up(watch)
            await one.durable.put("key", b"quietly")
            await until_seen(watch, "key", b"quietly")

    run(main())


def test_a_folder_without_sockets_is_watched_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doorbell, "_address", lambda bell, name: str(tmp_path / "missing" / name))

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as one, EmbeddedEngine(tmp_path) as two, two.durable.watch() as watch:
            await until_caught_up(watch)
            await one.durable.put("key", b"quietly")
            await until_seen(watch, "key", b"quietly")

    run(main())


def test_the_sockets_of_the_dead_are_removed_and_those_of_the_deaf_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            dead, deaf, other = (Doorbell(tmp_path / "watchers", space) for space in ("durable", "durable", "volatile"))
            receiver = dead.listen()
            assert receiver is not None
            receiver.close()
            assert deaf.listen() is not None
            assert other.listen() is not None
            before = set((tmp_path / "watchers").iterdir())
            # More than a queue holds: whoever does not read must not stop those who write.
            for number in range(1_500):
                await engine.durable.put("key", str(number).encode())
            gone = before - set((tmp_path / "watchers").iterdir())
            assert {str(path.name) for path in gone} == {repr(dead).split()[1]}
            for bell in (deaf, other):
                bell.close()

    run(main())


def test_a_watch_that_is_far_behind_still_hears_of_every_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "TOMBSTONES_MAX", 4)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as one, EmbeddedEngine(tmp_path) as two:
            for number in range(30):
                await one.durable.put(f"key.{number:02}", b"")
            async with two.durable.watch("key") as watch:
                seen = await until_caught_up(watch)
                # Nobody reads the watch meanwhile, so it is behind what is remembered.
                for number in range(25):
                    await one.durable.delete(f"key.{number:02}")
                await one.durable.put("key.03", b"again")
                await one.durable.put("key.29", b"changed")
                seen += await until_seen(watch, "key.29", b"changed")
                there = {entry.key: entry.value for entry in await one.durable.entries("key")}
                assert latest(seen) == there
                assert_in_order(seen)
                await one.durable.delete("key.28")
                await until_seen(watch, "key.28", None)
        connection = sqlite3.connect(tmp_path / "durable.db")
        assert connection.execute("SELECT count(*) <= 4 FROM entries WHERE value IS NULL").fetchone() == (1,)
        connection.close()

    run(main())


# --- warnings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"), [("tmpfs", "lost with power"), ("nfs4", "network file system"), ("ext4", "")]
)
def test_a_file_system_that_keeps_less_than_a_disk_is_told(
    kind: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "sys", type("Linux", (), {"platform": "linux"}))
    monkeypatch.setattr(embedded, "_file_system", lambda folder: kind)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            assert len(engine.warnings) == bool(words)
            assert all(words in warning and str(tmp_path) in warning for warning in engine.warnings)

    run(main())


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux tells what is mounted where")
def test_the_file_system_of_a_folder_is_found() -> None:
    assert embedded._file_system(Path("/proc/self")) == "proc"
    assert embedded._file_system(Path("/")) not in ("", "proc")
