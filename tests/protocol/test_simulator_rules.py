"""What the simulated providers answer to good and bad requests."""

from __future__ import annotations

import json

import pytest
from simulator_support import (
    BODY,
    PATH,
    TOKEN_URI,
    Bench,
    RawClient,
    assertion,
    bench,
    device,
    fcm_body,
    provider_token,
    registration,
)

from flashcast.model import Provider
from flashcast.outcomes import APNS_STATUS, Reason
from flashcast.simulator.auth import GRANT, FcmGate
from flashcast.simulator.credentials import CLIENT_EMAIL, Credentials
from flashcast.simulator.profile import ProviderProfile


def _apns(at: Bench, body: bytes = BODY, **changes: str | None) -> tuple[int, str]:
    status, headers, answer = RawClient(at).ask(at.headers(**changes), body)
    assert any(name == "apns-id" for name, _ in headers)
    return status, json.loads(answer)["reason"] if answer else ""


def _fcm(at: Bench, body: bytes, **changes: str | None) -> tuple[int, str]:
    status, _, answer = RawClient(at).ask(at.headers(**changes), body)
    document = json.loads(answer)
    if status == 200:
        return status, document["name"]
    error = document["error"]
    assert error["code"] == status
    details = error.get("details", [])
    return status, details[0]["errorCode"] if details else error["status"]


def test_apns_accepts_a_good_request_with_an_id_of_its_own(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS))
    replies = [client.ask(client.bench.headers(n), BODY) for n in range(20)]
    assert {(status, body) for status, _, body in replies} == {(200, b"")}
    ids = {dict(headers)["apns-id"] for _, headers, _ in replies}
    assert len(ids) == 20
    assert all(len(name) == 36 and name.count("-") == 4 for name in ids)


def test_apns_gives_back_the_id_of_a_request_that_brought_one(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS))
    for name in ("EC1BF194-B3B2-424A-89A9-5A918A6E6B5D", "ec1bf194-b3b2-424a-89a9-5a918a6e6b5d"):
        _, headers, _ = client.ask(client.bench.headers(apns_id=name), BODY)
        assert dict(headers)["apns-id"] == name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"p_path": "/3/devices/abc"}, Reason.BAD_PATH),
        ({"p_path": "/"}, Reason.BAD_PATH),
        ({"p_path": "/3/device/"}, Reason.MISSING_DEVICE_TOKEN),
        ({"p_path": "/3/device/xyz"}, Reason.BAD_DEVICE_TOKEN),
        ({"p_path": "/3/device/abcd"}, Reason.BAD_DEVICE_TOKEN),
        ({"p_method": "GET"}, Reason.METHOD_NOT_ALLOWED),
        ({"authorization": None}, Reason.MISSING_PROVIDER_TOKEN),
        ({"authorization": "basic abc"}, Reason.INVALID_PROVIDER_TOKEN),
        ({"authorization": "bearer abc"}, Reason.INVALID_PROVIDER_TOKEN),
        ({"apns_topic": None}, Reason.MISSING_TOPIC),
        ({"apns_topic": "not a topic"}, Reason.BAD_TOPIC),
        ({"apns_push_type": "shout"}, Reason.INVALID_PUSH_TYPE),
        ({"apns_priority": "7"}, Reason.BAD_PRIORITY),
        ({"apns_push_type": "background", "apns_priority": "10"}, Reason.BAD_PRIORITY),
        ({"apns_expiration": "tomorrow"}, Reason.BAD_EXPIRATION_DATE),
        ({"apns_collapse_id": "x" * 65}, Reason.BAD_COLLAPSE_ID),
        ({"apns_id": "not-a-uuid"}, Reason.BAD_MESSAGE_ID),
    ],
)
def test_apns_refuses_a_wrong_header_with_its_own_reason(
    credentials: Credentials, changes: dict[str, str | None], reason: Reason
) -> None:
    assert _apns(bench(credentials, Provider.APNS), **changes) == (APNS_STATUS[reason], reason.value)


