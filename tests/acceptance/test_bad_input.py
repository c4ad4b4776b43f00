"""What is wrong is said by name, with what to do; the exit code tells its kind; nothing is left behind."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from processes import Finished, balanced, campaign, devices, flashcast, launches
from receivers import h2_server, service_account, token_server

from certificates import make_certificates, private_pem, self_signed
from flashcast.simulator.process import SimulatorProcess


@dataclass
class Given:
    """A launch that would succeed; each case spoils one thing of it."""

    folder: Path
    config: Path
    options: list[object] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None

    @property
    def campaign(self) -> Path:
        return self.folder / "campaign.toml"

    @property
    def table(self) -> Path:
        return self.folder / "devices.parquet"

    def edit_campaign(self, old: str, new: str) -> None:
        text = self.campaign.read_text()
        assert old in text
        self.campaign.write_text(text.replace(old, new))

    def edit_config(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def rewrite(self, **columns: list[str] | None) -> None:
        """Replaces columns of the table; None removes one."""
        table = pq.read_table(self.table)
        for name, values in columns.items():
            at = table.column_names.index(name)
            table = table.remove_column(at)
            if values is not None:
                table = table.add_column(at, name, pa.array(values))
        pq.write_table(table, self.table)

    def launch(self, *more: object) -> Finished:
        return flashcast(
            "launch", self.campaign, "-a", self.table, "--to", self.config, "--yes", *self.options, *more,
            env=self.env, before=self.before,
        )  # fmt: skip


@pytest.fixture
def given(tmp_path: Path, simulator: SimulatorProcess) -> Given:
    devices(tmp_path / "devices.parquet", 40)
    campaign(tmp_path / "campaign.toml")
    config = simulator.folder / "copy.toml"
    config.write_text(simulator.config_path.read_text())
    return Given(tmp_path, config)


def no_token_column(given: Given) -> None:
    given.rewrite(token=None)


def no_platform_column(given: Given) -> None:
    given.rewrite(platform=None)


def empty_file(given: Given) -> None:
    given.table.write_bytes(b"")


def truncated_parquet(given: Given) -> None:
    given.table.write_bytes(given.table.read_bytes()[:-2_000])


def no_rows(given: Given) -> None:
    pq.write_table(pq.read_table(given.table).slice(0, 0), given.table)


def every_token_wrong(given: Given) -> None:
    given.rewrite(token=["no token!"] * 40)


def unknown_field(given: Given) -> None:
    given.edit_campaign('alert.title = "Kick-off"', 'alert.title = "{{first_nam}}, kick-off"')


def field_too_long(given: Given) -> None:
    given.edit_campaign('alert.title = "Kick-off"', 'alert.title = "{{user_id}}, kick-off"')
    given.rewrite(user_id=["u" * 5_000] * 40)


def payload_of_4097_bytes(given: Given) -> None:
    frame = len('{"aps":{"alert":{"title":"Kick-off","body":""}}}')
    given.edit_campaign('alert.body = "The match begins now."', f'alert.body = "{"b" * (4_097 - frame)}"')


def not_a_campaign(given: Given) -> None:
    given.campaign.write_bytes(b"\x89PNG\r\n")


def unknown_campaign_key(given: Given) -> None:
    given.edit_campaign('alert.title = "Kick-off"', 'alert.titel = "Kick-off"')


def unknown_setting(given: Given) -> None:
    given.edit_config("key_id", "key_idd")


def no_key_id(given: Given) -> None:
    lines = given.config.read_text().splitlines()
    given.config.write_text("\n".join(line for line in lines if not line.startswith("key_id")))


def config_is_no_toml(given: Given) -> None:
    given.config.write_text("apns: yes")


def no_such_config(given: Given) -> None:
    given.config = given.folder / "nowhere.toml"


def no_section(given: Given) -> None:
    given.config.write_text(given.config.read_text().split("[fcm]")[0])


def key_file_is_missing(given: Given) -> None:
    given.env = {"FLASHCAST_APNS__KEY_FILE": str(given.folder / "gone.p8")}


def key_is_no_key(given: Given) -> None:
    (given.folder / "bad.p8").write_text("-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n")
    given.env = {"FLASHCAST_APNS__KEY_FILE": str(given.folder / "bad.p8")}


def certificate_has_expired(given: Given) -> None:
    now = datetime.now(UTC)
    (given.folder / "push.pem").write_bytes(self_signed(now - timedelta(days=400), now - timedelta(days=35)))
    text = given.config.read_text()
    apns, fcm = text.split("[fcm]")
    apns = "\n".join(line for line in apns.splitlines() if not line.startswith(("key", "team")))
    given.config.write_text(f'{apns}\ncertificate_file = "{given.folder / "push.pem"}"\n[fcm]{fcm}')


def nobody_listens(given: Given) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given.env = {"FLASHCAST_APNS__ENDPOINT": f"https://127.0.0.1:{port}"}


def no_such_host(given: Given) -> None:
    given.env = {"FLASHCAST_APNS__ENDPOINT": "https://push.example.invalid"}


def endpoint_is_no_url(given: Given) -> None:
    given.env = {"FLASHCAST_APNS__ENDPOINT": "push.example.com"}


def wrong_ca(given: Given) -> None:
    given.env = {"FLASHCAST_APNS__CA_FILE": str(make_certificates(given.folder).ca_file)}


def ca_is_no_certificate(given: Given) -> None:
    given.env = {"FLASHCAST_APNS__CA_FILE": str(given.campaign)}


def unknown_profile(given: Given) -> None:
    given.options = ["--to", "simulator", "--profile", "idael"]


def no_audience(given: Given) -> None:
    given.table.unlink()


def damaged_snapshot(given: Given) -> None:
    sealed = flashcast("seal", given.campaign, "-a", given.table, "--out", given.folder / "s")
    assert sealed.code == 0, sealed.told
    shard = next((given.folder / "s").glob("*.shard"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)


def state_is_a_file(given: Given) -> None:
    given.options = ["--state", given.table]


def disk_is_full_while_sealing(given: Given) -> None:
    devices(given.table, 60_000)
    given.before = limited(1_500_000)


def limited(size: int) -> Callable[[], None]:
    """No file may grow beyond ``size``: what EFBIG is to one process, a full disk is to all."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


