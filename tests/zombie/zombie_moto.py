"""moto's S3 as a process of its own, and what lies between it and a publisher: a proxy that stops where it is told."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from commands import required
from flashcast.zombie.client.http import HttpRequest, urllib_transport

WAIT_S_MAX = 60


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """The address of moto's server, in which there is a bucket ``bucket`` that everybody may read."""
    log = folder / "moto.log"
    with log.open("wb") as file:
        process = subprocess.Popen([required("moto_server"), "-H", "127.0.0.1", "-p", "0"], stdout=file, stderr=file)
        try:
            url = _address(log, process)
            made = urllib_transport(HttpRequest("PUT", f"{url}/bucket", {"x-amz-acl": "public-read"}))
            assert made.status == 200
            yield url
        finally:
            process.kill()
            process.wait()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that moto writes when it listens."""
    waited = threading.Event()
    while process.poll() is None:
        for word in log.read_text(errors="replace").split():
            if word.startswith("http://127.0.0.1:"):
                return word.rstrip("/")
        waited.wait(0.02)
    pytest.fail(f"moto_server ended: {log.read_text(errors='replace')[-500:]}")


class Phase(StrEnum):
    """How far a request gets before the proxy stops."""

    NOTHING = "nothing of it is passed on"
    HALF = "half of its body is passed on, or half of its head where it has none"
    DONE = "the store has done it and answered; nothing of the answer is passed on"
    TOLD = "half of the answer is passed on"


@dataclass
class Stop:
    """Where the proxy stops: at the request of this number, from 1. `reached` says that it has."""

    number: int
    phase: Phase
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    goes_on: bool = False
    """Whether the request goes on when it is released; else its connections are closed, as a dead process's are."""

    def wait(self, process: subprocess.Popen[str]) -> bool:
        """Whether it was reached, before the process ended."""
        while not self.reached.wait(0.01):
            if process.poll() is not None:
                return self.reached.is_set()
        return True


class Proxy:
    """Passes requests on to a store, each on a connection of its own, and keeps what was asked in ``asked``."""

    def __init__(self, store: tuple[str, int]) -> None:
        self.asked: list[str] = []
        self.stop: Stop | None = None
        self._store = store
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, stop: Stop | None) -> None:
        """Counts requests from 1 again."""
        with self._lock:
            self.asked.clear()
            self.stop = stop

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        # Whoever breaks off is the test's matter: the process that was killed, or the store.
        with client, suppress(OSError):
            head, body = _request(client)
            if not head:
                return
            with self._lock:
                self.asked.append(head.decode("latin-1").partition(" HTTP/")[0])
                stop = self.stop if self.stop and self.stop.number == len(self.asked) else None
            with socket.create_connection(self._store) as store:
                self._pass(client, store, head, body, stop)

    def _pass(self, client: socket.socket, store: socket.socket, head: bytes, body: bytes, stop: Stop | None) -> None:
        phase = stop.phase if stop else None
        whole = head + body
        first = {Phase.NOTHING: 0, Phase.HALF: len(whole) - (len(body) or len(head)) // 2}.get(phase, len(whole))  # type: ignore[arg-type]
        store.sendall(whole[:first])
        if stop and phase in (Phase.NOTHING, Phase.HALF):
            if not _stopped(stop):
                return
            store.sendall(whole[first:])
        answer = _until_closed(store)
        if stop and phase in (Phase.DONE, Phase.TOLD):
            half = len(answer) // 2 if phase is Phase.TOLD else 0
            client.sendall(answer[:half])
            if not _stopped(stop):
                return
            answer = answer[half:]
        client.sendall(answer)


def _stopped(stop: Stop) -> bool:
    stop.reached.set()
    stop.released.wait(WAIT_S_MAX)
    return stop.goes_on


def _request(client: socket.socket) -> tuple[bytes, bytes]:
    """The head of one request, with `Connection: close` in it so that its answer ends with its connection; its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65_536)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0] if lengths else 0):
        body += client.recv(65_536)
    return head + b"\r\nConnection: close\r\n\r\n", body


def _until_closed(store: socket.socket) -> bytes:
    found = b""
    while more := store.recv(65_536):
        found += more
    return found


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy in front of the store at ``url``."""
    host, _, port = url.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    try:
        yield proxy
    finally:
        proxy.close()
