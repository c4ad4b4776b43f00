"""A real HTTP server that stands for Prometheus and for a service that is probed, and can stop answering."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs


class Monitoring:
    """Answers `POST /api/v1/query` with ``value`` and `GET` with ``status``; silent, it accepts and says nothing.

    ``drips``       an answer comes byte by byte, and never ends before its reader gives up
    ``breaks_off``  an answer ends before its end
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.value = "1"
        self.status = 200
        self.body: bytes | None = None
        self.drips = self.breaks_off = False
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Semaphore(0)
        self._speaks = threading.Event()
        self._speaks.set()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls is not None:
            # Who does not trust the certificate breaks off in the handshake: not here, but in that request's thread.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def falls_silent(self) -> None:
        """From now on it takes connections and requests, and never answers."""
        self._speaks.clear()

    def speaks_again(self) -> None:
        self._speaks.set()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes, status: int) -> None:
        self.asked.release()
        if not self._speaks.is_set():
            self._speaks.wait(60)
            handler.close_connection = True
            return
        if self.drips:
            self._drip(handler)
            return
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if self.breaks_off else body)
        handler.close_connection = handler.close_connection or self.breaks_off

    def _drip(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            # Faster than any socket's own timeout would notice; it ends when the reader has left.
            while not self._closing.wait(0.002):
                handler.wfile.write(b" ")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.speaks_again()
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: Monitoring

    def do_GET(self) -> None:
        self.owner.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.owner.answer(self, b"fine", self.owner.status)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.owner.queries.append(form["query"][0])
        self.owner.headers.append({name.lower(): value for name, value in self.headers.items()})
        body = self.owner.body
        if body is None:
            body = vector(self.owner.value)
        self.owner.answer(self, body, self.owner.status)

    def log_message(self, *_: Any) -> None:
        pass


def vector(*values: str) -> bytes:
    """An instant query's answer with a series for each value."""
    result = [{"metric": {"pod": str(i)}, "value": [1_800_000_000.1, value]} for i, value in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
