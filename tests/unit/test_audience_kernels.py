"""The compiled loops: exact where fingerprints collide, and right at every size of table."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from audience_data import apns_token
from hypothesis import given, settings
from hypothesis import strategies as st

from flashcast.audience import kernels
from flashcast.audience.arrays import NOTHING, VarBytes, empty_column
from flashcast.audience.builder import ShardBuilder
from flashcast.audience.drops import BAD_TOKEN, DUPLICATE_TOKEN, KEPT, SECOND_DEVICE
from flashcast.audience.screen import Rendered, Screened
from flashcast.audience.shards import Shard


def strings(values: list[bytes]) -> VarBytes:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.uint32)
    return VarBytes(np.frombuffer(b"".join(values), np.uint8).copy(), offsets)


def batch(
    tokens: list[bytes], users: list[bytes], codes: list[int], hashes: list[int], user_hashes: list[int]
) -> Screened:
    rows = len(tokens)
    return Screened(
        0, np.array(codes, np.uint8), np.zeros(rows, np.uint8), strings(tokens), np.array(hashes, np.uint64),
        strings(users), np.array(user_hashes, np.uint64),
    )  # fmt: skip


def admitted(folder: Path, screened: Screened, *, one_per_user: bool = False, shard_rows: int = 4) -> list[int]:
    """The verdicts of a batch, admitted with no fields."""
    builder = ShardBuilder(
        folder, {0: [], 1: []}, shard_rows=shard_rows, one_per_user=one_per_user, limit=None, expected=None
    )
    rendered = {}
    for code in (0, 1):
        rows = np.flatnonzero((screened.verdicts == KEPT) & (screened.codes == code))
        rendered[code] = Rendered(rows, np.zeros(rows.size, np.uint8), ())
    builder.add(screened, rendered)
    facts = builder.finish()
    builder.close()
    kept = [
        shard.tokens.bytes(row)
        for shard in (Shard(folder / each.file) for each in facts)
        for row in range(shard.rows)
    ]
    order = [
        screened.tokens.bytes(row)
        for code in (0, 1)
        for row in np.flatnonzero((screened.verdicts == KEPT) & (screened.codes == code)).tolist()
    ]
    assert kept == order
    verdicts: list[int] = screened.verdicts.tolist()
    return verdicts


def test_tokens_whose_fingerprints_are_equal_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    tokens = [apns_token(n).encode() for n in range(20)]
    screened = batch(tokens * 2, [b""] * 40, [0] * 40, [7] * 40, [0] * 40)
    assert admitted(tmp_path, screened) == [KEPT] * 20 + [DUPLICATE_TOKEN] * 20


def test_users_whose_fingerprints_are_equal_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    tokens = [b"t%d" % n for n in range(20)]
    users = [b"u%d" % (n % 10) for n in range(20)]
    screened = batch(tokens, users, [n % 2 for n in range(20)], list(range(20)), [9] * 20)
    assert admitted(tmp_path, screened, one_per_user=True) == [KEPT] * 10 + [SECOND_DEVICE] * 10


def test_a_token_that_is_the_beginning_of_another_is_another(tmp_path: Path) -> None:
    screened = batch([b"abcd", b"abc", b"abcde", b"abcd"], [b""] * 4, [0] * 4, [1] * 4, [0] * 4)
    assert admitted(tmp_path, screened) == [KEPT, KEPT, KEPT, DUPLICATE_TOKEN]


@pytest.mark.parametrize("region", [0, 255])
def test_a_region_of_the_table_that_fills_up_makes_it_grow(tmp_path: Path, region: int) -> None:
    rows = 3_000
    rng = random.Random(1)
    tokens = [b"%d" % n for n in range(rows)]
    hashes = [region << 56 | rng.getrandbits(32) for _ in range(rows)]
    screened = batch(tokens * 2, [b""] * (2 * rows), [0] * (2 * rows), hashes * 2, [0] * (2 * rows))
    assert rows > kernels.TABLE_SLOTS_MIN // kernels.REGIONS
    assert admitted(tmp_path, screened, shard_rows=1_000) == [KEPT] * rows + [DUPLICATE_TOKEN] * rows


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans()), min_size=1, max_size=60),
    shard_rows=st.integers(1, 9),
    one_per_user=st.booleans(),
    spread=st.booleans(),
)
def test_admission_agrees_with_two_python_sets(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, bool]],
    shard_rows: int,
    one_per_user: bool,
    spread: bool,
) -> None:
    seen: set[tuple[bool, int]] = set()
    owners: set[int] = set()
    expected = []
    for token, user, apple in rows:
        if (apple, token) in seen:
            expected.append(DUPLICATE_TOKEN)
        elif one_per_user and user and user in owners:
            expected.append(SECOND_DEVICE)
        else:
            seen.add((apple, token))
            owners.add(user)
            expected.append(KEPT)
    screened = batch(
        [b"token-%d" % token for token, _, _ in rows],
        [b"user-%d" % user if user else b"" for _, user, _ in rows],
        [0 if apple else 1 for _, _, apple in rows],
        [token * 0x9E3779B97F4A7C15 % 2**64 if spread else 5 for token, _, _ in rows],
        [user * 0x9E3779B97F4A7C15 % 2**64 if spread else 5 for _, user, _ in rows],
    )
    folder = tmp_path_factory.mktemp("shards")
    assert admitted(folder, screened, one_per_user=one_per_user, shard_rows=shard_rows) == expected


@settings(max_examples=100, deadline=None)
@given(
    listed=st.lists(st.binary(max_size=6), max_size=30),
    asked=st.lists(st.binary(max_size=6), min_size=1, max_size=30),
)
def test_suppression_agrees_with_a_python_set(listed: list[bytes], asked: list[bytes]) -> None:
    column, question = strings(listed), strings(asked)
    slots = kernels.build_set(column.data, column.offsets, np.zeros(64, np.int64), False)
    verdicts = np.zeros(len(asked), np.uint8)
    kernels.suppress(question.data, question.offsets, verdicts, column.data, column.offsets, slots)
    assert [bool(verdict) for verdict in verdicts] == [value != b"" and value in set(listed) for value in asked]


@settings(deadline=None)
@given(st.binary(min_size=60, max_size=70))
def test_only_hexadecimal_of_even_length_is_an_apns_token(value: bytes) -> None:
    column = strings([value])
    verdicts, hashes = np.zeros(1, np.uint8), np.zeros(1, np.uint64)
    kernels.screen_tokens(column.data, column.offsets, np.zeros(1, np.uint8), verdicts, hashes)
    hexadecimal = all(c in b"0123456789abcdefABCDEF" for c in value)
    good = hexadecimal and len(value) >= 64 and len(value) % 2 == 0
    assert verdicts[0] == (KEPT if good else BAD_TOKEN)


def test_every_byte_is_judged_in_both_kinds_of_token() -> None:
    for code, good in (
        (0, b"0123456789abcdefABCDEF"),
        (1, bytes(c for c in range(128) if chr(c).isalnum()) + b"_:.-"),
    ):
        for byte in range(256):
            column = strings([b"a" * 63 + bytes([byte])])
            verdicts, hashes = np.zeros(1, np.uint8), np.zeros(1, np.uint64)
            kernels.screen_tokens(column.data, column.offsets, np.full(1, code, np.uint8), verdicts, hashes)
            assert (verdicts[0] == KEPT) == (byte in good), (code, byte)


def test_gathering_appends_the_chosen_rows() -> None:
    source = strings([b"a", b"", b"ccc", b"dd"])
    data, offsets = np.zeros(16, np.uint8), np.zeros(6, np.uint32)
    kernels.gather(source.data, source.offsets, np.array([2, 1]), data, offsets, 0)
    kernels.gather(source.data, source.offsets, np.array([0, 3]), data, offsets, 2)
    assert offsets.tolist() == [0, 3, 3, 4, 6, 0]
    assert data[:6].tobytes() == b"cccadd"


def test_columns_without_strings_are_empty() -> None:
    assert empty_column(3).rows == 3
    assert NOTHING.rows == 0
