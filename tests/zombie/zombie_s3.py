"""As much of S3 as publishing takes, with the conditions of RFC 9110 on PUT, and hooks at each of its steps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest


class Stored(NamedTuple):
    data: bytes
    content_type: str
    cache_control: str

    @property
    def etag(self) -> str:
        return f'"{md5(self.data).hexdigest()}"'


class Bucket:
    """What is in the bucket ``bucket``, and how it behaves."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.puts: list[str] = []
        self.knows_conditions = True
        """False: 501 for a PUT with If-Match or If-None-Match, as older stores answer."""
        self.refuse: set[str] = set()
        """Keys whose PUT is answered with 403."""
        self.before_put: Callable[[str], None] = lambda key: None
        self.after_put: Callable[[str], None] = lambda key: None
        self.alter: Callable[[bytes], bytes] = lambda data: data
        """What the store makes of what it is given."""
        self.shows: Callable[[str, bytes], bytes | None] = lambda key, data: data
        """What it answers to those who read; None for nothing. Its ETag is that of what it keeps."""
        self.lose_answers = 0
        """So many PUTs are done and answered with 500: who repeats them meets what they wrote."""
        self.lock = threading.Lock()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        stored = self.bucket.objects.get(self._key())
        data = self.bucket.shows(self._key(), stored.data) if stored is not None else None
        if data is None:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._answer(200, data, stored)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        data, key = self.rfile.read(int(self.headers.get("Content-Length", 0))), self._key()
        self.bucket.before_put(key)
        with self.bucket.lock:
            status, code = self._judged(key)
            if status == 200:
                told = (self.headers.get("Content-Type", ""), self.headers.get("Cache-Control", ""))
                self.bucket.objects[key] = Stored(self.bucket.alter(data), *told)
                self.bucket.puts.append(key)
                if self.bucket.lose_answers:
                    self.bucket.lose_answers -= 1
                    status, code = 500, "InternalError"
        if status == 200:
            self.bucket.after_put(key)
            return self._answer(200, b"", self.bucket.objects[key])
        return self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _judged(self, key: str) -> tuple[int, str]:
        match, none_match = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        there = self.bucket.objects.get(key)
        if key in self.bucket.refuse:
            return 403, "AccessDenied"
        if (match or none_match) and not self.bucket.knows_conditions:
            return 501, "NotImplemented"
        if (match and (there is None or there.etag != match)) or (none_match and there is not None):
            return 412, "PreconditionFailed"
        return 200, ""

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket/")

    def _answer(self, status: int, body: bytes, stored: Stored | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if stored is not None:
            self.send_header("ETag", stored.etag)
            self.send_header("Content-Type", stored.content_type)
            self.send_header("Cache-Control", stored.cache_control)
            self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def s3() -> Iterator[Bucket]:
    """The bucket ``bucket`` at ``Bucket.url`` on loopback; `aws_environment` points obstore there."""
    made = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": made}))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_in_environment(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """`s3`, where obstore in this process finds it, and no other."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    with s3() as made:
        for name, value in aws_environment(made.url).items():
            patch.setenv(name, value)
        yield made


def aws_environment(endpoint: str) -> dict[str, str]:
    """The variables by which obstore finds a server on loopback."""
    return {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
