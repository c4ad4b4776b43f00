"""A run that is fed: chunks that come in the course of a launch, pauses, leases, take-overs, and books closed by shard.

Everything is in memory and on a clock that stands still, so each test is one exact course of events.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from memory_server import MemoryServer, SteppedLanes
from run_support import APNS, Bench, bench, crew_of, shard
from scripted_server import Request

from flashcast.clock import FixedClock
from flashcast.deliver.journal import Journal, inherit
from flashcast.deliver.run import offer_everything
from flashcast.model import UnknownPolicy
from flashcast.outcomes import Outcome

THROTTLED = (429, b'{"reason":"TooManyRequests"}')


def live(made: Bench, *shards: tuple[int, int, int]) -> Bench:
    """GO, with these shards held and nothing offered."""
    made.hold(*(shards or ((0, 0, 100),)))
    made.run.go()
    made.stepped.run_dry()
    return made


# --- feeding --------------------------------------------------------------------------------------------


def test_what_is_offered_is_sent_and_then_the_run_is_quiet(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        assert not b.run.quiet(), "before GO nothing is quiet"
        live(b)
        assert b.run.quiet(), "nothing was offered yet"
        b.offer(0, 0, 30)
        assert not b.run.quiet()
        assert b.run.waiting_rows(APNS) == 30
        calls = b.called
        b.stepped.run_dry()
        assert b.sent() == list(range(30))
        assert b.run.quiet()
        assert b.run.waiting_rows(APNS) == 0
        assert b.called > calls, "it is said when there is something to look at"
        assert not b.run.finished, "more may come"
        b.offer(0, 30, 40, [35, 31])
        b.stepped.run_dry()
        assert b.sent() == [*range(30), 35, 31]
        b.run.end_claims()
        b.stepped.run_dry()
        assert b.run.finished
        assert b.run.wait(0.0)


def test_no_time_passes_between_an_offer_and_its_first_request(tmp_path: Path) -> None:
    with bench(tmp_path, lanes=2) as b:
        live(b)
        for start in range(0, 100, 10):
            b.offer(0, start, start + 10)
            b.stepped.run_dry()
            assert b.sent()[-10:] == list(range(start, start + 10))
        assert b.clock.monotonic_ns() == 0


def test_chunks_offered_before_go_leave_at_go(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.hold((0, 0, 100))
        b.offer_all(0, 100)
        b.stepped.run_dry()
        assert b.sent() == []
        b.run.go()
        b.stepped.run_dry()
        assert b.sent() == list(range(100))


def test_a_launch_without_claims_offers_everything(tmp_path: Path) -> None:
    with bench(tmp_path, lanes=2) as b:
        b.hold((0, 0, 60), (1, 60, 40))
        offer_everything(b.run, [shard(0, 0, 60), shard(1, 60, 40)])
        b.run.go()
        b.stepped.run_dry()
        assert b.run.finished
        b.run.settle()
        assert b.told() == {"accepted": 100}


def test_a_lane_that_was_idle_while_others_worked_does_not_keep_the_run_from_being_quiet(tmp_path: Path) -> None:
    """Its word is of a time before the last chunk was handed out; it is asked again at once."""
    with bench(tmp_path, lanes=2) as b:
        live(b)
        b.offer(0, 0, 10)
        b.stepped.step(1)
        assert len(b.sent()) == 10, "the second lane took it"
        b.stepped.step(1)
        b.stepped.run_dry()
        assert b.run.quiet()
        assert b.clock.monotonic_ns() == 0


def test_a_run_is_not_quiet_while_a_reply_is_awaited(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.server.answer = lambda request: None
        live(b)
        b.offer(0, 0, 1)
        b.stepped.run_dry()
        assert b.run.waiting_rows(APNS) == 0
        assert not b.run.quiet()
        assert b.run.in_flight(0) == 1
        b.server.answer_all()
        b.stepped.run_dry()
        assert b.run.quiet()
        assert b.run.in_flight(0) == 0


def test_a_run_is_not_quiet_while_a_row_waits_for_another_try(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.server.answer = lambda request: THROTTLED if len(b.server.seen) == 1 else (200, b"")
        live(b)
        b.offer(0, 0, 1)
        b.stepped.run_dry()
        assert not b.run.quiet()
        b.pass_time(1)
        assert b.run.quiet()
        assert b.told(0, 1) == {"accepted": 1}


def test_rows_are_handed_out_once_however_often_they_are_offered(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b)
        b.offer(0, 0, 20)
        b.offer(0, 10, 30)
        b.offer(0, 0, 30, [5, 29, 30])
        b.stepped.run_dry()
        b.offer(0, 0, 31)
        b.stepped.run_dry()
        assert sorted(b.sent()) == list(range(31))


def test_rows_that_have_an_outcome_are_not_sent(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b)
        for row, outcome in enumerate(Outcome):
            b.journal.outcome[row] = outcome
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        assert b.sent() == [0, 7, 8, 9]


def test_under_resend_an_unknown_row_may_be_offered(tmp_path: Path) -> None:
    with bench(tmp_path, policy=UnknownPolicy.RESEND) as b:
        live(b)
        for row, outcome in enumerate(Outcome):
            b.journal.outcome[row] = outcome
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        assert b.sent() == [0, int(Outcome.UNKNOWN), 7, 8, 9]


# --- connections ----------------------------------------------------------------------------------------


def test_a_lane_without_a_connection_takes_no_chunk(tmp_path: Path) -> None:
    with bench(tmp_path, lanes=2) as b:
        live(b)
        b.server.refusing = True
        b.server.channels[0].gone = True
        b.stepped.run_dry()
        assert [lane.statistics().ready for lane in b.stepped.lanes] == [0, 1]
        b.server.answer = lambda request: None
        b.offer(0, 0, 100)
        for _ in range(3):
            b.stepped.step(0)
        assert b.run.waiting_rows(APNS) == 100, "it leaves the chunk to the other"
        b.run.end_claims()
        b.stepped.run_dry()
        assert b.stepped.lanes[1].statistics().in_flight == 100
        b.server.answer_all()
        b.stepped.run_dry()
        assert b.run.finished


def test_rows_wait_for_a_connection_and_none_is_lost(tmp_path: Path) -> None:
    with bench(tmp_path, lanes=2) as b:
        live(b)
        b.server.refusing = True
        b.server.hang_up()
        b.stepped.run_dry()
        b.offer_all(0, 100)
        b.pass_time(1)
        assert b.run.waiting_rows(APNS) == 100
        assert not b.run.quiet()
        b.server.refusing = False
        b.pass_time(6)
        assert b.run.quiet()
        assert b.told() == {"accepted": 100}


def test_why_no_connection_opens_is_told_until_one_does() -> None:
    clock, server = FixedClock(), MemoryServer()
    server.refusing = True
    stepped = SteppedLanes(server, clock)
    crew = crew_of(stepped)
    stepped.run_dry()
    assert crew.fault is not None
    assert "cannot reach" in crew.fault.message
    assert crew.readiness().connections == 0
    server.refusing = False
    clock.advance(6)
    stepped.run_dry()
    assert crew.ready == 1
    assert crew.fault is None
    stepped.close()


def test_a_crew_that_comes_after_go_starts_at_once(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        late = SteppedLanes(b.server, b.clock, connections=1)
        b.run.jobs, b.run.crews = {}, {}
        b.hold((0, 0, 100))
        b.run.go()
        assert not b.run.finished
        b.clock.advance(5)
        b.run.add_crew(APNS, crew_of(late))
        b.offer(0, 0, 10)
        late.run_dry()
        assert b.sent() == list(range(10))
        assert b.run.quiet()
        assert b.run.jobs[APNS].window_ends_ns == 60_000_000_000, "the window runs from GO"
        late.close()


# --- pauses and leases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pause", "lease"])
def test_what_is_held_back_sends_nothing_and_loses_nothing(tmp_path: Path, how: str) -> None:
    """In hand are a chunk half sent, a row that waits for another try, requests on the wire, and chunks queued."""
    with bench(tmp_path, streams=10) as b:
        throttled = [f"/3/device/{5:064x}"]

        def answer(request: Request) -> tuple[int, bytes] | None:
            if request.path in throttled:
                throttled.remove(request.path)
                return THROTTLED
            return (200, b"") if len(b.server.seen) <= 10 else None

        b.server.answer = answer
        live(b)
        b.run.lease_until(b.clock.monotonic_ns() + 1_000_000_000)
        b.offer_all(0, 100, 50)
        b.stepped.run_dry()
        assert len(b.sent()) == b.server.waiting + 10
        if how == "pause":
            b.run.pause()
        else:
            b.clock.advance(1)
        before = len(b.sent())
        b.server.answer_all()
        b.pass_time(2)
        assert len(b.sent()) == before, "nothing leaves"
        assert b.server.waiting == 0
        assert b.run.progress()[APNS].accepted == before - 1, "what was on the wire is heard"
        assert not b.run.quiet()
        b.server.answer = lambda request: (200, b"")
        if how == "pause":
            b.run.lease_until(2**62)
            b.run.resume()
        else:
            b.run.lease_until(2**62)
        b.stepped.run_dry()
        assert b.run.quiet(), "it goes on at once, without waiting for a tick"
        assert sorted(b.sent()) == sorted([*range(100), 5])
        assert b.told() == {"accepted": 100}


def test_a_process_that_was_stopped_sends_nothing_on_waking(tmp_path: Path) -> None:
    """The monotonic clock goes on while a process is stopped; its lease does not."""
    with bench(tmp_path, streams=10) as b:
        b.server.answer = lambda request: None
        live(b)
        b.run.lease_until(b.clock.monotonic_ns() + 900_000_000)
        b.offer_all(0, 100)
        b.stepped.run_dry()
        assert len(b.sent()) == 10
        b.clock.advance(30)
        b.server.answer_all()
        b.stepped.run_dry()
        assert len(b.sent()) == 10
        b.run.lease_until(b.clock.monotonic_ns() - 1)
        b.pass_time(1)
        assert len(b.sent()) == 10, "a renewal that came too late itself is none"


def test_a_lease_is_no_pause_and_a_pause_no_lease(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b)
        b.run.pause()
        b.run.lease_until(b.clock.monotonic_ns())
        b.offer(0, 0, 10)
        b.run.resume()
        b.stepped.run_dry()
        assert b.sent() == []
        b.run.pause()
        b.run.lease_until(2**62)
        b.stepped.run_dry()
        assert b.sent() == []
        b.run.resume()
        b.stepped.run_dry()
        assert len(b.sent()) == 10


def test_the_window_goes_on_while_paused(tmp_path: Path) -> None:
    with bench(tmp_path, window_s=60.0) as b:
        live(b)
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        b.run.pause()
        b.offer(0, 10, 30)
        b.pass_time(61, 1)
        assert b.run.finished
        b.run.settle_shard(0, owned=True)
        assert b.told() == {"accepted": 10, "expired WindowClosed": 90}


def test_an_abort_ends_a_paused_run(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b)
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        b.run.pause()
        b.offer(0, 10, 30)
        b.run.abort()
        b.stepped.run_dry()
        assert b.run.finished
        b.offer(0, 30, 40)
        b.run.settle_shard(0, owned=True)
        assert b.told() == {"accepted": 10, "unsent Aborted": 90}


def test_a_window_of_which_little_is_left_ends_when_it_ends_everywhere(tmp_path: Path) -> None:
    """Lanes look at the window before each volley, not only when they tick."""
    with bench(tmp_path) as b:
        b.hold((0, 0, 100))
        b.run.go(started_at=b.clock.time() - 57, window_left_s=3.0)
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        b.clock.advance(3.0)
        b.offer(0, 10, 20)
        b.stepped.run_dry()
        assert b.run.finished
        assert b.run.quiet(), "what came too late is not waited for"
        b.offer(0, 20, 30)
        assert b.run.quiet()
        b.run.settle()
        assert b.told() == {"accepted": 10, "expired WindowClosed": 90}
        assert (b.journal.reply_ms[:10] == 57_000).all(), "reply times count from the first GO"


def test_a_clock_behind_that_of_the_presser_gives_no_reply_times_before_go(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.server.answer = lambda request: (410, b'{"reason":"Unregistered","timestamp":1700000000000}')
        b.hold((0, 0, 100))
        b.run.go(started_at=b.clock.time() + 5)
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        assert (b.journal.reply_ms[:10] == 0).all()
        assert b.told(0, 10) == {"rejected Unregistered": 10}


def test_a_pace_can_be_changed_while_sending(tmp_path: Path) -> None:
    with bench(tmp_path, 1_000, lanes=2, pace={APNS: 100.0}) as b:
        live(b, (0, 0, 1_000))
        b.offer_all(0, 1_000)
        b.pass_time(2)
        assert 170 <= len(b.sent()) <= 210
        b.run.set_pace(APNS, 0.0)
        b.pass_time(0.1)
        before = len(b.sent())
        b.pass_time(2)
        assert len(b.sent()) == before
        assert b.run.progress()[APNS].pace_per_s == 0.0
        b.run.set_pace(APNS, None)
        b.pass_time(0.1)
        assert len(b.sent()) == 1_000


# --- replies that hold for all ------------------------------------------------------------------------------

REFUSED = (400, b'{"reason":"TopicDisallowed"}')


def test_where_a_launch_pauses_a_reply_that_holds_for_all_holds_the_run_until_somebody_decides(tmp_path: Path) -> None:
    with bench(tmp_path, streams=10, pauses=True) as b:
        b.server.answer = lambda request: REFUSED
        live(b)
        calls = b.called
        b.offer_all(0, 100)
        b.pass_time(1)
        assert len(b.sent()) == 10, "those on the wire, and no more"
        told = b.run.progress()[APNS]
        assert (told.stops, told.stop_reason, told.rejected) == (10, "TopicDisallowed", 10)
        assert b.run.stop_reasons() == {APNS: "TopicDisallowed"}
        assert b.called == calls + 1, "the control plane is told once"
        assert not b.run.finished
        b.server.answer = lambda request: (200, b"")
        b.run.resume()
        b.stepped.run_dry()
        assert b.run.quiet()
        assert b.run.stop_reasons() == {}
        assert b.told() == {"accepted": 90, "rejected TopicDisallowed": 10}


@pytest.mark.parametrize(("heed", "sent"), [(False, 100), (True, 20)])
def test_after_a_decision_such_replies_are_counted_and_hold_only_where_that_is_asked_for(
    tmp_path: Path, heed: bool, sent: int
) -> None:
    with bench(tmp_path, streams=10, pauses=True) as b:
        b.server.answer = lambda request: REFUSED
        live(b)
        b.offer_all(0, 100)
        b.stepped.run_dry()
        b.run.resume(heed_stops=heed)
        b.pass_time(1)
        assert len(b.sent()) == b.run.progress()[APNS].stops == sent
        assert b.run.stop_reasons() == {APNS: "TopicDisallowed"}


def test_where_nobody_can_decide_such_a_reply_ends_the_providers_part(tmp_path: Path) -> None:
    with bench(tmp_path, streams=10) as b:
        b.server.answer = lambda request: REFUSED
        live(b)
        b.offer_all(0, 100)
        b.pass_time(0.1)
        assert b.run.finished
        b.run.settle()
        assert b.told() == {"rejected TopicDisallowed": 10, "unsent Stopped": 90}
        assert b.run.progress()[APNS].stop_reason == "TopicDisallowed"


def test_tokens_that_are_wrong_are_counted_and_devices_that_are_gone_are_not(tmp_path: Path) -> None:
    reasons = ["BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"]
    with bench(tmp_path) as b:

        def answer(request: Request) -> tuple[int, bytes]:
            return 400 if len(b.server.seen) % 4 < 2 else 410, b'{"reason":"%s"}' % reasons[
                len(b.server.seen) % 4
            ].encode()

        b.server.answer = answer
        live(b)
        b.offer(0, 0, 40)
        b.stepped.run_dry()
        told = b.run.progress()[APNS]
        assert (told.bad_tokens, told.rejected, told.stops) == (20, 40, 0)


# --- shards that come and go --------------------------------------------------------------------------------


def test_a_shard_can_be_taken_over_in_mid_launch_whatever_its_place_in_the_snapshot(tmp_path: Path) -> None:
    with bench(tmp_path, 300) as b:
        throttled = set()

        def answer(request: Request) -> tuple[int, bytes]:
            if request.path in throttled:
                return 200, b""
            throttled.add(request.path)
            return THROTTLED  # so that every row is looked up by its number, to be sent again

        b.server.answer = answer
        live(b, (1, 100, 100))
        b.offer(1, 0, 100)
        b.stepped.run_dry()
        b.hold((2, 200, 100), (0, 0, 100))
        b.offer(0, 0, 100)
        b.offer(2, 0, 50)
        b.pass_time(3)
        assert b.run.quiet()
        assert b.told() == {"accepted": 250, "unsent": 50}
        assert set(b.server.times.values()) == {2}
        assert b.run.progress()[APNS].rows == 300


def test_a_dead_workers_shard_is_sent_on_from_where_its_journal_ends(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b, (1, 50, 50))
        (tmp_path / "dead").mkdir()
        dead = Journal.create(tmp_path / "dead" / "journal-d.bin", 100, launch="l", snapshot="s", worker="d")
        dead.hold(0, 50)
        dead.outcome[:10], dead.attempts[:12] = Outcome.ACCEPTED, 1
        dead.outcome[10:12] = Outcome.IN_FLIGHT
        b.hold((0, 0, 50))
        unsent = inherit(b.journal, dead, 0, 20)
        assert unsent is not None
        b.offer(0, 0, 20, np.flatnonzero(unsent).tolist())
        b.offer(0, 20, 50)
        b.stepped.run_dry()
        assert sorted(b.sent()) == list(range(12, 50))
        assert b.told(0, 50) == {"accepted": 48, "unknown ProcessDied": 2}
        dead.close()


def test_a_shard_that_is_lost_is_not_sent_any_more_and_its_replies_are_heard(tmp_path: Path) -> None:
    with bench(tmp_path, 200, streams=10) as b:
        b.server.answer = lambda request: None
        live(b, (0, 0, 100), (1, 100, 100))
        b.offer_all(0, 60, 30)
        b.offer(1, 0, 5)
        b.stepped.run_dry()
        assert b.sent() == list(range(10)), "in hand a chunk half sent, in the queue one more"
        b.run.drop(0)
        b.server.answer_all()
        b.server.answer = lambda request: (200, b"")
        b.offer(0, 60, 70)
        b.stepped.run_dry()
        assert b.sent() == [*range(10), *range(100, 105)]
        assert b.run.quiet()
        assert b.run.progress()[APNS].rows == 100
        b.run.settle_shard(0, owned=False)
        assert b.told(0, 100) == {"accepted": 10, "unsent Stopped": 60, "unsent": 30}


def test_a_lost_shards_rows_are_not_tried_again(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.server.answer = lambda request: None if len(b.server.seen) == 2 else THROTTLED
        live(b)
        b.offer(0, 0, 3)
        b.stepped.run_dry()
        b.run.drop(0)
        b.server.answer_all(*THROTTLED)
        b.stepped.run_dry()
        assert b.run.quiet(), "neither those that waited nor the one that came back later"
        b.pass_time(5)
        assert len(b.sent()) == 3
        b.run.settle_shard(0, owned=False)
        assert b.told(0, 3) == {"unsent TooManyRequests": 3}


def test_a_shard_that_comes_back_is_sent_on_and_no_row_twice(tmp_path: Path) -> None:
    with bench(tmp_path, streams=10) as b:
        b.server.answer = lambda request: THROTTLED if len(b.server.seen) == 1 else None
        live(b)
        b.offer(0, 0, 30)
        b.stepped.run_dry()
        assert len(b.sent()) >= 10
        b.run.drop(0)
        b.hold((0, 0, 100))
        b.offer(0, 0, 30)
        b.server.answer = lambda request: (200, b"")
        b.server.answer_all()
        b.pass_time(2)
        assert b.run.quiet()
        assert b.told(0, 30) == {"accepted": 30}
        times = b.server.times
        assert sorted(times.values()) == [1] * 29 + [2], "the one that was throttled"


def test_a_shard_given_back_before_go_leaves_no_trace(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.hold((0, 0, 50), (1, 50, 50))
        b.run.drop(0)
        b.run.drop(0)
        assert b.run.to_send == {APNS: 50}
        b.run.go()
        b.run.settle()
        assert b.told() == {"unsent": 50, "expired WindowClosed": 50}
        b.hold((0, 0, 50))
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        assert b.sent() == list(range(10))


# --- the last entries ---------------------------------------------------------------------------------------


def test_an_owned_shard_is_closed_while_others_are_still_sent(tmp_path: Path) -> None:
    with bench(tmp_path, 200) as b:
        live(b, (0, 0, 100), (1, 100, 100))
        b.offer(0, 0, 99)
        b.stepped.run_dry()
        b.server.answer = lambda request: None
        b.offer(0, 99, 100)
        b.stepped.run_dry()
        b.run.settle_shard(0, owned=True)
        assert b.told(0, 100) == {"accepted": 99, "unknown ConnectionLost": 1}
        b.server.answer = lambda request: (200, b"")
        b.offer(1, 0, 100)
        b.stepped.run_dry()
        assert b.told(100) == {"accepted": 100}


def test_a_shard_that_was_lost_is_told_about_only_where_its_rows_were_claimed_here(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        live(b)
        b.offer(0, 0, 10)
        b.stepped.run_dry()
        claimed = np.zeros(100, bool)
        claimed[:40] = True  # claimed, and in part not even offered
        b.run.settle_shard(0, owned=False, claimed=claimed)
        assert b.told() == {"accepted": 10, "unsent Stopped": 30, "unsent": 60}
        b.run.settle_shard(0, owned=False, claimed=claimed)
        assert b.told() == {"accepted": 10, "unsent Stopped": 30, "unsent": 60}


def test_a_row_that_was_tried_keeps_the_reason_of_its_last_refusal(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.server.answer = lambda request: THROTTLED
        live(b)
        b.offer(0, 0, 1)
        b.stepped.run_dry()
        b.run.settle_shard(0, owned=False)
        assert b.told(0, 1) == {"unsent TooManyRequests": 1}
        b.run.settle_shard(0, owned=True)
        assert b.told(0, 1) == {"expired TooManyRequests": 1}


# --- everything at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_no_row_is_sent_twice_and_each_is_accounted_for(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    bases, rows = [0, 60, 100, 190], 240
    counts = [60, 40, 90, 50]
    with bench(tmp_path, rows, lanes=2, connections=2, streams=8, window_s=30.0, pauses=True) as b:
        throttled: Counter[int] = Counter()

        def answer(request: Request) -> tuple[int, bytes] | None:
            told = rng.choice([(200, b""), (200, b""), None, THROTTLED])
            throttled[int(request.path.rpartition("/")[2], 16)] += told is THROTTLED
            return told

        b.server.answer = answer
        live(b, (2, bases[2], counts[2]))
        held, left = {2}, {i: list(range(0, counts[i], 10)) for i in range(4)}

        def offer() -> None:
            index = rng.choice(sorted(held)) if held else None
            if index is not None and left[index]:
                start = left[index].pop(rng.randrange(len(left[index])))
                b.offer(index, start, min(start + 10, counts[index]))

        def take() -> None:
            index = rng.randrange(4)
            b.hold((index, bases[index], counts[index]))
            held.add(index)

        def lose() -> None:
            index = rng.randrange(4)
            b.run.drop(index)
            held.discard(index)

        steps = [
            *[offer] * 8, take, lose, b.run.pause, *[b.run.resume] * 2, b.server.hang_up, b.server.answer_all,
            lambda: b.run.lease_until(b.clock.monotonic_ns() + rng.randrange(10**9)), lambda: b.pass_time(0.1),
            lambda: b.stepped.step(rng.randrange(2)), b.stepped.run_dry,
        ]  # fmt: skip
        for _ in range(150):
            rng.choice(steps)()
            quiet = b.run.quiet()
            if quiet:
                assert b.run.waiting_rows(APNS) == 0
                assert b.run.progress()[APNS].in_flight == 0
        b.run.resume()
        b.run.lease_until(2**62)
        b.server.answer = lambda request: (200, b"")
        b.pass_time(1)
        b.server.answer_all()
        b.pass_time(30, 0.5)
        assert b.run.finished
        for index in range(4):
            if index in held:
                b.run.settle_shard(index, owned=True)
        assert not (b.journal.outcome == Outcome.IN_FLIGHT).any()
        arrived = Counter(b.sent())
        for row in range(rows):
            assert arrived[row] == b.journal.attempts[row], "every request is in the books"
            assert arrived[row] - throttled[row] <= 1, "sent again only where it was surely not taken"
            if b.journal.outcome[row] == Outcome.ACCEPTED:
                assert arrived[row] - throttled[row] == 1