CASES: list[tuple[Callable[[Given], None], int, tuple[str, ...]]] = [
    (no_token_column, 2, ("no column for the device token", "--map token=COLUMN")),
    (no_platform_column, 2, ("no column for the platform", "--map platform=COLUMN")),
    (empty_file, 2, ("devices.parquet", "empty")),
    (truncated_parquet, 2, ("devices.parquet", "cut short")),
    (no_rows, 2, ("the audience has no rows", "Check the file")),
    (every_token_wrong, 2, ("bad_token 40", "hexadecimal")),
    (unknown_field, 2, ("'first_nam'", "first_name", "--map")),
    (field_too_long, 2, ("4,096", "--drop-too-large")),
    (payload_of_4097_bytes, 2, ("4,097", "4,096", "apns")),
    (not_a_campaign, 2, ("campaign.toml:1", "campaign.md")),
    (unknown_campaign_key, 2, ("campaign.toml:", "titel", "title")),
    (unknown_setting, 2, ("key_idd",)),
    (no_key_id, 2, ("key_id missing", "apns")),
    (config_is_no_toml, 2, ("copy.toml", "TOML")),
    (no_such_config, 2, ("nowhere.toml", "simulator, sandbox, production")),
    (no_section, 2, ("[fcm]", "flashcast.toml")),
    (key_file_is_missing, 4, ("apns.key_file", "gone.p8")),
    (key_is_no_key, 4, ("apns.key_file", "bad.p8", "AuthKey")),
    (certificate_has_expired, 4, ("apns.certificate_file", "push.pem", "expired on 20", "new certificate")),
    (nobody_listens, 3, ("127.0.0.1", "refused", "endpoint")),
    (no_such_host, 3, ("push.example.invalid", "endpoint")),
    (endpoint_is_no_url, 2, ("apns.endpoint", "push.example.com", "https://")),
    (wrong_ca, 3, ("certificate", "ca_file")),
    (ca_is_no_certificate, 2, ("ca_file", "campaign.toml")),
    (unknown_profile, 2, ("idael", "ideal, realistic, hostile")),
    (no_audience, 2, ("devices.parquet", "Check the path")),
    (state_is_a_file, 3, ("devices.parquet", "--state")),
    (disk_is_full_while_sealing, 3, ("snapshot", "bytes are needed", "Free some space")),
]


@pytest.mark.parametrize(("spoil", "code", "names"), CASES, ids=[case[0].__name__ for case in CASES])
def test_it_is_named_with_a_remedy_and_nothing_is_left(
    spoil: Callable[[Given], None], code: int, names: tuple[str, ...], given: Given, state: Path,
    simulator: SimulatorProcess,
) -> None:  # fmt: skip
    received = simulator.counts()["received"]
    spoil(given)
    done = given.launch()
    assert done.code == code, done.told
    assert "Traceback" not in done.told
    assert [name for name in names if name not in done.err] == [], done.err
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert len(done.err.strip().splitlines()) >= 2 or ":" in done.err[7:], "what is wrong, then what to do"
    assert launches(state) == []
    assert simulator.counts()["received"] == received


def test_an_error_is_json_where_json_was_asked_for(given: Given, state: Path) -> None:
    key_is_no_key(given)
    done = given.launch("--json")
    assert done.code == 4
    assert set(done.document) == {"error"}
    assert done.document["error"]["kind"] == "CredentialError"
    assert "apns.key_file" in done.document["error"]["message"]
    assert "AuthKey" in done.document["error"]["remedy"]
    assert done.err == ""


