"""Files of complaints: of every export and encoding, exact however often they are imported or killed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reports_kit import NOW, config
from typer.testing import CliRunner

from flashcast.cli.zombie_reports import app
from flashcast.errors import InputError
from flashcast.zombie.reports.complaint import Intake
from flashcast.zombie.reports.config import Profile
from flashcast.zombie.reports.importing import Imported, import_file
from flashcast.zombie.reports.profiles import PROFILES
from flashcast.zombie.reports.store import Store

PLAY = (
    "Package Name,App Version Code,App Version Name,Reviewer Language,Device,Review Submit Date and Time,"
    "Review Submit Millis Since Epoch,Review Last Update Date and Time,Review Last Update Millis Since Epoch,"
    "Star Rating,Review Title,Review Text,Developer Reply Date and Time,Developer Reply Millis Since Epoch,"
    "Developer Reply Text,Review Link"
)


def as_csv(rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def plain(count: int, **more: object) -> str:
    return as_csv([["id", "time", "text"], *([f"t{i}", NOW - 10 * i, 'feed\nis, "empty"'] for i in range(count))])


def imported(folder: Path, name: str, data: bytes, profile: Profile = PROFILES["plain"], **how: Any) -> Imported:
    path = folder / name
    path.write_bytes(data)
    of = config(folder, keep_text=True)
    with Store(Path(of.store)) as store:
        return import_file(
            path, store, Intake(of), profile, **({"source": "support", "now": NOW, "malformed_max": 0} | how)
        )


def kept(folder: Path, columns: str) -> list[tuple[Any, ...]]:
    with Store(folder / "reports.sqlite3") as store:
        return store._rows(f"SELECT {columns} FROM complaint ORDER BY at DESC", ())


def test_a_file_that_is_imported_twice_counts_once(tmp_path: Path) -> None:
    data = plain(50).encode()
    first, again = (imported(tmp_path, "a.csv", data) for _ in range(2))
    assert (first.rows, first.added, first.known) == (50, 50, 0)
    assert (again.added, again.known) == (0, 50)
    assert len(kept(tmp_path, "key")) == 50


def test_rows_without_an_id_are_identified_by_what_they_say(tmp_path: Path) -> None:
    rows = as_csv([["time", "text"], [NOW, "feed"], [NOW, "feed"], [NOW, "pay"], [NOW - 1, "feed"]]).encode()
    assert (imported(tmp_path, "a.csv", rows).added, imported(tmp_path, "b.csv", rows).added) == (3, 0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig"])
def test_reviews_of_google_play_are_read_in_every_encoding_they_have_had(tmp_path: Path, encoding: str) -> None:
    rows = [
        ["com.shop", 7, "7.1", "de", "oriole", "", (NOW - 60) * 1_000, "", "", stars, title, text, "", "", "", link]
        for stars, title, text, link in (
            (1, "Ärgerlich", "Die Zeitleiste lädt nicht 😡\nseit heute", "https://play.google.com/r?reviewId=1"),
            (5, "", "Die Zeitleiste ist schön", "https://play.google.com/r?reviewId=2"),
            (2, "", "", ""),
        )
    ]  # fmt: skip
    text = as_csv([PLAY.split(","), *rows])
    done = imported(tmp_path, "reviews.csv", text.encode(encoding), PROFILES["google-play"], source="store")
    assert (done.added, done.praise) == (2, 1)
    found = kept(tmp_path, "feature, platform, version, locale, text, at")
    assert ("feed", "android", "7.1", "de", "Ärgerlich\nDie Zeitleiste lädt nicht 😡\nseit heute", NOW - 60) in found


def test_reviews_of_the_app_store_and_tickets_of_zendesk_are_read_as_json_lines(tmp_path: Path) -> None:
    review = {
        "type": "customerReviews", "id": "r1",
        "attributes": {"rating": 1, "title": "No feed", "body": "at all", "createdDate": "2027-01-15T00:59:00-07:00",
                       "territory": "DEU", "reviewerNickname": "x"},
    }  # fmt: skip
    ticket = {"id": 35436, "created_at": "2027-01-15T07:59:00Z", "subject": "Cannot pay", "description": None,
              "requester_id": 20978392, "tags": ["a"]}  # fmt: skip
    imported(tmp_path, "r.jsonl", json.dumps(review).encode(), PROFILES["app-store"], source="store")
    imported(tmp_path, "t.ndjson.gz", gzip.compress(json.dumps(ticket).encode()), PROFILES["zendesk"])
    assert sorted(kept(tmp_path, "source, feature, platform, locale, at")) == [
        ("store", "feed", "ios", "DEU", NOW - 60), ("support", "payments", None, None, NOW - 60),
    ]  # fmt: skip


def test_columns_delimiters_and_zones_of_ones_own_can_be_said(tmp_path: Path) -> None:
    rows = [["Nr", "Opened", "Subject", "Body"], [1, "2027-01-15 09:00:00", "Zeitleiste", "leer"]]
    own = Profile(columns={"id": "Nr", "time": "Opened", "text": ("Subject", "Body")}, zone="Europe/Berlin")
    imported(tmp_path, "a.csv", as_csv(rows, ";").encode("cp1252"), own, encoding="cp1252")
    assert kept(tmp_path, "feature, at, text") == [("feed", NOW, "Zeitleiste\nleer")]


BAD = b"""id,time,text
1,1800000000,fine
2,,no time
3,1800000000
4,soon,x
"5",1800000000,"feed
over two lines"
,1800000000,
6,1900000000,from the future
"""


def test_malformed_rows_are_named_by_line_and_above_the_bound_nothing_is_imported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 of 7 rows are malformed, more than 3; nothing was imported") as raised:
        imported(tmp_path, "a.csv", BAD, malformed_max=3)
    assert [line.split(":")[0].strip() for line in raised.value.message.splitlines()[1:]] == [
        "line 3", "line 4", "line 5", "line 9",
    ]  # fmt: skip
    assert kept(tmp_path, "key") == []
    done = imported(tmp_path, "a.csv", BAD, malformed_max=4)
    assert (done.rows, done.added, done.malformed) == (7, 3, 4)
    assert done.faults[1] == (4, "has 2 cells; the first line has 3")


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.csv", b"", "names no columns"),
        ("a.csv", b"id,text\n1,x\n", "has no column 'time'; it has: id, text"),
        ("a.csv", b"id,time\n\xff,1800000000\n", "is not utf-8"),
        ("a.csv.gz", gzip.compress(random.Random(1).randbytes(9_000))[:5_000], "cut off, or damaged|is not utf-8"),
        ("a.csv.gz", gzip.compress(plain(3_000).encode())[:-9], "cut off, or damaged"),
        ("a.csv", b"id,time\n" + b"x" * 1_100_000, "line 2 has more than"),
        ("a.xlsx", b"PK", "neither CSV nor JSON"),
        ("a.jsonl", b"[]\n5\n{\n", "3 of 3 rows are malformed"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_is_kept(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        imported(tmp_path, name, data)
    assert kept(tmp_path, "key") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.sampled_from(["a.csv", "a.jsonl", "a.csv.gz"]))
def test_whatever_is_in_a_file_is_imported_or_refused(tmp_path: Path, data: bytes, name: str) -> None:
    for begins in (b"", b"id,time,text\n", b"\x1f\x8b", b"\xff\xfe"):
        try:
            done = imported(tmp_path, name, begins + data, malformed_max=1_000)
        except InputError:
            continue
        assert done.rows == done.added + done.known + done.praise + done.old + done.malformed


def test_a_file_tells_when_its_source_was_heard(tmp_path: Path) -> None:
    rows = as_csv([["id", "time"], [1, NOW - 7_200], [2, NOW - 3_600]]).encode()
    imported(tmp_path, "a.csv", rows)
    with Store(tmp_path / "reports.sqlite3") as store:
        assert len(store.slots("support", NOW - 90_000, NOW)) == 12
        assert store.heard_until() == {"support": NOW - 3_600}
    imported(tmp_path, "a.csv", rows, covers=(NOW - 36_000, NOW + 36_000))
    with Store(tmp_path / "reports.sqlite3") as store:
        assert len(store.slots("support", NOW - 90_000, NOW + 90_000)) == 120
        assert store.heard_until() == {"support": NOW}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from flashcast.zombie.reports import store as module
module.ADD_ROWS = 100
begun, transaction = 0, module.Store._transaction
def counting(self):
    global begun
    begun += 1
    if begun == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return transaction(self)
module.Store._transaction = counting
from test_reports_import import imported, plain
imported(Path({folder!r}), "a.csv", plain(1_000).encode())
"""


