"""The pace agreed, and the rate a provider allows: never more than either, whatever the schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.deliver.pacing import INTERVAL_NS, RATE_MIN, REPLIES_MIN, Pacer

S = 1_000_000_000


def test_without_a_pace_streams_are_the_only_bound() -> None:
    pacer = Pacer(None, 0)
    assert pacer.allowance(0, 10_000) == 10_000
    assert pacer.rate is None


@given(
    pace=st.floats(0.1, 1e6),
    start=st.integers(0, 10**15),
    steps=st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 5_000), st.booleans()), max_size=60),
)
def test_no_schedule_sends_more_than_the_pace(pace: float, start: int, steps: list[tuple[int, int, bool]]) -> None:
    """Between any two moments no more leaves than the pace allows, plus a tenth of a second's worth saved up."""
    pacer, now = Pacer(pace, start), start
    sent: list[tuple[int, int]] = []
    for wait, wanted, tick in steps:
        now += wait
        if tick:
            pacer.tick(now)
        allowed = pacer.allowance(now, wanted)
        assert 0 <= allowed <= wanted
        pacer.sent(allowed)
        sent.append((now, allowed))
    for i, (begin, _) in enumerate(sent):
        total = 0
        for end, count in sent[i:]:
            total += count
            assert total <= pace * (end - begin) / S + max(1.0, pace / 10) + 1e-6 * (1 + total)


def test_the_pace_is_reached_in_the_long_run() -> None:
    pacer, total = Pacer(1_000.0, 0), 0
    for ms in range(0, 10_001, 20):
        allowed = pacer.allowance(ms * 1_000_000, 10_000)
        pacer.sent(allowed)
        total += allowed
    assert 9_990 <= total <= 10_000