def test_a_damaged_snapshot_is_refused(given: Given, state: Path) -> None:
    damaged_snapshot(given)
    done = flashcast("launch", given.folder / "s", "--to", given.config, "--yes")
    assert done.code == 2, done.told
    assert "changed after sealing" in done.err
    assert launches(state) == []


def test_a_full_disk_for_the_journal_is_named(given: Given, state: Path, simulator: SimulatorProcess) -> None:
    received = simulator.counts()["received"]
    devices(given.folder / "many.parquet", 200_000)  # a journal of 1.4 MB; what the engine writes stays far below
    sealed = flashcast("seal", given.campaign, "-a", given.folder / "many.parquet", "--out", given.folder / "s")
    assert sealed.code == 0, sealed.told
    words = ("launch", given.folder / "s", "--to", given.config, "--yes")
    ready = flashcast(*words, "--dry-run")  # the kernels' cache is on the same disk
    assert ready.code == 0, ready.told
    done = flashcast(*words, before=limited(700_000))
    assert done.code == 3, done.told
    assert "journal" in done.err
    assert "Free disk space" in done.err
    assert launches(state) == []
    assert simulator.counts()["received"] == received


def test_a_token_with_a_wrong_character_is_left_out_and_told(given: Given, state: Path) -> None:
    tokens = [str(token) for token in pq.read_table(given.table).column("token").to_pylist()]
    tokens[3], tokens[30] = tokens[3][:-1] + "g" if len(tokens[3]) == 64 else tokens[3] + "!", tokens[30] + '"'
    given.rewrite(token=tokens)
    done = given.launch("--json")
    assert done.code == 0, done.told
    assert done.document["devices"] == 38
    (folder,) = launches(state)
    manifest = json.loads((folder / "snapshot" / "manifest.json").read_text())
    assert sum(manifest["counts"]["dropped"].values()) == 2
    dropped = pq.read_table(folder / "snapshot" / manifest["dropped"]["file"]).to_pylist()
    assert len(dropped) == 2


def test_a_payload_of_4096_bytes_is_sent(given: Given, state: Path) -> None:
    frame = len('{"aps":{"alert":{"title":"Kick-off","body":""}}}')
    given.edit_campaign('alert.body = "The match begins now."', f'alert.body = "{"b" * (4_096 - frame)}"')
    done = given.launch("--json")
    assert done.code == 0, done.told
    assert done.document["outcomes"]["accepted"] == 40


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = flashcast("simulate", "--dir", tmp_path / "simulator", "--apns-port", port)
    assert done.code == 3, done.told
    assert str(port) in done.err
    assert "in use" in done.err
    assert "Traceback" not in done.err


def test_a_key_the_provider_does_not_know_stops_its_part_of_the_launch(
    given: Given, state: Path, realistic: SimulatorProcess
) -> None:
    given.config = realistic.config_path  # as APNs does, it allows one stream until a token is good
    (given.folder / "other.p8").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    given.env = {"FLASHCAST_APNS__KEY_FILE": str(given.folder / "other.p8")}
    done = given.launch("--json")
    assert done.code == 1, done.told
    document = done.document
    assert balanced(document)
    apns, fcm = document["providers"]["apns"], document["providers"]["fcm"]
    assert apns["stopped"] == "InvalidProviderToken"
    assert apns["outcomes"]["accepted"] == 0
    assert apns["outcomes"]["unsent"] > 0
    assert apns["outcomes"]["unsent"] + apns["outcomes"]["rejected"] == apns["devices"]
    assert fcm["stopped"] is None
    assert fcm["outcomes"]["accepted"] + fcm["outcomes"]["rejected"] == fcm["devices"]
    assert any("InvalidProviderToken" in warning for warning in document["warnings"])


def test_a_service_account_that_is_refused_is_named(given: Given, state: Path) -> None:
    with token_server(refusal={"error": "invalid_grant", "error_description": "Invalid JWT Signature."}) as uri:
        given.env = {"FLASHCAST_FCM__SERVICE_ACCOUNT_FILE": str(service_account(given.folder / "a.json", uri))}
        done = given.launch()
    assert done.code == 4, done.told
    assert "invalid_grant" in done.err
    assert uri in done.err
    assert "PRIVATE KEY" not in done.told
    assert launches(state) == []


def test_a_server_that_speaks_no_http2_is_named(given: Given, state: Path) -> None:
    made = make_certificates(given.folder)
    with h2_server(made.server_context("http/1.1")) as old:
        given.env = {"FLASHCAST_APNS__ENDPOINT": old.url, "FLASHCAST_APNS__CA_FILE": str(made.ca_file)}
        done = given.launch()
    assert done.code == 3, done.told
    assert "HTTP/2" in done.err
    assert launches(state) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_folder_that_is_read_only_is_named(given: Given, state: Path) -> None:
    state.mkdir(mode=0o500)
    done = given.launch()
    assert done.code == 3, done.told
    assert str(state) in done.err
