"""What a worker tells whoever watches it while its engine is away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import Fleet
from fleet_worker import Worker

from flashcast.arm.readiness import BEATS_HZ
from nats_servers import NatsServer

SECRET = "kick-off-at-six"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that wants a user and a password."""
    with NatsServer(tmp_path / "nats", config=f'authorization {{ user: "kim", password: "{SECRET}" }}') as running:
        yield running


@pytest.fixture
def worker(guarded: NatsServer, tmp_path: Path) -> Iterator[Worker]:
    """A worker that speaks to people."""
    engine = guarded.url.replace("nats://", f"nats://kim:{SECRET}@")
    made = Worker(engine, tmp_path / "machine", "anna", for_people=True)
    try:
        made.until_said("ready")
        yield made
    finally:
        made.close()


def test_a_worker_says_once_that_it_lost_its_engine_and_once_that_it_is_back(
    guarded: NatsServer, worker: Worker
) -> None:
    guarded.kill()
    lost = worker.until_said("lost the engine")
    assert f"at {guarded.url}" in lost
    assert "nothing is sent until it answers" in lost
    guarded.restart()
    back = worker.until_said("again")
    found = re.search(rf"reached the engine at {re.escape(guarded.url)} again, after ([\d.]+) s", back)
    assert found is not None, back
    assert float(found[1]) >= 0.9, "it is lost when the lease has run out"
    assert worker.end() == 0
    said = "".join(worker.err_lines)
    assert (said.count("lost the engine"), said.count("reached the engine")) == (1, 1), said
    assert SECRET not in said


def test_a_worker_that_stood_still_itself_does_not_blame_its_engine(guarded: NatsServer, tmp_path: Path) -> None:
    with Fleet(tmp_path / "fleet", guarded.url.replace("nats://", f"nats://kim:{SECRET}@")) as fleet:
        anna, bert = fleet.start_workers("anna", "bert")
        until_heard(fleet, anna, 1)
        until_heard(fleet, bert, 1)
        anna.stop()
        until_heard(fleet, bert, 3 * BEATS_HZ)
        anna.resume()
        until_heard(fleet, anna, 2 * BEATS_HZ)
        assert anna.end() == 0
        assert [event["event"] for event in anna.events if "engine" in event["event"]] == []


def until_heard(fleet: Fleet, worker: Worker, more: int) -> None:
    """Waits until so many more heartbeats of ``worker`` were written."""
    known = fleet.observer.view.beats.get(worker.name)
    wanted = more + (known.sequence if known is not None else 0)
    fleet.until(
        lambda view: worker.name in view.beats and view.beats[worker.name].sequence >= wanted,
        f"{worker.name} has written heartbeat {wanted}",
    )
