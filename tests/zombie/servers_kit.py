"""What the tests of shedding servers share: documents, routing, one user for each bucket, and processes on sockets."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from flashcast.zombie.buckets import BUCKETS, bucket
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.document import Document, terms
from flashcast.zombie.envelope import seal
from flashcast.zombie.keys import SigningKey
from flashcast.zombie.servers.routing import Routing, routing_of

NOW = 1_800_000_000
KEY = SigningKey(bytes(range(32)))
STRANGER = SigningKey(bytes(32))
SALT = "s1"
ROUTES: list[dict[str, Any]] = [
    {"path": "/healthz", "priority": "never"},
    {"path": "/api/payments/**", "feature": "payments", "priority": "last"},
    {"path": "/api/prefetch/**", "feature": "prefetch", "priority": "first"},
    {"path": "/api/feed/**", "feature": "feed"},
    {"path": "/api/users/*/progress", "feature": "progress"},
    {"path": "/api/search", "feature": "search", "methods": ["GET", "POST"], "write": False},
    {"path": "/img/*.png", "feature": "images"},
    {"path": "/**"},
]


def routing(*, identify: Sequence[str] = ("header:x-user-id",), **said: Any) -> Routing:
    return routing_of({"app": "shop", "identify": list(identify), "routes": ROUTES} | said)


def document(*, version: int = 7, now: float = NOW, lasts_s: int = 3_600, **said: Any) -> Document:
    """Half of the users have their feed off, unless something else is said."""
    given: dict[str, Any] = {"app": "shop", "level": "zombie", "buckets": 500, "salt": SALT, "off": ["feed"]} | said
    return terms(**given).document(version=version, now=now, lasts_s=lasts_s)


def sealed(of: Document, key: SigningKey = KEY) -> bytes:
    return seal(of, [key])


class Published:
    """A transport: what a server sees when it asks. ``answers`` None stands for a network that is down."""

    def __init__(self, file: bytes | None = None) -> None:
        self.answers: HttpResponse | None = HttpResponse(404) if file is None else HttpResponse(200, {}, file)
        self.asked: list[HttpRequest] = []

    def publish(self, file: bytes) -> None:
        self.answers = HttpResponse(200, {}, file)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request)
        if self.answers is None:
            raise OSError("the network is down")
        return self.answers


@cache
def user_of_each_bucket(salt: str = SALT) -> tuple[str, ...]:
    """A user for each of the 1,000 buckets, at the index of the bucket."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < BUCKETS:
        found.setdefault(bucket(salt, f"user-{number}"), f"user-{number}")
        number += 1
    return tuple(found[index] for index in range(BUCKETS))


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("app.example", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Proxy:
    """A proxy that listens at a Unix socket: no port to be had, none to be lost to somebody else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _UnixConnection(path)

    def get(
        self, target: str, headers: dict[str, str] | None = None, *, method: str = "GET", body: bytes | None = None
    ) -> Reply:
        """One request on a connection that stays."""
        self._connection.request(method, target, body, headers or {})
        response = self._connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self._connection.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has at most 107 bytes. Others may read it: nginx's workers."""
    made = Path(tempfile.mkdtemp(prefix="fz", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def serving(command: Sequence[str], at: Path, log: Path) -> Iterator[Proxy]:
    """Runs a proxy until it takes connections, and ends it afterwards."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            _wait_for(process, at, log)
            proxy = Proxy(at)
            yield proxy
            proxy.close()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], at: Path, log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(at))
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not serve:\n{log.read_text(errors='replace')[-4_000:]}")
