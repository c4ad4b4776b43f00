"""Traces: what was recorded replays to the same decisions, other rules show what they would have done."""

from __future__ import annotations

import asyncio
import json
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from level_data import BAD, GOOD, NOTHING, SLOW, TABLE, Story
from watch_data import Watch
from zombie_data import KEY

from flashcast.clock import FixedClock
from flashcast.errors import InputError
from flashcast.zombie.document import Level
from flashcast.zombie.judging import Reading
from flashcast.zombie.levels import Order, State, Table, decide
from flashcast.zombie.publish import publish
from flashcast.zombie.rules import load_rules, parse_rules
from flashcast.zombie.shield import raised, shield_of
from flashcast.zombie.trace import Recorded, Start, Tick, TraceWriter, read_trace, replay, replay_file

TRACES = Path(__file__).parent / "traces"
"""Recorded by examples/herd/incidents.py: real runs of the experiment, each with the rules it was decided by."""
INCIDENTS = ["good", "monitoring-down", "step-back"]


def recorded(path: Path, story: Story, script: list[tuple[dict[str, Reading], int]], **options: int) -> TraceWriter:
    """A trace of a story."""
    writer = TraceWriter(path, "shop", story.table, **options)
    for readings, seconds in script:
        for _ in range(seconds):
            before = story.state
            decision = story.goes_on(readings)
            writer.tick(before, story.now, readings, None, decision)
    return writer


SCRIPT = [(GOOD, 10), (BAD, 20), (GOOD, 120), (SLOW, 20), (NOTHING, 10), (GOOD, 300)]


def test_a_recording_replays_to_the_same(tmp_path: Path) -> None:
    story = Story()
    recorded(tmp_path / "t", story, SCRIPT)
    found = replay_file(tmp_path / "t")
    assert (found.app, found.ticks, found.compared, found.different, found.same_rules) == ("shop", 480, 480, 0, True)
    assert found.state == story.state
    assert [(change.level, change.buckets) for change in found.changes] == [
        (level.value, buckets) for level, buckets in story.levels[1:]
    ]


finite = st.floats(allow_nan=False, allow_infinity=False)
readings = st.dictionaries(st.sampled_from(["latency", "errors"]), st.builds(Reading, finite, st.floats(0, 1e6)))
orders = st.builds(Order, level=st.sampled_from(Level), buckets=st.integers(0, 1000), by=st.text(max_size=5),
                   until=st.none() | st.floats(0, 1e9), floor=st.booleans())  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), readings, st.none() | orders), min_size=1, max_size=30))
