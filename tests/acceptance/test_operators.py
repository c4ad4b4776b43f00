"""Launch control from several terminals at once: real processes on an embedded engine, a worker and the simulators."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from processes import COMMAND, OnTerminal, Running, balanced, campaign, devices, eventually, flashcast

from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import LaunchRecord, SnapshotRef
from flashcast.campaign.store import Operator, Store
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.model import Provider
from flashcast.simulator.process import SimulatorProcess

T = TypeVar("T")
OPERATORS = 10
ROWS = 4_000


def with_store(state: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Does ``work`` beside the commands, as a worker would."""

    async def inside() -> T:
        async with EmbeddedEngine(state / "engine") as engine:
            return await work(Store(engine, Operator("worker-1", "rack")))

    return asyncio.run(inside())


def launch_record(state: Path, name: str = "superbowl") -> LaunchRecord:
    """The launch as the engine has it."""
    return with_store(state, lambda store: store.launch(name))[0]


@pytest.fixture
def armed(state: Path, tmp_path: Path) -> Path:
    """A launch that was sealed and called ready by nobody but this test: there is nothing to send from."""
    text = campaign(tmp_path / "campaign.toml").read_text()
    snapshot = SnapshotRef(url="/nowhere", digest="d" * 64, sealed_at=0.0, rows={Provider.APNS: 1_000}, shards=1)

    async def work(store: Store) -> None:
        await store.create_campaign("superbowl", text)
        await store.transition("superbowl", Input.SEAL, lambda r: r.model_copy(update={"snapshot": snapshot}))
        await store.transition("superbowl", Input.ARM)
        await store.transition("superbowl", Input.READY)

    with_store(state, work)
    return state


def told_who_won(text: str, record: LaunchRecord) -> bool:
    """Whether a loser was told the winner, the time, the place and by how much."""
    assert record.go is not None
    words = " ".join(text.split())
    pattern = (
        rf"launch superbowl-1 is live already: GO was pressed by {record.go.by} at "
        rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}}Z from {re.escape(record.go.host)}, "
        r"[\d,.]+ ms (before this|after this|ago)"
    )
    return re.search(pattern, words) is not None


def test_ten_operators_press_enter_at_once_and_one_launches(armed: Path) -> None:
    terminals = [
        OnTerminal("go", "superbowl", "--no-watch", "--operator", f"operator-{number}") for number in range(OPERATORS)
    ]
    for terminal in terminals:
        terminal.read_until("Press ENTER to send to 1,000 devices")
    for terminal in terminals:
        terminal.press(b"\n")
    codes = [terminal.wait() for terminal in terminals]
    assert sorted(codes) == [0] + [5] * (OPERATORS - 1), [terminal.text for terminal in terminals]
    record = launch_record(armed)
    assert record.go is not None
    assert record.go.by == f"operator-{codes.index(0)}"
    assert [entry.what for entry in record.trail].count(Input.GO) == 1
    assert [
        t.text for t, code in zip(terminals, codes, strict=True) if code == 5 and not told_who_won(t.text, record)
    ] == []


def test_ten_processes_press_go_at_once_and_one_launches(armed: Path) -> None:
    pressing = [
        Running("go", "superbowl", "--yes", "--no-watch", "--json", "--operator", f"operator-{number}")
        for number in range(OPERATORS)
    ]
    done = [process.wait() for process in pressing]
    assert sorted(one.code for one in done) == [0] + [5] * (OPERATORS - 1), done
    record = launch_record(armed)
    winner = next(one for one in done if one.code == 0)
    assert record.go is not None
    assert winner.document["go"] == {"at": record.go.at, "by": record.go.by, "host": record.go.host}
    for one in done:
        if one.code == 5:
            assert one.document["error"]["kind"] == "Lost"
            assert told_who_won(one.document["error"]["message"], record)


def test_an_edit_while_somebody_is_being_asked_ends_the_question(armed: Path, tmp_path: Path) -> None:
    terminal = OnTerminal("go", "superbowl", "--no-watch")
    terminal.read_until("Press ENTER")
    other = campaign(tmp_path / "other.toml", top="window_s = 7")
    assert flashcast("campaign", "edit", "superbowl", other).code == 0
    assert terminal.wait() == 2
    assert "superbowl-1 is draft" in " ".join(terminal.text.split())
    assert launch_record(armed).go is None


