"""A client's socket with TLS on it, non-blocking.

TLS runs on memory buffers (`ssl.MemoryBIO`): one large `recv_into`, then records are decrypted straight into the
buffer the kernels read. Measured cheaper than `SSLSocket`, which takes one system call and more per record.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

CIPHER_BYTES: Final = 262_144
"""Read from a socket at once."""
UNSENT_MAX: Final = 1 << 20
"""Ciphertext a client may leave unread before it is no longer served."""
LINGER_S: Final = 2.0
"""How long a connection that we ended is read to its end: closing with unread bytes would destroy our last words."""


class TlsPeer:
    """One accepted connection. Raises OSError (`ssl.SSLError` among them) when it is broken."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        # Not a TCP socket in some tests.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent: memoryview | None = None
        self.secured = False
        self.finished = False
        """We have ended our direction."""

    @property
    def has_certificate(self) -> bool:
        """Whether the client proved itself with a certificate of our authority."""
        return bool(self._tls.getpeercert())

    @property
    def congested(self) -> bool:
        """Whether there is ciphertext the socket would not take."""
        return self._unsent is not None

    def pull(self, buffer: memoryview, most: int = CIPHER_BYTES) -> bool:
        """Moves bytes from the socket to TLS; whether the client's direction is still open."""
        try:
            size = self.sock.recv_into(buffer, min(most, len(buffer)))
        except (BlockingIOError, InterruptedError):
            return True
        if size == 0:
            return False
        self._incoming.write(buffer[:size])
        return True

    def handshake(self) -> bool:
        """Goes on with the handshake; whether it is done."""
        try:
            self._tls.do_handshake()
            self.secured = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self.flush()
        return self.secured

    def read(self, plain: memoryview) -> tuple[int, bool]:
        """Decrypts what there is, as far as ``plain`` takes it; its size, and whether TLS is still open."""
        size = 0
        read = self._tls.read
        while size < len(plain):
            try:
                got = read(len(plain) - size, plain[size:])
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return size, False
            if not got:
                return size, False
            size += int(got)
        return size, True

    def write(self, plain: memoryview | bytes, split_bytes: int = 0) -> None:
        """Encrypts and sends; the first ``split_bytes`` in TLS records of one byte."""
        data = memoryview(plain)
        for at in range(min(split_bytes, len(data))):
            self._tls.write(data[at : at + 1])
        if len(data) > split_bytes:
            self._tls.write(data[split_bytes:])
        self.flush()

    def flush(self) -> None:
        """Sends ciphertext as far as the socket takes it; after the last of it, the end of our direction."""
        while True:
            if self._unsent is None:
                if not self._outgoing.pending:
                    if self.finished:
                        with contextlib.suppress(OSError):
                            self.sock.shutdown(socket.SHUT_WR)
                    return
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self.sock.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            self._unsent = self._unsent[sent:] if sent < len(self._unsent) else None

    def finish(self, *, abrupt: bool) -> None:
        """Ends our direction; ``abrupt`` leaves out TLS's close_notify, as a broken connection would."""
        if not abrupt:
            # unwrap() writes our close_notify and then wants the client's, which comes when it pleases.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self.finished = True
        self.flush()

    def close(self) -> None:
        """Frees the socket."""
        self.sock.close()
