"""NATS that dies, is cut off from one worker, or loses its leader, in mid-launch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fleet_judge import Note, judge, taken_over
from fleet_processes import Fleet

from flashcast.outcomes import Reason
from nats_servers import NatsCluster, NatsServer, TcpProxy

ROWS = 40_000
MIDDLE = 10_000
STREAM = "KV_flashcast_durable"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def test_a_nats_server_that_is_killed_and_started_again_costs_nothing(server: NatsServer, tmp_path: Path) -> None:
    with Fleet(tmp_path / "fleet", server.url) as fleet:
        fleet.start_workers("anna", "bert")
        fleet.seal(ROWS)
        fleet.arm()
        fleet.go()
        fleet.until_received(MIDDLE)
        server.kill()
        # What was claimed is sent; then nothing more, for nobody may claim.
        fleet.until_sending_stopped()
        assert fleet.record().closed_at is None
        server.restart()
        verdict = judge(fleet, unknown_at_most=0)
        assert verdict.outcomes["accepted"] > 0.95 * ROWS


def test_a_nats_server_that_is_killed_while_armed_is_armed_again_when_it_is_back(
    server: NatsServer, tmp_path: Path
) -> None:
    with Fleet(tmp_path / "fleet", server.url) as fleet:
        fleet.start_workers("anna", "bert")
        fleet.seal(ROWS, pace=10_000)
        fleet.arm()
        server.restart()
        beats = {worker.name: fleet.observer.view.beats[worker.name].sequence for worker in fleet.workers}
        fleet.until(lambda view: all(view.beats[name].sequence > seen for name, seen in beats.items()), "heard again")
        fleet.go()
        judge(fleet, unknown_at_most=0)


@pytest.mark.parametrize("how", ["freeze", "cut"])
@pytest.mark.parametrize("healed", ["while it is live", "after it was closed"])
def test_a_worker_that_is_cut_off_stops_sending_and_tells_what_it_did_when_it_is_back(
    server: NatsServer, tmp_path: Path, record_property: Note, how: str, healed: str
) -> None:
    with TcpProxy(server.port) as proxy, Fleet(tmp_path / "fleet", server.url) as fleet:
        lonely = fleet.worker("anna", "anna", engine=proxy.url)
        fleet.worker("bert", "bert")
        for worker in fleet.workers:
            worker.until_ready()
        fleet.seal(ROWS)
        fleet.arm()
        fleet.go()
        fleet.until_received(MIDDLE)
        at = fleet.now()
        getattr(proxy, how)()
        taken_over(fleet, lonely, at, record_property)
        if healed == "after it was closed":
            fleet.until_closed()
            report = fleet.said("report", "superbowl")
            assert 0 < report["reasons"][Reason.WORKER_LOST.value] <= fleet.claimed_rows(lonely)
        sent = lonely.journal(fleet.launch)
        assert sent.in_flight == 0, "it has stopped sending, and every reply has come"
        proxy.heal()
        fleet.until_closed()
        fleet.until_let_go(lonely)
        # What it had claimed when its lease ran out it knows not to have sent, and nobody else may.
        left = fleet.claimed_rows(lonely) - sent.settled
        verdict = judge(fleet, unknown_at_most=0, left_at_most=left, told=repr(sent))
        assert Reason.WORKER_LOST.value not in verdict.reasons, "its own word has replaced the guess"


def note_gap(fleet: Fleet, at: float, note: Note) -> None:
    """Keeps for how long nothing could be claimed after ``at``."""
    seen = sorted(seen for seen, *_ in fleet.observer.view.claimed if seen > at)
    gap = max((later - earlier for earlier, later in pairwise([at, *seen])), default=0.0)
    note("longest_without_a_claim_s", round(gap, 3))
    print(f"longest time without a claim after the fault: {gap:.1f} s")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsCluster]:
    monkeypatch.setenv("FLASHCAST_NATS_REPLICAS", "3")
    with NatsCluster(tmp_path / "cluster") as running:
        yield running


def test_a_cluster_that_loses_its_leader_costs_nothing(
    cluster: NatsCluster, tmp_path: Path, record_property: Note
) -> None:
    with Fleet(tmp_path / "fleet", cluster.url) as fleet:
        fleet.start_workers("anna", "bert")
        fleet.seal(ROWS)
        fleet.arm()
        fleet.go()
        fleet.until_received(MIDDLE)
        at = fleet.now()
        killed = cluster.kill_leader(STREAM)
        assert fleet.record().closed_at is None
        leader = cluster.leader_of(STREAM)
        assert leader is not killed
        verdict = judge(fleet, unknown_at_most=0)
        note_gap(fleet, at, record_property)
        assert verdict.outcomes["accepted"] > 0.95 * ROWS


def test_a_cluster_that_loses_its_leader_and_a_worker_at_once_goes_on(
    cluster: NatsCluster, tmp_path: Path, record_property: Note
) -> None:
    with Fleet(tmp_path / "fleet", cluster.url) as fleet:
        fleet.start_workers("anna", "bert")
        victim = fleet.workers[0]
        fleet.seal(ROWS)
        fleet.arm()
        fleet.go()
        fleet.until_received(MIDDLE)
        at = victim.kill()
        cluster.kill_leader(STREAM)
        lost = victim.journal(fleet.launch)
        taken_over(fleet, victim, at, record_property)
        judge(fleet, unknown_at_most=lost.in_flight, told=repr(lost))
