"""DuckDB as repair uses it: on a temporary file, within a bound of memory, in UTC, silent about what it has read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb

from flashcast.errors import EnvironmentFault, InputError

MEMORY: Final = "1GB"
"""What DuckDB may use before it spills: on top comes a block of lines (60 MB) in two forms."""
THREADS_MAX: Final = 8


@contextmanager
def database(beside: Path, doing: str) -> Iterator[Any]:
    """A connection whose tables and spilled rows are in a folder next to ``beside``, gone afterwards.

    DuckDB's errors quote what they stumbled over, which may be somebody's id: only their kind is told.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".flashcast-repair-", dir=beside.absolute().parent) as folder,
            duckdb.connect(f"{folder}/repair.duckdb") as db,
        ):
            for name, value in {
                "memory_limit": f"'{MEMORY}'",
                "threads": str(min(THREADS_MAX, os.cpu_count() or 1)),
                "temp_directory": "'" + f"{folder}/spill".replace("'", "''") + "'",
                "preserve_insertion_order": "false",
                "enable_progress_bar": "false",
                "autoinstall_known_extensions": "false",
                "TimeZone": "'UTC'",
            }.items():
                db.execute(f"set {name} = {value}")
            yield db
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise EnvironmentFault(
            f"{doing}: {type(error).__name__}", remedy=f"Look at the room on the disk of {beside.absolute().parent}."
        ) from None
    except duckdb.Error as error:
        raise EnvironmentFault(f"{doing}: {type(error).__name__}: this should not happen; please report it") from None
    except OSError as error:
        raise EnvironmentFault(f"{doing}: cannot write beside {beside}: {error.strerror}") from None


def scan_of(path: Path, what: str) -> str:
    """SQL that reads a table: Parquet, CSV (all text) or JSON lines, by the file's ending. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{what}: there is no file {path}")
    named = "'" + str(path).replace("'", "''") + "'"
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending == "parquet":
        return f"read_parquet({named})"
    if ending == "csv":
        return f"read_csv({named}, header=true, all_varchar=true, delim=',', quote='\"', escape='\"')"
    if ending in ("jsonl", "ndjson", "json"):
        return f"read_json({named}, format='newline_delimited')"
    raise InputError(f"{what}: {path} is neither .parquet, .csv nor .jsonl")


def columns_of(db: Any, scan: str, path: Path) -> list[str]:
    """The columns of what `scan_of` reads. Raises InputError where it cannot be read."""
    try:
        return [row[0] for row in db.execute(f"describe select * from {scan}").fetchall()]
    except duckdb.Error as error:
        raise InputError(f"{path} is damaged or not what its name says ({type(error).__name__})") from None


def load_users(db: Any, path: Path, id_column: str, user_column: str | None, zone_column: str | None) -> None:
    """The table of users as ``users`` (id, user, zone), texts. Raises InputError; ids are not told."""
    scan = scan_of(path, "users.file")
    there = columns_of(db, scan, path)
    for key, column in (("id", id_column), ("user", user_column), ("zone", zone_column)):
        if column is not None and column not in there:
            raise InputError(f"users.{key}: {path} has no column {column!r}", remedy=f"It has: {', '.join(there)}.")

    def text(column: str | None) -> str:
        return "NULL" if column is None else f'''CAST("{column.replace('"', '""')}" AS VARCHAR)'''

    try:
        db.execute(
            f"create table users as select distinct {text(id_column)} as id, {text(user_column or id_column)} as user,"
            f" CAST({text(zone_column)} AS VARCHAR) as zone from {scan} where {text(id_column)} is not null"
        )
    except duckdb.Error as error:
        raise InputError(f"{path} is damaged or not what its name says ({type(error).__name__})") from None
    (twice,) = db.execute("select count(*) from (select id from users group by id having count(*) > 1)").fetchone()
    if twice:
        raise InputError(
            f"users.file: {twice:,} ids stand in {path} more than once and differ", remedy="One row for each id."
        )
