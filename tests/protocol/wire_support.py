"""What the tests of the wire share: rows in memory, frames in words, and a connection that is fed and watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from flashcast.latency import BUCKETS
from flashcast.limits import REPLY_BODY_BYTES_MAX, STALLED_STREAMS_MAX
from flashcast.model import Hole, Provider, RequestTemplate
from flashcast.outcomes import Outcome, Reason
from flashcast.wire import kernels as k
from flashcast.wire.connection import Book, Connection, Requests
from flashcast.wire.replies import Reply
from flashcast.wire.template import Columns, columns_of, shape_of

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20
HEAD = ((":method", "POST"), (":scheme", "https"), (":authority", "push.example"))


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """SETTINGS by name: table, push, streams, window, frame."""
    numbers = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5}
    return frame(
        SETTINGS, 0, 0, b"".join(numbers[n].to_bytes(2, "big") + v.to_bytes(4, "big") for n, v in values.items())
    )


def ok(stream: int) -> bytes:
    """The plain success APNs sends."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88")


def rst(stream: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: int = 0, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def window(stream: int, step: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, step.to_bytes(4, "big"))


_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_STATIC = HeaderTable.STATIC_TABLE
INDEXED, WITH_INDEXING, WITHOUT_INDEXING, NEVER_INDEXED = range(4)


def header(name: bytes, value: bytes, how: int = INDEXED, huffman: bool = False) -> bytes:
    """One header field; ``INDEXED`` means the shortest: an entry of the static table where there is one."""
    if how == INDEXED:
        if (name, value) in _STATIC:
            return _integer(_STATIC.index((name, value)) + 1, 7, 0x80)
        how = WITHOUT_INDEXING
    bits, first = {WITH_INDEXING: (6, 0x40), WITHOUT_INDEXING: (4, 0), NEVER_INDEXED: (4, 0x10)}[how]
    index = next((i + 1 for i, entry in enumerate(_STATIC) if entry[0] == name), 0)
    return _integer(index, bits, first) + (b"" if index else _string(name, huffman)) + _string(value, huffman)


def _integer(value: int, bits: int, first: int) -> bytes:
    top = (1 << bits) - 1
    if value < top:
        return bytes((first | value,))
    out, value = bytearray((first | top,)), value - top
    while value >= 128:
        out.append(128 | value & 127)
        value >>= 7
    return bytes((*out, value))


def _string(text: bytes, huffman: bool) -> bytes:
    coded = _HUFFMAN.encode(text) if huffman else text
    return _integer(len(coded), 7, 0x80 if huffman else 0) + coded


def book(rows: int) -> Book:
    """Empty arrays for ``rows`` rows."""
    outcome, attempts = np.zeros(rows, np.uint8), np.zeros(rows, np.uint8)
    return Book(outcome, np.zeros(rows, np.uint32), attempts, np.zeros(BUCKETS, np.int64))


def columns(tokens: Sequence[bytes], fields: Sequence[Sequence[bytes]] = (), variants: Sequence[int] = ()) -> Columns:
    """A shard's columns from plain lists; ``fields`` has one list for each column."""
    return columns_of(_pack(tokens), [_pack(column) for column in fields], np.array(variants, np.uint8))


def _pack(values: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(values) + 1, np.uint32)
    offsets[1:] = np.cumsum([len(value) for value in values])
    return np.frombuffer(b"".join(values) or b"\0", np.uint8), offsets


def apns_requests(*bodies: tuple[bytes | Hole, ...], authorization: str | None = "bearer a") -> Requests:
    """Requests with the token in the path, one variant for each body."""
    templates = [RequestTemplate(Provider.APNS, str(i), (), body) for i, body in enumerate(bodies or ((b"{}",),))]
    return Requests(shape_of(HEAD, b"/3/device/", authorization, templates))


@dataclass
class Ended:
    """What became of a row, as the connection told it."""

    replies: dict[int, Reply]
    returned: dict[int, Reason]


class Client:
    """Our connection with rows to send, driven as a lane drives it. Every reply and return is kept."""

    def __init__(self, tokens: Sequence[bytes], requests: Requests | None = None, shard: Columns | None = None) -> None:
        self.rows = len(tokens)
        self.book = book(self.rows)
        self.connection = Connection(self.book)
        self.requests = requests or apns_requests()
        self.columns = shard or columns(tokens)
        self.sent = 0
        self.now_us = 1_000_000
        self.replies: dict[int, Reply] = {}
        self.returned: dict[int, Reason] = {}
        self._pending = b""
        self._out = np.zeros(1 << 18, np.uint8)

    def receive(self, data: bytes) -> None:
        """Feeds ``data``; what is left over waits for more."""
        data = self._pending + data
        buffer = np.frombuffer(bytearray(data or b"\0"), np.uint8)
        try:
            self._pending = data[self.connection.receive(buffer, len(data), self.now_us, self.now_us // 1_000) :]
        finally:
            self._note()

    def volley(self, limit: int = 1 << 30, out_bytes: int = 1 << 18) -> bytes:
        """Control frames, then as many of the rows left as limits allow."""
        control = self.connection.control()
        rows = np.arange(self.sent, min(self.rows, self.sent + limit), dtype=np.int32)
        count, size = self.connection.volley(
            self.requests, self.columns, rows, 0, self._out[:out_bytes], self.now_us
        )
        self.sent += count
        return control + self._out[:size].tobytes()

    def lose(self) -> None:
        """The transport is gone."""
        self.connection.lose()
        self._note()

    def expire(self, deadline_us: int) -> int:
        """Gives up silent streams."""
        count = self.connection.expire(self.now_us, deadline_us)
        self._note()
        return count

    def _note(self) -> None:
        for reply in self.connection.replies:
            assert reply.row not in self.replies, "a row was answered twice"
            self.replies[reply.row] = reply
        for row, reason in self.connection.returned:
            assert row not in self.returned, "a row was returned twice"
            self.returned[row] = reason
        self.connection.replies.clear()
        self.connection.returned.clear()

    def check(self) -> None:
        """No row is lost or counted twice, and nothing has outgrown its bound."""
        connection = self.connection
        accepted = np.flatnonzero(self.book.outcome == Outcome.ACCEPTED).tolist()
        flying = connection.rows_in_flight().tolist()
        told = Counter([*accepted, *self.replies, *self.returned, *flying])
        assert told == Counter(range(self.sent)), f"of {self.sent} rows sent, {told} are accounted for"
        assert connection.in_flight == len(flying)
        assert connection.accepted == len(accepted) == int(self.book.histogram.sum())
        assert len(connection._partial) <= len(flying)
        assert len(connection._stalled) <= STALLED_STREAMS_MAX
        assert len(connection._stalled) == connection.state[k.STALLED]
        assert set(connection._stalled) <= set(connection._slot_stream.tolist())
        assert all(len(partial.body) <= REPLY_BODY_BYTES_MAX for partial in connection._partial.values())
        assert len(connection._blocks._block) <= 3 * 65_536
        assert len(connection._headers._encoder.table_size_changes) <= 2
        assert len(self.requests._layouts) <= 100
