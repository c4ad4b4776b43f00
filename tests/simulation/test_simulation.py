"""Fleets under faults, by seeds; see docs/guides/simulation.md. More of them: `scripts/simulate --seeds 1000`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flashcast.model import Provider
from flashcast.testing.fleet import Result, World
from flashcast.testing.sabotage import SABOTAGE
from flashcast.testing.scenario import Event, Kind, draw
from flashcast.testing.sealed import Sealed, seal_small
from flashcast.testing.simulate import run_seed, scratch
from flashcast.testing.simulated_provider import Mood
from flashcast.wire.warm import compile_kernels

SEEDS = 200
BATCHES = 8
BREAK_WITHIN = 100
"""Seeds within which a deliberate break is found."""


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Path, Sequence[Sealed]]]:
    """A folder, and the snapshots in it."""
    compile_kernels()
    with scratch() as folder:
        yield folder, seal_small(folder)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fleets_keep_their_promises_whatever_happens_to_them(batch: int, place: tuple[Path, Sequence[Sealed]]) -> None:
    folder, sealed = place
    for seed in range(batch, SEEDS, BATCHES):
        result = run_seed(seed, sealed, folder)
        assert result.violations == [], f"replay: scripts/simulate --seed {seed} --trace"


@pytest.mark.parametrize("broken", ["claims", "doubt", "take-over", "journal", "late-word"])
def test_a_deliberate_break_is_found(broken: str, place: tuple[Path, Sequence[Sealed]]) -> None:
    folder, sealed = place
    for seed in range(BREAK_WITHIN):
        if run_seed(seed, sealed, folder, broken=broken).violations:
            return
    pytest.fail(f"{SABOTAGE[broken].what}: not found within {BREAK_WITHIN} seeds")


def _aborted_behind_a_partition(place: tuple[Path, Sequence[Sealed]], broken: str | None) -> Result:
    """Two slow workers; one is cut off from the engine, and the launch is aborted behind its back."""
    folder, sealed = place
    calm = draw(1, len(sealed))
    launch = replace(
        calm.launches[0],
        window_s=20.0,
        chunk_rows=64,
        pace={},
        stages=(),
        guard=None,
        require_approval=False,
        shapes=(0,),
    )
    scenario = replace(
        calm,
        calm=False,
        launches=(launch,),
        workers=((0, 0.0), (0, 0.0)),
        devices_max=(1_000, 1_000),
        settings=replace(calm.settings, connections=1, lanes=1),
        moods={provider: Mood(think_s=(0.2, 0.3), streams=3, streams_first=3) for provider in Provider},
        events=(Event(Kind.PARTITION, True, 0.5, 6.0, 0.1), Event(Kind.ABORT, True, 0.8, 1.0, 0.1)),
        heal_s=12.0,
    )
    run = folder / f"abort-{broken}"
    run.mkdir()
    return World(scenario, sealed, run, sabotage=SABOTAGE[broken] if broken else None).run()


def test_a_worker_that_cannot_be_told_of_an_abort_stops_when_its_lease_runs_out(
    place: tuple[Path, Sequence[Sealed]],
) -> None:
    result = _aborted_behind_a_partition(place, None)
    assert result.violations == []
    assert result.states == ["aborted"]
    assert any("sending was called off" in found for found in _aborted_behind_a_partition(place, "lease").violations)


def test_faults_are_not_only_drawn_but_happen(place: tuple[Path, Sequence[Sealed]]) -> None:
    folder, sealed = place
    done: dict[str, int] = {}
    rows: dict[str, int] = {}
    for seed in range(300, 325):
        result = run_seed(seed, sealed, folder)
        for counts, more in ((done, result.tally), (rows, result.rows)):
            for what, count in more.items():
                counts[what] = counts.get(what, 0) + count
    assert {"killed", "stopped", "partition", "abort"} <= set(done)
    assert {"accepted", "unknown (ProcessDied)", "unknown (WorkerLost)", "expired (WindowClosed)"} <= set(rows)


def test_a_seed_gives_the_same_run_again_in_this_process(place: tuple[Path, Sequence[Sealed]]) -> None:
    folder, sealed = place
    for seed in range(400, 406):
        assert run_seed(seed, sealed, folder).digest == run_seed(seed, sealed, folder).digest


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    code = "from flashcast.testing.simulate import run_seeds; print([r.digest for r in run_seeds(range(400, 406))])"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hashing}
        ).stdout
        for hashing in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1


def test_the_command_names_the_seed_that_fails_and_how_to_replay_it() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "flashcast.testing.simulate", "--seeds", "100", "--break", "take-over"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 1
    assert "VIOLATION" in told.stdout
    replay = told.stdout.rsplit("replay: scripts/simulate ", 1)[1].split()
    again = subprocess.run(
        [sys.executable, "-m", "flashcast.testing.simulate", *replay], check=False, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert [line for line in again.stdout.splitlines() if line.startswith("VIOLATION")] == [
        line for line in told.stdout.splitlines() if line.startswith("VIOLATION")
    ]
