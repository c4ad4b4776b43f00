"""Checks one JSON text, byte by byte, and tells its skeleton.

Every body is validated. `json.loads` takes 3 us, more than all else that is done for a request, so it sees
only the first body of each shape: the kernel checks that the text is JSON (RFC 8259) in UTF-8 (RFC 3629),
and hashes everything but the contents of string values. A body whose skeleton was judged before differs
from the judged one only in such strings.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.digest import FNV_OFFSET, FNV_PRIME

DEPTH_MAX: Final = 60
"""Nesting the kernel follows; the containers' kinds are the bits of one word. Deeper goes to `json.loads`."""

_VALUE, _AFTER, _KEY, _COLON, _KEY_OR_END, _VALUE_OR_END = 0, 1, 2, 3, 4, 5


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _continuation(data: NDArray[np.uint8], i: int, stop: int) -> bool:
    return i < stop and (data[i] & 0xC0) == 0x80


@njit(nogil=True, _nrt=False, error_model="numpy")
def _utf8_length(data: NDArray[np.uint8], i: int, stop: int) -> int:
    """Bytes of the well-formed sequence at ``i``; 0 where it is none (over-long, surrogate, above U+10FFFF)."""
    c = np.int64(data[i])
    if not _continuation(data, i + 1, stop):
        return 0
    second = np.int64(data[i + 1])
    if 0xC2 <= c <= 0xDF:
        return 2
    if not _continuation(data, i + 2, stop):
        return 0
    if 0xE0 <= c <= 0xEF:
        if (c == 0xE0 and second < 0xA0) or (c == 0xED and second > 0x9F):
            return 0
        return 3
    if not _continuation(data, i + 3, stop):
        return 0
    if 0xF0 <= c <= 0xF4:
        if (c == 0xF0 and second < 0x90) or (c == 0xF4 and second > 0x8F):
            return 0
        return 4
    return 0


@njit(nogil=True, _nrt=False, error_model="numpy")
def _escape_length(data: NDArray[np.uint8], i: int, stop: int) -> int:
    """Bytes of the escape whose backslash is at ``i``; 0 where it is none."""
    if i + 1 >= stop:
        return 0
    c = data[i + 1]
    if c == 34 or c == 92 or c == 47 or c == 98 or c == 102 or c == 110 or c == 114 or c == 116:
        return 2
    if c != 117 or i + 6 > stop:
        return 0
    for k in range(i + 2, i + 6):
        d = data[k] | 0x20
        if not (48 <= data[k] <= 57 or 97 <= d <= 102):
            return 0
    return 6


@njit(nogil=True, _nrt=False, error_model="numpy")
def _string_end(data: NDArray[np.uint8], i: int, stop: int) -> int:
    """The index after the closing quote of the string whose contents begin at ``i``; -1 where it is broken."""
    while i < stop:
        c = data[i]
        if c == 34:
            return i + 1
        if c == 92:
            step = _escape_length(data, i, stop)
        elif c >= 0x80:
            step = _utf8_length(data, i, stop)
        else:
            step = 0 if c < 0x20 else 1
        if step == 0:
            return -1
        i += step
    return -1


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _digits(data: NDArray[np.uint8], i: int, stop: int) -> int:
    while i < stop and 48 <= data[i] <= 57:
        i += 1
    return i


@njit(nogil=True, _nrt=False, error_model="numpy")
def _number_end(data: NDArray[np.uint8], i: int, stop: int) -> int:
    """The index after the number at ``i``; -1 where it is none."""
    if i < stop and data[i] == 45:
        i += 1
    first = i
    i = _digits(data, i, stop)
    if i == first or (data[first] == 48 and i > first + 1):
        return -1
    if i < stop and data[i] == 46:
        first = i + 1
        i = _digits(data, first, stop)
        if i == first:
            return -1
    if i < stop and (data[i] | 0x20) == 101:
        i += 1
        if i < stop and (data[i] == 43 or data[i] == 45):
            i += 1
        first = i
        i = _digits(data, first, stop)
        if i == first:
            return -1
    return i


@njit(nogil=True, _nrt=False, error_model="numpy")
def _word_end(data: NDArray[np.uint8], i: int, stop: int) -> int:
    """The index after true, false or null at ``i``; -1 where it is none of them."""
    if i + 4 <= stop and data[i + 1] == 114 and data[i + 2] == 117 and data[i + 3] == 101:
        return i + 4 if data[i] == 116 else -1
    if i + 4 <= stop and data[i + 1] == 117 and data[i + 2] == 108 and data[i + 3] == 108:
        return i + 4 if data[i] == 110 else -1
    if (
        i + 5 <= stop
        and data[i + 1] == 97
        and data[i + 2] == 108
        and data[i + 3] == 115
        and data[i + 4] == 101
    ):
        return i + 5 if data[i] == 102 else -1
    return -1


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def skeleton(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """The skeleton hash of the JSON object ``data[start:stop]``; 0 where it is not one JSON object in UTF-8.

    ``data`` uint8[bytes]. The hash takes keys, punctuation, numbers and words, not the contents of string
    values, and not white space. A text nested deeper than `DEPTH_MAX` also gives 0.
    """
    h = FNV_OFFSET
    kinds = np.uint64(0)  # the containers around, innermost in the lowest bit: 1 object, 0 array
    depth = 0
    expect = _VALUE
    i = start
    while i < stop:
        c = data[i]
        if c == 32 or c == 10 or c == 13 or c == 9:
            i += 1
            continue
        if depth == 0 and (expect == _AFTER or c != 123):
            return np.uint64(0)
        end = i + 1
        hash_to = end
        if expect == _AFTER:
            inside = kinds & np.uint64(1)
            if c == 44:
                expect = _KEY if inside else _VALUE
            elif c == (125 if inside else 93):
                depth -= 1
                kinds >>= np.uint64(1)
            else:
                return np.uint64(0)
        elif expect == _COLON:
            if c != 58:
                return np.uint64(0)
            expect = _VALUE
        elif (c == 125 and expect == _KEY_OR_END) or (c == 93 and expect == _VALUE_OR_END):
            depth -= 1
            kinds >>= np.uint64(1)
            expect = _AFTER
        elif expect == _KEY or expect == _KEY_OR_END:
            end = _string_end(data, i + 1, stop) if c == 34 else -1
            hash_to = end
            expect = _COLON
        elif c == 34:
            end = _string_end(data, i + 1, stop)
            expect = _AFTER
        elif c == 123 or c == 91:
            depth += 1
            if depth > DEPTH_MAX:
                return np.uint64(0)
            kinds = (kinds << np.uint64(1)) | np.uint64(1 if c == 123 else 0)
            expect = _KEY_OR_END if c == 123 else _VALUE_OR_END
        else:
            end = _number_end(data, i, stop) if c == 45 or 48 <= c <= 57 else _word_end(data, i, stop)
            hash_to = end
            expect = _AFTER
        if end < 0:
            return np.uint64(0)
        for k in range(i, hash_to):
            h = (h ^ np.uint64(data[k])) * FNV_PRIME
        i = end
    if depth != 0 or expect != _AFTER:
        return np.uint64(0)
    return h | np.uint64(1)
