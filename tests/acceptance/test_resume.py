"""kill -9 in mid-launch, and what `flashcast resume` makes of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Running, balanced, campaign, devices, eventually, flashcast, launches, outcomes_in_journal

from flashcast.deliver.journal import JournalReader, journals
from flashcast.outcomes import Outcome
from flashcast.simulator.process import SimulatorProcess

ROWS = 4_000


def settled(state: Path) -> int:
    outcomes = outcomes_in_journal(state)
    return 0 if outcomes is None else int(np.count_nonzero(outcomes != Outcome.UNSENT))


def in_flight(state: Path) -> int:
    outcomes = outcomes_in_journal(state)
    assert outcomes is not None
    return int(np.count_nonzero(outcomes == Outcome.IN_FLIGHT))


def kill_when(running: Running, state: Path, rows: int) -> None:
    """Kills the process without warning once ``rows`` rows have gone out."""
    eventually(lambda: settled(state) >= rows, running)
    running.signal(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL


@pytest.fixture
def launched(tmp_path: Path) -> list[object]:
    """The words of a launch that takes two seconds."""
    devices(tmp_path / "devices.parquet", ROWS)
    slow = campaign(tmp_path / "slow.toml", pace=1_000)
    return ["launch", slow, "--audience", tmp_path / "devices.parquet", "--yes"]


def check(document: dict[str, Any], counts: dict[str, Any], lost: int) -> None:
    assert balanced(document)
    assert document["devices"] == ROWS
    assert document["outcomes"]["unknown"] <= lost, "nothing is unknown but what was in flight"
    assert document["outcomes"]["accepted"] > 0.9 * ROWS - lost
    assert document["outcomes"]["unsent"] == document["outcomes"]["expired"] == document["outcomes"]["failed"] == 0
    assert counts["duplicates"] == 0, "never twice"
    assert counts["malformed"] == 0
    assert ROWS - lost <= counts["distinct"] <= ROWS


def test_a_killed_launch_is_reported_and_finished_by_resume(
    launched: list[object], state: Path, realistic: SimulatorProcess, tmp_path: Path
) -> None:
    kill_when(Running(*launched, "--to", realistic.config_path, cwd=tmp_path), state, 1_000)
    lost = in_flight(state)
    assert 0 < lost < 1_000, "the kill came in mid-launch"

    report = flashcast("report", "--json").document
    assert balanced(report)
    assert report["outcomes"]["unknown"] == lost
    assert report["outcomes"]["unsent"] > 500
    assert any("flashcast resume" in warning for warning in report["warnings"])

    done = flashcast("resume", "--json", cwd="/")  # type: ignore[arg-type] - paths do not depend on where we stand
    assert done.code == 0, done.told
    assert done.document["resumed"] == report["outcomes"]["unsent"]
    assert done.document["reasons"].get("ProcessDied", 0) == done.document["outcomes"]["unknown"] == lost
    check(done.document, realistic.counts(), lost)
    assert flashcast("report", "--json").document == done.document

    nothing = flashcast("resume")
    assert nothing.code == 2
    assert "interrupted" in nothing.err
    again = flashcast("resume", done.document["launch"])
    assert again.code == 2
    assert "has finished" in again.err
    assert f"flashcast report {done.document['launch']}" in again.err


def test_after_a_restart_of_the_machine_rows_that_look_unsent_are_not_sent_again(
    launched: list[object], state: Path, realistic: SimulatorProcess
) -> None:
    """What the kernel had not written to disk is gone then; here the journal only says that it was another start."""
    kill_when(Running(*launched, "--to", realistic.config_path), state, 1_000)
    (path,) = journals(launches(state)[0])
    journal = path.read_bytes()
    reader = JournalReader.read(path)
    assert reader is not None, "its process is dead"
    noted = str(reader.header["boot"]).encode()
    assert journal.count(noted) == 1
    path.write_bytes(journal.replace(noted, noted[::-1]))
    before = realistic.counts()["distinct"]

    done = flashcast("resume", "--json")
    assert balanced(done.document)
    counts = realistic.counts()
    assert counts["duplicates"] == 0, "never twice"
    lost = done.document["reasons"]["WorkerLost"]
    assert lost > 0, "what the dead process had claimed"
    assert before < counts["distinct"], "what it had not claimed is sent"
    assert done.document["outcomes"]["unknown"] == ROWS - sum(
        done.document["outcomes"][outcome] for outcome in ("accepted", "rejected", "failed", "expired", "unsent")
    )


def test_a_launch_that_is_killed_twice_is_resumed_twice(
    launched: list[object], state: Path, realistic: SimulatorProcess
) -> None:
    kill_when(Running(*launched, "--to", realistic.config_path), state, 1_000)
    lost = in_flight(state)
    kill_when(Running("resume"), state, 2_500)
    lost += in_flight(state)
    done = flashcast("resume", "--json")
    assert done.code == 0, done.told
    check(done.document, realistic.counts(), lost)


def test_a_demo_that_is_killed_can_be_resumed_and_both_simulators_books_are_compared(
    launched: list[object], state: Path
) -> None:
    kill_when(Running(*launched, "--to", "simulator", "--profile", "realistic"), state, 1_000)
    lost = in_flight(state)
    done = flashcast("resume", "--json")
    assert done.code == 0, done.told
    check(done.document, done.document["simulator"], lost)
    (folder,) = launches(state)
    assert not list(folder.glob("simulator-*")), "the simulators' folders go when the report is there"


def test_a_kill_before_the_launch_was_noted_as_live_is_found_by_its_journal(
    launched: list[object], state: Path, realistic: SimulatorProcess
) -> None:
    kill_when(Running(*launched, "--to", realistic.config_path), state, 500)
    (folder,) = launches(state)
    note = json.loads((folder / "launch.json").read_text())
    del note["started_at"]
    (folder / "launch.json").write_text(json.dumps({**note, "phase": "armed"}))
    done = flashcast("resume", "--json")
    assert done.code == 0, done.told
    assert balanced(done.document)
    assert realistic.counts()["duplicates"] == 0


def test_a_report_that_was_never_written_is_written_without_sending_anything(
    launched: list[object], state: Path, simulator: SimulatorProcess
) -> None:
    done = flashcast(*launched, "--limit", 100, "--to", simulator.config_path, "--json")
    assert done.code == 0, done.told
    received = simulator.counts()["received"]
    (folder,) = launches(state)
    note = json.loads((folder / "launch.json").read_text())
    (folder / "launch.json").write_text(json.dumps({**note, "phase": "live"}))
    (folder / "report.json").unlink()
    again = flashcast("resume", "--json")
    assert again.code == 0, again.told
    assert again.document["outcomes"] == done.document["outcomes"]
    assert again.document["resumed"] == 0
    assert simulator.counts()["received"] == received


def test_a_snapshot_that_changed_since_is_refused(
    launched: list[object], state: Path, realistic: SimulatorProcess
) -> None:
    kill_when(Running(*launched, "--to", realistic.config_path), state, 500)
    (folder,) = launches(state)
    shard = next((folder / "snapshot").glob("apns*.shard"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)
    before = realistic.counts()["received"]
    done = flashcast("resume")
    assert done.code == 2, done.told
    assert shard.name in done.err
    assert "changed after sealing" in done.err
    assert realistic.counts()["received"] == before


def test_an_endpoint_that_dies_leaves_unknown_and_expired_rows_and_the_launch_ends_with_its_window(
    state: Path, tmp_path: Path
) -> None:
    devices(tmp_path / "devices.parquet", ROWS)
    slow = campaign(tmp_path / "slow.toml", pace=1_000, top="window_s = 3")
    with SimulatorProcess(tmp_path / "dying", "realistic") as dying:
        running = Running(
            "launch", slow, "-a", tmp_path / "devices.parquet", "--yes", "--json", "--to", dying.config_path
        )
        eventually(lambda: settled(state) >= 500, running)
        before = dying.counts()["accepted"]
    done = running.wait()
    assert done.code == 0, done.told
    assert balanced(done.document)
    outcomes = done.document["outcomes"]
    assert outcomes["accepted"] + outcomes["unknown"] + outcomes["rejected"] >= before, (
        "what was taken is accounted for"
    )
    assert outcomes["expired"] == done.document["reasons"]["WindowClosed"] > 1_000
    assert any("No connection to" in warning for warning in done.document["warnings"])


def test_a_simulator_that_dies_does_not_take_the_report_with_it(state: Path, tmp_path: Path) -> None:
    devices(tmp_path / "devices.parquet", ROWS)
    slow = campaign(tmp_path / "slow.toml", pace=1_000, top="window_s = 3")
    running = Running("launch", slow, "-a", tmp_path / "devices.parquet", "--yes", "--json")
    eventually(lambda: settled(state) >= 500, running)
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell a process's children")
    (child,) = map(int, children.read_text().split())
    os.kill(child, signal.SIGKILL)
    done = running.wait()
    assert done.code == 3, done.told
    assert "the simulator ended with exit code -9" in done.err
    assert balanced(done.document)
    assert done.document["simulator"] is None
    assert any("books are lost" in warning for warning in done.document["warnings"])
