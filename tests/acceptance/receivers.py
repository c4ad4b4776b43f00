"""Servers nobody here wrote the protocol of: HTTP/2 by the h2 library, an OAuth token server, an HTTP proxy."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass
class Request:
    """One request as the h2 library read it."""

    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Receiver:
    """What a server got, and where it listens. ``status`` and ``answer`` are its reply to everything."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    status: int = 200
    answer: bytes = b""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextmanager
def h2_server(context: ssl.SSLContext, *, status: int = 200, answer: bytes = b"") -> Iterator[Receiver]:
    """An HTTP/2 server on a free port that answers every request alike."""
    receiver = Receiver(status=status, answer=answer)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                _converse(context.wrap_socket(self.request, server_side=True), receiver)

    with _serving(_Server(("127.0.0.1", 0), Handler)) as server:
        receiver.port = int(server.server_address[1])
        yield receiver


def _converse(sock: ssl.SSLSocket, receiver: Receiver) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    streams: dict[int, Request] = {}
    while data := sock.recv(65_536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                streams[event.stream_id] = Request(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                streams[event.stream_id].body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                receiver.requests.append(streams.pop(event.stream_id))
                connection.send_headers(event.stream_id, [(":status", str(receiver.status))], not receiver.answer)
                if receiver.answer:
                    connection.send_data(event.stream_id, receiver.answer, end_stream=True)
        sock.sendall(connection.data_to_send())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def token_server(*, refusal: dict[str, str] | None = None) -> Iterator[str]:
    """An OAuth token endpoint over plain HTTP; gives its URL. With ``refusal`` it answers 400 and that document."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            granted = {"access_token": "a-token-of-the-test", "expires_in": 3600, "token_type": "Bearer"}
            body = json.dumps(refusal or granted).encode()
            self.send_response(400 if refusal else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/token"


def service_account(path: Path, token_uri: str) -> Path:
    """Writes a service account with a fresh key."""
    key = rsa.generate_private_key(65_537, 2_048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_text(json.dumps({
        "type": "service_account", "project_id": "acceptance", "private_key": key.decode(),
        "client_email": "sender@acceptance.iam.gserviceaccount.com", "token_uri": token_uri,
    }))  # fmt: skip
    return path


@contextmanager
def http_proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that tunnels CONNECT; gives its URL and the list that fills with what it was asked for."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(self.rfile.readline().decode().strip())
            while self.rfile.readline().strip():
                pass
            host, port = asked[-1].split()[1].split(":")
            with suppress(OSError), socket.create_connection((host, int(port))) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(far, self.request), daemon=True)
                back.start()
                _pump(self.request, far)
                back.join()

    with _serving(_Server(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
