"""What a client keeps on disk: the last good document and the write queue, in one SQLite file.

Every change is on the disk when the call that makes it returns (WAL with synchronous=FULL): a write that was said to
be queued survives the process and the power. One process per file: a second one would send the same writes. A file
that is damaged is put aside, never deleted, and the client begins anew: an app must start.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flashcast.errors import BusyError, EnvironmentFault
from flashcast.zombie.client.writes import Write

_SCHEMA: Final = """
create table if not exists document (id integer primary key check (id = 0), file blob not null, etag text not null);
create table if not exists writes (
    seq integer primary key autoincrement, id text not null unique, feature text not null, method text not null,
    url text not null, headers text not null, body blob not null, lane text not null, user text not null,
    queued_at real not null, incident text not null, due_at real, attempts integer not null, conflicts integer not null,
    refused integer not null);
"""
_COLUMNS: Final = (
    "id", "feature", "method", "url", "headers", "body", "lane", "user", "queued_at", "incident", "due_at",
    "attempts", "conflicts", "refused",
)  # fmt: skip
_LAYOUT: Final = 1
"""Stands in SQLite's user_version. A file of another layout is put aside."""


class Store:
    """The client's file, or memory where ``path`` is None. Calls block on the disk; not thread-safe.

    Raises BusyError where another process has the file, EnvironmentFault where disk or permissions fail.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.put_aside: Path | None = None
        """Where a damaged file was moved to, None where none was."""
        self._lock = _lock(path) if path is not None else None
        try:
            with self._told("open"):
                self._db = self._opened()
        except BaseException:
            self._unlock()
            raise

    def __repr__(self) -> str:
        return f"<Store {self._path or 'in memory'}>"

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error) or self._path is None:
                raise
            self.put_aside = _aside(self._path)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path or ":memory:", isolation_level=None, check_same_thread=False)
        try:
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=full")
            # Where fsync leaves data in the disk's cache (macOS); nothing elsewhere.
            db.execute("pragma fullfsync=on")
            (layout,) = db.execute("pragma user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise sqlite3.DatabaseError(f"layout {layout}")
            (verdict,) = db.execute("pragma quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError("damaged")
            db.executescript(_SCHEMA)
            db.execute(f"pragma user_version={_LAYOUT}")
            # What cannot be read now would fail later, in the middle of a call.
            for row in db.execute(f"select {', '.join(_COLUMNS)} from writes"):
                _write(row)
        except (ValueError, TypeError):
            db.close()
            raise sqlite3.DatabaseError("damaged") from None
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Closes the file, and lets others have it."""
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def document(self) -> tuple[bytes, str]:
        """The file and the ETag of the last good document; both empty where there is none."""
        with self._told("read"):
            row = self._db.execute("select file, etag from document").fetchone()
        return (bytes(row[0]), str(row[1])) if row else (b"", "")

    def keep_document(self, file: bytes, etag: str) -> None:
        """Replaces the last good document."""
        with self._told("write"):
            self._db.execute("insert or replace into document values (0, ?, ?)", (file, etag))

    def writes(self) -> list[Write]:
        """The queue, the oldest first."""
        with self._told("read"):
            rows = self._db.execute(f"select {', '.join(_COLUMNS)} from writes order by seq").fetchall()
        return [_write(row) for row in rows]

    def change(self, *, put: Iterable[Write] = (), gone: Iterable[str] = ()) -> None:
        """Writes and deletes, all of it or nothing. A write that is there already keeps its place."""
        names = ", ".join(_COLUMNS)
        marks = ", ".join("?" * len(_COLUMNS))
        news = ", ".join(f"{name}=excluded.{name}" for name in _COLUMNS[1:])
        with self._told("write"), self._transaction():
            self._db.executemany("delete from writes where id=?", [(one,) for one in gone])
            self._db.executemany(
                f"insert into writes ({names}) values ({marks}) on conflict (id) do update set {news}",
                [_row(write) for write in put],
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise EnvironmentFault(
                f"cannot {doing} {self._path or 'the queue'}: {error}",
                remedy="Check the directory's permissions and the room on its disk.",
                retryable=True,
            ) from error


def _row(write: Write) -> tuple[object, ...]:
    return (
        write.id, write.feature, write.method, write.url, json.dumps(dict(write.headers)), write.body, write.lane,
        write.user, write.queued_at, write.incident, write.due_at, write.attempts, write.conflicts, write.refused,
    )  # fmt: skip


def _write(row: tuple[object, ...]) -> Write:
    said = dict(zip(_COLUMNS, row, strict=True))
    return Write(**{**said, "headers": json.loads(str(said["headers"])), "body": bytes(said["body"])})  # type: ignore[call-overload]


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Mode 0600, as SQLite gives its files the mode of the first: writes are their user's.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot open {path}: {error.strerror}", remedy="Name a file in a directory that can be written."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(
            f"another process uses {path}", remedy="Give each process a file of its own: each sends its own writes."
        ) from None
    return descriptor


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return type(error) is sqlite3.DatabaseError or getattr(error, "sqlite_errorcode", 0) in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def _aside(path: Path) -> Path:
    number = next(n for n in range(1, 1_000_000) if not Path(f"{path}.damaged-{n}").exists())
    for ending in ("", "-wal", "-shm"):
        there = Path(f"{path}{ending}")
        if there.exists():
            there.rename(f"{path}.damaged-{number}{ending}")
    return Path(f"{path}.damaged-{number}")
