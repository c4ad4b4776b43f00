"""From a reply to a typed reason: each documented body, and all that is not documented."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.limits import RETRY_AFTER_S_MAX
from flashcast.model import Provider
from flashcast.outcomes import ACTIONS, APNS_STATUS, FCM_STATUS, Action, Reason
from flashcast.providers.meaning import meaning, retry_after_s

APNS, FCM = Provider.APNS, Provider.FCM


@pytest.mark.parametrize(("reason", "status"), APNS_STATUS.items())
def test_every_word_of_apns_has_its_reason(reason: Reason, status: int) -> None:
    assert meaning(APNS, status, json.dumps({"reason": reason.value}).encode()) is reason
    assert meaning(APNS, status, json.dumps({"timestamp": 1_700_000_000, "reason": reason.value}).encode()) is reason


def fcm_body(status: int, word: str, detail: str | None = None) -> bytes:
    error: dict[str, object] = {"code": status, "message": "what happened", "status": word}
    if detail is not None:
        kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
        other = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.token"}]}
        error["details"] = [other, {"@type": kind, "errorCode": detail}]
    return json.dumps({"error": error}, indent=2).encode()


@pytest.mark.parametrize(("reason", "status"), FCM_STATUS.items())
def test_every_word_of_fcm_has_its_reason(reason: Reason, status: int) -> None:
    assert meaning(FCM, status, fcm_body(status, reason.value)) is reason
    assert meaning(FCM, status, fcm_body(status, "SOMETHING_ELSE", reason.value)) is reason


@pytest.mark.parametrize(("status", "word", "detail", "reason"), [
    (404, "NOT_FOUND", "UNREGISTERED", Reason.FCM_UNREGISTERED),
    (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", Reason.FCM_SENDER_ID_MISMATCH),
    (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", Reason.FCM_QUOTA_EXCEEDED),
    (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", Reason.FCM_THIRD_PARTY_AUTH_ERROR),
    (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", Reason.FCM_INVALID_ARGUMENT),
])  # fmt: skip
def test_the_detail_of_fcm_is_exacter_than_its_status(status: int, word: str, detail: str, reason: Reason) -> None:
    assert meaning(FCM, status, fcm_body(status, word, detail)) is reason


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize("body", [b"", b"{}", b'{"name":"projects/p/messages/1"}', b"anything"])
def test_200_is_an_acceptance_whatever_it_says(provider: Provider, body: bytes) -> None:
    assert meaning(provider, 200, body) is Reason.NONE


@pytest.mark.parametrize(("provider", "status", "reason"), [
    (APNS, 404, Reason.BAD_PATH),
    (APNS, 405, Reason.METHOD_NOT_ALLOWED),
    (APNS, 413, Reason.PAYLOAD_TOO_LARGE),
    (APNS, 429, Reason.TOO_MANY_REQUESTS),
    (APNS, 500, Reason.INTERNAL_SERVER_ERROR),
    (APNS, 503, Reason.SERVICE_UNAVAILABLE),
    (FCM, 400, Reason.FCM_INVALID_ARGUMENT),
    (FCM, 401, Reason.FCM_UNAUTHENTICATED),
    (FCM, 403, Reason.FCM_PERMISSION_DENIED),
    (FCM, 404, Reason.FCM_NOT_FOUND),
    (FCM, 429, Reason.FCM_RESOURCE_EXHAUSTED),
    (FCM, 500, Reason.FCM_INTERNAL),
    (FCM, 502, Reason.FCM_UNAVAILABLE),
    (FCM, 503, Reason.FCM_UNAVAILABLE),
    (FCM, 504, Reason.FCM_UNAVAILABLE),
])  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"reason":"NeverHeard"}', b'{"error":{"status":"NEVER_HEARD"}}'])
def test_without_a_known_word_the_status_speaks(provider: Provider, status: int, reason: Reason, body: bytes) -> None:
    assert meaning(provider, status, body) is reason


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize("status", [100, 201, 204, 302, 418, 421, 599, 999])
def test_a_status_nobody_documented_is_recognised_as_unknown(provider: Provider, status: int) -> None:
    assert meaning(provider, status, b"") is Reason.UNRECOGNISED_REPLY


@pytest.mark.parametrize("body", [
    b'{"reason":null}', b'{"reason":["BadTopic"]}', b'["BadTopic"]', b'"BadTopic"', b'{"reason":"BadTopic"', b"\xff",
    b'{"reason":"UNREGISTERED"}', b"[" * 8_000, b'{"reason":' + b"9" * 8_000 + b"}",
])  # fmt: skip
def test_a_body_that_is_no_word_of_apns_is_none(body: bytes) -> None:
    assert meaning(APNS, 400, body) is Reason.UNRECOGNISED_REPLY


@pytest.mark.parametrize("body", [
    b'{"error":null}', b'{"error":"NOT_FOUND"}', b'{"error":{"details":"x"}}',
    b'{"error":{"details":[1,{"errorCode":2}]}}', b'{"error":{"status":7}}', b'{"error":{"status":"Unregistered"}}',
])  # fmt: skip
def test_a_body_that_is_no_word_of_fcm_is_none(body: bytes) -> None:
    assert meaning(FCM, 418, body) is Reason.UNRECOGNISED_REPLY


@given(st.sampled_from(Provider), st.integers(0, 999), st.binary(max_size=200))
def test_no_reply_is_without_meaning(provider: Provider, status: int, body: bytes) -> None:
    reason = meaning(provider, status, body)
    assert (reason is Reason.NONE) == (status == 200)
    assert reason is Reason.NONE or reason in ACTIONS


def test_only_a_provider_s_own_words_count() -> None:
    assert meaning(APNS, 503, b'{"reason":"UNAVAILABLE"}') is Reason.SERVICE_UNAVAILABLE
    assert ACTIONS[meaning(APNS, 503, b'{"reason":"UNAVAILABLE"}')] is Action.RETRY_SAFE
    assert meaning(FCM, 500, fcm_body(500, "InternalServerError")) is Reason.FCM_INTERNAL


NOW = 1_700_000_000.0


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("600", 600.0), ("601", RETRY_AFTER_S_MAX), ("9" * 400, RETRY_AFTER_S_MAX),
    (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
    (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_S_MAX),
    ("", None), ("soon", None), ("-5", None), ("1.5", None), ("١٢", None),
    ("Thu, 01 Jan 1970 00:00:00 +99999999999999", None), ("99999999999999999999 Jan 1 00:00:00 2020", None),
])  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}, NOW) == seconds


def test_no_header_asks_for_nothing() -> None:
    assert retry_after_s({}, NOW) is None


@given(st.text(max_size=60) | st.from_regex(r"\w{3}, \d{1,20} \w{3} \d{1,20} \d+:\d+:\d+ [+-]\d{1,20}", fullmatch=True))
def test_no_retry_after_whatever_is_a_fault_of_ours(text: str) -> None:
    seconds = retry_after_s({"retry-after": text}, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_S_MAX
