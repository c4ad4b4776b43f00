"""The plain transport: whatever a server does, there is an answer or a `TransportError`, and it ends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from zombie_server import Place, Way, says, serving, status, without_an_answer

from certificates import make_certificates
from flashcast.zombie.client import http
from flashcast.zombie.client.http import HttpRequest, TransportError, urllib_transport

WAYS = without_an_answer()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with serving() as made:
        yield made


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_answer_is_a_transport_error_by_the_deadline(place: Place, way: Way) -> None:
    place.way = way
    request = HttpRequest("GET", f"{place.url}/shop.json", timeout_s=0.5, response_bytes_max=100_000)
    with pytest.raises(TransportError) as caught:
        urllib_transport(request)
    assert caught.value.retryable


@pytest.mark.parametrize("code", [200, 204, 301, 302, 307, 401, 404, 418, 429, 500, 503])
def test_every_answer_is_given_as_it_is(place: Place, code: int) -> None:
    place.way = status(code, b"" if code == 204 else b"body", {"Location": "/other", "Retry-After": "7"})
    answer = urllib_transport(HttpRequest("GET", f"{place.url}/shop.json"))
    assert (answer.status, answer.body) == (code, b"" if code == 204 else b"body")
    assert answer.headers["retry-after"] == "7"


def test_a_body_of_exactly_the_bound_is_taken(place: Place) -> None:
    place.way = status(200, b"x" * 1_000)
    address = f"{place.url}/shop.json"
    assert len(urllib_transport(HttpRequest("GET", address, response_bytes_max=1_000)).body) == 1_000
    with pytest.raises(TransportError, match="more than 999 bytes"):
        urllib_transport(HttpRequest("GET", address, response_bytes_max=999))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://no-such-host.invalid/", "http://[::1", "nonsense", "file:///etc/passwd"]
)
def test_an_address_without_a_server_is_a_transport_error(url: str) -> None:
    with pytest.raises(TransportError):
        urllib_transport(HttpRequest("GET", url, timeout_s=2))


def test_a_server_that_accepts_nothing_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(TransportError, match="no answer"):
            urllib_transport(HttpRequest("GET", address, timeout_s=0.3))


def test_a_status_line_counts_whatever_breaks_off_after_it(place: Place) -> None:
    place.way = says(b"HTTP/1.1 200 OK\r\nContent-Le")
    assert urllib_transport(HttpRequest("GET", f"{place.url}/shop.json")).status == 200


def test_tls_is_spoken_and_has_the_same_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = make_certificates(tmp_path)
    monkeypatch.setattr(http, "_TLS", [ssl.create_default_context(cafile=certificates.ca_file)])
    with serving(certificates.server_context()) as secure:
        request = HttpRequest("GET", f"{secure.url}/shop.json", timeout_s=0.5)
        secure.way = status(200, b"body")
        assert urllib_transport(request).body == b"body"
        for name in ("drips headers", "drips a body", "says nothing", "breaks off in the body"):
            secure.way = WAYS[name]
            with pytest.raises(TransportError):
                urllib_transport(request)
        monkeypatch.setattr(http, "_TLS", [])
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib_transport(request)


def test_writes_carry_their_body_and_headers(place: Place) -> None:
    request = HttpRequest("POST", f"{place.url}/w", {"Idempotency-Key": "k1"}, b"payload")
    assert urllib_transport(request).status == 200
    key, headers, body = place.writes[-1]
    assert (key, body) == ("k1", b"payload")
    assert "expect" not in headers


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (HttpRequest("GE T", "http://x/"), "is no HTTP method"),
        (HttpRequest("GET", "ftp://x/"), "http:// or https://"),
        (HttpRequest("GET", "http://x/a b"), "http:// or https://"),
        (HttpRequest("GET", "http://x/", {"a b": "c"}), "'a b' cannot be sent"),
        (HttpRequest("GET", "http://x/", {"a": "b\r\nc: d"}), "'a' cannot be sent"),
        (HttpRequest("GET", "http://x/", {"a": "\u00e9"}), "'a' cannot be sent"),
        (HttpRequest("GET", "http://x/?q=1", {"a": "b c", "d": ""}), ""),
    ],
)
def test_a_request_that_could_never_be_sent_is_told(request_: HttpRequest, told: str) -> None:
    assert told in request_.fault
    assert bool(request_.fault) == bool(told)


def test_headers_are_set_whatever_the_case() -> None:
    request = HttpRequest("GET", "http://x/", {"ACCEPT": "a", "b": "c"}).with_headers({"Accept": "d"})
    assert request.headers == {"b": "c", "Accept": "d"}
