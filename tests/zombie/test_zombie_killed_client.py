"""An app that is killed at any moment has lost no write that it was told was taken, and none is applied twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from zombie_data import KEY, NOW, normal, sealed, zombie
from zombie_server import serving

from flashcast.clock import FixedClock
from flashcast.zombie.client import Options, ZombieClient

WRITER = Path(__file__).with_name("zombie_writer.py")
RUNS = 8


@pytest.mark.parametrize("mood", ["zombie", "normal"])
def test_killed_at_random_no_write_is_lost_and_none_applied_twice(tmp_path: Path, mood: str) -> None:
    chance, taken = random.Random(mood), list[str]()
    path = tmp_path / "zombie.db"
    with serving() as place:
        for run in range(RUNS):
            said = zombie(drain_s=5) if mood == "zombie" and run % 3 else normal(drain_s=5)
            place.file = sealed(said, version=run + 1, now=NOW + 100_000 * run, lasts_s=99_999)
            place.answers = [_answer(chance) for _ in range(500)]
            taken += _killed(place.url, path, run, after=chance.randint(0, 25))
        place.answers = []
        clock = FixedClock(NOW + 100_000 * RUNS)
        place.file = sealed(normal(drain_s=5), version=99, now=clock.time())
        options = Options(app="shop", base_url=place.url, trusted=[KEY.public], user="u1", path=path)
        client = ZombieClient(options, clock=clock)
        while client.pending():
            clock.advance(client.step())
        client.close()
        applied, order = Counter(place.applied), [(key, body) for key, _, body in place.writes]
    assert set(taken) <= set(applied), "a write was lost"
    assert set(applied.values()) == {1}
    # What was not yet told was on its way: one write for each kill at most.
    assert len(set(applied) - set(taken)) <= RUNS
    for lane in (b"a", b"b"):
        first = list(dict.fromkeys(key for key, body in order if body == lane))
        assert [key for key in first if key in taken] == [key for key in taken if key in first]


def _answer(chance: random.Random) -> tuple[int, dict[str, str]]:
    """Half of the answers are good; others are lost, before or after the write was applied, or say come back."""
    return chance.choice(
        [
            *[(200, {})] * 4,
            (200, {"lost": "yes"}),
            (500, {"lost": "yes"}),
            (500, {"applied": "yes"}),
            (503, {"Retry-After": "3"}),
        ]
    )


def _killed(url: str, path: Path, run: int, *, after: int) -> list[str]:
    """Runs the writer until it has told of ``after`` writes, and kills it; returns all that it told of."""
    command = [sys.executable, str(WRITER), url, str(path), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun 0\n", "the file was damaged"
        told = [process.stdout.readline() for _ in range(after)]
        process.kill()
        told += process.stdout.readlines()
    return [line.strip() for line in told if line.endswith("\n")]
