"""Columns of byte strings as two arrays, and how they come out of Arrow."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class VarBytes(NamedTuple):
    """A column of byte strings: row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.

    ``data`` uint8[bytes]; ``offsets`` uint32[rows + 1], or empty for a column that no row uses.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.uint32]

    @property
    def rows(self) -> int:
        """How many strings there are."""
        return max(0, self.offsets.size - 1)

    def bytes(self, row: int) -> bytes:
        """The bytes of one row."""
        return self.data[int(self.offsets[row]) : int(self.offsets[row + 1])].tobytes()

    def text(self, row: int) -> str:
        """One row as text; what is not UTF-8 becomes U+FFFD."""
        return self.bytes(row).decode("utf-8", "replace")


NOTHING = VarBytes(np.empty(0, np.uint8), np.empty(0, np.uint32))
"""The column that no row uses."""


def as_text(array: Any) -> Any:
    """An Arrow array of any scalar type as a plain string array; nulls stay null.

    Raises pyarrow.ArrowInvalid or ArrowNotImplementedError for types with no text form (lists, structs, bytes
    that are not UTF-8).
    """
    if pa.types.is_dictionary(array.type):
        return as_text(array.dictionary).take(array.indices)
    return array if pa.types.is_string(array.type) else pc.cast(array, pa.string())


def column_bytes(array: Any) -> VarBytes:
    """The UTF-8 bytes of an Arrow string array, nulls as empty strings, without copying where none is null.

    The arrays are read-only views of the Arrow buffers, which they keep alive.
    """
    if array.null_count:
        array = pc.fill_null(array, "")
    rows = len(array)
    _, offsets_buffer, data_buffer = array.buffers()
    if rows == 0 or offsets_buffer is None:
        return VarBytes(np.empty(0, np.uint8), np.zeros(rows + 1, np.uint32))
    offsets = np.frombuffer(offsets_buffer, np.uint32, count=rows + 1, offset=array.offset * 4)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.empty(0, np.uint8)
    return VarBytes(data, offsets)


def empty_column(rows: int) -> VarBytes:
    """``rows`` empty strings."""
    return VarBytes(np.empty(0, np.uint8), np.zeros(rows + 1, np.uint32))
