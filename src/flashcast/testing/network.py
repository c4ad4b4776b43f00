"""A network in memory: channels like those of `transport.tls`, with seeded delays, fragments and losses.

Bytes of one direction arrive in order, in pieces of any size. A connection can be cut at any byte, with or without a
word to either end; what was on its way is then lost, half a request as well. There is no TLS: a channel opens after
a delay, or fails like a real one.

    client: Channel <- inbox <- _Way <- ServerEnd.write           Channel.send -> _Way -> ServerEnd.on_bytes

A process that is stopped or killed *while it is sending* is a fault of its own: `Network.freeze` decides at each
`send`, and what a frozen process sends leaves when it is continued, or never.
"""

from __future__ import annotations

import contextvars
import random
import selectors
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from flashcast.errors import EnvironmentFault
from flashcast.limits import UNWRITTEN_BYTES_MAX
from flashcast.testing.trace import Trace
from flashcast.testing.virtual_time import Process, VirtualLoop, current_process
from flashcast.transport.tls import Address, Stage

PIECES_MAX: Final = 6
"""Into so many pieces at most one write is broken; each costs a callback."""
SEND_BUFFER_BYTES: Final = 65_536
"""What the kernel takes before a socket cannot be written."""


@dataclass
class Weather:
    """How the network behaves from now on. Delays in seconds, one way; the rest are probabilities."""

    delay_s: tuple[float, float] = (0.001, 0.01)
    connect_s: tuple[float, float] = (0.001, 0.02)
    refused: float = 0.0
    """Of a connection attempt."""
    ignored: float = 0.0
    """Of a connection attempt that never ends."""
    cut: float = 0.0
    """Of a new connection: it is cut after some bytes of requests."""
    cut_silent: float = 0.5
    """Of a cut: nobody is told."""
    cut_bytes_max: int = 20_000
    send_buffer: int = SEND_BUFFER_BYTES


class Socket:
    """What a selector is given: it stands for a channel, or for a lane's bell."""

    def __init__(self, name: str, ready: Callable[[], int]) -> None:
        self.name = name
        self.ready = ready
        """Which of EVENT_READ and EVENT_WRITE it is ready for."""
        self.selector: Selector | None = None

    def __repr__(self) -> str:
        return f"<Socket {self.name}>"

    def changed(self) -> None:
        """Something came: whoever waits on the selector is told."""
        if self.selector is not None:
            self.selector.changed(self)


class Selector(selectors.BaseSelector):
    """`selectors` over `Socket`s. `select` never waits: ``on_ready`` is called when there is something to select."""

    def __init__(self, on_ready: Callable[[], None] = lambda: None) -> None:
        self.on_ready = on_ready
        self.closed = False
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self._count = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is registered")
        self._count += 1
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, self._count, events, data)
        fileobj.selector = self
        self.changed(fileobj)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(fileobj)
        fileobj.selector = None
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = self._keys[fileobj]._replace(events=events, data=data)
        self.changed(fileobj)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = []
        for key in self._keys.values():
            mask = key.fileobj.ready() & key.events  # type: ignore[union-attr]
            if mask:
                found.append((key, mask))
        return found

    def changed(self, fileobj: Socket) -> None:
        """Calls ``on_ready`` where the socket is ready for something it is registered for."""
        key = self._keys.get(fileobj)
        if key is not None and fileobj.ready() & key.events:
            self.on_ready()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self.closed = True
        self._keys.clear()
        self.on_ready()


