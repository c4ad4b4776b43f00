"""One space in one SQLite file. Synchronous, for the one thread that opened it; `engine/embedded.py` is its only user.

    entries   revision INTEGER PRIMARY KEY   key TEXT UNIQUE   value BLOB   NULL: deleted at this revision
    meta      name, number                   'pruned': the greatest revision of a tombstone that was removed

The revision is the rowid: changes since a revision are the end of the table, and a new one costs no counter of its own,
for it is the greatest plus one. That holds because rows leave the table only by coming back with a greater revision, or
as tombstones that are not the greatest.

Writes come in groups. A group is one transaction, so one fsync; each write in it succeeds or fails by itself against
what the ones before it have left, and all are undone together when the disk refuses.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from flashcast.engine.base import EngineUnavailable, Entry, KeyExistsError, RevisionConflictError
from flashcast.errors import EnvironmentFault, FlashcastError

T = TypeVar("T")

FORMAT: Final = 1
APPLICATION_ID: Final = 0x466C6173
"""'Flas': tells our file from another program's."""
LOCK_WAIT_S_MAX: Final = 10.0
"""A transaction takes milliseconds and 512 writes some 10, but on a busy virtual disk we have seen one fsync take 6 s.
Beyond that its holder is stopped, or its disk is failing."""
LOCK_PAUSE_S: Final = (0.0002, 0.001)
"""Between two tries for the lock. SQLite's own pauses grow to 100 ms, which a GO would feel."""
TOMBSTONES_MAX: Final = 10_000
"""Deleted keys remembered; beyond, the older half goes. A watch that is further behind reads everything anew."""
CHANGES_ROWS_MAX: Final = 512
CHANGES_BYTES_MAX: Final = 4 << 20
"""What a watch is given at once; it asks again when it has read that."""
WAL_BYTES_KEPT: Final = 16 << 20
"""The log is cut to this after a checkpoint; one of 1,000 pages has 4 MiB."""
_TABLES: Final = (
    "CREATE TABLE entries (revision INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB)",
    "CREATE INDEX tombstones ON entries (revision) WHERE value IS NULL",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_BELOW: Final = "key >= :low AND key < :high AND (key = :low OR key >= :words)"
"""Keys of a prefix: 'a' and 'a.b' but not 'a-b', which lies between them."""


class Act(Enum):
    """What a write does."""

    CREATE = "create"
    UPDATE = "update"
    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Write:
    """One write. ``value`` is None to delete; ``revision`` is what update and delete expect to find."""

    act: Act
    key: str
    value: bytes | None = None
    revision: int | None = None

    @property
    def bytes(self) -> int:
        """About what it adds to a transaction."""
        return len(self.key) + len(self.value or b"")


@dataclass(slots=True)
class Follower:
    """How far a watch has read. ``present`` are the keys it was told of: it alone knows what may have gone unseen."""

    prefix: str
    cursor: int = 0
    caught_up: bool = False
    present: set[str] = field(default_factory=set)


class SpaceFile:
    """See the module's docstring. Everything but `close` may raise EngineUnavailable or EnvironmentFault."""

    def __init__(self, path: Path, *, synced: bool) -> None:
        """``synced``: whether a commit waits for the disk."""
        self.path = path
        self._synced = synced
        self._connection: sqlite3.Connection | None = None
        self._version = 0

    def __repr__(self) -> str:
        return f"<SpaceFile {self.path} {'open' if self._connection else 'closed'}>"

    # --- writing -------------------------------------------------------------------------------------------

    def apply(self, writes: Sequence[Write]) -> list[int | FlashcastError | None]:
        """All of ``writes`` in order, in one transaction. For each its revision, None for a deletion, or its error."""
        with self._connected() as connection:
            _insist(lambda: connection.execute("BEGIN IMMEDIATE"))
            before = revision = _number(connection, "SELECT max(revision) FROM entries")
            results: list[int | FlashcastError | None] = []
            for write in writes:
                try:
                    done = _applied(connection, write, revision + 1)
                except (KeyExistsError, RevisionConflictError) as error:
                    results.append(error)
                    continue
                revision += done
                results.append(None if write.act is Act.DELETE else revision)
            if revision == before:
                connection.execute("ROLLBACK")
                return results
            if any(write.act is Act.DELETE for write in writes):
                _prune(connection)
            connection.execute("COMMIT")
            return results

    # --- reading -------------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """The key's entry, None where it is absent or deleted."""
        with self._connected() as connection:
            return _insist(lambda: _present(connection, key))

    def entries(self, prefix: str) -> list[Entry]:
        """Every present key below ``prefix``, sorted by key."""
        query = f"SELECT key, value, revision FROM entries WHERE {_BELOW} AND value IS NOT NULL ORDER BY key"
        with self._connected() as connection:
            return _insist(lambda: [Entry(*row) for row in connection.execute(query, _range(prefix))])

    def changes(self, follower: Follower) -> list[Entry | None]:
        """What ``follower`` has not seen, at most a batch of it, and a None when that catches it up; moves it on."""
        with self._connected() as connection:
            return _insist(lambda: self._changes(connection, follower))

    def _changes(self, connection: sqlite3.Connection, follower: Follower) -> list[Entry | None]:
        if follower.caught_up and _number(connection, "SELECT max(revision) FROM entries") <= follower.cursor:
            return []
        with _snapshot(connection):
            head = _number(connection, "SELECT max(revision) FROM entries")
            pruned = _number(connection, "SELECT number FROM meta WHERE name = 'pruned'")
            behind = bool(follower.present) and follower.cursor < pruned
            found, whole = _found(connection, follower, bounded=not behind)
            if behind:
                found += _vanished(connection, follower, pruned)
                found.sort(key=lambda entry: (entry.revision, entry.key))
        batch: list[Entry | None] = []
        for entry in found:
            # A deletion means nothing to a watch that is still being told what there is.
            if entry.value is not None or follower.caught_up or entry.key in follower.present:
                batch.append(entry)
            (follower.present.discard if entry.value is None else follower.present.add)(entry.key)
        follower.cursor = head if whole else found[-1].revision
        if whole and not follower.caught_up:
            follower.caught_up = True
            batch.append(None)
        return batch

    def changed_elsewhere(self) -> bool:
        """Whether another connection has written since the last call."""
        with self._connected() as connection:
            version = _insist(lambda: _number(connection, "PRAGMA data_version"))
        before, self._version = self._version, version
        return version != before

    # --- the connection ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the file, which is made where it is missing."""
        with self._connected():
            pass

    def close(self) -> None:
        """Lets go of the file. What failed is of no interest any more."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(sqlite3.Error):
                connection.close()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, made where there is none. An error undoes the transaction and is told in our own words."""
        try:
            yield self._connection or self._connect()
        except sqlite3.Error as error:
            if self._connection is not None and self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL):
                # After an I/O error SQLite vouches for nothing it has in memory; the next call opens the file anew.
                self.close()
            raise _fault(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            _insist(lambda: self._prepare(connection))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._synced else 'OFF'}")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone leaves the data in the drive's cache
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise EnvironmentFault(
                f"{self.path}: its file system cannot share memory between processes (SQLite says {mode!r}, not 'wal')",
                remedy="Put the engine's folder on a local disk: --engine embedded:DIR.",
            )
        # In one snapshot: another process may be making the tables meanwhile.
        with _snapshot(connection):
            made = self._is_ours(connection)
        if not made:
            self._make(connection)
        self._version = _number(connection, "PRAGMA data_version")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there; False for a new file. Raises EnvironmentFault for what is not ours."""
        version = _number(connection, "PRAGMA user_version")
        owner = _number(connection, "PRAGMA application_id")
        tables = _number(connection, "SELECT count(*) FROM sqlite_master")
        if version > FORMAT and owner == APPLICATION_ID:
            raise EnvironmentFault(
                f"{self.path} was written by a newer Flashcast (format {version}; this one knows {FORMAT})",
                remedy="Use the newer version, or another folder: --engine embedded:DIR.",
            )
        if owner != APPLICATION_ID and (owner or tables):
            raise EnvironmentFault(
                f"{self.path} is another program's database", remedy="Name another folder: --engine embedded:DIR."
            )
        return version == FORMAT

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have made them while this one waited for the lock.
            if not self._is_ours(connection):
                for statement in _TABLES:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything that is read in the body is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _applied(connection: sqlite3.Connection, write: Write, revision: int) -> bool:
    """Does one write at ``revision``; False where it had nothing to do. Raises what the contract says."""
    row = connection.execute("SELECT revision, value IS NULL FROM entries WHERE key = ?", (write.key,)).fetchone()
    found = None if row is None or row[1] else row[0]
    if write.act is Act.CREATE and found is not None:
        raise KeyExistsError(write.key, _present(connection, write.key))
    if write.act is Act.DELETE and found is None:
        return False
    if write.revision is not None and write.revision != found:
        raise RevisionConflictError(write.key, write.revision)
    # The row of an earlier revision is found by its key, and replaced.
    row = (revision, write.key, write.value)
    connection.execute("REPLACE INTO entries (revision, key, value) VALUES (?, ?, ?)", row)
    return True


def _present(connection: sqlite3.Connection, key: str) -> Entry | None:
    query = "SELECT key, value, revision FROM entries WHERE key = ? AND value IS NOT NULL"
    row = connection.execute(query, (key,)).fetchone()
    return None if row is None else Entry(*row)


def _prune(connection: sqlite3.Connection) -> None:
    count = _number(connection, "SELECT count(*) FROM entries WHERE value IS NULL")
    if count <= TOMBSTONES_MAX:
        return
    query = "SELECT revision FROM entries WHERE value IS NULL ORDER BY revision LIMIT 1 OFFSET ?"
    last = _number(connection, query, (count - TOMBSTONES_MAX // 2 - 1,))
    connection.execute("DELETE FROM entries WHERE value IS NULL AND revision <= ?", (last,))
    connection.execute("REPLACE INTO meta (name, number) VALUES ('pruned', ?)", (last,))


def _found(connection: sqlite3.Connection, follower: Follower, *, bounded: bool) -> tuple[list[Entry], bool]:
    """The rows after the follower's cursor, and whether these are all. A leading + keeps SQLite off that index."""
    by_key = follower.cursor == 0
    where = _BELOW if by_key else _BELOW.replace("key", "+key")
    revision = "+revision" if by_key else "revision"
    query = f"SELECT key, value, revision FROM entries WHERE {revision} > :cursor AND {where} ORDER BY {revision}"
    found: list[Entry] = []
    size = 0
    for row in connection.execute(query, {"cursor": follower.cursor, **_range(follower.prefix)}):
        if bounded and (len(found) >= CHANGES_ROWS_MAX or size >= CHANGES_BYTES_MAX):
            return found, False
        found.append(Entry(*row))
        size += len(row[1] or b"")
    return found, True


