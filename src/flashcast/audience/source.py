"""Readers of an audience: columns first, then batches of rows.

Parquet and Arrow without SQL are read by pyarrow alone, in the order of the files: that is the fast path and the small
one. CSV, JSON lines, ``--sql``, ``--where`` and ``--prefer`` go through DuckDB; see sql.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from flashcast.audience.files import Format, find_files
from flashcast.errors import AudienceError, EnvironmentFault

BATCH_ROWS: Final = 65_536
"""Rows in a batch: a few megabytes of tokens, which stay in the second-level cache's reach and cost little memory."""


@dataclass(frozen=True)
class AudienceSource:
    """Where the recipients come from.

    ``location`` is a path, glob, folder or URL, the table ``audience`` in ``sql``; ``tables`` are further tables by
    name. ``where`` filters the rows of the file, or of the SQL's result. ``format`` overrides the extension of
    ``location``. ``cache`` is where objects of a URL are kept.
    """

    location: str
    sql: str | None = None
    tables: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    format: str | None = None
    cache: Path | None = None


class Reader(Protocol):
    """An audience that can be read. ``total`` is the number of rows where it is known beforehand."""

    columns: Sequence[str]
    total: int | None

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Record batches of the chosen columns, in a stable order. Raises AudienceError, EnvironmentFault."""
        ...

    def close(self) -> None:
        """Lets go of files and connections."""
        ...


def open_audience(
    source: AudienceSource, *, text: Iterable[str] = (), prefer: str | None = None, spill: Path | None = None
) -> Reader:
    """Opens an audience.

    ``text`` are the columns whose text must be kept to the letter; ``prefer`` a column by which to order, greatest
    first; ``spill`` the folder for what does not fit in memory. Raises AudienceError, EnvironmentFault.
    """
    if source.tables and source.sql is None:
        raise AudienceError(
            "--table names a table for SQL, but there is no --sql",
            remedy="Join it: --sql 'SELECT ... FROM audience JOIN ...'.",
        )
    form, paths = find_files(source.location, source.format, source.cache)
    if form in (Format.PARQUET, Format.ARROW):
        check_readable(form, paths)
    if form in (Format.CSV, Format.JSONL) or source.sql or source.where or prefer:
        from flashcast.audience.sql import SqlReader

        return SqlReader(source, form, paths, text=frozenset(text), prefer=prefer, spill=spill)
    return ParquetReader(paths) if form is Format.PARQUET else ArrowReader(paths)


def check_readable(form: Format, paths: Sequence[Path]) -> None:
    """Opens each Parquet or Arrow file. Raises AudienceError for the first that is cut short or something else."""
    for path in paths:
        with reading(path):
            if form is Format.PARQUET:
                pq.read_metadata(path)
            else:
                next(arrow_batches(path, None), None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translates what pyarrow raises while it reads ``path``."""
    try:
        yield
    except FileNotFoundError:
        raise AudienceError(f"no audience at {path}") from None
    except PermissionError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error
    except (pa.ArrowException, OSError) as error:
        raise AudienceError(
            f"{path} is cut short, damaged, or not of its format: {first_line(error)}",
            remedy="Write the file again; if its extension is wrong, say --format.",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class ParquetReader:
    """Parquet files one after the other, by pyarrow."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.total: int | None = 0
        for path in paths:
            with reading(path):
                metadata = pq.read_metadata(path)
            self.total += metadata.num_rows
        with reading(paths[0]):
            self.columns: Sequence[str] = tuple(pq.read_schema(paths[0]).names)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Reader`."""
        for path in self._paths:
            with reading(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                names = file.schema_arrow.names
                _check_columns(path, columns, names)
                yield from file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))

    def close(self) -> None:
        """Nothing is held between batches."""


class ArrowReader:
    """Arrow IPC files and streams one after the other, by pyarrow."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.total: int | None = None
        with reading(paths[0]):
            self.columns: Sequence[str] = tuple(arrow_schema(paths[0]).names)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """See `Reader`."""
        for path in self._paths:
            with reading(path):
                _check_columns(path, columns, arrow_schema(path).names)
                for batch in arrow_batches(path, columns):
                    for first in range(0, batch.num_rows, BATCH_ROWS):
                        yield batch.slice(first, BATCH_ROWS)

    def close(self) -> None:
        """Nothing is held between batches."""


def _check_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise AudienceError(
            f"{path} has no column {', '.join(map(repr, missing))}, which the first file has",
            remedy="All files of an audience need the same columns.",
        )


def arrow_schema(path: Path) -> Any:
    """The schema of an Arrow IPC file or stream."""
    with pa.memory_map(str(path)) as source, _arrow_reader(source) as reader:
        return reader.schema


def arrow_batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    """The record batches of an Arrow IPC file or stream, mapped rather than read."""
    with pa.memory_map(str(path)) as source, _arrow_reader(source) as reader:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            whole = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            whole = iter(reader)
        for batch in whole:
            yield batch if columns is None else batch.select(list(columns))


def _arrow_reader(source: Any) -> Any:
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)