class _Way:
    """One direction of a connection: pieces arrive in order, each no sooner than its delay."""

    def __init__(self, network: Network, arrive: Callable[[bytes, int], None]) -> None:
        self._network = network
        self._arrive = arrive
        self._last_ns = 0
        self.on_its_way = 0
        self.open = True

    def send(self, data: bytes, sent_ns: int) -> None:
        """Sets ``data``, which its sender wrote at ``sent_ns``, on its way, in pieces."""
        network = self._network
        for piece in _pieces(data, network.random):
            self._last_ns = max(self._last_ns, network.loop.now_ns + network.delay_ns())
            self.on_its_way += len(piece)
            network.later(self._last_ns, partial(self._arrived, piece, sent_ns))

    def after_all(self, then: Callable[[], None]) -> None:
        """Calls ``then`` when everything sent so far has arrived."""
        self._last_ns = max(self._last_ns, self._network.loop.now_ns + self._network.delay_ns())
        self._network.later(self._last_ns, lambda: then() if self.open else None)

    def _arrived(self, piece: bytes, sent_ns: int) -> None:
        self.on_its_way -= len(piece)
        if self.open:
            self._arrive(piece, sent_ns)


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """``data`` broken at random places: most writes arrive whole, some in a few pieces."""
    if len(data) < 2 or rng.random() < 0.7:
        return [data]
    cuts = sorted({rng.randrange(1, len(data)) for _ in range(rng.randint(1, PIECES_MAX - 1))})
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class ServerEnd:
    """The server's end of a connection. The server sets ``on_bytes`` and ``on_closed``."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.on_bytes: Callable[[bytes, int], None] = lambda data, sent_ns: None
        """Called with bytes and the time (ns of the loop) at which the client had called `send` with them."""
        self.on_closed: Callable[[], None] = lambda: None
        self.closed = False

    @property
    def client(self) -> str:
        """Which process dialled."""
        return self.connection.process.name

    def write(self, data: bytes) -> None:
        """Sends to the client."""
        if not self.closed and data:
            self.connection.down.send(data, self.connection.network.loop.now_ns)

    def close(self) -> None:
        """Hangs up after what was written."""
        if not self.closed:
            self.closed = True
            self.connection.down.after_all(self.connection.channel.hung_up)

    def abort(self) -> None:
        """The server is gone, and with it what was on its way."""
        self.connection.cut(silent=False)


class Connection:
    """Both ends of one connection and the two ways between them."""

    def __init__(self, network: Network, number: int, process: Process, channel: Channel) -> None:
        self.network = network
        self.number = number
        self.process = process
        self.channel = channel
        self.server = ServerEnd(self)
        self.up = _Way(network, self._at_server)
        self.down = _Way(network, channel.arrived)
        self.cut_after: int | None = None
        """Bytes of the client that get through before the connection is cut."""
        self.cut_off = False

    def __repr__(self) -> str:
        return f"<Connection {self.number} of {self.process.name}{' cut' if self.cut_off else ''}>"

    def _at_server(self, piece: bytes, sent_ns: int) -> None:
        over = self.cut_after is not None and len(piece) >= self.cut_after
        if self.cut_after is not None:
            piece = piece[: self.cut_after]
            self.cut_after -= len(piece)
        if piece and not self.server.closed:
            self.server.on_bytes(piece, sent_ns)
        if over:
            self.cut(self.network.random.random() < self.network.weather.cut_silent)
        self.channel.socket.changed()  # there may be room in the send buffer again

    def cut(self, silent: bool = False) -> None:
        """What is on its way is lost. Unless ``silent``, both ends learn of it after a while."""
        if self.cut_off:
            return
        self.cut_off = True
        self.up.open = self.down.open = False
        self.network.trace.note(f"net: {self} {'falls silent' if silent else 'is cut'}")
        if not silent:
            network = self.network
            network.later(network.loop.now_ns + network.delay_ns(), self.channel.broke)
            network.later(network.loop.now_ns + network.delay_ns(), self.server_gone)

    def server_gone(self) -> None:
        """The server notices that the client is gone."""
        if not self.server.closed:
            self.server.closed = True
            self.server.on_closed()


class Channel:
    """The client's end, with the surface of `transport.tls.Channel`."""

    def __init__(self, network: Network, address: Address, process: Process) -> None:
        self.address = address
        self.stage = Stage.CONNECTING
        self.bytes_sent = 0
        self.bytes_received = 0
        self.more = False
        self.socket: Any = Socket(f"{process.name}->{address}", self._ready)
        self.process = process
        self._network = network
        self._inbox = bytearray()
        self._pending: deque[tuple[bytes, int]] = deque()
        self._pending_bytes = 0
        self._news = False
        self._refused = False
        self._broken = False
        self._eof = False
        self.connection = network.connect(self)

    def __repr__(self) -> str:
        return f"<Channel {self.connection.number} {self.stage.value}>"

    def _ready(self) -> int:
        if self._broken or self._eof:
            return selectors.EVENT_READ | selectors.EVENT_WRITE
        if self.stage in (Stage.CONNECTING, Stage.HANDSHAKE):
            return (selectors.EVENT_READ | selectors.EVENT_WRITE) if self._news else 0
        return (selectors.EVENT_READ if self._inbox else 0) | (selectors.EVENT_WRITE if self._room() > 0 else 0)

    def _room(self) -> int:
        return self._network.weather.send_buffer - self.connection.up.on_its_way

    # --- what the lane calls -------------------------------------------------------------------------------

    @property
    def wants_write(self) -> bool:
        return self.stage is Stage.CONNECTING or self._pending_bytes > 0

    def advance(self) -> bool:
        if self._refused or self._broken or (self._eof and self.stage is not Stage.OPEN):
            raise EnvironmentFault(f"cannot reach {self.address}: simulated", retryable=True)
        if self._news and self.stage is Stage.CONNECTING:
            self.stage = Stage.HANDSHAKE
            self._news = False
            self._network.after(self._network.weather.connect_s, self._progress)
        elif self._news and self.stage is Stage.HANDSHAKE:
            self.stage = Stage.OPEN
        return self.stage is Stage.OPEN

    def send(self, data: bytes | memoryview) -> None:
        if self._broken:
            raise ConnectionError("connection reset by peer")
        if self._pending_bytes > UNWRITTEN_BYTES_MAX:
            raise ConnectionError("the peer does not read")
        self.bytes_sent += len(data)
        self._network.freeze(self.process)
        if self.process.running:
            self._add(bytes(data), self._network.loop.now_ns)
        else:
            self._network.hold(self, bytes(data))

    def _add(self, data: bytes, sent_ns: int) -> None:
        self._pending.append((data, sent_ns))
        self._pending_bytes += len(data)
        self.flush()

    def flush(self) -> bool:
        if self._broken:
            raise ConnectionError("connection reset by peer")
        while self._pending and (room := self._room()) > 0 and self.process.running:
            data, sent_ns = self._pending.popleft()
            if len(data) > room:
                self._pending.appendleft((data[room:], sent_ns))
            self.connection.up.send(data[:room], sent_ns)
            self._pending_bytes -= len(data[:room])
        return not self._pending

    def receive(self, into: memoryview) -> int:
        size = min(len(into), len(self._inbox))
        into[:size] = self._inbox[:size]
        del self._inbox[:size]
        self.bytes_received += size
        over = self._broken or self._eof
        self.more = bool(self._inbox) or over
        if size == 0 and over:
            raise ConnectionError("connection reset by peer" if self._broken else "closed by the peer")
        return size

    def close(self) -> None:
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.CLOSED
            self._network.closed(self)

    # --- what the network calls ----------------------------------------------------------------------------

    def progressed(self, *, refused: bool = False) -> None:
        """The opening has come further, or to nothing."""
        self._refused = self._refused or refused
        self._progress()

    def _progress(self) -> None:
        self._news = True
        self.socket.changed()

    def arrived(self, piece: bytes, sent_ns: int) -> None:
        """Bytes of the server."""
        if self.stage is not Stage.CLOSED:
            self._inbox += piece
            self.socket.changed()

    def hung_up(self) -> None:
        """The server closed the connection."""
        self._eof = True
        self.socket.changed()

    def broke(self) -> None:
        """The connection is no more. As with TCP, what had come before can still be read."""
        self._broken = True
        self.socket.changed()

    def thawed(self, data: bytes, sent_ns: int) -> None:
        """The process that was stopped within `send` goes on."""
        if self.stage is not Stage.CLOSED and not self._broken:
            self._add(data, sent_ns)


