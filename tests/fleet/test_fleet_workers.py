"""Workers that die, stop, or are told to go, in mid-launch. Real processes; the simulator's ledger is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_judge import Note, judge, taken_over
from fleet_processes import NAME, Fleet
from fleet_view import View

from flashcast.campaign.lifecycle import State
from flashcast.outcomes import Reason

ROWS = 40_000
MIDDLE = 10_000
"""Requests that the providers have seen when the fault comes: a quarter of the launch, one second after GO."""

LATE = 24_000
"""By then each of two workers has settled some shards."""

ENGINES = pytest.mark.parametrize("engine", ["embedded", "nats"], indirect=True)
ON_NATS = pytest.mark.parametrize("engine", ["nats"], indirect=True)


@ENGINES
def test_a_killed_workers_rows_are_finished_by_another_that_can_read_its_journal(
    fleet: Fleet, record_property: Note
) -> None:
    fleet.start_workers("anna", "bert")
    victim = fleet.workers[0]
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = victim.kill()
    lost = victim.journal(fleet.launch)
    assert lost.unsent > 1_000, f"the kill came in mid-launch: {lost}"
    taken_over(fleet, victim, at, record_property)

    verdict = judge(fleet, unknown_at_most=lost.in_flight, told=repr(lost))
    assert verdict.reasons.get(Reason.PROCESS_DIED.value, 0) == verdict.outcomes["unknown"] == lost.in_flight
    assert Reason.WORKER_LOST.value not in verdict.reasons


@ENGINES
def test_a_killed_machines_rows_are_unknown_only_where_they_were_claimed_and_until_it_is_back(
    fleet: Fleet, record_property: Note
) -> None:
    fleet.start_workers("anna", "bert", machines=True)
    victim = fleet.workers[0]
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(LATE)
    at = victim.kill()
    lost = victim.journal(fleet.launch)
    assert lost.unsent > 1_000, f"the kill came in mid-launch: {lost}"
    taken_over(fleet, victim, at, record_property)

    fleet.until_closed()
    claimed = fleet.claimed_rows(victim)
    report = fleet.said("report", NAME)
    assert 0 < report["reasons"][Reason.WORKER_LOST.value] == report["outcomes"]["unknown"] <= claimed
    assert claimed < lost.settled, "what the dead had settled is known"

    # The machine is back, and a worker on it finds the journal.
    fleet.worker("carl", "anna")
    fleet.until_told(victim)
    verdict = judge(fleet, unknown_at_most=lost.in_flight, left_at_most=claimed, told=f"{lost}, {claimed} rows claimed")
    assert Reason.WORKER_LOST.value not in verdict.reasons, "the dead worker's own word has replaced the guess"
    assert verdict.reasons.get(Reason.PROCESS_DIED.value, 0) == verdict.outcomes["unknown"] == lost.in_flight
    assert verdict.record == fleet.record(), "the launch's books are closed as they were"


@ENGINES
def test_a_fleet_that_was_one_worker_is_finished_by_the_next_that_starts(fleet: Fleet, record_property: Note) -> None:
    (victim,) = fleet.start_workers("anna")
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = victim.kill()
    lost = victim.journal(fleet.launch)
    assert lost.unsent > 10_000, f"the kill came in mid-launch: {lost}"
    fleet.start_workers("bert")
    taken_over(fleet, victim, at, record_property)
    verdict = judge(fleet, unknown_at_most=lost.in_flight, told=repr(lost))
    assert verdict.outcomes["unknown"] == lost.in_flight


@ON_NATS
def test_under_resend_a_killed_machines_rows_are_sent_again(fleet: Fleet, record_property: Note) -> None:
    fleet.start_workers("anna", "bert", machines=True)
    victim = fleet.workers[0]
    fleet.seal(ROWS, policy="resend")
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = victim.kill()
    taken_over(fleet, victim, at, record_property)
    fleet.until_closed()
    settled_twice = fleet.claimed_rows(victim)
    verdict = judge(fleet, unknown_at_most=0, resend=True)
    assert settled_twice == 0, "every claim of the dead was moved to whoever sent its rows again"
    assert 0 < verdict.comparison.received_twice <= ROWS / 2


@ON_NATS
@pytest.mark.parametrize("wakes", ["while it is live", "after it was closed"])
def test_a_worker_that_was_stopped_beyond_its_lease_sends_nothing_that_others_send(
    fleet: Fleet, record_property: Note, wakes: str
) -> None:
    fleet.start_workers("anna", "bert")
    sleeper = fleet.workers[0]
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = sleeper.stop()
    before = sleeper.journal(fleet.launch)
    assert before.unsent > 1_000, f"the stop came in mid-launch: {before}"
    taken_over(fleet, sleeper, at, record_property)
    if wakes == "after it was closed":
        fleet.until_closed()
        guessed = fleet.said("report", "superbowl")
        claimed = fleet.claimed_rows(sleeper)
        assert 0 < guessed["reasons"][Reason.WORKER_LOST.value] <= claimed, "nobody can read what it holds"
    sleeper.resume()
    fleet.until_closed()
    fleet.until_let_go(sleeper)

    claimed = fleet.claimed_rows(sleeper)
    left = claimed - before.settled
    verdict = judge(fleet, unknown_at_most=before.in_flight, left_at_most=left, told=f"{before}, {claimed} claimed")
    assert Reason.WORKER_LOST.value not in verdict.reasons, "its own word has replaced the guess"
    assert sleeper.end() == 0


@ON_NATS
def test_a_worker_that_is_told_to_go_leaves_nothing_unknown(fleet: Fleet) -> None:
    fleet.start_workers("anna", "bert")
    leaver = fleet.workers[0]
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    assert leaver.end() == 0
    assert fleet.record().closed_at is None, "it left in mid-launch"
    verdict = judge(fleet, unknown_at_most=0)
    assert verdict.outcomes["accepted"] > 0.95 * ROWS


@ON_NATS
def test_a_fleet_that_was_killed_whole_is_finished_by_the_next(fleet: Fleet, record_property: Note) -> None:
    first = fleet.start_workers("anna", "bert", "carl")
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = min([worker.kill() for worker in first])
    lost = [worker.journal(fleet.launch) for worker in first]
    assert sum(journal.unsent for journal in lost) > 10_000, f"the kills came in mid-launch: {lost}"
    fleet.start_workers("dora", "emil", "fred")
    for victim in first:
        taken_over(fleet, victim, at, record_property)
    in_flight = sum(journal.in_flight for journal in lost)
    verdict = judge(fleet, unknown_at_most=in_flight, told=repr(lost))
    assert verdict.outcomes["unknown"] == in_flight


@ON_NATS
def test_a_worker_that_starts_in_mid_launch_and_is_not_needed_does_no_harm(fleet: Fleet) -> None:
    fleet.start_workers("anna")
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    (late,) = fleet.start_workers("bert")
    fleet.until_closed()

    def late_owned(view: View) -> bool:
        return any(owned.record.owner == late.name for owned in view.owned)

    judge(fleet, unknown_at_most=0)
    assert not late_owned(fleet.observer.view), "what a live worker holds does not move after GO"


@ON_NATS
def test_a_worker_without_room_for_its_journal_leaves_its_shards_to_others(
    fleet: Fleet, small_disk: Path, record_property: Note
) -> None:
    poor = fleet.worker("anna", str(small_disk))
    fleet.worker("bert")
    for worker in fleet.workers:
        worker.until_ready()
    fleet.seal(ROWS)
    fleet.arm()
    shards = fleet.observer.view.shards[fleet.launch]
    assert all(shard.owner == fleet.workers[1].name for shard in shards.values())
    fleet.go()
    judge(fleet, unknown_at_most=0)
    assert any("no room for the journal" in str(event) for event in poor.events)


@ON_NATS
def test_a_disk_that_fills_up_after_arming_costs_nothing_that_is_held_and_takes_nothing_more(
    fleet: Fleet, medium_disk: Path, record_property: Note
) -> None:
    poor = fleet.worker("anna", str(medium_disk))
    victim = fleet.worker("bert")
    for worker in fleet.workers:
        worker.until_ready()
    fleet.seal(ROWS)
    fleet.arm()
    assert fleet.observer.view.shards_of(fleet.launch, poor.name), "it holds its share"
    fill_up(medium_disk)
    fleet.go()
    fleet.until_received(MIDDLE)
    at = victim.kill()
    lost = victim.journal(fleet.launch)
    fleet.start_workers("carl")
    taken_over(fleet, victim, at, record_property)
    judge(fleet, unknown_at_most=lost.in_flight, told=repr(lost))
    assert fleet.record().state is State.DONE
    assert poor.running


def fill_up(folder: Path) -> None:
    """Writes until there is no room left."""
    with pytest.raises(OSError, match="No space left"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
