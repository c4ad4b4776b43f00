"""`flashcast launch` as it is used: dry runs, limits, snapshots, the prompt, other people's servers, proxies."""

from __future__ import annotations

import json
import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from processes import OnTerminal, balanced, campaign, devices, flashcast, launches
from receivers import h2_server, http_proxy, service_account, token_server

from certificates import make_certificates, private_pem, self_signed
from flashcast.arm.destination import destination, rehearsed
from flashcast.campaign.load import load_campaign
from flashcast.campaign.message import compile_messages
from flashcast.model import Provider
from flashcast.simulator.process import SimulatorProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
NASTY = [
    'quotes " and \\ backslashes \\" \\\\',
    "line\nbreaks\r\n, tabs\t, \x00 NUL, \x01 \x1f \x7f controls",
    "🏈 Zoë さくら \u2028 \u2029 \U0010ffff </script>",
    "{{first_name}} %s {0} ${HOME}",
    "x" * 1_000,
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    devices(tmp_path / "devices.parquet", 200)
    return tmp_path / "devices.parquet"


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    return campaign(tmp_path / "hello.toml")


def test_a_dry_run_tells_the_plan_sends_nothing_and_leaves_no_launch(
    hello: Path, table: Path, state: Path, simulator: SimulatorProcess
) -> None:
    received = simulator.counts()["received"]
    done = flashcast("launch", hello, "-a", table, "--to", simulator.config_path, "--dry-run", "--json")
    assert done.code == 0, done.told
    assert done.document["devices"] == 200
    assert done.document["providers"]["apns"]["rows"] == done.document["providers"]["fcm"]["rows"] == 100
    assert simulator.counts()["received"] == received
    assert launches(state) == []


def test_a_snapshot_is_sent_as_it_was_sealed_and_limits_hold(
    hello: Path, table: Path, state: Path, simulator: SimulatorProcess, tmp_path: Path
) -> None:
    received = simulator.counts()["received"]
    sealed = flashcast("seal", hello, "-a", table, "--out", tmp_path / "s", "--limit", 30, "--json")
    assert sealed.code == 0, sealed.told
    table.unlink()
    hello.unlink()
    done = flashcast("launch", tmp_path / "s", "--to", simulator.config_path, "--yes", "--json")
    assert done.code == 0, done.told
    assert done.document["snapshot"] == sealed.document["digest"]
    assert done.document["outcomes"]["accepted"] == 30
    assert simulator.counts()["received"] == received + 30
    assert (tmp_path / "s").is_dir(), "the snapshot belongs to whoever sealed it"


def test_enter_is_go_and_ctrl_c_at_the_prompt_sends_nothing(
    hello: Path, table: Path, state: Path, simulator: SimulatorProcess
) -> None:
    words = ("launch", hello, "-a", table, "--to", simulator.config_path)
    received = simulator.counts()["received"]
    declined = OnTerminal(*words)
    declined.press(b"\n")  # typed ahead, before anybody asked
    declined.read_until("(Ctrl-C: no)")
    assert "200 devices" in declined.text
    busy = flashcast(*words, "--yes")
    assert busy.code == 5, busy.told
    assert "held by process" in busy.err
    assert "--state" in busy.err
    declined.press(b"\x03")
    assert declined.wait() == 130
    assert "nothing was sent" in declined.text
    assert simulator.counts()["received"] == received
    assert launches(state) == []

    pressed = OnTerminal(*words)
    pressed.read_until("(Ctrl-C: no)")
    pressed.press(b"\n")
    assert pressed.wait() == 0, pressed.text
    assert "The books balance" in pressed.text
    assert simulator.counts()["received"] == received + 200


def test_nobody_to_press_enter_is_an_error(hello: Path, table: Path, state: Path) -> None:
    for before in (None, lambda: os.close(0)):
        done = flashcast("launch", hello, "-a", table, before=before)
        assert done.code == 2, done.told
        assert "no terminal" in done.err
        assert "--yes" in done.err
    assert launches(state) == []


def test_names_may_be_strange_and_paths_relative(tmp_path: Path, state: Path, simulator: SimulatorProcess) -> None:
    here = tmp_path / "Köln [1] 🏈"
    here.mkdir()
    devices(here / "geräte [x].parquet", 20)
    campaign(here / "kampagne 'a'.toml")
    done = flashcast(
        "launch", "kampagne 'a'.toml", "-a", "geräte [[]x].parquet", "--state", "st ate", "--yes", "--json",
        "--to", simulator.config_path, cwd=here,
    )  # fmt: skip
    assert done.code == 0, done.told
    assert done.document["outcomes"]["accepted"] == 20
    assert len(launches(here / "st ate")) == 1
    assert flashcast("report", "--state", "st ate", "--html", "büro.html", cwd=here).code == 0
    assert (here / "büro.html").exists()


def test_a_terminal_without_unicode_still_gets_its_report(
    tmp_path: Path, state: Path, simulator: SimulatorProcess
) -> None:
    devices(tmp_path / "devices.parquet", 20)
    greetings = campaign(tmp_path / "greetings.toml")
    greetings.write_text(greetings.read_text().replace('"acceptance"', '"Grüße 🏈"'), encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    words = ("launch", greetings, "-a", tmp_path / "devices.parquet", "--to", simulator.config_path, "--yes")
    done = flashcast(*words, "--json", env=ascii_only)
    assert done.code == 0, done.told
    assert done.document["name"] == "Grüße 🏈"
    for command in (("report",), ("check", EXAMPLES / "superbowl.toml")):
        shown = flashcast(*command, env=ascii_only)
        assert shown.code == 0, shown.told
        assert "Traceback" not in shown.err


def test_every_field_reaches_strangers_byte_by_byte(tmp_path: Path, state: Path) -> None:
    table = tmp_path / "people.parquet"
    people = [f"u-{i}" for i in range(2 * len(NASTY))]
    tokens = [f"{i:064x}" for i in range(len(NASTY))] + [f"fcmtoken{i}:{'Ab_-9' * 20}" for i in range(len(NASTY))]
    columns = {
        "user_id": people,
        "platform": ["ios"] * len(NASTY) + ["android"] * len(NASTY),
        "token": tokens,
        "text": NASTY * 2,
    }
    pq.write_table(pa.table(columns), table)
    words = tmp_path / "words.toml"
    words.write_text(
        'name = "words"\n[apns]\ntopic = "com.example.app"\nalert.title = "Hi"\nalert.body = "{{text}}|{{user_id}}"\n'
        '[fcm]\nnotification.title = "Hi"\nnotification.body = "{{text}}|{{user_id}}"\n'
    )
    made = make_certificates(tmp_path)
    (tmp_path / "key.p8").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    with (
        h2_server(made.server_context("h2")) as apple,
        h2_server(made.server_context("h2"), answer=b'{"name":"projects/acceptance/messages/1"}') as google,
        token_server() as token_uri,
    ):
        service_account(tmp_path / "account.json", token_uri)
        config = tmp_path / "flashcast.toml"
        config.write_text(
            f'[apns]\nendpoint = "{apple.url}"\nca_file = "ca.pem"\nkey_file = "key.p8"\nkey_id = "ABC123DEFG"\n'
            f'team_id = "DEF123GHIJ"\n[fcm]\nendpoint = "{google.url}"\nca_file = "ca.pem"\n'
            'service_account_file = "account.json"\n'
        )
        done = flashcast("launch", words, "-a", table, "--to", config, "--yes", "--json")
    assert done.code == 0, done.told
    assert done.document["outcomes"]["accepted"] == 2 * len(NASTY)
    assert done.document["simulator"] is None
    for i, text in enumerate(NASTY):
        (request,) = [r for r in apple.requests if r.headers[":path"] == f"/3/device/{tokens[i]}"]
        assert json.loads(request.body)["aps"]["alert"]["body"] == f"{text}|u-{i}"
        assert request.headers["authorization"].startswith("bearer ey")
    by_token = {json.loads(r.body)["message"]["token"]: r for r in google.requests}
    for i, text in enumerate(NASTY):
        request = by_token[tokens[len(NASTY) + i]]
        assert json.loads(request.body)["message"]["notification"]["body"] == f"{text}|u-{len(NASTY) + i}"
        assert request.headers["authorization"] == "Bearer a-token-of-the-test"
        assert request.headers[":path"] == "/v1/projects/acceptance/messages:send"
    for request in (*apple.requests, *google.requests):
        again = json.dumps(json.loads(request.body), ensure_ascii=False, separators=(",", ":")).encode()
        assert request.body == again, "compact JSON, escaped no more than needed"


def test_the_example_campaign_is_personalised(state: Path, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    now = datetime.now(UTC)
    (tmp_path / "push.pem").write_bytes(self_signed(now - timedelta(days=1), now + timedelta(days=1)))
    context = made.server_context("h2")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tmp_path / "push.pem")
    with h2_server(context) as apple:
        config = tmp_path / "flashcast.toml"
        config.write_text(f'[apns]\nendpoint = "{apple.url}"\nca_file = "ca.pem"\ncertificate_file = "push.pem"\n')
        done = flashcast(
            "launch", EXAMPLES / "superbowl.toml", "-a", EXAMPLES / "devices.csv", "--where", "platform = 'ios'",
            "--to", config, "--yes", "--json",
        )  # fmt: skip
    assert done.code == 0, done.told
    assert not any("authorization" in r.headers for r in apple.requests), "the certificate speaks for us"
    bodies = {r.headers[":path"][-4:]: json.loads(r.body) for r in apple.requests}
    assert len(bodies) == done.document["outcomes"]["accepted"] == 6
    assert bodies["6fb0"]["aps"]["alert"] == {
        "title": "Keine Ausreden, Zoë!",
        "body": "Mach jetzt deine Lektion – Köln schaut zu.",
    }
    assert bodies["a0aa"]["aps"]["alert"]["title"] == "Sin excusas, José 🏈"
    assert bodies["bd36"]["aps"]["alert"]["title"] == "さくらさん、言い訳はなし。"
    assert bodies["1ecc"]["aps"]["thread-id"] == "game-all", "no city: the fallback"
    assert bodies["1ecc"]["deeplink"] == "app://lesson?user=u02"


def test_every_connection_goes_through_the_proxy(
    hello: Path, table: Path, state: Path, simulator: SimulatorProcess
) -> None:
    with http_proxy() as (url, asked):
        config = simulator.folder / "proxied.toml"
        config.write_text(f'proxy = "{url}"\n' + simulator.config_path.read_text())
        done = flashcast("launch", hello, "-a", table, "--to", config, "--yes", "--json")
    assert done.code == 0, done.told
    assert done.document["outcomes"]["accepted"] == 200
    ports = {int(line.split()[1].rpartition(":")[2]) for line in asked}
    wanted = {int(simulator.ready[name].rpartition(":")[2]) for name in ("apns", "fcm", "oauth")}
    assert ports == wanted, "APNs, FCM and the token server"
    assert all(line.startswith("CONNECT 127.0.0.1:") for line in asked)


def test_settings_come_from_the_environment_too_and_win(
    hello: Path, table: Path, state: Path, simulator: SimulatorProcess, tmp_path: Path
) -> None:
    settings = {}
    for section, body in re.findall(r"\[(\w+)\]\n((?:.+\n?)+)", simulator.config_path.read_text()):
        for name, value in re.findall(r"(\w+) = (.+)", body):
            value = value.strip('"')
            path = str(simulator.folder / value) if name.endswith("_file") else value
            settings[f"FLASHCAST_{section}__{name}".upper()] = path
    wrong = tmp_path / "flashcast.toml"
    wrong.write_text('[apns]\nkey_file = "nowhere.p8"\nkey_id = "AAAAAAAAAA"\nteam_id = "BBBBBBBBBB"\n')
    done = flashcast("launch", hello, "-a", table, "--to", "production", "--yes", "--json", cwd=tmp_path, env=settings)
    assert done.code == 0, done.told
    assert done.document["outcomes"]["accepted"] == 200
    assert done.document["destination"] == "production"


def test_the_sandbox_is_apples_and_only_asks_google_to_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flashcast.toml").write_text(
        '[apns]\nkey_file = "k.p8"\nkey_id = "ABC123DEFG"\nteam_id = "DEF123GHIJ"\n'
        '[fcm]\nservice_account_file = "a.json"\n'
    )
    sandbox, production = destination("sandbox"), destination("production")
    assert sandbox.rehearsal
    assert not production.rehearsal
    assert sandbox.config.apns is not None
    assert production.config.apns is not None
    assert sandbox.config.apns.endpoint == "https://api.sandbox.push.apple.com:443"
    assert production.config.apns.endpoint == "https://api.push.apple.com:443"
    templates = compile_messages(load_campaign(campaign(tmp_path / "c.toml"))).templates
    (template,) = rehearsed(templates[Provider.FCM])
    body = b"".join(part if isinstance(part, bytes) else b"token" for part in template.body)
    assert json.loads(body)["validate_only"] is True
    assert json.loads(body)["message"]["token"] == "token"
    assert rehearsed(templates[Provider.APNS]) == templates[Provider.APNS]


def test_a_launch_to_the_simulator_needs_no_settings(hello: Path, table: Path, state: Path) -> None:
    done = flashcast("launch", hello, "-a", table, "--profile", "realistic", "--seed", 9, "--yes", "--json")
    assert done.code == 0, done.told
    assert balanced(done.document)
    assert done.document["destination"] == "simulator (realistic)"
    assert done.document["simulator"]["distinct"] == 200
