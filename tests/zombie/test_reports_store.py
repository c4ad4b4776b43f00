"""What is kept of complaints: each once, nothing that is personal unless asked for, and when sources were heard."""

from __future__ import annotations

import re
import sqlite3
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports_kit import DAY_S, NOW, complains, config, hears, history, records, said, taken

from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.reports.bounds import SLOT_S, TEXT_CHARS_MAX
from flashcast.zombie.reports.complaint import Intake, seconds_of_time
from flashcast.zombie.reports.config import (
    AlarmOf,
    EndpointOf,
    FeatureOf,
    Profile,
    ReportsConfig,
    SourceOf,
    config_of,
    load_config,
    secret,
)
from flashcast.zombie.reports.profiles import FIELDS, PROFILES
from flashcast.zombie.reports.series import Asked, picture, series_document, table
from flashcast.zombie.reports.sorting import Sorter
from flashcast.zombie.reports.spikes import Verdict
from flashcast.zombie.reports.store import Store
from flashcast.zombie.reports.watching import document, value_of, watch
from flashcast.zombie.rules import parse_rules

EXAMPLE = Path(__file__).parents[2] / "examples" / "zombie" / "reports.toml"

NO_TIME = "is no time: RFC 3339, such as 2026-11-22T18:04:00Z, or Unix seconds"
NO_OFFSET = "has no offset from UTC, such as Z or +01:00"

