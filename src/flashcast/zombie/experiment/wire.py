"""As much HTTP/1.1 as the experiment takes: one request per connection, bodies with a Content-Length.

A connection for every request, since that is what an app that was just opened costs; and small, since both ends of
everything run on one machine beside whatever else it does.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final

from flashcast.zombie.client.http import HttpRequest, HttpResponse

HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 65_536
BACKLOG: Final = 1_024
_REASONS: Final = {200: "OK", 304: "Not Modified", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}
_RESET: Final = struct.pack("ii", 1, 0)


class NoAnswerError(OSError):
    """The connection was refused, broke, or the deadline passed."""


class Exchange(asyncio.Protocol):
    """The server's end of one connection. ``handle`` is called with it when the request is whole."""

    def __init__(self, handle: Callable[[Exchange], None]) -> None:
        self._handle = handle
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._seen = False
        self.gone = False
        """Whether the client has left."""
        self.method = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._seen:
            return
        self._data += data
        head, blank, rest = bytes(self._data).partition(b"\r\n\r\n")
        if not blank:
            if len(self._data) > HEAD_BYTES_MAX:
                self.answer(400)
            return
        if not self.method and not self._parse(head):
            self._seen = True
            self.answer(400)
            return
        length = int(self.headers.get("content-length", "0"))
        if len(rest) >= length:
            self._seen = True
            self.body = rest[:length]
            self._handle(self)

    def _parse(self, head: bytes) -> bool:
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        self.headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        length = self.headers.get("content-length", "0")
        if len(words) != 3 or not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return False
        self.method, self.path = words[0], words[1]
        return True

    def eof_received(self) -> bool:
        return True  # keep the writing side: a client may have finished sending and still listen

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answers and closes. Nothing happens where the client has left."""
        if self._transport is None or self._transport.is_closing():
            return
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._transport.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
        self._transport.close()

    def hang_up(self) -> None:
        """Ends the connection without an answer."""
        if self._transport is not None:
            self._transport.abort()


async def listen(handle: Callable[[Exchange], None]) -> tuple[asyncio.Server, int]:
    """A server on a free port of 127.0.0.1, and the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Exchange(handle), "127.0.0.1", 0, backlog=BACKLOG)
    return server, int(server.sockets[0].getsockname()[1])


class _Call(asyncio.Protocol):
    """The client's end: writes the request, gathers the answer until the server closes."""

    def __init__(self, data: bytes, done: asyncio.Future[bytes]) -> None:
        self._out = data
        self._done = done
        self._in = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._out)

    def data_received(self, data: bytes) -> None:
        self._in += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done.done():
            return
        if exc is not None or not self._in:
            self._done.set_exception(NoAnswerError(f"the connection ended without an answer: {exc}"))
        else:
            self._done.set_result(bytes(self._in))


async def call(port: int, request: HttpRequest, timeout_s: float) -> HttpResponse:
    """Makes a request to 127.0.0.1. Raises NoAnswerError where there is no whole answer within ``timeout_s``."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()
    # A connection may break while nobody waits for its answer any more.
    done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    protocol = _Call(_bytes(request), done)
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(lambda: protocol, "127.0.0.1", port)
            return _response(await done)
    except TimeoutError:
        raise NoAnswerError(f"no answer within {timeout_s:g} s") from None
    except NoAnswerError:
        raise
    except OSError as error:
        raise NoAnswerError(str(error)) from None
    finally:
        _leave(protocol.transport)


def _leave(transport: asyncio.Transport | None) -> None:
    """Closes at once. A reset leaves no port behind that waits for a minute: some ten thousand connections are made."""
    if transport is None or transport.is_closing():
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _bytes(request: HttpRequest) -> bytes:
    path = "/" + request.url.split("://", 1)[-1].partition("/")[2]
    lines = [f"{request.method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + request.body


def _response(data: bytes) -> HttpResponse:
    head, blank, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    if not blank or len(words) < 2 or not words[1].isdigit() or len(body) != int(headers.get("content-length", "-1")):
        raise NoAnswerError("the answer broke off")
    return HttpResponse(int(words[1]), headers, body)
