"""The compiled loops of sealing: token checks, hold-out, suppression, exact de-duplication, gathering.

De-duplicating millions of tokens exactly needs each token seen before. Holding them costs the memory that the
shards were meant to save; trusting a 64-bit fingerprint loses a device in some launches. So the table keeps eight
bytes per slot, a 32-bit tag and the number of the row, and where tags agree the bytes themselves are compared
in the shard the row was written to. Shards are many and come while the loop runs, so the kernels take their
addresses (`directory`) rather than the arrays.

A table has 256 regions, chosen by the fingerprint's top byte; within a region probing is linear. The place
in a region follows from the tag alone, so a table doubles without looking at a token again.

    slot  63............32 31.............0      0: free
         |  row id + 1    |  tag           |     row id = 2 * (row number within its provider) + provider code
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from flashcast.audience.drops import BAD_TOKEN, DUPLICATE_TOKEN, HOLDOUT, KEPT, SECOND_DEVICE, SUPPRESSED
from flashcast.digest import fingerprint64, mix64
from flashcast.limits import APNS_TOKEN_HEX_MAX, APNS_TOKEN_HEX_MIN, FCM_TOKEN_CHARS_MAX, FCM_TOKEN_CHARS_MIN

REGIONS: Final = 256
TABLE_SLOTS_MIN: Final = REGIONS * 1_024
"""1,024 slots in a region: at 70 % load a full region is 11 standard deviations away."""

DONE: Final = 0
SHARD_FULL: Final = 1
TOKENS_FULL: Final = 2
USERS_FULL: Final = 3
LIMIT: Final = 4

_TOKEN_DATA, _TOKEN_OFFSETS, _USER_DATA, _USER_OFFSETS = 0, 1, 2, 3
DIRECTORY_COLUMNS: Final = 4

_HEX = np.zeros(256, np.uint8)
for _c in b"0123456789abcdef":
    _HEX[_c] = _c
for _c in b"ABCDEF":
    _HEX[_c] = _c + 32
_FCM = np.zeros(256, np.bool_)
for _c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_:.-":
    _FCM[_c] = True

_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_URL_SAFE = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", np.uint8)
_FCM_MARK = np.frombuffer(b":APA91b", np.uint8)
_FCM_MARK_AT = 22
"""An FCM token has an instance id of 22 characters before this mark."""

_TAG = np.uint64(0xFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """An address as a pointer that `numba.carray` accepts."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), build


@njit(nogil=True, inline="always")
def _equal(
    data: NDArray[np.uint8], start: int, stop: int, other: NDArray[np.uint8], other_start: int, other_stop: int
) -> bool:
    if stop - start != other_stop - other_start:
        return False
    for k in range(stop - start):  # noqa: SIM110 - compiled: a generator would cost more
        if data[start + k] != other[other_start + k]:
            return False
    return True


@njit(nogil=True, cache=True)
def screen_tokens(
    data: NDArray[np.uint8],
    offsets: NDArray[np.uint32],
    codes: NDArray[np.uint8],
    verdicts: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
) -> None:
    """Checks the tokens of the rows that still stand; lower-cases APNs ones in place; fingerprints them.

    APNs: an even number of hexadecimal digits; FCM: characters that need no escaping in JSON or a header; both
    within the lengths of `flashcast.limits`. A row that fails gets `BAD_TOKEN`. ``hashes`` gets the fingerprints.
    """
    for row in range(codes.size):
        if verdicts[row] != KEPT:
            continue
        start, stop = np.int64(offsets[row]), np.int64(offsets[row + 1])
        length = stop - start
        if codes[row] == 0:
            good = bool(APNS_TOKEN_HEX_MIN <= length <= APNS_TOKEN_HEX_MAX and length % 2 == 0)
            if good:
                for i in range(start, stop):
                    if _HEX[data[i]] == 0:
                        good = False
                        break
            if good:
                for i in range(start, stop):
                    data[i] = _HEX[data[i]]
        else:
            good = bool(FCM_TOKEN_CHARS_MIN <= length <= FCM_TOKEN_CHARS_MAX)
            if good:
                for i in range(start, stop):
                    if not _FCM[data[i]]:
                        good = False
                        break
        if good:
            hashes[row] = fingerprint64(data, start, stop)
        else:
            verdicts[row] = BAD_TOKEN