@pytest.mark.parametrize(
    ("body", "push_type", "reason"),
    [
        (b"", "alert", Reason.PAYLOAD_EMPTY),
        (b"{}", "alert", Reason.PAYLOAD_EMPTY),
        (b'{"aps":', "alert", Reason.PAYLOAD_EMPTY),
        (b'{"aps":"' + b"x" * 4_087 + b'"}', "alert", Reason.PAYLOAD_TOO_LARGE),
        (b'{"aps":"' + b"x" * 5_111 + b'"}', "voip", Reason.PAYLOAD_TOO_LARGE),
        (b'{"aps":"' + b"x" * 4_086 + b'"}', "alert", Reason.NONE),
        (b'{"aps":"' + b"x" * 5_110 + b'"}', "voip", Reason.NONE),
    ],
)
def test_apns_judges_the_payload(
    credentials: Credentials, body: bytes, push_type: str, reason: Reason
) -> None:
    assert _apns(bench(credentials, Provider.APNS), body, apns_push_type=push_type)[1] == reason.value


def test_a_repeated_apns_header_is_refused(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS)
    headers = [*at.headers(), ("apns-priority", "5"), ("apns-priority", "10")]
    assert json.loads(RawClient(at).ask(headers, BODY)[2]) == {"reason": "DuplicateHeaders"}


def test_a_team_has_only_its_own_topics(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS, ProviderProfile(topics=("com.example.app",)))
    assert _apns(at) == (200, "")
    assert _apns(at, apns_topic="com.example.other") == (400, "TopicDisallowed")


def test_apns_judges_the_age_key_team_and_signature_of_a_token(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS)
    now = at.clock.time()
    stranger = _foreign_key()
    cases = {
        provider_token(credentials, now - 3_000): "",
        provider_token(credentials, now - 3_700): "ExpiredProviderToken",
        provider_token(credentials, now + 600): "InvalidProviderToken",
        provider_token(credentials, now, key_id="OTHERKEY00"): "InvalidProviderToken",
        provider_token(credentials, now, team="OTHERTEAM0"): "InvalidProviderToken",
        provider_token(credentials, now, key=stranger): "InvalidProviderToken",
    }
    assert {token: _apns(at, authorization=f"bearer {token}")[1] for token in cases} == cases


def _foreign_key() -> str:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()


def test_a_token_that_was_good_expires_on_an_open_connection(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS))
    for n in range(5):
        assert client.ask(client.bench.headers(n), BODY)[0] == 200
    client.bench.clock.advance(3_601)
    assert json.loads(client.ask(client.bench.headers(9), BODY)[2]) == {"reason": "ExpiredProviderToken"}


def test_a_team_that_changes_its_token_too_often_is_told_so_on_every_connection(
    credentials: Credentials,
) -> None:
    own = ProviderProfile(token_updates_max=2, token_update_window_s=600)
    at = bench(credentials, Provider.APNS, own)
    now = at.clock.time()
    first, second, third = (f"bearer {provider_token(credentials, now - back)}" for back in (0, 1, 2))
    assert [_apns(at, authorization=a)[1] for a in (first, second, third)] == [
        "",
        "",
        "TooManyProviderTokenUpdates",
    ]
    assert _apns(at, authorization=first) == (200, "")
    at.clock.advance(601)
    assert _apns(at, authorization=third) == (200, "")


def test_a_client_certificate_stands_in_for_a_token(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS)
    client = RawClient(at, certificate=True)
    assert client.ask(at.headers(authorization=None), BODY)[0] == 200
    assert client.ask(at.headers(authorization=None, apns_topic=None), BODY)[0] == 200


