"""Levels: protection comes at once, goes slowly, never flaps, and is never lost with a signal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from level_data import BAD, GOOD, NOTHING, SLOW, START, TABLE, Story, rule

from flashcast.zombie.document import Level
from flashcast.zombie.judging import Judged, Reading, Verdict, judge, verdict_of
from flashcast.zombie.levels import (
    DWELL,
    TRANSITIONS,
    Hold,
    Input,
    Order,
    State,
    Table,
    Why,
    caught_up,
    decide,
    step_of,
)

N, S, Z, R = Level.NORMAL, Level.SHIELDED, Level.ZOMBIE, Level.RECOVERING


def zombie_story() -> Story:
    story = Story()
    story.until(BAD, Z)
    return story


# --- The table ----------------------------------------------------------------------------------------


def test_every_level_can_be_reached_from_normal_and_left_for_it() -> None:
    for start, goal in ((N, set(Level)), (Z, set(Level) - {S})):
        reached = {start}
        while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
            reached |= more
        assert reached >= goal


def test_nobody_is_let_back_in_but_through_recovery() -> None:
    assert {before for (before, _), after in TRANSITIONS.items() if after is N} == {R}


def test_every_dwell_time_is_of_a_transition_and_in_the_table() -> None:
    assert set(DWELL) <= set(TRANSITIONS)
    assert set(DWELL.values()) <= set(Table.model_fields)


def test_nothing_waits_to_raise_a_level() -> None:
    assert {what for _, what in DWELL} & {Input.SHIELD, Input.ZOMBIE} == set()


# --- A rule and its signal ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "high", "verdict"),
    [
        (10.1, True, Verdict.BREACH), (10.0, True, Verdict.BETWEEN), (4.1, True, Verdict.BETWEEN),
        (4.0, True, Verdict.CLEAR), (3.9, False, Verdict.BREACH), (12.0, False, Verdict.CLEAR),
        (math.nan, True, Verdict.MISSING),
    ],
)  # fmt: skip
def test_a_value_is_bad_beyond_the_threshold_and_good_at_the_other(value: float, high: bool, verdict: Verdict) -> None:
    limit, clear = (10.0, 4.0) if high else (4.0, 12.0)
    assert verdict_of(rule("r", "s", Z, high=high, limit=limit, clear=clear), Reading(value, 0.0)) is verdict


def test_a_stale_value_says_nothing_however_good_it_is() -> None:
    assert verdict_of(rule("r", "s", Z), Reading(0.0, 10.0)) is Verdict.CLEAR
    assert verdict_of(rule("r", "s", Z), Reading(0.0, 10.1)) is Verdict.MISSING


def test_a_breach_shorter_than_for_s_changes_nothing() -> None:
    story = Story()
    for _ in range(10):
        story.goes_on(BAD, 5)
        story.goes_on(GOOD)
    assert story.levels == [(N, 0)]


def test_what_happened_while_nobody_looked_was_not_clear() -> None:
    one = rule("r", "s", Z)
    known = judge(one, Judged(), Reading(0.0, 0.0), START)
    assert judge(one, known, Reading(0.0, 0.0), START + 20, gap_s=9).cleared
    assert not judge(one, known, Reading(0.0, 0.0), START + 20, gap_s=11).cleared


# --- Up, and back ---------------------------------------------------------------------------------------


def test_zombie_follows_as_soon_as_its_rule_fires_also_from_shielded() -> None:
    story = Story()
    assert story.until(SLOW, S) == 6
    assert story.until(BAD, Z) == 6
    assert story.levels == [(N, 0), (S, 300), (Z, 1000)]
    assert story.decisions[-1].why is Why.RAISED
    assert story.decisions[-1].text == "down: errors is 99, above 10 for 5 s"


def test_users_are_let_back_in_step_by_step_each_step_lasting_its_time() -> None:
    story = zombie_story()
    took = [story.until(GOOD, R)]
    while story.state.level is R:
        before, since = story.state.buckets, story.now
        while (story.state.level, story.state.buckets) == (R, before):
            story.goes_on(GOOD)
        took.append(story.now - since)
    assert took == [60, 40, 40, 40, 40, 40]
    assert [buckets for level, buckets in story.levels if level is R] == [990, 950, 750, 500, 0]
    assert story.levels[-1] == (N, 0)


def test_a_shield_for_some_recovers_only_by_the_steps_that_let_somebody_in() -> None:
    story = Story()
    story.until(SLOW, S)
    story.until(GOOD, N)
    assert story.levels == [(N, 0), (S, 300), (R, 0), (N, 0)]


def test_recovery_stops_while_a_signal_is_between_its_thresholds() -> None:
    story = zombie_story()
    story.until(GOOD, R)
    story.goes_on({**GOOD, "latency": Reading(7.0, 0.0)}, 500)
    assert story.state.buckets == 990
    assert story.decisions[-1].why is Why.HELD_UNCLEAR
    assert story.decisions[-1].text == "slow: latency is 7; it is clear at at most 4"


def test_recovery_takes_back_one_step_where_a_shielding_rule_fires_and_goes_on_when_it_is_clear() -> None:
    story = zombie_story()
    while story.state.buckets != 750:
        story.goes_on(GOOD)
    story.goes_on(SLOW, 15)
    assert (story.state.buckets, story.decisions[-1].why) == (950, Why.STEP_BACK)
    story.goes_on(GOOD, 39)
    assert story.state.buckets == 950
    story.goes_on(GOOD)
    assert (story.state.buckets, story.decisions[-1].why) == (750, Why.STEP)


def test_recovery_goes_further_back_while_it_stays_bad_and_ends_where_it_came_from() -> None:
    story = zombie_story()
    while story.state.buckets != 500:
        story.goes_on(GOOD)
    story.until(SLOW, Z)
    assert story.levels[-4:] == [(R, 750), (R, 950), (R, 990), (Z, 1000)]


def test_recovery_goes_all_the_way_back_where_a_zombie_rule_fires() -> None:
    story = zombie_story()
    while story.state.buckets != 500:
        story.goes_on(GOOD)
    assert story.until(BAD, Z) == 6
    assert story.state.buckets == 1000


def test_a_zombie_rule_may_take_back_steps_as_well() -> None:
    table = TABLE.model_copy(update={"rules": (rule("down", "errors", Z, step_back=True),)})
    story = Story(table)
    story.until(BAD, Z)
    while story.state.buckets != 500:
        story.goes_on(GOOD)
    story.goes_on(BAD, 16)
    assert (story.state.level, story.state.buckets) == (R, 750)


# --- Missing signals --------------------------------------------------------------------------------------


def test_a_missing_signal_holds_the_level_and_says_which() -> None:
    story = zombie_story()
    story.goes_on({"latency": Reading(0.0, 0.0)}, 10_000)
    assert story.state.level is Z
    assert story.decisions[-1].why is Why.HELD_MISSING
    assert story.decisions[-1].text == "down: errors is missing, so nothing is lowered"


def test_a_missing_signal_holds_recovery_where_it_is() -> None:
    story = zombie_story()
    while story.state.buckets != 750:
        story.goes_on(GOOD)
    story.goes_on(NOTHING, 10_000)
    assert (story.state.level, story.state.buckets) == (R, 750)


def test_a_missing_signal_raises_where_its_rule_says_so_and_not_before() -> None:
    table = TABLE.model_copy(update={"rules": (rule("down", "errors", Z, missing_raises_s=60.0),)})
    story = Story(table)
    assert story.until(NOTHING, Z) == 61
    assert story.decisions[-1].text == "down: errors is missing for 60 s"


def test_a_breach_goes_on_over_a_gap_in_the_signal() -> None:
    story = Story()
    story.goes_on(BAD, 3)
    story.goes_on(NOTHING, 3)
    assert story.goes_on(BAD).state.level is Z


# --- People and launches ------------------------------------------------------------------------------------


def order(level: Level, buckets: int, lasts_s: float | None = 600.0, **changes: object) -> Order:
    until = None if lasts_s is None else START + lasts_s
    return Order(level=level, buckets=buckets, by="kim", until=until, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("readings", [GOOD, BAD, SLOW, NOTHING])
def test_a_persons_decision_holds_until_its_end_whatever_signals_say(
    level: Level, readings: dict[str, Reading]
) -> None:
    story = Story()
    story.goes_on(readings, 590, order(level, 0 if level is N else 400))
    assert story.levels == [(level, 0 if level is N else 400)]
    assert story.decisions[-1].text == "kim decides for 10 s more"


def test_after_a_persons_decision_the_rules_go_on_from_there() -> None:
    table = TABLE.model_copy(update={"steps": (0.75, 1.0)})
    for readings, after in ((BAD, (Z, 1000)), (GOOD, (R, 250)), (NOTHING, (Z, 400))):
        story = Story(table)
        story.goes_on(readings, 599, order(Z, 400))
        assert (story.state.level, story.state.buckets) == (Z, 400)
        assert (story.goes_on(readings).state.level, story.state.buckets) == after


def test_an_order_without_a_time_is_where_the_rules_go_on() -> None:
    story = zombie_story()
    story.goes_on(GOOD, 1, order(R, 800, None, full=1000))
    assert story.decisions[-1].why is Why.ORDERED
    assert step_of(TABLE, story.state) == 2
    story.goes_on(GOOD, 41)
    assert (story.state.level, story.state.buckets) == (R, 750)


def test_a_launchs_shield_is_raised_above_and_not_lowered_before_its_end() -> None:
    story = Story()
    story.goes_on(GOOD, 500, order(S, 300, floor=True))
    assert story.levels == [(S, 300)]
    assert story.decisions[-1].why is Why.HELD_AS_FLOOR
    story.goes_on(BAD, 6)
    assert story.state.level is Z
    story.goes_on(GOOD, 93)
    assert story.state.level is Z
    story.goes_on(GOOD)
    assert story.state.level is R


def test_a_new_order_takes_the_place_of_the_one_before() -> None:
    story = Story()
    story.goes_on(BAD, 1, order(Z, 1000))
    story.goes_on(BAD, 1, order(N, 0))
    assert (story.goes_on(BAD, 500).state.level) is N


def test_a_document_that_lapsed_leaves_apps_on_their_own() -> None:
    story = zombie_story()
    decision = story.goes_on(GOOD, 1, Order(level=N, buckets=0, lapsed=True))
    assert (decision.state.level, decision.why) == (N, Why.LAPSED)


# --- Clocks and restarts --------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    story = zombie_story()
    story.goes_on(GOOD, 30)
    story.now -= 1_000_000
    assert story.until(GOOD, R) == pytest.approx(30, abs=1)


def test_a_state_survives_as_json() -> None:
    story = zombie_story()
    story.goes_on(SLOW, 3, order(R, 500, full=900))
    text = story.state.model_dump_json()
    again = State.model_validate_json(text)
    assert again == story.state
    assert decide(TABLE, again, GOOD, story.now + 1) == decide(TABLE, story.state, GOOD, story.now + 1)


# --- Properties ---------------------------------------------------------------------------------------------------

values = st.one_of(st.sampled_from([0.0, 0.0, 4.0, 7.0, 10.0, 50.0]), st.floats(allow_nan=True))
some = st.fixed_dictionaries(
    {}, optional={name: st.builds(Reading, values, st.sampled_from([0.0, 9.0, 11.0])) for name in GOOD}
)
readings = st.one_of(st.sampled_from([GOOD, GOOD, GOOD, BAD, SLOW, NOTHING]), some)
steps_of_time = st.one_of(
    st.sampled_from([1.0, 5.0, 10.0]), st.floats(0, 9.9), st.sampled_from([0.0, 41.0, -1e7, -3.0, 1e7])
)
tables = st.builds(
    lambda a, b, back, full, steps: TABLE.model_copy(
        update={
            "rules": (rule("slow", "latency", S, step_back=True, **a), rule("down", "errors", Z, step_back=back, **b)),
            "shielded_buckets": min(300, full),
            "zombie_buckets": full,
            "steps": (*sorted(steps), 1.0),
        }
    ),
    st.fixed_dictionaries({"missing_raises_s": st.sampled_from([None, 30.0]), "for_s": st.sampled_from([0.0, 5.0])}),
    st.fixed_dictionaries(
        {"missing_raises_s": st.sampled_from([None, 30.0]), "clear_for_s": st.sampled_from([0.0, 20.0])}
    ),
    st.booleans(),
    st.sampled_from([1, 250, 1000]),
    st.sets(st.floats(0.001, 0.999), max_size=5),
)
orders = st.builds(
    Order, level=st.sampled_from(Level), buckets=st.integers(0, 1000), by=st.just("kim"),
    origin=st.sampled_from([S, Z]), until=st.one_of(st.none(), st.floats(START - 1e6, START + 1e6)),
    floor=st.booleans(), full=st.one_of(st.none(), st.integers(0, 1000)),
)  # fmt: skip
moments = st.tuples(steps_of_time, readings, st.one_of(st.none(), st.none(), st.none(), orders))
stretches = st.lists(
    st.tuples(
        readings, st.integers(1, 30), st.sampled_from([0.5, 1.0, 5.0, 9.0]), st.one_of(st.just(0.0), steps_of_time)
    ),
    min_size=1, max_size=20,
)  # fmt: skip
"""Readings that stay for some ticks, the seconds between ticks, and a jump of the clock before them."""


def ticks_of(trace: list[tuple[dict[str, Reading], int, float, float]]) -> Iterator[tuple[float, dict[str, Reading]]]:
    """Seconds since the last tick, and the readings."""
    for seen, count, every_s, jump_s in trace:
        yield jump_s, seen
        yield from ((every_s, seen) for _ in range(count))


def protection(state: State) -> int:
    """What apps are kept from: users in it, of whom those in zombie mode count as more."""
    return state.buckets * (2 if state.origin is Z else 1)


@settings(max_examples=150, deadline=None)
@given(tables, stretches)
def test_protection_is_lowered_only_when_all_is_clear_and_no_more_often_than_dwell_times_allow(
    table: Table, trace: list[tuple[dict[str, Reading], int, float, float]]
) -> None:
    state, now = State.new(START), START
    elapsed = changed_at = 0.0
    lowerings = 0
    for step_s, seen in ticks_of(trace):
        now += step_s
        elapsed += max(0.0, step_s)
        before, state = state, decide(table, state, seen, now).state
        if (before.level, before.buckets) == (state.level, state.buckets):
            continue
        assert state.level in {TRANSITIONS.get((before.level, what)) for what in Input}
        lasted_s = elapsed - changed_at + 1e-6
        if protection(state) < protection(before) or (before.level, state.level) == (R, N):
            lowerings += 1
            assert lasted_s >= {S: table.shielded_min_s, Z: table.zombie_min_s, R: table.step_min_s}[before.level]
            assert all(verdict_of(one, seen.get(one.signal)) is Verdict.CLEAR for one in table.rules)
        elif (before.level, state.level) == (R, R):
            assert lasted_s >= table.back_min_s
        changed_at = elapsed
    event(f"lowerings: {lowerings}")
    assert lowerings * min(table.shielded_min_s, table.zombie_min_s, table.step_min_s) <= elapsed + 1e-3


@settings(max_examples=100, deadline=None)
@given(tables, st.lists(moments, max_size=40), st.lists(steps_of_time, min_size=1, max_size=40))
def test_whatever_came_before_no_signal_at_all_never_lowers_protection(
    table: Table, past: list[tuple[float, dict[str, Reading], Order | None]], silence: list[float]
) -> None:
    state, now = State.new(START), START
    for step_s, seen, given_order in past:
        now += step_s
        state = decide(table, state, seen, now, given_order).state
    for step_s in silence:
        now += step_s
        before, state = state, decide(table, state, NOTHING, now).state
        assert protection(state) >= protection(before)
        assert state.level is not N or before.level is N


@settings(max_examples=150, deadline=None)
@given(tables, st.lists(moments, min_size=1, max_size=60))
def test_a_persons_decision_is_what_holds_while_it_lasts(
    table: Table, trace: list[tuple[float, dict[str, Reading], Order | None]]
) -> None:
    state, now = State.new(START), START
    for step_s, seen, given_order in trace:
        now += step_s
        before, decision = state, decide(table, state, seen, now, given_order)
        state = decision.state
        if given_order is not None:
            assert state.level is given_order.level
            assert state.buckets == (0 if given_order.level is N else given_order.buckets)
            if given_order.until is not None and given_order.until > now:
                assert state.hold == Hold(by="kim", until=given_order.until, floor=given_order.floor)
            else:
                assert state.hold is None
        elif before.hold is not None and now < before.hold.until:
            assert state.hold == before.hold
            if not before.hold.floor:
                assert (state.level, state.buckets) == (before.level, before.buckets)
                assert decision.why is Why.HELD_BY_HAND
            assert protection(state) >= protection(before)
        assert 0 <= state.buckets <= 1000
        assert (state.level is N) <= (state.buckets == 0)
        assert State.model_validate_json(state.model_dump_json()) == state


@settings(max_examples=100, deadline=None)
@given(st.lists(moments, max_size=30), st.floats(-1e9, 0))
def test_setting_a_clock_back_changes_no_duration(
    past: list[tuple[float, dict[str, Reading], Order | None]], back_s: float
) -> None:
    state, now = State.new(START), START
    for step_s, seen, given_order in past:
        now += step_s
        state = decide(TABLE, state, seen, now, given_order).state
    moved = caught_up(state, now + back_s)
    assert moved.at == now + back_s
    assert moved.at - moved.since == pytest.approx(state.at - state.since, abs=1e-3)
    for name, known in moved.rules.items():
        for field in ("breach_since", "clear_since", "missing_since"):
            before, after = getattr(state.rules[name], field), getattr(known, field)
            assert (before is None) is (after is None)
            if before is not None:
                assert moved.at - after == pytest.approx(state.at - before, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(0, 2**32))
def test_good_signals_bring_every_table_back_to_normal(table: Table, seed: int) -> None:
    story = Story(table)
    story.goes_on(BAD, 6 + seed % 7)
    story.until(GOOD, N, 2_000)
    assert story.state.buckets == 0
