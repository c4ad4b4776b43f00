"""Traces: what was recorded replays to the same decisions, other rules show what they would have done."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from level_data import BAD, GOOD, NOTHING, SLOW, TABLE, Story
from watch_data import Watch
from zombie_data import NOW

from flashcast.errors import InputError
from flashcast.zombie.document import Level
from flashcast.zombie.judging import Reading
from flashcast.zombie.levels import Order, State, Table, decide
from flashcast.zombie.rules import load_rules
from flashcast.zombie.trace import TraceWriter, read_trace, replay, replay_file

INCIDENT = Path(__file__).parent / "incident.jsonl"
"""Recorded by `flashcast zombie demo` in its run without zombie mode: the service collapses and does not come back."""
EXPERIMENT = Path(__file__).parents[2] / "examples" / "zombie" / "experiment.toml"


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


def test_an_incident_of_the_experiment_is_decided_alike_live_and_replayed(tmp_path: Path) -> None:
    said = load_rules(EXPERIMENT)
    replayed = replay_file(INCIDENT, said.table)
    (change,) = replayed.changes
    assert (change.level, change.buckets) == ("zombie", 1000)
    # The push goes out at 4 s; errors are above 5 a second from 8 s on.
    assert 8 < change.at < 10

    async def live() -> list[tuple[str, int, str]]:
        watch = await Watch(tmp_path, said=said).begins()
        decided = []
        for line in map(json.loads, INCIDENT.read_text().splitlines()):
            watch.clock.advance(NOW + line.pop("t") - watch.clock.time())
            watch.dials.values = line
            decision = watch.controller.tick()
            await watch.controller.settle()
            decided.append((decision.state.level.value, decision.state.buckets, decision.why.value))
        return decided

    decided = asyncio.run(live())
    again = replay_file(tmp_path / "kept.trace.jsonl", said.table)
    assert (again.compared, again.different, again.same_rules) == (len(decided), 0, True)
    assert [(one.level, one.why, one.at - NOW) for one in again.changes] == [
        (change.level, change.why, pytest.approx(change.at, abs=1e-3))
    ]
    assert decided[-1] == (replayed.state.level.value, replayed.state.buckets, "held_unclear")
