"""Replies for a client whose stream windows are smaller than a reply's body.

Ordinary clients leave at least 64 KiB per stream, and the kernels count only the connection's window. For one that
does not, each reply is taken apart here: HEADERS go out at once, DATA as the stream's and the connection's
windows allow (RFC 9113 section 5.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flashcast.simulator import arrays as a
from flashcast.simulator.replies import DATA, END_STREAM, PADDED, frame


@dataclass(slots=True)
class _Blocked:
    frames: deque[tuple[int, int, bytes]] = field(default_factory=deque)
    sent: int = 0


def _split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    frames, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        frames.append((data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return frames


class NarrowReplies:
    """The DATA that waits, per stream. ``write`` takes bytes for the client."""

    def __init__(self, wire: a.Wire, write: Callable[[bytes], None]) -> None:
        self._wire = wire
        self._write = write
        self._blocked: dict[int, _Blocked] = {}
        self.extra: dict[int, int] = {}
        """WINDOW_UPDATE bytes a stream got beyond its initial window."""

    def __contains__(self, stream: int) -> bool:
        return stream in self._blocked

    def __len__(self) -> int:
        return len(self._blocked)

    def begin(self, stream: int, data: bytes, initial_window: int) -> None:
        """Sends what may be sent of a reply and keeps the rest."""
        blocked = _Blocked()
        for kind, flags, sid, payload in _split(data):
            if sid == 0:
                self._write(frame(kind, flags, 0, payload))
            else:
                if kind == DATA and flags & PADDED:
                    # A padded frame cannot be cut; without its padding it says the same.
                    payload, flags = payload[1 : len(payload) - payload[0]], flags & ~PADDED
                blocked.frames.append((kind, flags, payload))
        self._blocked[stream] = blocked
        self.pump(stream, initial_window)

    def pump(self, stream: int, initial_window: int) -> None:
        """Sends more of a stream after a window grew."""
        blocked, s = self._blocked[stream], self._wire.state
        while blocked.frames:
            kind, flags, payload = blocked.frames[0]
            if kind != DATA:
                self._write(frame(kind, flags, stream, payload))
                blocked.frames.popleft()
                continue
            room = min(initial_window + self.extra.get(stream, 0) - blocked.sent, int(s[a.S_SEND_WINDOW]))
            if payload and room <= 0:
                return
            piece, rest = payload[: max(room, 0)], payload[max(room, 0) :]
            blocked.sent += len(piece)
            s[a.S_SEND_WINDOW] -= len(piece)
            self._write(frame(DATA, flags & ~END_STREAM if rest else flags, stream, piece))
            if rest:
                blocked.frames[0] = (kind, flags, rest)
            else:
                blocked.frames.popleft()
        del self._blocked[stream]
        self.extra.pop(stream, None)
        s[a.S_CLOSING] += 1

    def pump_all(self, initial_window: int) -> None:
        """Sends more of every stream, oldest first."""
        for stream in list(self._blocked):
            self.pump(stream, initial_window)

    def drop(self, stream: int) -> None:
        """The client reset the stream."""
        if self._blocked.pop(stream, None) is not None:
            self._wire.state[a.S_OPEN] -= 1
        self.extra.pop(stream, None)
