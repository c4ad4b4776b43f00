"""Who sends which rows: chunks are taken once, by one lane, before any of their rows is sent.

A shard is cut into chunks by `grid`, the same at every worker. Which worker sends a chunk is decided outside (a key
created in the engine, ahead of sending); which lane of this worker sends it is decided by `Chunks`, whose lock is the
claim.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.limits import CHUNK_ROWS
from flashcast.wire.template import Columns


class Span(NamedTuple):
    """The rows of one chunk of a shard, ``start`` to ``stop``, and the stage that has to be open for them."""

    start: int
    stop: int
    stage: int


def grid(rows: int, chunk_rows: int, shares: Sequence[float] = ()) -> list[Span]:
    """The chunks of a shard, in order. A pure function of its arguments: every worker cuts alike.

    ``shares`` are cumulative and ascending: stage i ends at row ``ceil(shares[i] * rows)``, and the last stage, number
    ``len(shares)``, takes the rest. No chunk crosses the border of a stage; none is empty.
    """
    ends = (min(rows, math.ceil(share * rows)) for share in shares)
    borders = list(accumulate((0, *ends, rows), max))
    return [
        Span(start, min(start + chunk_rows, end), stage)
        for stage, (begin, end) in enumerate(pairwise(borders))
        for start in range(begin, end, chunk_rows)
    ]


@dataclass(eq=False)
class ShardRows:
    """A shard as delivery sees it: its columns, and the journal row of its row 0."""

    columns: Columns
    base: int
    rows: int
    gone: bool = False
    """It is another worker's now: nothing more of it is sent. Lanes look before each volley."""


class Chunk(NamedTuple):
    """A run of rows of one shard: ``rows`` int32[n] counts within the shard."""

    shard: ShardRows
    rows: NDArray[np.int32]


class Chunks:
    """The rows of one provider that are still to be sent, in chunks: a queue. Thread-safe.

    Open, more can be added; closed, what is in it is all there is.
    """

    def __init__(self, shards: Iterable[ShardRows] = (), unsent: NDArray[np.bool_] | None = None) -> None:
        """All rows of ``shards``, and closed. ``unsent`` bool[rows of the journal] leaves out what needs no sending."""
        self._lock = threading.Lock()
        self._pending: deque[Chunk] = deque()
        self.closed = False
        self.handed = 0
        """Chunks handed out so far."""
        self.waiting_rows = 0
        """Rows that no lane has taken yet."""
        shards = list(shards)
        # One array serves every chunk: a chunk of consecutive rows is a view of it.
        numbers = np.arange(max((shard.rows for shard in shards), default=0), dtype=np.int32)
        for shard in shards:
            for start, stop, _ in grid(shard.rows, CHUNK_ROWS):
                rows = numbers[start:stop]
                self.add(Chunk(shard, rows if unsent is None else rows[unsent[shard.base + start : shard.base + stop]]))
        self.closed = True

    @classmethod
    def fed(cls) -> Chunks:
        """An empty queue, open."""
        made = cls()
        made.closed = False
        return made

    def __repr__(self) -> str:
        return f"<Chunks {len(self._pending)} left, {self.handed} handed out{', closed' if self.closed else ''}>"

    def add(self, chunk: Chunk) -> bool:
        """Puts a chunk at the end. Returns whether the queue was still open; a chunk without rows is left out."""
        with self._lock:
            if not self.closed and chunk.rows.size:
                self._pending.append(chunk)
                self.waiting_rows += chunk.rows.size
            return not self.closed

    def take(self) -> Chunk | None:
        """Hands out the next chunk; None when there is none."""
        with self._lock:
            if not self._pending:
                return None
            chunk = self._pending.popleft()
            self.handed += 1
            self.waiting_rows -= chunk.rows.size
            return chunk

    def glance(self) -> tuple[int, int]:
        """``handed`` and ``waiting_rows`` of one moment."""
        with self._lock:
            return self.handed, self.waiting_rows

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take now."""
        return not self._pending

    def discard(self, shard: ShardRows) -> None:
        """Leaves out what waits of a shard."""
        with self._lock:
            self._pending = deque(chunk for chunk in self._pending if chunk.shard is not shard)
            self.waiting_rows = sum(chunk.rows.size for chunk in self._pending)

    def close(self) -> None:
        """Nothing will be added any more: who finds the queue empty has finished."""
        with self._lock:
            self.closed = True

    def clear(self) -> None:
        """Nothing more is to be sent: the launch is aborted, stopped or out of time."""
        with self._lock:
            self.closed = True
            self._pending.clear()
            self.waiting_rows = 0
