"""What the providers ask of a request, judged from decoded headers and a whole body.

Sources: Apple, "Sending notification requests to APNs"; Google, "projects.messages.send"; RFC 9113 sections
8.2 and 8.3 for what makes any request malformed.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

from flashcast.limits import (
    APNS_PAYLOAD_BYTES_MAX,
    APNS_TOKEN_HEX_MAX,
    APNS_TOKEN_HEX_MIN,
    APNS_VOIP_PAYLOAD_BYTES_MAX,
    COLLAPSE_ID_BYTES_MAX,
    FCM_PAYLOAD_BYTES_MAX,
    FCM_TOKEN_CHARS_MAX,
    FCM_TOKEN_CHARS_MIN,
)
from flashcast.outcomes import Reason
from flashcast.simulator.auth import ApnsGate, FcmGate

Headers = list[tuple[str, str]]

_CONNECTION_FIELDS: Final = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_BAD_VALUE: Final = re.compile(r"[\x00\r\n]|^[ \t]|[ \t]\Z")
_TOPIC: Final = re.compile(r"[A-Za-z0-9.\-_]{1,255}\Z")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+\Z")
_FCM_TOKEN: Final = re.compile(r"[A-Za-z0-9_:.\-]+\Z")
PUSH_TYPES: Final = {
    "alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity",
    "pushtotalk", "widgets", "controls",
}  # fmt: skip
_MESSAGE_FIELDS: Final = {
    "name", "token", "topic", "condition", "fid", "data", "notification", "android", "webpush", "apns",
    "fcmOptions", "fcm_options",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadVerdict:
    """What a header block says.

    ``malformed`` the stream error of RFC 9113 section 8.1.1; else ``reason`` (`Reason.NONE`: nothing wrong so far), the
    device ``token`` if the path carries it, the longest body, the announced length (-1: none), the UUID the
    request brought, whether its credential was good and until when (Unix seconds).
    """

    malformed: bool = False
    reason: Reason = Reason.NONE
    token: bytes = b""
    payload_max: int = 0
    content_length: int = -1
    request_id: str = ""
    authenticated: bool = False
    good_until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BodyVerdict:
    """What a body says.

    ``reason``; FCM's device ``token``; whether it was no JSON; ``plain``: its shape may be remembered.
    """

    reason: Reason = Reason.NONE
    token: bytes = b""
    malformed: bool = False
    plain: bool = True


def trailers_malformed(headers: Headers) -> bool:
    """RFC 9113 section 8.1: trailers carry no pseudo-header fields."""
    return any(not _NAME.match(name) or _BAD_VALUE.search(value) for name, value in headers)


def split_headers(headers: Headers) -> tuple[dict[str, str], dict[str, str]] | None:
    """Pseudo-header and regular fields of a request; None where RFC 9113 calls it malformed.

    Repeated regular fields are joined with a comma, except what must not repeat.
    """
    pseudo: dict[str, str] = {}
    regular: dict[str, str] = {}
    for name, value in headers:
        if _BAD_VALUE.search(value):
            return None
        if name.startswith(":"):
            if regular or name in pseudo or name not in (":method", ":scheme", ":path", ":authority"):
                return None
            pseudo[name] = value
            continue
        if not _NAME.match(name) or name in _CONNECTION_FIELDS or (name == "te" and value != "trailers"):
            return None
        regular[name] = f"{regular[name]}, {value}" if name in regular else value
    if ":method" not in pseudo or ":scheme" not in pseudo or not pseudo.get(":path"):
        return None
    length = regular.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        return None
    return pseudo, regular


def _repeated(headers: Headers) -> bool:
    names = [name for name, _ in headers if name.startswith("apns-") or name == "authorization"]
    return len(names) != len(set(names))


def parse_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in ``body``; None where it is none, or not in UTF-8."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        document = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class ApnsRules:
    """`POST /3/device/<token>` and its headers."""

    def __init__(self, gate: ApnsGate, topics: tuple[str, ...]) -> None:
        self._gate = gate
        self._topics = topics

    def head(self, headers: Headers, certificate: bool, now_s: float) -> HeadVerdict:
        """Judges a header block; ``certificate``: the connection proved itself with one."""
        parts = split_headers(headers)
        if parts is None:
            return HeadVerdict(malformed=True)
        pseudo, regular = parts
        length = int(regular.get("content-length", -1))
        request_id = regular.get("apns-id", "")
        if request_id:
            try:
                uuid.UUID(request_id)
            except ValueError:
                return HeadVerdict(reason=Reason.BAD_MESSAGE_ID, content_length=length)
        path = pseudo[":path"]
        token = path.removeprefix("/3/device/")
        until = float("inf")
        authenticated = certificate and "authorization" not in regular
        if not path.startswith("/3/device/") or "/" in token:
            reason = Reason.BAD_PATH
        elif pseudo[":method"] != "POST":
            reason = Reason.METHOD_NOT_ALLOWED
        elif not token:
            reason = Reason.MISSING_DEVICE_TOKEN
        else:
            reason = Reason.NONE
            if not authenticated:
                gate = self._gate.check(regular.get("authorization"), now_s)
                reason, until = gate.reason, gate.good_until_s
                authenticated = reason is Reason.NONE
        if reason is Reason.NONE and _repeated(headers):
            reason = Reason.DUPLICATE_HEADERS
        if reason is Reason.NONE:
            reason = self._headers_fault(regular, certificate)
        key = b""
        if (
            _HEX.match(token)
            and len(token) % 2 == 0
            and APNS_TOKEN_HEX_MIN <= len(token) <= APNS_TOKEN_HEX_MAX
        ):
            key = token.lower().encode()
        elif reason is Reason.NONE:
            reason = Reason.BAD_DEVICE_TOKEN
        voip = regular.get("apns-push-type") == "voip"
        most = APNS_VOIP_PAYLOAD_BYTES_MAX if voip else APNS_PAYLOAD_BYTES_MAX
        return HeadVerdict(False, reason, key, most, length, request_id, authenticated, until)

    def _headers_fault(self, regular: dict[str, str], certificate: bool) -> Reason:
        topic = regular.get("apns-topic")
        if topic is None:
            # A certificate of one topic need not name it.
            if not certificate:
                return Reason.MISSING_TOPIC
        elif not _TOPIC.match(topic):
            return Reason.BAD_TOPIC
        elif self._topics and topic not in self._topics:
            return Reason.TOPIC_DISALLOWED
        push_type = regular.get("apns-push-type", "alert")
        priority = regular.get("apns-priority", "10")
        if push_type not in PUSH_TYPES:
            return Reason.INVALID_PUSH_TYPE
        if priority not in ("1", "5", "10") or (
            push_type == "background" and priority == "10" and "apns-priority" in regular
        ):
            return Reason.BAD_PRIORITY
        expiration = regular.get("apns-expiration", "0")
        if not (expiration.isascii() and expiration.isdigit() and len(expiration) <= 12):
            return Reason.BAD_EXPIRATION_DATE
        collapse = regular.get("apns-collapse-id")
        if collapse is not None and not 1 <= len(collapse.encode()) <= COLLAPSE_ID_BYTES_MAX:
            return Reason.BAD_COLLAPSE_ID
        return Reason.NONE

    def body(self, head: HeadVerdict, body: bytes) -> BodyVerdict:
        """Judges a body. APNs has no reason for one that is no JSON object; `PayloadEmpty` is the nearest."""
        if not body:
            return BodyVerdict(Reason.PAYLOAD_EMPTY)
        if len(body) > head.payload_max:
            return BodyVerdict(Reason.PAYLOAD_TOO_LARGE)
        document = parse_object(body)
        if document is None:
            return BodyVerdict(Reason.PAYLOAD_EMPTY, malformed=True)
        if not document:
            return BodyVerdict(Reason.PAYLOAD_EMPTY)
        return BodyVerdict()


class FcmRules:
    """`POST /v1/projects/<project>/messages:send`."""

    def __init__(self, gate: FcmGate, project: str) -> None:
        self._gate = gate
        self._path = f"/v1/projects/{project}/messages:send"

    def head(self, headers: Headers, certificate: bool, now_s: float) -> HeadVerdict:
        """Judges a header block. A client certificate proves nothing to FCM."""
        parts = split_headers(headers)
        if parts is None:
            return HeadVerdict(malformed=True)
        pseudo, regular = parts
        length = int(regular.get("content-length", -1))
        path = pseudo[":path"].partition("?")[0]
        gate = self._gate.check(regular.get("authorization"), now_s)
        kind = regular.get("content-type", "application/json").partition(";")[0].strip().lower()
        if pseudo[":method"] != "POST" or not re.match(r"/v1/projects/[^/]+/messages:send\Z", path):
            reason = Reason.FCM_NOT_FOUND
        elif gate.reason is not Reason.NONE:
            reason = gate.reason
        elif path != self._path:
            reason = Reason.FCM_PERMISSION_DENIED
        elif kind != "application/json":
            reason = Reason.FCM_INVALID_ARGUMENT
        else:
            reason = Reason.NONE
        return HeadVerdict(
            False, reason, b"", 1 << 20, length, "", gate.reason is Reason.NONE, gate.good_until_s
        )

    def body(self, head: HeadVerdict, body: bytes) -> BodyVerdict:
        """Judges a body: JSON, known fields, one target, a plausible token, a payload of at most 4,096 bytes."""
        bad = Reason.FCM_INVALID_ARGUMENT
        document = parse_object(body)
        if document is None:
            return BodyVerdict(bad, malformed=True)
        message = document.get("message")
        if not isinstance(message, dict) or not set(document) <= {"message", "validate_only", "validateOnly"}:
            return BodyVerdict(bad)
        if (
            not set(message) <= _MESSAGE_FIELDS
            or sum(key in message for key in ("token", "topic", "condition", "fid")) != 1
        ):
            return BodyVerdict(bad)
        token = message.get("token", "")
        if "token" in message and not (isinstance(token, str) and _FCM_TOKEN.match(token)):
            return BodyVerdict(bad)
        if "token" in message and not FCM_TOKEN_CHARS_MIN <= len(token) <= FCM_TOKEN_CHARS_MAX:
            return BodyVerdict(bad)
        key = token.encode() if isinstance(token, str) else b""
        if _fields_fault(message) or _payload_bytes(message) > FCM_PAYLOAD_BYTES_MAX:
            return BodyVerdict(bad, key)
        plain = len(document) == 1 and "token" in message
        return BodyVerdict(Reason.NONE, key, plain=plain)


def _fields_fault(message: dict[str, Any]) -> bool:
    for name in ("notification", "android", "webpush", "apns", "data", "fcmOptions", "fcm_options"):
        if name in message and not isinstance(message[name], dict):
            return True
    data = message.get("data", {})
    # FCM's data is a map of strings to strings.
    if any(not isinstance(value, str) for value in data.values()):
        return True
    android = message.get("android", {})
    if str(android.get("priority", "normal")).lower() not in ("normal", "high", "0", "1"):
        return True
    ttl = android.get("ttl", "0s")
    return not (isinstance(ttl, str) and re.match(r"\d+(\.\d{1,9})?s\Z", ttl))


def _payload_bytes(message: dict[str, Any]) -> int:
    """What counts against the limit: the notification and the data, as compact JSON."""
    counted = {name: message[name] for name in ("notification", "data") if name in message}
    return len(json.dumps(counted, ensure_ascii=False, separators=(",", ":")).encode()) if counted else 0
