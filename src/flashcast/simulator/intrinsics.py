"""What numba lacks for byte work: a block copy, 8-byte loads and stores, eight characters judged at once.

A byte loop in numba checks every index for a negative sign and is not made into wide loads; a request is
some 200 bytes, so that alone would cost more than everything else done for it.

Kernels are compiled without numba's reference counting (`_nrt=False`): none of them allocates, and two
atomic operations for each array at each call made a request cost four times as much (1.19 us against 0.31).
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, warn-return-any=False

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from flashcast.digest import FNV_OFFSET, FNV_PRIME, mix64

LOAD_SLACK_BYTES: Final = 8
"""`load64` may read this far past the last byte asked for; every buffer is longer by it."""

_TOP: Final = np.uint64(0x8080808080808080)
_ONES: Final = np.uint64(0x0101010101010101)


@intrinsic
def memcpy(typingctx: Any, target: Any, target_at: Any, source: Any, source_at: Any, size: Any) -> Any:
    """Copies ``size`` bytes between two uint8 arrays that do not overlap. Bounds are the caller's care."""
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        into = context.make_array(signature.args[0])(context, builder, args[0])
        out_of = context.make_array(signature.args[2])(context, builder, args[2])
        cgutils.raw_memcpy(
            builder, builder.gep(into.data, [args[1]]), builder.gep(out_of.data, [args[3]]), args[4], 1
        )
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def load64(typingctx: Any, source: Any, at: Any) -> Any:
    """The eight bytes of a uint8 array from ``at`` on, as a little-endian uint64, wherever they are aligned."""
    signature = types.uint64(source, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        word = builder.load(pointer)
        word.align = 1
        return word

    return signature, codegen


@intrinsic
def store64(typingctx: Any, target: Any, at: Any, word: Any) -> Any:
    """Writes a uint64 into a uint8 array at ``at``, least significant byte first."""
    signature = types.void(target, types.intp, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        builder.store(args[2], pointer).align = 1
        return context.get_dummy_value()

    return signature, codegen


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def hex_digits(value: np.uint64, letters: int) -> np.uint64:
    """Eight hexadecimal digits of a 32-bit value, first digit in the lowest byte, for `store64`.

    ``letters`` is what lies between '9' and 'A' or 'a': 7 or 39.
    """
    # Swap the bytes, then give each nibble a byte of its own, high nibble first.
    x = value & np.uint64(0xFFFFFFFF)
    x = ((x & np.uint64(0x00FF00FF)) << np.uint64(8)) | ((x >> np.uint64(8)) & np.uint64(0x00FF00FF))
    x = ((x & np.uint64(0xFFFF)) << np.uint64(16)) | (x >> np.uint64(16))
    x = (x | (x << np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    x = (x | (x << np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = ((x >> np.uint64(4)) | (x << np.uint64(8))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    above = ((x + np.uint64(0x0606060606060606)) >> np.uint64(4)) & _ONES
    return x + np.uint64(0x3030303030303030) + above * np.uint64(letters)


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def same_bytes(a: NDArray[np.uint8], at: int, b: NDArray[np.uint8], bt: int, size: int) -> bool:
    """Whether ``a[at:at + size]`` equals ``b[bt:bt + size]``."""
    i = 0
    while i + 8 <= size:
        if load64(a, at + i) != load64(b, bt + i):
            return False
        i += 8
    if i < size:
        keep = (np.uint64(1) << np.uint64(8 * (size - i))) - np.uint64(1)
        return (load64(a, at + i) ^ load64(b, bt + i)) & keep == np.uint64(0)
    return True


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _at_least(word: np.uint64, low: int) -> np.uint64:
    # Each byte is below 128, so adding 128 - low sets its top bit exactly where it is at least low.
    return word + np.uint64(128 - low) * _ONES


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def all_hex(word: np.uint64) -> bool:
    """Whether all eight bytes are of [0-9a-f]."""
    if word & _TOP != np.uint64(0):
        return False
    good = (_at_least(word, 0x30) & ~_at_least(word, 0x3A)) | (_at_least(word, 0x61) & ~_at_least(word, 0x67))
    return good & _TOP == _TOP


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def all_token(word: np.uint64) -> bool:
    """Whether all eight bytes are of [A-Za-z0-9_:.-], the characters of an FCM registration token."""
    if word & _TOP != np.uint64(0):
        return False
    good = (
        (_at_least(word, 0x61) & ~_at_least(word, 0x7B))
        | (_at_least(word, 0x41) & ~_at_least(word, 0x5B))
        | (_at_least(word, 0x30) & ~_at_least(word, 0x3B))
        | (_at_least(word, 0x2D) & ~_at_least(word, 0x2F))
        | (_at_least(word, 0x5F) & ~_at_least(word, 0x60))
    )
    return good & _TOP == _TOP


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def token_byte(c: int) -> bool:
    """Whether a byte is of [A-Za-z0-9_:.-]."""
    return (97 <= c <= 122) or (65 <= c <= 90) or (48 <= c <= 58) or c == 45 or c == 46 or c == 95


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def fingerprint(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """`flashcast.digest.fingerprint64`, with wide loads. A test holds the two together."""
    h = FNV_OFFSET ^ np.uint64(stop - start)
    i = start
    while i + 8 <= stop:
        h = mix64(h ^ load64(data, i)) * FNV_PRIME
        i += 8
    while i < stop:
        h = (h ^ np.uint64(data[i])) * FNV_PRIME
        i += 1
    return mix64(h)
