"""One HTTP/2 connection to a provider, without IO: bytes and a time in, bytes and settled rows out.

The peer's SETTINGS come before the first request; every later change is obeyed. The first request teaches the
peer's HPACK table our constant headers; the rest refer to it. A body that does not fit a window is sent in
parts, one request at a time. What the kernels settle needs no word; everything else ends in `replies` (answered)
or `returned` (not answered, with the reason), and the caller decides.

    opening --SETTINGS--> open --GOAWAY, ids used up--> draining --last reply--> closed
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.errors import ProtocolError
from flashcast.limits import (
    CONTROL_BYTES_MAX,
    LAYOUTS_MAX,
    RECEIVE_WINDOW_BYTES,
    STALLED_STREAMS_MAX,
    STREAM_ID_LAST,
    STREAMS_USED_MAX,
)
from flashcast.outcomes import Reason
from flashcast.wire import frames as h2
from flashcast.wire import kernels as k
from flashcast.wire.replies import HeaderBlocks, PartialReply, Reply, status_of, unpadded
from flashcast.wire.template import Columns, HeaderState, Layout, RequestShape, lay_out

_EVENTS_MAX: Final = 256
_SLOTS_MIN: Final = 256
_SINGLE_BYTES_MAX: Final = 2 * (h2.FRAME_SIZE_MIN + h2.HEADER_BYTES)
"""The largest request: one HEADERS and one DATA frame."""


class Book(NamedTuple):
    """Where outcomes are written: arrays over the journal's rows, and the histogram of reply times in us."""

    outcome: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]
    attempts: NDArray[np.uint8]
    histogram: NDArray[np.int64]


