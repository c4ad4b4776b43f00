"""Replies that are not a plain success: header blocks decoded with `hpack`, bodies gathered within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import hpack

from flashcast.errors import ProtocolError
from flashcast.limits import HEADER_LIST_BYTES_MAX, REPLY_BODY_BYTES_MAX
from flashcast.wire import frames as h2


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered request that the kernel did not settle.

    ``status`` is the HTTP status, ``headers`` the regular headers by lower-case name (the last one wins),
    ``body`` at most `REPLY_BODY_BYTES_MAX` bytes, ``waited_us`` the time from request to reply.
    """

    row: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    waited_us: int


@dataclass(slots=True)
class PartialReply:
    """A reply whose end is still to come."""

    status: int
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)

    def extend(self, data: bytes) -> None:
        """Keeps as much of ``data`` as fits; the rest of an overlong body is nobody's business."""
        self.body += data[: REPLY_BODY_BYTES_MAX - len(self.body)]


class HeaderBlocks:
    """Assembles header blocks from HEADERS and CONTINUATION and decodes them.

    We announced SETTINGS_HEADER_TABLE_SIZE 0, so no block depends on an earlier one, and blocks the kernel
    judged by itself need not pass through here.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._block = bytearray()
        self._end_stream = False

    def start(self, payload: bytes, flags: int) -> tuple[list[tuple[str, str]], bool] | None:
        """Takes a HEADERS frame's payload; the block and END_STREAM if the block is whole."""
        self._block = bytearray(unpadded(payload, flags))
        if flags & h2.PRIORITY_FLAG:
            if len(self._block) < 5:
                raise ProtocolError("HEADERS too short for its priority fields", code=h2.FRAME_SIZE_ERROR)
            del self._block[:5]
        self._end_stream = bool(flags & h2.END_STREAM)
        return self._finish(flags)

    def go_on(self, payload: bytes, flags: int) -> tuple[list[tuple[str, str]], bool] | None:
        """Takes a CONTINUATION frame's payload."""
        self._block += payload
        if len(self._block) > HEADER_LIST_BYTES_MAX:
            raise ProtocolError(f"header block above {HEADER_LIST_BYTES_MAX} bytes", code=h2.PROTOCOL_ERROR)
        return self._finish(flags)

    def _finish(self, flags: int) -> tuple[list[tuple[str, str]], bool] | None:
        if not flags & h2.END_HEADERS:
            return None
        try:
            decoded = self._decoder.decode(bytes(self._block), raw=True)
        except hpack.HPACKError as error:
            raise ProtocolError(f"undecodable header block: {error}", code=h2.COMPRESSION_ERROR) from error
        self._block.clear()
        return [(str(n, "latin-1"), str(v, "latin-1")) for n, v in decoded], self._end_stream


def unpadded(payload: bytes, flags: int) -> bytes:
    """The payload of a HEADERS or DATA frame without its padding (RFC 9113 section 6.1)."""
    if not flags & h2.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("padding longer than its frame", code=h2.PROTOCOL_ERROR)
    return payload[1 : len(payload) - payload[0]]


def status_of(headers: list[tuple[str, str]]) -> int | None:
    """The status a response block carries, or None where it is malformed (RFC 9113 section 8.3.2)."""
    pseudo = [value for name, value in headers if name.startswith(":")]
    if len(pseudo) != 1 or not headers or headers[0][0] != ":status":
        return None
    text = pseudo[0]
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() else None
