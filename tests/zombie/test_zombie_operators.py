"""The operators' commands: with a folder and a key alone, at night, from any laptop."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_server import Monitoring
from typer.testing import CliRunner, Result
from zombie_s3 import aws_environment, s3

from flashcast.cli.main import app
from flashcast.cli.zombie_options import operator_label, seconds_of
from flashcast.errors import ExitCode, InputError
from flashcast.zombie.document import Document, Level
from flashcast.zombie.keys import SigningKey, trusted
from flashcast.zombie.orders import recover, switch_on
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.rule_parts import ZOMBIE_LOOK


class Desk:
    """An operator's laptop."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site, self.key = folder, folder / "site", folder / "key.pem"
        self.home = folder / "home"

    def run(self, *args: object) -> Result:
        return CliRunner().invoke(app, ["zombie", *map(str, args)])

    def ok(self, *args: object) -> str:
        done = self.run(*args)
        assert done.exit_code == 0, done.output
        return done.output

    def said(self, *args: object) -> dict[str, Any]:
        done = self.run(*args, "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def fails(self, code: ExitCode, *args: object) -> str:
        done = self.run(*args)
        assert done.exit_code == code, done.output
        return done.output.replace("\n", " ")

    @property
    def published(self) -> Document:
        found = read_published(self.site, "shop", trusted([SigningKey.load(self.key)])).document
        assert found is not None
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    SigningKey.generate().save(made.key)
    for name, value in (
        ("TARGET", made.site), ("APP", "shop"), ("KEY", made.key), ("TRUST", ""), ("RULES", ""), ("URL", "")
    ):  # fmt: skip
        monkeypatch.setenv(f"FLASHCAST_ZOMBIE_{name}", str(value))
    monkeypatch.setenv("FLASHCAST_HOME", str(made.home))
    monkeypatch.setenv("FLASHCAST_OPERATOR", "kim@desk")
    monkeypatch.chdir(tmp_path)
    return made


RULES = """
app = "shop"
lasts_s = 120
tick_s = 0.05
look_s = 0.1
[levels.zombie]
off = ["*"]
keep = ["payments"]
poll_s = 5
poll_jitter_s = 0
share = 0.8
min_s = 5
[recovery]
steps = [0.3, 0.6, 1.0]
step_min_s = 5
back_min_s = 5
[signals.api]
kind = "http"
url = "URL"
every_s = 0.1
window_s = 1
timeout_s = 10
[rules.down]
signal = "api.failures"
level = "zombie"
above = 0.5
for_s = 0
clear = 0.1
clear_for_s = 1
"""


# --- By hand --------------------------------------------------------------------------------------------------


def test_zombie_mode_is_one_command(desk: Desk) -> None:
    told = desk.ok("on", "--note", "database is down")
    assert "zombie for 100 % of users: everything is off" in told
    said = desk.published
    assert (said.level, said.buckets, said.off) == (Level.ZOMBIE, 1000, ("*",))
    assert said.manual is not None
    assert (said.manual.by, said.manual.until) == ("kim@desk", said.issued_at + 1_800)
    (line,) = (desk.home / "zombie" / "shop.orders.jsonl").read_text().splitlines()
    assert json.loads(line)["note"] == "database is down"
    assert "kim@desk decides until" in desk.ok("status")


def test_naming_features_shields_them_alone(desk: Desk) -> None:
    said = desk.said("on", "-f", "feed", "-f", "ads", "--share", "0.25", "--for", "2h", "--writes", "queue")
    assert (said["level"], said["off"], said["buckets"], said["writes"]) == ("shielded", ["feed", "ads"], 250, "queue")
    assert said["manual"]["until"] - said["issued_at"] == 7_200
    assert said["target"] == str(desk.site)


def test_rules_say_what_levels_mean(desk: Desk) -> None:
    (desk.folder / "rules.toml").write_text(RULES.replace("URL", "http://localhost"))
    said = desk.said("on", "--rules", "rules.toml")
    assert (said["keep"], said["buckets"], said["poll_s"]) == (["payments"], 800, 5)
    assert desk.said("recover", "--rules", "rules.toml")["buckets"] == 700
    assert "--app other: the rules are for shop" in desk.fails(
        ExitCode.USAGE, "on", "--rules", "rules.toml", "--app", "other"
    )


def test_users_come_back_step_by_step_and_status_says_how_far(desk: Desk) -> None:
    desk.ok("on")
    assert desk.said("recover")["buckets"] == 990
    assert "recovering: 40 % of users are back" in desk.ok("recover", "--share", "0.4")
    assert "60 % of users; off: everything" in desk.ok("status")
    assert desk.said("recover")["buckets"] == 500
    assert desk.said("recover")["level"] == "normal"
    assert "nothing to recover from" in desk.fails(ExitCode.USAGE, "recover")


def test_off_asks_before_it_lets_everybody_in_at_once(desk: Desk) -> None:
    desk.ok("on")
    assert "nobody can press ENTER" in desk.fails(ExitCode.USAGE, "off")
    assert desk.published.level is Level.ZOMBIE
    assert desk.said("off", "--yes", "--for", "0").get("manual") is None
    assert desk.published.level is Level.NORMAL
    assert desk.said("off")["manual"]["by"] == "kim@desk"


def test_status_needs_a_public_key_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.ok("on")
    public = SigningKey.load(desk.key).public
    monkeypatch.setenv("FLASHCAST_ZOMBIE_KEY", "")
    assert "no key is named" in desk.fails(ExitCode.USAGE, "status")
    (desk.folder / "public").write_text(public.text)
    for trust in (public.text, desk.folder / "public"):
        said = desk.said("status", "--trust", trust)
        assert said["document"]["level"] == "zombie"
        assert said["document"]["in_force"]
        assert said["whole"]


def test_status_where_nothing_is_published_says_so(desk: Desk) -> None:
    assert "nothing is published" in desk.ok("status")
    assert desk.said("status")["published"] is False


def test_a_document_by_another_key_is_told_and_replaced_only_on_purpose(desk: Desk) -> None:
    desk.site.mkdir()
    desk.ok("keys", "new", "other.pem")
    desk.ok("on", "--key", "other.pem")
    assert "is not genuine" in desk.fails(ExitCode.USAGE, "status")
    assert "is there and is not genuine" in desk.fails(ExitCode.USAGE, "on")
    desk.ok("on", "--replace")
    assert desk.published.level is Level.ZOMBIE


def test_while_keys_are_changed_both_sign(desk: Desk) -> None:
    desk.ok("keys", "new", "next.pem")
    desk.ok("on", "--key", desk.key, "--key", "next.pem")
    envelope = json.loads((desk.site / "shop.json").read_bytes())
    assert len(envelope["signatures"]) == 2


def test_somebody_who_was_faster_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.ok("on")
    before = desk.published

    def too_late(*args: Any, **options: Any) -> Any:
        act = recover(before, time.time(), by="ada", expect=before.version)
        publish(desk.site, act.terms, [SigningKey.load(desk.key)], lasts_s=act.lasts_s)
        return switch_on(*args, **options)

    monkeypatch.setattr("flashcast.zombie.orders.switch_on", too_late)
    assert "is published, not" in desk.fails(ExitCode.BUSY, "on")
    assert desk.published.level is Level.RECOVERING


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("on", "--for", "20"), ExitCode.USAGE, "--for '20' is no duration"),
        (("on", "--for", "0"), ExitCode.USAGE, "0 s is no time"),
        (("on", "--level", "shielded"), ExitCode.USAGE, "which features are off?"),
        (("on", "--share", "7"), ExitCode.USAGE, "share 7 is not between 0 and 1"),
        (("on", "--feature", "The Feed"), ExitCode.USAGE, "off"),
        (("on", "--app", "The Shop"), ExitCode.USAGE, "--app 'The Shop'"),
        (("on", "--key", "nowhere.pem"), ExitCode.CREDENTIALS, "cannot read the key"),
        (("on", "--target", "ftp://x"), ExitCode.USAGE, "ftp:// is no place to publish to"),
        (("on", "--operator", "launch:me"), ExitCode.USAGE, "operator 'launch:me'"),
        (("status", "--trust", "no key"), ExitCode.USAGE, "a public key is 32 bytes"),
        (("replay", "nowhere"), ExitCode.USAGE, "cannot read nowhere"),
        (("watch",), ExitCode.USAGE, "--rules is missing"),
    ],
)
def test_what_is_wrong_is_told_with_its_exit_code(desk: Desk, args: tuple[str, ...], code: ExitCode, told: str) -> None:
    assert told in desk.fails(code, *args)
    as_json = desk.run(*args, "--json")
    assert as_json.exit_code == code
    assert told in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize("missing", ["TARGET", "APP", "KEY"])
