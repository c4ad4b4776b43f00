"""The commands of launch control, in this process, on an embedded engine in a folder of the test's own."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import typer
from control_data import OTHER_TEXT, SNAPSHOT, TEXT, armed, beat, ready, sealed
from rich.console import Console
from typer.testing import CliRunner, Result

from flashcast.arm.readiness import ProviderReadiness
from flashcast.audience.synthetic import write_synthetic
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import Go, LaunchRecord, Pause, Stage, launch_key
from flashcast.campaign.store import Operator, Store
from flashcast.cli.completion import complete_campaign, complete_launch
from flashcast.cli.fleet_live import Picture
from flashcast.cli.main import app
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.go.follow import Heard, Sighting
from flashcast.go.release import press_go
from flashcast.model import Provider

T = TypeVar("T")
ON_A_LAUNCH = ("arm", "preflight", "approve", "go", "abort", "disarm", "pause", "status", "audit")
MORE: dict[str, list[str]] = {"go": ["--yes"], "arm": ["--no-wait"]}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("FLASHCAST_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kick.toml"
    path.write_text(TEXT)
    return path


def run(*args: object) -> Result:
    """One command."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def document(*args: object) -> dict[str, Any]:
    """What a command answers with --json."""
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def with_store(state: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Does ``work`` as a worker would, beside the commands."""

    async def inside() -> T:
        async with EmbeddedEngine(state / "engine") as engine:
            return await work(Store(engine, Operator("witness@desk", "desk")))

    return asyncio.run(inside())


async def live(store: Store) -> None:
    await armed(store)
    await press_go(store, "superbowl")


# --- campaigns -------------------------------------------------------------------------------------------


def test_a_campaign_is_created_listed_shown_and_edited(state: Path, file: Path) -> None:
    made = document("campaign", "create", "superbowl", file, "--operator", "kim")
    assert (made["campaign"], made["by"], made["latest"]) == ("superbowl", "kim", "superbowl-1")
    assert [one["state"] for one in document("campaign", "list")["campaigns"]] == ["draft"]
    assert run("campaign", "show", "superbowl").stdout == TEXT
    file.write_text(OTHER_TEXT)
    assert document("campaign", "edit", "superbowl", file)["digest"] != made["digest"]
    assert document("campaign", "show", "superbowl")["text"] == OTHER_TEXT


def test_a_campaign_that_is_over_is_deleted_and_its_name_counts_on(state: Path, file: Path) -> None:
    run("campaign", "create", "superbowl", file)
    told = run("campaign", "delete", "superbowl", "--yes")
    assert (told.exit_code, told.stdout) == (
        0, "deleted campaign superbowl, superbowl-1: 0 shards, 0 claims, 0 pages of audit\n",
    )  # fmt: skip
    assert document("campaign", "list")["campaigns"] == []
    assert document("campaign", "create", "superbowl", file)["latest"] == "superbowl-2"
    deleted = document("campaign", "delete", "superbowl", "--yes")
    assert (deleted["whole"], deleted["launches"]) == (True, ["superbowl-2"])


def test_what_is_armed_is_not_deleted(state: Path) -> None:
    with_store(state, armed)
    result = run("campaign", "delete", "superbowl", "--yes")
    assert result.exit_code == 2
    assert "launch superbowl-1 is armed, and is not deleted" in result.stderr
    assert "`flashcast disarm superbowl-1` first" in result.stderr


def test_nothing_is_deleted_where_nobody_can_be_asked(state: Path) -> None:
    with_store(state, sealed)
    assert run("campaign", "delete", "superbowl").exit_code == 2
    assert [one["latest"] for one in document("campaign", "list")["campaigns"]] == ["superbowl-1"]


def test_what_cannot_be_removed_is_told_and_is_no_success(state: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "manifest.json").write_text("{}")
    elsewhere = SNAPSHOT.model_copy(update={"url": str(tmp_path / "place")})

    async def over(store: Store) -> None:
        await sealed(store, snapshot=elsewhere)

    with_store(state, over)
    result = run("campaign", "delete", "superbowl", "--with-snapshot", "--yes")
    assert result.exit_code == 3
    assert "not all:" in result.stdout
    assert (tmp_path / "place" / "manifest.json").is_file()


def test_the_list_for_people_names_what_there_is(state: Path, file: Path) -> None:
    assert "campaign create NAME FILE" in run("campaign", "list").stdout
    run("campaign", "create", "superbowl", file)
    assert "superbowl-1" in run("campaign", "list").stdout


def test_line_ends_are_kept_as_they_are(state: Path, file: Path) -> None:
    file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    run("campaign", "create", "superbowl", file)
    assert document("campaign", "show", "superbowl")["text"] == TEXT.replace("\n", "\r\n")


def test_a_campaign_with_faults_is_refused_with_file_and_line(state: Path, file: Path) -> None:
    file.write_text(TEXT + "colour = 1\n")
    result = run("campaign", "create", "superbowl", file)
    assert result.exit_code == 2
    assert "kick.toml" in result.stderr
    assert "unknown key" in result.stderr


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_is_no_text_is_refused(state: Path, file: Path, content: bytes | None) -> None:
    file.unlink() if content is None else file.write_bytes(content)
    for arguments in (["create", "superbowl"], ["edit", "superbowl"]):
        result = run("campaign", *arguments, file)
        assert result.exit_code == 2
        assert "kick.toml" in result.stderr


def _editor(tmp_path: Path, script: str) -> str:
    path = tmp_path / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return f"{path} --wait"


def test_without_a_file_the_operators_editor_opens(
    state: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("campaign", "create", "superbowl", file)
    monkeypatch.setenv("EDITOR", _editor(tmp_path, 'sed -i s/Kick-off/Half-time/ "$2"'))
    assert run("campaign", "edit", "superbowl").exit_code == 0
    assert run("campaign", "show", "superbowl").stdout == OTHER_TEXT


@pytest.mark.parametrize(
    ("script", "told"), [("true", "nothing was changed"), ("exit 3", "ended with 3"), (None, "cannot be run")]
)
def test_an_editor_that_changes_nothing_or_fails_changes_nothing(
    state: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, told: str
) -> None:
    run("campaign", "create", "superbowl", file)
    monkeypatch.setenv("EDITOR", "/no/such/editor" if script is None else _editor(tmp_path, script))
    result = run("campaign", "edit", "superbowl")
    assert result.exit_code == 2
    assert told in result.stderr
    assert run("campaign", "show", "superbowl").stdout == TEXT


def test_an_edit_after_arming_takes_the_launch_back_to_draft(state: Path, file: Path) -> None:
    with_store(state, armed)
    file.write_text(OTHER_TEXT)
    result = run("campaign", "edit", "superbowl", file)
    assert "superbowl-1 is draft" in result.stdout
    pressed = run("go", "superbowl", "--yes")
    assert pressed.exit_code == 2
    assert "superbowl-1 is draft" in pressed.stderr


def test_showing_a_campaign_tells_of_an_edit_that_was_broken_off(state: Path, file: Path) -> None:
    run("campaign", "create", "superbowl", file)

    async def half(store: Store) -> None:
        await store.transition(
            "superbowl", Input.EDIT, lambda record: record.model_copy(update={"campaign_digest": "f" * 64})
        )

    with_store(state, half)
    assert "An edit of this campaign was broken off" in run("campaign", "show", "superbowl").stderr


# --- every command's errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ON_A_LAUNCH)
def test_a_name_that_is_nothing_is_refused_and_one_that_is_close_offered(state: Path, command: str) -> None:
    with_store(state, sealed)
    result = run(command, "superbowll", *MORE.get(command, []))
    assert result.exit_code == 2
    assert "there is no campaign or launch 'superbowll' in embedded:" in result.stderr
    assert "Did you mean superbowl?" in result.stderr


@pytest.mark.parametrize("command", ["show", "edit"])
def test_a_campaign_that_is_none_is_refused(state: Path, file: Path, command: str) -> None:
    with_store(state, sealed)
    result = run("campaign", command, "easter", *([file] if command == "edit" else []))
    assert result.exit_code == 2
    assert "there is no campaign 'easter'" in result.stderr


def test_an_error_is_a_json_document_where_json_is_wanted(state: Path) -> None:
    result = run("abort", "superbowl", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["kind"] == "InputError"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("arm", "it can be armed only when sealed"),
        ("approve", "it can be approved only when sealed, arming or armed"),
        ("go", "it can be launched only when armed"),
        ("abort", "it can be aborted only when arming, armed or live"),
        ("disarm", "it can be disarmed only when arming or armed"),
        ("pause", "it can be paused only when live"),
    ],
)
def test_a_draft_is_refused_with_what_is_possible(state: Path, file: Path, command: str, told: str) -> None:
    run("campaign", "create", "superbowl", file)
    result = run(command, "superbowl", *MORE.get(command, []))
    assert result.exit_code == 2
    assert f"launch superbowl-1 is draft; {told}" in result.stderr
    assert "Possible now: edit, seal." in result.stderr


@pytest.mark.parametrize("command", ["arm", "seal", "approve", "disarm"])
def test_a_live_launch_is_not_meddled_with(state: Path, tmp_path: Path, command: str) -> None:
    with_store(state, live)
    more = ["--audience", "nothing.parquet"] if command == "seal" else MORE.get(command, [])
    result = run(command, "superbowl", *more)
    assert result.exit_code == 2
    assert "launch superbowl-1 is live" in result.stderr


def test_the_second_go_is_told_who_was_first_and_leaves_with_5(state: Path) -> None:
    with_store(state, live)
    result = run("go", "superbowl", "--yes")
    assert result.exit_code == 5
    assert "GO was pressed by witness@desk at " in result.stderr
    assert "ms before this press" in result.stderr


@pytest.mark.parametrize("address", ["postgres://x", "embedded:", "nats:x", "nonsense"])
def test_what_is_no_engine_is_refused(state: Path, address: str) -> None:
    result = run("campaign", "list", "--engine", address)
    assert result.exit_code == 2
    assert "--engine" in result.stderr


def test_an_engine_that_cannot_be_used_is_the_environments_fault(state: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = run("campaign", "list", "--engine", f"embedded:{tmp_path / 'taken'}")
    assert result.exit_code == 3


def test_an_operators_name_that_cannot_be_shown_is_refused(state: Path, file: Path) -> None:
    result = run("campaign", "create", "superbowl", file, "--operator", "kim\nroot")
    assert result.exit_code == 2
    assert "operator" in result.stderr


# --- who acts --------------------------------------------------------------------------------------------


def test_the_operator_is_the_option_or_the_variable_or_the_user(
    state: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_store(state, sealed)
    run("approve", "superbowl")
    monkeypatch.setenv("FLASHCAST_OPERATOR", "ada")
    run("approve", "superbowl")
    run("approve", "superbowl", "--operator", "kim")
    by = [entry["by"] for entry in document("audit", "superbowl")["trail"] if entry["what"] == "approve"]
    assert by[1:] == ["ada", "kim"]
    assert "@" in by[0]


def test_two_people_are_needed_where_the_campaign_says_so(state: Path) -> None:
    async def work(store: Store) -> None:
        await armed(store, require_approval=True)

    with_store(state, work)
    go = ("go", "superbowl", "--yes", "--no-watch", "--json")
    assert "needs another operator's approval" in run(*go, "--operator", "kim").stdout
    assert "approved by kim" in run("approve", "superbowl", "--operator", "kim").stdout
    refused = run(*go, "--operator", "Kim")
    assert refused.exit_code == 2
    assert "may therefore not press GO" in refused.stdout
    assert json.loads(run(*go, "--operator", "ada").stdout)["go"]["by"] == "ada"


# --- orders ----------------------------------------------------------------------------------------------


def test_go_without_watching_answers_with_the_record(state: Path) -> None:
    with_store(state, armed)
    record = document("go", "superbowl", "--yes", "--no-watch")
    assert (record["launch"], record["state"]) == ("superbowl-1", "live")


def test_go_asks_nobody_where_there_is_nobody(state: Path) -> None:
    with_store(state, armed)
    result = run("go", "superbowl")
    assert result.exit_code == 2
    assert "nobody can press ENTER" in result.stderr
    assert with_store(state, lambda store: store.launch("superbowl"))[0].state is State.ARMED


def test_a_live_launch_is_paused_goes_on_and_is_called_off(state: Path) -> None:
    with_store(state, live)
    assert document("pause", "superbowl", "--note", "wait")["paused"]["why"] == "wait"
    assert "PAUSED by" in run("status", "superbowl").stdout
    assert document("resume", "superbowl")["paused"] is None
    aborted = document("abort", "superbowl", "--note", "wrong text", "--no-wait")
    assert (aborted["state"], aborted["overshoot"]) == ("aborted", 0)
    trail = document("audit", "superbowl")["trail"]
    assert [entry["what"] for entry in trail][-3:] == ["pause", "resume", "abort"]
    assert trail[-1]["note"] == "wrong text"


def test_resume_of_a_live_launch_that_is_not_paused_says_that_it_is_live_and_wants_a_worker(state: Path) -> None:
    with_store(state, live)
    result = run("resume", "superbowl")
    assert result.exit_code == 2
    assert "launch superbowl-1 is live and not paused" in result.stderr
    assert "0 of 2 shards are settled, and no worker is at work on the other 2" in result.stderr
    assert "Start a worker (`flashcast worker`): it takes the shards over and sends the rest" in result.stderr


def test_resume_of_a_live_launch_whose_window_is_over_does_not_promise_to_send(state: Path) -> None:
    async def long_ago(store: Store) -> None:
        await armed(store)
        await press_go(store, "superbowl", at=store.clock.time() - 3_600)

    with_store(state, long_ago)
    result = run("resume", "superbowl-1")
    assert result.exit_code == 2
    assert "the window is over, so it sends nothing more" in result.stderr


def test_resume_of_a_launch_that_is_not_live_says_what_is_possible(state: Path) -> None:
    with_store(state, armed)
    result = run("resume", "superbowl")
    assert result.exit_code == 2
    assert "launch superbowl-1 is armed" in result.stderr
    assert "resumed only when live" in result.stderr


def test_the_list_of_reports_is_the_engines_where_the_environment_names_one(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_store(state, live)
    assert [one["launch"] for one in document("report", "--list")["launches"]] == []
    monkeypatch.setenv("FLASHCAST_ENGINE", f"embedded:{state / 'engine'}")
    assert [one["launch"] for one in document("report", "--list")["launches"]] == ["superbowl-1"]
    assert document("report", "--list") == document("report", "--list", "--engine", f"embedded:{state / 'engine'}")


def test_resume_of_what_the_engine_does_not_have_looks_in_the_state_folder(state: Path) -> None:
    result = run("resume", "superbowl")
    assert result.exit_code == 2
    assert f"in {state}" in result.stderr
    assert not (state / "engine").exists()


def test_arming_does_not_wait_where_it_shall_not(state: Path, tmp_path: Path) -> None:
    with_store(state, sealed)
    (tmp_path / "flashcast.toml").write_text("")
    record = document("arm", "superbowl", "--to", "flashcast.toml", "--no-wait")
    assert (record["state"], record["to"]) == ("arming", str(tmp_path / "flashcast.toml"))


def test_arming_what_was_sent_before_warns_that_it_is_sent_again(state: Path) -> None:
    with_store(state, live)
    run("abort", "superbowl", "--no-wait")
    result = run("arm", "superbowl", "--no-wait")
    assert "arming superbowl-2" in result.stderr
    assert "this is the snapshot of superbowl-1; whoever got it then gets it a second time" in result.stderr


@pytest.mark.parametrize("to", ["simulator", "missing.toml"])
def test_a_destination_that_no_worker_could_use_is_refused(state: Path, to: str) -> None:
    with_store(state, sealed)
    result = run("arm", "superbowl", "--to", to, "--no-wait")
    assert result.exit_code == 2
    assert f"--to {to}" in result.stderr


def test_preflight_of_what_is_not_ready_is_a_no_go(state: Path) -> None:
    with_store(state, armed)
    result = run("preflight", "superbowl")
    assert result.exit_code == 1
    assert "NO-GO for superbowl-1" in result.stdout
    told = json.loads(run("preflight", "superbowl", "--json").stdout)
    assert not told["go"]
    assert {check["level"] for check in told["checks"]} >= {"fail", "ok"}


# --- what is seen ----------------------------------------------------------------------------------------


def test_status_without_a_name_lists_every_campaigns_latest_launch(state: Path) -> None:
    assert "no campaigns yet" in run("status").stdout
    with_store(state, sealed)
    assert "superbowl-1: sealed" in run("status").stdout
    assert [one["launch"] for one in document("status")["launches"]] == ["superbowl-1"]


def test_a_watch_prints_json_lines_until_the_launch_has_ended(state: Path) -> None:
    async def aborted(store: Store) -> None:
        await armed(store)
        await store.transition("superbowl", Input.ABORT)

    with_store(state, aborted)
    result = run("status", "superbowl", "--watch", "--json")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["aborted"]


def test_a_watch_without_a_name_follows_the_only_open_launch_or_asks(state: Path) -> None:
    assert "no launch is open" in run("status", "--watch").stderr

    async def two(store: Store) -> None:
        await sealed(store)
        await sealed(store, "easter")

    with_store(state, two)
    assert "2 launches are open" in run("status", "--watch").stderr


def test_the_audit_trail_is_a_line_for_each_entry(state: Path) -> None:
    with_store(state, live)
    lines = run("audit", "superbowl").stdout.splitlines()
    assert lines[0] == "superbowl-1: live"
    assert [line.split("  ", 1)[1].split(" by ")[0].rstrip() for line in lines[1:]] == [
        "seal -> sealed", "arm -> arming", "ready -> armed", "go -> live",
    ]  # fmt: skip


def drawn(*sightings: Sighting) -> str:
    """The last of several sightings as `status --watch` draws it."""
    picture = Picture()
    for sighting in sightings:
        made = picture.draw(sighting)
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(made)
    return capture.get()


def _sighting(at: float, accepted: int, alive: bool = True) -> Sighting:
    part = ProviderReadiness(rows=500, connections=4, accepted=accepted, in_flight=20)
    holding = ready(providers={Provider.APNS: part})
    record = LaunchRecord(
        launch="superbowl-1", campaign="superbowl", state=State.LIVE, created_at=0.0, snapshot=SNAPSHOT,
        go=Go(at=1_000.0, by="kim", host="desk"), stages=(Stage(share=0.01),),
    )  # fmt: skip
    heard = Heard(beat("worker-1", at, superbowl_1=holding), 0.1, alive)
    dead = Heard(beat("worker-2", at).model_copy(update={"fault": "[red]disk full"}), 9.0, False)
    idle = Heard(beat("worker-3", at).model_copy(update={"fault": "[red]disk full"}), 0.1, True)
    return Sighting(record, (heard, dead, idle), at)


def test_the_picture_of_a_live_launch_has_rates_outcomes_and_workers() -> None:
    told = drawn(_sighting(1_001.0, 100), _sighting(1_002.0, 350))
    lines = [line.split() for line in told.splitlines()]
    assert "superbowl-1: live, 1,000 devices, GO + 2.0 s by kim, stage 1 of 2, window 60 s" in told
    assert ["apns", "250", "350", "0", "0", "0", "20", "630", "4"] in lines
    assert ["worker-1", "0.1", "s", "yes", "1", "500", "250", "20", "4"] in lines
    assert any(line[:1] == ["worker-2"] and line[-1] == "silent" for line in lines)
    assert "[red]disk full" in told


def test_the_last_figures_stay_when_the_workers_have_let_go() -> None:
    last = _sighting(1_002.0, 350)
    record = last.record.model_copy(update={"state": State.DONE, "closed_at": 1_002.5})
    told = drawn(last, Sighting(record, (), 1_003.0))
    assert "superbowl-1: done, 1,000 devices, GO + 2.5 s" in told
    assert "350" in told


def test_a_worker_that_is_lost_makes_no_negative_rate() -> None:
    assert "-" not in drawn(_sighting(1_001.0, 350), _sighting(1_002.0, 0)).split("apns")[1].split("\n")[0]


def test_no_workers_is_told_with_how_to_start_one(state: Path) -> None:
    assert "flashcast worker" in run("workers").stdout
    assert document("workers") == {"workers": []}


# --- sealing ---------------------------------------------------------------------------------------------


def test_seal_takes_a_file_or_a_campaigns_name(state: Path, file: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "devices.parquet", 100, 1.0, 1)
    of_file = document("seal", file, "--audience", "devices.parquet", "--out", "here")
    assert (of_file["snapshot"], of_file["devices"]) == ("here", 100)
    assert "launch" not in of_file
    run("campaign", "create", "superbowl", file)
    of_name = document("seal", "superbowl", "--audience", "devices.parquet")
    assert of_name["launch"] == "superbowl-1"
    assert of_name["snapshot"] == str(state / "snapshots" / "superbowl-1")
    assert of_name["digest"] == of_file["digest"]
    assert "launch superbowl-1 is sealed" in run("seal", "superbowl", "-a", "devices.parquet").stdout


def test_a_file_is_not_sealed_to_an_address(state: Path, file: Path) -> None:
    result = run("seal", file, "--audience", "devices.parquet", "--out", "s3://bucket/x")
    assert result.exit_code == 2
    assert "s3://bucket/x" in result.stderr


def test_a_campaign_file_that_is_missing_is_no_campaigns_name(state: Path) -> None:
    result = run("seal", "missing.toml", "--audience", "devices.parquet")
    assert result.exit_code == 2
    assert "no campaign file at missing.toml" in result.stderr
    assert not (state / "engine").exists()


# --- completion ------------------------------------------------------------------------------------------


def context(**params: object) -> typer.Context:
    """What the shell's completion hands over."""
    command = typer.main.get_command(app)
    made = typer.Context(command)  # type: ignore[arg-type]
    made.params = dict(params)
    return made


def test_names_and_ids_complete(state: Path) -> None:
    async def work(store: Store) -> None:
        await sealed(store)
        await sealed(store, "easter")

    with_store(state, work)
    assert complete_campaign(context(), "") == [("easter", "campaign, sealed"), ("superbowl", "campaign, sealed")]
    assert complete_launch(context(), "su") == [
        ("superbowl", "campaign, sealed"),
        ("superbowl-1", "launch, sealed"),
    ]
    assert [name for name, _ in complete_launch(context(), "")] == ["easter", "superbowl"]


def test_completion_looks_where_the_command_line_says(state: Path, tmp_path: Path) -> None:
    with_store(state, sealed)
    assert complete_campaign(context(engine=f"embedded:{tmp_path / 'other'}"), "") == []
    assert [name for name, _ in complete_campaign(context(state=state), "")] == ["superbowl"]


def test_completion_makes_no_engine_and_tells_no_error(state: Path) -> None:
    assert complete_launch(context(), "") == []
    assert not state.exists()
    assert complete_launch(context(engine="nonsense"), "") == []

    async def damage(store: Store) -> None:
        await sealed(store)
        await store.engine.durable.put(launch_key("superbowl-1"), b"{")

    with_store(state, damage)
    assert complete_launch(context(), "") == []


def test_a_guards_pause_is_shown_with_its_reason(state: Path) -> None:
    async def work(store: Store) -> None:
        await live(store)
        pause = Pause(at=store.clock.time(), by="worker-1", why="[bold]40 %[/] bad tokens", guard=True)
        await store.transition("superbowl", Input.PAUSE, lambda record: record.model_copy(update={"paused": pause}))

    with_store(state, work)
    assert "PAUSED by worker-1: [bold]40 %[/] bad tokens" in run("status", "superbowl").stdout
    assert document("resume", "superbowl")["guard_off"]


def test_the_default_engine_is_private(state: Path) -> None:
    with_store(state, sealed)
    assert stat.S_IMODE((state / "engine").stat().st_mode) == 0o700
