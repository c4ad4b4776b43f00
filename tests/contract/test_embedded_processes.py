"""The embedded engine between real processes: who wins, who is woken, and what a killed one leaves behind."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from flashcast.engine import sqlite_space
from flashcast.engine.base import Entry
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.testing.contract_base import HANG_S, until_caught_up, until_seen

PROGRAM = Path(__file__).with_name("racing_process.py")
KEYS = 200


class Racer:
    """One racing process and what it has said."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), name, str(KEYS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __repr__(self) -> str:
        return f"<Racer {self.name} pid={self._process.pid} said={len(self.said)}>"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def hear(self, beginning: str) -> str:
        """Reads until it has said something that begins so."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return self.said[-1]
        raise AssertionError(f"{self.name} ended without saying {beginning!r}: {self.said[-3:]}")

    def end(self) -> int:
        """Lets it end by itself, and hears the rest."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self.said += self._process.stdout.read().splitlines()
        return self._process.wait(HANG_S)

    def kill(self) -> None:
        """kill -9."""
        self._process.send_signal(signal.SIGKILL)

    @property
    def won(self) -> list[str]:
        return [line.removeprefix("won ") for line in self.said if line.startswith("won ")]


class Start(Protocol):
    """Starts a process that races in ``folder``, by default the test's own."""

    def __call__(self, name: str, folder: Path | None = None) -> Racer: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    racers: list[Racer] = []

    def begin(name: str, folder: Path | None = None) -> Racer:
        racers.append(Racer(folder or tmp_path, name))
        return racers[-1]

    yield begin
    for racer in racers:
        racer.kill()
        racer.end()


def there(folder: Path, prefix: str) -> dict[str, Entry]:
    """What a new engine finds."""

    async def read() -> list[Entry]:
        async with EmbeddedEngine(folder) as engine:
            return await engine.durable.entries(prefix)

    return {entry.key: entry for entry in asyncio.run(read())}


def assert_sound(folder: Path) -> None:
    connection = sqlite3.connect(folder / "durable.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def test_ten_processes_race_for_the_same_keys_and_each_key_has_one_winner(tmp_path: Path, start: Start) -> None:
    racers = [start(f"racer-{number}") for number in range(10)]
    for racer in racers:
        racer.hear("ready")
    for racer in racers:
        racer.go()
    assert [racer.end() for racer in racers] == [0] * len(racers)
    winners = sorted((key, racer.name.encode()) for racer in racers for key in racer.won)
    found = there(tmp_path, "raced")
    assert winners == sorted((key, entry.value) for key, entry in found.items())
    assert len(winners) == KEYS
    assert list((tmp_path / "watchers").iterdir()) == []
    assert_sound(tmp_path)


def test_a_process_killed_while_it_writes_takes_nothing_with_it(tmp_path: Path, start: Start) -> None:
    racers = [start(f"racer-{number}") for number in range(3)]
    victim = start("victim")
    for racer in (*racers, victim):
        racer.hear("ready")
    for racer in (*racers, victim):
        racer.go()
    victim.hear("wrote 5")
    victim.kill()
    victim.end()
    assert [racer.end() for racer in racers] == [0] * len(racers)
    assert_sound(tmp_path)
    found = there(tmp_path, "raced")
    assert len(found) == KEYS
    for racer in (*racers, victim):
        assert all(found[key].value == racer.name.encode() for key in racer.won)
    # What it had won and not yet said may be there as well; what it had said surely is.
    said = {key for racer in (*racers, victim) for key in racer.won}
    assert all(entry.value == b"victim" for key, entry in found.items() if key not in said)
    last = there(tmp_path, "last")["last.victim"]
    assert last.value is not None and int(last.value) >= int(victim.said[-1].removeprefix("wrote "))


@pytest.mark.parametrize("deep", [False, True], ids=["a short path", "a path longer than a socket's name may be"])
def test_a_watch_is_rung_by_another_process(
    deep: bool, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its own look now and then, a watch that was not rung would wait for ever.
    monkeypatch.setattr(sqlite_space, "LOOK_S", 2 * HANG_S)
    folder = tmp_path / ("x" * 120 if deep else "x")
    racer = start("racer", folder)
    racer.hear("ready")

    async def follow() -> None:
        async with EmbeddedEngine(folder) as engine, engine.durable.watch() as watch:
            await until_caught_up(watch)
            racer.go()
            seen = await until_seen(watch, "last.racer", b"0")
            assert len({entry.key for entry in seen}) == KEYS + 1

    asyncio.run(asyncio.wait_for(follow(), HANG_S))
