"""The simulator's sockets and its one thread.

Everything that decides anything is elsewhere and does no IO (`connection`, `oauth`); this file accepts, reads,
writes and keeps time.
"""

from __future__ import annotations

import errno
import heapq
import ipaddress
import selectors
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from flashcast.clock import Clock, SystemClock
from flashcast.errors import EnvironmentFault
from flashcast.model import Provider
from flashcast.simulator import arrays as a
from flashcast.simulator import kernels as k
from flashcast.simulator.auth import ApnsGate, FcmGate
from flashcast.simulator.channel import Phase
from flashcast.simulator.connection import Connection
from flashcast.simulator.credentials import (
    CLIENT_EMAIL,
    KEY_ID,
    PROJECT_ID,
    TEAM_ID,
    Credentials,
    prepare_credentials,
)
from flashcast.simulator.front import Front
from flashcast.simulator.intrinsics import LOAD_SLACK_BYTES
from flashcast.simulator.json_kernel import skeleton
from flashcast.simulator.ledger import Ledger, LedgerCounts
from flashcast.simulator.oauth import TOKEN_PATH, OAuthConnection
from flashcast.simulator.peer import CIPHER_BYTES, LINGER_S, TlsPeer
from flashcast.simulator.profile import Profile
from flashcast.simulator.rules import ApnsRules, FcmRules

BACKLOG: Final = 1_024
PEERS_MAX: Final = 4_096
"""Connections at once; each costs a descriptor and some 0.4 MiB."""
_PLAIN_BYTES: Final = 2 * CIPHER_BYTES
_IDLE_S: Final = 1.0
_SLOW_READ_BYTES: Final = 1_024
"""What a slow reader takes at once."""


@dataclass(slots=True, eq=False)
class _Client:
    """An accepted socket, and what speaks on it once TLS is up."""

    peer: TlsPeer
    front: Front | None
    http2: Connection | None = None
    http1: OAuthConnection | None = None
    leftover: bytes = b""
    due_ns: int = a.NEVER
    slow: bool = False
    paused_until_ns: int = 0
    read_at_ns: int = 0
    writes: int = 0
    linger_until_ns: int = a.NEVER
    events: int = selectors.EVENT_READ


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the endpoints listen; None for one that was not opened."""

    host: str
    apns: int | None
    fcm: int | None
    oauth: int | None

    def url(self, port: int | None) -> str | None:
        if port is None:
            return None
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a simulator. ``expected`` tokens make room in the ledger beforehand."""

    profile: Profile
    folder: Path
    seed: int = 0
    host: str = "127.0.0.1"
    ports: dict[Provider, int] = field(default_factory=dict)
    providers: tuple[Provider, ...] = (Provider.APNS, Provider.FCM)
    expected: int = 0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def compile_kernels() -> float:
    """Compiles, or loads from the cache, every kernel; returns the seconds it took."""
    started = time.monotonic()
    wire, desk = a.new_wire(), a.new_desk()
    office = a.Office(
        np.zeros(a.KNOBS, np.int64), np.zeros(2, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64),
        np.zeros((1, 7), np.int64), np.zeros((1, 896), np.uint8), np.zeros((1, 15), np.int64), np.zeros(1, np.int64),
        np.zeros((a.BODIES, a.BODY_BYTES_MAX + 8), np.uint8), np.full(a.BODIES, -1, np.int64),
        np.zeros(a.SKELETONS_MAX, np.uint64), np.zeros((2, 256), np.int64)[0],
    )  # fmt: skip
    buffer, ledger = np.zeros(64, np.uint8), Ledger()
    wire.state[a.S_STOP_AT] = a.NEVER
    office.knobs[a.K_TICK_NS] = 1
    k.scan(buffer, 0, 0, 0, wire, office, desk, ledger.table, ledger.totals)
    k.release(0, wire, office, desk)
    k.settle(np.uint64(0), 1, -1, 0, 0, 0, 0, wire, office, desk, ledger.table, ledger.totals)
    k.emit_one(buffer, 0, 1, 0, 0, 0, wire.state, office)
    k.cancel(1, wire)
    k.skip_above(buffer, 0, 0, 0, wire)
    k.print_of(buffer, 0, 8)
    skeleton(buffer, 0, 8)
    ledger.room_for(ledger.table.size)
    return time.monotonic() - started


