"""A small HTTP/2 server on the h2 library, in threads, that does to its clients whatever a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from wire_support import goaway

from certificates import Certificates
from flashcast.transport.tls import Address, client_context


@dataclass
class Request:
    """A request as it arrived."""

    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False

    @property
    def path(self) -> str:
        return self.headers[":path"]


class Peer:
    """One connection, seen from the server. ``number`` counts connections from 1."""

    def __init__(self, number: int, sock: ssl.SSLSocket, values: dict[h2.settings.SettingCodes, int]) -> None:
        self.number = number
        self.requests: dict[int, Request] = {}
        self.resets: list[int] = []
        self._sock = sock
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self._h2.initiate_connection()
        self._lock = threading.RLock()

    def reply(self, stream: int, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Answers a stream."""
        with self._lock:
            fields = [(":status", str(status)), *((n.replace("_", "-"), v) for n, v in headers.items())]
            self._h2.send_headers(stream, fields, end_stream=not body)
            if body:
                self._h2.send_data(stream, body, end_stream=True)
            self.flush()

    def reset(self, stream: int, code: int) -> None:
        """Resets a stream."""
        with self._lock:
            self._h2.reset_stream(stream, code)
            self.flush()

    def goaway(self, last: int) -> None:
        """Says that streams above ``last`` are not processed. (h2 itself would stop talking.)"""
        with self._lock:
            self._sock.sendall(goaway(last))

    def settings(self, **values: int) -> None:
        """Changes settings: streams, window."""
        codes = h2.settings.SettingCodes
        names = {"streams": codes.MAX_CONCURRENT_STREAMS, "window": codes.INITIAL_WINDOW_SIZE}
        with self._lock:
            self._h2.update_settings({names[n]: v for n, v in values.items()})
            self.flush()

    def close(self) -> None:
        """Hangs up without a word."""
        with contextlib.suppress(OSError):
            # Below TLS: SSLSocket.shutdown would let the reading thread go on in plain text.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            with contextlib.suppress(OSError):
                self._sock.sendall(data)

    def serve(self, server: ScriptedServer) -> None:
        """Reads until the client leaves."""
        self.flush()
        server.script.connected(self)
        while True:
            try:
                data = self._sock.recv(65_536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                for event in self._h2.receive_data(data):
                    self._take(server, event)
                self.flush()

    def _take(self, server: ScriptedServer, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.requests[event.stream_id] = Request(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id].body += event.data
            if event.flow_controlled_length:
                self._h2.increment_flow_control_window(event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            self.requests[event.stream_id].ended = True
            server.seen.append(self.requests[event.stream_id])
            server.script.request(self, event.stream_id, self.requests[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)


class Script:
    """What the server does. By default it accepts everything."""

    def connected(self, peer: Peer) -> None:
        """A client has connected; its requests come next."""

    def request(self, peer: Peer, stream: int, request: Request) -> None:
        """A request is complete."""
        peer.reply(stream)


class ScriptedServer:
    """Use it in a ``with`` statement. What goes wrong in its threads fails the test at the end."""

    def __init__(
        self,
        certificates: Certificates,
        script: Script,
        *,
        protocols: tuple[str, ...] = ("h2",),
        streams: int = 100,
        window: int = 65_535,
    ) -> None:
        codes = h2.settings.SettingCodes
        self.script = script
        self.peers: list[Peer] = []
        self.seen: list[Request] = []
        self.ca_file = certificates.ca_file
        self._values = {codes.MAX_CONCURRENT_STREAMS: streams, codes.INITIAL_WINDOW_SIZE: window}
        self._context = certificates.server_context(*protocols)
        self._faults: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    @property
    def context(self) -> ssl.SSLContext:
        return client_context(self.ca_file)

    def __enter__(self) -> ScriptedServer:
        self._threads[0].start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self.peers:
            peer.close()
        for thread in self._threads:
            thread.join(10)
        if self._faults and kind is None:
            raise self._faults[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                secure = self._context.wrap_socket(sock, server_side=True)
            except OSError:
                return  # the client did not like us
            with secure:
                peer = Peer(len(self.peers) + 1, secure, self._values)
                self.peers.append(peer)
                try:
                    peer.serve(self)
                except BaseException as fault:  # noqa: BLE001 - told by the test's own thread
                    self._faults.append(fault)
                finally:
                    peer.close()


class Proxy:
    """An HTTP proxy that knows CONNECT and counts it."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n") -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._connect, client)

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _connect(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        where = head.split()[1].decode()
        self.asked.append(where)
        host, port = where.rsplit(":", 1)
        # In two pieces: a reader must not take the first for the whole.
        client.sendall(self._answer[:20])
        client.sendall(self._answer[20:])
        if b" 200 " not in self._answer:
            client.close()
            return
        server = socket.create_connection((host, int(port)))
        self._sockets.append(server)
        self._start(self._pump, client, server)
        self._start(self._pump, server, client)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def plain_server(answer: bytes) -> Iterator[int]:
    """A TCP server that answers whatever comes with ``answer`` and hangs up; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.recv(4_096)
                sock.sendall(answer)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
