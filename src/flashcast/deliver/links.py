"""The connections of one lane: opened until there are as many as wanted, kept alive, replaced when they are lost.

Everything here runs in the lane's thread. What a connection could not settle by itself is handed to ``heard``, also
before a lost one is let go, so that no row is lost with it.
"""

from __future__ import annotations

import contextlib
import selectors
import ssl
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from flashcast.clock import Clock
from flashcast.deliver.link import ChannelLike, Dial, Link, Reopening, SelectorLike
from flashcast.errors import EnvironmentFault, FlashcastError, ProtocolError
from flashcast.limits import (
    FRAME_BYTES_MAX,
    HANDSHAKE_DEADLINE_S,
    HANDSHAKES_AT_ONCE_MAX,
    PING_INTERVAL_S,
    RECEIVE_BUFFER_BYTES,
)
from flashcast.transport.tls import Address, Channel, Stage
from flashcast.wire.connection import Book, Phase

SHORT_LIVED_S: Final = 1.0
"""A connection lost sooner than this, and before it answered a request, counts as a failure to open."""


class Links:
    """See the module's docstring. Iterate over it to see each link; the copy may be changed meanwhile."""

    def __init__(
        self, address: Address, context: ssl.SSLContext, wanted: int, clock: Clock, selector: SelectorLike, book: Book,
        heard: Callable[[Link], None], *, dial: Dial = Channel, handshake_deadline_s: float = HANDSHAKE_DEADLINE_S,
    ) -> None:  # fmt: skip
        self.address = address
        self.wanted = wanted
        self.ready = 0
        """Connections over which requests may be sent."""
        self.book = book
        """Where the connections write outcomes; see `take_up`."""
        self.origin_ns = 0
        self.sending = False
        """While a job runs, a connection that does not open is no fault: it is tried again until the window ends."""
        self.fault: FlashcastError | None = None
        """Why none could be opened; forgotten when one opens."""
        self.accepted_gone = 0
        """What connections that are no more had accepted."""
        self._links: list[Link] = []
        self._context = context
        self._clock = clock
        self._selector = selector
        self._heard = heard
        self._dial = dial
        self._handshake_deadline_ns = int(handshake_deadline_s * 1e9)
        self._reopening = Reopening()
        self._raw = bytearray(RECEIVE_BUFFER_BYTES)
        self._buffer = np.empty(RECEIVE_BUFFER_BYTES + FRAME_BYTES_MAX + 9, np.uint8)
        self._view = memoryview(self._buffer)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<Links to {self.address}, {self.ready} of {self.wanted} ready>"

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links))

    def __len__(self) -> int:
        return len(self._links)

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return sum(link.connection.in_flight for link in list(self._links))

    @property
    def accepted(self) -> int:
        """Replies that the connections settled as accepted, those of lost connections included."""
        return self.accepted_gone + sum(link.connection.accepted for link in list(self._links))

    def take_up(self, book: Book, origin_ns: int) -> None:
        """From now on outcomes go to ``book``, with reply times from ``origin_ns``."""
        self.book = book
        self.origin_ns = origin_ns
        for link in self._links:
            link.connection.book = book

    # --- reading and watching ------------------------------------------------------------------------------

    def read(self, link: Link) -> bool:
        """Reads what has come on a link and hands it on. Returns whether anything had.

        Raises ConnectionError when the peer is gone, ProtocolError when it broke the protocol.
        """
        if not link.read(self._buffer, self._view, self._clock.monotonic_ns, self.origin_ns):
            return False
        self._heard(link)
        return True

    def watch(self, link: Link) -> None:
        """Waits for what the link can do next."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.channel.wants_write else 0)
        if wanted != link.watched_events:
            if link.watched_events:
                self._selector.modify(link.channel.socket, wanted, link)
            else:
                self._selector.register(link.channel.socket, wanted, link)
            link.watched_events = wanted

    def turned(self, link: Link) -> None:
        """A link has become ready, or has ceased to be."""
        self._count_ready()
        if link.ready:
            self._reopening.succeeded()
            self.fault = None

    def _count_ready(self) -> None:
        self.ready = sum(1 for link in self._links if link.ready)

    # --- opening -------------------------------------------------------------------------------------------

    def open_missing(self, now_ns: int) -> None:
        """Opens what is missing, so many handshakes at once; a draining connection does not count."""
        lasting = [link for link in self._links if link.connection.phase in (Phase.OPENING, Phase.OPEN)]
        if len(lasting) > self.wanted:
            self._close_surplus(lasting, len(lasting) - self.wanted)
            return
        missing = min(self.wanted - len(lasting), HANDSHAKES_AT_ONCE_MAX - (len(lasting) - self.ready))
        if self._reopening.failures:
            missing = min(missing, 1)  # one at a time finds out whether the peer is back
        while missing > 0 and now_ns >= self._reopening.not_before_ns:
            missing -= 1
            try:
                channel: ChannelLike = self._dial(self.address, self._context, self._raw)
            except FlashcastError as error:
                self._opening_failed(error, now_ns)
                return
            link = Link(channel, self.book, now_ns)
            self._links.append(link)
            self.watch(link)

    def _close_surplus(self, lasting: list[Link], count: int) -> None:
        """Closes what is not wanted any more: those still opening first, and none that has requests in flight."""
        idle = [link for link in lasting if not link.connection.in_flight]
        for link in sorted(idle, key=lambda link: link.ready)[:count]:
            link.proven = True  # it did not fail
            self.drop(link, None)

    def _opening_failed(self, error: FlashcastError, now_ns: int) -> None:
        self._reopening.failed(error, now_ns)
        if not error.retryable or not self.sending:
            self.fault = self.fault or error

    # --- losing --------------------------------------------------------------------------------------------

    def drop(self, link: Link, error: Exception | None) -> None:
        """Closes a link, ``error`` telling why; its rows in flight are handed on as lost."""
        opened = link.connection.phase is not Phase.OPENING
        if opened and isinstance(error, ConnectionError):
            self._hear_out(link)
        link.close(error)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.channel.socket)
        if link not in self._links:
            return
        self._heard(link)
        self._links.remove(link)
        self.accepted_gone += link.connection.accepted
        self._count_ready()
        if not opened and error is not None:
            fault = error if isinstance(error, FlashcastError) else _lost_while_opening(self.address, error)
            self._opening_failed(fault, self._clock.monotonic_ns())
        elif not link.proven and self._clock.monotonic_ns() - link.opened_ns < SHORT_LIVED_S * 1e9:
            # Without a pause a peer that hangs up at once would be dialled at every tick. One that closes what has
            # been idle for long is no such peer: before GO no connection has proven itself.
            fault = _lost_while_opening(self.address, "no request was answered")
            self._reopening.failed(fault, self._clock.monotonic_ns())

    def _hear_out(self, link: Link) -> None:
        """Writing fails as soon as the peer has left; what it said before, a GOAWAY perhaps, is still to be read."""
        with contextlib.suppress(ConnectionError, ssl.SSLError, ProtocolError):
            while self.read(link):
                pass

    def drop_all(self) -> None:
        """Closes every link."""
        for link in self:
            self.drop(link, None)

    # --- time ----------------------------------------------------------------------------------------------

    def keep_alive(self, now_ns: int) -> None:
        """Gives up openings that take too long and peers that do not answer; asks quiet ones for a sign of life."""
        for link in self:
            if link.connection.phase is Phase.OPENING and now_ns - link.opened_ns > self._handshake_deadline_ns:
                self.drop(link, ConnectionError("it took too long"))
                continue
            if link.channel.stage is not Stage.OPEN:
                continue
            quiet_ns = now_ns - link.active_ns
            try:
                if link.connection.ping_overdue(now_ns // 1_000, int(PING_INTERVAL_S * 5e5)):
                    raise ConnectionError("no answer to PING")
                if quiet_ns > PING_INTERVAL_S * 1e9 or (link.ready and not link.connection.pinged):
                    link.active_ns = now_ns
                    link.connection.ping(now_ns // 1_000)
                link.write_control()
                self.watch(link)
            except (ConnectionError, ssl.SSLError) as error:
                self.drop(link, error)


def _lost_while_opening(address: Address, error: Exception | str) -> FlashcastError:
    return EnvironmentFault(
        f"{address} closed the connection while it was opening: {error}",
        remedy="Check the endpoint, and the client certificate if there is one.",
        retryable=True,
    )
