"""A real HTTP server that fails in all the ways that servers do, and one behind it that applies writes once each."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handler = BaseHTTPRequestHandler
Way = Callable[["_Handler"], None]


class Place:
    """What is served: ``file`` at every path that ends in .json, unless ``way`` says otherwise; writes elsewhere."""

    def __init__(self) -> None:
        self.file: bytes | None = None
        self.way: Way | None = None
        """How the next requests are mistreated."""
        self.polls: list[dict[str, str]] = []
        """The headers of each poll, names in lower case."""
        self.applied: Counter[str] = Counter()
        """How often each idempotency key was applied."""
        self.writes: list[tuple[str, dict[str, str], bytes]] = []
        """Every write that came: its key, headers, body."""
        self.answers: list[tuple[int, dict[str, str]]] = []
        """What the next writes are answered; 200 when there is nothing left."""
        self.url = ""
        self.released = threading.Event()
        """Lets go of requests that hang."""
        self.lock = threading.Lock()

    @property
    def etag(self) -> str:
        return f'"{md5(self.file or b"").hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    place: Place

    def do_GET(self) -> None:
        self.place.polls.append({name.lower(): value for name, value in self.headers.items()})
        if self.place.way is not None:
            self.close_connection = True
            return self.place.way(self)
        if self.place.file is None:
            return self.answer(404, b"")
        if self.headers.get("If-None-Match") == self.place.etag:
            return self.answer(304, b"", {"ETag": self.place.etag})
        return self.answer(200, self.place.file, {"ETag": self.place.etag, "Cache-Control": "max-age=10"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        key = headers.get("idempotency-key", "")
        with self.place.lock:
            self.place.writes.append((key, headers, body))
            status, more = self.place.answers.pop(0) if self.place.answers else (200, {})
            if (200 <= status < 300 or "applied" in more) and not self.place.applied[key]:
                self.place.applied[key] += 1
        if more.pop("lost", ""):
            return reset(self)
        more.pop("applied", "")
        return self.answer(status, b"", more)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


# --- Ways to fail --------------------------------------------------------------------------------


def reset(handler: _Handler) -> None:
    """The connection is reset."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def closed(handler: _Handler) -> None:
    """The connection is closed without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: _Handler) -> None:
    """Nothing comes."""
    handler.place.released.wait(30)


def drips_headers(handler: _Handler) -> None:
    """A header line that never ends, byte by byte."""
    _drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ")


def drips_body(handler: _Handler) -> None:
    """A body that never ends, byte by byte."""
    _drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")


def _drip(handler: _Handler, first: bytes) -> None:
    try:
        handler.wfile.write(first)
        while not handler.place.released.wait(0.02):
            handler.wfile.write(b"x")
    except OSError:
        pass


def says(data: bytes) -> Way:
    """These bytes and no more."""

    def way(handler: _Handler) -> None:
        handler.wfile.write(data)

    way.__name__ = "says"
    return way


def status(code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Way:
    """A proper answer of this status."""

    def way(handler: _Handler) -> None:
        handler.answer(code, body, headers)

    return way


def endless(handler: _Handler) -> None:
    """A body as long as the reader bears it."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(b"z" * 65_536)
    except OSError:
        pass


def without_an_answer() -> dict[str, Way]:
    """The ways in which no answer comes."""
    return {
        "resets the connection": reset,
        "closes it": closed,
        "says nothing": silent,
        "drips headers": drips_headers,
        "drips a body": drips_body,
        "speaks no HTTP": says(b"220 mail.example ESMTP\r\n"),
        "breaks off in the status": says(b"HTTP/1.1 20"),
        "breaks off in the body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
        "garbles its chunks": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        "sends a bomb of headers": says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n"),
        "sends a line that never ends": says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"),
        "sends a body that never ends": endless,
        "has no status": says(b"HTTP/1.1\r\n\r\n"),
        "has a status of no number": says(b"HTTP/1.1 abc OK\r\n\r\n"),
    }


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Place]:
    """The server, at ``Place.url`` on loopback."""
    place = Place()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"place": place}))
    server.daemon_threads = True
    # What a failing handler throws is part of the failing.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    place.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield place
    finally:
        place.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
