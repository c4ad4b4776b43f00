"""What a launch writes and says holds no secret: no device token, no key, no JWT, no OAuth token."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric import ec
from processes import OnTerminal, campaign, devices, flashcast, launches
from receivers import h2_server, service_account, token_server

from certificates import make_certificates, private_pem

PUBLIC = ("launch.json", "report.json", "report.html", "charts.json", "outcomes.parquet", "journal-local.bin")


def test_no_secret_is_written_or_said(tmp_path: Path, state: Path) -> None:
    tokens = devices(tmp_path / "devices.parquet", 60)
    hello = campaign(tmp_path / "hello.toml")
    made = make_certificates(tmp_path)
    key = private_pem(ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "key.p8").write_bytes(key)
    # APNs calls every device gone and FCM every credential wrong: errors are where secrets leak.
    with (
        h2_server(made.server_context("h2"), status=410, answer=b'{"reason":"Unregistered"}') as apple,
        h2_server(made.server_context("h2"), status=401, answer=b'{"error":{"status":"UNAUTHENTICATED"}}') as google,
        token_server() as token_uri,
    ):
        account = service_account(tmp_path / "account.json", token_uri)
        config = tmp_path / "flashcast.toml"
        config.write_text(
            f'[apns]\nendpoint = "{apple.url}"\nca_file = "ca.pem"\nkey_file = "key.p8"\nkey_id = "ABC123DEFG"\n'
            f'team_id = "DEF123GHIJ"\n[fcm]\nendpoint = "{google.url}"\nca_file = "ca.pem"\n'
            'service_account_file = "account.json"\n'
        )
        at_terminal = OnTerminal("launch", hello, "-a", tmp_path / "devices.parquet", "--to", config, "--yes")
        code = at_terminal.wait()
    assert code == 1, at_terminal.text
    report = flashcast("report", "--json")
    assert report.document["reasons"]["Unregistered"] == 30
    assert report.document["providers"]["fcm"]["stopped"] == "UNAUTHENTICATED"

    jwt = apple.requests[0].headers["authorization"].removeprefix("bearer ")
    oauth = google.requests[0].headers["authorization"].removeprefix("Bearer ")
    secrets = {
        *tokens,
        *key.decode().splitlines()[1:-1],
        *json.loads(account.read_text())["private_key"].splitlines()[1:-1],
        jwt, *jwt.split("."), oauth,
    }  # fmt: skip
    (folder,) = launches(state)
    said = {"terminal": at_terminal.text, "report --json": report.told, "report": flashcast("report").told}
    for name in PUBLIC:
        said[name] = (folder / name).read_bytes().decode("latin-1")
    said["outcomes.parquet, read"] = json.dumps(pq.read_table(folder / "outcomes.parquet").to_pylist(), default=str)
    leaks = [(name, secret[:4] + "...") for name, text in said.items() for secret in secrets if secret in text]
    assert leaks == []
    prune = (folder / "prune.csv").read_text()
    assert sum(token in prune for token in tokens) == 30, "the one file whose purpose is tokens"
    assert (folder / "prune.csv").stat().st_mode & 0o077 == 0
    assert state.stat().st_mode & 0o077 == 0
