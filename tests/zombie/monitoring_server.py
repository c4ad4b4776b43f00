"""A real HTTP server that stands for Prometheus and for a service that is probed, and can stop answering."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs


class Monitoring:
    """Answers `POST /api/v1/query` with ``value`` and `GET` with ``status``; silent, it accepts and says nothing."""

    def __init__(self) -> None:
        self.value = "1"
        self.status = 200
        self.body: bytes | None = None
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.asked = threading.Semaphore(0)
        self._speaks = threading.Event()
        self._speaks.set()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

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
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.speaks_again()
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
