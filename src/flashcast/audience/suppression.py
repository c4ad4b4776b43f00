"""The list of users or devices that must not be sent to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.audience import kernels
from flashcast.audience.arrays import VarBytes, as_text, column_bytes
from flashcast.audience.columns import TOKEN, USER_ID, find_role
from flashcast.audience.source import AudienceSource, open_audience
from flashcast.errors import AudienceError

_BYTES_MAX: Final = 2**32 - 1
"""Offsets have 32 bits; 100 million user ids of 40 characters fit."""


@dataclass(frozen=True)
class ByteSet:
    """An exact set of strings for the kernels."""

    strings: VarBytes
    slots: NDArray[np.int64]


@dataclass(frozen=True)
class Suppression:
    """User ids, tokens, or both."""

    users: ByteSet | None
    tokens: ByteSet | None

    def apply(self, verdicts: NDArray[np.uint8], users: VarBytes, tokens: VarBytes) -> None:
        """Marks the standing rows whose user id or (normalised) token is listed."""
        for listed, column in ((self.users, users), (self.tokens, tokens)):
            if listed is not None:
                kernels.suppress(
                    column.data, column.offsets, verdicts, listed.strings.data, listed.strings.offsets, listed.slots
                )


def read_suppression(location: str, cache: Path | None = None) -> Suppression:
    """Reads a suppression list: any format of an audience, with a column of user ids, of tokens, or both.

    Raises AudienceError where the file has neither.
    """
    reader = open_audience(AudienceSource(location, cache=cache))
    try:
        user, token = find_role(USER_ID, reader.columns), find_role(TOKEN, reader.columns)
        named = [name for name in (user, token) if name is not None]
        if not named:
            raise AudienceError(
                f"--suppress {location}: no column of user ids or tokens",
                remedy=f"The file has: {', '.join(reader.columns)}. Call the column user_id or token.",
            )
        columns: dict[str, list[VarBytes]] = {name: [] for name in named}
        for batch in reader.batches(named):
            for name in named:
                columns[name].append(_copied(batch.column(batch.schema.get_field_index(name))))
        return Suppression(
            users=_set(columns[user], lower_hex=False) if user else None,
            tokens=_set(columns[token], lower_hex=True) if token else None,
        )
    finally:
        reader.close()


def _copied(array: Any) -> VarBytes:
    column = column_bytes(as_text(array))
    first, last = (int(column.offsets[0]), int(column.offsets[-1])) if column.offsets.size else (0, 0)
    return VarBytes(column.data[first:last].copy(), column.offsets - np.uint32(first))


def _set(parts: list[VarBytes], *, lower_hex: bool) -> ByteSet:
    size = sum(part.data.size for part in parts)
    if size > _BYTES_MAX:
        raise AudienceError(f"the suppression list has {size:,} bytes; at most {_BYTES_MAX:,} are taken")
    rows = sum(part.rows for part in parts)
    data = np.concatenate([part.data for part in parts]) if parts else np.empty(0, np.uint8)
    offsets = np.zeros(rows + 1, np.uint32)
    at = end = 0
    for part in parts:
        offsets[at + 1 : at + 1 + part.rows] = part.offsets[1:] + np.uint32(end)
        at, end = at + part.rows, end + part.data.size
    slots = np.zeros(1 << max(4, (rows * 2).bit_length()), np.int64)
    return ByteSet(VarBytes(data, offsets), kernels.build_set(data, offsets, slots, lower_hex))