class Phase(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Requests:
    """What one launch sends to one provider: a shape, and its layouts by header bytes (shared by connections)."""

    def __init__(self, shape: RequestShape) -> None:
        self.shape = shape
        self._layouts: dict[tuple[bytes, bytes], Layout] = {}

    def layout(self, pre: bytes, post: bytes) -> Layout:
        """The layout for these header bytes; made once."""
        found = self._layouts.get((pre, post))
        if found is None:
            if len(self._layouts) >= LAYOUTS_MAX:
                self._layouts.clear()  # a peer that keeps changing its table; layouts in use stay with their users
            found = self._layouts.setdefault((pre, post), lay_out(self.shape, pre, post))
        return found


class Connection:
    """See the module's docstring. Not thread-safe: one lane owns it."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.phase = Phase.OPENING
        self.replies: list[Reply] = []
        self.returned: list[tuple[int, Reason]] = []
        self.closing_reason = ""
        self.round_trip_us: int | None = None
        self.pinged = False
        self.state = np.zeros(k.STATE_SIZE, np.int64)
        self.state[k.SEND_WINDOW] = self.state[k.INITIAL_WINDOW] = h2.DEFAULT_WINDOW
        self.state[k.NEXT_STREAM] = 1
        self._slots(_SLOTS_MIN)
        self._events = np.empty((_EVENTS_MAX, 2), np.int64)
        self._found = np.empty(1024, np.int32)
        self._control = bytearray()
        self._blocks = HeaderBlocks()
        self._block_stream = 0
        self._partial: dict[int, PartialReply] = {}
        self._stalled: dict[int, tuple[bytes, int]] = {}
        self._headers = HeaderState()
        self._requests: Requests | None = None
        self._layout: Layout | None = None
        self._pings: dict[bytes, int] = {}
        self._now_us = 0
        self._frames: dict[int, Callable[[int, int, bytes, int], None]] = {
            h2.DATA: self._on_data,
            h2.HEADERS: self._on_headers,
            h2.PRIORITY: self._on_priority,
            h2.RST_STREAM: self._on_rst_stream,
            h2.SETTINGS: self._on_settings,
            h2.PUSH_PROMISE: self._on_push_promise,
            h2.PING: self._on_ping,
            h2.GOAWAY: self._on_goaway,
            h2.WINDOW_UPDATE: self._on_window_update,
            h2.CONTINUATION: self._on_continuation,
        }

    def __repr__(self) -> str:
        return (
            f"<Connection {self.phase.value}, {self.in_flight} of {self.streams_allowed} streams in flight, "
            f"next {self.state[k.NEXT_STREAM]}, window {self.state[k.SEND_WINDOW]}, {len(self._stalled)} stalled>"
        )

    # --- what the lane asks --------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return int(self.state[k.IN_FLIGHT])

    @property
    def streams_allowed(self) -> int:
        """Requests that may be in flight at once: the peer's word, and our own bound."""
        return int(self.state[k.MAX_STREAMS])

    @property
    def accepted(self) -> int:
        """Requests the kernel settled as accepted since the connection opened."""
        return int(self.state[k.ACCEPTED])

    def room(self) -> int:
        """How many requests may be opened now (flow control aside)."""
        if self.phase is not Phase.OPEN or len(self._stalled) >= STALLED_STREAMS_MAX:
            return 0
        return max(0, self.streams_allowed - self.in_flight)

    def opening(self) -> bytes:
        """The first bytes of the connection: preface, our SETTINGS, a connection window replies never fill."""
        return (
            h2.PREFACE
            + h2.settings({h2.SETTINGS_HEADER_TABLE_SIZE: 0, h2.SETTINGS_ENABLE_PUSH: 0})
            + h2.window_update(0, RECEIVE_WINDOW_BYTES - h2.DEFAULT_WINDOW)
        )

    def control(self) -> bytes:
        """Frames owed to the peer since the last call: acknowledgements, resets, window updates, stalled bodies."""
        taken = int(self.state[k.RECEIVED_DATA])
        if taken > RECEIVE_WINDOW_BYTES // 2:
            self._control += h2.window_update(0, taken)
            self.state[k.RECEIVED_DATA] = 0
        if self._stalled:
            self._send_stalled()
        pending = bytes(self._control)
        self._control.clear()
        return pending

    def ping(self, now_us: int) -> None:
        """Asks the peer for a sign of life; its answer sets ``round_trip_us``."""
        opaque = (now_us & (2**64 - 1)).to_bytes(8, "big")
        self._pings[opaque] = now_us
        self.pinged = True
        self._control += h2.ping(opaque)

    def ping_overdue(self, now_us: int, deadline_us: int) -> bool:
        """Whether a PING has gone unanswered for longer than ``deadline_us``."""
        return any(now_us - sent > deadline_us for sent in self._pings.values())

    # --- requests ------------------------------------------------------------------------------------

    def volley(
        self,
        requests: Requests,
        columns: Columns,
        rows: NDArray[np.int32],
        base: int,
        out: NDArray[np.uint8],
        now_us: int,
    ) -> tuple[int, int]:
        """Writes as many requests for ``rows`` into ``out`` as limits allow.

        ``rows`` int32[n] counts within the shard whose ``columns`` are given; ``base`` is the journal row of its
        row 0. Returns (rows written, bytes written). Control frames still owed go first: see `control`.
        """
        count = size = 0
        while count < rows.size and self.room() > 0:
            layout = self._settled_layout(requests)
            if layout is None or self._must_split():
                # Looked at before teaching: what is not sent must not be taught.
                if out.size - size < _SINGLE_BYTES_MAX:
                    self.state[k.BLOCKED] = k.BY_BUFFER
                    break
                if layout is None:
                    layout = requests.layout(*self._headers.prime(requests.shape))
                # Teaching changes the peer's table, so this request goes whatever the windows are.
                more, wrote = self._single(layout, columns, rows[count : count + 1], base, out[size:], now_us)
            else:
                more = self._kernel(layout, columns, rows[count:], base, out[size:], now_us, False)
                wrote = int(self.state[k.VOLLEY_BYTES])
            count += more
            size += wrote
            if self.state[k.BLOCKED] != k.NOT_BLOCKED and not self._must_split():
                break
        if int(self.state[k.NEXT_STREAM]) > STREAM_ID_LAST and self.phase is Phase.OPEN:
            self.phase = Phase.DRAINING
            self.closing_reason = "stream ids used up"
        return count, size

    def _must_split(self) -> bool:
        """Whether only a split body can make progress.

        A window smaller than one body blocks the kernel. Where requests are in flight the peer may yet open its
        connection window; where none is, it may be waiting for us to use the last of it.
        """
        blocked = self.state[k.BLOCKED]
        return bool(
            blocked == k.BY_STREAM_WINDOW
            or (blocked == k.BY_SEND_WINDOW and self.in_flight == 0 and self.state[k.SEND_WINDOW] > 0)
        )

    def _settled_layout(self, requests: Requests) -> Layout | None:
        if requests is not self._requests or self._layout is None:
            settled = self._headers.settled(requests.shape)
            self._requests = requests
            self._layout = requests.layout(*settled) if settled is not None else None
        return self._layout

    def _kernel(
        self,
        layout: Layout,
        columns: Columns,
        rows: NDArray[np.int32],
        base: int,
        out: NDArray[np.uint8],
        now_us: int,
        whatever_the_window: bool,
    ) -> int:
        return int(
            k.volley(
                out, layout.address, layout.variants, layout.segments, columns.table, columns.variants, rows, base,
                self.book.outcome, self.book.attempts, self._slot_stream, self._slot_row, self._slot_sent,
                self._slot_state, self.state, now_us, whatever_the_window,
            )
        )  # fmt: skip

    def _single(
        self,
        layout: Layout,
        columns: Columns,
        row: NDArray[np.int32],
        base: int,
        out: NDArray[np.uint8],
        now_us: int,
    ) -> tuple[int, int]:
        """Writes one request and holds back the part of its body that no window takes yet."""
        stream_before = int(self.state[k.NEXT_STREAM])
        if self._kernel(layout, columns, row, base, out, now_us, True) == 0:
            raise ProtocolError("a request larger than a volley's buffer", code=h2.INTERNAL_ERROR)
        size = int(self.state[k.VOLLEY_BYTES])
        data_at = h2.HEADER_BYTES + int.from_bytes(out[:3].tobytes(), "big")
        stream = int.from_bytes(out[5:9].tobytes(), "big")
        body = size - data_at - h2.HEADER_BYTES
        window = int(self.state[k.INITIAL_WINDOW])
        now = max(0, min(body, window, int(self.state[k.SEND_WINDOW])))
        assert stream >= stream_before
        if now < body:
            rest = out[data_at + h2.HEADER_BYTES + now : size].tobytes()
            self._stalled[stream] = (rest, window - now)
            self.state[k.STALLED] = len(self._stalled)
            size = data_at
            if now > 0:
                out[data_at : data_at + 3] = np.frombuffer(now.to_bytes(3, "big"), np.uint8)
                out[data_at + 4] = 0
                size += h2.HEADER_BYTES + now
        self.state[k.SEND_WINDOW] -= now
        self.state[k.BLOCKED] = k.NOT_BLOCKED
        return 1, size

    def _send_stalled(self) -> None:
        for stream, (rest, window) in list(self._stalled.items()):
            now = min(len(rest), window, int(self.state[k.SEND_WINDOW]))
            if now <= 0:
                continue
            last = now == len(rest)
            self._control += h2.frame(h2.DATA, h2.END_STREAM if last else 0, stream, rest[:now])
            self.state[k.SEND_WINDOW] -= now
            if last:
                del self._stalled[stream]
            else:
                self._stalled[stream] = (rest[now:], window - now)
        self.state[k.STALLED] = len(self._stalled)

    # --- replies -------------------------------------------------------------------------------------

    def receive(self, buffer: NDArray[np.uint8], length: int, now_us: int, now_ms: int) -> int:
        """Reads ``buffer[:length]``; returns the bytes consumed (whole frames).

        ``now_ms`` counts from GO and becomes the rows' reply time. Raises ProtocolError when the peer breaks
        the protocol: send what `fault` gives, close, and call `lose`.
        """
        at = 0
        self._now_us = now_us
        while length - at >= h2.HEADER_BYTES:
            if self.phase is Phase.OPENING and (buffer[at + 3] != h2.SETTINGS or buffer[at + 4] & h2.ACK):
                raise ProtocolError("the peer's first frame is not SETTINGS: is this an HTTP/2 server?")
            view = buffer[at:length]
            took = int(
                k.scan(
                    view, length - at, self._events, self.book.outcome, self.book.reply_ms, self._slot_stream,
                    self._slot_row, self._slot_sent, self._slot_state, self.state, self.book.histogram, now_us, now_ms,
                )
            )  # fmt: skip
            if self._stalled:
                self._forget_answered()
            for position, size in self._events[: self.state[k.EVENTS]].tolist():
                head = view[position : position + h2.HEADER_BYTES].tobytes()
                start = position + h2.HEADER_BYTES
                payload = view[start : start + size].tobytes()
                self._frames[head[3]](int.from_bytes(head[5:], "big") & 0x7FFFFFFF, head[4], payload, now_us)
            if self.state[k.ERROR]:
                code = int(self.state[k.ERROR]) - 1
                raise ProtocolError(f"the peer broke HTTP/2 framing (error code {code})", code=code)
            at += took
            if len(self._control) > CONTROL_BYTES_MAX:
                raise ProtocolError("the peer floods us with frames to answer", code=h2.ENHANCE_YOUR_CALM)
            if self.state[k.EVENTS] < _EVENTS_MAX:
                break
        self._close_if_drained()
        return at

    def fault(self, error: ProtocolError) -> bytes:
        """The GOAWAY that tells the peer why we close."""
        return h2.goaway(0, error.code)

    def expire(self, now_us: int, deadline_us: int) -> int:
        """Gives up streams unanswered for longer than ``deadline_us``; returns how many."""
        count = int(k.silent(self._slot_stream, self._slot_sent, now_us, deadline_us, self._found))
        for slot in self._found[:count].tolist():
            stream = int(self._slot_stream[slot])
            self._abandon_body(stream)
            self._control += h2.rst_stream(stream, h2.CANCEL)
            self._return(stream, Reason.SILENCE)
        self._close_if_drained()
        return count

    def lose(self, reason: Reason = Reason.CONNECTION_LOST) -> None:
        """The transport is gone: every row in flight is returned with ``reason``."""
        self.phase = Phase.CLOSED
        for stream in self._slot_stream[self._slot_stream != 0].tolist():
            self._return(stream, reason)

    # --- frames the kernel leaves to python ----------------------------------------------------------

    def _on_headers(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_not_idle(stream, "HEADERS")
        self._block_stream = stream
        self._on_block(self._blocks.start(payload, flags))

    def _on_continuation(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._on_block(self._blocks.go_on(payload, flags))

    def _on_block(self, block: tuple[list[tuple[str, str]], bool] | None) -> None:
        if block is None:
            return
        stream = self._block_stream
        headers, end = block
        slot = self._slot(stream)
        if slot is None:
            return  # the answer to a stream we gave up
        if self._slot_state[slot] == k.GOT_200 or stream in self._partial:
            if end:
                self._finish(stream)  # trailers
            else:
                self._reset(stream, Reason.STREAM_RESET)
            return
        status = status_of(headers)
        if status is None or (status < 200 and end) or status == 101:
            self._reset(stream, Reason.STREAM_RESET)
        elif status < 200:
            self._slot_state[slot] = k.WAITING  # 1xx: the reply proper is still to come
        else:
            self._slot_state[slot] = k.GOT_200 if status == 200 else k.SLOW
            if status != 200:
                self._partial[stream] = PartialReply(status, {n: v for n, v in headers if not n.startswith(":")})
            if end:
                self._finish(stream)

    def _on_data(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_not_idle(stream, "DATA")
        data = unpadded(payload, flags)
        slot = self._slot(stream)
        if slot is None:
            return
        partial = self._partial.get(stream)
        if partial is None and self._slot_state[slot] != k.GOT_200:
            self._reset(stream, Reason.STREAM_RESET)
            return
        if partial is not None:
            partial.extend(data)
        if flags & h2.END_STREAM:
            self._finish(stream)

    def _finish(self, stream: int) -> None:
        """The reply is whole. A 200 that python read is told like any other; the caller settles it."""
        partial = self._partial.pop(stream, None) or PartialReply(200, {})
        sent = int(self._slot_sent[(stream >> 1) & (self._slot_stream.size - 1)])
        waited_us = (self._now_us - sent) & 0xFFFFFFFF
        row = self._free(stream)
        self.replies.append(Reply(row, partial.status, partial.headers, bytes(partial.body), waited_us))

    def _on_rst_stream(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_size(payload, 4, "RST_STREAM")
        self._check_not_idle(stream, "RST_STREAM")
        self._abandon_body(stream)  # a reset is not answered with a reset (RFC 9113 section 5.4.2)
        slot = self._slot(stream)
        if slot is None:
            return
        code = int.from_bytes(payload, "big")
        told = self._slot_state[slot] == k.GOT_200
        if (told and code == h2.NO_ERROR) or stream in self._partial:
            self._finish(stream)  # the status was told; only the end of the body is missing
        else:
            refused = code == h2.REFUSED_STREAM and not told  # who has said 200 has processed it
            self._return(stream, Reason.REFUSED_STREAM if refused else Reason.STREAM_RESET)

    def _on_settings(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        if stream:
            raise ProtocolError("SETTINGS on a stream")
        if flags & h2.ACK:
            self._check_size(payload, 0, "SETTINGS acknowledgement")
            return
        if len(payload) % 6:
            raise ProtocolError(f"SETTINGS of {len(payload)} bytes", code=h2.FRAME_SIZE_ERROR)
        if self.phase is Phase.OPENING:
            self.phase = Phase.OPEN
            self.state[k.MAX_STREAMS] = STREAMS_USED_MAX  # unless the peer says otherwise
        for at in range(0, len(payload), 6):
            self._on_setting(
                int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            )
        self._make_slots()
        self._control += h2.settings_ack()

    def _on_setting(self, identifier: int, value: int) -> None:
        if identifier == h2.SETTINGS_MAX_CONCURRENT_STREAMS:
            self.state[k.MAX_STREAMS] = min(value, STREAMS_USED_MAX)
        elif identifier == h2.SETTINGS_INITIAL_WINDOW_SIZE:
            if value > h2.WINDOW_MAX:
                raise ProtocolError(f"initial window of {value} bytes", code=h2.FLOW_CONTROL_ERROR)
            delta = value - int(self.state[k.INITIAL_WINDOW])
            self.state[k.INITIAL_WINDOW] = value
            for stream, (rest, window) in self._stalled.items():
                self._stalled[stream] = (rest, self._widened(window, delta))
        elif identifier == h2.SETTINGS_MAX_FRAME_SIZE:
            # The smallest legal value takes every frame we write, so the value itself changes nothing.
            if not h2.FRAME_SIZE_MIN <= value <= h2.FRAME_SIZE_MAX:
                raise ProtocolError(f"frame size of {value} bytes")
        elif identifier == h2.SETTINGS_ENABLE_PUSH:
            if value != 0:
                raise ProtocolError("a server cannot enable push (RFC 9113 section 6.5.2)")
        elif identifier == h2.SETTINGS_HEADER_TABLE_SIZE:
            self._headers.resize(value)
            self._layout = None

    def _on_ping(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_size(payload, 8, "PING")
        if stream:
            raise ProtocolError("PING on a stream")
        if flags & h2.ACK:
            sent = self._pings.pop(payload, None)
            if sent is not None:
                self.round_trip_us = now_us - sent
        else:
            self._control += h2.ping(payload, ack=True)

    def _on_goaway(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        if stream or len(payload) < 8:
            raise ProtocolError("malformed GOAWAY", code=h2.FRAME_SIZE_ERROR if not stream else h2.PROTOCOL_ERROR)
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        code = int.from_bytes(payload[4:8], "big")
        self.closing_reason = f"GOAWAY code {code} {payload[8:200].decode('latin-1')}".rstrip()
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.DRAINING
        # RFC 9113 section 6.8: streams above the last one were not and will not be processed.
        for above in self._slot_stream[self._slot_stream > last].tolist():
            self._return(above, Reason.GOING_AWAY)

    def _on_window_update(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_not_idle(stream, "WINDOW_UPDATE")
        step = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if step == 0:
            if self._slot(stream) is not None:
                self._reset(stream, Reason.STREAM_RESET)
        elif stream in self._stalled:
            rest, window = self._stalled[stream]
            self._stalled[stream] = (rest, self._widened(window, step))

    def _on_priority(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        self._check_size(payload, 5, "PRIORITY")
        if stream == 0:
            raise ProtocolError("PRIORITY on the connection")

    def _on_push_promise(self, stream: int, flags: int, payload: bytes, now_us: int) -> None:
        raise ProtocolError("PUSH_PROMISE although push is disabled")

    def _close_if_drained(self) -> None:
        if self.phase is Phase.DRAINING and self.in_flight == 0:
            self.phase = Phase.CLOSED

    # --- streams -------------------------------------------------------------------------------------

    def _slot(self, stream: int) -> int | None:
        slot = (stream >> 1) & (self._slot_stream.size - 1)
        return slot if self._slot_stream[slot] == stream and stream else None

    def _free(self, stream: int) -> int:
        slot = self._slot(stream)
        assert slot is not None
        self._slot_stream[slot] = 0
        self.state[k.IN_FLIGHT] -= 1
        self._partial.pop(stream, None)
        if self._abandon_body(stream):
            self._control += h2.rst_stream(stream, h2.CANCEL)
        return int(self._slot_row[slot])

    def _abandon_body(self, stream: int) -> bool:
        """Forgets what is left of a body. Returns whether the peer was left with half of one: it must be told."""
        if self._stalled.pop(stream, None) is None:
            return False
        self.state[k.STALLED] = len(self._stalled)
        return True

    def _forget_answered(self) -> None:
        """Requests that the kernel settled before their body had left: the rest is not wanted any more."""
        for stream in [s for s in self._stalled if self._slot(s) is None]:
            self._abandon_body(stream)
            self._control += h2.rst_stream(stream, h2.CANCEL)

    def _return(self, stream: int, reason: Reason) -> None:
        self.returned.append((self._free(stream), reason))

    def _reset(self, stream: int, reason: Reason) -> None:
        """Ends a stream on which the peer talks nonsense."""
        self._abandon_body(stream)
        self._control += h2.rst_stream(stream, h2.PROTOCOL_ERROR)
        self._return(stream, reason)

    def _check_not_idle(self, stream: int, what: str) -> None:
        if stream % 2 == 0 or stream >= self.state[k.NEXT_STREAM]:
            raise ProtocolError(f"{what} on stream {stream}, which we never opened")

    @staticmethod
    def _check_size(payload: bytes, size: int, what: str) -> None:
        if len(payload) != size:
            raise ProtocolError(f"{what} of {len(payload)} bytes, not {size}", code=h2.FRAME_SIZE_ERROR)

    @staticmethod
    def _widened(window: int, step: int) -> int:
        if window + step > h2.WINDOW_MAX:
            raise ProtocolError("stream window overflow", code=h2.FLOW_CONTROL_ERROR)
        return window + step

    def _slots(self, size: int) -> None:
        self._slot_stream = np.zeros(size, np.int32)
        self._slot_row = np.zeros(size, np.int32)
        self._slot_sent = np.zeros(size, np.uint32)
        self._slot_state = np.zeros(size, np.uint8)

    def _make_slots(self) -> None:
        """Keeps eight slots for each stream allowed, so that a few silent streams do not get in the way."""
        size = max(_SLOTS_MIN, 1 << (8 * self.streams_allowed - 1).bit_length()) if self.streams_allowed else _SLOTS_MIN
        if size <= self._slot_stream.size:
            return
        stream, row = self._slot_stream, self._slot_row
        sent, state = self._slot_sent, self._slot_state
        self._slots(size)
        held = np.flatnonzero(stream)
        new = (stream[held] >> 1) & (size - 1)
        self._slot_stream[new], self._slot_row[new] = stream[held], row[held]
        self._slot_sent[new], self._slot_state[new] = sent[held], state[held]

    def rows_in_flight(self) -> NDArray[np.int32]:
        """The journal rows sent and not answered, int32[in_flight]."""
        rows: NDArray[np.int32] = self._slot_row[self._slot_stream != 0]
        return rows
