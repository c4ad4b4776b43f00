"""The question before GO: whoever answers it, at this terminal or another, what is told is what happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import OnTerminal, balanced, campaign, devices, flashcast, launches

from flashcast.simulator.process import SimulatorProcess

ROWS = 4_000
NOTHING = "nothing was sent"


def asked(tmp_path: Path, simulator: SimulatorProcess, *, pace: int | None = None, rows: int = ROWS) -> OnTerminal:
    """A launch that waits for ENTER."""
    devices(tmp_path / "devices.parquet", rows)
    text = campaign(tmp_path / "campaign.toml", pace=pace)
    audience = tmp_path / "devices.parquet"
    terminal = OnTerminal("launch", text, "--audience", audience, "--to", simulator.config_path)
    terminal.read_until("(Ctrl-C: no)")
    return terminal


def elsewhere(state: Path, *words: object) -> None:
    """What an operator called ada does at another terminal to the only launch there is."""
    done = flashcast(words[0], launches(state)[0].name, *words[1:], "--operator", "ada")
    assert done.code == 0, done.told


def told(terminal: OnTerminal) -> str:
    """What is to be read at a terminal, on one line."""
    return " ".join(terminal.text.split())


def test_enter_sends(state: Path, tmp_path: Path, simulator: SimulatorProcess) -> None:
    terminal = asked(tmp_path, simulator)
    terminal.press(b"\n")
    assert terminal.wait() == 0, terminal.text
    assert "GO was pressed by" not in told(terminal)
    assert flashcast("report", "--json").document["outcomes"]["accepted"] == ROWS


@pytest.mark.parametrize("keys", [b"\x03", b"\x04"], ids=["ctrl-c", "ctrl-d"])
def test_who_says_no_sends_nothing_and_leaves_nothing(
    keys: bytes, state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    received = simulator.counts()["received"]
    terminal = asked(tmp_path, simulator)
    terminal.press(keys)
    assert terminal.wait() == 130, terminal.text
    assert NOTHING in told(terminal)
    assert launches(state) == []
    assert simulator.counts()["received"] == received


def test_go_at_another_terminal_ends_the_question_and_this_process_sends(
    state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    terminal = asked(tmp_path, simulator)
    elsewhere(state, "go", "--yes", "--no-watch")
    assert terminal.wait() == 0, terminal.text
    assert "GO was pressed by ada at" in told(terminal)
    assert NOTHING not in told(terminal)
    report = flashcast("report", "--json").document
    assert balanced(report)
    assert report["outcomes"]["accepted"] == ROWS


def test_ctrl_c_after_go_at_another_terminal_aborts_and_reports(
    state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    terminal = asked(tmp_path, simulator, pace=500, rows=40_000)
    elsewhere(state, "go", "--yes", "--no-watch")
    terminal.read_until("GO + ")
    terminal.press(b"\x03")
    assert terminal.wait() == 130, terminal.text
    assert "nothing more is sent" in told(terminal)
    assert NOTHING not in told(terminal)
    report = flashcast("report", "--json").document
    assert report["aborted"]
    assert balanced(report)


def test_ctrl_c_at_the_same_moment_as_go_at_another_terminal_tells_the_truth(
    state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    """The process sleeps while another presses GO, and its first word afterwards is the interrupt."""
    received = simulator.counts()["received"]
    terminal = asked(tmp_path, simulator, pace=500, rows=40_000)
    os.kill(terminal.pid, signal.SIGSTOP)
    try:
        elsewhere(state, "go", "--yes", "--no-watch")
        os.kill(terminal.pid, signal.SIGINT)
    finally:
        os.kill(terminal.pid, signal.SIGCONT)
    assert terminal.wait() == 130, terminal.text
    assert "GO was pressed by ada at" in told(terminal)
    assert NOTHING not in told(terminal)
    report = flashcast("report", "--json").document
    assert report["aborted"]
    assert balanced(report)
    assert simulator.counts()["received"] - received == 40_000 - report["outcomes"]["unsent"]


@pytest.mark.parametrize(("order", "state_now"), [("abort", "aborted"), ("disarm", "sealed")])
def test_a_launch_that_another_terminal_takes_back_is_not_asked_for_any_more(
    order: str, state_now: str, state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    received = simulator.counts()["received"]
    terminal = asked(tmp_path, simulator)
    elsewhere(state, order)
    assert terminal.wait() == 130, terminal.text
    assert f"is {state_now} now, by ada at" in told(terminal)
    assert NOTHING in told(terminal)
    assert launches(state) == []
    assert simulator.counts()["received"] == received


def test_a_launch_that_others_press_and_call_off_in_one_breath_is_reported(
    state: Path, tmp_path: Path, simulator: SimulatorProcess
) -> None:
    terminal = asked(tmp_path, simulator, pace=500, rows=40_000)
    elsewhere(state, "go", "--yes", "--no-watch")
    elsewhere(state, "abort", "--no-wait")
    assert terminal.wait() == 130, terminal.text
    assert "GO was pressed by ada at" in told(terminal)
    report = flashcast("report", "--json").document
    assert report["aborted"]
    assert balanced(report)
