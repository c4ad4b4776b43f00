"""The server's side of one HTTP/2 connection, without IO: bytes and a time in, bytes out.

Requests of the plain shape never reach this module's Python (`kernels.scan`); every other frame does, in order. The
strictness is RFC 9113's: what a client must not do ends its stream or its connection with the error the RFC
names, and is counted as malformed.

Life of a connection:

    SERVING  -> DRAINING (GOAWAY sent: new requests are passed over, taken ones are answered)
    SERVING, DRAINING -> HANG_UP (nothing more will be written; `abrupt` tells whether TLS is closed properly)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from hpack.exceptions import HPACKError, OversizedHeaderListError
from numpy.typing import NDArray

from flashcast.limits import HEADER_LIST_BYTES_MAX
from flashcast.model import Provider
from flashcast.outcomes import Reason
from flashcast.simulator import arrays as a
from flashcast.simulator import kernels as k
from flashcast.simulator import memo
from flashcast.simulator.channel import (
    CONTROL_FRAMES_MAX,
    S_HEADER_TABLE_SIZE,
    S_INITIAL_WINDOW,
    S_MAX_STREAMS,
    WINDOW_DEFAULT,
    Channel,
    Incoming,
    Phase,
)
from flashcast.simulator.events import NEVER, Event, Schedule
from flashcast.simulator.faults import Code, ConnectionFault, StreamFault
from flashcast.simulator.front import Front
from flashcast.simulator.idle import IdleTimer
from flashcast.simulator.ledger import G_CONNECTIONS, G_MALFORMED, G_OVER_LIMIT
from flashcast.simulator.replies import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from flashcast.simulator.rules import HeadVerdict, trailers_malformed
from flashcast.simulator.verdict import KIND_CUT, KIND_SILENCE

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BODY_KEPT_MAX: Final = 65_536
"""Bytes kept of a body; all providers refuse one far shorter."""
BODY_TOTAL_MAX: Final = 1 << 20
"""A body this long is no notification: ENHANCE_YOUR_CALM."""
GAPS_MAX: Final = 128
"""Skipped stream ids remembered, to tell an id never used from one that was closed."""

_OVER_LIMIT: Final = {
    # pushy issue 356; FCM's documentation of its limits.
    Provider.APNS: "Maximum active streams violated for this endpoint.",
    Provider.FCM: "exceeded_max_concurrent_streams",
}


@dataclass(slots=True)
class _Block:
    """A header block that goes on in CONTINUATION frames."""

    stream: int
    flags: int
    data: bytearray
    plain: bool


class Connection(Channel):
    """One client. ``certificate``: it proved itself with a client certificate."""

    def __init__(self, front: Front, now_ns: int, *, certificate: bool = False) -> None:
        profile = front.profile
        limit = profile.streams
        if profile.streams_before_auth is not None and not certificate:
            limit = profile.streams_before_auth
        number = next(front.numbers)
        super().__init__(front, now_ns, limit, Schedule(profile, front.seed, number))
        self._idle = IdleTimer(profile, front.seed, number, now_ns)
        self._certificate = certificate
        self._authenticated = certificate
        self.slow_reader = self._schedule.slow_reader
        self.abrupt = False
        self._preface = False
        self._block: _Block | None = None
        self._gaps: deque[tuple[int, int]] = deque(maxlen=GAPS_MAX)
        self._memo_until_ns = NEVER
        self._cut_stream = 0
        front.note(G_CONNECTIONS)
        self._open(limit)

    def __repr__(self) -> str:
        s = self._state
        return (
            f"<Connection {self._front.provider} {self.phase.value}: {int(s[a.S_HANDLED])} requests, "
            f"{int(s[a.S_OPEN])} open of {int(s[a.S_LIMIT])}, {int(s[a.S_SILENT])} silent>"
        )

    # --- what the IO asks ------------------------------------------------------------------------

    @property
    def next_due_ns(self) -> int:
        """When `release` should be called; `events.NEVER` for not at all."""
        idle_at_ns = self._idle.at_ns if self.phase is Phase.SERVING else NEVER
        return min(int(self._state[a.S_NEXT_DUE]), self._hang_at_ns, idle_at_ns)

    def receive(self, buf: NDArray[np.uint8], n: int, now_ns: int) -> int:
        """Takes ``buf[:n]`` (uint8, `LOAD_SLACK_BYTES` longer than ``n``); returns how many bytes were taken.

        The rest is to come again, with more behind it. `wants_flush` tells whether the output must be taken first.
        """
        self._now_ns = now_ns
        if now_ns >= self._memo_until_ns:
            memo.forget(self.wire)
            self._memo_until_ns = NEVER
        try:
            p = self._receive(buf, n)
        except ConnectionFault as fault:
            self._fail(fault)
            p = n
        self._settle_up()
        return p

    def release(self, now_ns: int) -> bool:
        """Writes the replies due. Returns whether to take the output and call again."""
        self._now_ns = now_ns
        full = self._release(now_ns)
        if now_ns >= self._hang_at_ns:
            self.phase = Phase.HANG_UP
            self._hang_at_ns = NEVER
        self._settle_up()
        if now_ns >= self._idle.at_ns and self.phase is Phase.SERVING:
            self._close_idle()
        return full

    def peer_closed(self) -> None:
        """The client is gone."""
        self.phase = Phase.HANG_UP

    def _open(self, limit: int) -> None:
        profile = self._front.profile
        settings = {S_MAX_STREAMS: limit}
        if self._stream_window != WINDOW_DEFAULT:
            settings[S_INITIAL_WINDOW] = self._stream_window
        if profile.header_table_bytes != 4_096:
            settings[S_HEADER_TABLE_SIZE] = profile.header_table_bytes
        self._send_settings(settings)
        extra = self._connection_window - WINDOW_DEFAULT
        if extra > 0:
            self._write(frame(WINDOW_UPDATE, 0, 0, extra.to_bytes(4, "big")))
            self._state[a.S_WINDOW] += extra

    def _fail(self, fault: ConnectionFault) -> None:
        self._front.note(G_MALFORMED)
        self._state[a.S_OUT] = min(int(self._state[a.S_OUT]), a.OUT_BYTES - 1_024)
        self._go_away(int(self._state[a.S_LAST]), fault.code, fault.debug.encode()[:256])
        self.phase = Phase.HANG_UP

    # --- after every call ----------------------------------------------------------------------------

    def _settle_up(self) -> None:
        """Gives windows back, cuts what is to be cut, hangs up when all is answered."""
        s, profile = self._state, self._front.profile
        if self.phase is Phase.HANG_UP:
            return
        if self._idle.enabled:
            open_now = int(s[a.S_PENDING]) + len(self._streams) + len(self._narrow)
            self._idle.used(int(s[a.S_HANDLED]), self._now_ns, busy=open_now > 0 or self._block is not None)
        if not s[a.S_DIRECT] and s[a.S_NEXT_DUE] <= self._now_ns:
            self._release_narrow(self._now_ns)
        credit = profile.window_update_bytes or self._connection_window // 2
        if s[a.S_TAKEN_BYTES] >= credit or (s[a.S_TAKEN_BYTES] and s[a.S_WINDOW] < WINDOW_DEFAULT // 2):
            taken = int(s[a.S_TAKEN_BYTES])
            self._write(frame(WINDOW_UPDATE, 0, 0, taken.to_bytes(4, "big")))
            s[a.S_WINDOW] += taken
            s[a.S_TAKEN_BYTES] = 0
        if self.phase is not Phase.DRAINING or self._streams or len(self._narrow):
            return
        if s[a.S_PENDING] == s[a.S_SILENT] and self._cut_stream:
            self._finish_cut()
        elif s[a.S_PENDING] == 0:
            self.phase = Phase.HANG_UP

    # --- receiving -------------------------------------------------------------------------------------

    def _receive(self, buf: NDArray[np.uint8], n: int) -> int:
        p = 0
        if not self._preface:
            if n < len(PREFACE):
                if buf[:n].tobytes() != PREFACE[:n]:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "invalid connection preface")
                return 0
            if buf[: len(PREFACE)].tobytes() != PREFACE:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "invalid connection preface")
            self._preface = True
            p = len(PREFACE)
        front, s = self._front, self._state
        while self.phase is not Phase.HANG_UP and not self.wants_flush:
            if self.phase is Phase.DRAINING:
                p = int(k.skip_above(buf, p, n, self._last_kept, self.wire)) if self._block is None else p
            elif self._block is None:
                front.ledger.room_for(2 * a.ROUND)
                p, why = k.scan(
                    buf,
                    p,
                    n,
                    self._now_ns,
                    self.wire,
                    front.office,
                    front.desk,
                    front.ledger.table,
                    front.ledger.totals,
                )
                if why == a.NEED_DATA:
                    return int(p)
                if why != a.SLOW:
                    self._stopped(why)
                    continue
            step = self._one_frame(buf, int(p), n)
            if step == 0:
                return int(p)
            p += step
            if s[a.S_STOP_AT] <= s[a.S_HANDLED] and self.phase is Phase.SERVING:
                self._events()
        return n if self.phase is Phase.HANG_UP else int(p)

    def _stopped(self, why: int) -> None:
        """The kernel met something other than a frame for the slow path."""
        if why == a.EVENT:
            self._events()
        elif why == a.CUT:
            self._cut(int(self._state[a.S_LAST]))
        elif why == a.SILENT:
            self._after_silence(int(self._state[a.S_LAST]))

    def _one_frame(self, buf: NDArray[np.uint8], p: int, n: int) -> int:
        """Handles the frame at ``p``; returns its length, 0 where it is not all there."""
        if p + 9 > n:
            return 0
        head = buf[p : p + 9].tobytes()
        size = int.from_bytes(head[:3], "big")
        if size > a.FRAME_BYTES_MAX:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"frame of {size} bytes")
        if p + 9 + size > n:
            return 0
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        if not self._first_settings and kind != SETTINGS:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream != self._block.stream):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "expected CONTINUATION")
        payload = buf[p + 9 : p + 9 + size].tobytes()
        try:
            self._dispatch(kind, flags, stream, payload)
        except StreamFault as fault:
            self._stream_fault(fault)
        return 9 + size

    def _stream_fault(self, fault: StreamFault) -> None:
        self._front.note(G_MALFORMED)
        if self._streams.pop(fault.stream, None) is not None:
            self._state[a.S_CLOSING] += 1
        elif k.cancel(fault.stream, self.wire):
            pass
        else:
            self._narrow.drop(fault.stream)
        self._reset(fault.stream, fault.code)

    def _dispatch(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._on_headers(flags, stream, payload)
        elif kind == DATA:
            self._on_data(flags, stream, payload)
        elif kind == CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client cannot push")
        else:
            self._controls += 1
            if self._controls > CONTROL_FRAMES_MAX:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many control frames")
            self._on_control(kind, flags, stream, payload)

    # --- requests ------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
        if stream % 2 == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a client's stream ids are odd")
        data = _unpadded(flags, payload)
        if flags & PRIORITY_FLAG:
            if len(data) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            itself = int.from_bytes(data[:4], "big") & 0x7FFFFFFF == stream
            data = data[5:]
        else:
            itself = False
        plain = not flags & (PADDED | PRIORITY_FLAG | END_STREAM)
        block = _Block(stream, flags, bytearray(data), plain and bool(flags & END_HEADERS))
        if not flags & END_HEADERS:
            self._block = block
            return
        self._on_block(block)
        if itself and stream in self._streams:
            raise StreamFault(stream, Code.PROTOCOL_ERROR, "a stream depends on itself")

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.data += payload
        self._controls += 1
        if len(block.data) > HEADER_LIST_BYTES_MAX or self._controls > CONTROL_FRAMES_MAX:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(block)

    def _decode(self, data: bytes) -> tuple[list[tuple[str, str]], bool]:
        """The header list, and whether the decoder's table stayed as it was."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        # An entry is a tuple of its own, so that a new first one tells of an insertion even if one was evicted.
        first, before = entries[0] if entries else None, (len(entries), table.maxsize)
        try:
            decoded = [(str(name), str(value)) for name, value in self._decoder.decode(data)]
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header list too large") from None
        except (HPACKError, UnicodeDecodeError):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "header block cannot be decoded") from None
        same = before == (len(entries), table.maxsize) and (entries[0] if entries else None) is first
        if not same:
            memo.forget(self.wire)
        return decoded, same

    def _on_block(self, block: _Block) -> None:
        data = bytes(block.data)
        headers, table_same = self._decode(data)
        stream, s = block.stream, self._state
        self._controls = 0
        if stream in self._streams:
            self._on_trailers(block, headers)
            return
        if stream in self._resets:
            return
        if stream <= s[a.S_LAST]:
            used = not any(low <= stream <= high for low, high in self._gaps)
            if used and (
                np.any(self.wire.pending[a.P_SID, : s[a.S_PENDING]] == stream) or stream in self._narrow
            ):
                raise StreamFault(stream, Code.STREAM_CLOSED, "HEADERS after END_STREAM")
            code = Code.STREAM_CLOSED if used else Code.PROTOCOL_ERROR
            raise ConnectionFault(code, "stream id used before")
        if self.phase is not Phase.SERVING:
            return
        if s[a.S_OPEN] >= s[a.S_LIMIT] or s[a.S_PENDING] >= a.PENDING_MAX - 1:
            self._over_limit(stream)
            return
        if stream > s[a.S_LAST] + 2:
            self._gaps.append((int(s[a.S_LAST]) + 2, stream - 2))
        s[a.S_LAST] = stream
        s[a.S_OPEN] += 1
        now_s = self._front.clock.time()
        head = self._front.rules.head(headers, self._certificate, now_s)
        opened = Incoming(head, bytearray(), 0, int(s[a.S_STREAM_WINDOW]))
        self._streams[stream] = opened
        if head.malformed:
            raise StreamFault(stream, Code.PROTOCOL_ERROR, "malformed request")
        if block.plain and table_same and head.reason is Reason.NONE and not head.request_id:
            self._learn(data, head, now_s)
        if block.flags & END_STREAM:
            self._complete(stream, opened)

    def _learn(self, data: bytes, head: HeadVerdict, now_s: float) -> None:
        apns = self._front.provider is Provider.APNS
        payload_max = head.payload_max if apns else 4_096
        memo.remember(self.wire, data, apns, payload_max, head.content_length)
        if head.good_until_s != float("inf"):
            left_ns = int((head.good_until_s - now_s) * 1e9)
            self._memo_until_ns = min(self._memo_until_ns, self._now_ns + left_ns)

    def _over_limit(self, stream: int) -> None:
        s = self._state
        self._front.note(G_OVER_LIMIT)
        if not self._acknowledged_limit or s[a.S_OPEN] < s[a.S_LIMIT]:
            # The client cannot have known the limit: refused, not processed (RFC 9113 section 5.1.2).
            s[a.S_LAST] = stream
            self._reset(stream, Code.REFUSED_STREAM)
            return
        self._front.note(G_MALFORMED)
        self._go_away(int(s[a.S_LAST]), Code.PROTOCOL_ERROR, _OVER_LIMIT[self._front.provider].encode())

    def _on_trailers(self, block: _Block, headers: list[tuple[str, str]]) -> None:
        if not block.flags & END_STREAM or trailers_malformed(headers):
            raise StreamFault(block.stream, Code.PROTOCOL_ERROR, "malformed trailers")
        self._complete(block.stream, self._streams[block.stream])

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        s = self._state
        if stream == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(payload)
        if size > s[a.S_WINDOW]:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window exceeded")
        s[a.S_WINDOW] -= size
        s[a.S_TAKEN_BYTES] += size
        data = _unpadded(flags, payload)
        opened = self._streams.get(stream)
        if opened is None:
            if stream in self._resets:
                return
            if stream > s[a.S_LAST]:
                if self.phase is Phase.SERVING or stream % 2 == 0:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on an idle stream")
                return
            raise StreamFault(stream, Code.STREAM_CLOSED, "DATA on a closed stream")
        if size > opened.window:
            raise StreamFault(stream, Code.FLOW_CONTROL_ERROR, "stream window exceeded")
        opened.window -= size
        opened.total += len(data)
        if opened.total > BODY_TOTAL_MAX:
            raise StreamFault(stream, Code.ENHANCE_YOUR_CALM, "body too long")
        if len(opened.body) < BODY_KEPT_MAX:
            opened.body += data
        if flags & END_STREAM:
            self._complete(stream, opened)
        elif size:
            opened.window += size
            self._write(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    def _complete(self, stream: int, opened: Incoming) -> None:
        """The request is whole: judge and answer it."""
        head, front = opened.head, self._front
        if head.content_length not in (-1, opened.total):
            raise StreamFault(stream, Code.PROTOCOL_ERROR, "content-length does not match")
        del self._streams[stream]
        reason, token = head.reason, head.token
        if reason is Reason.NONE or (reason is Reason.BAD_DEVICE_TOKEN and not opened.total):
            body = front.judge_body(head, bytes(opened.body))
            reason, token = body.reason, head.token or body.token
            if body.malformed:
                front.note(G_MALFORMED)
        row = front.settle(self.wire, stream, token, reason, head.request_id, self._now_ns)
        if head.authenticated and not self._authenticated and reason is Reason.NONE:
            self._authenticated = True
            if front.profile.streams_before_auth is not None:
                self._send_settings({S_MAX_STREAMS: front.profile.streams})
        if front.row_kind(row) == KIND_CUT:
            self._cut(stream)
        elif front.row_kind(row) == KIND_SILENCE:
            self._after_silence(stream)

    # --- misbehaviour ----------------------------------------------------------------------------------------

    def _events(self) -> None:
        s = self._state
        for event, value in self._schedule.due(int(s[a.S_HANDLED])):
            if event is Event.STREAMS and self._authenticated:
                self._send_settings({S_MAX_STREAMS: value})
            elif event is Event.TABLE:
                self._send_settings({S_HEADER_TABLE_SIZE: value})
            elif event is Event.PING:
                self._write(frame(PING, 0, 0, int(s[a.S_HANDLED]).to_bytes(8, "big")))
            elif event is Event.GOAWAY:
                debug = b'{"reason":"%s"}' % self._front.profile.goaway_reason.encode()
                self._go_away(int(s[a.S_LAST]), Code.NO_ERROR, debug)
        s[a.S_STOP_AT] = self._schedule.next_at

    def _close_idle(self) -> None:
        """Nothing is open, so nothing is in doubt but what the client is sending at this very moment."""
        if self._idle.abrupt:
            self.abrupt = True
        else:
            self._go_away(int(self._state[a.S_LAST]), Code.NO_ERROR, b'{"reason":"IdleTimeout"}')
        self.phase = Phase.HANG_UP

    def _after_silence(self, stream: int) -> None:
        # Nothing else may end this connection before the client has waited in vain.
        if self._front.profile.silence_then_goaway and self.phase is Phase.SERVING:
            self._go_away(int(self._state[a.S_LAST]), Code.NO_ERROR, b'{"reason":"Shutdown"}')

    def _cut(self, stream: int) -> None:
        """Ends the connection inside the reply of ``stream``, and see to it that no other request is in doubt.

        Everything else that was taken is answered first; requests not yet whole are refused, those not yet read
        are above GOAWAY's last stream id. So what becomes unknown is this request alone, whatever the timing.
        """
        s = self._state
        self._cut_stream = stream
        due = self.wire.pending[a.P_DUE, : s[a.S_PENDING]]
        due[due < a.NEVER] = 0
        s[a.S_NEXT_DUE] = 0
        for other in list(self._streams):
            self._reset(other, Code.REFUSED_STREAM)
            del self._streams[other]
            s[a.S_CLOSING] += 1
        self._go_away(int(s[a.S_LAST]), Code.NO_ERROR, b'{"reason":"Shutdown"}')
        self._release(self._now_ns)

    def _finish_cut(self) -> None:
        data = self._front.success(self.wire, self._cut_stream).tobytes()
        self._write(data[: 9 + 20])
        self.abrupt = True
        self.phase = Phase.HANG_UP


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "padded frame without a pad length")
    pad = payload[0]
    if pad >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - pad]