def test_every_number_survives_recording(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[tuple[float, dict[str, Reading], Order | None]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t"
    writer, state = TraceWriter(path, "shop", TABLE), State.new(0.0)
    for now, seen, order in ticks:
        decision = decide(TABLE, state, seen, now, order)
        writer.tick(state, now, seen, order, decision)
        state = decision.state
    found = replay_file(path)
    assert found.differences == ()
    assert found.state == state


def test_other_rules_show_what_they_would_have_done(tmp_path: Path) -> None:
    recorded(tmp_path / "t", Story(), SCRIPT)
    calm = TABLE.model_copy(update={"rules": tuple(one.model_copy(update={"for_s": 60.0}) for one in TABLE.rules)})
    found = replay_file(tmp_path / "t", calm)
    assert found.same_rules is False
    assert found.changes == ()
    assert found.different > 0
    assert (found.differences[0].recorded.level, found.differences[0].replayed.level) == ("zombie", "normal")


def test_a_trace_that_was_tampered_with_is_told(tmp_path: Path) -> None:
    recorded(tmp_path / "t", Story(), SCRIPT)
    lines = (tmp_path / "t").read_text().splitlines(keepends=True)
    lines[14] = lines[14].replace('"errors":[99.0', '"errors":[1.0')
    found = replay([line.encode() for line in lines])
    assert found.different > 0


def test_a_trace_that_is_full_goes_on_in_another_file_and_both_replay(tmp_path: Path) -> None:
    story = Story()
    recorded(tmp_path / "t", story, SCRIPT, bytes_max=50_000)
    parts = [replay_file(tmp_path / name) for name in ("t.1", "t")]
    assert [part.different for part in parts] == [0, 0]
    assert parts[1].state == story.state
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 110_000


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path, story = tmp_path / "t", Story()
    recorded(path, story, [(BAD, 10)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert replay_file(path).ticks == 9
    recorded(path, Story(state=story.state), [(GOOD, 5)])
    assert (replay_file(path).ticks, replay_file(path).different) == (14, 0)


def test_observations_of_another_tool_are_decided_by_rules_that_are_given(tmp_path: Path) -> None:
    lines = [
        {"t": t / 4, "latency": 1, "errors": 50 if t < 80 else 0, "level": "x", "note": None} for t in range(2_000)
    ]
    path = tmp_path / "t"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = replay_file(path, TABLE)
    assert (found.compared, found.same_rules) == (0, None)
    assert [(change.at, change.level) for change in found.changes[:2]] == [(5.0, "zombie"), (65.0, "recovering")]
    with pytest.raises(InputError, match="does not say by which rules"):
        replay_file(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"), ("[]\n", "line 1 is no entry"), ('{"kind":"smoke"}\n', "kind 'smoke' is not known"),
        ('{"t":"now"}\n', "t is no number"), ("{\n{}\n", "line 2 is no entry"), ("x\ny\n", "line 1 is no JSON"),
        ('{"kind":"start","format":2}\n', "format 2 is not known"),
        ('{"kind":"start","format":1}\n', "line 1 is no entry"),
        ('{"kind":"tick","at":1,"signals":{"x":3}}\n', "line 1 is no entry"),
        ("\x00" * 2_000_000, "line 1 has more than"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match="t: ") as caught:
        replay_file(tmp_path / "t", TABLE)
    assert told in caught.value.message


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_a_file_holds_is_entries_or_an_error(lines: list[bytes]) -> None:
    try:
        list(read_trace(lines))
    except InputError:
        pass


def test_a_table_of_a_recording_is_the_table(tmp_path: Path) -> None:
    recorded(tmp_path / "t", Story(), [(GOOD, 1)])
    start = json.loads((tmp_path / "t").read_text().splitlines()[0])
    assert Table.model_validate_json(json.dumps(start["table"])) == TABLE


def incident(name: str) -> tuple[Path, Table]:
    """A recorded incident, and the table of its rules."""
    return TRACES / f"{name}.jsonl", load_rules(TRACES / f"{name}.rules.toml").table


@pytest.mark.parametrize("name", INCIDENTS)
def test_a_recorded_incident_replays_to_every_decision_that_was_made(name: str) -> None:
    trace, table = incident(name)
    recorded = [entry.recorded for entry in read_trace(trace.read_bytes().splitlines(True)) if isinstance(entry, Tick)]
    assert len(recorded) > 200
    assert None not in recorded
    for known in (None, table):
        found = replay_file(trace, known)
        assert (found.compared, found.different, found.differences) == (len(recorded), 0, ())
        assert found.same_rules is True
    levels = [level for level, _ in groupby(change.level for change in found.changes)]
    assert levels[:3] == ["shielded", "zombie", "recovering"]
    assert levels[-1] == "normal"


@pytest.mark.parametrize("name", INCIDENTS)
def test_decisions_also_come_out_to_the_letter(name: str) -> None:
    trace, _ = incident(name)
    story: list[tuple[Recorded | None, Recorded]] = []
    state, table = None, None
    for entry in read_trace(trace.read_bytes().splitlines(True)):
        if isinstance(entry, Start):
            state, table = entry.state, entry.table
            continue
        assert state is not None
        assert table is not None
        decision = decide(table, state, entry.readings, entry.at, entry.order)
        state = decision.state
        story.append((entry.recorded, Recorded(state.level.value, state.buckets, decision.why.value, decision.text)))
    assert [recorded for recorded, _ in story] == [again for _, again in story]


def test_the_incidents_show_what_they_are_kept_for() -> None:
    changes = {name: replay_file(*incident(name)).changes for name in INCIDENTS}
    assert "step_back" in [one.why for one in changes["step-back"]]
    ticks = [one for one in read_trace((TRACES / "monitoring-down.jsonl").open("rb")) if isinstance(one, Tick)]
    held = [one for one in ticks if one.recorded is not None and one.recorded.why == "held_missing"]
    assert len(held) > 20
    assert {(one.recorded.level, one.recorded.buckets) for one in held if one.recorded is not None} == {
        (held[0].recorded.level, held[0].recorded.buckets) if held[0].recorded is not None else None
    }, "while monitoring says nothing, nothing is lowered"
    after = [change for change in changes["monitoring-down"] if change.at > held[-1].at]
    assert after[0].why in ("step", "lowered"), "and goes on once it does"


CHANGED = {
    "a threshold": ("above = 1.5", "above = 6"),
    "how long": ("for_s = 0", "for_s = 20"),
    "when it is clear": ("clear = 0.9", "clear = 0.3"),
    "the steps": ("steps = [", "steps = [0.17, "),
    "a dwell time": ("step_min_s = 10", "step_min_s = 30"),
    "a share": ("share = 0.85", "share = 0.95"),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_a_changed_rule_decides_otherwise_and_the_replay_says_so(changed: str) -> None:
    trace, _ = incident("good")
    rules, (said, instead) = (TRACES / "good.rules.toml").read_text(encoding="utf-8"), CHANGED[changed]
    assert said in rules
    found = replay_file(trace, parse_rules(rules.replace(said, instead, 1).encode()).table)
    assert found.same_rules is False
    assert found.different > 0
    assert found.differences[0].recorded != found.differences[0].replayed


def test_a_trace_that_was_tampered_with_is_noticed(tmp_path: Path) -> None:
    trace, table = incident("good")
    lines = trace.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"why":"raised"' in line)
    lines[at] = lines[at].replace('"level":"zombie","buckets":850', '"level":"zombie","buckets":849')
    (tmp_path / "t").write_text("".join(lines))
    assert replay_file(tmp_path / "t", table).different == 1


@pytest.mark.parametrize("name", INCIDENTS)
def test_a_controller_that_is_shown_an_incident_live_does_what_was_done_then(name: str, tmp_path: Path) -> None:
    """Its sources say what was recorded, and the launch publishes its shield when it did."""
    trace, table = incident(name)
    said = load_rules(TRACES / f"{name}.rules.toml")
    ticks = [one for one in read_trace(trace.read_bytes().splitlines(True)) if isinstance(one, Tick)]
    (order,) = (tick.order for tick in ticks if tick.order is not None)
    assert order.until is not None
    shield = shield_of({"app": said.app, "minutes": 0.8, "share": order.buckets / 1000, "features": ["feed"]})

    async def live() -> Watch:
        watch = await Watch(tmp_path, said=said, clock=FixedClock(ticks[0].at - 1)).begins()
        for tick, coming in zip(ticks, [*ticks[1:], ticks[-1]], strict=True):
            watch.clock.advance(max(tick.at - watch.clock.time(), 0.0))
            if coming.order is not None:
                now, found = order.until - 48, watch.published
                act = raised(shield, "herd-1", found, now, salt="s", expect=found.version)
                assert act.terms is not None
                publish(watch.target, act.terms, [KEY], lasts_s=act.lasts_s, expect=act.expect, clock=watch.clock)
            watch.dials.recorded = tick.readings
            watch.controller.tick()
            await watch.controller.settle()
        return watch

    watch = asyncio.run(live())
    again = replay_file(watch.trace, table)
    assert (again.compared, again.different, again.same_rules) == (len(ticks), 0, True)
    then = [(one.level, one.buckets, one.why) for one in replay_file(trace).changes]
    assert [(one.level, one.buckets, one.why) for one in again.changes] == then
    assert watch.published.level is Level.NORMAL