class Simulator:
    """Both providers and the token endpoint. `open`, then `run` until `stop`; `close` frees the sockets."""

    def __init__(self, options: Options, clock: Clock | None = None) -> None:
        self.options = options
        self.ledger = Ledger(options.expected)
        self.addresses = Addresses(options.host, None, None, None)
        self._clock = clock or SystemClock()
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, _Client] = {}
        self._timers: list[tuple[int, int, _Client]] = []
        self._timer_count = 0
        self._fronts: dict[Provider, Front] = {}
        self._stopping = threading.Event()
        self._waker, self._woken = socket.socketpair()
        self._cipher = memoryview(bytearray(CIPHER_BYTES))
        self._plain = np.zeros(_PLAIN_BYTES + LOAD_SLACK_BYTES, np.uint8)
        self._plain_view = memoryview(self._plain)[:_PLAIN_BYTES]  # type: ignore[arg-type]
        self.credentials: Credentials | None = None

    def __repr__(self) -> str:
        return f"<Simulator {self.options.profile.name}, {len(self._clients)} clients, {self.ledger!r}>"

    # --- opening --------------------------------------------------------------------------------

    def open(self) -> Addresses:
        """Makes the credentials and listens.

        Raises EnvironmentFault for a port in use or a folder that cannot be written.
        """
        options, profile = self.options, self.options.profile
        made = self.credentials = prepare_credentials(options.folder, options.host)
        ports: dict[str, int | None] = {"apns": None, "fcm": None, "oauth": None}
        desk = a.new_desk()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._woken.setblocking(False)
        fcm_gate = FcmGate(
            made.account_public, made.account_key_id, CLIENT_EMAIL, profile.access_token_lifetime_s
        )
        for provider in options.providers:
            own = profile.of(provider)
            rules: ApnsRules | FcmRules
            if provider is Provider.APNS:
                gate = ApnsGate(
                    made.apns_public, KEY_ID, TEAM_ID, own.token_updates_max, own.token_update_window_s
                )
                rules = ApnsRules(gate, own.topics)
            else:
                rules = FcmRules(fcm_gate, PROJECT_ID)
            front = Front(provider, profile, rules, self.ledger, desk, options.seed, PROJECT_ID, self._clock)
            self._fronts[provider] = front
            context = self._context(made, "h2", client_certificates=provider is Provider.APNS)
            ports[provider.value] = self._listen(options.ports.get(provider, 0), (context, front, None))
        if Provider.FCM in options.providers:
            context = self._context(made, "http/1.1", client_certificates=False)
            ports["oauth"] = self._listen(0, (context, None, fcm_gate))
        self.addresses = Addresses(options.host, **ports)
        fcm_gate.token_uri = f"{self.addresses.url(ports['oauth'])}{TOKEN_PATH}"
        made.write_service_account(fcm_gate.token_uri)
        return self.addresses

    def _context(self, made: Credentials, protocol: str, *, client_certificates: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(made.server_certificate, made.server_key)
        context.set_alpn_protocols([protocol])
        # Nobody resumes a session here; tickets would only be records to skip.
        context.num_tickets = 0
        if client_certificates:
            context.load_verify_locations(made.ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _listen(self, port: int, data: Any) -> int:
        host = self.options.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                message, remedy = (
                    f"port {port} on {host} is in use",
                    "Give another port, or 0 for a free one.",
                )
            else:
                message, remedy = f"cannot listen on {host} port {port}: {error.strerror or error}", ""
            raise EnvironmentFault(message, remedy=remedy) from error
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, data)
        return int(listener.getsockname()[1])

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until `stop`."""
        while not self._stopping.is_set():
            self.turn(_IDLE_S)

    def stop(self) -> None:
        """Makes `run` return. May be called from any thread and from a signal handler."""
        self._stopping.set()
        try:
            self._waker.send(b"x")
        except OSError:
            pass

    def watch(self, file: Any, callback: Any) -> None:
        """Has the loop call ``callback()`` whenever ``file`` can be read."""
        self._selector.register(file, selectors.EVENT_READ, callback)

    def unwatch(self, file: Any) -> None:
        """Ends `watch`."""
        self._selector.unregister(file)

    def turn(self, wait_s: float) -> None:
        """One round: waits for sockets or the next due time, at most ``wait_s`` seconds, and serves them."""
        now = self._clock.monotonic_ns()
        if self._timers:
            wait_s = min(wait_s, max(0.0, (self._timers[0][0] - now) / 1e9))
        for key, mask in self._selector.select(wait_s):
            data = key.data
            if isinstance(data, _Client):
                self._serve(data, mask)
            elif isinstance(data, tuple):
                self._accept(key.fileobj, data)  # type: ignore[arg-type]
            elif data is not None:
                data()
            else:
                self._woken.recv(64)
        now = self._clock.monotonic_ns()
        for front in self._fronts.values():
            front.tick(now)
        while self._timers and self._timers[0][0] <= now:
            _, _, client = heapq.heappop(self._timers)
            self._on_timer(client, now)

    def close(self) -> None:
        """Closes every socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, tuple):
                key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def counts(self) -> LedgerCounts:
        """The books as they stand."""
        return self.ledger.counts()

    # --- clients -------------------------------------------------------------------------------------

    def _accept(
        self, listener: socket.socket, data: tuple[ssl.SSLContext, Front | None, FcmGate | None]
    ) -> None:
        context, front, gate = data
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._clients) >= PEERS_MAX:
            sock.close()
            return
        client = _Client(TlsPeer(sock, context), front)
        if gate is not None:
            client.http1 = OAuthConnection(gate, self._clock)
        self._clients[sock] = client
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.peer.sock, None) is not None:
            if client.events:
                self._selector.unregister(client.peer.sock)
            client.peer.close()
            client.due_ns = client.linger_until_ns = a.NEVER
            client.paused_until_ns = 0

    def _serve(self, client: _Client, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                client.peer.flush()
            if mask & selectors.EVENT_READ:
                self._read(client)
            elif client.http2 is not None and not client.peer.congested:
                self._release(client, self._clock.monotonic_ns())
            if client.peer.sock in self._clients:
                self._interest(client)
        except OSError:
            # Broken TLS or a connection that is gone; the client's side tells its own story.
            self._drop(client)

    def _interest(self, client: _Client) -> None:
        """Asks the selector for what this client can do next: a client that does not read is not read from."""
        events = 0
        if client.peer.congested:
            events |= selectors.EVENT_WRITE
        if (not client.peer.congested or client.peer.finished) and not client.paused_until_ns:
            events |= selectors.EVENT_READ
        if events == client.events:
            return
        if not events:
            self._selector.unregister(client.peer.sock)
        elif not client.events:
            self._selector.register(client.peer.sock, events, client)
        else:
            self._selector.modify(client.peer.sock, events, client)
        client.events = events

    def _read(self, client: _Client) -> None:
        peer, now = client.peer, self._clock.monotonic_ns()
        most = CIPHER_BYTES
        if client.slow:
            assert client.front is not None
            rate = client.front.profile.slow_read_bytes_per_ms
            # By the time that has passed, so that a busy moment of ours does not make it slower still.
            most = min(max(rate * (now - client.read_at_ns) // 1_000_000, _SLOW_READ_BYTES), CIPHER_BYTES)
            client.read_at_ns = now
            client.paused_until_ns = now + _SLOW_READ_BYTES * 1_000_000 // rate
            self._set_timer(client.paused_until_ns, client)
        still_open = peer.pull(self._cipher, most)
        if not peer.secured:
            if not still_open:
                self._drop(client)
            elif peer.handshake():
                self._secured(client, now)
            if not peer.secured or client.peer.sock not in self._clients:
                return
        start = len(client.leftover)
        if start:
            self._plain[:start] = np.frombuffer(client.leftover, np.uint8)
        size, tls_open = peer.read(self._plain_view[start:])
        if not peer.finished:
            if client.http2 is not None:
                self._http2(client, start + size, now)
            elif client.http1 is not None and size:
                client.http1.receive(self._plain[:size].tobytes())
                peer.write(bytes(client.http1.output))
                client.http1.output.clear()
                still_open = still_open and not client.http1.closing
        if not (still_open and tls_open):
            self._drop(client)

    def _secured(self, client: _Client, now: int) -> None:
        if client.front is None:
            return
        # Without ALPN the preface decides: Apple takes clients that never heard of it (aioapns is one).
        client.http2 = Connection(client.front, now, certificate=client.peer.has_certificate)
        client.slow = client.http2.slow_reader
        client.read_at_ns = now
        self._send(client)

    def _http2(self, client: _Client, size: int, now: int) -> None:
        connection = client.http2
        assert connection is not None
        at = 0
        while True:
            rest = self._plain[at:]
            at += connection.receive(rest, size - at, now)
            flush_again = connection.wants_flush
            self._send(client)
            if not flush_again or client.peer.finished:
                break
        client.leftover = self._plain[at:size].tobytes()
        self._schedule(client)

    def _send(self, client: _Client) -> None:
        """Sends a connection's output, and ends our direction when it says so."""
        connection, peer = client.http2, client.peer
        assert connection is not None
        assert client.front is not None
        out = connection.take_output()
        if out is not None:
            client.writes += 1
            every = client.front.profile.split_every
            split = client.front.profile.split_bytes if every and client.writes % every == 0 else 0
            peer.write(out, split)
        if connection.phase is Phase.HANG_UP and not peer.finished:
            peer.finish(abrupt=connection.abrupt)
            client.slow = False
            client.linger_until_ns = self._clock.monotonic_ns() + int(LINGER_S * 1e9)
            self._set_timer(client.linger_until_ns, client)

    def _release(self, client: _Client, now: int) -> None:
        connection = client.http2
        assert connection is not None
        again = True
        while again and not client.peer.congested and not client.peer.finished:
            again = connection.release(now)
            self._send(client)
        self._schedule(client)

    def _schedule(self, client: _Client) -> None:
        assert client.http2 is not None
        due = client.http2.next_due_ns
        # While an earlier timer stands it comes first and asks again.
        if due < client.due_ns:
            client.due_ns = due
            self._set_timer(due, client)

    def _set_timer(self, due_ns: int, client: _Client) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (due_ns, self._timer_count, client))

    def _on_timer(self, client: _Client, now: int) -> None:
        if client.peer.sock not in self._clients:
            return
        try:
            if client.linger_until_ns <= now:
                self._drop(client)
                return
            if client.paused_until_ns and client.paused_until_ns <= now:
                client.paused_until_ns = 0
            if client.http2 is not None and client.due_ns <= now:
                client.due_ns = a.NEVER
                # A congested client's replies wait; `_serve` goes on when it can be written to.
                if not client.peer.congested and not client.peer.finished:
                    self._release(client, now)
            self._interest(client)
        except OSError:
            self._drop(client)
