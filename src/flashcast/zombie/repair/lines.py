"""Log files as blocks of lines in Arrow: plain or gzip, as many as there are, never held whole.

The obvious answer, DuckDB's CSV reader with one column, stops at the first byte that is no UTF-8, and does not tell
the number of a line. Here a block of bytes is cut at line ends by Arrow, and each line keeps its file and its number,
which is all that may be told of a bad one.
"""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flashcast.errors import EnvironmentFault, InputError

BLOCK_BYTES: Final = 8 << 20
CHUNK_LINES: Final = 262_144
"""Lines that are looked at together: 60 MB of a log with 250 bytes a line."""
LINE_BYTES_MAX: Final = 1 << 20
"""A log server cuts a request at 8 to 64 KB."""
FILES_MAX: Final = 1_000_000
_GZIP: Final = b"\x1f\x8b"
_SCHEMA: Final = pa.schema([("file", pa.int32()), ("number", pa.int64()), ("raw", pa.binary())])


class Chunk(NamedTuple):
    """Lines to look at together. ``head`` is the line that names the fields of its files, where the format has one."""

    table: Any
    head: str | None


def find_logs(pattern: str) -> list[Path]:
    """The files that a path or a glob names, in order. A folder is all files below it, hidden ones left out.

    Raises InputError where there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        below = (
            one for one in path.rglob("*") if not any(part.startswith(".") for part in one.parts[len(path.parts) :])
        )
        found = sorted(one for one in below if one.is_file())
    else:
        found = sorted(Path(one) for one in glob.glob(str(path), recursive=True) if Path(one).is_file())  # noqa: PTH207
    if not found:
        raise InputError(f"no log at {pattern}", remedy="Give a file, a folder or a glob such as 'logs/**/*.gz'.")
    if len(found) > FILES_MAX:
        raise InputError(f"{pattern} names more than {FILES_MAX:,} files")
    return found


def chunks(paths: Sequence[Path], *, head: str | None = None) -> Iterator[Chunk]:
    """The lines of all files, in order.

    ``head`` is how a line begins that names the fields ("#Fields:"), or "" where each file's first line does. A chunk
    has lines of files with the same fields only. Raises InputError for a damaged file, EnvironmentFault for a disk.
    """
    waiting: list[Any] = []
    fields: str | None = None
    for number, path in enumerate(paths):
        for table, found in _blocks(path, number, head):
            if waiting and (found != fields or sum(one.num_rows for one in waiting) >= CHUNK_LINES):
                yield Chunk(pa.Table.from_batches(waiting, _SCHEMA), fields)
                waiting = []
            fields = found
            waiting.append(table)
    if waiting:
        yield Chunk(pa.Table.from_batches(waiting, _SCHEMA), fields)


def _blocks(path: Path, file: int, head: str | None) -> Iterator[tuple[Any, str | None]]:
    first, found = 1, None
    with _opened(path) as stream:
        for lines in _split(stream, path):
            if first == 1 and head is not None:
                found = _head(lines, head)
            count = len(lines)
            numbers = pa.array(np.arange(first, first + count, dtype=np.int64))
            files = pa.array(np.full(count, file, dtype=np.int32))
            yield pa.RecordBatch.from_arrays([files, numbers, lines], schema=_SCHEMA), found
            first += count


def _opened(path: Path) -> Any:
    try:
        file = path.open("rb")
        packed = file.peek(2)[:2] == _GZIP
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from None
    return gzip.GzipFile(fileobj=file) if packed else file


def _split(stream: Any, path: Path) -> Iterator[Any]:
    """Arrays of whole lines without their ends. The last line may have none."""
    rest = b""
    while True:
        try:
            block = stream.read(BLOCK_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise InputError(
                f"{path} is cut short or damaged: it does not unpack", remedy="Fetch it again, or leave it out."
            ) from None
        except (OSError, io.UnsupportedOperation) as error:
            raise EnvironmentFault(f"cannot read {path}: {error}") from None
        if not block:
            if rest:
                yield pa.array([rest], pa.binary())
            return
        cut = block.rfind(b"\n")
        if cut < 0:
            rest += block
            if len(rest) > LINE_BYTES_MAX:
                raise InputError(f"{path} has a line of more than {LINE_BYTES_MAX:,} bytes: this is no log")
            continue
        whole, rest = rest + block[:cut], block[cut + 1 :]
        yield pc.split_pattern(pa.array([whole], pa.large_binary()), pattern=b"\n").flatten().cast(pa.binary())


def _head(lines: Any, head: str) -> str | None:
    """The line that names the fields, among the first few of a file."""
    for raw in lines.slice(0, 10).to_pylist():
        text = str(raw, "utf-8", "replace").rstrip("\r")
        if text.startswith(head):
            return text.removeprefix(head)
    return None
