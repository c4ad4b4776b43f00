"""The books of a launch: they add up, and they agree with what the provider counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_data import Rows, accepted, rows, simulator_ledger, snapshot

from flashcast.model import Provider, UnknownPolicy
from flashcast.outcomes import REPORTED, Action, Outcome, Reason
from flashcast.report import ledger
from flashcast.report.ledger import compare, imbalances, tally

UNREGISTERED = (Outcome.REJECTED, Reason.UNREGISTERED)
ACCEPTED = (Outcome.ACCEPTED, Reason.NONE)
SILENT = (Outcome.UNKNOWN, Reason.SILENCE)


def test_rows_are_counted_per_outcome_reason_and_provider() -> None:
    ends = [ACCEPTED, UNREGISTERED, SILENT, ACCEPTED, UNREGISTERED, (Outcome.FAILED, Reason.FCM_QUOTA_EXCEEDED)]
    counted = tally(snapshot(apns=5, fcm=1), rows(*ends))
    assert counted.outcomes() == {
        Outcome.UNSENT: 0,
        Outcome.ACCEPTED: 2,
        Outcome.REJECTED: 2,
        Outcome.FAILED: 1,
        Outcome.UNKNOWN: 1,
        Outcome.EXPIRED: 0,
    }
    assert counted.reasons(Provider.APNS) == {Reason.UNREGISTERED: 2, Reason.SILENCE: 1}
    assert counted.reasons(Provider.FCM) == {Reason.FCM_QUOTA_EXCEEDED: 1}
    assert counted.actions() == {Action.PRUNE: 2, Action.RETRY_DOUBTFUL: 1, Action.RETRY_SAFE: 1}
    assert counted.prune == 2


def test_a_row_that_was_in_flight_when_the_process_died_is_unknown() -> None:
    counted = tally(snapshot(apns=2, fcm=0), rows((Outcome.IN_FLIGHT, Reason.NONE), ACCEPTED))
    assert counted.outcomes()[Outcome.UNKNOWN] == 1
    assert counted.reasons() == {Reason.PROCESS_DIED: 1}


def test_an_accepted_row_shows_no_reason_though_an_earlier_try_left_one() -> None:
    counted = tally(snapshot(apns=1, fcm=0), rows((Outcome.ACCEPTED, Reason.TOO_MANY_REQUESTS)))
    assert counted.reasons() == {}


def test_a_device_is_pruned_for_its_outcome_and_not_for_its_reason_alone() -> None:
    counted = tally(snapshot(apns=1, fcm=0), rows((Outcome.UNKNOWN, Reason.UNREGISTERED)))
    assert counted.prune == 0


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.sampled_from(list(Reason))), min_size=1, max_size=40))
def test_every_row_is_in_exactly_one_outcome(ends: list[tuple[Outcome, Reason]]) -> None:
    made = rows(*ends)
    counted = tally(snapshot(apns=len(ends), fcm=0, shard_rows=7), made)
    assert set(counted.outcomes()) == set(REPORTED)
    assert sum(counted.outcomes().values()) == len(ends)
    assert imbalances(counted, made) == ()


def test_a_journal_byte_that_means_nothing_unbalances_the_books() -> None:
    made = accepted(3)
    made.outcome[1] = 77
    counted = tally(snapshot(apns=3, fcm=0), made)
    assert imbalances(counted, made) == (
        "the six outcomes add up to 2, the audience has 3 devices",
        "1 rows of the journal hold a byte that is no outcome or no reason",
    )


def test_a_reason_byte_that_means_nothing_unbalances_the_books() -> None:
    made = accepted(3)
    made.reason[2] = 255
    assert tally(snapshot(apns=3, fcm=0), made).strange == 1


def test_a_journal_of_another_length_than_the_audience_unbalances_the_books() -> None:
    made = accepted(4)
    faults = imbalances(tally(snapshot(apns=3, fcm=0), made), made)
    assert faults[0] == "the journal's outcome has 4 entries, the audience 3 devices"


def test_ledgers_that_agree_show_no_difference() -> None:
    of = snapshot(apns=5, fcm=3)
    made = rows(ACCEPTED, UNREGISTERED, SILENT, SILENT, ACCEPTED, ACCEPTED, ACCEPTED, (Outcome.UNSENT, Reason.ABORTED))
    found = compare(of, made, simulator_ledger(of, [1, 0, 1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1, 1, 0]))
    assert found.differences(UnknownPolicy.DROP) == ()
    assert (found.unknown_taken, found.unknown_not_taken) == (1, 1)


def test_an_accepted_row_that_the_provider_never_took_is_found() -> None:
    of = snapshot(apns=3, fcm=0)
    found = compare(of, accepted(3), simulator_ledger(of, [1, 0, 1]))
    assert found.accepted_not_taken == 1
    assert found.differences(UnknownPolicy.DROP) == ("1 accepted rows were never taken by the provider",)


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.FAILED, Outcome.EXPIRED, Outcome.UNSENT])
def test_a_row_that_the_provider_took_though_it_is_settled_otherwise_is_found(outcome: Outcome) -> None:
    of = snapshot(apns=2, fcm=0)
    found = compare(of, rows(ACCEPTED, (outcome, Reason.NONE)), simulator_ledger(of, [1, 1]))
    assert found.settled_but_taken == 1


def test_a_token_taken_twice_is_a_difference_under_drop_and_the_price_of_resend() -> None:
    of = snapshot(apns=2, fcm=0)
    found = compare(of, accepted(2), simulator_ledger(of, [1, 2]))
    assert found.taken_twice == 1
    assert found.differences(UnknownPolicy.DROP) == ("1 tokens were received more than once",)
    assert found.differences(UnknownPolicy.RESEND) == ()


def test_a_token_refused_twice_was_sent_again_without_need() -> None:
    of = snapshot(apns=2, fcm=0)
    found = compare(of, rows(ACCEPTED, UNREGISTERED), simulator_ledger(of, [1, 0], [1, 2]))
    assert (found.received_twice, found.taken_twice) == (1, 0)
    assert found.differences(UnknownPolicy.DROP) == ("1 tokens were received more than once",)


def test_a_token_that_is_not_in_the_snapshot_is_found() -> None:
    larger = snapshot(apns=3, fcm=0)
    found = compare(snapshot(apns=2, fcm=0), accepted(2), simulator_ledger(larger, [1, 1, 1]))
    assert found.strangers == 1


def test_a_provider_that_got_nothing_took_nothing() -> None:
    of = snapshot(apns=2, fcm=0)
    assert compare(of, accepted(2), simulator_ledger(of, [0, 0])).accepted_not_taken == 2


@given(st.data())
def test_comparing_shard_by_shard_finds_what_counting_row_by_row_does(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    outcomes = data.draw(st.lists(st.sampled_from(list(REPORTED)), min_size=count, max_size=count))
    taken = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    of = snapshot(apns=count, fcm=0, shard_rows=7)
    found = compare(of, rows(*[(o, Reason.NONE) for o in outcomes]), simulator_ledger(of, taken))
    pairs = list(zip(outcomes, taken, strict=True))
    assert found.accepted_not_taken == sum(o is Outcome.ACCEPTED and t == 0 for o, t in pairs)
    assert found.unknown_taken == sum(o is Outcome.UNKNOWN and t > 0 for o, t in pairs)
    assert found.settled_but_taken == sum(o not in (Outcome.ACCEPTED, Outcome.UNKNOWN) and t > 0 for o, t in pairs)
    assert found.strangers == 0


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_it_does_not_matter_how_many_rows_are_compared_together(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    of = snapshot(apns=9, fcm=7, shard_rows=2)
    made = rows(*[ACCEPTED, UNREGISTERED, SILENT, ACCEPTED] * 4)
    expected = compare(of, made, simulator_ledger(of, [1, 0, 1, 0] * 4))
    monkeypatch.setattr(ledger, "ROWS_AT_ONCE", at_once)
    assert compare(of, made, simulator_ledger(of, [1, 0, 1, 0] * 4)) == expected
    assert (expected.accepted_not_taken, expected.unknown_taken) == (4, 4)


def test_the_arrays_of_the_journal_are_not_changed_by_counting() -> None:
    made = rows((Outcome.IN_FLIGHT, Reason.NONE))
    frozen = Rows(*(np.array(array) for array in (made.outcome, made.reason, made.reply_ms)))
    for array in (frozen.outcome, frozen.reason, frozen.reply_ms):
        array.setflags(write=False)
    tally(snapshot(apns=1, fcm=0), frozen)
    assert frozen.outcome.tolist() == [Outcome.IN_FLIGHT]
