"""FCM: OAuth tokens from a token server on this machine, over HTTPS, renewed in time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from certificates import Certificates, make_certificates
from flashcast.clock import FixedClock
from flashcast.errors import ConfigError, CredentialError, EnvironmentFault
from flashcast.providers.fcm import SCOPE, ServiceAccount, request_head

KEY = rsa.generate_private_key(65_537, 2_048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class TokenServer:
    """Hands out token-1, token-2 ...; ``answer`` replaces that with a status and a document."""

    def __init__(self, certificates: Certificates) -> None:
        self.claims: list[dict[str, Any]] = []
        self.answer: tuple[int, dict[str, Any]] | None = None
        self.lifetime_s = 3_600
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
                options = {"verify_aud": False, "verify_iat": False}
                claims = jwt.decode(form["assertion"][0], KEY.public_key(), algorithms=["RS256"], options=options)
                outer.claims.append(claims)
                token = {"access_token": f"token-{len(outer.claims)}", "expires_in": outer.lifetime_s}
                status, document = outer.answer or (200, {**token, "token_type": "Bearer"})
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.socket = certificates.server_context().wrap_socket(self._http.socket, server_side=True)
        self.uri = f"https://localhost:{self._http.server_address[1]}/token"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(certificates: Certificates) -> Iterator[TokenServer]:
    made = TokenServer(certificates)
    yield made
    made.close()


def account_file(folder: Path, token_uri: str = "https://localhost/token", **changes: object) -> Path:
    info: dict[str, object] = {
        "type": "service_account", "project_id": "project-7", "private_key_id": "1", "private_key": PEM,
        "client_email": "sender@project-7.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri, **changes,
    }  # fmt: skip
    path = folder / "service-account.json"
    path.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))
    return path


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(1_790_000_000.0)


@pytest.fixture
def account(tmp_path: Path, server: TokenServer, certificates: Certificates, clock: FixedClock) -> ServiceAccount:
    made = ServiceAccount(account_file(tmp_path, server.uri), clock, ca_file=certificates.ca_file)
    made.keep_fresh()
    return made


def test_a_token_is_asked_for_with_a_signed_claim_for_messaging_alone(
    account: ServiceAccount, server: TokenServer
) -> None:
    assert account.authorization() == "Bearer token-1"
    assert account.project_id == "project-7"
    (claims,) = server.claims
    assert claims["iss"] == "sender@project-7.iam.gserviceaccount.com"
    assert claims["scope"] == SCOPE


def test_a_token_is_renewed_five_minutes_before_it_ends(account: ServiceAccount, clock: FixedClock) -> None:
    clock.advance(3_600 - 310)
    account.keep_fresh()
    assert account.authorization() == "Bearer token-1"
    clock.advance(20)
    account.keep_fresh()
    assert account.authorization() == "Bearer token-2"


def test_a_short_token_is_renewed_at_half_its_life(
    tmp_path: Path, server: TokenServer, certificates: Certificates, clock: FixedClock
) -> None:
    server.lifetime_s = 100
    account = ServiceAccount(account_file(tmp_path, server.uri), clock, ca_file=certificates.ca_file)
    account.keep_fresh()
    clock.advance(40)
    account.keep_fresh()
    assert len(server.claims) == 1
    clock.advance(11)
    account.keep_fresh()
    assert len(server.claims) == 2


def test_a_renewal_that_fails_leaves_the_token_in_force_and_is_tried_again(
    account: ServiceAccount, server: TokenServer, clock: FixedClock
) -> None:
    server.answer = (400, {"error": "invalid_grant", "error_description": "clock skew"})
    clock.advance(3_500)
    account.keep_fresh()
    assert account.authorization() == "Bearer token-1"
    asked = len(server.claims)
    account.keep_fresh()
    assert len(server.claims) == asked, "not at every look"
    server.answer = None
    clock.advance(6)
    account.keep_fresh()
    assert account.authorization() == f"Bearer token-{asked + 1}"


def test_a_refused_token_is_renewed_and_a_second_one_refused_is_the_end(
    account: ServiceAccount, server: TokenServer
) -> None:
    first = account.authorization()
    for _ in range(100):
        assert account.refused(first), "a hundred requests in flight are refused with one token"
    account.keep_fresh()
    second = account.authorization()
    assert second == "Bearer token-2"
    assert account.refused(first), "late answers to the old token"
    assert not account.refused(second)
    assert not account.refused(second)


def test_a_token_that_served_in_between_makes_a_refusal_a_first_one_again(
    account: ServiceAccount, clock: FixedClock
) -> None:
    assert account.refused(account.authorization())
    account.keep_fresh()
    clock.advance(3_500)
    account.keep_fresh()
    assert account.authorization() == "Bearer token-3"
    assert account.refused(account.authorization())


def test_a_token_server_that_refuses_is_told_with_its_words(
    tmp_path: Path, server: TokenServer, certificates: Certificates, clock: FixedClock
) -> None:
    server.answer = (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
    account = ServiceAccount(account_file(tmp_path, server.uri), clock, ca_file=certificates.ca_file)
    with pytest.raises(CredentialError, match=r"refused the service account: .*Invalid JWT Signature") as fault:
        account.keep_fresh()
    assert "PRIVATE KEY" not in str(fault.value)


def test_a_token_server_that_is_not_there_is_an_environment_fault(
    tmp_path: Path, certificates: Certificates, clock: FixedClock
) -> None:
    gone = TokenServer(certificates)
    gone.close()
    account = ServiceAccount(account_file(tmp_path, gone.uri), clock, ca_file=certificates.ca_file)
    with pytest.raises(EnvironmentFault, match="cannot reach the token server") as fault:
        account.keep_fresh()
    assert fault.value.retryable
    assert gone.uri in fault.value.message
    assert "object at 0x" not in fault.value.message


def test_a_token_server_with_another_authority_is_not_trusted(
    tmp_path: Path, server: TokenServer, clock: FixedClock
) -> None:
    other = make_certificates(tmp_path)
    account = ServiceAccount(account_file(tmp_path, server.uri), clock, ca_file=other.ca_file)
    with pytest.raises(EnvironmentFault, match="certificate verify failed") as fault:
        account.keep_fresh()
    assert "fcm.ca_file" in fault.value.remedy


@pytest.mark.parametrize("lacking", ["client_email", "private_key", "token_uri"])
def test_what_a_service_account_lacks_is_named(tmp_path: Path, clock: FixedClock, lacking: str) -> None:
    with pytest.raises(CredentialError, match=f"lacks {lacking}"):
        ServiceAccount(account_file(tmp_path, **{lacking: None}), clock)


def test_a_service_account_without_a_project_needs_the_setting(tmp_path: Path, clock: FixedClock) -> None:
    file = account_file(tmp_path, project_id=None)
    with pytest.raises(ConfigError, match=r"fcm.project_id is not set"):
        ServiceAccount(file, clock)
    assert ServiceAccount(file, clock, project_id="mine").project_id == "mine"


@pytest.mark.parametrize("key", ["words", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 7, None])
def test_a_service_account_with_a_broken_key_is_refused_without_showing_it(
    tmp_path: Path, clock: FixedClock, key: object
) -> None:
    file = account_file(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "private_key": key}))
    with pytest.raises(CredentialError, match="is not a usable service account") as fault:
        ServiceAccount(file, clock)
    assert "AAAA" not in str(fault.value)


@pytest.mark.parametrize(("content", "told"), [
    (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[]", "lacks client_email"), (b'"x"', "lacks client_email"),
])  # fmt: skip
def test_what_is_no_service_account_is_told(tmp_path: Path, clock: FixedClock, content: bytes, told: str) -> None:
    file = tmp_path / "service-account.json"
    file.write_bytes(content)
    with pytest.raises(CredentialError, match=told):
        ServiceAccount(file, clock)
    with pytest.raises(CredentialError, match="cannot read"):
        ServiceAccount(tmp_path / "none.json", clock)


def test_the_head_of_a_request_names_the_project() -> None:
    assert request_head("fcm.googleapis.com", "project-7")[-1] == (":path", "/v1/projects/project-7/messages:send")


def test_nothing_about_an_account_shows_its_token(account: ServiceAccount) -> None:
    assert "token-1" not in repr(account)
