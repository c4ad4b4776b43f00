"""The files of a launch: written whole, read back, and made again from the snapshot and the journal."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from report_data import STARTED_AT, facts
from typer.testing import CliRunner

from flashcast.audience.seal import seal
from flashcast.audience.snapshot import Snapshot
from flashcast.campaign.load import load_campaign
from flashcast.cli.report import report
from flashcast.clock import FixedClock
from flashcast.deliver.journal import Journal
from flashcast.errors import InputError, SnapshotError
from flashcast.outcomes import Outcome, Reason
from flashcast.report import recall
from flashcast.report.write import CHARTS, OUTCOMES, PAGE, PRUNE, REPORT, read_page, read_report, write_report
from flashcast.state import StateFolder

CAMPAIGN = """
name = "Final whistle"
[apns]
topic = "com.example.app"
alert = { title = "It is over", body = "Come and see" }
[fcm]
notification = { title = "It is over", body = "Come and see" }
"""
ROWS = 40
app = typer.Typer()
app.command()(report)


class Launch:
    """A launch's folder with a real snapshot and a real journal."""

    def __init__(self, state: Path) -> None:
        self.state = StateFolder(state)
        self.folder = self.state.create_launch(FixedClock(STARTED_AT), random.Random(1))
        (state / "campaign.toml").write_text(CAMPAIGN)
        table = {
            "user_id": [f"user-{n}" for n in range(ROWS)],
            "platform": ["ios" if n % 2 else "android" for n in range(ROWS)],
            "token": [f"{n:064x}" if n % 2 else f"fcm-token-{n:_>40}" for n in range(ROWS)],
        }
        pq.write_table(pa.table(table), state / "audience.parquet")
        self.snapshot: Snapshot = seal(
            load_campaign(state / "campaign.toml"), state / "audience.parquet", self.folder / recall.SNAPSHOT
        )
        self.journal = Journal.create(self.folder / recall.JOURNAL, self.snapshot.rows, launch=self.folder.name)
        self.journal.hold(0, self.snapshot.rows)
        self.journal.outcome[:30] = Outcome.ACCEPTED
        self.journal.reply_ms[:30] = range(30)
        self.journal.outcome[30:35] = Outcome.REJECTED
        self.journal.reason[30:35] = Reason.FCM_UNREGISTERED.code
        self.journal.outcome[35:38] = Outcome.IN_FLIGHT

    def finish(self) -> dict[str, object]:
        return write_report(self.folder, self.snapshot, self.journal, facts(launch=self.folder.name))

    def run(self, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["--state", str(self.state.path), *arguments])
        return result.exit_code, result.stdout


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)


def test_a_finished_launch_has_all_its_files_for_its_owner_alone(launch: Launch) -> None:
    document = launch.finish()
    names = (REPORT, CHARTS, PAGE, OUTCOMES, PRUNE)
    assert {stat.S_IMODE((launch.folder / name).stat().st_mode) for name in names} == {0o600}
    assert not [path for path in launch.folder.iterdir() if path.suffix == ".tmp"]
    assert read_report(launch.folder) == document
    assert read_page(launch.folder) == (launch.folder / PAGE).read_text(encoding="utf-8")


def test_no_device_token_stands_in_a_file_but_the_prune_list(launch: Launch) -> None:
    launch.finish()
    tokens = [f"{n:064x}".encode() for n in range(ROWS)] + [b"fcm-token-"]
    for name in (REPORT, CHARTS, PAGE, OUTCOMES):
        assert not any(token in (launch.folder / name).read_bytes() for token in tokens)
    assert (launch.folder / PRUNE).read_bytes().count(b"fcm-token-") == 5


def test_report_prints_the_latest_launch(launch: Launch) -> None:
    document = launch.finish()
    code, text = launch.run()
    assert code == 0
    assert "Final whistle" in text
    assert "The books balance: 40 devices" in text
    assert json.loads(launch.run("--json", launch.folder.name)[1]) == document


def test_report_writes_the_files_it_is_asked_for(launch: Launch, tmp_path: Path) -> None:
    launch.finish()
    html, parquet, prune = tmp_path / "a.html", tmp_path / "b.parquet", tmp_path / "c.parquet"
    code, _ = launch.run("--html", str(html), "--parquet", str(parquet), "--prune", str(prune))
    assert code == 0
    assert html.read_bytes() == (launch.folder / PAGE).read_bytes()
    assert parquet.read_bytes() == (launch.folder / OUTCOMES).read_bytes()
    assert pq.read_table(prune).num_rows == 5


def test_files_that_are_missing_are_made_again(launch: Launch) -> None:
    launch.finish()
    before = {name: (launch.folder / name).read_bytes() for name in (PAGE, OUTCOMES, PRUNE)}
    for name in before:
        (launch.folder / name).unlink()
    assert launch.run()[0] == 0
    assert (launch.folder / PAGE).read_bytes() == before[PAGE]
    assert (launch.folder / PRUNE).read_bytes() == before[PRUNE]
    assert pq.read_table(launch.folder / OUTCOMES).num_rows == ROWS