def test_whoever_is_being_asked_is_told_when_another_presses(armed: Path) -> None:
    terminal = OnTerminal("go", "superbowl", "--operator", "kim")
    terminal.read_until("Press ENTER")
    assert flashcast("go", "superbowl", "--yes", "--no-watch", "--operator", "ada").code == 0
    assert terminal.wait() == 5
    record = launch_record(armed)
    assert record.go is not None and record.go.by == "ada"
    assert told_who_won(terminal.text, record)


def test_ctrl_c_at_the_same_moment_as_anothers_go_does_not_say_that_nothing_was_sent(armed: Path) -> None:
    """The process sleeps while another presses GO, and its first word afterwards is the interrupt."""
    terminal = OnTerminal("go", "superbowl", "--operator", "kim")
    terminal.read_until("Press ENTER")
    os.kill(terminal.pid, signal.SIGSTOP)
    try:
        assert flashcast("go", "superbowl", "--yes", "--no-watch", "--operator", "ada").code == 0
        os.kill(terminal.pid, signal.SIGINT)
    finally:
        os.kill(terminal.pid, signal.SIGCONT)
    assert terminal.wait() in (5, 130)
    words = " ".join(terminal.text.split())
    assert "by ada at" in words
    assert "nothing was sent" not in words


@pytest.mark.parametrize("keys", [b"\x03", b"\x04"], ids=["ctrl-c", "ctrl-d"])
def test_who_does_not_press_enter_sends_nothing(armed: Path, keys: bytes) -> None:
    terminal = OnTerminal("go", "superbowl")
    terminal.read_until("Press ENTER")
    terminal.press(keys)
    assert terminal.wait() == 130
    assert "nothing was sent" in terminal.text
    assert launch_record(armed).state is State.ARMED


def test_ctrl_c_while_arming_ends_the_waiting_and_not_the_arming(state: Path, tmp_path: Path) -> None:
    text = campaign(tmp_path / "campaign.toml")
    devices(tmp_path / "devices.parquet", 100)
    assert flashcast("campaign", "create", "superbowl", text).code == 0
    assert flashcast("seal", "superbowl", "--audience", tmp_path / "devices.parquet").code == 0
    arming = Running("arm", "superbowl")
    eventually(lambda: launch_record(state).state is State.ARMING, arming)
    eventually(lambda: any("arming superbowl-1" in line for line in arming.err_lines), arming)
    arming.signal(signal.SIGINT)
    done = arming.wait()
    assert done.code == 130
    assert "superbowl-1 goes on arming" in done.err
    assert launch_record(state).state is State.ARMING


def test_whoever_waits_for_arming_is_told_when_somebody_disarms(state: Path, tmp_path: Path) -> None:
    text = campaign(tmp_path / "campaign.toml")
    devices(tmp_path / "devices.parquet", 100)
    assert flashcast("campaign", "create", "superbowl", text).code == 0
    assert flashcast("seal", "superbowl", "--audience", tmp_path / "devices.parquet").code == 0
    arming = Running("arm", "superbowl")
    eventually(lambda: launch_record(state).state is State.ARMING, arming)
    assert flashcast("disarm", "superbowl", "--operator", "ada").code == 0
    done = arming.wait()
    assert done.code == 2
    assert "was not armed: it is sealed now by ada" in done.err


@pytest.fixture
def worker(state: Path) -> Iterator[Running]:
    """A worker that has registered."""
    running = Running("worker")
    eventually(lambda: flashcast("workers", "--json").document["workers"], running)
    yield running
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0


def test_a_launch_from_five_terminals(
    state: Path, tmp_path: Path, worker: Running, simulator: SimulatorProcess
) -> None:
    """Create, seal, arm, preflight, approve, go, watch, report: each a process, the worker another, one engine."""
    text = campaign(tmp_path / "campaign.toml", top="require_approval = true")
    devices(tmp_path / "devices.parquet", ROWS)
    received = simulator.counts()["received"]
    assert flashcast("campaign", "create", "superbowl", text).code == 0
    assert (
        flashcast("seal", "superbowl", "--audience", tmp_path / "devices.parquet", "--json").document["devices"] == ROWS
    )
    armed = flashcast("arm", "superbowl", "--to", simulator.config_path, "--json")
    assert armed.document["state"] == "armed", armed.told
    unapproved = flashcast("preflight", "superbowl", "--operator", "kim", "--json")
    assert unapproved.code == 1
    assert [c["name"] for c in unapproved.document["checks"] if c["level"] == "fail"] == ["approval"], unapproved.told
    assert flashcast("approve", "superbowl", "--operator", "ada").code == 0
    assert flashcast("preflight", "superbowl", "--operator", "kim").code == 0
    watching = Running("status", "superbowl", "--watch", "--json")
    gone = flashcast("go", "superbowl", "--yes", "--operator", "kim", "--json")
    assert gone.code == 0, gone.told
    report = gone.document
    assert balanced(report)
    assert report["outcomes"]["accepted"] == ROWS
    assert simulator.counts()["received"] - received == ROWS
    seen = watching.wait()
    assert seen.code == 0, seen.told
    last = json.loads(seen.out.splitlines()[-1])
    assert (last["state"], last["go"]["by"]) == ("done", "kim")
    assert flashcast("report", "superbowl", "--json").document["outcomes"] == report["outcomes"]
    what = [entry["what"] for entry in flashcast("audit", "superbowl", "--json").document["trail"]]
    assert what == ["seal", "arm", "ready", "approve", "go", "close"]


