"""Chunks: every row is in one, and each is taken once, by whichever thread comes first."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.deliver.claims import Chunk, Chunks, ShardRows, Span, grid
from flashcast.limits import CHUNK_ROWS
from flashcast.wire.template import Columns

NONE = Columns(np.zeros(0, np.int64), np.zeros(0, np.uint8), ())


def shards(*rows: int) -> list[ShardRows]:
    bases = np.cumsum((0, *rows)).tolist()
    return [ShardRows(NONE, base, count) for base, count in zip(bases, rows, strict=False)]


def journal_rows(chunk: Chunk) -> list[int]:
    return (chunk.rows + chunk.shard.base).tolist()


def all_of(chunks: Chunks) -> list[Chunk]:
    taken = []
    while (chunk := chunks.take()) is not None:
        taken.append(chunk)
    return taken


def test_the_rows_of_all_shards_come_once_in_order() -> None:
    held = shards(3 * CHUNK_ROWS + 5, 1, CHUNK_ROWS, 0, 7)
    taken = all_of(Chunks(held))
    assert [row for chunk in taken for row in journal_rows(chunk)] == list(range(4 * CHUNK_ROWS + 13))
    assert max(chunk.rows.size for chunk in taken) == CHUNK_ROWS
    assert all(chunk.rows.dtype == np.int32 for chunk in taken)


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_take_each_chunk_once(threads: int) -> None:
    chunks = Chunks(shards(200 * CHUNK_ROWS, 100))
    begin = threading.Barrier(threads)
    taken: list[list[Chunk]] = [[] for _ in range(threads)]

    def take(mine: list[Chunk]) -> None:
        begin.wait()
        mine.extend(all_of(chunks))

    workers = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    firsts = Counter((chunk.shard.base, int(chunk.rows[0])) for mine in taken for chunk in mine)
    assert len(firsts) == 201
    assert set(firsts.values()) == {1}
    assert sum(chunk.rows.size for mine in taken for chunk in mine) == 200 * CHUNK_ROWS + 100


def test_what_a_crashed_launch_dealt_with_is_left_out() -> None:
    unsent = np.zeros(3 * CHUNK_ROWS, bool)
    unsent[[5, 2 * CHUNK_ROWS + 1, 3 * CHUNK_ROWS - 1]] = True
    taken = all_of(Chunks(shards(CHUNK_ROWS, 2 * CHUNK_ROWS), unsent))
    assert [row for chunk in taken for row in journal_rows(chunk)] == np.flatnonzero(unsent).tolist()
    assert len(taken) == 2, "a chunk without rows is not worth a claim"


def test_nothing_is_claimed_after_an_abort() -> None:
    chunks = Chunks(shards(3 * CHUNK_ROWS))
    assert chunks.take() is not None
    chunks.clear()
    assert chunks.take() is None


def test_no_shards_have_no_chunks() -> None:
    assert Chunks([]).take() is None


# --- a queue that is fed --------------------------------------------------------------------------------


def chunk_of(shard: ShardRows, *rows: int) -> Chunk:
    return Chunk(shard, np.array(rows, np.int32))


def test_an_open_queue_gives_what_was_added_in_its_order() -> None:
    chunks, (one, other) = Chunks.fed(), shards(10, 10)
    assert not chunks.closed
    assert chunks.take() is None
    assert chunks.add(chunk_of(other, 3, 4))
    assert chunks.add(chunk_of(one, 1))
    assert (chunks.waiting_rows, chunks.handed) == (3, 0)
    assert journal_rows(chunks.take()) == [13, 14]  # type: ignore[arg-type]
    assert chunks.glance() == (1, 1)
    assert journal_rows(chunks.take()) == [1]  # type: ignore[arg-type]
    assert chunks.take() is None
    assert chunks.glance() == (2, 0), "who finds nothing is handed nothing"


def test_a_chunk_without_rows_is_left_out() -> None:
    chunks, (shard,) = Chunks.fed(), shards(10)
    assert chunks.add(chunk_of(shard))
    assert chunks.empty


def test_a_closed_queue_is_emptied_and_takes_nothing_more() -> None:
    chunks, (shard,) = Chunks.fed(), shards(10)
    chunks.add(chunk_of(shard, 1))
    chunks.close()
    assert not chunks.add(chunk_of(shard, 2))
    assert [journal_rows(chunk) for chunk in all_of(chunks)] == [[1]]


def test_a_cleared_queue_takes_nothing_more() -> None:
    chunks, (shard,) = Chunks.fed(), shards(10)
    chunks.add(chunk_of(shard, 1))
    chunks.clear()
    assert not chunks.add(chunk_of(shard, 2))
    assert chunks.glance() == (0, 0)
    assert chunks.take() is None


def test_what_waits_of_one_shard_can_be_left_out() -> None:
    chunks, (one, other) = Chunks.fed(), shards(10, 10)
    for shard in (one, other, one):
        chunks.add(chunk_of(shard, 5))
    chunks.discard(one)
    assert chunks.waiting_rows == 1
    assert [journal_rows(chunk) for chunk in all_of(chunks)] == [[15]]


def test_a_prefilled_queue_is_closed() -> None:
    chunks = Chunks(shards(CHUNK_ROWS + 1))
    assert chunks.closed
    assert chunks.waiting_rows == CHUNK_ROWS + 1


# --- where a shard is cut -------------------------------------------------------------------------------


def test_a_shard_is_cut_into_chunks_of_one_size_and_a_rest() -> None:
    assert grid(25, 10) == [Span(0, 10, 0), Span(10, 20, 0), Span(20, 25, 0)]
    assert grid(0, 10) == []


def test_a_stage_ends_at_its_share_rounded_up_and_no_chunk_crosses_its_border() -> None:
    assert grid(25, 10, (0.1, 0.5)) == [
        Span(0, 3, 0), Span(3, 13, 1), Span(13, 23, 2), Span(23, 25, 2),
    ]  # fmt: skip


def test_every_shard_has_a_row_in_the_first_stage() -> None:
    assert grid(3, 10, (0.01,)) == [Span(0, 1, 0), Span(1, 3, 1)]


@given(
    rows=st.integers(0, 5_000),
    chunk_rows=st.integers(1, 700),
    shares=st.lists(st.floats(0.001, 0.999), max_size=4).map(sorted),
)
def test_every_row_is_in_one_chunk_and_stages_come_in_their_order(
    rows: int, chunk_rows: int, shares: list[float]
) -> None:
    spans = grid(rows, chunk_rows, shares)
    assert [row for span in spans for row in range(span.start, span.stop)] == list(range(rows))
    assert all(0 < span.stop - span.start <= chunk_rows for span in spans)
    assert [span.stage for span in spans] == sorted(span.stage for span in spans)
    for number, share in enumerate(shares):
        sent = sum(span.stop - span.start for span in spans if span.stage <= number)
        assert share * rows <= sent < share * rows + 1


def test_shares_out_of_order_still_send_every_row_once() -> None:
    spans = grid(100, 10, (0.5, 0.2))
    assert [row for span in spans for row in range(span.start, span.stop)] == list(range(100))
