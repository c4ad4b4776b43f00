"""A 64-bit fingerprint of a device token, for tables of millions.

A token is a secret and long; ledgers need a short key for it. The fingerprint is FNV-1a over the
token's bytes, finished with the splitmix64 avalanche so that every bit depends on every byte. It is no
cryptographic hash: it keys tables and comparisons, and where a collision would lose a row the bytes
themselves are compared. Eight million tokens collide with probability 2e-6.

Sources: the FNV-1a parameters of Fowler, Noll and Vo; splitmix64 from Steele, Lea and Flood,
"Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

FNV_OFFSET: Final = np.uint64(0xCBF29CE484222325)
FNV_PRIME: Final = np.uint64(0x100000001B3)
_MIX1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX2: Final = np.uint64(0x94D049BB133111EB)


@njit(nogil=True, inline="always")
def mix64(z: np.uint64) -> np.uint64:
    """The splitmix64 finaliser: a bijection of 64 bits in which every output bit depends on every input bit."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@njit(nogil=True)
def fingerprint64(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """The fingerprint of ``data[start:stop]``.

    Eight bytes are folded at a time, the rest one by one: a fold of eight is one multiplication.
    """
    h = FNV_OFFSET ^ np.uint64(stop - start)
    i = start
    while i + 8 <= stop:
        w = np.uint64(0)
        for k in range(8):
            w |= np.uint64(data[i + k]) << np.uint64(8 * k)
        h = mix64(h ^ w) * FNV_PRIME
        i += 8
    while i < stop:
        h = (h ^ np.uint64(data[i])) * FNV_PRIME
        i += 1
    return mix64(h)


@njit(nogil=True, cache=True)
def fingerprints(data: NDArray[np.uint8], offsets: NDArray[np.uint32], out: NDArray[np.uint64]) -> None:
    """Fills ``out[i]`` with the fingerprint of ``data[offsets[i]:offsets[i + 1]]``.

    ``data`` uint8[bytes], ``offsets`` uint32[rows + 1], ``out`` uint64[rows].
    """
    for row in range(out.size):
        out[row] = fingerprint64(data, np.int64(offsets[row]), np.int64(offsets[row + 1]))