def test_a_launch_that_was_killed_is_reported_from_its_journal_and_nothing_is_written(launch: Launch) -> None:
    (launch.folder / recall.LAUNCH).write_text('{"destination": "sandbox", "started_at": 1790000000.25}')
    before = sorted(path.name for path in launch.folder.iterdir())
    code, text = launch.run("--json")
    document = json.loads(text)
    assert code == 0
    assert document["destination"] == "sandbox"
    assert document["started_at"] == "2026-09-21T14:13:20.250Z"
    assert document["outcomes"] == {
        "accepted": 30,
        "rejected": 5,
        "failed": 0,
        "unknown": 3,
        "expired": 0,
        "unsent": 2,
    }
    assert document["reasons"] == {"UNREGISTERED": 5, "ProcessDied": 3}
    assert document["warnings"] == [recall.UNFINISHED]
    assert sorted(path.name for path in launch.folder.iterdir()) == before


def test_the_journals_of_several_workers_are_one_report(launch: Launch) -> None:
    """What another worker of this machine had taken over counts where it knows better."""
    other = Journal.create(launch.folder / "journal-other.bin", ROWS, launch=launch.folder.name)
    other.hold(30, 10)
    other.outcome[35:38] = Outcome.ACCEPTED
    other.outcome[38:40] = Outcome.EXPIRED
    other.reason[38:40] = Reason.WINDOW_CLOSED.code
    document = json.loads(launch.run("--json")[1])
    assert document["outcomes"] == {
        "accepted": 33, "rejected": 5, "failed": 0, "unknown": 0, "expired": 2, "unsent": 0,
    }  # fmt: skip
    launch.journal.outcome[35:38] = Outcome.UNSENT
    assert json.loads(launch.run("--json")[1])["outcomes"]["accepted"] == 33


def test_a_launch_that_was_killed_can_be_written_as_files_too(launch: Launch, tmp_path: Path) -> None:
    html, parquet, prune = tmp_path / "a.html", tmp_path / "b.parquet", tmp_path / "c.csv"
    assert launch.run("--html", str(html), "--parquet", str(parquet), "--prune", str(prune))[0] == 0
    assert "has not finished" in html.read_text()
    assert pq.read_table(parquet).column("outcome").to_pylist().count("unknown") == 3
    assert len(prune.read_text().splitlines()) == 6


def test_the_list_shows_every_launch(launch: Launch) -> None:
    assert "not finished" in launch.run("--list")[1]
    launch.finish()
    listed = json.loads(launch.run("--list", "--json")[1])
    assert [each["launch"] for each in listed["launches"]] == [launch.folder.name]
    assert listed["launches"][0]["report"]["devices"] == ROWS


def test_a_launch_that_never_went_live_is_told(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.create_launch(FixedClock(STARTED_AT), random.Random(1))
    with pytest.raises(InputError, match="never went live"):
        recall.recall(state.find())


def test_a_journal_of_another_snapshot_is_refused(launch: Launch) -> None:
    (launch.folder / recall.JOURNAL).unlink()
    Journal.create(launch.folder / recall.JOURNAL, ROWS + 1)
    with pytest.raises(SnapshotError, match="has 41 rows, its snapshot 40"):
        recall.recall(launch.folder)


def test_a_damaged_report_names_the_file_and_the_way_out(launch: Launch) -> None:
    launch.finish()
    (launch.folder / REPORT).write_text("{")
    code, text = launch.run("--json")
    assert code == 2
    error = json.loads(text)["error"]
    assert "report.json" in error["message"]
    assert "rebuilt from the journal" in error["remedy"]


def test_damaged_series_are_told(launch: Launch) -> None:
    launch.finish()
    (launch.folder / CHARTS).write_text('{"bin_ms": 10}')
    with pytest.raises(InputError, match="the report is damaged"):
        read_page(launch.folder)


def test_a_launch_whose_journal_was_not_kept_still_gives_what_it_has(launch: Launch, tmp_path: Path) -> None:
    launch.finish()
    (launch.folder / recall.JOURNAL).unlink()
    (launch.folder / PAGE).unlink()
    assert launch.run("--prune", str(tmp_path / "a.csv"))[0] == 0
    assert (launch.folder / PAGE).exists()
    assert (tmp_path / "a.csv").read_bytes() == (launch.folder / PRUNE).read_bytes()
    assert launch.run("--prune", str(tmp_path / "a.parquet"))[0] == 0
    assert pq.read_table(tmp_path / "a.parquet").column("reason").to_pylist() == ["UNREGISTERED"] * 5
    (launch.folder / OUTCOMES).unlink()
    code, text = launch.run("--parquet", str(tmp_path / "o.parquet"), "--json")
    assert code == 2
    assert "was not kept" in json.loads(text)["error"]["message"]
