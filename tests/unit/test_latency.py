"""The latency histogram: small, mergeable, and never further off than it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashcast import latency

MICROSECONDS = st.integers(0, latency.US_MAX)


@njit
def _indices(times):  # type: ignore[no-untyped-def]
    out = np.empty(times.size, np.int64)
    for i in range(times.size):
        out[i] = latency.bucket_index(times[i])
    return out


def _histogram(times: list[int]) -> latency.NDArray[np.int64]:
    histogram = latency.empty()
    for us in times:
        histogram[latency.bucket_of(us)] += 1
    return histogram


@given(MICROSECONDS)
def test_every_time_lies_within_its_own_bucket(us: int) -> None:
    first, last = latency.bounds(latency.bucket_of(us))
    assert first <= us <= last


def test_buckets_follow_each_other_without_a_gap() -> None:
    edges = [latency.bounds(bucket) for bucket in range(latency.BUCKETS)]
    assert edges[0][0] == 0
    assert edges[-1][1] == latency.US_MAX
    assert all(left[1] + 1 == right[0] for left, right in itertools.pairwise(edges))


def test_the_kernel_and_the_plain_function_agree_at_every_edge_and_beyond_the_range() -> None:
    edges = [edge for bucket in range(latency.BUCKETS) for edge in latency.bounds(bucket)]
    times = np.array([-(2**40), -1, *edges, latency.US_MAX + 1, 2**62], np.int64)
    assert _indices(times).tolist() == [latency.bucket_of(int(us)) for us in times]


@given(st.lists(MICROSECONDS, min_size=1, max_size=200), st.floats(0, 100))
def test_a_percentile_is_within_a_64th_of_the_true_one(times: list[int], p: float) -> None:
    true = sorted(times)[max(1, math.ceil(p * len(times) / 100)) - 1]
    assert abs(latency.percentile(_histogram(times), p) - true) <= true * latency.RELATIVE_ERROR_MAX


@given(st.lists(MICROSECONDS), st.lists(MICROSECONDS))
def test_merging_counts_what_both_counted(left: list[int], right: list[int]) -> None:
    merged = latency.merge([_histogram(left), _histogram(right)])
    assert merged.tolist() == _histogram(left + right).tolist()


def test_no_reply_has_no_percentile() -> None:
    assert math.isnan(latency.percentile(latency.empty(), 50))


def test_times_shorter_than_64_us_are_exact() -> None:
    assert [latency.percentile(_histogram([us]), 50) for us in range(64)] == [float(us) for us in range(64)]


@pytest.mark.parametrize("p", [-1, 100.5, math.nan])
def test_a_percentile_outside_0_to_100_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        latency.percentile(latency.empty(), p)


@pytest.mark.parametrize("bucket", [-1, latency.BUCKETS])
def test_a_bucket_outside_the_histogram_is_refused(bucket: int) -> None:
    with pytest.raises(IndexError):
        latency.bounds(bucket)
