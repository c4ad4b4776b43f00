"""GO and abort at bad moments: pressed by ten at once, while a worker is being replaced, in mid-launch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleet_judge import Note, judge, taken_over
from fleet_processes import NAME, Fleet

from flashcast.campaign.lifecycle import State
from flashcast.campaign.refusal import moment
from flashcast.outcomes import Reason

ROWS = 40_000
MIDDLE = 10_000
ENGINES = pytest.mark.parametrize("engine", ["embedded", "nats"], indirect=True)
ON_NATS = pytest.mark.parametrize("engine", ["nats"], indirect=True)


@ENGINES
def test_of_ten_who_press_go_at_once_one_launches_and_nine_are_told_who_and_when(fleet: Fleet) -> None:
    fleet.start_workers("anna")
    fleet.seal(4_000, pace=None)
    fleet.arm()
    with fleet.fingers_on_enter(*(f"operator-{number}" for number in range(10))) as pressing:
        pressing.press_together()
        finished = pressing.wait()

    (winner,) = [name for name, done in finished.items() if done.code == 0]
    go = fleet.until_closed().go
    assert go is not None and go.by == winner
    losers = {name: done for name, done in finished.items() if name != winner}
    assert len(losers) == 9
    for name, done in losers.items():
        assert done.code == 5, f"{name}: {done.told}"
        message = done.document["error"]["message"]
        assert all(word in message for word in (winner, moment(go.at), go.host)), message
    judge(fleet, unknown_at_most=0)
    audit = fleet.said("audit", NAME)["trail"]
    assert [entry["by"] for entry in audit if entry["what"] == "go"] == [winner]


@ON_NATS
def test_go_just_after_a_worker_died_sends_everything(fleet: Fleet, record_property: Note) -> None:
    fleet.start_workers("anna", "bert", machines=True)
    victim = fleet.workers[0]
    fleet.seal(ROWS, pace=10_000)
    fleet.arm()
    with fleet.fingers_on_enter("alice") as pressing:
        at = victim.kill()
        pressing.press_together()
        assert all(done.code == 0 for done in pressing.wait().values())
    assert fleet.claimed_rows(victim) == 0
    taken_over(fleet, victim, at, record_property)
    verdict = judge(fleet, unknown_at_most=0)
    assert verdict.outcomes["accepted"] > 0.95 * ROWS


@ON_NATS
@pytest.mark.parametrize("machines", [False, True], ids=["same machine", "another machine"])
def test_an_abort_just_after_a_worker_died_closes_the_books(
    fleet: Fleet, record_property: Note, machines: bool
) -> None:
    fleet.start_workers("anna", "bert", machines=machines)
    victim = fleet.workers[0]
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    at = victim.kill()
    lost = victim.journal(fleet.launch)
    assert fleet.flashcast("abort", NAME).code == 0
    taken_over(fleet, victim, at, record_property)
    fleet.until_closed()
    bound = fleet.claimed_rows(victim) if machines else lost.in_flight
    verdict = judge(fleet, unknown_at_most=bound, ended=State.ABORTED, told=repr(lost))
    assert verdict.outcomes["unsent"] == verdict.reasons[Reason.ABORTED.value] > 1_000


@ENGINES
def test_an_abort_stops_every_worker_and_tells_the_overshoot(fleet: Fleet, record_property: Note) -> None:
    fleet.start_workers("anna", "bert")
    fleet.seal(ROWS)
    fleet.arm()
    fleet.go()
    fleet.until_received(MIDDLE)
    with fleet.watching_requests() as requests:
        done = fleet.flashcast("abort", NAME)
        assert done.code == 0, done.told
        record = fleet.until_closed()
    aborted = next(entry for entry in record.trail if entry.after is State.ABORTED)
    last_ms = requests.last_after(aborted.at) * 1e3
    record_property("abort_to_last_request_ms", round(last_ms, 1))
    print(f"abort to last request at the provider: {last_ms:.0f} ms (the bound is 250 ms)")

    verdict = judge(fleet, unknown_at_most=0, ended=State.ABORTED)
    assert verdict.outcomes["unsent"] > 10_000
    overshoot = verdict.report["overshoot"]
    assert overshoot == done.document["overshoot"]
    # At 10,000 a second and 40 to 100 ms for a reply some 700 are on the wire at any moment.
    assert 0 < overshoot < 4_000
    assert verdict.ledger.requests <= requests.count_at(aborted.at) + 10_000


@ON_NATS
def test_two_aborts_and_a_go_that_comes_too_late_change_nothing(fleet: Fleet) -> None:
    fleet.start_workers("anna")
    fleet.seal(4_000, pace=None)
    fleet.arm()
    fleet.said("abort", NAME)
    again = fleet.flashcast("abort", NAME)
    assert again.code == 2 and "aborted" in json.dumps(again.document), again.told
    late = fleet.flashcast("go", NAME, "--yes")
    assert late.code == 2, late.told
    assert fleet.simulator.counts()["requests"] <= 2, "nothing but what opening a connection takes"
    assert not Path(fleet.folder / "sealed").joinpath("outcomes").exists()