def _vanished(connection: sqlite3.Connection, follower: Follower, pruned: int) -> list[Entry]:
    """Keys the follower knows of whose tombstones are gone: deleted at ``pruned`` or before."""
    query = f"SELECT key FROM entries WHERE {_BELOW}"
    known = {key for (key,) in connection.execute(query, _range(follower.prefix))}
    return [Entry(key, None, pruned) for key in sorted(follower.present - known)]


def _range(prefix: str) -> dict[str, str]:
    """The bounds of `_BELOW`. '/' follows '.', and 0x7F whatever a key may contain."""
    if not prefix:
        return {"low": "", "words": "", "high": "\x7f"}
    return {"low": prefix, "words": f"{prefix}.", "high": f"{prefix}/"}


def _number(connection: sqlite3.Connection, query: str, values: tuple[Any, ...] = ()) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0] or 0) if row is not None else 0


# --- what can go wrong ---------------------------------------------------------------------------------------


def _insist(work: Callable[[], T]) -> T:
    """Repeats ``work`` while another process holds the lock, for a while."""
    until = time.monotonic() + LOCK_WAIT_S_MAX
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(random.uniform(*LOCK_PAUSE_S))


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 for an error that has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


_GOES_ON: Final = "Nothing is lost that was answered; it goes on by itself when that is mended."
_FAULTS: Final[dict[int, tuple[bool, str, str]]] = {
    # code: whether it may pass, what it is, what to do
    sqlite3.SQLITE_BUSY: (
        True,
        f"another process has held its lock for {LOCK_WAIT_S_MAX:g} s",
        "Look for a Flashcast process that is stopped (state T in ps), and continue or kill it.",
    ),
    sqlite3.SQLITE_FULL: (True, "the disk is full", f"Free some space. {_GOES_ON}"),
    sqlite3.SQLITE_IOERR: (True, "the disk cannot be read or written", f"See the system's log. {_GOES_ON}"),
    sqlite3.SQLITE_READONLY: (
        True,
        "it may not be written",
        f"Give this user the right to write the folder and its files, or mount it for writing. {_GOES_ON}",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        True,
        "it cannot be opened",
        f"Give this user the right to write the folder and its files, and raise the limit of open files. {_GOES_ON}",
    ),
    sqlite3.SQLITE_PERM: (True, "it may not be opened", f"Give this user the right to it. {_GOES_ON}"),
    sqlite3.SQLITE_CORRUPT: (
        False,
        "it is damaged",
        "End every Flashcast process that uses it, move the engine's folder away, and put a backup in its place.",
    ),
    sqlite3.SQLITE_NOTADB: (
        False,
        "it is no database",
        "Name another folder with --engine embedded:DIR, or move this one away and put a backup in its place.",
    ),
}


def _fault(path: Path, error: sqlite3.Error) -> EnvironmentFault:
    passing, what, remedy = _FAULTS.get(_code(error), (True, "SQLite failed", _GOES_ON))
    told = f"cannot use the engine's file {path}: {what} ({getattr(error, 'sqlite_errorname', '') or error})"
    return EngineUnavailable(told, remedy=remedy) if passing else EnvironmentFault(told, remedy=remedy)
