"""The rules file: what it says is what decisions and documents become, and what is wrong is named with its value."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watch_data import rules

from flashcast.errors import InputError
from flashcast.zombie.document import Level, Writes
from flashcast.zombie.levels import Table
from flashcast.zombie.rules import RULES_BYTES_MAX, load_rules, parse_rules, rules_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "zombie" / "rules.toml"

MINIMAL = """
app = "shop"
[signals.errors]
kind = "pushed"
[rules.down]
signal = "errors"
level = "zombie"
above = 0.2
clear = 0.05
"""


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_rules(text.encode())
    assert caught.value.remedy == "docs/reference/zombie-rules.md tells every key."
    return caught.value.message


def test_a_minimal_file_has_sensible_defaults() -> None:
    said = parse_rules(MINIMAL.encode())
    look = said.levels.zombie
    assert (look.off, look.writes, look.share) == (("*",), Writes.QUEUE, 1.0)
    assert said.recovery.steps == (0.01, 0.05, 0.25, 0.5, 1.0)
    assert said.table.rungs == (990, 950, 750, 500, 0)
    (rule,) = said.table.rules
    assert (rule.high, rule.limit, rule.clear, rule.for_s, rule.clear_for_s, rule.step_back) == (
        True, 0.2, 0.05, 15.0, 120.0, False,
    )  # fmt: skip


def test_the_example_is_without_fault_and_uses_every_kind_of_signal() -> None:
    said = load_rules(EXAMPLE)
    assert {signal.kind for signal in said.signals.values()} == {"http", "prometheus", "pushed"}
    assert {rule.level for rule in said.table.rules} == {Level.SHIELDED, Level.ZOMBIE}


def test_what_a_level_means_is_what_the_document_says() -> None:
    said = rules()
    shielded = said.terms(Level.SHIELDED, 1000, origin=Level.SHIELDED, salt="s", incident="i")
    assert (shielded.off, shielded.writes, shielded.buckets) == (("feed",), Writes.SEND, 1000)
    recovering = said.terms(Level.RECOVERING, 500, origin=Level.ZOMBIE, salt="s", incident="i")
    assert (recovering.level, recovering.off, recovering.buckets) == (Level.RECOVERING, ("*",), 500)
    normal = said.terms(Level.NORMAL, 0, origin=Level.NORMAL, salt="s", incident="i")
    assert (normal.off, normal.buckets, normal.message) == ((), 0, {})


def test_a_table_survives_as_json() -> None:
    table = rules().table
    assert Table.model_validate_json(table.model_dump_json()) == table


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('app = "Shop"', "app: 'Shop' does not match"),
        ("lasts_s = 5", "lasts_s: must be greater than or equal to 120; 5 was given"),
        ("tick_s = inf", "tick_s: must be a valid number; 'Infinity' was given"),
        ("colour = 1", "colour: there is no such key"),
        ("recovery.steps = [0.5, 0.1, 1]", "recovery: steps 0.5, 0.1, 1 do not rise to 1"),
        ("recovery.steps = [0.5]", "recovery: steps 0.5 do not rise to 1"),
        ("recovery.step_min_s = 20", "20 is less than poll_s + poll_jitter_s of levels.zombie (45)"),
        ('levels.zombie = {off = []}', "levels.zombie.off: "),
        ('levels.zombie = {off = ["feed"], keep = ["x"]}', 'levels.zombie: keep has no meaning unless off has "*"'),
        ('levels.zombie = {off = ["*"], share = 0.0}', "levels.zombie.share: must be greater than 0; 0.0 was given"),
        ('levels.zombie = {off = ["*"], share = 0.5}\nlevels.shielded = {off = ["x"]}', "zombie.share: 0.5 is"),
        ('levels.zombie = {off = ["*"], writes = "drop"}', "levels.zombie.writes: "),
        ('levels.zombie = {off = ["*"], message = {de = "Gleich"}}', 'levels.zombie: message has no text under "*"'),
        ('signals.x = {kind = "smoke"}', "signals.x.kind: 'smoke' is not"),
        ("signals.x = {}", "signals.x.kind: is missing"),
        ('signals.x = {kind = "http", url = "ftp://x"}', "signals.x.url: is no http:// or https:// address"),
        ('signals.x = {kind = "http", url = "http://x", every_s = 1, window_s = 0.5}', "window_s 0.5 is not"),
        ('signals.x = {kind = "prometheus", url = "http://x", query = ""}', "signals.x.query: "),
        ('signals."X y" = {kind = "pushed"}', "signals.X y: 'X y' does not match"),
        ('rules.x = {signal = "nothing", level = "zombie", above = 2, clear = 1}', "there is no signal 'nothing'"),
        ('rules.x = {signal = "errors.p95_ms", level = "zombie", above = 2, clear = 1}', "errors has one value only"),
        ('rules.x = {signal = "errors", level = "zombie", clear = 1}', "rules.x: needs either above or below"),
        ('rules.x = {signal = "errors", level = "zombie", above = 2, below = 0, clear = 1}', "rules.x: needs either"),
        ('rules.x = {signal = "errors", level = "zombie", above = 2, clear = 2}', "clear 2 is not less than above 2"),
        ('rules.x = {signal = "errors", level = "zombie", below = 2, clear = 2}', "clear 2 is not more than below 2"),
        ('rules.x = {signal = "errors", level = "shielded", above = 2, clear = 1}', "levels.shielded does not say"),
        ('rules.x = {signal = "errors", level = "recovering", above = 2, clear = 1}', "rules.x.level: "),
        ('rules.x = {signal = "errors", level = "zombie", above = 2}', "rules.x.clear: is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_value(change: str, told: str) -> None:
    text = (
        MINIMAL.replace('app = "shop"', change)
        if change.startswith("app")
        else MINIMAL.replace("[signals", f"{change}\n[signals", 1)
    )
    assert told in refused(text)


def test_a_shielding_rule_knows_only_steps() -> None:
    text = MINIMAL.replace('"zombie"', '"shielded"') + 'in_recovery = "level"\n[levels.shielded]\noff = ["feed"]'
    assert 'in_recovery "level" is for rules whose level is zombie' in refused(text)


def test_a_probe_must_say_what_of_it_is_looked_at() -> None:
    text = MINIMAL.replace('kind = "pushed"', 'kind = "http"\nurl = "http://x"')
    assert "'errors' does not say what to look at: one of errors.failures, errors.p50_ms" in refused(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    told = refused(MINIMAL.replace('kind = "pushed"', 'kind = "http"\nurl = "http://kim:hunter2@x"'))
    assert "signals.errors.url: has a user name or password" in told
    assert "hunter2" not in told


def test_everything_that_is_wrong_is_told_at_once() -> None:
    assert len(refused('app = "A"\nlasts_s = 1\n[rules.x]\n').splitlines()) == 6


@pytest.mark.parametrize("data", [b"\xff", b"app = ", b"[" * 10_000, b"x" * (RULES_BYTES_MAX + 1)])
def test_what_is_no_toml_is_told(data: bytes) -> None:
    with pytest.raises(InputError, match=r"rules.toml (is no TOML|has more than)"):
        parse_rules(data)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_rules(tmp_path / "rules.toml")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["app", "signals", "rules", "levels", "recovery", "lasts_s", "x"]), json_values))
def test_whatever_is_given_is_rules_or_an_error_that_says_why(raw: dict[str, object]) -> None:
    # Nothing but InputError, whatever it is.
    with suppress(InputError):
        rules_of(raw)
