"""What a connection has apart from its requests: output, SETTINGS, flow control, small frames.

`connection.Connection` builds on it; nothing here knows what a request means.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from hpack import Decoder

from flashcast.limits import HEADER_LIST_BYTES_MAX
from flashcast.simulator import arrays as a
from flashcast.simulator import kernels as k
from flashcast.simulator import memo
from flashcast.simulator.events import NEVER, Schedule
from flashcast.simulator.faults import Code, ConnectionFault, StreamFault
from flashcast.simulator.front import Front
from flashcast.simulator.narrow import NarrowReplies
from flashcast.simulator.replies import (
    ACK,
    GOAWAY,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from flashcast.simulator.rules import HeadVerdict

WINDOW_DEFAULT: Final = 65_535
WINDOW_MAX: Final = 2**31 - 1
WINDOW_AMPLE: Final = 1 << 24
"""Connection window of a connection that is not to feel it: 150,000 requests between updates."""
RESETS_MAX: Final = 16_384
"""Streams we reset and remember, because frames for them may still be under way."""
CONTROL_FRAMES_MAX: Final = 10_000
"""PING, SETTINGS and RST_STREAM frames without a request between them; more is a flood."""
DRAIN_DEADLINES: Final = 3
"""A draining connection with silent streams is closed after this many reply deadlines."""

S_HEADER_TABLE_SIZE, S_ENABLE_PUSH, S_MAX_STREAMS, S_INITIAL_WINDOW, S_MAX_FRAME = 1, 2, 3, 4, 5
_REPLY_DATA_MAX: Final = 1_024
"""No reply has more body than this, so that a client window at least as large never blocks one."""


class Phase(Enum):
    """Where a connection is in its life."""

    SERVING = "serving"
    DRAINING = "draining"
    HANG_UP = "hang up"


@dataclass(slots=True)
class Incoming:
    """A request that is being received."""

    head: HeadVerdict
    body: bytearray
    total: int
    window: int


class Channel:
    """The connection-level half of an HTTP/2 server. ``limit`` the streams to begin with."""

    def __init__(self, front: Front, now_ns: int, limit: int, schedule: Schedule) -> None:
        self._front = front
        self._schedule = schedule
        self.wire = a.new_wire()
        self._state = self.wire.state
        self._narrow = NarrowReplies(self.wire, self._write)
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)
        small = schedule.small_windows
        self._connection_window = front.profile.connection_window_bytes if small else WINDOW_AMPLE
        self._stream_window = front.profile.stream_window_bytes if small else WINDOW_DEFAULT
        self.phase = Phase.SERVING
        self._first_settings = False
        self._streams: dict[int, Incoming] = {}
        self._resets: dict[int, None] = {}
        self._unacknowledged: deque[dict[int, int]] = deque()
        self._acknowledged_limit = False
        self._client_window = WINDOW_DEFAULT
        self._last_kept = 0
        self._hang_at_ns = NEVER
        self._now_ns = now_ns
        self._controls = 0
        s = self._state
        s[a.S_LAST] = -1
        s[a.S_WINDOW] = WINDOW_DEFAULT
        s[a.S_STREAM_WINDOW] = WINDOW_DEFAULT
        s[a.S_LIMIT] = limit
        s[a.S_SEND_WINDOW] = WINDOW_DEFAULT
        s[a.S_NEXT_DUE] = NEVER
        s[a.S_DIRECT] = 1
        s[a.S_STOP_AT] = schedule.next_at

    def take_output(self) -> memoryview | None:
        """The bytes to send, None for none. Valid until the next call on any connection of the front's desk."""
        s = self._state
        size = int(s[a.S_OUT])
        if size == 0:
            return None
        s[a.S_OUT] = 0
        # From now on the client may know of these streams' ends.
        s[a.S_OPEN] -= s[a.S_CLOSING]
        s[a.S_CLOSING] = 0
        return memoryview(self._front.desk.out)[:size]  # type: ignore[arg-type]

    @property
    def wants_flush(self) -> bool:
        """Whether the output buffer is so full that receiving stopped."""
        return int(self._state[a.S_OUT]) > a.OUT_BYTES // 2

    def _write(self, data: bytes) -> None:
        s, out = self._state, self._front.desk.out
        o = int(s[a.S_OUT])
        if o + len(data) > out.size:
            # The slow path stops for a flush at half the buffer; only a flood of control frames gets here.
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that ask for an answer")
        out[o : o + len(data)] = np.frombuffer(data, np.uint8)
        s[a.S_OUT] = o + len(data)

    def _send_settings(self, settings: dict[int, int]) -> None:
        payload = b"".join(struct.pack(">HI", key, value) for key, value in settings.items())
        self._write(frame(SETTINGS, 0, 0, payload))
        self._unacknowledged.append(settings)

    def _go_away(self, last: int, code: Code, debug: bytes) -> None:
        self._write(frame(GOAWAY, 0, 0, struct.pack(">II", max(last, 0), code) + debug))
        self._last_kept = max(last, 0)
        if self.phase is Phase.SERVING:
            self.phase = Phase.DRAINING
            self._hang_at_ns = self._now_ns + int(DRAIN_DEADLINES * self._front.reply_deadline_s * 1e9)

    def _reset(self, stream: int, code: Code) -> None:
        # What the client sent before it learns of this is no fault (RFC 9113 section 5.1, closed).
        self._resets[stream] = None
        if len(self._resets) > RESETS_MAX:
            del self._resets[next(iter(self._resets))]
        self._write(frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def _release(self, now_ns: int) -> bool:
        if self._state[a.S_DIRECT]:
            return bool(k.release(now_ns, self.wire, self._front.office, self._front.desk))
        return self._release_narrow(now_ns)

    def _release_narrow(self, now_ns: int) -> bool:
        s, pending = self._state, self.wire.pending
        n = int(s[a.S_PENDING])
        ready = [i for i in range(n) if pending[a.P_DUE, i] <= now_ns]
        rows = [tuple(int(value) for value in pending[:, i]) for i in ready[:256]]
        for row in rows:
            k.cancel(row[a.P_SID], self.wire)
            s[a.S_OPEN] += 1
        for _due, sid, template, high, low in rows:
            self._narrow.begin(
                sid, self._front.emit(self.wire, sid, template, high, low).tobytes(), self._client_window
            )
        left = pending[a.P_DUE, : int(s[a.S_PENDING])]
        s[a.S_NEXT_DUE] = int(left.min()) if left.size else NEVER
        return len(ready) > len(rows)

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            # A client that reads many replies sends many of these.
            self._controls -= 1
            self._on_window_update(stream, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, stream, payload)
        elif kind == RST_STREAM:
            self._on_reset(stream, payload)
        elif kind == PING:
            if stream != 0:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
            if len(payload) != 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "PING of another size than 8")
            if not flags & ACK:
                self._write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            if stream != 0:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY shorter than 8")
        elif kind == PRIORITY:
            if stream == 0:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
            if len(payload) != 5:
                raise StreamFault(stream, Code.FRAME_SIZE_ERROR, "PRIORITY of another size than 5")
            if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream:
                raise StreamFault(stream, Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            if not self._first_settings or not self._unacknowledged:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS acknowledgement of nothing")
            self._apply_own(self._unacknowledged.popleft())
            return
        if len(payload) % 6:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of another size than a multiple of 6")
        self._first_settings = True
        for key, value in struct.iter_unpack(">HI", payload):
            self._apply_client(key, value)
        self._write(frame(SETTINGS, ACK, 0, b""))

    def _apply_own(self, settings: dict[int, int]) -> None:
        """The client acknowledged: from here on it is held to these."""
        s = self._state
        if S_MAX_STREAMS in settings:
            s[a.S_LIMIT] = settings[S_MAX_STREAMS]
            self._acknowledged_limit = True
        if S_INITIAL_WINDOW in settings:
            delta = settings[S_INITIAL_WINDOW] - int(s[a.S_STREAM_WINDOW])
            s[a.S_STREAM_WINDOW] += delta
            for opened in self._streams.values():
                opened.window += delta
        if S_HEADER_TABLE_SIZE in settings:
            self._decoder.max_allowed_table_size = settings[S_HEADER_TABLE_SIZE]
            if self._decoder.header_table.maxsize > settings[S_HEADER_TABLE_SIZE]:
                # The next block must begin with a size update; only the slow path sees to that.
                memo.forget(self.wire)

    def _apply_client(self, key: int, value: int) -> None:
        s = self._state
        if key == S_ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if key == S_MAX_FRAME and not 16_384 <= value <= 16_777_215:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
        if key == S_HEADER_TABLE_SIZE and value < 4_096:
            s[a.S_SIZE_UPDATE] = 1
        if key == S_INITIAL_WINDOW:
            if value > WINDOW_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE out of range")
            self._client_window = value
            s[a.S_DIRECT] = int(value >= _REPLY_DATA_MAX)
            self._narrow.pump_all(value)

    def _on_window_update(self, stream: int, payload: bytes) -> None:
        s = self._state
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream == 0:
            if more == 0:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if s[a.S_SEND_WINDOW] + more > WINDOW_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window overflow")
            s[a.S_SEND_WINDOW] += more
            self._release(self._now_ns)
            self._narrow.pump_all(self._client_window)
            return
        if stream > s[a.S_LAST] and self.phase is Phase.SERVING:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        if more == 0:
            raise StreamFault(stream, Code.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        waiting = np.any(self.wire.pending[a.P_SID, : s[a.S_PENDING]] == stream)
        if not (stream in self._streams or stream in self._narrow or waiting):
            return
        extra = self._narrow.extra.get(stream, 0) + more
        if self._client_window + extra > WINDOW_MAX:
            raise StreamFault(stream, Code.FLOW_CONTROL_ERROR, "stream window overflow")
        if len(self._narrow.extra) >= RESETS_MAX:
            self._narrow.extra.clear()
        self._narrow.extra[stream] = extra
        if stream in self._narrow:
            self._narrow.pump(stream, self._client_window)

    def _on_reset(self, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4")
        if stream > self._state[a.S_LAST]:
            if self.phase is Phase.SERVING:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
            return
        if self._streams.pop(stream, None) is not None:
            self._state[a.S_OPEN] -= 1
        elif not k.cancel(stream, self.wire):
            self._narrow.drop(stream)
