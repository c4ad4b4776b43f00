"""How long replies took, in a kilobyte or seven instead of a list of millions.

The problem: percentiles of millions of reply times, counted by kernels that must not allocate. Sorting
them all costs memory per row; sampling loses the tail, which is what one looks at. So replies are counted
in a log-linear histogram, the idea of HdrHistogram: each power of two is cut into 32 equal buckets, so
that a bucket is never wider than 1/32 of the values in it, and a percentile read from its middle is at
most 1/64 (1.6 %) off, over the whole range from 1 microsecond to 35 minutes.

    microseconds   0 1 2 ... 31 | 32 33 ... 63 | 64-65 66-67 ... 126-127 | 128-131 ...
    bucket         0 1 2 ... 31 | 32 33 ... 63 | 64    65    ... 95      | 96      ...
    width          1            | 1            | 2                       | 4

Histograms of several lanes are added bucket by bucket. Source: Gil Tene, HdrHistogram.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

SUB_BITS: Final = 5
SUB_BUCKETS: Final = 1 << SUB_BITS
"""Buckets per power of two."""
MAX_BITS: Final = 31
US_MAX: Final = (1 << MAX_BITS) - 1
"""The longest time told apart, 35 minutes; a longer one counts as this."""
BUCKETS: Final = (MAX_BITS - SUB_BITS + 1) * SUB_BUCKETS
"""Length of a histogram: int64[864]."""
RELATIVE_ERROR_MAX: Final = 1 / (2 * SUB_BUCKETS)
"""How far a percentile can be from the true value, as a share of it."""

# A double holds the exponent above 52 bits of mantissa, so its top bits down to the fifth of the mantissa
# number the buckets by themselves. This constant moves the number for 32 (exponent 5) to bucket 32.
_MANTISSA_SHIFT: Final = 52 - SUB_BITS
_BIAS: Final = ((1_023 + SUB_BITS) << SUB_BITS) - SUB_BUCKETS


def bucket_of(us: int) -> int:
    """The bucket a time of ``us`` microseconds is counted in; below 0 counts as 0, beyond `US_MAX` as it."""
    us = min(max(us, 0), US_MAX)
    if us < SUB_BUCKETS:
        return us
    shift = us.bit_length() - 1 - SUB_BITS
    return shift * SUB_BUCKETS + (us >> shift)


@njit(nogil=True, inline="always")
def bucket_index(us: int) -> np.int64:
    """`bucket_of` for compiled kernels, without a loop: ``us`` int64, result int64 in [0, BUCKETS)."""
    if us < SUB_BUCKETS:
        return np.int64(max(us, 0))
    return np.int64((np.float64(min(us, US_MAX)).view(np.int64) >> _MANTISSA_SHIFT) - _BIAS)


def bounds(bucket: int) -> tuple[int, int]:
    """The first and the last microsecond counted in ``bucket``. Raises IndexError outside [0, BUCKETS)."""
    if not 0 <= bucket < BUCKETS:
        raise IndexError(f"bucket {bucket} is outside [0, {BUCKETS})")
    if bucket < SUB_BUCKETS:
        return bucket, bucket
    shift = bucket // SUB_BUCKETS - 1
    first = (SUB_BUCKETS + bucket % SUB_BUCKETS) << shift
    return first, first + (1 << shift) - 1


def empty() -> NDArray[np.int64]:
    """A histogram without a reply: int64[BUCKETS]."""
    return np.zeros(BUCKETS, np.int64)


def percentile(histogram: NDArray[np.int64], p: float) -> float:
    """The time that ``p`` per cent of the replies did not exceed, in microseconds; NaN where there was none.

    ``histogram`` int64[BUCKETS], ``p`` in [0, 100]. The nearest-rank definition: the result is within
    `RELATIVE_ERROR_MAX` of a time that was really counted. Raises ValueError for another ``p``.
    """
    if not 0 <= p <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {p}")
    cumulative = np.cumsum(histogram)
    total = int(cumulative[-1])
    if total == 0:
        return math.nan
    rank = max(1, math.ceil(p * total / 100))
    first, last = bounds(int(np.searchsorted(cumulative, rank)))
    return (first + last) / 2


def merge(histograms: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The histogram of all replies of ``histograms``: a new int64[BUCKETS]."""
    total = empty()
    for histogram in histograms:
        total += histogram
    return total
