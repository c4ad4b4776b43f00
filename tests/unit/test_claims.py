"""Chunks: every row is claimed once, by whichever thread comes first."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from flashcast.deliver.claims import Chunk, Chunks, ShardRows
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
