"""A server in memory on the h2 library, and lanes that are stepped: nothing happens but when a test says so."""

from __future__ import annotations

import selectors
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from scripted_server import Request

from flashcast.clock import Clock
from flashcast.deliver.lane import Lane
from flashcast.errors import EnvironmentFault
from flashcast.transport.tls import Address, Stage

STEPS_MAX = 10_000
"""After so many rounds lanes do not come to rest."""
NOWHERE = Address("provider.example", 443)


class MemoryServer:
    """What it is asked it answers with ``answer``: (status, body), or None, which leaves the request waiting."""

    def __init__(self, *, streams: int = 100) -> None:
        self.answer: Callable[[Request], tuple[int, bytes] | None] = lambda request: (200, b"")
        self.seen: list[Request] = []
        self.channels: list[MemoryChannel] = []
        self.refusing = False
        self.streams = streams

    def dial(self, address: Address, context: ssl.SSLContext, raw: bytearray) -> MemoryChannel:
        """Takes the place of a socket."""
        channel = MemoryChannel(self)
        self.channels.append(channel)
        return channel

    def answer_all(self, status: int = 200, body: bytes = b"") -> None:
        """Answers every request that waits."""
        for channel in self.channels:
            for stream in sorted(channel.waiting):
                channel.reply(stream, status, body)

    def hang_up(self) -> None:
        """Closes every connection."""
        for channel in self.channels:
            channel.gone = True

    @property
    def waiting(self) -> int:
        """Requests that wait for an answer."""
        return sum(len(channel.waiting) for channel in self.channels if channel.stage is Stage.OPEN)

    @property
    def times(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(request.path for request in self.seen)


class MemoryChannel:
    """Both ends of a connection."""

    def __init__(self, server: MemoryServer) -> None:
        codes = h2.settings.SettingCodes
        self.stage = Stage.CONNECTING
        self.socket: Any = self
        self.wants_write = False
        self.more = False
        self.bytes_sent = self.bytes_received = 0
        self.waiting: dict[int, Request] = {}
        self.gone = False
        self._server = server
        self._inbox = bytearray()
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={codes.MAX_CONCURRENT_STREAMS: server.streams}
        )
        self._h2.initiate_connection()
        self._say()

    # --- the lane's end ---------------------------------------------------------------------------------

    def advance(self) -> bool:
        if self._server.refusing:
            raise EnvironmentFault("cannot reach the server in memory", retryable=True)
        self.stage = Stage.OPEN
        return True

    def send(self, data: bytes | memoryview) -> None:
        if self.gone:
            raise ConnectionError("closed by the peer")
        self.bytes_sent += len(data)
        for event in self._h2.receive_data(bytes(data)):
            self._take(event)
        self._say()

    def flush(self) -> bool:
        return True

    def receive(self, into: memoryview) -> int:
        size = min(len(into), len(self._inbox))
        into[:size] = self._inbox[:size]
        del self._inbox[:size]
        self.bytes_received += size
        self.more = bool(self._inbox) or self.gone
        if not size and self.gone:
            raise ConnectionError("closed by the peer")
        return size

    def close(self) -> None:
        self.stage = Stage.CLOSED
        self.gone = True
        self.waiting.clear()

    @property
    def ready(self) -> bool:
        """Whether a selector would tell of it."""
        return self.stage is not Stage.CLOSED and (self.stage is not Stage.OPEN or bool(self._inbox) or self.gone)

    # --- the server's end -------------------------------------------------------------------------------

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.waiting[event.stream_id] = Request(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.waiting[event.stream_id].body += event.data
            if event.flow_controlled_length:
                self._h2.increment_flow_control_window(event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamReset):
            self.waiting.pop(event.stream_id, None)
        elif isinstance(event, h2.events.StreamEnded):
            request = self.waiting[event.stream_id]
            self._server.seen.append(request)
            told = self._server.answer(request)
            if told is not None:
                self.reply(event.stream_id, *told)

    def reply(self, stream: int, status: int, body: bytes) -> None:
        """Answers one request."""
        del self.waiting[stream]
        if self.gone:
            return
        self._h2.send_headers(stream, [(":status", str(status))], end_stream=not body)
        if body:
            self._h2.send_data(stream, body, end_stream=True)
        self._say()

    def _say(self) -> None:
        self._inbox += self._h2.data_to_send()


class MemorySelector:
    """`selectors` over channels in memory; it never waits."""

    def __init__(self) -> None:
        self._keys: dict[MemoryChannel, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> None:
        assert fileobj not in self._keys
        self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> None:
        self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> None:
        del self._keys[fileobj]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return [(key, key.events) for channel, key in self._keys.items() if channel.ready]

    def close(self) -> None:
        self._keys.clear()


class SteppedLanes:
    """Lanes to a server in memory. `run_dry` steps them until none has anything to do at this moment."""

    def __init__(self, server: MemoryServer, clock: Clock, *, lanes: int = 1, connections: int = 1) -> None:
        self._ordered = False
        self._selectors = [MemorySelector() for _ in range(lanes)]
        self.lanes = [
            Lane(
                NOWHERE, ssl.create_default_context(), connections, clock, f"stepped-{i}",
                dial=server.dial, selector=selector, stepped=self._note,
            )
            for i, selector in enumerate(self._selectors)
        ]  # fmt: skip

    def _note(self) -> None:
        self._ordered = True

    def step(self, lane: int) -> None:
        """One turn of one lane."""
        self.lanes[lane].turn(False)

    def run_dry(self) -> None:
        """Turns all lanes until nothing is left to do without time going on."""
        for _ in range(STEPS_MAX):
            self._ordered = False
            for lane in self.lanes:
                lane.turn(False)
            if not self._ordered and not any(selector.select() for selector in self._selectors):
                return
        raise AssertionError(f"{self.lanes} do not come to rest")

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
