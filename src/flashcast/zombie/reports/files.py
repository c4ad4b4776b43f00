"""Rows of a CSV or JSON-lines file, gzipped or not, in the encodings that exports have, each with its line number."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from flashcast.errors import InputError
from flashcast.zombie.reports.bounds import COLUMNS_MAX, LINE_CHARS_MAX

_CSV: Final = (".csv", ".tsv", ".txt")
_JSON: Final = (".jsonl", ".ndjson", ".json")
_DELIMITERS: Final = (",", ";", "\t")


class Row(NamedTuple):
    """A row: its line's number, and its values by column, or what is wrong with it."""

    line: int
    values: Mapping[str, Any]
    fault: str = ""


class Table:
    """An open file. ``columns`` is None for JSON, whose rows may each have others."""

    def __init__(self, columns: list[str] | None, rows: Iterator[Row]) -> None:
        self.columns = columns
        self.rows = rows


@contextmanager
def opened(path: Path, form: str | None = None, encoding: str | None = None) -> Iterator[Table]:
    """The rows of a file; ``form`` is ``csv`` or ``json``, by default by the name. Raises InputError.

    The encoding is UTF-8, or what a byte-order mark says, or UTF-16 where every second byte is zero: Google Play's
    files are UTF-16.
    """
    kind = form or _form(path)
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if packed else raw as file, _decoded(file, encoding) as text:
                yield _csv(text, path) if kind == "csv" else Table(None, _json(text, path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path} is cut off, or damaged: its gzip does not end well") from None
    except UnicodeError as error:
        raise InputError(
            f"{path} is not {getattr(error, 'encoding', 'that encoding')}: {getattr(error, 'reason', error)}",
            remedy="Name its encoding with --encoding, such as utf-16 or cp1252.",
        ) from None


def value_at(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column; in JSON a dot leads into an object. None where there is none."""
    if column in values:
        return values[column]
    found: Any = values
    for part in column.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _form(path: Path) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _CSV or suffix in _JSON:
        return "csv" if suffix in _CSV else "json"
    raise InputError(f"{path}: by its name it is neither CSV nor JSON lines", remedy="Say --format csv or json.")


def _decoded(file: Any, encoding: str | None) -> TextIO:
    buffered = io.BufferedReader(file)
    if encoding is None:
        encoding = _encoding(buffered.peek(4)[:4])
    try:
        return io.TextIOWrapper(buffered, encoding=encoding, newline="")
    except LookupError:
        raise InputError(f"--encoding {encoding!r} is not known", remedy="Such as utf-8, utf-16, cp1252.") from None


def _encoding(begins: bytes) -> str:
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if begins[1:2] == b"\0" and begins[:1] != b"\0":
        return "utf-16-le"
    if begins[:1] == b"\0" and begins[1:2] != b"\0":
        return "utf-16-be"
    return "utf-8-sig"


def _lines(text: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(LINE_CHARS_MAX + 1):
        number += 1
        if len(line) > LINE_CHARS_MAX:
            raise InputError(f"{path}: line {number} has more than {LINE_CHARS_MAX:,} letters")
        yield line


def _csv(text: TextIO, path: Path) -> Table:
    lines = _lines(text, path)
    first = next(lines, "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(_again(first, lines), delimiter=delimiter)
    try:
        columns = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{path}: the first line is no CSV: {error}") from None
    columns = [name.strip() for name in columns]
    if not any(columns) or len(columns) > COLUMNS_MAX:
        raise InputError(f"{path}: the first line names {'no' if not any(columns) else 'too many'} columns")
    return Table(columns, _csv_rows(reader, columns))


def _csv_rows(reader: Any, columns: list[str]) -> Iterator[Row]:
    while True:
        # A row of several lines is named by its first.
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, {}, f"no CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(columns):
            yield Row(line, {}, f"has {len(cells)} cells; the first line has {len(columns)}")
            continue
        yield Row(line, dict(zip(columns, cells, strict=True)))


def _json(text: TextIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(text, path), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            yield Row(number, {}, "no JSON")
            continue
        yield Row(number, values) if isinstance(values, dict) else Row(number, {}, "no JSON object")


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest
