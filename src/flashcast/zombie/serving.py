"""Runs an ASGI app on a socket, beside whatever else the event loop does. Needs uvicorn: the extra ``serve``.

uvicorn would take the process's signals and end it itself where a port is taken; here whoever calls does both, so that
a controller with a door stops as one without.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from flashcast.errors import EnvironmentFault, InputError

BACKLOG: Final = 1_024
CLOSE_S_MAX: Final = 10
"""Requests that are open at the end are waited for so long."""
HEAD_S_MAX: Final = 10.0
"""The head of a request must be there by then. uvicorn waits for ever, and who opens connections and says nothing
would have them all."""
LOOPBACK: Final = "127.0.0.1"


def listen(address: str) -> socket.socket:
    """A socket at ``PORT``, ``HOST:PORT`` or ``[IPv6]:PORT``; on loopback unless a host is named; 0 is any free port.

    Raises InputError where it is no address, EnvironmentFault where the port is taken.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InputError(f"{address!r} is no address to listen at", remedy="Write PORT or HOST:PORT.")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((host, int(port)))
            made.listen(BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise EnvironmentFault(
            f"cannot listen at {host} port {port}: {error.strerror or error}", remedy="Choose another port or host."
        ) from None
    made.setblocking(False)
    return made


def address_of(made: socket.socket) -> str:
    """Where it listens, as a base URL."""
    host, port = made.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def require_uvicorn() -> Any:
    """The module. Raises EnvironmentFault where it is not installed."""
    try:
        import uvicorn
    except ImportError:
        raise EnvironmentFault(
            "uvicorn is not installed", remedy='Install the extra: pip install "flashcast[serve]".'
        ) from None
    return uvicorn


class Patience:
    """Which connections have kept us waiting for a request's head for ``seconds``. Pure: it is told the time.

    A connection is uvicorn's protocol: its ``cycle`` is its latest request, None before the first.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Any, tuple[Any, float]] = {}

    def __repr__(self) -> str:
        return f"<Patience {len(self._waiting)} waiting>"

    def exhausted(self, connections: Iterable[Any], now_s: float) -> list[Any]:
        """Those to close. One that was answered since we looked is another wait, however idle it looks."""
        waiting = {}
        for one in connections:
            if one.cycle is None or one.cycle.response_complete:
                cycle, since_s = self._waiting.get(one, (None, now_s))
                waiting[one] = (one.cycle, since_s if cycle is one.cycle else now_s)
        self._waiting = waiting
        return [one for one, (_, since_s) in waiting.items() if now_s - since_s >= self._seconds]


@asynccontextmanager
async def serving(
    app: Any, made: socket.socket, *, connections: int, proxies: str = "", head_s: float = HEAD_S_MAX
) -> AsyncIterator[None]:
    """Serves ``app`` as long as the context lasts, then waits for requests that are open.

    ``proxies``: addresses, by commas, whose X-Forwarded-For is believed. ``head_s``: see `HEAD_S_MAX`.
    """
    uvicorn = require_uvicorn()

    class Server(uvicorn.Server):  # type: ignore[misc,name-defined]
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="auto", limit_concurrency=connections, server_header=False,
        timeout_graceful_shutdown=CLOSE_S_MAX, proxy_headers=bool(proxies), forwarded_allow_ips=proxies or None,
        ws="none",
    )  # fmt: skip
    server = Server(config)
    loop = asyncio.get_running_loop()
    task = loop.create_task(server.serve(sockets=[made]))
    closing = loop.create_task(_close_slow(server.server_state.connections, head_s))
    try:
        yield
    finally:
        closing.cancel()
        server.should_exit = True
        await asyncio.wait([task])
        made.close()
    task.result()


async def _close_slow(connections: set[Any], seconds: float) -> None:
    patience, loop = Patience(seconds), asyncio.get_running_loop()
    while True:
        for one in patience.exhausted(list(connections), loop.time()):
            one.transport.close()
        await asyncio.sleep(seconds / 4)