def test_fcm_accepts_a_good_message_and_names_it(credentials: Credentials) -> None:
    status, name = _fcm(bench(credentials, Provider.FCM), fcm_body(registration(1)))
    assert status == 200
    assert name.startswith("projects/flashcast-simulator/messages/0:")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"", (400, "INVALID_ARGUMENT")),
        (b"[]", (400, "INVALID_ARGUMENT")),
        (b'{"message":{}}', (400, "INVALID_ARGUMENT")),
        (b'{"message":{"token":"short"}}', (400, "INVALID_ARGUMENT")),
        (fcm_body(registration(1)).replace(b"notification", b"notifications"), (400, "INVALID_ARGUMENT")),
        (fcm_body(registration(1)).replace(b'"notif', b'"data":{"n":1},"notif'), (400, "INVALID_ARGUMENT")),
        (fcm_body(registration(1), "x" * 4_096), (400, "INVALID_ARGUMENT")),
        (fcm_body(registration(1)).replace(b'"token"', b'"topic":"all","token"'), (400, "INVALID_ARGUMENT")),
        (fcm_body(registration(1), "\\ud83d\\ude00 \u00e9"), (200, "projects")),
        (b'{"validate_only":true,' + fcm_body(registration(1))[1:], (200, "projects")),
    ],
)  # fmt: skip
def test_fcm_judges_the_message(credentials: Credentials, body: bytes, answer: tuple[int, str]) -> None:
    status, word = _fcm(bench(credentials, Provider.FCM), body)
    assert (status, word.partition("/")[0]) == answer


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"authorization": None}, (401, "UNAUTHENTICATED")),
        ({"authorization": "Bearer ya29.invented"}, (401, "UNAUTHENTICATED")),
        ({"p_path": PATH.replace("flashcast-simulator", "another")}, (403, "PERMISSION_DENIED")),
        ({"p_path": "/v1/messages"}, (404, "NOT_FOUND")),
        ({"p_method": "GET"}, (404, "NOT_FOUND")),
        ({"content_type": "text/plain"}, (400, "INVALID_ARGUMENT")),
    ],
)
def test_fcm_refuses_a_wrong_head(
    credentials: Credentials, changes: dict[str, str | None], answer: tuple[int, str]
) -> None:
    assert _fcm(bench(credentials, Provider.FCM), fcm_body(registration(1)), **changes) == answer


def test_an_access_token_ends_with_its_lifetime(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.FCM))
    assert client.ask(client.bench.headers(), fcm_body(registration(1)))[0] == 200
    client.bench.clock.advance(3_601)
    assert client.ask(client.bench.headers(), fcm_body(registration(2)))[0] == 401


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, None),
        ({"aud": "https://oauth2.googleapis.com/token"}, None),
        ({"aud": "https://elsewhere/token"}, "invalid_grant"),
        ({"iss": "somebody@else"}, "invalid_grant"),
        ({"exp": 1}, "invalid_grant"),
        ({"iat": 1}, "invalid_grant"),
        ({"iat": None}, "invalid_grant"),
        ({"scope": "email"}, "invalid_scope"),
    ],
)
def test_the_token_endpoint_judges_the_assertion(
    credentials: Credentials, changes: dict[str, object], error: str | None
) -> None:
    gate = FcmGate(credentials.account_public, credentials.account_key_id, CLIENT_EMAIL, 300)
    gate.token_uri = TOKEN_URI
    grant = gate.issue(GRANT, assertion(credentials, 1_700_000_000, **changes), 1_700_000_000)
    assert grant.document.get("error") == error
    assert grant.status == (400 if error else 200)
    if error is None:
        assert grant.document["expires_in"] == 300
        assert len(grant.document["access_token"]) == 1_024


def test_an_assertion_of_another_key_or_grant_type_gets_no_token(credentials: Credentials) -> None:
    gate = FcmGate(credentials.account_public, credentials.account_key_id, CLIENT_EMAIL, 300)
    gate.token_uri = TOKEN_URI
    good = assertion(credentials, 1_700_000_000)
    assert gate.issue("password", good, 1_700_000_000).document["error"] == "unsupported_grant_type"
    assert gate.issue(GRANT, good[:-8] + "AAAAAAAA", 1_700_000_000).document["error"] == "invalid_grant"


def test_the_books_count_what_reached_the_provider(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS)
    for n in (1, 2, 2, 3):
        assert _apns(at, p_path=f"/3/device/{device(n)}") == (200, "")
    _apns(at, p_path=f"/3/device/{device(4)}", apns_topic="not a topic")
    _apns(at, p_path=f"/3/device/{device(5)}", authorization=None)
    _apns(at, b"{", p_path=f"/3/device/{device(6)}")
    counts = at.ledger.counts()
    assert (counts.requests, counts.received, counts.distinct, counts.duplicates) == (7, 6, 5, 1)
    assert (counts.accepted, counts.malformed) == (4, 1)
    assert counts.by_reason == {"accepted": 4, "BadTopic": 1, "MissingProviderToken": 1, "PayloadEmpty": 1}
    assert sorted(counts.accepted_by_token.tolist()) == [0, 0, 0, 1, 1, 2]
    assert set(counts.provider.tolist()) == {0}