@pytest.mark.parametrize(("at", "added"), [(1, 0), (2, 100), (7, 600), (11, 1_000)])
def test_an_import_that_is_killed_and_done_again_is_exact(tmp_path: Path, at: int, added: int) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), at=at, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(kept(tmp_path, "key")) == added
    with Store(tmp_path / "reports.sqlite3") as store:
        assert store.heard_until() == {}
    done = imported(tmp_path, "a.csv", plain(1_000).encode())
    assert (done.added, done.known) == (1_000 - added, added)
    assert len(set(kept(tmp_path, "key"))) == 1_000


# --- The command --------------------------------------------------------------------------------------------------


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "reports.toml"
    path.write_text(
        'app = "shop"\nkeep_text = true\n[sources.support]\n[features.feed]\nwords = ["feed"]\n'
        '[profiles.desk]\nsource = "support"\ncolumns = { time = "Opened" }\n'
    )
    return path


def test_the_command_imports_and_shows(tmp_path: Path, toml: Path) -> None:
    now = datetime.now(UTC).isoformat()
    (tmp_path / "a.csv").write_text(f"Opened,Words\n{now},my feed\n{now},else\n")
    command = ["import", str(tmp_path / "a.csv"), "-c", str(toml), "--profile", "desk", "--map", "Words=text"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (0, "2 rows, 2 new, 0 known\n")
    assert CliRunner().invoke(app, command).stdout == "2 rows, 0 new, 2 known\n"
    svg = tmp_path / "p.svg"
    shown = CliRunner().invoke(app, ["show", "-c", str(toml), "--svg", str(svg), "--texts", "5", "--since", "2h"])
    assert "feed" in shown.stdout and "support, feed: my feed" in shown.stdout
    assert svg.read_text().startswith("<svg")
    found = json.loads(CliRunner().invoke(app, ["alarm", "-c", str(toml), "--json"]).stdout)
    assert found["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--profile", "fax"], "--profile fax: there is: plain, google-play, app-store, zendesk, desk"),
        ([], "--source is missing"),
        (["--source", "fax"], "--source fax: there is: support"),
        (["--source", "support", "--map", "x"], "--map 'x' is not COLUMN=field"),
        (["--source", "support", "--zone", "Mars"], "--zone 'Mars' is no time zone"),
        (["--source", "support", "--encoding", "klingon"], "--encoding 'klingon' is not known"),
        (["--source", "support", "--covers", "a/b"], "--covers 'a/b': is no time"),
        (["--source", "support", "--covers", "2027-01-02T00:00:00Z/2027-01-01T00:00:00Z"], "it ends before it begins"),
    ],
)
def test_the_command_names_the_option_that_is_wrong(tmp_path: Path, toml: Path, more: list[str], told: str) -> None:
    (tmp_path / "a.csv").write_text("id,time\n")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "a.csv"), "-c", str(toml), "--json", *more])
    assert done.exit_code == 2
    assert told in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("encoding", ["hex", "rot13", "base64", "zip", "undefined", "klingon"])
