"""A synthetic device table, for demos, tests and benchmarks: it looks like a real one and belongs to nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashcast.audience import kernels

ROWS_PER_GROUP: Final = 131_072
LOCALES: Final = (
    "en-US",
    "en-GB",
    "es-ES",
    "es-MX",
    "pt-BR",
    "fr-FR",
    "de-DE",
    "it-IT",
    "ja-JP",
    "ko-KR",
    "zh-Hant-TW",
    "hi-IN",
)
FIRST_NAMES: Final = (
    "Ada", "Björn", "Chloé", "D'Angelo", "Eszter", "Fatima", "Giulia", "Håkon", "Иван", "José", "Kai", "Łukasz",
    "Mary \"Mae\"", "Nguyễn", "O'Brien", "Priya", "Quentin", "Renée", "Søren", "さくら", "Tomáš", "Uğur", "Zoë",
    "王伟", "Back\\slash", "🦉 Duo", "", "Анна", "علي", "지우",
)  # fmt: skip
APP_VERSIONS: Final = ("7.1.0", "7.2.0", "7.2.1", "7.3.0", "8.0.0-beta")

_APNS_CHARS: Final = 64
_FCM_CHARS_MIN: Final = 142
_FCM_CHARS_MAX: Final = 163

_SCHEMA: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("platform", pa.dictionary(pa.int8(), pa.string())),
        ("token", pa.string()),
        ("locale", pa.dictionary(pa.int8(), pa.string())),
        ("first_name", pa.dictionary(pa.int8(), pa.string())),
        ("app_version", pa.dictionary(pa.int8(), pa.string())),
    ]
)


def write_synthetic(
    path: Path,
    devices: int,
    apns_share: float,
    seed: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Writes ``devices`` rows of a device table to a Parquet file.

    Columns: ``user_id`` (``u00000000``...), ``platform`` (``ios`` or ``android``, interleaved, ``apns_share`` of the
    rows being ``ios``), ``token`` (APNs: 64 hexadecimal digits; FCM: 142 to 163 characters), ``locale``,
    ``first_name`` (with accents, quotes, other scripts, some empty), ``app_version``. The same arguments give the same
    rows. No two tokens are alike: each carries its row number, scrambled by a bijection. ``progress`` is called with
    rows done and the total.
    Raises ValueError for a share outside 0 to 1 or fewer than one device.
    """
    if not 0 <= apns_share <= 1:
        raise ValueError(f"apns_share is {apns_share}; it must lie between 0 and 1")
    if devices < 1:
        raise ValueError(f"devices is {devices}; there must be at least one")
    with pq.ParquetWriter(
        path,
        _SCHEMA,
        compression="none",
        use_dictionary=["platform", "locale", "first_name", "app_version"],
        write_statistics=False,
    ) as writer:
        for first in range(0, devices, ROWS_PER_GROUP):
            rows = min(ROWS_PER_GROUP, devices - first)
            writer.write_batch(_batch(first, rows, apns_share, seed), row_group_size=ROWS_PER_GROUP)
            if progress is not None:
                progress(first + rows, devices)


def _batch(first: int, rows: int, apns_share: float, seed: int) -> Any:
    rng = np.random.Generator(np.random.PCG64([seed, first]))
    numbers = np.arange(first, first + rows, dtype=np.int64)
    # The row at which the running count of APNs rows steps up is an APNs row: evenly interleaved, exact in total.
    apns = np.floor((numbers + 1) * apns_share + 1e-9) > np.floor(numbers * apns_share + 1e-9)
    data, offsets = _tokens(numbers, apns, seed, rng)
    return pa.record_batch(
        [
            _fixed(_user_ids(numbers)),
            _choices(("ios", "android"), np.where(apns, 0, 1)),
            pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(data)),
            _choices(LOCALES, np.minimum(rng.geometric(0.3, rows) - 1, len(LOCALES) - 1)),
            _choices(FIRST_NAMES, rng.integers(0, len(FIRST_NAMES), rows)),
            _choices(APP_VERSIONS, rng.integers(0, len(APP_VERSIONS), rows)),
        ],
        schema=_SCHEMA,
    )


def _choices(values: tuple[str, ...], indices: NDArray[np.int64]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int8)), pa.array(values, pa.string()))


def _fixed(characters: NDArray[np.uint8]) -> Any:
    rows, width = characters.shape
    offsets = (np.arange(rows + 1) * width).astype(np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(characters))


def _user_ids(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    digits = 10 ** np.arange(7, -1, -1, dtype=np.int64)
    text = np.empty((numbers.size, 9), np.uint8)
    text[:, 0] = ord("u")
    text[:, 1:] = (numbers[:, None] // digits) % 10 + ord("0")
    return text


def _tokens(
    numbers: NDArray[np.int64], apns: NDArray[np.bool_], seed: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Token bytes and offsets. The first 64 bits of each are the scrambled row number, which no other row has."""
    lengths = np.where(apns, _APNS_CHARS, rng.integers(_FCM_CHARS_MIN, _FCM_CHARS_MAX + 1, numbers.size))
    offsets = np.zeros(numbers.size + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    kernels.write_tokens(data, offsets, apns, int(numbers[0]), np.uint64(seed % 2**64))
    return data, offsets
