"""Who sends which rows: chunks are taken once, by one lane, before any of their rows is sent.

Here one process holds the whole launch, so a lock is the claim. With several processes a claim is a key created
in the engine, taken ahead of sending; `Chunks.take` is the seam.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.limits import CHUNK_ROWS
from flashcast.wire.template import Columns


@dataclass(frozen=True)
class ShardRows:
    """A shard as delivery sees it: its columns, and the journal row of its row 0."""

    columns: Columns
    base: int
    rows: int


class Chunk(NamedTuple):
    """A run of rows of one shard: ``rows`` int32[n] counts within the shard, ascending."""

    shard: ShardRows
    rows: NDArray[np.int32]


class Chunks:
    """The rows of one provider that are still to be sent, in chunks. Thread-safe."""

    def __init__(self, shards: list[ShardRows], unsent: NDArray[np.bool_] | None = None) -> None:
        """``unsent`` bool[rows of the journal] leaves out what a crashed launch had already dealt with."""
        self._lock = threading.Lock()
        self._pending: deque[tuple[ShardRows, int]] = deque(
            (shard, start) for shard in shards for start in range(0, shard.rows, CHUNK_ROWS)
        )
        self._unsent = unsent
        # One array serves every chunk: a chunk of consecutive rows is a view of it.
        longest = max((shard.rows for shard in shards), default=0)
        self._numbers = np.arange(longest, dtype=np.int32)

    def __repr__(self) -> str:
        return f"<Chunks {len(self._pending)} left>"

    def take(self) -> Chunk | None:
        """Claims the next chunk with rows in it; None when there is none."""
        while True:
            with self._lock:
                if not self._pending:
                    return None
                shard, start = self._pending.popleft()
            rows = self._numbers[start : min(start + CHUNK_ROWS, shard.rows)]
            if self._unsent is not None:
                rows = rows[self._unsent[shard.base + start : shard.base + start + rows.size]]
            if rows.size:
                return Chunk(shard, rows)

    def clear(self) -> None:
        """Nothing more is to be claimed: the launch is aborted, stopped or out of time."""
        with self._lock:
            self._pending.clear()
