"""One SQLite file: complaints, and when each source was heard. Any number of processes; blocking, for a thread.

    complaint   key UNIQUE, at, received, source, feature, platform, version, locale, user, text
    heard       source, slot       the source was heard in these 300 s (slot * 300 from 1970)
    source      name, until        the latest moment up to which it was heard

A complaint that is there is not taken again: that makes endpoint and import idempotent. What is acknowledged is on the
disk (WAL, synchronous FULL). What is deleted is overwritten (secure_delete).

**Nothing heard is not nothing wrong.** No complaints in an hour means all is well where the source was heard, and
nothing where it was not; so that is kept as well, and comparisons leave out what was not heard.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from flashcast.errors import BusyError, EnvironmentFault, FlashcastError, InputError
from flashcast.zombie.reports.bounds import ADD_ROWS, LOCK_WAIT_S_MAX, PURGE_ROWS_MAX, SLOT_S
from flashcast.zombie.reports.complaint import DAY_S, Record

FORMAT: Final = 1
APPLICATION_ID: Final = 0x466C5270
"""'FlRp': tells our file from another program's."""
DIMENSIONS: Final = ("feature", "source", "platform", "version", "locale")
"""What counts can be told by."""
_TABLES: Final = (
    """CREATE TABLE complaint (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at INTEGER NOT NULL,
    received INTEGER NOT NULL, source TEXT NOT NULL, feature TEXT NOT NULL, platform TEXT, version TEXT, locale TEXT,
    user BLOB, text TEXT)""",
    "CREATE INDEX complaint_at ON complaint (at, source, feature)",
    "CREATE TABLE heard (source TEXT NOT NULL, slot INTEGER NOT NULL, PRIMARY KEY (source, slot)) WITHOUT ROWID",
    "CREATE TABLE source (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_COLUMNS: Final = ", ".join(Record._fields)
_INSERT: Final = f"INSERT OR IGNORE INTO {{}} ({_COLUMNS}) VALUES ({', '.join('?' * len(Record._fields))})"


class Cell(NamedTuple):
    """Complaints of one kind in one step of time."""

    step: int
    value: str
    complaints: int


class Store:
    """An open file. For one thread at a time."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = self._opened(create=create)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; idempotent."""
        with suppress(sqlite3.Error):
            self._connection.close()

    # --- Writing -------------------------------------------------------------------------------------

    def add(self, records: Sequence[Record], heard: Sequence[tuple[str, float]] = ()) -> list[Record]:
        """As `add_each`, of one batch."""
        return self.add_each([records], heard)[0]

    def add_each(
        self, batches: Sequence[Sequence[Record]], heard: Sequence[tuple[str, float]] = ()
    ) -> list[list[Record]]:
        """Adds what is not there, in one transaction, and marks sources as heard at a time. What was new of each."""
        insert = _INSERT.format("complaint")
        with self._transaction() as connection:
            added = [[one for one in batch if connection.execute(insert, one).rowcount] for batch in batches]
            for name, at in heard:
                slot = int(at) // SLOT_S
                self._hear(connection, name, int(at), range(slot, slot + 1))
        return added

    def heard(self, source: str, since: float, until: float) -> None:
        """Notes that ``source`` was heard from ``since`` until ``until``: slots that lie in it as a whole."""
        with self._transaction() as connection:
            self._hear(connection, source, int(until), range(-int(-since // SLOT_S), int(until) // SLOT_S))

    @contextmanager
    def staged(self) -> Iterator[Staged]:
        """A place on the temporary disk to gather records before any of them is added."""
        with self._faults():
            self._connection.execute("DROP TABLE IF EXISTS temp.staged")
            self._connection.execute(f"CREATE TEMP TABLE staged ({_COLUMNS})")
        try:
            yield Staged(self)
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("DROP TABLE IF EXISTS temp.staged")

    def purge(self, now: float, keep_days: int) -> int:
        """Deletes what is older than ``keep_days``, by small transactions. How many complaints."""
        before, deleted = int(now) - keep_days * DAY_S, 0
        chosen = "SELECT number FROM complaint WHERE at < ? ORDER BY at LIMIT ?"
        while True:
            with self._transaction() as connection:
                done = connection.execute(
                    f"DELETE FROM complaint WHERE number IN ({chosen})", (before, PURGE_ROWS_MAX)
                ).rowcount
                if done < PURGE_ROWS_MAX:
                    connection.execute("DELETE FROM heard WHERE slot < ?", (before // SLOT_S,))
            deleted += done
            if done < PURGE_ROWS_MAX:
                return deleted

    # --- Reading -------------------------------------------------------------------------------------

    def counts(self, since: float, until: float, sources: Sequence[str]) -> dict[str, int]:
        """Complaints from ``since`` until before ``until`` of these sources, by feature. A known user counts once."""
        if not sources:
            return {}
        marks = ", ".join("?" * len(sources))
        return dict(
            self._rows(
                f"SELECT feature, count(DISTINCT ifnull(user, key)) FROM complaint "
                f"WHERE at >= ? AND at < ? AND source IN ({marks}) GROUP BY feature",
                (int(since), int(until), *sources),
            )
        )

    def cells(self, since: int, until: int, every_s: int, by: str, only: dict[str, str] | None = None) -> list[Cell]:
        """Complaints by step of time, from ``since``, and by one of `DIMENSIONS`."""
        assert by in DIMENSIONS and all(name in DIMENSIONS for name in only or ())
        where = "".join(f" AND {name} = ?" for name in only or ())
        found = self._rows(
            f"SELECT (at - ?) / ?, ifnull({by}, ''), count(*) FROM complaint "
            f"WHERE at >= ? AND at < ?{where} GROUP BY 1, 2 ORDER BY 1, 2",
            (since, every_s, since, until, *(only or {}).values()),
        )
        return [Cell(*row) for row in found]

    def totals(self) -> dict[tuple[str, str], int]:
        """All that is kept, by source and feature."""
        rows = self._rows("SELECT source, feature, count(*) FROM complaint GROUP BY source, feature", ())
        return {(source, feature): count for source, feature, count in rows}

    def slots(self, source: str, since: float, until: float) -> set[int]:
        """The slots in which ``source`` was heard, of those that begin before ``until`` and end after ``since``."""
        first, last = int(since) // SLOT_S, -int(-until // SLOT_S)
        rows = self._rows("SELECT slot FROM heard WHERE source = ? AND slot >= ? AND slot < ?", (source, first, last))
        return {slot for (slot,) in rows}

    def heard_until(self) -> dict[str, int]:
        """The latest moment up to which each source was heard."""
        return dict(self._rows("SELECT name, until FROM source", ()))

    def texts(self, since: float, until: float, feature: str | None, count: int) -> list[tuple[int, str, str, str]]:
        """The latest texts that are kept: time, source, feature, text."""
        where, values = ("AND feature = ?", (feature,)) if feature else ("", ())
        return self._rows(
            f"SELECT at, source, feature, text FROM complaint WHERE at >= ? AND at < ? AND text IS NOT NULL {where} "
            "ORDER BY at DESC LIMIT ?",
            (int(since), int(until), *values, count),
        )

    # --- Beneath -------------------------------------------------------------------------------------

    @staticmethod
    def _hear(connection: sqlite3.Connection, name: str, until: int, slots: range) -> None:
        connection.execute(
            "INSERT INTO source VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = max(until, excluded.until)",
            (name, until),
        )
        connection.executemany("INSERT OR IGNORE INTO heard VALUES (?, ?)", ((name, slot) for slot in slots))

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._lock, self._faults():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._faults():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _fault(self.path, error) from error

    def _opened(self, *, create: bool) -> sqlite3.Connection:
        if create:
            # Before SQLite makes it, so that nobody else can ever read it; its WAL takes the same mode.
            try:
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise EnvironmentFault(f"cannot make {self.path}: {error.strerror}") from None
        elif not self.path.exists():
            raise EnvironmentFault(
                f"there is no store {self.path}", remedy="Nothing was ever taken; start the endpoint, or import a file."
            )
        with self._faults():
            connection = sqlite3.connect(
                self.path, timeout=LOCK_WAIT_S_MAX, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone leaves the data in the drive's cache
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -32768")  # 32 MiB: keys are random, and an import touches many pages
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if (owner, version) == (APPLICATION_ID, FORMAT):
            return
        if owner == APPLICATION_ID and version > FORMAT:
            raise EnvironmentFault(
                f"{self.path} was written by a newer Flashcast (format {version}; this one knows {FORMAT})",
                remedy="Use the newer version.",
            )
        if owner or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise InputError(f"{self.path} is another program's database", remedy="Name another file in `store`.")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have made the tables while we waited for the lock.
        if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            for statement in _TABLES:
                connection.execute(statement)
        connection.execute("COMMIT")


class Staged:
    """Records that wait on the temporary disk; see `Store.staged`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def gather(self, records: Sequence[Record]) -> None:
        """Keeps records aside. Nobody else sees them, and the file is not locked."""
        with self._store._lock, self._store._faults():
            connection = self._store._connection
            connection.execute("BEGIN")
            connection.executemany(_INSERT.replace("OR IGNORE ", "").format("temp.staged"), records)
            connection.execute("COMMIT")

    def add(self) -> int:
        """Adds them to the store in transactions of `ADD_ROWS`. How many were new."""
        added, first = 0, 1
        (last,) = self._store._rows("SELECT ifnull(max(rowid), 0) FROM temp.staged", ())[0]
        while first <= last:
            with self._store._transaction() as connection:
                added += connection.execute(
                    f"INSERT OR IGNORE INTO main.complaint ({_COLUMNS}) SELECT {_COLUMNS} FROM temp.staged "
                    "WHERE rowid >= ? AND rowid < ?",
                    (first, first + ADD_ROWS),
                ).rowcount
            first += ADD_ROWS
        return added


def _fault(path: Path, error: sqlite3.Error) -> FlashcastError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(f"{path} is locked by another process for over {LOCK_WAIT_S_MAX:g} s")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return EnvironmentFault(f"{path} is no database, or damaged: {error}", remedy="Put it aside and import anew.")
    return EnvironmentFault(f"{path}: {error}", remedy="Free the disk, or mend the rights to it, and try again.")