@dataclass
class Network:
    """See the module's docstring."""

    loop: VirtualLoop
    random: random.Random
    trace: Trace
    weather: Weather = field(default_factory=Weather)
    freeze: Callable[[Process], None] = lambda process: None
    """Called at each `send`: may stop or kill the process."""

    def __post_init__(self) -> None:
        self.context = contextvars.Context()
        """The network's own: what is on its way arrives whatever becomes of the process that sent it."""
        self.connections: list[Connection] = []
        self.islanded: set[str] = set()
        """Processes that reach no server: what they dial stays unanswered."""
        self.down: set[str] = set()
        """Hosts that answer nobody."""
        self._servers: dict[tuple[str, int], Callable[[ServerEnd], None]] = {}
        self._held: dict[Process, list[tuple[Channel, bytes, int]]] = {}

    def listen(self, host: str, port: int, accept: Callable[[ServerEnd], None]) -> None:
        """``accept`` is called with each new connection to the address."""
        self._servers[host, port] = accept

    def dial(self, address: Address, context: ssl.SSLContext | None = None, raw: bytearray | None = None) -> Channel:
        """A channel that begins to connect, for the process whose code is running."""
        process = current_process()
        assert process is not None, "only a process dials"
        return Channel(self, address, process)

    # --- connections ---------------------------------------------------------------------------------------

    def connect(self, channel: Channel) -> Connection:
        """Sets up the connection of a new channel."""
        weather, rng = self.weather, self.random
        made = Connection(self, len(self.connections) + 1, channel.process, channel)
        self.connections.append(made)
        accept = self._servers.get((channel.address.host, channel.address.port))
        draw = rng.random()
        if accept is None or draw < weather.refused:
            self.trace.note(f"net: {made} is refused")
            self.after(weather.connect_s, lambda: channel.progressed(refused=True))
        elif draw < weather.refused + weather.ignored or self._unreachable(channel):
            self.trace.note(f"net: {made} is ignored")
        else:
            self.trace.note(f"net: {made} opens")
            if rng.random() < weather.cut:
                made.cut_after = rng.randrange(weather.cut_bytes_max)
            self.after(weather.connect_s, lambda: self._accepted(made, accept))
        return made

    def _unreachable(self, channel: Channel) -> bool:
        return channel.process.name in self.islanded or channel.address.host in self.down

    def _accepted(self, connection: Connection, accept: Callable[[ServerEnd], None]) -> None:
        if not connection.cut_off and connection.channel.stage is not Stage.CLOSED:
            accept(connection.server)
            connection.channel.progressed()

    def closed(self, channel: Channel) -> None:
        """The client closed: what the kernel has taken still arrives, then the server is told."""
        connection = channel.connection
        connection.down.open = False
        if connection.up.open:
            connection.up.after_all(connection.server_gone)

    def kill(self, process: Process) -> None:
        """The kernel closes the connections of a process that died."""
        self._held.pop(process, None)
        for connection in self.connections:
            if connection.process is process and connection.channel.stage is not Stage.CLOSED:
                connection.channel.stage = Stage.CLOSED
                self.closed(connection.channel)

    def cut_all(self, which: Callable[[Connection], bool], *, silent: bool) -> None:
        """Cuts every open connection that ``which`` picks."""
        for connection in self.connections:
            if connection.channel.stage is not Stage.CLOSED and which(connection):
                connection.cut(silent)

    # --- a process stopped while it sends ------------------------------------------------------------------

    def hold(self, channel: Channel, data: bytes) -> None:
        """What a frozen process sends waits for `thaw`."""
        self._held.setdefault(channel.process, []).append((channel, data, self.loop.now_ns))

    def thaw(self, process: Process) -> None:
        """The process goes on: what it was sending leaves now."""
        for channel, data, sent_ns in self._held.pop(process, []):
            channel.thawed(data, sent_ns)

    # --- time ----------------------------------------------------------------------------------------------

    def delay_ns(self) -> int:
        """The delay of one piece."""
        low, high = self.weather.delay_s
        return int((low + (high - low) * self.random.random()) * 1e9)

    def later(self, when_ns: int, then: Callable[[], object]) -> None:
        """Calls ``then`` at a time of the loop, outside any process."""
        self.loop.call_at_ns(when_ns, then, context=self.context)

    def after(self, between_s: tuple[float, float], then: Callable[[], object]) -> None:
        """Calls ``then`` after a delay drawn from a range of seconds."""
        low, high = between_s
        self.later(self.loop.now_ns + int((low + (high - low) * self.random.random()) * 1e9), then)
