"""As much of S3 as places and audiences take: objects listed, read, written, in parts as well, and deleted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest


class Bucket:
    """What is in the bucket, and what was asked of it: ``gets`` and ``puts`` are keys, in order."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.gets: list[str] = []
        self.puts: list[str] = []
        self.refuse: set[str] = set()
        """Keys that are answered with 403."""
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_GET(self) -> None:
        query = self._query()
        if query.get("list-type") == ["2"]:
            return self._list(query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        self.bucket.gets.append(self._key())
        return self._object()

    def do_HEAD(self) -> None:
        self._object()

    def do_PUT(self) -> None:
        body, query, key = self._body(), self._query(), self._key()
        if key in self.bucket.refuse:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        with self.bucket.lock:
            if "uploadId" in query:
                self.bucket.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            else:
                self.bucket.puts.append(key)
                self.bucket.objects[key] = body
        return self._answer(200, b"")

    def do_POST(self) -> None:
        body, query, key = self._body(), self._query(), self._key()
        with self.bucket.lock:
            if "uploads" in query:
                name = f"upload-{len(self.bucket.uploads)}"
                self.bucket.uploads[name] = {}
                text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            elif "uploadId" in query:
                parts = self.bucket.uploads[query["uploadId"][0]]
                self.bucket.puts.append(key)
                self.bucket.objects[key] = b"".join(part for _, part in sorted(parts.items()))
                text = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
            else:  # DeleteObjects
                gone = [node.text or "" for node in ET.fromstring(body).iter() if node.tag.endswith("Key")]
                for each in gone:
                    self.bucket.objects.pop(each, None)
                text = "".join(f"<Deleted><Key>{escape(each)}</Key></Deleted>" for each in gone)
                text = f"<DeleteResult>{text}</DeleteResult>"
        self._answer(200, text.encode())

    def do_DELETE(self) -> None:
        self.bucket.objects.pop(self._key(), None)
        self._answer(204, b"")

    def _list(self, prefix: str, delimiter: str) -> None:
        folders, text = set(), ""
        for key, body in sorted(self.bucket.objects.items()):
            if not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                folders.add(f"{prefix}{head}{cut}")
                continue
            text += (
                f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size><ETag>&quot;{len(body)}&quot;</ETag>"
                "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        text += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders))
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>".encode())

    def _object(self) -> None:
        if self._key() in self.bucket.refuse:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        body = self.bucket.objects.get(self._key())
        return self._answer(404 if body is None else 200, body or b"")

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The bucket ``bucket`` of an S3 endpoint on loopback that the AWS_ variables point at."""
    made = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": made}))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield made
    server.shutdown()
    server.server_close()
    thread.join()