@njit(nogil=True, cache=True)
def hash_column(data: NDArray[np.uint8], offsets: NDArray[np.uint32], hashes: NDArray[np.uint64]) -> None:
    """Fills ``hashes`` with the fingerprint of every row's bytes."""
    for row in range(hashes.size):
        hashes[row] = fingerprint64(data, np.int64(offsets[row]), np.int64(offsets[row + 1]))


@njit(nogil=True, cache=True)
def hold_out(
    verdicts: NDArray[np.uint8],
    user_offsets: NDArray[np.uint32],
    user_hashes: NDArray[np.uint64],
    token_hashes: NDArray[np.uint64],
    salt: np.uint64,
    share: float,
) -> None:
    """Sets aside the rows whose user (or token, where no user is named) falls into the first ``share`` of the hash."""
    for row in range(verdicts.size):
        if verdicts[row] != KEPT:
            continue
        named = user_offsets[row + 1] > user_offsets[row]
        key = user_hashes[row] if named else token_hashes[row]
        place = np.float64(mix64(key ^ salt) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        if place < share:
            verdicts[row] = HOLDOUT


@njit(nogil=True, cache=True)
def build_set(
    data: NDArray[np.uint8], offsets: NDArray[np.uint32], slots: NDArray[np.int64], lower_hex: bool
) -> NDArray[np.int64]:
    """A set over the strings of a column: fills ``slots`` (a power of two, more than the rows) with row + 1.

    With ``lower_hex``, strings of hexadecimal digits only are lower-cased in place first, as sealed APNs tokens are.
    """
    mask = np.uint64(slots.size - 1)
    for row in range(offsets.size - 1):
        start, stop = np.int64(offsets[row]), np.int64(offsets[row + 1])
        if stop == start:
            continue
        if lower_hex:
            digits = True
            for i in range(start, stop):
                if _HEX[data[i]] == 0:
                    digits = False
                    break
            if digits:
                for i in range(start, stop):
                    data[i] = _HEX[data[i]]
        at = np.int64(fingerprint64(data, start, stop) & mask)
        while slots[at] != 0:
            at = (at + 1) & np.int64(mask)
        slots[at] = row + 1
    return slots


@njit(nogil=True, cache=True)
def suppress(
    data: NDArray[np.uint8],
    offsets: NDArray[np.uint32],
    verdicts: NDArray[np.uint8],
    set_data: NDArray[np.uint8],
    set_offsets: NDArray[np.uint32],
    slots: NDArray[np.int64],
) -> None:
    """Drops the standing rows whose string is in the set that `build_set` made."""
    mask = np.uint64(slots.size - 1)
    for row in range(verdicts.size):
        start, stop = np.int64(offsets[row]), np.int64(offsets[row + 1])
        if verdicts[row] != KEPT or stop == start:
            continue
        at = np.int64(fingerprint64(data, start, stop) & mask)
        while slots[at] != 0:
            other = slots[at] - 1
            if _equal(data, start, stop, set_data, np.int64(set_offsets[other]), np.int64(set_offsets[other + 1])):
                verdicts[row] = SUPPRESSED
                break
            at = (at + 1) & np.int64(mask)


@njit(nogil=True, inline="always")
def _find(
    table: NDArray[np.uint64],
    h: np.uint64,
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    directory: NDArray[np.uint64],
    column: int,
    code: int,
    shard_rows: int,
) -> np.int64:
    """Where the string is in the table (its slot + 1), or where it would go (-1 - slot), or 0: the region is full.

    With ``code`` >= 0 only rows of that provider are equal: the same bytes at two providers are two devices.
    """
    region_slots = table.size // REGIONS
    base = np.int64(h >> np.uint64(56)) * region_slots
    tag = h & _TAG
    at = np.int64(tag) & (region_slots - 1)
    for _ in range(region_slots):
        slot = table[base + at]
        if slot == np.uint64(0):
            return -1 - (base + at)
        if slot & _TAG == tag:
            identity = np.int64(slot >> np.uint64(32)) - 1
            provider = identity & 1
            if code < 0 or provider == code:
                number = identity >> 1
                shard = number // shard_rows
                row = number - shard * shard_rows
                there = numba.carray(_pointer(directory[provider, shard, column + 1]), (shard_rows + 1,), np.uint32)
                other_start, other_stop = np.int64(there[row]), np.int64(there[row + 1])
                bytes_there = numba.carray(_pointer(directory[provider, shard, column]), (other_stop,), np.uint8)
                if _equal(data, start, stop, bytes_there, other_start, other_stop):
                    return base + at + 1
        at = (at + 1) & (region_slots - 1)
    return np.int64(0)


@njit(nogil=True, inline="always")
def _append(
    directory: NDArray[np.uint64],
    provider: int,
    shard: int,
    column: int,
    row: int,
    shard_rows: int,
    data: NDArray[np.uint8],
    start: int,
    stop: int,
) -> None:
    offsets = numba.carray(_pointer(directory[provider, shard, column + 1]), (shard_rows + 1,), np.uint32)
    at = np.int64(offsets[row])
    end = at + stop - start
    out = numba.carray(_pointer(directory[provider, shard, column]), (end,), np.uint8)
    for k in range(stop - start):
        out[at + k] = data[start + k]
    offsets[row + 1] = np.uint32(end)


@njit(nogil=True, cache=True)
def admit(
    first: int,
    verdicts: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    token_data: NDArray[np.uint8],
    token_offsets: NDArray[np.uint32],
    token_hashes: NDArray[np.uint64],
    user_data: NDArray[np.uint8],
    user_offsets: NDArray[np.uint32],
    user_hashes: NDArray[np.uint64],
    tokens: NDArray[np.uint64],
    users: NDArray[np.uint64],
    one_per_user: bool,
    directory: NDArray[np.uint64],
    counts: NDArray[np.int64],
    shard_rows: int,
    limit: int,
) -> tuple[int, int]:
    """Admits the standing rows from ``first`` on, in order, or drops them as duplicates.

    An admitted row's token and user id are appended to the open shard of its provider, the one that
    ``directory[code, counts[code] // shard_rows]`` points at; its buffers must have room for the whole batch.
    ``directory`` uint64[2, shards, 4]: addresses of token data (uint8), token offsets (uint32[shard_rows + 1]),
    user data and user offsets. ``counts`` int64[2] is the number of rows admitted per provider. ``tokens`` and
    ``users`` are tables as drawn above.

    Returns the row to go on with, and why it stopped: `DONE`; `SHARD_FULL`, the row's provider needs a new shard;
    `TOKENS_FULL` or `USERS_FULL`, that table must double; `LIMIT`, as many rows as wanted are in.
    """
    for row in range(first, verdicts.size):
        if verdicts[row] != KEPT:
            continue
        if counts[0] + counts[1] >= limit:
            return row, LIMIT
        code = np.int64(codes[row])
        start, stop = np.int64(token_offsets[row]), np.int64(token_offsets[row + 1])
        h = token_hashes[row]
        place = _find(tokens, h, token_data, start, stop, directory, _TOKEN_DATA, code, shard_rows)
        if place > 0:
            verdicts[row] = DUPLICATE_TOKEN
            continue
        user_start, user_stop = np.int64(user_offsets[row]), np.int64(user_offsets[row + 1])
        named = one_per_user and user_stop > user_start
        user_place = np.int64(0)
        if named:
            u = user_hashes[row]
            user_place = _find(users, u, user_data, user_start, user_stop, directory, _USER_DATA, -1, shard_rows)
            if user_place > 0:
                verdicts[row] = SECOND_DEVICE
                continue
        total = counts[0] + counts[1]
        if place == 0 or total * 10 >= tokens.size * 7:
            return row, TOKENS_FULL
        if named and (user_place == 0 or total * 10 >= users.size * 7):
            return row, USERS_FULL
        number = counts[code]
        shard = number // shard_rows
        within = number - shard * shard_rows
        if directory[code, shard, _TOKEN_DATA] == np.uint64(0):
            return row, SHARD_FULL
        identity = np.uint64(number * 2 + code + 1) << np.uint64(32)
        tokens[-1 - place] = identity | (h & _TAG)
        if named:
            users[-1 - user_place] = identity | (user_hashes[row] & _TAG)
        _append(directory, code, shard, _TOKEN_DATA, within, shard_rows, token_data, start, stop)
        _append(directory, code, shard, _USER_DATA, within, shard_rows, user_data, user_start, user_stop)
        counts[code] = number + 1
    return verdicts.size, DONE


@njit(nogil=True, cache=True)
def enlarge(table: NDArray[np.uint64], larger: NDArray[np.uint64]) -> None:
    """Moves every entry of ``table`` into ``larger``, which is a power of two times as long and all zero."""
    old, new = table.size // REGIONS, larger.size // REGIONS
    for region in range(REGIONS):
        for k in range(old):
            slot = table[region * old + k]
            if slot != np.uint64(0):
                at = np.int64(slot & _TAG) & (new - 1)
                while larger[region * new + at] != np.uint64(0):
                    at = (at + 1) & (new - 1)
                larger[region * new + at] = slot


@njit(nogil=True, cache=True)
def gather(
    data: NDArray[np.uint8],
    offsets: NDArray[np.uint32],
    rows: NDArray[np.int64],
    out_data: NDArray[np.uint8],
    out_offsets: NDArray[np.uint32],
    at: int,
) -> None:
    """Appends the chosen rows of a column behind row ``at`` of an output column that has room for them."""
    end = np.int64(out_offsets[at])
    for k in range(rows.size):
        row = rows[k]
        for i in range(np.int64(offsets[row]), np.int64(offsets[row + 1])):
            out_data[end] = data[i]
            end += 1
        out_offsets[at + k + 1] = np.uint32(end)


@njit(nogil=True, cache=True)
def write_tokens(
    data: NDArray[np.uint8], offsets: NDArray[np.int32], apns: NDArray[np.bool_], first: int, seed: np.uint64
) -> None:
    """Writes a synthetic token for every row into ``data``: hexadecimal where ``apns``, else as FCM's look.

    Characters come from splitmix64 seeded by the row. Its first word is a bijection of the row number and is written
    out whole, 16 hexadecimal digits or 11 of 6 bits, so no two rows of a provider have the same token.
    """
    for row in range(apns.size):
        at, stop = np.int64(offsets[row]), np.int64(offsets[row + 1])
        start = at
        state = np.uint64(first + row) * np.uint64(0xD1342543DE82EF95) + seed * np.uint64(0xAF251AF3B0F025B5)
        word = mix64(state)
        if apns[row]:
            while at < stop:
                for k in range(16):
                    data[at + k] = _HEX_DIGITS[(word >> np.uint64(4 * k)) & np.uint64(15)]
                at += 16
                state += _GOLDEN
                word = mix64(state)
            continue
        data[at] = 99 + np.uint8(seed & np.uint64(3))
        at += 1
        while at < stop:
            for k in range(11):
                if at + k == stop:
                    break
                data[at + k] = _URL_SAFE[(word >> np.uint64(6 * k)) & np.uint64(63)]
            at += 11
            state += _GOLDEN
            word = mix64(state)
        for k in range(_FCM_MARK.size):
            data[start + _FCM_MARK_AT + k] = _FCM_MARK[k]
