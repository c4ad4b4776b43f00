"""Whole columns: the compiled escaping against the plain one, and the choice of variants."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flashcast.campaign.columns import choose_variants, escape_column
from flashcast.campaign.template import json_escape
from flashcast.campaign.variants import VariantChooser, salt_of
from flashcast.errors import AudienceError

AWKWARD = '"\\\x00\x01\x08\t\n\x0b\x0c\r\x1b\x1f\x7f\x80\u2028🏈é'
TEXT = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=20)
CELLS = st.lists(st.one_of(st.none(), TEXT), max_size=30)


def cells(column: tuple[NDArray[np.uint8], NDArray[np.uint32]]) -> list[bytes]:
    data, offsets = column
    assert data.dtype == np.uint8
    assert offsets.dtype == np.uint32
    assert offsets[-1] == data.size
    return [data[start:stop].tobytes() for start, stop in itertools.pairwise(offsets)]


def expected(values: list[str | None], fallback: str) -> list[bytes]:
    return [json_escape(value or fallback) for value in values]


@given(CELLS, TEXT, st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]))
def test_a_column_is_escaped_as_each_text_would_be(values: list[str | None], fallback: str, kind: Any) -> None:
    assert cells(escape_column(pa.array(values, kind), fallback)) == expected(values, fallback)


@given(st.lists(CELLS, max_size=4), TEXT, st.integers(0, 5))
def test_slices_and_chunks_are_escaped_like_one_array(chunks: list[list[str | None]], fallback: str, skip: int) -> None:
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks], pa.string()).slice(skip)
    values = [value for chunk in chunks for value in chunk][skip:]
    assert cells(escape_column(column, fallback)) == expected(values, fallback)


def test_a_column_without_anything_to_escape_is_not_copied() -> None:
    column = pa.array(["plain", "naïve", "🏈"])
    data, _ = escape_column(column, "friend")
    assert data.ctypes.data == column.buffers()[2].address


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, None, -3]), [b"1", b"x", b"-3"]),
        (pa.array([True, False]), [b"true", b"false"]),
        (pa.array([dt.date(2026, 2, 8)]), [b"2026-02-08"]),
        (pa.array([None, None]), [b"x", b"x"]),
        (pa.array([], pa.string()), []),
    ],
)
def test_other_types_are_written_as_text(values: Any, texts: list[bytes]) -> None:
    assert cells(escape_column(values, "x")) == texts


def test_bytes_that_are_not_utf8_are_refused() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(AudienceError, match="UTF-8"):
        escape_column(broken, "")


def test_a_column_of_lists_is_refused() -> None:
    with pytest.raises(AudienceError, match="list"):
        escape_column(pa.array([[1]]), "")


def chooser(**changes: Any) -> VariantChooser:
    values: dict[str, Any] = {
        "column": "locale",
        "by_value": {"de": (1,), "pt-BR": (2,), "zh-Hant": (3,)},
        "default": (0,),
        "weights": {},
        "match_locale": True,
    }
    return VariantChooser(**(values | changes))


IDS = np.arange(1, 9, dtype=np.uint64)


def test_a_locale_falls_back_to_its_language_then_to_the_default() -> None:
    values = ["de", "de-AT", "DE_ch.UTF-8", "pt", "pt_br", "zh-Hant-TW", "zh", None]
    chosen = choose_variants(chooser(), pa.array(values), IDS)
    assert chosen.tolist() == [1, 1, 1, 0, 2, 3, 0, 0]
    assert chosen.dtype == np.uint8


def test_any_other_column_is_compared_exactly() -> None:
    exact = chooser(match_locale=False, by_value={"red-sox": (1,), "red": (2,)})
    values = ["red-sox", "red", "Red", "red-bulls", "", None, "red_sox", "x"]
    assert choose_variants(exact, pa.array(values), IDS).tolist() == [1, 2, 0, 0, 0, 0, 0, 0]


@given(
    st.lists(st.one_of(st.none(), st.sampled_from(["de", "de-AT", "fr", "pt-br", "-", ""])), min_size=1, max_size=40)
)
def test_a_column_is_chosen_as_each_value_would_be(values: list[str | None]) -> None:
    ids = np.zeros(len(values), dtype=np.uint64)
    chosen = choose_variants(chooser(), pa.array(values, pa.string()), ids)
    assert [(each,) for each in chosen.tolist()] == [chooser().arms(value) for value in values]


def test_arms_share_the_rows_by_weight_and_an_id_keeps_its_arm() -> None:
    arms = chooser(column=None, by_value={}, default=(0, 1, 2), weights={0: 50.0, 1: 30.0, 2: 20.0}, salt=salt_of("a"))
    ids = np.random.default_rng(1).integers(0, 2**64, 100_000, dtype=np.uint64)
    chosen = choose_variants(arms, None, ids)
    shares = np.bincount(chosen, minlength=3) / ids.size
    assert np.abs(shares - [0.5, 0.3, 0.2]).max() < 0.01
    order = np.random.default_rng(2).permutation(ids.size)
    assert (choose_variants(arms, None, ids[order]) == chosen[order]).all()


def test_campaigns_split_independently_of_each_other() -> None:
    ids = np.random.default_rng(1).integers(0, 2**64, 100_000, dtype=np.uint64)
    both = [
        choose_variants(chooser(column=None, by_value={}, default=(0, 1), salt=salt_of(name)), None, ids)
        for name in ("a", "b")
    ]
    assert abs(np.mean(both[0] == both[1]) - 0.5) < 0.01


def test_an_arm_without_weight_gets_no_rows() -> None:
    arms = chooser(column=None, by_value={}, default=(0, 1), weights={0: 0.0, 1: 1.0})
    assert set(choose_variants(arms, None, IDS).tolist()) == {1}


def test_a_missing_column_is_told() -> None:
    with pytest.raises(AudienceError, match="locale"):
        choose_variants(chooser(), None, IDS)


def test_the_split_is_part_of_the_format_and_does_not_change() -> None:
    """A launch that is sealed again after an upgrade must put every user into the same arm."""
    arms = chooser(column=None, by_value={}, default=(0, 1), salt=salt_of("superbowl"))
    assert choose_variants(arms, None, np.arange(16, dtype=np.uint64)).tolist() == [
        0,
        1,
        1,
        0,
        0,
        0,
        1,
        1,
        0,
        1,
        1,
        1,
        0,
        0,
        1,
        1,
    ]
