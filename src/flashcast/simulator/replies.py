"""Every reply the simulator can give, as bytes with holes: the stream id, and the reply's own id.

A reply never touches the client's dynamic table, so one template fits every connection. The kernels copy a
template and fill the holes; nothing is encoded per request.

Sources: RFC 9113 (frames), RFC 7541 (header blocks), Apple "Handling notification responses from APNs",
Google "FCM error codes" and google.rpc.Status.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from numpy.typing import NDArray

from flashcast.model import Provider
from flashcast.outcomes import APNS_STATUS, FCM_STATUS, Reason

TEMPLATE_BYTES_MAX: Final = 896
"""The longest reply, Google's 429 with padding and trailers, has some 600 bytes."""
SID_HOLES_MAX: Final = 8

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
PUSH_PROMISE, PRIORITY = 5, 2
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20
_GREASE: Final = 0xFA
"""A frame type nobody defined; RFC 9113 section 4.1 has receivers ignore it."""

M_LENGTH, M_SIDS, M_SID0, M_ID_AT, M_HEADERS_AT, M_BLOCK_AT, M_DATA_BYTES, M_SPLIT_AT = (
    0,
    1,
    2,
    10,
    11,
    12,
    13,
    14,
)
META_COLUMNS: Final = 15

UUID_HOLE: Final = b"00000000-0000-0000-0000-000000000000"
MESSAGE_ID_HOLE: Final = b"0000000000000000"

_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame as bytes, RFC 9113 section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A field line without indexing and without Huffman coding, both strings shorter than 127 bytes."""
    if len(name) >= 127 or len(value) >= 127:
        raise ValueError(f"field line {name!r} is too long for a template")
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


_STATIC_STATUS: Final = {200: 0x88, 204: 0x89, 206: 0x8A, 304: 0x8B, 400: 0x8C, 404: 0x8D, 500: 0x8E}


def status_line(status: int, *, as_literal: bool = False) -> bytes:
    """`:status`, from the static table where it has it."""
    if not as_literal and status in _STATIC_STATUS:
        return bytes((_STATIC_STATUS[status],))
    return bytes((0x18 if as_literal else 0x08, 3)) + str(status).encode()


@dataclass(frozen=True, slots=True)
class Template:
    """A reply's bytes and where its holes are.

    ``sids`` offsets of the 4-byte stream ids; ``id_at`` offset of the UUID or message id, -1 for none;
    ``headers_at`` and ``block_at`` the first HEADERS frame and its header block, -1 for none; ``data_bytes`` what
    counts against the client's windows; ``split_at`` offset of the first DATA frame, 0 for none.
    """

    data: bytes
    sids: tuple[int, ...]
    id_at: int
    headers_at: int
    block_at: int
    data_bytes: int
    split_at: int


@dataclass(slots=True)
class _Builder:
    data: bytearray = field(default_factory=bytearray)
    sids: list[int] = field(default_factory=list)
    headers_at: int = -1
    block_at: int = -1
    data_bytes: int = 0
    split_at: int = 0

    def add(self, kind: int, flags: int, payload: bytes, *, on_stream: bool = True) -> None:
        at = len(self.data)
        if kind == HEADERS and self.headers_at < 0:
            self.headers_at, self.block_at = at, at + (10 if flags & PADDED else 9)
        if kind == DATA:
            self.data_bytes += len(payload)
            self.split_at = self.split_at or at
        if on_stream:
            self.sids.append(at + 5)
        self.data += frame(kind, flags, 0, payload)

    def done(self, hole: bytes) -> Template:
        return Template(
            bytes(self.data),
            tuple(self.sids),
            self.data.find(hole),
            self.headers_at,
            self.block_at,
            self.data_bytes,
            self.split_at,
        )


def _padded(payload: bytes, pad: int) -> bytes:
    return bytes((pad,)) + payload + bytes(pad)


def build(style: str, status: int, lines: bytes, body: bytes, hole: bytes) -> Template:
    """The reply in one of `profile.REPLY_STYLES`, or ``plain``."""
    b = _Builder()
    end = 0 if body else END_STREAM
    block = status_line(status, as_literal=style == "literal") + lines
    if style == "literal":
        text = b"simulated, Huffman-coded"
        coded = _huffman.encode(text)
        # Name index 54 is `server`; literal without indexing, Huffman bit set.
        block += b"\x0f\x27" + bytes((0x80 | len(coded),)) + coded
    if style == "informational":
        b.add(HEADERS, END_HEADERS, status_line(103) + literal(b"link", b"</help>; rel=help"))
    if style == "unknown-frames":
        b.add(_GREASE, 0xFF, b"\x00\x01\x02")
        b.add(_GREASE, 0, b"", on_stream=False)
    if style == "padded":
        b.add(HEADERS, END_HEADERS | PADDED | end, _padded(block, 17))
    elif style == "continuation":
        b.add(HEADERS, end, block[:1])
        b.add(CONTINUATION, 0, block[1:5])
        b.add(CONTINUATION, END_HEADERS, block[5:])
    else:
        open_end = end if style not in ("split-data", "trailers") else 0
        b.add(HEADERS, END_HEADERS | open_end, block)
    if style == "unknown-frames":
        b.add(_GREASE, 0, b"between")
    _add_body(b, style, body)
    return b.done(hole)


def _add_body(b: _Builder, style: str, body: bytes) -> None:
    if style == "split-data":
        third = len(body) // 3
        for piece in (body[:third], body[third : 2 * third], body[2 * third :]):
            if piece:
                b.add(DATA, 0, piece)
        b.add(DATA, END_STREAM, b"")
    elif style == "trailers":
        if body:
            b.add(DATA, 0, body)
        b.add(HEADERS, END_HEADERS | END_STREAM, literal(b"x-trailer", b"end"))
    elif body and style == "padded":
        b.add(DATA, END_STREAM | PADDED, _padded(body, 9))
    elif body:
        b.add(DATA, END_STREAM, body)


def reset(code: int) -> Template:
    """RST_STREAM in place of a reply."""
    b = _Builder()
    b.add(RST_STREAM, 0, code.to_bytes(4, "big"))
    return b.done(UUID_HOLE)


_RPC_STATUS: Final = {
    Reason.FCM_SENDER_ID_MISMATCH: "PERMISSION_DENIED",
    Reason.FCM_THIRD_PARTY_AUTH_ERROR: "UNAUTHENTICATED",
    Reason.FCM_UNREGISTERED: "NOT_FOUND",
    Reason.FCM_QUOTA_EXCEEDED: "RESOURCE_EXHAUSTED",
}
_NO_FCM_DETAIL: Final = {
    Reason.FCM_UNAUTHENTICATED,
    Reason.FCM_PERMISSION_DENIED,
    Reason.FCM_NOT_FOUND,
    Reason.FCM_RESOURCE_EXHAUSTED,
}
_MESSAGES: Final = {
    Reason.FCM_INVALID_ARGUMENT: "Request contains an invalid argument.",
    Reason.FCM_UNAUTHENTICATED: "Request had invalid authentication credentials. Expected OAuth 2 access token.",
    Reason.FCM_UNREGISTERED: "Requested entity was not found.",
    Reason.FCM_NOT_FOUND: "Requested entity was not found.",
    Reason.FCM_QUOTA_EXCEEDED: "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'.",
    Reason.FCM_INTERNAL: "Internal error encountered.",
    Reason.FCM_UNAVAILABLE: "The service is currently unavailable.",
}


def apns_body(reason: Reason, now_s: float) -> bytes:
    """Apple's error body; 410 carries since when, in milliseconds."""
    document: dict[str, object] = {"reason": reason.value}
    if APNS_STATUS[reason] == 410:
        document["timestamp"] = int(now_s * 1000)
    return json.dumps(document, separators=(",", ":")).encode()


