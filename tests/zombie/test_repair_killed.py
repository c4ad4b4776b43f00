"""Killed at any moment and started again, repair grants each user once: by effect at a webhook, by line in a file."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from repair_receiver import Manner, Receiver, receiving

from flashcast.zombie.repair.spans import COLUMNS

USERS = 60
RULES = """
app = "shop"
[logs.cdn]
format = "cloudfront"
user = "query:who"
[grants.streak]
payload = {{ action = "kept the streak" }}
[grants.trial]
levels = ["zombie"]
[webhook]
url = "{url}"
batch = {batch}
concurrency = 3
timeout_s = 1.0
attempts = 3
backoff_s = 0.001
"""
GRANTS = {(grant, f"user {n}") for grant in ("streak", "trial") for n in range(USERS)}
COMMAND = [sys.executable, "-m", "flashcast", "zombie", "repair", "grants"]


def written(folder: Path, url: str = "https://example.invalid/", *, batch: int = 1, users: int = USERS) -> list[str]:
    """Rules and spans; returns the command without where to and ledger."""
    (folder / "repair.toml").write_text(RULES.format(url=url, batch=batch))
    with (folder / "spans.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for n in range(users):
            moments = ["2027-01-15T08:00:00Z", "2027-01-15T08:10:00Z"]
            rows.writerow(["inc-1", f"user {n}", *moments, "zombie", "*", "payments", 8, 0, 0, "cdn"])
    return [*COMMAND, str(folder / "repair.toml"), str(folder / "spans.csv")]


def ended(command: list[str], code: int = 0) -> dict[str, object]:
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    said: dict[str, object] = json.loads(done.stdout)
    return said


def killed_at(receiver: Receiver, command: list[str], number: int, moment: str) -> int:
    """Runs it until the receiver has its ``number``-th call of this run, and kills it before or after the effect."""
    first = receiver.number
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        dead = threading.Event()

        def kill() -> None:
            process.kill()
            process.wait()
            dead.set()

        def way(call: int) -> Manner:
            if call - first < number:
                return Manner()
            if call - first > number:
                # Others are under way; what they find when they come back is a dead caller.
                return Manner(before=lambda: dead.wait(30) and None)
            return Manner(before=kill) if moment == "before" else Manner(after=kill)

        receiver.way = way
        process.wait(60)
        return process.returncode


@pytest.mark.parametrize("batch", [1, 7])
def test_killed_at_random_calls_each_user_is_granted_once_by_effect(tmp_path: Path, batch: int) -> None:
    chance, kills = random.Random(batch), 0
    with receiving() as receiver:
        base = [*written(tmp_path, receiver.url, batch=batch), "--to", "webhook", "--ledger", str(tmp_path / "ledger")]
        for run in range(6):
            code = killed_at(receiver, base, chance.randint(1, 20 // batch), ("before", "after")[run % 2])
            assert code == -signal.SIGKILL
            kills += 1
        receiver.way = lambda number: Manner()
        done = ended(base)
        before = receiver.number
        assert ended(base) == {**done, "done": 0, "before": len(GRANTS), "calls": 0}
        assert receiver.number == before, "a second run has called somebody"
    assert set(receiver.effects) == GRANTS
    assert set(receiver.effects.values()) == {1}
    assert done["open"] == done["doubt"] == done["refused"] == 0
    # A key is sent twice only where a kill left it in doubt: three calls under way at each.
    assert sum(count - 1 for count in receiver.calls.values()) <= kills * 3 * 5
    assert max(receiver.calls.values()) > 1


def test_what_is_in_doubt_can_be_left_alone_and_then_nobody_is_called_twice(tmp_path: Path) -> None:
    with receiving() as receiver:
        base = [*written(tmp_path, receiver.url), "--to", "webhook", "--ledger", str(tmp_path / "ledger")]
        for moment in ("before", "after"):
            assert killed_at(receiver, [*base, "--doubt", "skip"], 10, moment) == -signal.SIGKILL
        receiver.way = lambda number: Manner()
        done = ended([*base, "--doubt", "skip"], code=3)
        assert set(receiver.calls.values()) == {1}
        assert done["doubt"] == done["open"] and done["doubt"] != 0
        assert ended(base)["open"] == 0
    assert set(receiver.effects) == GRANTS
    assert set(receiver.effects.values()) == {1}


def test_a_receiver_that_fails_in_every_way_grants_each_user_once(tmp_path: Path) -> None:
    stalled = threading.Event()
    ways = [
        lambda: Manner(),
        lambda: Manner(),
        lambda: Manner(500, effect=False),
        lambda: Manner(500),
        lambda: Manner(429, effect=False, headers={"Retry-After": "0"}),
        lambda: Manner(503, effect=False),
        lambda: Manner(None),
        lambda: Manner(None, effect=False),
    ]
    chance = random.Random(5)
    with receiving() as receiver:
        receiver.way = lambda number: (
            Manner(after=lambda: stalled.wait(20) and None) if number == 9 else chance.choice(ways)()
        )
        base = [*written(tmp_path, receiver.url), "--to", "webhook", "--ledger", str(tmp_path / "ledger")]
        runs = [ended_somehow(base) for _ in range(4)]
        receiver.way = lambda number: Manner()
        last = ended(base)
        stalled.set()
    assert last["open"] == 0
    assert sum(run["done"] for run in [*runs, last]) == len(GRANTS)
    assert set(receiver.effects) == GRANTS
    assert set(receiver.effects.values()) == {1}


def ended_somehow(command: list[str]) -> dict[str, int]:
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 3), done.stderr
    said: dict[str, int] = json.loads(done.stdout)
    return said


KILLED_AT_STEP = """
import os, signal, sys
from pathlib import Path
from flashcast.zombie.repair import deliver, grants
from flashcast.zombie.repair.ledger import Ledger
grants.PAGE = 25
left = int(sys.argv[1])

