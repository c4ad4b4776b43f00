"""What becomes of a row whose request ended: the whole table, for both policies."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flashcast.deliver.retry import Decision, backoff_s, decide
from flashcast.limits import ATTEMPTS_MAX, BACKOFF_S_FIRST, BACKOFF_S_MAX
from flashcast.model import UnknownPolicy
from flashcast.outcomes import ACTIONS, Action, Outcome, Reason

DROP, RESEND = UnknownPolicy.DROP, UnknownPolicy.RESEND
ENDS = {
    Action.REJECT: Decision(Outcome.REJECTED),
    Action.PRUNE: Decision(Outcome.REJECTED),
    Action.STOP: Decision(Outcome.REJECTED, stop=True),
}


@pytest.mark.parametrize("policy", [DROP, RESEND])
def test_no_reason_is_an_acceptance(policy: UnknownPolicy) -> None:
    assert decide(Reason.NONE, policy, 1) == Decision(Outcome.ACCEPTED)


@pytest.mark.parametrize("policy", [DROP, RESEND])
@pytest.mark.parametrize("reason", [reason for reason, action in ACTIONS.items() if action in ENDS])
def test_a_refusal_of_the_row_is_final_at_the_first_try(reason: Reason, policy: UnknownPolicy) -> None:
    assert decide(reason, policy, 1) == ENDS[ACTIONS[reason]]


@pytest.mark.parametrize("policy", [DROP, RESEND])
@pytest.mark.parametrize("reason", [reason for reason, action in ACTIONS.items() if action is Action.RETRY_SAFE])
def test_what_was_surely_not_taken_is_sent_again_until_the_last_try(reason: Reason, policy: UnknownPolicy) -> None:
    for attempts in range(1, ATTEMPTS_MAX):
        decision = decide(reason, policy, attempts)
        assert (decision.outcome, decision.stop, decision.doubtful) == (None, False, False)
        assert decision.delay_s == backoff_s(attempts, 0)
    assert decide(reason, policy, ATTEMPTS_MAX) == Decision(Outcome.FAILED)


@pytest.mark.parametrize("reason", [reason for reason, action in ACTIONS.items() if action is Action.RETRY_DOUBTFUL])
def test_doubt_is_unknown_under_drop_and_another_try_under_resend(reason: Reason) -> None:
    assert decide(reason, DROP, 1) == Decision(Outcome.UNKNOWN)
    again = decide(reason, RESEND, 1)
    assert (again.outcome, again.doubtful) == (None, True)
    assert decide(reason, RESEND, ATTEMPTS_MAX) == Decision(Outcome.UNKNOWN)


@pytest.mark.parametrize("reason", [reason for reason, action in ACTIONS.items() if action is Action.REFRESH])
def test_an_expired_credential_is_a_retry_if_there_is_a_newer_one_and_the_end_if_not(reason: Reason) -> None:
    assert decide(reason, DROP, 1, refreshed=True).outcome is None
    assert decide(reason, DROP, ATTEMPTS_MAX, refreshed=True) == Decision(Outcome.FAILED)
    assert decide(reason, DROP, 1, refreshed=False) == Decision(Outcome.REJECTED, stop=True)


def test_every_reason_that_can_end_a_request_is_decided() -> None:
    for reason in ACTIONS:
        for policy in UnknownPolicy:
            decide(reason, policy, 1)


def test_the_peers_word_on_when_to_come_back_goes_before_our_own() -> None:
    assert decide(Reason.TOO_MANY_REQUESTS, DROP, 1, retry_after_s=7.0).delay_s == 7.0
    assert decide(Reason.TOO_MANY_REQUESTS, DROP, 1, retry_after_s=0.0).delay_s == 0.0


def test_the_pause_doubles_up_to_a_bound_and_its_upper_half_is_left_to_chance() -> None:
    longest = [backoff_s(attempts, 1.0) for attempts in range(1, 12)]
    assert longest[0] == BACKOFF_S_FIRST
    assert all(later == min(2 * earlier, BACKOFF_S_MAX) for earlier, later in pairwise(longest))
    assert longest[-1] == BACKOFF_S_MAX
    assert backoff_s(3, 0.0) == longest[2] / 2
