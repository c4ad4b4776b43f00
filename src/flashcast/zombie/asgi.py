"""What the small ASGI apps share: a request read within bounds, a token compared, an answer given. ASGI 3."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, NamedTuple

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PATH_SHOWN: Final = 100


class Answer(NamedTuple):
    """What is answered."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kind: str = "application/json"


class RefusedRequest(Exception):  # noqa: N818 - an answer, not a fault
    """Ends a request with an answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def as_json(status: int, said: object, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(said, allow_nan=False).encode() + b"\n", headers)


def problem(status: int, message: str, *headers: tuple[bytes, bytes], **more: object) -> RefusedRequest:
    """An answer that says what is wrong."""
    return RefusedRequest(as_json(status, {"error": message, **more}, *headers))


def header(scope: Scope, name: bytes) -> bytes | None:
    """A request header's value, by its name in lower case. None where it is missing or there are several."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0] if len(found) == 1 else None


def shows(scope: Scope, token: bytes | None) -> bool | None:
    """Whether the request has the bearer token (RFC 6750); None where it has none at all."""
    said = header(scope, b"authorization")
    if said is None:
        return None
    scheme, _, value = said.partition(b" ")
    return scheme.lower() == b"bearer" and token is not None and hmac.compare_digest(value.strip(), token)


def check_token(scope: Scope, token: bytes | None) -> None:
    """Raises `RefusedRequest` with 401 where the token is missing or wrong."""
    if not shows(scope, token):
        raise problem(401, "a bearer token is needed", (b"www-authenticate", b"Bearer"))


async def body_of(scope: Scope, receive: Receive, bytes_max: int, seconds_max: float) -> bytes:
    """The request's body. Raises `RefusedRequest` where it is too long, too slow, compressed or cut off."""
    if header(scope, b"content-encoding") not in (None, b"identity"):
        raise problem(415, "send the body uncompressed")
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > bytes_max:
        raise problem(413, f"at most {bytes_max} bytes are taken at once")
    try:
        async with asyncio.timeout(seconds_max):
            return await _read(receive, bytes_max)
    except TimeoutError:
        raise problem(408, f"the body was not there within {seconds_max:g} s") from None


async def _read(receive: Receive, bytes_max: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise problem(400, "the request was cut off")
        part = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise problem(413, f"at most {bytes_max} bytes are taken at once")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def json_of(body: bytes) -> Any:
    """The body as JSON. Raises `RefusedRequest`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise problem(400, "the body is no JSON") from None


async def give(send: Send, answer: Answer, more: Iterable[tuple[bytes, bytes]] = (), *, head: bool = False) -> None:
    """Sends an answer that nobody keeps."""
    headers: Headers = [
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *answer.headers,
        *more,
    ]
    if answer.status != 204:  # which must not have them (RFC 9110 section 8.6)
        headers += [(b"content-type", answer.kind.encode()), (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


def path_of(scope: Scope) -> str:
    """The path within the app, wherever it is mounted (ASGI: `path` includes `root_path`)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        path = path[len(root) :]
    return path.rstrip("/") or "/"
