"""An audience through DuckDB: CSV and JSON lines, SQL over any format, filters, preferences.

DuckDB works in record batches within a fixed memory limit and spills to a folder beside the snapshot. A scan keeps the
order of the file. A join or an aggregate has no order of its own, so the rows of ``--sql`` are sorted by every column
that is read: sealing twice must give the same digest.

DuckDB guesses what CSV and JSON leave open. Where a guess could change text (``007`` read as 7, a date in another
spelling), it is told: user ids, platforms, tokens and the campaign's own columns are text to the letter.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from flashcast.audience.columns import is_identity, plain
from flashcast.audience.files import Format, find_files
from flashcast.audience.source import BATCH_ROWS, AudienceSource, arrow_batches, arrow_schema, check_readable, reading
from flashcast.audience.sql_faults import MEMORY_LIMIT, bad_json_line, json_fault, translate
from flashcast.errors import AudienceError, FlashcastError

THREADS_MAX: Final = 4
"""Each thread of a scan holds its own buffers."""
_HEADER_BYTES_MAX: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SqlReader:
    """Rows of a DuckDB query; see `flashcast.audience.source.Reader`."""

    def __init__(
        self,
        source: AudienceSource,
        form: Format,
        paths: Sequence[Path],
        *,
        text: frozenset[str],
        prefer: str | None,
        spill: Path | None,
    ) -> None:
        self.total: int | None = None
        self._source = source
        self._prefer = prefer
        self._text = frozenset(plain(name) for name in text)
        self._what = "--sql" if source.sql else ("--where" if source.where else source.location)
        self._held: list[Any] = []
        self._connection: Any = duckdb.connect()
        try:
            with self._failures(source.location):
                self._configure(spill)
            self._add_table("audience", form, paths)
            for name, location in source.tables.items():
                self._add_named_table(name, location)
            with self._failures(self._what):
                self.columns: Sequence[str] = tuple(
                    row[0] for row in self._run(f"DESCRIBE {self._rows('*')}").fetchall()
                )
        except BaseException:
            self._connection.close()
            raise
        if prefer is not None and prefer not in self.columns:
            self._connection.close()
            raise AudienceError(
                f"--prefer {prefer}: there is no such column",
                remedy=f"The audience has: {', '.join(self.columns)}.",
            )

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Record batches of the chosen columns in a stable order."""
        with self._failures(self._what):
            # A relation streams; a cursor's result would be held whole.
            rows = self._connection.sql(self._rows(", ".join(map(_quoted, columns))) + self._order(columns))
            # Renamed in DuckDB 2.
            read = getattr(rows, "to_arrow_reader", None) or rows.fetch_arrow_reader
            yield from read(BATCH_ROWS)

    def close(self) -> None:
        """Closes the connection; its spilled files go with it."""
        self._connection.close()
        self._held.clear()

    def _configure(self, spill: Path | None) -> None:
        settings = {
            "memory_limit": _literal(MEMORY_LIMIT),
            "threads": str(min(THREADS_MAX, os.cpu_count() or 1)),
            "preserve_insertion_order": "true",
            "enable_progress_bar": "false",
            "autoinstall_known_extensions": "false",
            # A timestamp's text must not depend on where the machine stands.
            "TimeZone": _literal("UTC"),
        }
        if spill is not None:
            settings["temp_directory"] = _literal(str(spill))
        for name, value in settings.items():
            self._run(f"SET {name} = {value}")

    def _add_named_table(self, name: str, location: str) -> None:
        if not _NAME.fullmatch(name) or name.lower() == "audience":
            raise AudienceError(
                f"--table {name}={location}: {name!r} cannot be a table's name",
                remedy="Use letters, digits and _; audience is taken.",
            )
        form, paths = find_files(location, None, self._source.cache)
        if form in (Format.PARQUET, Format.ARROW):
            check_readable(form, paths)
        self._add_table(name, form, paths)

    def _add_table(self, name: str, form: Format, paths: Sequence[Path]) -> None:
        with self._failures(str(paths[0])):
            if form is Format.ARROW:
                self._add_arrow(name, paths)
            else:
                scan = {Format.PARQUET: self._parquet, Format.CSV: self._csv, Format.JSONL: self._json}[form](paths)
                self._run(f"CREATE TEMP VIEW {_quoted(name)} AS SELECT * FROM {scan}")

    def _add_arrow(self, name: str, paths: Sequence[Path]) -> None:
        # A stream can be read once and a query may scan its table twice: copied into DuckDB, which can spill it.
        faults: list[FlashcastError] = []
        schema = arrow_schema(paths[0])
        batches = pa.RecordBatchReader.from_batches(schema, _all_batches(paths, schema.names, faults))
        self._connection.register("flashcast_arrow", batches)
        try:
            self._run(f"CREATE TEMP TABLE {_quoted(name)} AS SELECT * FROM flashcast_arrow")
        except duckdb.Error:
            # What went wrong while reading is told better by whoever read.
            if faults:
                raise faults[0] from None
            raise
        self._connection.unregister("flashcast_arrow")

    def _parquet(self, paths: Sequence[Path]) -> str:
        return f"read_parquet({_list(paths)})"

    def _csv(self, paths: Sequence[Path]) -> str:
        delimiter, names = _header(paths[0])
        for path in paths[1:]:
            if _header(path) != (delimiter, names):
                raise AudienceError(
                    f"{path} has another header than {paths[0]}",
                    remedy="All files of an audience need the same columns.",
                )
        dialect = f"header=true, skip=0, delim={_literal(delimiter)}, quote='\"', escape='\"', strict_mode=true"
        fixed = f"{_list(paths)}, {dialect}"
        everything = self._source.sql is None and self._source.where is None and self._prefer is None
        guessed = {} if everything else self._guessed(f"read_csv({fixed})", names)
        types = {name: self._type(name, guessed) for name in names}
        return f"read_csv({fixed}, auto_detect=false, columns={_struct(types)})"

    def _json(self, paths: Sequence[Path]) -> str:
        fixed = f"{_list(paths)}, format='newline_delimited', records='true'"
        # The whole of the file is looked at: a column may first appear in its last line.
        try:
            rows = self._run(f"DESCRIBE SELECT * FROM read_json({fixed}, sample_size=-1)").fetchall()
        except duckdb.BinderException:
            # Lines that are JSON but no objects.
            bad = [path for path in paths if bad_json_line(path) is not None]
            raise json_fault(bad[0] if bad else paths[0]) from None
        guessed = {row[0]: row[1] for row in rows}
        return f"read_json({fixed}, columns={_struct({name: self._type(name, guessed) for name in guessed})})"

    def _guessed(self, scan: str, names: Sequence[str]) -> dict[str, str]:
        try:
            rows = self._run(f"DESCRIBE SELECT * FROM {scan}").fetchall()
        except duckdb.Error:
            return {}  # the scan itself will tell what is wrong, with the line
        guessed = {row[0]: row[1] for row in rows}
        return guessed if list(guessed) == list(names) else {}

    def _type(self, name: str, guessed: dict[str, str]) -> str:
        """The type of a CSV or JSON column: text for what must be kept to the letter, else the guess."""
        if is_identity(name) or plain(name) in self._text:
            return "VARCHAR"
        kind = guessed.get(name, "VARCHAR")
        return "VARCHAR" if '"' in kind else kind

    def _rows(self, columns: str) -> str:
        body = (self._source.sql or "SELECT * FROM audience").strip().rstrip(";").strip()
        # The line break ends a comment that the person's SQL may end with.
        query = f"SELECT {columns} FROM ({body}\n) AS audience"
        return f"{query} WHERE ({self._source.where}\n)" if self._source.where else query

    def _order(self, columns: Sequence[str]) -> str:
        keys: list[str] = []
        if self._prefer is not None:
            name = _quoted(self._prefer)
            # Numbers in a text column are compared as numbers; ISO dates sort as text.
            keys = [f"TRY_CAST({name} AS DOUBLE) DESC NULLS LAST", f"{name} DESC NULLS LAST"]
        if self._source.sql or self._prefer:
            keys += [_quoted(name) for name in columns]
        return f" ORDER BY {', '.join(keys)}" if keys else ""

    def _run(self, query: str) -> Any:
        return self._connection.execute(query)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except FlashcastError:
            raise
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # What fails while a result streams reaches us through Arrow, as an OSError without a number.
            raise translate(error, what) from None


