"""The lifecycle is the table: nothing else happens to a launch, and its trail tells all that did."""

from __future__ import annotations

import pytest
from control_data import SNAPSHOT, TEXT, Control, simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from flashcast.campaign.lifecycle import ENDED, HELD, TRANSITIONS, Input, State, following, possible, sources
from flashcast.campaign.records import LaunchRecord
from flashcast.engine.base import EngineUnavailable
from flashcast.errors import LifecycleError, Lost
from flashcast.testing.memory_engine import Faults


def test_every_state_can_be_reached_from_draft() -> None:
    reached = {State.DRAFT}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_every_input_can_happen_somewhere() -> None:
    assert [what for what in Input if not sources(what)] == []


def test_nothing_is_sent_after_an_end() -> None:
    assert {TRANSITIONS[before, what] for before, what in TRANSITIONS if before in ENDED} <= ENDED
    assert State.LIVE not in {TRANSITIONS[before, what] for before, what in TRANSITIONS if before in ENDED}


def test_only_an_armed_launch_goes_live_and_only_by_go() -> None:
    into_live = {(before, what) for (before, what), after in TRANSITIONS.items() if after is State.LIVE is not before}
    assert into_live == {(State.ARMED, Input.GO)}


def test_an_edit_always_leads_back_to_draft_and_never_happens_to_a_live_launch() -> None:
    assert {after for (_, what), after in TRANSITIONS.items() if what is Input.EDIT} == {State.DRAFT}
    assert State.LIVE not in sources(Input.EDIT)


def test_a_launch_that_workers_hold_can_always_be_called_off() -> None:
    assert [state for state in HELD if following(state, Input.ABORT) is not State.ABORTED] == []


@pytest.mark.parametrize("state", State)
def test_what_is_possible_is_what_the_table_has(state: State) -> None:
    assert {what for what in Input if following(state, what) is not None} == set(possible(state))


inputs = st.lists(st.tuples(st.sampled_from(Input), st.sampled_from(["kim@desk", "ada@home"])), max_size=40)


@settings(max_examples=60, deadline=None)
@given(inputs, st.integers(0, 2**32), st.sampled_from([Faults.none(), Faults.some()]))
def test_no_inputs_lead_out_of_the_table(given_inputs: list[tuple[Input, str]], seed: int, faults: Faults) -> None:
    async def run(control: Control) -> None:
        stores = {name: control.store(name) for name in ("kim@desk", "ada@home")}
        await control.honest().create_campaign("superbowl", TEXT)
        state, made = State.DRAFT, 0
        for what, name in given_inputs:
            after = following(state, what)
            try:
                record = await stores[name].transition("superbowl-1", what, _with_a_snapshot)
            except (LifecycleError, Lost):
                assert after is None
            except EngineUnavailable:  # a read at the beginning got no answer: nothing was asked for
                continue
            else:
                assert after is not None
                assert record.state is after
                state, made = after, made + 1
            assert (await control.honest().launch("superbowl"))[0].state is state
        await _check_trail(control, state, made)

    simulated(run, faults=faults, seed=seed)


def _with_a_snapshot(record: LaunchRecord) -> LaunchRecord:
    return record.model_copy(update={"snapshot": SNAPSHOT})


async def _check_trail(control: Control, state: State, made: int) -> None:
    """The trail, played again from draft, ends in the launch's state, and has each transition once."""
    store = control.honest()
    record, _ = await store.launch("superbowl")
    trail = await store.trail(record)
    assert len(trail) == made
    assert len({entry.id for entry in trail}) == made
    played = State.DRAFT
    for entry in trail:
        assert entry.before is played
        played = TRANSITIONS[entry.before, entry.what]
        assert entry.after is played
    assert played is state
