"""`flashcast check` and `flashcast schema`, as a person or a program runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from flashcast.campaign.schema import campaign_schema
from flashcast.cli.check import check
from flashcast.cli.schema import schema

EXAMPLES = Path(__file__).parents[2] / "examples"
CAMPAIGN = """\
name = "x"
[apns]
topic = "com.example.app"
variant_by = "locale"
alert.title = "{{first_name|friend}}"
[[apns.variants]]
when = "de"
alert.title = "Hallo {{first_name}}"
[fcm]
notification.title = "{{first_name|friend}}"
"""

app = typer.Typer()
app.command()(check)
app.command()(schema)


def run(*words: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def run_json(*words: object, code: int = 0) -> dict[str, Any]:
    document = json.loads(run("check", *words, "--json", code=code)[0])
    assert isinstance(document, dict)
    return document


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CAMPAIGN, encoding="utf-8")
    return path


def devices(folder: Path, **columns: list[str | None]) -> Path:
    rows = len(next(iter(columns.values())))
    values: dict[str, list[str | None]] = {
        "user_id": [f"u{row}" for row in range(rows)],
        "platform": ["ios"] * rows,
        "token": ["ab" * 32] * rows,
        **columns,
    }
    pq.write_table(pa.table(values), folder / "devices.parquet")
    return folder / "devices.parquet"


def test_faults_go_to_standard_error_one_to_a_line_and_the_exit_code_is_2(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "x"\n[apns]\npriority = 7\nalert.body = "[bold]{{"\n', encoding="utf-8")
    out, err = run("check", path, code=2)
    assert out == ""
    assert err.splitlines() == [
        f"{path}:2: apns.topic: missing; it is the app's bundle id",
        f"{path}:3: apns.priority: 7 is not one of 10, 5, 1",
        f"{path}:4: apns.alert.body: '{{{{' is not closed by '}}}}'; write '{{{{{{{{' for a literal '{{{{'",
        "3 faults. docs/reference/campaign.md lists every key.",
    ]


def test_faults_as_json_have_line_key_and_message(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "x"\n[fcm]\ndata.n = 1\n', encoding="utf-8")
    assert run_json(path, code=2) == {
        "ok": False,
        "file": str(path),
        "faults": [
            {"line": 3, "key": "fcm.data.n", "message": '1 is not a text, and FCM takes nothing else here; write "1"'}
        ],
    }


def test_a_file_that_is_not_there_is_an_error_with_exit_code_2(tmp_path: Path) -> None:
    _, err = run("check", tmp_path / "none.toml", code=2)
    assert "no campaign file" in err


def test_without_an_audience_fallbacks_and_made_up_values_are_shown(campaign: Path) -> None:
    document = run_json(campaign)
    assert document["ok"]
    assert document["columns_needed"] == ["first_name", "locale"]
    shown = {(each["provider"], each["variant"]): each["body"] for each in document["previews"]}
    assert shown["apns", "default"]["aps"]["alert"] == {"title": "friend"}
    assert shown["apns", "de"]["aps"]["alert"] == {"title": "Hallo <first_name>"}
    assert shown["fcm", "default"]["message"]["notification"] == {"title": "friend"}


def test_how_it_goes_is_told_for_programs_and_for_people(campaign: Path) -> None:
    document = run_json(campaign)
    assert (document["stages"], document["require_approval"], document["shield"]) == ([], False, None)
    assert document["guard"] == {"replies": 200, "stop_share": 0.05, "bad_token_share": 0.3}
    lines = run("check", campaign)[0].splitlines()
    assert "stages: none, everybody at once" in lines
    assert "approval: none needed, one operator launches" in lines
    top = "require_approval = true\nguard = false\nstages = [{share = 0.01, hold_s = 3}, {share = 0.2}]\n"
    shield = '[shield]\napp = "duo"\nminutes = 10\nfeatures = ["leagues"]\n'
    campaign.write_text(top + CAMPAIGN + shield, encoding="utf-8")
    document = run_json(campaign)
    assert document["stages"] == [{"share": 0.01, "hold_s": 3.0}, {"share": 0.2, "hold_s": 5.0}]
    assert (document["guard"], document["require_approval"]) == (None, True)
    assert (document["shield"]["app"], document["shield"]["at"]) == ("duo", "go")
    lines = run("check", campaign)[0].splitlines()
    assert "stages: to 0.01 of the audience, hold 3 s; to 0.2 of the audience, hold 5 s; then the rest" in lines, lines
    assert "guard: off, nothing pauses a launch that goes wrong" in lines
    assert "approval: GO needs the approval of another operator" in lines
    assert "shield: at go for 10 min, leagues off in app duo for 1 of its users" in lines


def test_with_an_audience_its_rows_are_shown_and_the_longest_is_told(campaign: Path, tmp_path: Path) -> None:
    audience = devices(
        tmp_path,
        platform=["ios", "android", "IPHONE ", "ios", "symbian"],
        locale=["en", "de", "de-AT", None, "de"],
        first_name=["Ada", 'Jo "J" \u2028 🏈', None, "Gr\u00e4ce" * 50, "Nobody"],
    )
    document = run_json(campaign, "--audience", audience, "--rows", 2)
    assert [(each["provider"], each["variant"], each["row"]) for each in document["previews"]] == [
        ("apns", "default", 1),
        ("fcm", "default", 2),
        ("apns", "de", 3),
    ]
    title = document["previews"][1]["body"]["message"]["notification"]["title"]
    assert title == 'Jo "J" \u2028 🏈'
    default, german, fcm = document["variants"]
    assert (default["rows"], default["longest_row"]) == (2, 4)
    assert default["longest_payload_bytes"] == len('{"aps":{"alert":{"title":""}}}') + 50 * len("Gräce".encode())
    assert (german["rows"], german["longest_row"]) == (1, 3)
    assert (fcm["rows"], fcm["longest_row"]) == (1, 2)
    assert document["empty_without_fallback"] == {"first_name": 1}
    assert "ab" * 32 not in json.dumps(document)


def test_a_missing_column_is_a_fault_of_the_line_that_uses_it(campaign: Path, tmp_path: Path) -> None:
    audience = devices(tmp_path, locale=["de"], firstname_=["Ada"], frist_nam=["x"])
    document = run_json(campaign, "--audience", audience)
    assert document["ok"], "firstname_ differs from first_name by underscores only"
    audience = devices(tmp_path, locale=["de"], frist_name=["x"])
    document = run_json(campaign, "--audience", audience, code=2)
    assert [(each["line"], each["key"]) for each in document["faults"]] == [(5, "apns.alert.title")]
    assert "did you mean 'frist_name'?" in document["faults"][0]["message"]


def test_a_column_may_be_mapped_as_when_sealing(campaign: Path, tmp_path: Path) -> None:
    audience = devices(tmp_path, sprache=["de"], first_name=["Ada"])
    document = run_json(campaign, "--audience", audience, "--map", "locale=sprache")
    assert document["previews"][0]["variant"] == "de"
    document = json.loads(run("check", campaign, "-a", audience, "--map", "locale=x", "--json", code=2)[0])
    assert "no column 'x'" in document["error"]["message"]


def test_faults_of_file_and_audience_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(CAMPAIGN + "ttl_s = -1\n", encoding="utf-8")
    document = run_json(path, "--audience", devices(tmp_path, locale=["de"]), code=2)
    assert [each["key"] for each in document["faults"]] == ["apns.alert.title", "fcm.ttl_s"]


def test_a_row_that_makes_too_long_a_message_is_a_fault_of_its_variant(campaign: Path, tmp_path: Path) -> None:
    # A quote takes two bytes, so neither characters nor unescaped bytes would show it.
    around = len('{"aps":{"alert":{"title":"Hallo "}}}')
    fits = '"' * ((4_096 - around) // 2)
    audience = devices(tmp_path, locale=["de", "de", "en"], first_name=[fits, fits + '""', None])
    document = run_json(campaign, "--audience", audience, code=2)
    assert [(each["line"], each["key"]) for each in document["faults"]] == [(6, "apns.variants[0]")]
    assert document["faults"][0]["message"].startswith("row 2 makes a message of 4,1")
    assert run_json(campaign, "--audience", devices(tmp_path, locale=["de"], first_name=[fits]))["ok"]


def test_an_audience_without_rows_is_an_error(campaign: Path, tmp_path: Path) -> None:
    _, err = run("check", campaign, "--audience", devices(tmp_path, locale=[], first_name=[]), code=2)
    assert "no rows" in err


def test_the_examples_are_sound_and_shown_for_people() -> None:
    out, _ = run("check", EXAMPLES / "superbowl.toml", "--audience", EXAMPLES / "devices.csv")
    assert "no faults" in out
    assert "window 60 s, unknown outcomes: resend, pace: fcm 250,000/s" in out
    assert '"title": "Keine Ausreden, Zoë!"' in out
    assert "of these rows" in out
    out, _ = run("check", EXAMPLES / "minimal.toml")
    assert "columns needed: none" in out


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    assert json.loads(run("schema")[0]) == campaign_schema()
    run("schema", "--out", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == campaign_schema()