def test_a_launch_is_called_off_from_another_terminal(
    state: Path, tmp_path: Path, worker: Running, simulator: SimulatorProcess
) -> None:
    text = campaign(tmp_path / "campaign.toml", pace=500)
    devices(tmp_path / "devices.parquet", 100_000)
    assert flashcast("campaign", "create", "superbowl", text).code == 0
    assert flashcast("seal", "superbowl", "--audience", tmp_path / "devices.parquet").code == 0
    armed = flashcast("arm", "superbowl", "--to", simulator.config_path)
    assert armed.code == 0, armed.told
    going = Running("go", "superbowl", "--yes", "--json")
    eventually(lambda: launch_record(state).state is State.LIVE, going)
    aborted = flashcast("abort", "superbowl", "--note", "wrong text", "--json")
    assert aborted.code == 0, aborted.told
    assert aborted.document["state"] == "aborted"
    done = going.wait()
    assert done.code == 130
    assert done.document["aborted"]
    assert sum(done.document["outcomes"].values()) == 100_000
    assert done.document["outcomes"]["unsent"] > 0


def test_ctrl_c_after_go_ends_the_watching_and_not_the_launch(
    state: Path, tmp_path: Path, worker: Running, simulator: SimulatorProcess
) -> None:
    text = campaign(tmp_path / "campaign.toml", pace=500)
    devices(tmp_path / "devices.parquet", 100_000)
    assert flashcast("campaign", "create", "superbowl", text).code == 0
    assert flashcast("seal", "superbowl", "--audience", tmp_path / "devices.parquet").code == 0
    assert flashcast("arm", "superbowl", "--to", simulator.config_path).code == 0
    going = Running("go", "superbowl", "--yes")
    eventually(lambda: launch_record(state).state is State.LIVE, going)
    eventually(lambda: any("GO for superbowl-1" in line for line in going.err_lines), going)
    going.signal(signal.SIGINT)
    done = going.wait()
    assert done.code == 130
    assert "superbowl-1 GOES ON" in done.err
    assert launch_record(state).state is State.LIVE
    assert flashcast("abort", "superbowl").code == 0


@pytest.mark.parametrize("keys", [b"\x03", b"\x04", b"\n"], ids=["ctrl-c", "ctrl-d", "enter"])
def test_who_deletes_a_campaign_is_asked(state: Path, tmp_path: Path, keys: bytes) -> None:
    assert flashcast("campaign", "create", "superbowl", campaign(tmp_path / "campaign.toml")).code == 0
    terminal = OnTerminal("campaign", "delete", "superbowl")
    terminal.read_until("campaign superbowl: superbowl-1 (draft), without snapshots and outcome files. Press ENTER to")
    terminal.press(keys)
    code = terminal.wait()
    left = [one["campaign"] for one in flashcast("campaign", "list", "--json").document["campaigns"]]
    if keys == b"\n":
        assert (code, left) == (0, [])
    else:
        assert (code, left) == (130, ["superbowl"])
        assert "nothing was deleted" in terminal.text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_complete_in_the_shell(armed: Path, shell: str) -> None:
    words = {
        "bash": {"COMP_WORDS": "flashcast go super", "COMP_CWORD": "2"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "flashcast go super"},
        "fish": {"_TYPER_COMPLETE_ARGS": "flashcast go super", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    environment = {**os.environ, "_FLASHCAST_COMPLETE": f"complete_{shell}", **words[shell]}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert "superbowl-1" in done.stdout
    assert done.stderr == ""