def _all_batches(paths: Sequence[Path], columns: Sequence[str], faults: list[FlashcastError]) -> Iterator[Any]:
    """The batches of several Arrow files; what cannot be read is noted in ``faults`` on its way up."""
    for path in paths:
        try:
            with reading(path):
                yield from arrow_batches(path, columns)
        except FlashcastError as error:
            faults.append(error)
            raise


def _header(path: Path) -> tuple[str, tuple[str, ...]]:
    """A CSV file's delimiter and column names."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            line = file.readline(_HEADER_BYTES_MAX).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        raise AudienceError(f"{path} cannot be read: {error}", remedy="Write the file again.") from error
    except UnicodeDecodeError:
        raise AudienceError(f"{path} is not UTF-8", remedy="Convert it: iconv -t UTF-8.") from None
    if not line.strip():
        raise AudienceError(f"{path} has no header", remedy="The first line must name the columns.")
    delimiter = max(",;\t|", key=line.count)
    names = tuple(name.strip() for name in next(csv.reader([line], delimiter=delimiter)))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise AudienceError(
            f"{path}: the header {'names ' + ', '.join(twice) + ' twice' if twice else 'has a column without a name'}",
            remedy="Give every column a name of its own in the first line.",
        )
    return delimiter, names


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(paths: Sequence[Path]) -> str:
    # DuckDB would take these characters in a file's name for a glob.
    return "[" + ", ".join(_literal(re.sub(r"([*?\[])", r"[\1]", str(path))) for path in paths) + "]"


def _struct(types: dict[str, str]) -> str:
    return "{" + ", ".join(f"{_literal(name)}: {_literal(kind)}" for name, kind in types.items()) + "}"
