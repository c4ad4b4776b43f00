"""From an HTTP reply to a typed reason. The same question for every provider, asked once per failed request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from flashcast.limits import RETRY_AFTER_S_MAX
from flashcast.model import Provider
from flashcast.outcomes import Reason, reason_of

_APNS_BY_STATUS = {
    404: Reason.BAD_PATH,
    405: Reason.METHOD_NOT_ALLOWED,
    413: Reason.PAYLOAD_TOO_LARGE,
    429: Reason.TOO_MANY_REQUESTS,
    500: Reason.INTERNAL_SERVER_ERROR,
    503: Reason.SERVICE_UNAVAILABLE,
}
_FCM_BY_STATUS = {
    400: Reason.FCM_INVALID_ARGUMENT,
    401: Reason.FCM_UNAUTHENTICATED,
    403: Reason.FCM_PERMISSION_DENIED,
    404: Reason.FCM_NOT_FOUND,
    429: Reason.FCM_RESOURCE_EXHAUSTED,
    500: Reason.FCM_INTERNAL,
    502: Reason.FCM_UNAVAILABLE,
    503: Reason.FCM_UNAVAILABLE,
    504: Reason.FCM_UNAVAILABLE,
}


@lru_cache(maxsize=1024)
def meaning(provider: Provider, status: int, body: bytes) -> Reason:
    """Why the provider answered ``status`` with ``body``; `Reason.NONE` where it accepted.

    A body that is missing or unknown leaves the status to speak, as both providers document it; a status nobody
    documented is `Reason.UNRECOGNISED_REPLY`.
    """
    if status == 200:
        return Reason.NONE
    word = _apns_word(body) if provider is Provider.APNS else _fcm_word(body)
    reason = reason_of(provider, word)
    if reason is Reason.UNRECOGNISED_REPLY:
        by_status = _APNS_BY_STATUS if provider is Provider.APNS else _FCM_BY_STATUS
        reason = by_status.get(status, reason)
    return reason


def _apns_word(body: bytes) -> str:
    """``{"reason": "BadDeviceToken"}``."""
    document = _json(body)
    word = document.get("reason")
    return word if isinstance(word, str) else ""


def _fcm_word(body: bytes) -> str:
    """``{"error": {"status": "NOT_FOUND", "details": [{"errorCode": "UNREGISTERED"}]}}``: the detail is exacter."""
    error = _json(body).get("error")
    if not isinstance(error, dict):
        return ""
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("errorCode"), str):
            return str(detail["errorCode"])
    status = error.get("status")
    return status if isinstance(status, str) else ""


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds the peer asks us to wait (RFC 9110 section 10.2.3: a number or a date), None where it does not.

    ``now_s`` is the Unix time; the result lies in [0, RETRY_AFTER_S_MAX].
    """
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_S_MAX)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None  # no date, or one with numbers beyond any calendar
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0.0, when.timestamp() - now_s), RETRY_AFTER_S_MAX)
