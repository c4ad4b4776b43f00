"""Clients that nobody here wrote, over real sockets and TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import requests
from aioapns import APNs, NotificationRequest
from google.auth.transport.requests import Request
from google.oauth2 import service_account
from simulator_support import BODY, PATH, device, fcm_body, provider_token, registration

from flashcast.simulator.credentials import KEY_ID, TEAM_ID
from flashcast.simulator.process import InProcessSimulator, serve_in_thread

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessSimulator]:
    with serve_in_thread(tmp_path_factory.mktemp("strangers")) as running:
        yield running


def _trust(simulator: InProcessSimulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=simulator.credentials.ca_file)


def _apns(simulator: InProcessSimulator) -> str:
    return str(simulator.addresses.url(simulator.addresses.apns))


def _curl(simulator: InProcessSimulator, curl: str, url: str, *options: str) -> tuple[str, str]:
    """The body, and the HTTP version with the status."""
    told = subprocess.run(
        [curl, "--silent", "--show-error", "--http2", "--cacert", str(simulator.credentials.ca_file),
         "--write-out", "\n%{http_version} %{http_code}", *options, url],
        check=True, capture_output=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    body, _, last = told.rpartition("\n")
    return body, last


def test_curl_is_accepted(simulator: InProcessSimulator, require_command: Callable[[str], str]) -> None:
    token = provider_token(simulator.credentials, time.time())
    headers = [f"authorization: bearer {token}", "apns-topic: com.example.app", "apns-push-type: alert"]
    options = [word for header in headers for word in ("--header", header)]
    url = f"{_apns(simulator)}/3/device/{device(1)}"
    body, status = _curl(simulator, require_command("curl"), url, *options, "--data", BODY.decode())
    assert (body, status) == ("", "2 200")


def test_curl_with_a_bad_token_is_refused(
    simulator: InProcessSimulator, require_command: Callable[[str], str]
) -> None:
    curl = require_command("curl")
    now = time.time()
    for token, reason in (
        (provider_token(simulator.credentials, now - 4_000), "ExpiredProviderToken"),
        (provider_token(simulator.credentials, now, key_id="OTHERKEY00"), "InvalidProviderToken"),
        (provider_token(simulator.credentials, now)[:-6] + "AAAAAA", "InvalidProviderToken"),
    ):
        url = f"{_apns(simulator)}/3/device/{device(2)}"
        options = ("--header", f"authorization: bearer {token}", "--header", "apns-topic: com.example.app")
        body, status = _curl(simulator, curl, url, *options, "--data", BODY.decode())
        assert (json.loads(body), status) == ({"reason": reason}, "2 403")


def test_curl_with_a_client_certificate_is_accepted(
    simulator: InProcessSimulator, require_command: Callable[[str], str]
) -> None:
    made = simulator.credentials
    options = (
        "--cert",
        str(made.client_certificate),
        "--key",
        str(made.client_key),
        "--header",
        "apns-topic: com.example.app",
    )
    url = f"{_apns(simulator)}/3/device/{device(3)}"
    assert _curl(simulator, require_command("curl"), url, *options, "--data", BODY.decode()) == ("", "2 200")


def test_aioapns_is_accepted(simulator: InProcessSimulator) -> None:
    async def send() -> list[bool]:
        client = APNs(
            key=simulator.credentials.apns_key.read_text(), key_id=KEY_ID, team_id=TEAM_ID, topic="com.example.app",
            ssl_context=_trust(simulator),
        )  # fmt: skip
        pool = client.pool
        # The library keeps its endpoint in the class of its connections.
        here = {"APNS_SERVER": "127.0.0.1", "APNS_PORT": simulator.addresses.apns}
        pool.protocol_class = type("Here", (pool.protocol_class,), here)
        results = [
            await client.send_notification(
                NotificationRequest(device_token=device(n), message={"aps": {"alert": "1:0"}})
            )
            for n in range(100, 110)
        ]
        pool.close()
        return [result.is_successful for result in results]

    assert asyncio.run(asyncio.wait_for(send(), 30)) == [True] * 10


def test_google_auth_and_httpx_are_accepted(simulator: InProcessSimulator) -> None:
    made = simulator.credentials
    account = service_account.Credentials.from_service_account_file(str(made.service_account), scopes=[SCOPE])
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(made.ca_file)
        account.refresh(Request(session))
    assert account.expiry is not None
    url = f"{simulator.addresses.url(simulator.addresses.fcm)}{PATH}"
    with httpx.Client(http2=True, verify=_trust(simulator), trust_env=False) as client:
        headers = {"authorization": f"Bearer {account.token}", "content-type": "application/json"}
        replies = [client.post(url, headers=headers, content=fcm_body(registration(n))) for n in range(20)]
        refused = client.post(
            url, headers=headers | {"authorization": "Bearer no"}, content=fcm_body(registration(1))
        )
    assert {(reply.http_version, reply.status_code) for reply in replies} == {("HTTP/2", 200)}
    assert len({reply.json()["name"] for reply in replies}) == 20
    assert refused.json()["error"]["status"] == "UNAUTHENTICATED"


def test_h2load_has_every_request_answered(
    simulator: InProcessSimulator, require_command: Callable[[str], str], tmp_path: Path
) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(BODY)
    before = simulator.counts().accepted
    token = provider_token(simulator.credentials, time.time())
    told = subprocess.run(
        [require_command("h2load"), "-n", "5000", "-c", "4", "-m", "100", "-d", str(body),
         "-H", f"authorization: bearer {token}", "-H", "apns-topic: com.example.app",
         f"{_apns(simulator)}/3/device/{device(7)}"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert simulator.counts().accepted - before == 5_000


def test_a_client_that_speaks_http_1_is_turned_away(simulator: InProcessSimulator) -> None:
    with (
        httpx.Client(verify=_trust(simulator), trust_env=False) as client,
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError)),
    ):
        client.post(_apns(simulator), content=b"{}")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/token", "grant_type=password", 400),
        ("GET", "/token", "", 405),
        ("POST", "/elsewhere", "", 404),
        ("POST", "/token", "x" * 70_000, 413),
    ],
)
def test_the_token_endpoint_refuses_what_is_no_token_request(
    simulator: InProcessSimulator, method: str, path: str, body: str, status: int
) -> None:
    url = f"{simulator.addresses.url(simulator.addresses.oauth)}{path}"
    with httpx.Client(verify=_trust(simulator), trust_env=False) as client:
        reply = client.request(method, url, content=body)
    assert reply.status_code == status
    assert "error" in reply.json()


def test_replies_of_one_byte_per_record_and_slow_reads_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(
        "[apns]\nsplit_every = 1\nsplit_bytes = 65536\nslow_read_share = 1.0\nslow_read_bytes_per_ms = 500\n"
    )
    with serve_in_thread(tmp_path / "simulator", path) as odd:
        token = provider_token(odd.credentials, time.time())
        headers = {"authorization": f"bearer {token}", "apns-topic": "com.example.app"}
        with httpx.Client(http2=True, verify=_trust(odd), trust_env=False) as client:
            replies = [
                client.post(f"{_apns(odd)}/3/device/{device(n)}", headers=headers, content=BODY)
                for n in range(20)
            ]
        assert {reply.status_code for reply in replies} == {200}
        assert odd.counts().accepted == 20
