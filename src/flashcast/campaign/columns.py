"""Whole columns at once: escaped values for the holes, and the variant of every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flashcast.campaign import kernels
from flashcast.campaign.template import json_escape
from flashcast.campaign.variants import VariantChooser
from flashcast.errors import AudienceError


def escape_column(values: Any, fallback: str) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """A column's values as they go into the holes: JSON-escaped UTF-8.

    ``values`` is a pyarrow Array or ChunkedArray of any type that Arrow can write as text; null and the
    empty text become ``fallback``. Returns data uint8[bytes] and offsets uint32[rows + 1]; the data may be
    a read-only view of the column itself where nothing had to be escaped. Every value equals
    `json_escape` of its text. Raises AudienceError for values that are no text, for bytes that are not
    UTF-8, and for more than 4 GiB.
    """
    data, offsets = _text(values)
    fallback_bytes = np.frombuffer(json_escape(fallback), dtype=np.uint8)
    lengths = np.diff(offsets)
    plain = not (fallback_bytes.size and bool((lengths == 0).any())) and not kernels.needs_escape(data)
    if plain:
        return data, _narrow(offsets)
    out_offsets = np.empty(offsets.size, dtype=np.int64)
    kernels.escaped_offsets(data, offsets, fallback_bytes.size, kernels.ESCAPED_LENGTHS, out_offsets)
    narrow = _narrow(out_offsets)
    out = np.empty(int(out_offsets[-1]), dtype=np.uint8)
    kernels.write_escaped(data, offsets, fallback_bytes, kernels.SHORT_ESCAPES, out)
    return out, narrow


def choose_variants(chooser: VariantChooser, column_values: Any, ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Every row's variant, the index of its template: uint8[rows].

    ``column_values`` is the pyarrow Array or ChunkedArray of ``chooser.column``, None where it has none;
    null gets the default arms. ``ids`` uint64[rows] are fingerprints of the user id, or of the token where
    there is none: the same id gets the same arm in every shard and at every seal.
    Raises AudienceError if the column is absent or no text.
    """
    groups, members = _groups(chooser, column_values, ids.size)
    arms = np.array([arm for group in members for arm in group], dtype=np.uint8)
    starts = np.cumsum([0, *(len(group) for group in members)], dtype=np.int64)
    bounds = np.concatenate([_bounds([chooser.weights.get(arm, 1.0) for arm in group]) for group in members])
    out = np.empty(ids.size, dtype=np.uint8)
    kernels.choose_arms(groups, np.ascontiguousarray(ids), np.uint64(chooser.salt), starts, arms, bounds, out)
    return out


def _bounds(weights: list[float]) -> NDArray[np.float64]:
    upper = np.cumsum(weights, dtype=np.float64)
    bounds: NDArray[np.float64] = upper / upper[-1]
    return bounds


def _groups(chooser: VariantChooser, values: Any, rows: int) -> tuple[NDArray[np.uint16], list[tuple[int, ...]]]:
    """Which set of arms each row has, and the sets; set 0 is the default."""
    members = [chooser.default]
    if chooser.column is None:
        return np.zeros(rows, dtype=np.uint16), members
    if values is None:
        raise AudienceError(f"variants are chosen by the column {chooser.column!r}, which the audience lacks")
    encoded = pc.dictionary_encode(_as_strings(values))
    array = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    # The last place of the lookup is for null.
    lookup = np.zeros(len(array.dictionary) + 1, dtype=np.uint16)
    for code, group in enumerate(chooser.arms_of(array.dictionary.to_pylist())):
        if group not in members:
            members.append(group)
        lookup[code] = members.index(group)
    codes = array.indices.fill_null(len(array.dictionary)).to_numpy(zero_copy_only=False)
    return lookup[codes], members


def _as_strings(values: Any) -> Any:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return values
    try:
        return values.cast(pa.large_string())
    except pa.ArrowException as error:
        raise AudienceError(f"a column of type {values.type} cannot be written as text") from error


def _text(values: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The column's bytes uint8[bytes] and offsets int64[rows + 1]; null is empty."""
    strings = _as_strings(values)
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.chunk(0) if strings.num_chunks == 1 else _joined(strings)
    if strings.null_count:
        strings = strings.fill_null("")
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid as error:
        raise AudienceError(f"a text column has bytes that are not UTF-8: {error}") from error
    wide = pa.types.is_large_string(strings.type)
    rows = len(strings)
    _, offset_buffer, data_buffer = strings.buffers()
    if rows == 0 or offset_buffer is None:
        return np.empty(0, dtype=np.uint8), np.zeros(rows + 1, dtype=np.int64)
    all_offsets = np.frombuffer(offset_buffer, dtype="<i8" if wide else "<i4")
    offsets: NDArray[np.int64] = all_offsets[strings.offset : strings.offset + rows + 1].astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.empty(0, dtype=np.uint8) if data_buffer is None else np.frombuffer(data_buffer, dtype=np.uint8)
    return data[first:last], offsets - first


def _joined(strings: Any) -> Any:
    if strings.num_chunks == 0:
        return pa.array([], type=pa.large_string())
    return pa.concat_arrays(chunk.cast(pa.large_string()) for chunk in strings.chunks)


def _narrow(offsets: NDArray[np.int64]) -> NDArray[np.uint32]:
    if offsets[-1] > np.iinfo(np.uint32).max:
        raise AudienceError(f"a column of {offsets[-1]} bytes after escaping; a shard holds at most 4 GiB of one field")
    return offsets.astype(np.uint32)
