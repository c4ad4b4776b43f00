"""Requests and replies as values, and the plain transport that carries them: urllib, with a deadline that holds.

A transport is any callable from `HttpRequest` to `HttpResponse`; an app brings its own to use the library, the
certificates and the connections that it has already (`client/aio.py` takes an asynchronous one as well). It must

- give every answer as it is: a status is no exception, and a redirect is not followed (a POST that is redirected would
  arrive as a GET, and its 200 would pass for the write's);
- raise `TransportError`, or any OSError, where there is no answer: then nobody knows whether the server acted;
- end by `timeout_s` at the latest.
"""

from __future__ import annotations

import http.client
import math
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from flashcast.errors import EnvironmentFault

TIMEOUT_S_DEFAULT: Final = 10.0
RESPONSE_BYTES_MAX: Final = 16 << 20
"""More than any answer to an app should have; a body is cut off here, and that is a `TransportError`."""
_BLOCK_BYTES: Final = 65_536
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_URL: Final = re.compile(r"https?://(?=[^@/?#\\]+([/?#]|$))[!-~]+")
"""No name and password: they would lie on disk, and what is called is another host."""
_FIELD: Final = re.compile(r"([!-~]([ \t!-~]*[!-~])?)?")


class TransportError(EnvironmentFault):
    """There is no answer: whether the server has acted is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. Header names in any case; ``response_bytes_max`` bounds the answer's body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_s: float = TIMEOUT_S_DEFAULT
    response_bytes_max: int = RESPONSE_BYTES_MAX

    @property
    def fault(self) -> str:
        """Why it could never be sent, empty where it can: a queue would try for ever."""
        if not _TOKEN.fullmatch(self.method):
            return f"{self.method!r} is no HTTP method"
        if not _URL.fullmatch(self.url):
            return "the address of a request is http:// or https://, ASCII without blanks, and has no user and password"
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name) or not _FIELD.fullmatch(value):
                return f"header {name!r} cannot be sent: names are tokens, values visible ASCII and blanks"
        return ""

    def with_headers(self, headers: Mapping[str, str]) -> HttpRequest:
        """The same request with these headers set, whatever the case of those it had."""
        names = {name.lower() for name in headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in names}
        return replace(self, headers={**kept, **headers})


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer. Header names in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Transport = Callable[[HttpRequest], HttpResponse]
AsyncTransport = Callable[[HttpRequest], Awaitable[HttpResponse]]


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a `Retry-After` asks to wait at ``now`` (Unix seconds), in either form; None where there is none.

    RFC 9110 section 10.2.3: digits, or an HTTP date. What is neither is ignored.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        # So many digits that int() would refuse them mean for ever just the same.
        return float(value[:18])
    try:
        said = parsedate_to_datetime(value)
        # asctime's form names no zone; it is in UTC all the same (RFC 9110 section 5.6.7), not in the device's.
        at = (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, at - now) if math.isfinite(at) else None


def urllib_transport(request: HttpRequest, *, tls: ssl.SSLContext | None = None) -> HttpResponse:
    """Carries a request by urllib: the system's proxies, no redirects, one deadline. ``tls``: by default the system's.

    urllib's own timeout begins anew with every byte, so that a server that drips holds its client for ever; here the
    connection is shut down at the deadline, whatever it is doing.
    """
    watch = _Watch()
    opener = _opener(watch, tls)
    timer = threading.Timer(request.timeout_s, watch.end)
    timer.daemon = True
    timer.start()
    try:
        asked = urllib.request.Request(
            request.url, data=request.body or None, headers=dict(request.headers), method=request.method
        )
        response = _carried(opener, asked, request)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: an address or a header that cannot be sent; a number that is none.
        told = "no answer in time" if watch.ended else f"no answer: {type(error).__name__}"
        raise TransportError(f"{told}: {getattr(error, 'reason', None) or error}") from None
    finally:
        timer.cancel()
    if watch.ended:
        # What was cut off while headers came in looks like an answer without a body.
        raise TransportError("no answer in time")
    return response


def _carried(
    opener: urllib.request.OpenerDirector, asked: urllib.request.Request, request: HttpRequest
) -> HttpResponse:
    try:
        with opener.open(asked, timeout=request.timeout_s) as response:
            return _read(response, request.response_bytes_max)
    except urllib.error.HTTPError as error:
        with error:
            return _read(error, request.response_bytes_max)


def _read(response: Any, bytes_max: int) -> HttpResponse:
    body = bytearray()
    while block := response.read(min(_BLOCK_BYTES, bytes_max + 1 - len(body))):
        body += block
        if len(body) > bytes_max:
            raise OSError(f"it has more than {bytes_max} bytes")
    if getattr(response, "length", None):
        # With a size given, `read` ends short without an error where the connection does.
        raise OSError("it broke off")
    return HttpResponse(
        int(response.status), {name.lower(): value for name, value in response.headers.items()}, bytes(body)
    )


class _Watch:
    """The socket of one request, to be shut down at its deadline."""

    def __init__(self) -> None:
        self.ended = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def follow(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = connected
        if self.ended:
            self.end()

    def end(self) -> None:
        with self._lock:
            self.ended = True
            if self._socket is None:
                return
            try:
                # Not the TLS socket's own method, which takes the encryption from under the reader's feet.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                pass  # closed already


def _opener(watch: _Watch, tls: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """HTTP, HTTPS and the system's proxies. urllib's own opener would read files and follow redirects as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Http(watch),
        _Https(watch, tls),
    ):
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_followed(http.client.HTTPConnection, self._watch), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._watch = watch
        self._tls = tls

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(
            _followed(http.client.HTTPSConnection, self._watch), req, context=self._tls or _tls_context()
        )


def _followed(kind: type[http.client.HTTPConnection], watch: _Watch) -> Any:
    class Followed(kind):  # type: ignore[valid-type,misc]
        def connect(self) -> None:
            super().connect()
            # Later the connection gives its socket to the response, and knows it no more.
            watch.follow(self.sock)

    return Followed


_TLS: list[ssl.SSLContext] = []


def _tls_context() -> ssl.SSLContext:
    # Reading the system's authorities takes 20 ms: once per process.
    if not _TLS:
        _TLS.append(ssl.create_default_context())
    return _TLS[0]
