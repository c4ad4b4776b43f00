"""`flashcast seal` from the shell: figures, JSON, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from audience_data import BOTH, device, devices, write
from rich.console import Console
from typer.testing import CliRunner, Result

from flashcast.audience.snapshot import open_snapshot
from flashcast.cli import progress
from flashcast.cli.seal import default_folder, pairs, seal
from flashcast.errors import ExitCode, InputError

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(seal)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(BOTH)
    write(tmp_path / "a.parquet", [*devices(50), device(0), device(60, token="bad")])
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["c.toml", "--audience", "a.parquet", *arguments])


def test_sealing_tells_counts_and_the_digest(folder: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    with open_snapshot(folder / "derby-day.snapshot") as snapshot:
        assert snapshot.digest in result.stdout
    assert "50 of 52 rows" in result.stdout
    assert "duplicate_token" in result.stdout
    assert "dropped.parquet" in result.stdout
    assert result.stderr == ""


def test_json_is_one_document(folder: Path) -> None:
    result = run("--json", "--out", "here")
    told = json.loads(result.stdout)
    with open_snapshot(folder / "here") as snapshot:
        assert told["digest"] == snapshot.digest
    assert told["snapshot"] == "here"
    assert told["devices"] == 50
    assert told["counts"] == {
        "read": 52, "kept": {"apns": 25, "fcm": 25}, "dropped": {"bad_token": 1, "duplicate_token": 1},
    }  # fmt: skip
    assert told["dropped"]["file"] == "dropped.parquet"


def test_every_option_reaches_the_sealing(folder: Path) -> None:
    (folder / "stop.csv").write_text("user_id\nuser-2\n")
    (folder / "names.csv").write_text("user_id,vorname\n" + "".join(f"user-{n},Name {n}\n" for n in range(50)))
    result = run(
        "--sql", "SELECT a.* EXCLUDE (first_name), n.vorname FROM audience a JOIN names n USING (user_id)",
        "--table", "names=names.csv", "--where", "locale <> 'fr'", "--map", "first_name=vorname",
        "--suppress", "stop.csv", "--one-per-user", "--prefer", "vorname", "--limit", "10", "--drop-too-large",
        "--holdout", "0.4", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["options"] == {"holdout": 0.4, "one_device_per_user": True, "prefer": "vorname", "limit": 10}
    assert told["devices"] == 10
    assert told["counts"]["dropped"]["holdout"] >= 1
    with open_snapshot(folder / "derby-day.snapshot") as snapshot:
        shard = snapshot.shards[0]
        number = shard.user_ids.text(0).removeprefix("user-")
        assert shard.fields[shard.variants[0]].text(0) == f"Name {number}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--where", "nope = 1"), ExitCode.USAGE, "nope"),
        (("--map", "token"), ExitCode.USAGE, "not of the form NAME=VALUE"),
        (("--holdout", "2"), ExitCode.USAGE, "--holdout 2"),
        (("--format", "csv"), ExitCode.USAGE, "a.parquet"),
        (("--out", "c.toml/out"), ExitCode.ENVIRONMENT, "cannot write beside"),
        (("--suppress", "nowhere.csv"), ExitCode.USAGE, "nowhere.csv"),
    ],
)
def test_faults_are_told_with_their_exit_code(folder: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    plain = run(*arguments)
    assert plain.exit_code == code
    assert plain.stdout == ""
    assert said in plain.stderr.replace("\n", " ")
    told = run(*arguments, "--json")
    assert told.exit_code == code
    assert said in json.loads(told.stdout)["error"]["message"]


def test_a_second_seal_is_refused_unless_it_is_the_same_or_forced(folder: Path) -> None:
    assert run().exit_code == 0
    assert run().exit_code == 0
    other = run("--limit", "3")
    assert other.exit_code == ExitCode.USAGE
    assert "--force" in other.stderr
    assert run("--limit", "3", "--force").exit_code == 0


def test_nothing_is_shown_while_sealing_where_nobody_watches(folder: Path) -> None:
    assert run("--json").stderr == ""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal that keeps what is written to it."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "err", Console(file=written, force_terminal=True, width=120))
    monkeypatch.setattr(progress, "interactive", lambda: True)
    return written


def test_a_bar_with_rows_per_second_is_shown_to_people(screen: io.StringIO) -> None:
    with progress.progress_bar("sealing", patience_s=0) as report:
        assert report is not None
        report(1_000_000, 4_000_000)
        report(2_000_000, None)
    assert "sealing" in screen.getvalue()
    assert "1,000,000/4,000,000" in screen.getvalue()
    assert "rows/s" in screen.getvalue()


def test_what_is_over_soon_has_no_bar(screen: io.StringIO) -> None:
    with progress.progress_bar("sealing", patience_s=1e9) as report:
        assert report is not None
        report(10, 10)
    assert screen.getvalue() == ""


def test_there_is_no_bar_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "interactive", lambda: False)
    with progress.progress_bar("sealing") as report:
        assert report is None


@pytest.mark.parametrize(
    ("name", "folder_name"),
    [
        ("Derby day", "derby-day.snapshot"),
        ("../../etc", "etc.snapshot"),
        ("Öl & Gas", "öl-gas.snapshot"),
        ("🦉", "campaign.snapshot"),
    ],
)
def test_the_default_folder_is_named_after_the_campaign(name: str, folder_name: str) -> None:
    assert default_folder(name) == Path(folder_name)


def test_pairs_may_not_be_given_twice() -> None:
    assert pairs("--map", ["a=b", "c = d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(InputError, match="given before"):
        pairs("--map", ["a=b", "a=c"])
