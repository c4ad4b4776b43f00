"""Ctrl-C at every moment of a launch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import (
    Finished,
    OnTerminal,
    Running,
    balanced,
    campaign,
    devices,
    eventually,
    flashcast,
    launches,
    outcomes_in_journal,
)

from flashcast.outcomes import Outcome
from flashcast.simulator.process import SimulatorProcess

ROWS = 20_000
PACE = 2_000


@pytest.fixture
def launched(tmp_path: Path) -> list[object]:
    """The words of a launch that takes five seconds."""
    devices(tmp_path / "devices.parquet", ROWS)
    slow = campaign(tmp_path / "slow.toml", pace=PACE)
    return ["launch", slow, "--audience", tmp_path / "devices.parquet", "--yes"]


def sent(state: Path) -> int:
    outcomes = outcomes_in_journal(state)
    return 0 if outcomes is None else int(np.count_nonzero(outcomes != Outcome.UNSENT))


def check_aborted(document: dict[str, Any]) -> None:
    assert document["aborted"] is True
    assert balanced(document)
    assert document["outcomes"]["unsent"] > 0
    assert document["reasons"]["Aborted"] == document["outcomes"]["unsent"]
    assert document["overshoot"] <= 1_000, "what is on the wire is a small part of a launch"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_abort_sends_nothing_more_and_still_reports(
    number: signal.Signals, launched: list[object], state: Path, realistic: SimulatorProcess
) -> None:
    running = Running(*launched, "--to", realistic.config_path, "--json")
    eventually(lambda: sent(state) >= 2_000, running)
    before = sent(state)
    running.signal(number)
    done = running.wait()
    assert done.code == 130, done.told
    check_aborted(done.document)
    assert "nothing more is sent" in done.err
    gone_out = ROWS - done.document["outcomes"]["unsent"]
    assert gone_out - before < 2 * PACE, "it ended at once, not seconds later"
    assert done.document["outcomes"]["unknown"] == 0, "replies to what was on the wire were awaited"
    counts = realistic.counts()
    assert counts["received"] == counts["distinct"] == gone_out
    assert flashcast("report", "--json").document == done.document
    resumed = flashcast("resume")
    assert resumed.code == 2, "an aborted launch is over: the operator wanted it so"
    assert realistic.counts()["received"] == gone_out


def test_a_second_interrupt_ends_the_wait_but_not_the_report(
    launched: list[object], state: Path, tmp_path: Path
) -> None:
    silent = tmp_path / "silent.toml"
    silent.write_text(
        "reply_deadline_s = 30.0\n"
        '[[apns.replies]]\nreason = "silence"\nshare = 0.2\n[[fcm.replies]]\nreason = "silence"\nshare = 0.2\n'
    )
    running = Running(*launched, "--to", "simulator", "--profile", silent, "--json")
    eventually(lambda: sent(state) >= 1_000, running)
    running.signal(signal.SIGINT)
    eventually(lambda: any("aborting" in line for line in running.err_lines), running)
    running.signal(signal.SIGINT)
    done = running.wait()
    assert done.code == 130, done.told
    check_aborted(done.document)
    assert "not waiting for the rest" in done.err
    assert done.document["outcomes"]["unknown"] > 0, "rows without a reply are unknown"
    assert done.document["simulator"]["duplicates"] == 0


def test_ctrl_c_at_the_terminal_leaves_the_simulator_its_last_replies(launched: list[object], state: Path) -> None:
    at_terminal = OnTerminal(*launched, "--to", "simulator", "--profile", "realistic")
    at_terminal.read_until("GO + ")
    eventually(lambda: sent(state) >= 1_000)
    at_terminal.press(b"\x03")
    assert at_terminal.wait() == 130, at_terminal.text
    report = flashcast("report", "--json").document
    check_aborted(report)
    assert report["outcomes"]["unknown"] == 0
    assert report["simulator"]["received"] == ROWS - report["outcomes"]["unsent"]


@pytest.mark.parametrize("when", ["sealing", "arming"])
def test_an_interrupt_before_go_leaves_nothing(
    when: str, launched: list[object], state: Path, simulator: SimulatorProcess
) -> None:
    received = simulator.counts()["received"]
    running = Running(*launched, "--to", simulator.config_path)
    wanted = "snapshot*" if when == "sealing" else "journal-local.bin"
    eventually(lambda: [found for folder in launches(state) for found in folder.glob(wanted)], running)
    running.signal(signal.SIGINT)
    done: Finished = running.wait()
    assert done.code == 130, done.told
    if launches(state):  # it came after GO all the same: then there is a report
        assert flashcast("report", "--json").document["aborted"]
    else:
        assert "nothing was sent" in done.err
        assert simulator.counts()["received"] == received
