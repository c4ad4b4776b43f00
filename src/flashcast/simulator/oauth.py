"""The token endpoint: just enough HTTP/1.1 to answer `POST /token`.

Sources: RFC 9112 (messages), RFC 7523 (the assertion grant), Google, "Using OAuth 2.0 for server to
server applications".
"""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import parse_qs

from flashcast.clock import Clock
from flashcast.simulator.auth import FcmGate, Grant

HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 65_536
TOKEN_PATH: Final = "/token"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
}


class OAuthConnection:
    """One HTTP/1.1 connection, without IO."""

    def __init__(self, gate: FcmGate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock
        self._data = bytearray()
        self.output = bytearray()
        self.closing = False

    def receive(self, data: bytes) -> None:
        """Takes what came and appends what there is to answer to `output`."""
        self._data += data
        while not self.closing and self._one_request():
            pass

    def _one_request(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > HEAD_BYTES_MAX:
                self._refuse(413)
            return False
        lines = bytes(self._data[:end]).decode("latin-1").split("\r\n")
        request = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if (
            len(request) != 3
            or not request[2].startswith("HTTP/1.")
            or not length.isdigit()
            or "transfer-encoding" in headers
        ):
            self._refuse(400)
            return False
        if int(length) > BODY_BYTES_MAX:
            self._refuse(413)
            return False
        if len(self._data) < end + 4 + int(length):
            return False
        body = bytes(self._data[end + 4 : end + 4 + int(length)])
        del self._data[: end + 4 + int(length)]
        self.closing = headers.get("connection", "").lower() == "close" or request[2] == "HTTP/1.0"
        self._answer(self._judge(request[0], request[1], body))
        return True

    def _judge(self, method: str, target: str, body: bytes) -> Grant:
        if target.partition("?")[0] != TOKEN_PATH:
            return Grant(404, {"error": "not_found"})
        if method != "POST":
            return Grant(405, {"error": "method_not_allowed"})
        fields = parse_qs(body.decode("latin-1"))
        grant_type, assertion = fields.get("grant_type", [""])[0], fields.get("assertion", [""])[0]
        return self._gate.issue(grant_type, assertion, self._clock.time())

    def _refuse(self, status: int) -> None:
        self.closing = True
        self._answer(Grant(status, {"error": "invalid_request"}))

    def _answer(self, grant: Grant) -> None:
        body = json.dumps(grant.document).encode()
        connection = "close" if self.closing else "keep-alive"
        self.output += (
            f"HTTP/1.1 {grant.status} {_REASONS[grant.status]}\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: {connection}\r\n\r\n"
        ).encode() + body