# --- A complaint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"id": ""}, "id: string should have at least 1 character"),
        ({"id": "x" * 513}, "id: string should have at most 512 characters"),
        ({"id": 7}, "id: must be a valid string"),
        ({"id": "a\nb"}, "id: has letters that cannot be printed"),
        ({"id": " "}, "id: is empty"),
        ({"source": "fax"}, "source: 'fax' is not known; there is: support, shake, store"),
        ({"source": 1}, "source: must be a valid string"),
        ({"time": "soon"}, f"time: {NO_TIME}; 'soon' was given"),
        ({"time": "2027-01-15T08:00"}, f"time: {NO_OFFSET}; '2027-01-15T08:00' was given"),
        ({"time": -1}, "time: is no time between 1970 and 9999 in Unix seconds; -1 was given"),
        ({"time": True}, f"time: {NO_TIME}; True was given"),
        ({"time": NOW + 301}, "time: is 301 s ahead of our clock"),
        ({"feature": "f" * 65}, "feature: string should have at most 64 characters"),
        ({"text": 5}, "text: must be a valid string"),
        ({"text": "t" * 100_001}, "text: string should have at most 100000 characters"),
        ({"text": "\ud800"}, "text: must be a valid string, unable to parse raw data as a unicode string"),
        ({"app": "other"}, "app: 'other' is another; here is shop"),
        ({"platform": "p" * 65}, "platform: string should have at most 64 characters"),
        ({"version": 7.1}, "version: must be a valid string"),
        ({"locale": "\x00"}, "locale: has letters that cannot be printed"),
        ({"user": "u" * 257}, "user: string should have at most 256 characters"),
        ({"colour": "red"}, "colour: there is no such field"),
    ],
)  # fmt: skip
def test_each_field_that_is_wrong_is_named(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    found = taken(config(tmp_path), said(1) | wrong)
    assert found.records == []
    assert [str(fault) for _, faults in found.refused for fault in faults] == [told]


def test_one_that_is_wrong_does_not_spoil_the_others(tmp_path: Path) -> None:
    found = taken(config(tmp_path), said(1), "nonsense", said(2, source=None), said(3))
    assert len(found.records) == 2
    assert [(i, str(faults[0])) for i, faults in found.refused] == [
        (1, "complaint: is no object"), (2, "source: is missing"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("2027-01-15T08:00:00Z", NOW), ("2027-01-15T09:00:00+01:00", NOW), (NOW, NOW), (float(NOW), NOW), (str(NOW), NOW)],
)
def test_times_are_rfc_3339_or_unix(time: object, seconds: float) -> None:
    assert seconds_of_time(time) == seconds
    assert seconds_of_time(NOW * 1_000, unit="ms") == NOW


@given(st.text(max_size=40) | st.floats() | st.integers() | st.none() | st.booleans())
def test_whatever_is_given_as_a_time_is_one_or_refused(value: object) -> None:
    try:
        assert 0 <= seconds_of_time(value, UTC) <= 253_402_300_799
    except ValueError:
        assert not isinstance(value, datetime)


def test_of_open_sources_times_that_cannot_be_are_those_of_receipt(tmp_path: Path) -> None:
    apps = [said(i, source="shake", time=at) for i, at in enumerate((NOW - 3_600, NOW + 9_999, NOW - 2 * DAY_S))]
    found = taken(config(tmp_path), *apps, trusted=False)
    assert ([one.at for one in found.records], found.retimed) == ([NOW - 3_600, NOW, NOW], 2)
    assert taken(config(tmp_path), said(1), trusted=False).refused[0][1][0].message == "support needs a token"


def test_by_default_neither_text_nor_user_nor_id_is_kept(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        store.add(records(of, said("TICKET", text="my feed, says SECRET", user="USER")))
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"feed" in everything
    for word in (b"TICKET", b"SECRET", b"USER"):
        assert word not in everything


def test_texts_are_kept_where_the_file_says_so_and_users_as_a_keyed_hash(tmp_path: Path) -> None:
    of = config(tmp_path, keep_text=True, users="hash")
    one, other = (Intake(of, key).take([said(1, user="u", text="x" * 9_999)], NOW).records[0] for key in (b"a", b"b"))
    assert one.text == "x" * TEXT_CHARS_MAX
    assert one.user is not None and one.user != other.user and len(one.user) == 16
    assert Intake(of, None).take([said(1, user="u")], NOW).records[0].user is None


# --- Features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_name", "text", "feature"),
    [
        (None, "My FEED is empty", "feed"),
        (None, "feedback about colours", "other"),
        (None, "Meine Zeitleiste.", "feed"),
        (None, "can't pay, and no feed", "feed"),
        (None, "cannot   PAY", "payments"),
        ("checkout", "feed", "payments"),
        ("payments", None, "payments"),
        ("unheard-of", "feed", "feed"),
        (None, None, "other"),
        (None, "", "other"),
        (None, "ＦＥＥＤ", "feed"),
    ],
)
def test_a_complaint_has_the_feature_it_names_or_the_first_that_fits(
    tmp_path: Path, given_name: str | None, text: str | None, feature: str
) -> None:
    assert Sorter(config(tmp_path)).features([(given_name, text)]) == [feature]


def test_patterns_are_found_anywhere_and_cannot_be_made_slow(tmp_path: Path) -> None:
    of = config(tmp_path, features={"slow": {"patterns": ["(a+)+$", "読み込み"]}})
    # By backtracking this would take 2^4000 steps.
    assert Sorter(of).features([(None, "a" * 3_999 + "!"), (None, "画面の読み込みが遅い")]) == ["other", "slow"]


# --- The file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"zone": "Mars/Base"}, "zone: is no time zone"),
        ({"sources": {}}, "sources: Dictionary should have at least 1 item"),
        ({"sources": {"a": {"via": "fax"}}}, "sources.a.via: must be 'endpoint' or 'import'"),
        ({"sources": {"a": {"via": "import", "open": True}}}, "only sources of the endpoint can be open"),
        ({"features": {"a": {"patterns": ["("]}}}, "features.a.patterns.0: is no regular expression of RE2"),
        (
            {"features": {"a": {"patterns": [rf"{i}x\pL{{200}}" for i in range(50)]}}},
            "features.a.patterns: together are",
        ),
        ({"features": {"a": {"words": [" "]}}}, "features.a.words.0: is empty"),
        ({"features": {"other": {}}}, "features.other: is the name of what no feature fits"),
        ({"alarm": {"days": 28, "same_weekday": True}}, "keep_days: 60 is less than the 197 that alarm.days needs"),
        ({"alarm": {"chance_max": "1"}}, "alarm.chance_max: must be a valid number"),
        ({"colour": 1}, "colour: there is no such key"),
        ({"endpoint": {"origins": ["example.com"]}}, "endpoint.origins.0: is no origin"),
        ({"profiles": {"p": {"columns": {"id": "x"}, "source": "fax"}}}, "there is no source 'fax'"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=r"is wrong") as raised:
        config(tmp_path, **change)
    assert told in raised.value.message


def test_the_example_is_without_fault_and_its_store_stands_beside_it() -> None:
    assert load_config(EXAMPLE).store == str(EXAMPLE.parent / "reports.sqlite3")
    assert load_config(EXAMPLE).watched == ("support", "shake")


def test_a_secret_that_is_short_is_refused_without_being_told() -> None:
    with pytest.raises(EnvironmentFault, match="at least 16") as raised:
        secret("X", "hunter2")
    assert "hunter2" not in str(raised.value)
    assert secret("X", "") is None


# --- The store ----------------------------------------------------------------------------------------------------


def test_a_complaint_counts_once_by_its_source_and_id(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        assert len(store.add(records(of, said(1), said(1, text="else"), said(1, source="store")))) == 2
        assert store.add(records(of, said(1))) == []
        assert store.totals() == {("support", "feed"): 1, ("store", "feed"): 1}


def test_nobody_else_can_read_the_store(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        store.add(records(of, said(1)))
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_many_may_write_at_once(tmp_path: Path) -> None:
    of = config(tmp_path)
    Store(Path(of.store)).close()

    def write(number: int) -> None:
        with Store(Path(of.store)) as store:
            for i in range(30):
                store.add(records(of, said(f"{number}-{i}"), said(f"shared-{i}")))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(Path(of.store)) as store:
        assert sum(store.totals().values()) == 4 * 30 + 30


def test_what_is_old_is_deleted_and_not_taken_again(tmp_path: Path) -> None:
    of = config(tmp_path, keep_days=20)
    with Store(Path(of.store)) as store:
        history(store, of, days=10, now=NOW - 12 * DAY_S)
        assert store.purge(NOW, 20) == 6
        assert sum(store.totals().values()) == 14
        assert min(store.slots("support", 0, NOW)) * SLOT_S >= NOW - 20 * DAY_S - SLOT_S
    assert taken(of, said(1, time=NOW - 21 * DAY_S)).old == 1


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(InputError, match="another program's"):
        Store(path)
    assert path.read_bytes() == before
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(EnvironmentFault, match="no database"):
        Store(path)
    with pytest.raises(EnvironmentFault, match="there is no store"):
        Store(tmp_path / "missing", create=False)


# --- Findings -----------------------------------------------------------------------------------------------------


def test_a_spike_is_an_alarm_of_its_feature_alone(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        history(store, of)
        assert watch(store, of, NOW).verdict is Verdict.CALM
        complains(store, of, [NOW - 30 * i - 1 for i in range(40)])
        found = watch(store, of, NOW)
        assert found.of("feed").verdict is Verdict.ALARM
        assert found.of("payments").verdict is found.of("other").verdict is Verdict.CALM
        assert found.of("*") is found.of("feed")
        value, at = value_of(document(found), "feed")
        assert (value, at) == (found.of("feed").ratio, NOW)
        assert value_of(document(found), "payments")[0] == 0


def test_a_user_who_complains_forty_times_is_one_user(tmp_path: Path) -> None:
    of = config(tmp_path, users="hash")
    with Store(Path(of.store)) as store:
        history(store, of)
        many = Intake(of, b"key").take([said(i, user="angry") for i in range(40)], NOW)
        store.add(many.records)
        assert watch(store, of, NOW).of("feed").count == 1


def test_days_on_which_a_source_was_not_heard_are_not_quiet_days(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        for day in range(15):
            end = NOW - day * DAY_S
            hears(store, of, end - 7_200, end - 7_200 + (7_200 if day < 5 else 1_800))
            complains(store, of, [end - 60 - i for i in range(30 if day < 5 else 0)], tag=f"d{day}")
        store.add([], [(name, NOW) for name in of.watched])
        found = watch(store, of, NOW).of("feed")
        assert (found.verdict, found.days) == (Verdict.CALM, 4)


def test_when_a_source_falls_silent_nothing_is_calm_any_more(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        history(store, of)
        store.add([], [("support", NOW + 300)])
        found = watch(store, of, NOW + 300)
        assert found.verdict is Verdict.UNKNOWN
        assert found.gap == "shake was last heard 2027-01-15T08:00:00Z"
        with pytest.raises(ValueError, match="not known: feed: 0 in the last"):
            value_of(document(found), "*")


def test_a_source_that_is_silent_does_not_hide_what_the_others_say(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        history(store, of)
        later = NOW + 3_000
        for at in range(NOW, later + 1, 300):
            store.add([], [("shake", at)])
        complains(store, of, [later - 1 - i for i in range(40)])
        found = watch(store, of, later)
        assert (found.of("feed").verdict, found.of("payments").verdict) == (Verdict.ALARM, Verdict.UNKNOWN)


def test_a_gap_within_the_window_is_told_and_does_not_hide_an_alarm(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        hears(store, of, NOW - 15 * DAY_S, NOW - 3_000)
        hears(store, of, NOW - 1_500, NOW)
        found = watch(store, of, NOW).of("feed")
        assert found.verdict is Verdict.UNKNOWN
        assert found.text.endswith("not known; not heard all the time: support, shake")
        complains(store, of, [NOW - 1 - i for i in range(40)])
        assert watch(store, of, NOW).of("feed").verdict is Verdict.ALARM


def test_a_feature_that_is_gone_from_the_file_counts_as_other(tmp_path: Path) -> None:
    before = config(tmp_path)
    with Store(Path(before.store)) as store:
        history(store, before)
        complains(store, before, [NOW - 30 * i - 1 for i in range(40)])
        after = config(tmp_path, features={})
        assert watch(store, after, NOW).of("other").verdict is Verdict.ALARM


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], "none about complaints"),
        ({"at": NOW, "findings": []}, "none about complaints"),
        ({"at": "now", "findings": [{}]}, "none about complaints"),
        ({"at": NOW, "findings": [{"feature": "login", "verdict": "calm"}]}, "there is no feature 'feed'"),
        ({"at": NOW, "findings": [{"feature": "feed", "verdict": "fine", "value": 0}]}, "not known"),
        ({"at": NOW, "findings": [{"feature": "feed"}]}, "not known"),
    ],
)
def test_an_answer_that_says_nothing_is_never_a_calm_one(answer: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        value_of(answer, "feed")


def test_an_alarm_without_a_value_is_one_all_the_same() -> None:
    assert value_of({"at": NOW, "findings": [{"feature": "feed", "verdict": "alarm", "value": None}]}, "feed")[0] == 1


# --- Counts over time ---------------------------------------------------------------------------------------------


def test_counts_are_told_by_step_and_say_what_was_not_heard(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        hears(store, of, NOW - 7_200, NOW)
        complains(store, of, [NOW - 3_700, NOW - 100, NOW - 50])
        complains(store, of, [NOW - 100], feature="payments")
        asked = Asked.of({"since": "3h", "every": "1h"}, NOW)
        found = series_document(store, asked, of.watched)
        assert found["series"] == {"feed": [0, 1, 2], "payments": [0, 0, 1]}
        assert found["unheard"] == {"support": [0], "shake": [0]}
        assert table(found, of.time_zone)[1:] == [
            ["Fri 15 Jan 05:00", "0", "0", "0", "not support, shake"],
            ["Fri 15 Jan 06:00", "1", "0", "1", "yes"],
            ["Fri 15 Jan 07:00", "2", "1", "3", "yes"],
        ]
        drawn = picture(found, "shop", of.time_zone)
        assert "Complaints by feature over time, 4 in all" in drawn and "<title>not heard</title>" in drawn
        only = series_document(store, Asked.of({"since": "3h", "by": "source", "feature": "payments"}, NOW))
        assert only["series"] == {"support": [0, 0, 1]}


def test_an_empty_store_can_be_drawn(tmp_path: Path) -> None:
    of = config(tmp_path)
    with Store(Path(of.store)) as store:
        assert "<svg" in picture(series_document(store, Asked.of({}, NOW)), "shop", of.time_zone)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"since": "soon"}, "since: 'soon' is no duration"),
        ({"since": "2026-99-01"}, "since: is no time"),
        ({"since": "2030-01-01T00:00:00Z"}, "since: is not in the past"),
        ({"every": "1s"}, "every: 1 s is less than 60"),
        ({"every": "1m", "since": "60d"}, "86,400 steps"),
        ({"by": "text"}, "by: 'text' is none of"),
        ({"x": "1"}, "'x' is not known"),
    ],
)
def test_what_cannot_be_asked_is_refused(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Asked.of(wrong, NOW)


def test_config_from_plain_values_needs_an_app_and_a_source() -> None:
    with pytest.raises(InputError, match="app: is missing"):
        config_of({})


# --- The guide ----------------------------------------------------------------------------------------------------


def test_every_key_of_the_file_and_field_of_a_complaint_stands_in_the_guide() -> None:
    guide = (EXAMPLE.parents[2] / "docs" / "guides" / "zombie-reports.md").read_text(encoding="utf-8")
    models = (ReportsConfig, SourceOf, FeatureOf, AlarmOf, EndpointOf, Profile)
    tables = {"sources", "features", "alarm", "endpoint", "profiles"}
    keys = {name for model in models for name in model.model_fields if name not in tables} | set(FIELDS)
    assert [name for name in sorted(keys) if f"`{name}`" not in guide] == []
    assert [name for name in PROFILES if f"`{name}`" not in guide] == []
    blocks = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    shielded = '\n[levels.shielded]\noff = ["feed"]\n'
    assert parse_rules(f'app = "shop"\n{blocks[0]}{shielded}'.encode()).signals["complaints"].kind == "reports"
