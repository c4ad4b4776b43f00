"""One connection to NATS at a time, dialled again for as long as the link is open.

nats-py can reconnect by itself, but not as the engine needs it. It waits for the old socket to be closed, which takes a
quarter of an hour where a partition has left something unsent (nats.py issue 671); after a certificate that cannot be
trusted it never comes back at all (issue 718); what was published while it was away goes out later, when its caller
has long been told that nothing is known; and a request whose connection is gone waits for its timeout. So each
connection is a client of its own that must not reconnect: `Wire`. When it is lost every call that waits on it is told
at once, nothing of it is carried over, its socket is dropped, and `Link` dials the next.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
from typing import Final

from nats.aio.msg import Msg

from flashcast.engine.base import EngineUnavailable
from flashcast.engine.nats_options import SERVERS_MAX, NatsOptions, Server
from flashcast.engine.nats_wire import Wire
from flashcast.errors import CredentialError, FlashcastError

LOOK_S: Final = 0.25
"""How often a connection is looked at that has told of no loss."""
DIAL_PAUSE_S_FIRST: Final = 0.1
DIAL_PAUSE_S_MAX: Final = 0.5
"""A server that comes back is dialled within this: a watch is then back within a second."""


class Link:
    """The way to NATS: a `Wire`, and another when it is lost."""

    def __init__(self, servers: tuple[Server, ...], options: NatsOptions) -> None:
        self.servers = servers
        self.options = options
        self._known = {(server.host, server.port): server for server in servers}
        self._context: ssl.SSLContext | None = None
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._closed = False
        self._trouble = "not opened"
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Link {self.address} {'up' if self.up else self._trouble!r}>"

    @property
    def address(self) -> str:
        """The servers that were given, without secrets."""
        return ",".join(server.address for server in self.servers)

    async def open(self) -> None:
        """Connects to any of the servers. Raises CredentialError or EnvironmentFault naming each and its fault."""
        if self.options.demands_tls or any(server.tls for server in self.servers):
            self._context = self.options.tls_context()
        faults: list[FlashcastError] = []
        for server in random.sample(self.servers, len(self.servers)):
            try:
                self._use(await self._dialled(server))
            except FlashcastError as error:
                faults.append(error)
            else:
                self._keeper = asyncio.create_task(self._keep(), name="flashcast-nats-link")
                return
        raise _summed(faults)

    async def close(self) -> None:
        """Ends the connection; every later call raises EngineUnavailable. May be called again."""
        self._closed = True
        self._up.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.drop()

    @property
    def up(self) -> bool:
        """Whether there is a connection now."""
        return self._wire is not None and self._wire.alive

    def check_open(self) -> None:
        """Raises EngineUnavailable where it was closed."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")

    @property
    def wire(self) -> Wire:
        """The connection. Raises EngineUnavailable at once where there is none."""
        self.check_open()
        if self._wire is None or not self.up:
            raise EngineUnavailable(
                f"not connected to NATS at {self.address}: {self._trouble}",
                remedy="It is dialled again until it answers.",
            )
        return self._wire

    async def connected(self) -> Wire:
        """Waits for a connection. Raises EngineUnavailable only when the link is closed."""
        while not self._closed and not self.up:
            await self._up.wait()
            # Up may still be set while the loss has not come round to the keeper.
            await asyncio.sleep(0 if self._wire is None else LOOK_S / 10)
        return self.wire

    async def request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """One reply over the present connection; see `Wire.request`."""
        return await self.wire.request(subject, payload, headers)

    async def _dialled(self, server: Server) -> Wire:
        wire = Wire(server, self.options, self._context)
        await wire.dial()
        return wire

    def _use(self, wire: Wire) -> None:
        self._wire = wire
        self._up.set()
        self._trouble = "the connection was lost"
        for found in wire.client.discovered_servers:
            if found.hostname and len(self._known) < SERVERS_MAX:
                port = found.port or wire.server.port
                self._known.setdefault((found.hostname, port), _sibling(wire.server, found.hostname, port))

    async def _keep(self) -> None:
        """Waits for the loss of the connection, dials until there is another, and so on."""
        dropping: set[asyncio.Task[None]] = set()
        try:
            while not self._closed:
                wire = self._wire
                assert wire is not None
                await self._until_lost(wire)
                self._up.clear()
                self._wire = None
                task = asyncio.create_task(wire.drop())
                dropping.add(task)
                task.add_done_callback(dropping.discard)
                self._use(await self._redialled(wire.server))
        finally:
            await asyncio.gather(*dropping, return_exceptions=True)

    async def _until_lost(self, wire: Wire) -> None:
        while wire.alive:
            try:
                async with asyncio.timeout(LOOK_S):
                    await wire.lost.wait()
            except TimeoutError:
                # nats-py tells of a loss when it has closed the socket; here we do not wait for that.
                continue
        wire.fail()

    async def _redialled(self, last: Server) -> Wire:
        """Dials in turn: those that were given, then those that they told of; the one that was lost comes last."""
        pause_s = DIAL_PAUSE_S_FIRST
        while True:
            given = random.sample(self.servers, len(self.servers))
            told = [server for server in self._known.values() if server not in self.servers]
            for server in sorted([*given, *told], key=lambda server: server == last):
                try:
                    return await self._dialled(server)
                except FlashcastError as error:
                    self._trouble = error.message
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, DIAL_PAUSE_S_MAX)


def _sibling(server: Server, host: str, port: int) -> Server:
    """Another server of the cluster, trusted as this one is: of an address, the certificate is for the name we know."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        name = None
    else:
        name = server.tls_name or server.host
    return Server(host, port, server.tls, server.user, server.password, server.token, tls_name=name)


def _summed(faults: list[FlashcastError]) -> FlashcastError:
    """One fault for all servers: refused credentials count most, for they are ours to mend."""
    first = next((fault for fault in faults if isinstance(fault, CredentialError)), faults[0])
    message = "; ".join(dict.fromkeys(fault.message for fault in faults))
    return type(first)(message, remedy=first.remedy)
