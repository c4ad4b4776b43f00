"""Why a row of the audience is not in the snapshot: a closed set, and the file that lists those rows."""

from __future__ import annotations

import hashlib
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashcast.audience.arrays import VarBytes
from flashcast.model import Provider

PROVIDERS: Final = (Provider.APNS, Provider.FCM)
"""A provider's code in the kernels is its place here; shards follow in this order."""
NO_PROVIDER: Final = 255
"""The code of a row whose platform says nothing we know."""

KEPT: Final = 0
"""The verdict of a row that goes into the snapshot."""


class DropReason(Enum):
    """Why a row was left out. `code` is its verdict byte in the kernels; checks are made in this order."""

    UNKNOWN_PLATFORM = "unknown_platform"
    NO_MESSAGE = "no_message"
    BAD_TOKEN = "bad_token"
    SUPPRESSED = "suppressed"
    HOLDOUT = "holdout"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    DUPLICATE_TOKEN = "duplicate_token"
    SECOND_DEVICE = "second_device"

    @property
    def code(self) -> int:
        """One byte, never 0 (`KEPT`)."""
        return _CODES[self]


_REASONS: Final = tuple(DropReason)
_CODES: Final = {reason: code for code, reason in enumerate(_REASONS, start=1)}

UNKNOWN_PLATFORM: Final = DropReason.UNKNOWN_PLATFORM.code
NO_MESSAGE: Final = DropReason.NO_MESSAGE.code
BAD_TOKEN: Final = DropReason.BAD_TOKEN.code
SUPPRESSED: Final = DropReason.SUPPRESSED.code
HOLDOUT: Final = DropReason.HOLDOUT.code
PAYLOAD_TOO_LARGE: Final = DropReason.PAYLOAD_TOO_LARGE.code
DUPLICATE_TOKEN: Final = DropReason.DUPLICATE_TOKEN.code
SECOND_DEVICE: Final = DropReason.SECOND_DEVICE.code

TOKEN_DIGEST_CHARS: Final = 16
"""Hexadecimal digits of SHA-256 that stand for a token wherever people read: 64 bits."""

_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("user_id", pa.string()),
        ("token_digest", pa.string()),
        ("provider", pa.string()),
        ("reason", pa.string()),
    ]
)
_ROWS_PER_GROUP: Final = 131_072


def token_digest(token: bytes) -> str:
    """What stands for a device token in files that people read: it cannot be turned back into the token."""
    return hashlib.sha256(token).hexdigest()[:TOKEN_DIGEST_CHARS]


class DropsWriter:
    """Writes ``dropped.parquet`` and counts per reason.

    Columns: ``row`` (1-based row number of the audience as it was read), ``user_id``, ``token_digest`` (never the
    token), ``provider`` (null where unknown), ``reason``. Row groups have a fixed number of rows, so that the
    file's bytes do not depend on how the audience was batched.
    """

    def __init__(self, path: Path) -> None:
        self._writer: Any = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._held: list[Any] = []
        self._held_rows = 0
        self.counts: dict[DropReason, int] = dict.fromkeys(_REASONS, 0)

    @property
    def rows(self) -> int:
        """Rows dropped so far."""
        return sum(self.counts.values())

    def add(
        self,
        first_row: int,
        verdicts: NDArray[np.uint8],
        codes: NDArray[np.uint8],
        tokens: VarBytes,
        users: VarBytes,
    ) -> None:
        """Takes the dropped rows of one batch, whose first row is number ``first_row`` (0-based) of the audience."""
        rows = np.flatnonzero(verdicts)
        if rows.size == 0:
            return
        found, numbers = np.unique(verdicts[rows], return_counts=True)
        for code, number in zip(found.tolist(), numbers.tolist(), strict=True):
            self.counts[_REASONS[code - 1]] += number
        picked = rows.tolist()
        names = [reason.value for reason in _REASONS]
        self._held.append(
            pa.record_batch(
                [
                    pa.array(rows + (first_row + 1), pa.int64()),
                    pa.array([users.text(row) or None for row in picked], pa.string()),
                    pa.array([token_digest(t) if (t := tokens.bytes(row)) else None for row in picked], pa.string()),
                    pa.array([_provider_name(code) for code in codes[rows].tolist()], pa.string()),
                    pa.array([names[code - 1] for code in verdicts[rows].tolist()], pa.string()),
                ],
                schema=_SCHEMA,
            )
        )
        self._held_rows += rows.size
        if self._held_rows >= _ROWS_PER_GROUP:
            self._flush(whole_groups_only=True)

    def close(self) -> None:
        """Writes what is held and the file's footer."""
        self._flush(whole_groups_only=False)
        self._writer.close()

    def _flush(self, *, whole_groups_only: bool) -> None:
        table = pa.Table.from_batches(self._held, schema=_SCHEMA)
        rows = table.num_rows - table.num_rows % _ROWS_PER_GROUP if whole_groups_only else table.num_rows
        if rows:
            self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=_ROWS_PER_GROUP)
        rest = table.slice(rows)
        self._held = rest.to_batches()
        self._held_rows = rest.num_rows


def _provider_name(code: int) -> str | None:
    return PROVIDERS[code].value if code < len(PROVIDERS) else None
