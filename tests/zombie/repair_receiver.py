"""A real HTTP server that is called for grants: it remembers keys, counts what each user got, and misbehaves."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What came. ``way`` is asked for each call, by its number from 1: see `Manner`."""

    def __init__(self) -> None:
        self.url = ""
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        """Calls by idempotency key."""
        self.effects: Counter[tuple[str, str]] = Counter()
        """What each user got: grant and user."""
        self.headers: list[dict[str, str]] = []
        self.known: set[str] = set()
        self.number = 0
        self.way: Callable[[int], Manner] = lambda number: Manner()


class Manner:
    """How one call is dealt with: what happens before its effect, whether it has one, what it is answered."""

    def __init__(
        self, status: int | None = 200, *, effect: bool = True, headers: dict[str, str] | None = None,
        before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.status, self.effect, self.headers = status, effect, headers or {}
        self.before, self.after = before, after


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self) -> None:
        receiver = self.receiver
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with receiver.lock:
            receiver.number += 1
            manner = receiver.way(receiver.number)
            receiver.calls[self.headers["Idempotency-Key"]] += 1
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
        manner.before()
        if manner.effect:
            with receiver.lock:
                for grant in said.get("grants", [said]):
                    if grant["key"] not in receiver.known:
                        receiver.known.add(grant["key"])
                        receiver.effects[grant["grant"], grant["user"]] += 1
        manner.after()
        self.close_connection = True
        if manner.status is None:
            return
        self.send_response(manner.status)
        for name, value in ({"Content-Length": "0", "Connection": "close"} | manner.headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    """The receiver, at ``Receiver.url`` on loopback."""
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"receiver": receiver}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    receiver.url = f"http://127.0.0.1:{server.server_port}/grants?token=hidden"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
