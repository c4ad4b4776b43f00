"""The controller under a herd, in virtual time: it holds the service up, and its traces replay to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from herd_in_virtual_time import run_in_virtual_time

from flashcast.zombie.document import Level
from flashcast.zombie.experiment import measure
from flashcast.zombie.experiment.conductor import Record
from flashcast.zombie.experiment.control import RULES
from flashcast.zombie.experiment.parameters import DEFAULT, Parameters
from flashcast.zombie.levels import Why
from flashcast.zombie.rules import load_rules, parse_rules
from flashcast.zombie.trace import replay

EXAMPLE = Path(__file__).parents[2] / "examples" / "herd" / "rules.toml"


def under_herd(
    p: Parameters,
    folder: Path,
    patch: pytest.MonkeyPatch,
    changes: dict[str, str] | None = None,
    *,
    zombie: bool = True,
) -> Record:
    """A run by the experiment's rules, some of whose lines may be others."""
    text = RULES.read_text(encoding="utf-8")
    for said, instead in (changes or {}).items():
        assert said in text
        text = text.replace(said, instead)
    return run_in_virtual_time(p, parse_rules(text.encode()), folder / "run", patch, zombie=zombie)


def replayed(record: Record) -> int:
    """How many decisions a replay compares; all of them are the same."""
    found = replay(line.encode() for line in record.trace.splitlines(keepends=True))
    assert (found.different, found.same_rules) == (0, True)
    return found.compared


@pytest.mark.parametrize("seed", [1, pytest.param(5, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)])
def test_whatever_the_herd_it_shows_what_it_is_to_show(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = DEFAULT.changed(seed=seed)
    with monkeypatch.context() as patch:
        held = under_herd(p, tmp_path / "with", patch)
    with monkeypatch.context() as patch:
        bare = under_herd(p, tmp_path / "without", patch, zombie=False)
    assert [one for one in measure.conditions(bare, held) if not one.holds] == []
    assert replayed(held) > 200
    assert replayed(bare) > 200
    assert [one["level"] for one in bare.decisions] == ["zombie"], "it would have acted, and published nothing"
    assert [one["level"] for one in bare.published] == ["normal"]


def test_the_launch_shields_the_rules_raise_above_it_and_bring_everybody_back_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = under_herd(DEFAULT, tmp_path, monkeypatch)
    steps = load_rules(RULES).recovery.steps
    rungs = [round(1000 * (1 - step)) for step in steps]
    levels = [one["level"] for one in record.published]
    assert levels[:3] == ["normal", "shielded", "zombie"]
    assert levels[-1] == "normal"
    assert [one["buckets"] for one in record.published if one["level"] == "recovering"][: len(rungs)] == rungs
    go_s, raised_s = record.parameters.go_s, record.published[2]["t"]
    assert go_s < raised_s < go_s + 5, "the rules see the herd as soon as it is there"


def test_another_herd_than_was_forecast_is_held_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = under_herd(DEFAULT.changed(opens=350), tmp_path, monkeypatch)
    assert measure.summary(record)["goodput_share_min"] >= measure.GOODPUT_SHARE_MIN
    assert measure.writes(record)["lost"] == measure.writes(record)["applied_twice"] == 0


def test_without_monitoring_nobody_is_let_in_and_with_it_again_the_way_back_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down_s = (11.0, 18.0)
    record = under_herd(DEFAULT.changed(monitoring_down_s=down_s), tmp_path, monkeypatch)
    stale_s = load_rules(RULES).signals["queue"].stale_s / DEFAULT.clock_factor
    dark = [one for one in record.published if down_s[0] + stale_s < one["t"] < down_s[1]]
    assert dark == [], "nothing is lowered on what nobody knows"
    before = [one for one in record.published if one["t"] < down_s[1]][-1]
    assert before["buckets"] > 0
    assert record.published[-1]["level"] == Level.NORMAL
    assert Why.HELD_MISSING in record.trace
    assert measure.writes(record)["lost"] == 0
    assert replayed(record) > 200


def test_the_examples_rules_hold_for_its_impatient_apps_and_the_demos_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = DEFAULT.changed(timeout_s=2.0, retries=5, seed=7)
    least = {}
    for rules, shield_share in ((EXAMPLE, 0.4), (RULES, DEFAULT.shield_share)):
        p = impatient.changed(shield_share=shield_share)
        with monkeypatch.context() as patch:
            record = run_in_virtual_time(p, load_rules(rules), tmp_path / rules.parent.name, patch)
        least[rules] = measure.summary(record)["goodput_share_min"]
    assert least[EXAMPLE] >= measure.GOODPUT_SHARE_MIN
    assert least[RULES] < measure.GOODPUT_SHARE_MIN


def test_a_step_that_was_too_large_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry = {"steps = [0.25, 0.4, 0.6, 0.8, 1.0]": "steps = [0.3, 0.8, 1.0]", "clear = 0.9": "clear = 1.2"}
    record = under_herd(DEFAULT, tmp_path, monkeypatch, hurry)
    assert {"step_back", "raised"} & {one["why"] for one in record.decisions[3:]}
    assert record.published[-1]["level"] == "normal"
    assert measure.writes(record)["lost"] == 0
    assert replayed(record) > 200
