"""The engine contract: two key-value spaces with compare-and-swap and watch. Everything else is built upon it once.

    durable    campaigns, launches, shard ownership, claims   survives any process, and power as far as configured
    volatile   heartbeats, readiness, progress                may be lost at any time; its writers write it again

What an engine promises:

- **Linearizable per key.** Of any number of `create` for a key that is absent, exactly one succeeds; of any number of
  `update` against the same revision, exactly one succeeds. Once a write has returned, every later `create` or `update`
  of that key sees it. `get` and `entries` may lag behind in the NATS engine after a change of leader: decide by
  `create` and `update`, never by what a read has shown.
- **Revisions** are positive, and every write in a space has a greater one than all writes before it.
- **Durable** means: when a write to `durable` has returned, no crash of any process undoes it. What a crash of the
  operating system or a power cut may undo is the engine's configuration: `Engine.warnings` says where it is weaker
  than it could be.
- **A watch misses nothing**: it gives what is there, says that it has caught up, and then gives every key's latest
  value after each change, in the order of revisions. Values in between may be left out when a key changes faster than
  they are read, or across a reconnection; a value may come twice. A deletion comes as an entry whose value is None.
- **Disconnection.** A call that got no answer raises `EngineUnavailable`; whether a write happened, or will happen yet,
  is then unknown. The engine reconnects by itself for as long as it is open, and open watches go on where they were. A
  volatile space may come back empty: its watches then give only what is written anew.

Keys are words of ``A-Z a-z 0-9 _ -`` joined by dots, at most `KEY_CHARS_MAX` characters; a prefix is a whole number of
words, or empty for all. Values are bytes, at most `VALUE_BYTES_MAX`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from flashcast.errors import EnvironmentFault, FlashcastError, InputError

KEY_CHARS_MAX: Final = 200
VALUE_BYTES_MAX: Final = 512 * 1024
"""NATS refuses messages above 1 MiB by default; a launch's record with its whole trail stays below this."""
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A key at one revision. ``value`` is None where this revision deleted it."""

    key: str
    value: bytes | None
    revision: int


class KeyExistsError(FlashcastError):
    """`create` found the key present. ``entry`` is what was there, None where another write has removed it since."""

    def __init__(self, key: str, entry: Entry | None) -> None:
        super().__init__(f"{key} exists")
        self.key = key
        self.entry = entry


class RevisionConflictError(FlashcastError):
    """`update` or `delete` met another revision than the one given."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(f"{key} is no longer at revision {revision}")
        self.key = key
        self.revision = revision


class EngineUnavailable(EnvironmentFault):
    """The engine did not answer. A write may or may not have happened: repeat it, and read what it says."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy, retryable=True)


class Watch(Protocol):
    """An open watch: an iterator of entries that ends only with its `with` block.

    First comes every present key, then None once ("caught up"), then the changes.
    """

    def __aiter__(self) -> AsyncIterator[Entry | None]: ...


class KeyValue(Protocol):
    """One space. Every method may raise `EngineUnavailable`, and `InputError` for a key or value out of bounds."""

    async def get(self, key: str) -> Entry | None:
        """The key's entry, None where it is absent or deleted."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """Writes a key that is absent or deleted; returns its revision. Raises KeyExistsError."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Replaces the value that has ``revision``; returns the new one. Raises RevisionConflictError."""
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Writes whatever was there; returns the revision."""
        ...

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Deletes the key, only at ``revision`` where one is given; an absent key is no error.

        Raises RevisionConflictError.
        """
        ...

    async def entries(self, prefix: str = "") -> list[Entry]:
        """Every present key below ``prefix`` (or equal to it), sorted by key."""
        ...

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[Watch]:
        """Watches every key below ``prefix`` (or equal to it)."""
        ...


class Engine(Protocol):
    """Both spaces, and the way to let go of them. An async context manager."""

    @property
    def durable(self) -> KeyValue: ...
    @property
    def volatile(self) -> KeyValue: ...
    @property
    def address(self) -> str:
        """What `--engine` says to reach it, without secrets."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where durability is weaker than it could be, in sentences; known once it is open."""
        ...

    async def close(self) -> None:
        """Ends every watch and lets go of the connection or the files."""
        ...

    async def __aenter__(self) -> Engine: ...
    async def __aexit__(self, kind: object, error: object, trace: object) -> None: ...


def checked_key(key: str) -> str:
    """``key``, or InputError where it is none."""
    if len(key) > KEY_CHARS_MAX or not _KEY.fullmatch(key):
        raise InputError(
            f"engine key {key!r}: not words of letters, digits, _ and - joined by dots, of at most {KEY_CHARS_MAX} "
            "characters"
        )
    return key


def checked_value(key: str, value: bytes) -> bytes:
    """``value``, or InputError where it is too large."""
    if len(value) > VALUE_BYTES_MAX:
        raise InputError(f"engine key {key}: a value of {len(value):,} bytes; at most {VALUE_BYTES_MAX:,} are allowed")
    return value


def is_below(key: str, prefix: str) -> bool:
    """Whether a watch on ``prefix`` covers ``key``."""
    return not prefix or key == prefix or key.startswith(f"{prefix}.")
