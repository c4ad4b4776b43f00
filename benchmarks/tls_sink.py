"""A receiver for `wire.py`: takes TLS bytes and gives a fixed number back for each so many. No HTTP/2 in it.

    python benchmarks/tls_sink.py CERTIFICATE KEY BYTES_IN BYTES_OUT

For every BYTES_IN bytes received on a connection it sends BYTES_OUT. Prints its port; ends when standard input does.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import sys


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.open = False
        self.received = 0
        self.pending = memoryview(b"")

    def flush(self) -> None:
        if not self.pending:
            self.pending = memoryview(self.outgoing.read())
        while self.pending:
            try:
                self.pending = self.pending[self.sock.send(self.pending) :]
            except BlockingIOError:
                return


def main() -> None:
    certificate, key, bytes_in, bytes_out = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    raw, plain = bytearray(1 << 18), bytearray(1 << 19)
    answer = memoryview(b"r" * (1 << 20))
    while True:
        for ready, _ in selector.select():
            if ready.fileobj is sys.stdin:
                return
            if ready.fileobj is listener:
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ, Peer(sock, context))
                continue
            peer: Peer = ready.data
            try:
                if not serve(peer, raw, plain, answer, bytes_in, bytes_out):
                    raise ConnectionError
            except (OSError, ssl.SSLError):
                selector.unregister(peer.sock)
                peer.sock.close()
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.pending else 0)
            if events != ready.events:
                selector.modify(peer.sock, events, peer)


def serve(peer: Peer, raw: bytearray, plain: bytearray, answer: memoryview, bytes_in: int, bytes_out: int) -> bool:
    """Reads what has come, answers in proportion. Returns whether the peer is still there."""
    try:
        got = peer.sock.recv_into(raw)
    except BlockingIOError:
        peer.flush()
        return True
    if not got:
        return False
    peer.incoming.write(memoryview(raw)[:got])
    try:
        if not peer.open:
            peer.tls.do_handshake()
            peer.open = True
        while True:
            peer.received += peer.tls.read(len(plain), plain)  # type: ignore[arg-type]
    except ssl.SSLWantReadError:
        pass
    owed, peer.received = divmod(peer.received, bytes_in)
    owed *= bytes_out
    while owed > 0:
        peer.tls.write(answer[: min(owed, len(answer))])
        owed -= len(answer)
    peer.flush()
    return True


if __name__ == "__main__":
    main()
