"""One TLS channel over a socket that never blocks.

The problem: `ssl.SSLSocket` issues one system call per 16 KiB record and, reading, two. So the record layer works
in memory (`ssl.MemoryBIO`) and the socket moves hundreds of kilobytes at a time. OpenSSL holds no GIL while it
encrypts.

    connecting --(CONNECT through a proxy)--> handshaking --> open --> closed
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flashcast.errors import ConfigError, EnvironmentFault
from flashcast.limits import UNWRITTEN_BYTES_MAX

_PROXY_REPLY_BYTES_MAX: Final = 8_192


@dataclass(frozen=True)
class Address:
    """Where to connect: the server, and the proxy in front of it, if any."""

    host: str
    port: int
    proxy: tuple[str, int] | None = None

    def __str__(self) -> str:
        via = f" through the proxy {self.proxy[0]}:{self.proxy[1]}" if self.proxy else ""
        return f"{self.host}:{self.port}{via}"

    @property
    def authority(self) -> str:
        """What goes into `:authority`: the port is left out where it is 443 (RFC 9113 section 8.3.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def parse_address(endpoint: str, proxy: str | None, setting: str) -> Address:
    """The address of a base URL such as ``https://api.push.apple.com``; ``setting`` is named in errors."""
    host, port = _host_port(endpoint, "https", 443, setting)
    return Address(host, port, _host_port(proxy, "http", 8080, f"{setting} proxy") if proxy else None)


def _host_port(url: str, scheme: str, default_port: int, setting: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or default_port
    except ValueError as error:
        raise ConfigError(f"{setting}: {url!r} is not a URL: {error}") from None
    if parts.scheme != scheme or not parts.hostname:
        raise ConfigError(f"{setting}: {url!r} is not a {scheme}:// URL", remedy=f"Write {scheme}://host:port.")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"{setting}: {url!r} has more than a host and a port", remedy=f"Write {scheme}://host:port.")
    return parts.hostname, port


def client_context(
    ca_file: Path | None, certificate_file: Path | None = None, certificate_key_file: Path | None = None
) -> ssl.SSLContext:
    """A context that speaks h2 over TLS 1.2 or later (the providers' minimum) and verifies the peer."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_file: cannot load {ca_file}: {_words(error)}", remedy="Give a PEM file.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if certificate_file is not None:
        try:
            key = str(certificate_key_file) if certificate_key_file else None
            # An encrypted key must not make a server wait at an invisible prompt.
            context.load_cert_chain(str(certificate_file), key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"certificate_file: cannot load {certificate_file}: {_words(error)}",
                remedy="Give a PEM certificate and its unencrypted PEM key.",
            ) from error
    return context


class Stage(Enum):
    """How far a channel has come."""

    CONNECTING = "connecting"
    PROXY = "proxy"
    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


class Channel:
    """A TLS connection in the making, then open. Nothing here blocks; `wants_write` tells what to wait for."""

    def __init__(self, address: Address, context: ssl.SSLContext, raw: bytearray) -> None:
        """Starts connecting. ``raw`` is a scratch buffer that channels of one thread may share.

        Raises EnvironmentFault where the host cannot be resolved or refuses at once.
        """
        self.address = address
        self.stage = Stage.CONNECTING
        self.bytes_sent = 0
        """Plain bytes given to `send`."""
        self.bytes_received = 0
        self._raw = memoryview(raw)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=address.host)
        self._pending = memoryview(b"")
        self._proxy_reply = b""
        self._eof = False
        self._filled = 0
        self.more = False
        """Whether the last `receive` may have left something behind that the selector will not tell of."""
        family, kind, protocol, where = _next_address(*(address.proxy or (address.host, address.port)))
        self.socket = socket.socket(family, kind, protocol)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(where)
        if code not in _IN_PROGRESS:
            self.close()
            raise self._unreachable(code)

    def __repr__(self) -> str:
        return f"<Channel {self.address} {self.stage.value}, {len(self._pending)} bytes to write>"

    @property
    def wants_write(self) -> bool:
        """Whether the selector should also report that the socket can be written."""
        return self.stage is Stage.CONNECTING or len(self._pending) > 0

    def advance(self) -> bool:
        """Takes the opening as far as it goes without waiting. Returns whether the channel is open.

        Raises EnvironmentFault (retryable unless the certificate is at fault).
        """
        if self.stage is Stage.CONNECTING:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise self._unreachable(code)
            try:
                self.socket.getpeername()
            except OSError:
                return False  # not connected yet
            self._connected()
        if self.stage is Stage.PROXY and not self._read_proxy_reply():
            return False
        if self.stage is Stage.HANDSHAKE:
            self._handshake()
        return self.stage is Stage.OPEN

    def _connected(self) -> None:
        if self.address.proxy is None:
            self.stage = Stage.HANDSHAKE
            return
        self.stage = Stage.PROXY
        where = f"{self.address.host}:{self.address.port}"
        self._pending = memoryview(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        self.flush()

    def _read_proxy_reply(self) -> bool:
        while b"\r\n\r\n" not in self._proxy_reply:
            try:
                # One byte at a time at the end is not worth avoiding: TLS bytes must stay in the socket.
                piece = self.socket.recv(1)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise self._unreachable(error.errno or 0) from error
            self._proxy_reply += piece
            if not piece or len(self._proxy_reply) > _PROXY_REPLY_BYTES_MAX:
                raise EnvironmentFault(f"the proxy did not let us through to {self.address}", remedy=_REMEDY)
        status = self._proxy_reply.split(b"\r\n", 1)[0]
        if b" 200" not in status[:13]:
            told = status.decode("latin-1")[:100]
            raise EnvironmentFault(f"the proxy did not let us through to {self.address}: {told}", remedy=_REMEDY)
        self.stage = Stage.HANDSHAKE
        return True

    def _handshake(self) -> None:
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    self._send_outgoing()
                    if not self._fill():
                        if self._eof:
                            raise self._unreachable(0) from None
                        return
                    continue
                break
        except ssl.SSLCertVerificationError as error:
            raise EnvironmentFault(
                f"the certificate of {self.address} is not trusted: {error.verify_message}",
                remedy="Set ca_file to the certificate authority that signed it, or correct the endpoint.",
            ) from error
        except ssl.SSLError as error:
            self._send_outgoing()  # the alert that says why
            raise EnvironmentFault(f"TLS with {self.address} failed: {_words(error)}", retryable=True) from error
        self._send_outgoing()
        if self._tls.selected_alpn_protocol() != "h2":
            raise EnvironmentFault(f"{self.address} does not speak HTTP/2", remedy="Correct the endpoint.")
        self.stage = Stage.OPEN

    # --- open ----------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """Encrypts ``data`` and writes what the socket takes; the rest waits for `flush`.

        Raises ConnectionError when the peer left, or has stopped reading while it goes on asking.
        """
        if len(self._pending) > UNWRITTEN_BYTES_MAX:
            raise ConnectionError("the peer does not read")
        self._tls.write(data)
        self.bytes_sent += len(data)
        self._send_outgoing()

    def _send_outgoing(self) -> None:
        if self._pending:
            self._pending = memoryview(b"".join((self._pending, self._outgoing.read())))
        else:
            self._pending = memoryview(self._outgoing.read())
        self.flush()

    def flush(self) -> bool:
        """Writes what waits. Returns whether all of it is gone. Raises ConnectionError when the peer left."""
        while self._pending:
            try:
                sent = self.socket.send(self._pending)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise ConnectionError(_words(error)) from error
            self._pending = self._pending[sent:]
        return True

    def receive(self, into: memoryview) -> int:
        """Reads and decrypts into ``into`` as much as is there and fits.

        Returns the bytes read, 0 where none is there. Raises ConnectionError when the peer is gone and all it
        sent has been read.
        """
        size = 0
        try:
            # Asking OpenSSL for a record that is not there costs an exception, so it is not asked.
            while size < len(into):
                try:
                    if size and not self._incoming.pending and self._filled < len(self._raw):
                        break
                    got = self._tls.read(len(into) - size, into[size:])
                except ssl.SSLWantReadError:
                    # A short read has emptied the socket: the selector tells when there is more.
                    if (size and self._filled < len(self._raw)) or not self._fill():
                        break
                    continue
                if not got:
                    self._eof = True
                    break
                size += got  # type: ignore[operator]
        except ssl.SSLError as error:
            # A peer that vanishes mid-record and one that garbles a record are the same to us.
            self._eof = True
            if size == 0:
                raise ConnectionError(_words(error)) from error
        if self._outgoing.pending:
            self._send_outgoing()  # a key update's answer
        self.bytes_received += size
        self.more = self._eof or size == len(into) or self._filled == len(self._raw)
        if size == 0 and self._eof:
            raise ConnectionError("closed by the peer")
        return size

    def _fill(self) -> bool:
        """Moves what the socket has to the record layer. Returns whether there was anything."""
        if self._eof:
            return False
        try:
            got = self.socket.recv_into(self._raw)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._eof = True
            if self.stage is Stage.OPEN:
                return False
            raise self._unreachable(error.errno or 0) from error
        if got == 0:
            self._eof = True
            self._incoming.write_eof()
            return False
        self._incoming.write(self._raw[:got])
        self._filled = got
        return True

    def close(self) -> None:
        """Closes the socket; safe to call twice."""
        if self.stage is not Stage.CLOSED:
            self.stage = Stage.CLOSED
            self.socket.close()

    def _unreachable(self, code: int) -> EnvironmentFault:
        why = os.strerror(code) if code else "it closed the connection during the handshake"
        return EnvironmentFault(f"cannot reach {self.address}: {why}", remedy=_REMEDY, retryable=True)


def _next_address(host: str, port: int) -> tuple[int, int, int, Any]:
    """One of the host's addresses, each in its turn: all are used, and a dead one is not tried twice in a row.

    A thousand connections ask the resolver once; an answer is good for `_RESOLVED_S`.
    """
    with _resolver_lock:
        found, until, turn = _resolved.get((host, port), ([], 0.0, 0))
        if time.monotonic() >= until:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise EnvironmentFault(
                    f"cannot resolve {host}: {_words(error)}", remedy=_REMEDY, retryable=True
                ) from error
            until = time.monotonic() + _RESOLVED_S
        _resolved[host, port] = found, until, turn + 1
        family, kind, protocol, _, where = found[turn % len(found)]
        return family, kind, protocol, where


_RESOLVED_S: Final = 30.0
_resolver_lock: Final = threading.Lock()
_resolved: Final[dict[tuple[str, int], tuple[list[Any], float, int]]] = {}
_REMEDY: Final = "Check the endpoint and proxy in flashcast.toml, and that this machine may connect to them."
_IN_PROGRESS: Final = frozenset({0, errno.EINPROGRESS})


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
