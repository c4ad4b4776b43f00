"""Open times of past launches, read from CSV or Parquet."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from flashcast.errors import InputError
from flashcast.zombie.herd.curves import Floats

DELAY_COLUMN: Final = "delay_s"
OPENED_COLUMN: Final = "opened_at"
SENT_COLUMN: Final = "sent_at"
REMEDY: Final = (
    f"A log of opens has a column {DELAY_COLUMN} (seconds), or {OPENED_COLUMN} with {SENT_COLUMN} (or --sent-at): "
    "times in ISO 8601 or Unix seconds."
)
ROWS_MAX: Final = 50_000_000
"""One launch to fifty million that all open: 400 MB of delays."""


def read_delays(path: Path, sent_at: str | None = None) -> Floats:
    """Seconds between push and open, one per open, in the order of the file. Rows without an open are left out.

    ``sent_at`` (ISO 8601 or Unix seconds) stands in for a missing column of that name. Times without a zone are UTC.
    Raises InputError where the file cannot be read or lacks the columns.
    """
    table = _table(path)
    names = set(table.column_names)
    if DELAY_COLUMN in names:
        delays = _numbers(table[DELAY_COLUMN], path, DELAY_COLUMN)
    elif OPENED_COLUMN in names:
        opened = _times(table[OPENED_COLUMN], path, OPENED_COLUMN)
        if SENT_COLUMN in names:
            sent = _times(table[SENT_COLUMN], path, SENT_COLUMN)
        elif sent_at is not None:
            sent = np.full(opened.size, parse_time(sent_at))
        else:
            raise InputError(f"{path} has {OPENED_COLUMN} and no {SENT_COLUMN}", remedy=REMEDY)
        delays = opened - sent
    else:
        raise InputError(f"{path} has none of the columns {DELAY_COLUMN}, {OPENED_COLUMN}", remedy=REMEDY)
    return delays[np.isfinite(delays)]


def parse_time(text: str) -> float:
    """Unix seconds from ISO 8601 or a number. Raises InputError."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is neither a time in ISO 8601 nor a number of Unix seconds") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    wanted = [DELAY_COLUMN, OPENED_COLUMN, SENT_COLUMN]
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            file = parquet.ParquetFile(path)
            if file.metadata.num_rows > ROWS_MAX:
                raise InputError(f"{path} has more than {ROWS_MAX:,} rows; give a sample of them")
            return file.read(columns=[name for name in wanted if name in file.schema_arrow.names])
        table = csv.read_csv(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", remedy=REMEDY) from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as CSV or Parquet: {error}", remedy=REMEDY) from None
    if table.num_rows > ROWS_MAX:
        raise InputError(f"{path} has more than {ROWS_MAX:,} rows; give a sample of them")
    return table


def _numbers(column: Any, path: Path, name: str) -> Floats:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"{path}: the column {name} holds {column.type}, not numbers", remedy=REMEDY)
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _times(column: Any, path: Path, name: str) -> Floats:
    """Unix seconds, NaN where there is none."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64()).cast(pa.float64())
        return np.asarray(micros.to_numpy(zero_copy_only=False), dtype=np.float64) / 1e6
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return _numbers(column, path, name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = column.to_pylist()
        return np.array([parse_time(text) if text and text.strip() else np.nan for text in texts], dtype=np.float64)
    raise InputError(f"{path}: the column {name} holds {column.type}, not times", remedy=REMEDY)