def a_second(pacer: Pacer, now: int, sent: int, throttled_share: float, wait_s: float | None = None) -> int:
    """Ten intervals in which ``sent`` go out and are answered; returns the time after them."""
    for _ in range(10):
        now += INTERVAL_NS
        count = min(sent // 10, pacer.allowance(now, sent // 10))
        pacer.sent(count)
        throttled = round(count * throttled_share)
        pacer.replied(count)
        if throttled:
            pacer.replied(0, throttled, wait_s)
        pacer.tick(now)
    return now


def test_pushback_halves_the_rate_and_patience_raises_it_step_by_step() -> None:
    pacer = Pacer(None, 0)
    pacer.sent(1_000)
    pacer.replied(800)
    pacer.replied(0, 200, 0.0)
    pacer.tick(INTERVAL_NS)
    assert pacer.rate == 5_000.0
    now, rates = INTERVAL_NS, []
    for _ in range(4):
        now += INTERVAL_NS
        count = pacer.allowance(now, 10_000)
        pacer.sent(count)
        pacer.replied(count)
        pacer.tick(now)
        rates.append(pacer.rate)
    assert rates == [6_000.0, 7_000.0, 8_000.0, 9_000.0]


def test_single_refusals_change_nothing() -> None:
    pacer = Pacer(None, 0)
    a_second(pacer, 0, 10_000, 0.05, 10.0)
    assert pacer.rate is None


def test_few_replies_say_nothing() -> None:
    pacer = Pacer(None, 0)
    pacer.sent(REPLIES_MIN - 1)
    pacer.replied(REPLIES_MIN - 1, REPLIES_MIN - 1, 60.0)
    pacer.tick(INTERVAL_NS)
    assert pacer.rate is None


def test_a_quota_that_is_used_up_is_waited_for_as_long_as_the_provider_says() -> None:
    pacer = Pacer(None, 0)
    pacer.sent(1_000)
    pacer.replied(1_000, 900, 30.0)
    pacer.tick(INTERVAL_NS)
    for seconds in (1, 15, 29):
        assert pacer.allowance(INTERVAL_NS + seconds * S, 100) == 0
    assert pacer.allowance(INTERVAL_NS + 31 * S, 100) == 100


def test_a_later_and_shorter_wait_does_not_cut_the_first_short() -> None:
    pacer = Pacer(None, 0)
    pacer.sent(1_000)
    pacer.replied(1_000, 900, 30.0)
    pacer.tick(INTERVAL_NS)
    pacer.replied(100, 100, 1.0)
    pacer.tick(2 * INTERVAL_NS)
    assert pacer.allowance(10 * S, 100) == 0
    assert pacer.allowance(31 * S, 100) > 0


def test_the_rate_never_falls_so_low_that_it_could_not_recover() -> None:
    pacer, now = Pacer(None, 0), 0
    for _ in range(50):
        now += INTERVAL_NS
        pacer.sent(pacer.allowance(now, 1_000))
        pacer.replied(1_000, 300, 0.0)
        pacer.tick(now)
    assert pacer.rate == RATE_MIN
    a_second(pacer, now, 1_000, 0.0)
    assert pacer.rate is None or pacer.rate > RATE_MIN


def test_the_pace_stays_the_upper_bound_whatever_the_provider_allows() -> None:
    pacer = Pacer(300.0, 0)
    pacer.sent(1_000)
    pacer.replied(1_000, 200, 0.0)
    pacer.tick(INTERVAL_NS)
    assert pacer.rate == 300.0


@given(st.lists(st.tuples(st.integers(1, 2 * S), st.integers(0, 500), st.integers(0, 500)), max_size=60))
def test_after_pushback_no_schedule_sends_more_than_the_rate_in_force(steps: list[tuple[int, int, int]]) -> None:
    pacer, now = Pacer(None, 0), 0
    for wait, replies, throttled in steps:
        before, last = pacer.rate, now
        now += wait
        count = pacer.allowance(now, 10_000)
        if before is not None:
            assert count <= before * (now - last) / S + max(1.0, before / 10) + 1
        pacer.sent(count)
        pacer.replied(max(replies, throttled), throttled, 1.0 if throttled else None)
        pacer.tick(now)
        assert pacer.rate is None or pacer.rate >= RATE_MIN


@pytest.mark.parametrize("pace", [0.5, 0.01])
def test_a_pace_below_one_a_second_still_sends(pace: float) -> None:
    pacer = Pacer(pace, 0)
    assert pacer.allowance(int(S / pace) + 1, 10) == 1


# --- a pace that changes ------------------------------------------------------------------------------


@given(
    start=st.integers(0, 10**15),
    steps=st.lists(
        st.tuples(st.integers(0, 3 * S), st.integers(0, 5_000), st.none() | st.floats(0.0, 1e5)), max_size=60
    ),
)
def test_no_schedule_of_paces_sends_more_than_they_allow(
    start: int, steps: list[tuple[int, int, float | None]]
) -> None:
    """Each pace earns for as long as it is in force; what is saved up is a tenth of a second's worth of the last."""
    pace = 1_000.0
    pacer, now, earned, sent = Pacer(pace, start), start, 0.0, 0
    for wait, wanted, change in steps:
        now += wait
        earned = min(earned + pace * wait / S, max(1.0, pace / 10))
        if change is not None:
            pacer.set_pace(change, now)
            pace = change
            earned = min(earned, max(1.0, pace / 10))
        allowed = pacer.allowance(now, wanted)
        assert allowed <= earned + 1e-6 * (1 + sent)
        pacer.sent(allowed)
        earned -= allowed
        sent += allowed


def test_a_pace_changed_all_the_time_is_still_kept_up() -> None:
    """Shares of a fleet's pace change a little with every heartbeat; that must not cost what was earned."""
    pacer, total = Pacer(3.0, 0), 0
    for ms in range(0, 20_001, 20):
        pacer.set_pace(3.0 + (ms % 40) / 1_000, ms * 1_000_000)
        allowed = pacer.allowance(ms * 1_000_000, 10)
        pacer.sent(allowed)
        total += allowed
    assert 57 <= total <= 61


def test_a_pace_of_nothing_sends_nothing() -> None:
    pacer = Pacer(1_000.0, 0)
    pacer.set_pace(0.0, S)
    assert pacer.allowance(100 * S, 10) == 0
    pacer.set_pace(1_000.0, 100 * S)
    assert pacer.allowance(100 * S, 10) == 0, "the time without a pace earned nothing"
    assert pacer.allowance(100 * S + S // 100, 100) == 10


def test_a_pace_can_come_and_go() -> None:
    pacer = Pacer(None, 0)
    pacer.set_pace(100.0, 5 * S)
    assert pacer.allowance(5 * S, 10_000) == 0, "being without a bound has saved nothing up"
    assert pacer.allowance(6 * S, 10_000) == 10
    pacer.set_pace(None, 6 * S)
    assert pacer.allowance(6 * S, 10_000) == 10_000


def test_a_new_pace_does_not_end_a_rest() -> None:
    pacer = Pacer(None, 0)
    pacer.sent(1_000)
    pacer.replied(1_000, 900, 30.0)
    pacer.tick(INTERVAL_NS)
    pacer.set_pace(1_000.0, 10 * S)
    assert pacer.allowance(29 * S, 100) == 0
    assert 0 < pacer.allowance(31 * S, 100) <= 100
