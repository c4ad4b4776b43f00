"""Compiled loops over a column: escaping, and sharing rows among A/B arms."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.digest import mix64

QUOTE, BACKSLASH = 0x22, 0x5C


def _escaped_lengths() -> NDArray[np.uint8]:
    lengths = np.ones(256, dtype=np.uint8)
    lengths[:0x20] = 6
    lengths[[QUOTE, BACKSLASH, 0x08, 0x09, 0x0A, 0x0C, 0x0D]] = 2
    return lengths


def _short_escapes() -> NDArray[np.uint8]:
    short = np.zeros(256, dtype=np.uint8)
    for plain, letter in (
        (QUOTE, '"'),
        (BACKSLASH, "\\"),
        (8, "b"),
        (9, "t"),
        (10, "n"),
        (12, "f"),
        (13, "r"),
    ):
        short[plain] = ord(letter)
    return short


ESCAPED_LENGTHS = _escaped_lengths()
"""Bytes that each byte takes inside a JSON string. Bytes of multi-byte UTF-8 characters stand as they are."""
SHORT_ESCAPES = _short_escapes()
"""The letter after the backslash where JSON has a two-character escape, else 0."""


@njit(nogil=True, cache=True)
def needs_escape(data: NDArray[np.uint8]) -> bool:
    """Whether any byte of ``data`` must be escaped. Without an early exit the loop is vectorised."""
    count = 0
    for i in range(data.size):
        byte = data[i]
        count += (byte < 0x20) | (byte == 0x22) | (byte == 0x5C)
    return count > 0


@njit(nogil=True, cache=True)
def escaped_offsets(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    fallback_bytes: int,
    lengths: NDArray[np.uint8],
    out: NDArray[np.int64],
) -> None:
    """Fills ``out`` int64[rows + 1] with where each row's escaped value begins.

    An empty row takes the fallback.
    """
    total = 0
    out[0] = 0
    for row in range(offsets.size - 1):
        start, stop = offsets[row], offsets[row + 1]
        if start == stop:
            total += fallback_bytes
        for i in range(start, stop):
            total += lengths[data[i]]
        out[row + 1] = total


@njit(nogil=True, cache=True)
def write_escaped(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    fallback: NDArray[np.uint8],
    short: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    """Writes every row's escaped value to ``out``, which `escaped_offsets` measured.

    ``fallback`` is escaped already.
    """
    at = 0
    for row in range(offsets.size - 1):
        start, stop = offsets[row], offsets[row + 1]
        if start == stop:
            for i in range(fallback.size):
                out[at] = fallback[i]
                at += 1
        for i in range(start, stop):
            byte = data[i]
            if byte >= 0x20 and byte != 0x22 and byte != 0x5C:
                out[at] = byte
                at += 1
                continue
            out[at] = 0x5C
            if short[byte] != 0:
                out[at + 1] = short[byte]
                at += 2
                continue
            out[at + 1] = 0x75  # \u00XX
            out[at + 2] = 0x30
            out[at + 3] = 0x30
            out[at + 4] = 0x30 + (byte >> 4)
            low = byte & 15
            out[at + 5] = 0x30 + low if low < 10 else 0x57 + low
            at += 6


@njit(nogil=True, cache=True)
def choose_arms(
    groups: NDArray[np.uint16],
    ids: NDArray[np.uint64],
    salt: np.uint64,
    starts: NDArray[np.int64],
    arms: NDArray[np.uint8],
    bounds: NDArray[np.float64],
    out: NDArray[np.uint8],
) -> None:
    """Fills ``out`` uint8[rows] with a template index for each row.

    Group ``g`` has the arms ``arms[starts[g]:starts[g + 1]]``, and ``bounds`` holds, arm by arm, the upper end
    of its part of [0, 1). A row's place there is the 53 high bits of its hashed id: a double holds 53.
    """
    for row in range(groups.size):
        group = groups[row]
        at, last = starts[group], starts[group + 1] - 1
        if at < last:
            place = np.float64(mix64(ids[row] ^ salt) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            while at < last and place >= bounds[at]:
                at += 1
        out[row] = arms[at]
