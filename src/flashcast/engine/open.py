"""From what `--engine` says to an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flashcast.engine.base import Engine
from flashcast.errors import InputError

ENGINE_VARIABLE: Final = "FLASHCAST_ENGINE"
FOLDER: Final = "engine"
"""Of the default engine, in the state folder."""
_FORMS: Final = (
    "Write embedded (a folder in the state folder), embedded:DIR, nats://host:4222 or tls://host:4222; "
    "several NATS servers are joined by commas."
)


def open_engine(address: str | None, *, state: Path) -> Engine:
    """The engine at ``address``, to be entered with `async with`. Nothing is opened before that.

    Without an address FLASHCAST_ENGINE says where, and without that it is a folder in ``state``. Raises InputError for
    what is no address or whose library is missing.
    """
    given, source = address, "--engine"
    if given is None:
        given, source = os.environ.get(ENGINE_VARIABLE) or "embedded", ENGINE_VARIABLE
    scheme, colon, rest = given.strip().partition(":")
    if scheme == "embedded":
        if colon and not rest:
            raise InputError(f"{source} {given!r} names no folder", remedy=_FORMS)
        return _embedded(Path(rest).expanduser() if colon else state / FOLDER)
    if scheme in ("nats", "tls") and rest.startswith("//"):
        return _nats(given.strip())
    raise InputError(f"{source} {_shown(given)!r} is no engine", remedy=_FORMS)


def _embedded(folder: Path) -> Engine:
    from flashcast.engine.embedded import EmbeddedEngine

    return EmbeddedEngine(folder)


def _nats(servers: str) -> Engine:
    try:
        import nats  # noqa: F401 - only to tell a missing library from our own mistakes
    except ImportError as error:
        raise InputError(
            f"--engine {_shown(servers)!r} takes the nats-py library, which is not installed",
            remedy="Install it with `pip install nats-py`, or use --engine embedded on one machine.",
        ) from error
    from flashcast.engine.nats import NatsEngine, NatsOptions

    return NatsEngine(servers, NatsOptions.from_environment())


def _shown(address: str) -> str:
    """The address without what may be a password, also where the rest of it is written wrong."""
    secret, at, host = address.rpartition("@")
    return f"{secret.partition(':')[0]}:***@{host}" if at else address