def stepped(owner, name):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        step()
        result = function(*args, **kwargs)
        step()
        return result
    setattr(owner, name, call)

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

stepped(Ledger, "put")
stepped(os, "fsync")
stepped(Path, "replace")
from flashcast.cli.main import run
sys.argv = ["flashcast", *sys.argv[2:]]
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "stride"), [("jsonl", 1), ("csv", 4)])
def test_killed_at_every_step_a_file_has_each_grant_once(tmp_path: Path, ending: str, stride: int) -> None:
    arguments = written(tmp_path, users=30)[3:]
    step, code = 1 - stride, -signal.SIGKILL
    while code == -signal.SIGKILL:
        step += stride
        folder = tmp_path / str(step)
        folder.mkdir()
        out = folder / f"grants.{ending}"
        ours = [*arguments, "--to", str(out), "--ledger", str(folder / "ledger")]
        child = subprocess.run([sys.executable, "-c", KILLED_AT_STEP, str(step), *ours], check=False, timeout=60)
        code = child.returncode
        done = ended([sys.executable, "-m", "flashcast", *ours])
        assert done["open"] == 0
        text = out.read_text()
        if ending == "jsonl":
            users = [(row["grant"], row["user"]) for row in map(json.loads, text.splitlines())]
        else:
            users = [(row["grant"], row["user"]) for row in csv.DictReader(text.splitlines())]
        assert len(users) == len(set(users)) == 60, f"at step {step}"
        assert out.stat().st_mode & 0o077 == 0
        assert not list(folder.glob("*.part"))
    assert code == 0 and step > 12


def test_ctrl_c_lets_calls_end_notes_their_answers_and_leaves_nothing_in_doubt(tmp_path: Path) -> None:
    with receiving() as receiver:
        base = [*written(tmp_path, receiver.url), "--to", "webhook", "--ledger", str(tmp_path / "ledger")]
        with subprocess.Popen(base, stdout=subprocess.PIPE, text=True) as process:
            receiver.way = lambda number: Manner(
                before=lambda: process.send_signal(signal.SIGINT) if number == 10 else None
            )
            told, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Run the same command again" in told
        assert ended([*base, "--doubt", "skip"])["doubt"] == 0
    assert set(receiver.effects) == GRANTS
    assert set(receiver.calls.values()) == {1}


def test_a_second_process_at_the_ledger_is_refused(tmp_path: Path) -> None:
    reached, go = threading.Event(), threading.Event()
    with receiving() as receiver:

        def before() -> None:
            reached.set()
            go.wait(30)

        receiver.way = lambda number: Manner(before=before)
        base = [*written(tmp_path, receiver.url), "--to", "webhook", "--ledger", str(tmp_path / "ledger")]
        with subprocess.Popen(base, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            assert reached.wait(60)
            second = subprocess.run(base, capture_output=True, text=True, timeout=60, check=False)
            receiver.way = lambda number: Manner()
            go.set()
            first.wait(60)
        assert second.returncode == 5
        assert "another process uses the ledger" in second.stderr
        assert ended(base)["open"] == 0
    assert set(receiver.effects.values()) == {1}