def test_what_is_missing_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv(f"FLASHCAST_ZOMBIE_{missing}", "")
    told = desk.fails(ExitCode.USAGE, "on")
    assert f"FLASHCAST_ZOMBIE_{'TRUST' if missing == 'KEY' else missing}" in told


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1h30m", 5_400), ("1h1m1s", 3_661), ("0", 0)]
)
def test_a_duration_is_written_as_people_say_it(text: str, seconds: float) -> None:
    assert seconds_of(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "30m1h", "-5m", "five"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no duration"):
        seconds_of(text, "--for")


def test_an_operators_name_fits_into_a_document() -> None:
    assert operator_label("Kim Lee (on call)") == "Kim-Lee-on-call-"
    assert len(operator_label("x" * 200)) == 64


# --- Keys ---------------------------------------------------------------------------------------------------------


def test_a_new_key_can_be_read_by_its_owner_alone_and_only_its_public_half_is_shown(desk: Desk) -> None:
    said = desk.said("keys", "new", "fresh.pem")
    path = desk.folder / "fresh.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert said["public"] == SigningKey.load(path).public.text
    shown = desk.ok("keys", "show", "fresh.pem")
    assert said["public"] in shown
    assert said["id"] in shown
    secret = path.read_text().splitlines()[1]
    assert secret not in shown
    assert "is there already" in desk.fails(ExitCode.USAGE, "keys", "new", "fresh.pem")


def test_a_bare_private_key_is_never_shown_as_a_public_one(desk: Desk) -> None:
    seed = desk.folder / "seed"
    seed.write_text("A" * 43)
    assert "cannot be told which half" in desk.fails(ExitCode.USAGE, "keys", "show", seed)


def test_a_private_key_that_others_may_read_is_refused(desk: Desk) -> None:
    desk.key.chmod(0o644)
    assert "can be read by others" in desk.fails(ExitCode.CREDENTIALS, "on")


# --- The controller as a process -----------------------------------------------------------------------------------


class Process:
    """`flashcast zombie watch --json`."""

    def __init__(self, desk: Desk, *options: object) -> None:
        command = ["flashcast", "zombie", "watch", "--json", "--rules", "rules.toml", *map(str, options)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=desk.folder, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )  # fmt: skip

    def until(self, event: str, **facts: object) -> dict[str, Any]:
        """Reads on until an event with these facts comes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event and all(str(value) in str(said.get(key)) for key, value in facts.items()):
                return said
        raise AssertionError(f"it ended with {self._process.wait(30)} before {event} {facts}")

    def ends(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        self.until("ended")
        return self._process.wait(30)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def server() -> Iterator[Monitoring]:
    with Monitoring() as monitoring:
        yield monitoring


def test_the_controller_publishes_by_itself_obeys_people_and_its_trace_replays(desk: Desk, server: Monitoring) -> None:
    (desk.folder / "rules.toml").write_text(RULES.replace("URL", server.url))
    watching = Process(desk)
    try:
        watching.until("published", text="normal")
        server.status = 500
        watching.until("published", text="zombie, 80 % of users")
        assert desk.published.level is Level.ZOMBIE
        assert desk.published.manual is None
        desk.ok("off", "--yes", "--for", "1h")
        watching.until("changed", level="normal", why="ordered")
        assert desk.published.level is Level.NORMAL
        assert watching.ends() == 0
    finally:
        watching.close()
    kept = json.loads((desk.home / "zombie" / "shop.controller.json").read_text())
    assert kept["state"]["hold"]["by"] == "kim@desk"
    trace = desk.home / "zombie" / "shop.trace.jsonl"
    assert server.url not in trace.read_text()
    found = desk.said("replay", trace, "--rules", "rules.toml")
    assert found["same"]
    assert found["same_rules"]
    assert [change["level"] for change in found["changes"]] == ["zombie", "normal"]
    assert "decisions are the same" in desk.ok("replay", trace)
    trace.write_text(re.sub(r'"api\.failures":\[[0-9.]+', '"api.failures":[0.0', trace.read_text()))
    assert "decisions differ" in desk.fails(ExitCode.UNBALANCED, "replay", trace)


def test_a_dry_run_touches_neither_the_document_nor_the_memory(desk: Desk, server: Monitoring) -> None:
    (desk.folder / "rules.toml").write_text(RULES.replace("URL", server.url))
    server.status = 500
    watching = Process(desk, "--dry-run", "--trace", "dry.jsonl")
    try:
        watching.until("changed", level="zombie")
        assert watching.ends() == 0
    finally:
        watching.close()
    assert not (desk.site / "shop.json").exists()
    assert not (desk.home / "zombie" / "shop.controller.json").exists()
    assert desk.said("replay", "dry.jsonl")["same"]


def test_orders_can_be_given_with_a_buckets_credentials_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    with s3() as bucket:
        for name, value in aws_environment(bucket.url).items():
            monkeypatch.setenv(name, value)
        desk.ok("on", "--target", "s3://bucket/zombie", "--for", "10m")
        assert "kim@desk decides until" in desk.ok("status", "--target", "s3://bucket/zombie")
        # The document, and its copy for repair.
        assert sorted(name.split(".")[0] for name in bucket.objects) == ["zombie/shop"] * 2


def test_the_look_of_the_default_is_everything_off(desk: Desk) -> None:
    assert ZOMBIE_LOOK.off == ("*",)
    assert desk.said("on", "--keep", "payments")["keep"] == ["payments"]
