"""What was done about each grant, in one SQLite file: the reason why nobody is granted twice.

    (no row)   nothing was done
    sent       a call was about to be made, and what became of it is not known: in doubt
    done       the receiver said yes, or the line is in the file
    refused    the receiver said no

An intent (`sent`) is on the disk before its call is made, the outcome after. There are keys in it and no users. The
file is locked by SQLite as long as its process lives (`locking_mode=exclusive`); a second process is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from flashcast.errors import BusyError, EnvironmentFault, InputError

_SCHEMA: Final = """
create table if not exists meta (name text primary key, value text not null) without rowid;
create table if not exists grants (
    key text primary key, state text not null, call text not null, status integer not null, attempts integer not null
) without rowid;
"""
_LAYOUT: Final = 1
_ASKED: Final = 500
"""Keys in one question; SQLite takes 32,766."""


class State(StrEnum):
    """What was done about a grant."""

    SENT = "sent"
    DONE = "done"
    REFUSED = "refused"


class Entry(NamedTuple):
    """A grant in the ledger. ``call`` names the call it went with, ``status`` its last answer, 0 for none."""

    key: str
    state: State
    call: str
    status: int
    attempts: int


class Ledger:
    """See the module's docstring. Raises BusyError, EnvironmentFault, and InputError for another file or receiver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault(f"cannot open the ledger {path}: {getattr(error, 'strerror', error)}") from None
        try:
            with self._told("open"):
                self._open()
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"<Ledger {self.path}>"

    def _open(self) -> None:
        # Before the first access: then even the WAL's index is in memory, and the lock is held to the end.
        self._db.execute("pragma locking_mode=exclusive")
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.execute("pragma fullfsync=on")
        self._db.execute("begin exclusive")
        (layout,) = self._db.execute("pragma user_version").fetchone()
        (tables,) = self._db.execute("select count(*) from sqlite_master").fetchone()
        if layout != _LAYOUT and (layout or tables):
            self._db.execute("rollback")
            raise InputError(f"{self.path} is no ledger of repair, or one of another version")
        for statement in _SCHEMA.strip().split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"pragma user_version={_LAYOUT}")
        self._db.execute("commit")

    def close(self) -> None:
        """Closes the file and lets others have it."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def belongs_to(self, app: str, receiver: str) -> None:
        """Says for whom the ledger is; a ledger of another app or receiver would let users be granted twice."""
        self.check_belongs_to(app, receiver)
        self.put((), [("app", app), ("receiver", receiver)])

    def check_belongs_to(self, app: str, receiver: str) -> None:
        """Raises InputError where the ledger is for another app or receiver."""
        for name, value in (("app", app), ("receiver", receiver)):
            there = self.meta(name)
            if there not in (None, value):
                raise InputError(
                    f"the ledger {self.path} is for {name} {there}, not {value}",
                    remedy="Name its own receiver; a new ledger grants everything anew.",
                )

    def meta(self, name: str) -> str | None:
        """A fact about the ledger."""
        with self._told("read"):
            row = self._db.execute("select value from meta where name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def entries(self, keys: Sequence[str]) -> dict[str, Entry]:
        """What was done about these grants; those about which nothing was are not in it."""
        found = {}
        with self._told("read"):
            for first in range(0, len(keys), _ASKED):
                some = keys[first : first + _ASKED]
                marks = ",".join("?" * len(some))
                for row in self._db.execute(f"select * from grants where key in ({marks})", some):
                    found[row[0]] = Entry(row[0], State(row[1]), *row[2:])
        return found

    def put(self, entries: Iterable[Entry], meta: Iterable[tuple[str, str]] = (), *, gone: Iterable[str] = ()) -> None:
        """Writes entries and facts, then forgets ``gone``: all or nothing, on the disk when it returns."""
        with self._told("write"):
            self._db.execute("begin immediate")
            try:
                self._db.executemany("insert or replace into grants values (?, ?, ?, ?, ?)", entries)
                self._db.executemany("insert or replace into meta values (?, ?)", meta)
                self._db.executemany("delete from grants where key=?", [(key,) for key in gone])
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def counts(self) -> dict[str, int]:
        """Grants by state."""
        with self._told("read"):
            found = dict(self._db.execute("select state, count(*) from grants group by state").fetchall())
        return {state.value: int(found.get(state.value, 0)) for state in State}

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise BusyError(
                    f"another process uses the ledger {self.path}", remedy="Let it end; then run this again."
                ) from None
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise InputError(
                    f"{self.path} is no ledger of repair, or damaged",
                    remedy="Take it from a backup: without it nobody knows who was granted what.",
                ) from None
            raise EnvironmentFault(
                f"cannot {doing} the ledger {self.path}: {error}", remedy="Look at its permissions and the disk's room."
            ) from None
