"""`flashcast simulate` as a process: ready line, books, and an end in every case."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from simulator_support import BODY, device, provider_token

from flashcast.config import load_config
from flashcast.digest import fingerprints
from flashcast.errors import ConfigError, EnvironmentFault, ExitCode, SnapshotError
from flashcast.model import Provider
from flashcast.outcomes import Reason
from flashcast.simulator.credentials import prepare_credentials
from flashcast.simulator.ledger import Ledger, load_ledger
from flashcast.simulator.process import SimulatorProcess

COMMAND = [sys.executable, "-m", "flashcast", "simulate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("process")


@pytest.fixture
def running(folder: Path) -> Iterator[SimulatorProcess]:
    with SimulatorProcess(folder, "ideal", seed=4) as process:
        yield process


def _post(process: SimulatorProcess, numbers: list[int]) -> set[int]:
    made = prepare_credentials(process.folder)
    headers = {
        "authorization": f"bearer {provider_token(made, time.time())}",
        "apns-topic": "com.example.app",
    }
    trust = ssl.create_default_context(cafile=made.ca_file)
    with httpx.Client(http2=True, verify=trust, trust_env=False) as client:
        urls = [f"{process.ready['apns']}/3/device/{device(n)}" for n in numbers]
        return {client.post(url, headers=headers, content=BODY).status_code for url in urls}


def _fingerprint(token: str) -> int:
    out = np.zeros(1, np.uint64)
    fingerprints(np.frombuffer(token.encode(), np.uint8), np.array([0, len(token)], np.uint32), out)
    return int(out[0])


def test_a_process_tells_where_it_is_and_gives_its_books_at_the_end(running: SimulatorProcess) -> None:
    assert running.ready["seed"] == 4
    assert _post(running, [1, 2, 3, 3]) == {200}
    assert running.counts()["received"] == 4
    books = running.stop()
    assert (books.received, books.distinct, books.duplicates, books.malformed) == (4, 3, 1, 0)
    by_token = dict(zip(books.fingerprint.tolist(), books.received_by_token.tolist(), strict=True))
    assert by_token == {_fingerprint(device(n)): count for n, count in ((1, 1), (2, 1), (3, 2))}


def test_the_senders_configuration_fits_the_profile(running: SimulatorProcess) -> None:
    config = load_config(running.config_path)
    assert config.apns is not None
    assert config.fcm is not None
    assert (config.apns.endpoint, config.fcm.endpoint) == (running.ready["apns"], running.ready["fcm"])
    assert (config.apns.streams, config.apns.reply_deadline_s) == (1_000, 10.0)
    assert config.fcm.quota_per_minute == 0, "the profile has no quota, whatever Google's default is"
    account = json.loads(config.fcm.service_account_file.read_text())
    assert account["token_uri"] == f"{running.ready['oauth']}/token"


def test_private_keys_are_readable_by_their_owner_alone(running: SimulatorProcess) -> None:
    secret = [
        p for p in running.folder.iterdir() if "key" in p.name.lower() or p.name == "service-account.json"
    ]
    assert len(secret) >= 4
    assert {stat.S_IMODE(p.stat().st_mode) for p in secret} == {0o600}


def test_credentials_are_used_again_and_renewed_for_another_host(folder: Path) -> None:
    first = prepare_credentials(folder)
    before = {p.name: p.read_bytes() for p in (first.ca_file, first.apns_key, first.server_certificate)}
    again = prepare_credentials(folder)
    assert {
        p.name: p.read_bytes() for p in (again.ca_file, again.apns_key, again.server_certificate)
    } == before
    other = prepare_credentials(folder, "10.1.2.3")
    assert other.server_certificate.read_bytes() != before["server.pem"]
    assert other.ca_file.read_bytes() == before["ca.pem"]


def test_damaged_credentials_are_told_with_a_remedy(tmp_path: Path) -> None:
    prepare_credentials(tmp_path)
    (tmp_path / "service-account.json").write_text("{}")
    with pytest.raises(EnvironmentFault, match="damaged") as caught:
        prepare_credentials(tmp_path)
    assert "Delete the folder" in caught.value.remedy


def test_one_provider_alone_can_be_started(folder: Path) -> None:
    with SimulatorProcess(folder, providers=(Provider.APNS,)) as process:
        assert process.ready["fcm"] is None
        assert load_config(process.config_path).fcm is None


def test_a_port_in_use_is_an_environment_fault_with_exit_code_3(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = subprocess.run(
            [*COMMAND, "--dir", str(folder), "--apns-port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert told.returncode == ExitCode.ENVIRONMENT
    assert f"port {port} on 127.0.0.1 is in use" in told.stderr


def test_a_fault_of_the_child_reaches_the_parent_as_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="neither built in nor a file"):
        SimulatorProcess(folder, "idael").start()


def test_an_address_others_can_reach_is_warned_of(folder: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(folder), "--host", "0.0.0.0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert "can be reached from other machines" in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_the_counts(folder: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([*COMMAND, "--dir", str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "https://127.0.0.1:" in process.stdout.readline()
    while "Ctrl-C ends it" not in process.stdout.readline():
        pass
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "duplicates" in rest


def test_the_simulator_ends_with_its_parent(folder: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from flashcast.simulator.process import SimulatorProcess\n"
        f"s = SimulatorProcess(Path({str(folder)!r})).start(); print(s._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while _alive(child):
        assert time.monotonic() < deadline, "the simulator outlived its parent"
    parent.stdout.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # An orphan that nobody waits for stays in the process table; its state tells.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_ledger_grows_without_losing_a_token(tmp_path: Path) -> None:
    ledger = Ledger()
    slots = ledger.table.size // 2
    rng = np.random.default_rng(3)
    keys = np.unique(rng.integers(1, 2**63, 50_000, dtype=np.uint64))
    for key in keys:
        at = int(key) & (slots - 1)
        while ledger.table[2 * at]:
            at = (at + 1) % slots
        ledger.table[2 * at] = key
        ledger.table[2 * at + 1] = np.uint64(1 << 56 | Reason.UNREGISTERED.code << 48 | 1 << 32 | 2 << 16 | 3)
    ledger.totals[0] = keys.size
    ledger.room_for(1_000_000)
    assert ledger.table.size // 2 > slots
    ledger.save(tmp_path / "ledger.npz")
    books = load_ledger(tmp_path / "ledger.npz")
    assert np.array_equal(np.sort(books.fingerprint), keys)
    assert set(books.judged.tolist()) == {3}
    assert set(books.received_by_token.tolist()) == {2}
    assert set(books.accepted_by_token.tolist()) == {1}
    assert set(books.reason.tolist()) == {Reason.UNREGISTERED.code}


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(SnapshotError, match=r"not a simulator's ledger"):
        load_ledger(tmp_path / "ledger.npz")