def fcm_body(reason: Reason) -> bytes:
    """Google's error body: a google.rpc.Status, with an FcmError where FCM itself, not its front, refused."""
    error: dict[str, object] = {
        "code": FCM_STATUS[reason],
        "message": _MESSAGES.get(reason, "The request was refused."),
        "status": _RPC_STATUS.get(reason, reason.value),
    }
    if reason not in _NO_FCM_DETAIL:
        error["details"] = [
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": reason.value}
        ]
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def reply(
    provider: Provider, reason: Reason, style: str, project: str, now_s: float, retry_after_s: int | None
) -> Template:
    """The reply of ``provider`` for ``reason``; `Reason.NONE` is success."""
    lines = b""
    if retry_after_s is not None:
        lines = literal(b"retry-after", str(retry_after_s).encode())
    if provider is Provider.APNS:
        status = 200 if reason is Reason.NONE else APNS_STATUS[reason]
        body = b"" if reason is Reason.NONE else apns_body(reason, now_s)
        return build(style, status, literal(b"apns-id", UUID_HOLE) + lines, body, UUID_HOLE)
    status = 200 if reason is Reason.NONE else FCM_STATUS[reason]
    body = (
        f'{{"name":"projects/{project}/messages/0:'.encode() + MESSAGE_ID_HOLE + b'"}'
        if status == 200
        else fcm_body(reason)
    )
    # Name index 31 is `content-type`.
    kind = b"application/json; charset=UTF-8"
    return build(style, status, b"\x0f\x10" + bytes((len(kind),)) + kind + lines, body, MESSAGE_ID_HOLE)


def pack(templates: list[Template]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The templates as arrays: uint8[n, TEMPLATE_BYTES_MAX] and int64[n, META_COLUMNS]."""
    data = np.zeros((len(templates), TEMPLATE_BYTES_MAX), np.uint8)
    meta = np.zeros((len(templates), META_COLUMNS), np.int64)
    for row, t in enumerate(templates):
        if len(t.data) > TEMPLATE_BYTES_MAX or len(t.sids) > SID_HOLES_MAX:
            raise ValueError(f"reply template {row} is too large: {len(t.data)} bytes, {len(t.sids)} frames")
        data[row, : len(t.data)] = np.frombuffer(t.data, np.uint8)
        meta[row, M_LENGTH], meta[row, M_SIDS] = len(t.data), len(t.sids)
        meta[row, M_SID0 : M_SID0 + len(t.sids)] = t.sids
        meta[row, M_ID_AT], meta[row, M_HEADERS_AT], meta[row, M_BLOCK_AT] = t.id_at, t.headers_at, t.block_at
        meta[row, M_DATA_BYTES], meta[row, M_SPLIT_AT] = t.data_bytes, t.split_at
    return data, meta
