"""One warm connection: a TLS channel and the protocol on top of it, opened again when it is lost."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flashcast.errors import FlashcastError, ProtocolError
from flashcast.limits import RECONNECT_BACKOFF_S_MAX
from flashcast.outcomes import Reason
from flashcast.transport.tls import Address, Stage
from flashcast.wire.connection import Book, Connection, Phase


class ChannelLike(Protocol):
    """What a lane needs of a channel: `transport.tls.Channel`, or one that a simulation made. Nothing blocks."""

    @property
    def stage(self) -> Stage: ...
    @property
    def socket(self) -> Any:
        """What the selector is given."""
        ...

    @property
    def wants_write(self) -> bool:
        """Whether to wait for a chance to write as well."""
        ...

    @property
    def more(self) -> bool:
        """Whether the last `receive` may have left something that the selector does not tell of."""
        ...

    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...

    def advance(self) -> bool:
        """Takes the opening further; whether the channel is open now. Raises EnvironmentFault."""
        ...

    def send(self, data: bytes | memoryview) -> None:
        """Writes what can be written and keeps the rest. Raises ConnectionError."""
        ...

    def flush(self) -> bool:
        """Writes what was kept; whether all of it is gone. Raises ConnectionError."""
        ...

    def receive(self, into: memoryview) -> int:
        """Reads what is there; 0 where nothing is. Raises ConnectionError when the peer is gone and all is read."""
        ...

    def close(self) -> None:
        """Closes; safe to call twice."""
        ...


Dial: TypeAlias = Callable[[Address, ssl.SSLContext, bytearray], ChannelLike]
"""Begins a connection: address, TLS settings, and a scratch buffer shared by the channels of one lane."""


class Ready(Protocol):
    """What a selector tells of: ``data`` is what was registered with it."""

    @property
    def data(self) -> Any: ...


class SelectorLike(Protocol):
    """What a lane needs of a selector: `selectors.DefaultSelector`, or one that a simulation made."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> object: ...
    def modify(self, fileobj: Any, events: int, data: Any = None) -> object: ...
    def unregister(self, fileobj: Any) -> object: ...
    def select(self, timeout: float | None = None) -> Iterable[tuple[Ready, int]]: ...
    def close(self) -> None: ...


class Link:
    """A channel and a connection. The lane decides when; the link does."""

    def __init__(self, channel: ChannelLike, book: Book, now_ns: int) -> None:
        """``channel`` has begun to connect."""
        self.channel = channel
        self.connection = Connection(book)
        self.opened_ns = now_ns
        self.active_ns = now_ns
        self.read_ns = now_ns
        """When bytes last came."""
        self.watched_events = 0
        self.accepted_noted = 0
        """How many of the connection's accepted replies the lane has taken note of."""
        self.proven = False
        """Whether the peer has answered a request: until then a loss counts as a failure to open."""
        self._left_over = b""

    def __repr__(self) -> str:
        return f"<Link {self.channel!r} {self.connection!r}>"

    @property
    def ready(self) -> bool:
        """Whether requests may be sent: the peer's SETTINGS have come."""
        return self.connection.phase is Phase.OPEN

    def open_further(self) -> None:
        """Takes the opening as far as it goes; says hello as soon as TLS stands."""
        if self.channel.stage is not Stage.OPEN and self.channel.advance():
            self.channel.send(self.connection.opening())

    def read(self, buffer: NDArray[np.uint8], view: memoryview, now: Callable[[], int], origin_ns: int) -> bool:
        """Reads what has come through the lane's scratch ``buffer``. Returns whether anything had.

        Raises ConnectionError when the peer is gone, ProtocolError when it broke the protocol.
        """
        kept = len(self._left_over)
        view[:kept] = self._left_over
        got = self.channel.receive(view[kept:])
        if not got:
            return False
        now_ns = now()
        self.active_ns = self.read_ns = now_ns
        length = kept + got
        now_ms = min(max(0, (now_ns - origin_ns) // 1_000_000), 0xFFFFFFFE)
        consumed = self.connection.receive(buffer, length, now_ns // 1_000, now_ms)
        self._left_over = view[consumed:length].tobytes()
        return True

    def write_control(self) -> None:
        """Sends what the protocol owes the peer."""
        if self.channel.stage is Stage.OPEN:
            owed = self.connection.control()
            if owed:
                self.channel.send(owed)

    def close(self, error: Exception | None = None) -> None:
        """Says good-bye where it can, closes, and returns what was in flight to the connection's lists."""
        try:
            if isinstance(error, ProtocolError):
                self.channel.send(self.connection.fault(error))
            elif error is None and self.channel.stage is Stage.OPEN:
                self.channel.send(self.connection.fault(ProtocolError("", code=0)))
        except (ConnectionError, ssl.SSLError):
            pass  # the peer is gone; there is nobody to tell
        self.channel.close()
        self.connection.lose(Reason.CONNECTION_LOST)


class Reopening:
    """When a lane may try to open another connection: back-off after failures, reset by a success."""

    def __init__(self) -> None:
        self.not_before_ns = 0
        self.failures = 0
        self.last_error: FlashcastError | None = None

    def failed(self, error: FlashcastError, now_ns: int) -> None:
        """An opening failed: wait twice as long as last time."""
        self.failures += 1
        self.last_error = error
        wait_s = min(RECONNECT_BACKOFF_S_MAX, 0.05 * 2.0 ** min(self.failures, 16))
        self.not_before_ns = now_ns + int(wait_s * 1e9)

    def succeeded(self) -> None:
        """A connection opened."""
        self.failures = 0
        self.last_error = None
        self.not_before_ns = 0
