"""The embedded engine on disks that are full, damaged, or somebody else's."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from flashcast.engine.base import VALUE_BYTES_MAX, EngineUnavailable
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.errors import EnvironmentFault
from flashcast.testing.contract_base import HANG_S, told, until_caught_up, until_seen

LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from flashcast.engine.base import EngineUnavailable
from flashcast.engine.embedded import EmbeddedEngine

async def main():
    async with EmbeddedEngine(Path(sys.argv[1])) as engine:
        await engine.durable.create("before", b"kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        try:
            await engine.durable.create("large", bytes(400_000))
        except EngineUnavailable as error:
            print(error.message)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await engine.durable.create("large", bytes(400_000))
        print(*sorted(entry.key for entry in await engine.durable.entries()))

asyncio.run(main())
"""


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, HANG_S))


async def opened(folder: Path) -> None:
    async with EmbeddedEngine(folder) as engine:
        await engine.durable.entries()


def assert_sound(folder: Path) -> None:
    connection = sqlite3.connect(folder / "durable.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where we may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes Linux and root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_forgotten_when_there_is_room_again(small_disk: Path) -> None:
    async def main() -> None:
        async with EmbeddedEngine(small_disk) as one, EmbeddedEngine(small_disk) as two:
            assert any("lies in memory" in warning for warning in one.warnings)
            await one.durable.create("before", b"kept")
            async with two.durable.watch() as watch:
                await until_caught_up(watch)
                ballast = small_disk / "ballast"
                with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(1 << 20))
                for number in range(3):
                    error = await told(one.durable.create(f"large.{number}", bytes(VALUE_BYTES_MAX)), EngineUnavailable)
                    assert "the disk is full" in str(error) and str(small_disk) in str(error)
                    assert "Free some space" in str(error)
                entry = await two.durable.get("before")
                assert entry is not None and entry.value == b"kept"
                ballast.unlink()
                await one.durable.create("large.0", bytes(VALUE_BYTES_MAX))
                await two.durable.put("after", b"well")
                seen = await until_seen(watch, "after", b"well")
                assert {entry.key for entry in seen} == {"large.0", "after"}
        assert_sound(small_disk)

    run(main())


def test_a_file_that_may_not_grow_is_told_and_forgotten_when_it_may(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(told) == 2
    assert "cannot use the engine's file" in told[0]
    assert told[1] == "before large"
    assert_sound(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        error = asyncio.run(told(opened(tmp_path), EnvironmentFault))
    finally:
        tmp_path.chmod(0o700)
    assert str(tmp_path) in str(error) and "permission" in str(error)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = asyncio.run(told(opened(tmp_path / "file" / "engine"), EnvironmentFault))
    assert str(tmp_path / "file" / "engine") in str(error) and "--engine embedded:DIR" in str(error)


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "durable.db").write_bytes(b"something else " * 1_000)
    error = asyncio.run(told(opened(tmp_path), EnvironmentFault))
    assert isinstance(error, EnvironmentFault) and not error.retryable
    assert "no database" in str(error) and str(tmp_path / "durable.db") in str(error)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "durable.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    error = asyncio.run(told(opened(tmp_path), EnvironmentFault))
    assert "another program's" in str(error)
    connection = sqlite3.connect(tmp_path / "durable.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_what_a_newer_version_wrote_is_left_alone(tmp_path: Path) -> None:
    asyncio.run(opened(tmp_path))
    connection = sqlite3.connect(tmp_path / "durable.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    error = asyncio.run(told(opened(tmp_path), EnvironmentFault))
    assert "newer Flashcast (format 2" in str(error)


def test_a_damaged_durable_file_is_told_to_callers_and_watches(tmp_path: Path) -> None:
    async def fill() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            for number in range(200):
                await engine.durable.put(f"key.{number}", bytes(1_000))

    async def use() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            error = await told(engine.durable.entries(), EnvironmentFault)
            assert isinstance(error, EnvironmentFault) and not error.retryable
            assert "damaged" in str(error) and "backup" in str(error)
            async with engine.durable.watch() as watch:
                assert "damaged" in str(await told(until_caught_up(watch), EnvironmentFault))
            await engine.volatile.put("beat", b"goes on")

    run(fill())
    with (tmp_path / "durable.db").open("r+b") as file:
        # The first page says what this is; the others hold the entries.
        file.seek(4_096)
        file.write(b"\xa5" * (file.seek(0, os.SEEK_END) - 4_096))
        file.seek(4_096)
        file.write(b"\xa5" * 4_096 * 20)
    run(use())


def test_a_damaged_volatile_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "volatile.db").write_bytes(b"cut off by a power cut " * 1_000)

    async def main() -> None:
        async with EmbeddedEngine(tmp_path) as engine:
            await engine.volatile.put("beat", b"1")

    run(main())
