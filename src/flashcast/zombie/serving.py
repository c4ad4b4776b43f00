"""Runs an ASGI app on a socket, beside whatever else the event loop does. Needs uvicorn: the extra ``serve``.

uvicorn would take the process's signals and end it itself where a port is taken; here whoever calls does both, so that
a controller with a door stops as one without.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from flashcast.errors import EnvironmentFault, InputError

BACKLOG: Final = 1_024
CLOSE_S_MAX: Final = 10
"""Requests that are open at the end are waited for so long."""
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


@asynccontextmanager
async def serving(app: Any, made: socket.socket, *, connections: int, proxies: str = "") -> AsyncIterator[None]:
    """Serves ``app`` as long as the context lasts, then waits for requests that are open.

    ``proxies``: addresses, by commas, whose X-Forwarded-For is believed.
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
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[made]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task])
        made.close()
    task.result()