def test_what_is_no_encoding_is_told(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InputError, match=r"is not known|is not that encoding"):
        imported(tmp_path, "a.csv", plain(1).encode(), encoding=encoding)
    assert kept(tmp_path, "at") == []


def test_a_column_that_somebody_names_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "reports.toml").write_text('app = "shop"\n[sources.support]\n')
    (tmp_path / "a.csv").write_text(f"Ticket,Opened\n1,{time.time() - 60:.0f}\n")
    command = ["import", str(tmp_path / "a.csv"), "-c", str(tmp_path / "reports.toml"), "--source", "support"]
    done = CliRunner().invoke(app, [*command, "--map", "Opened=time", "--map", "Tikcet=id"])
    assert done.exit_code == 2 and "has no column 'Tikcet'" in done.output
    done = CliRunner().invoke(app, [*command, "--map", "Opened=time", "--map", "Ticket=id"])
    assert done.exit_code == 0 and "1 new" in done.output


@pytest.mark.parametrize("text", ["1_800_000_000", "\u0661\u0668", "1e999", "0x10", "2026-02-29T00:00:00Z"])
def test_a_text_that_is_no_time_is_none(tmp_path: Path, text: str) -> None:
    data = as_csv([["id", "time"], ["a", text]]).encode()
    with pytest.raises(InputError, match="1 of 1 rows are malformed"):
        imported(tmp_path, "a.csv", data)
