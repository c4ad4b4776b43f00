"""What several workers know of the same rows, merged into one outcome for each.

Each row's bytes are made one number, in which better knowledge (certainty.py) is greater, and the greatest counts. A
maximum does not depend on the order of the sources nor on how often one is read, and an answer from a provider is never
lost to a guess.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.audience.manifest import Manifest
from flashcast.certainty import certainty
from flashcast.outcomes import Outcome, Reason
from flashcast.report.ledger import NO_REPLY


class Part(NamedTuple):
    """What one source knows of a shard's rows: uint8, uint8, uint8 and uint32, ``rows`` entries each from ``base``."""

    base: int
    rows: int
    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    attempts: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]
    owned: bool = True
    """Whether it is the last word of a worker that held the shard to the end."""


@dataclass(frozen=True)
class MergedRows:
    """What all sources together know of every row of a snapshot; the arrays are those of `Rows`.

    ``missing`` are the shards of which there is no source at all, ``partial`` those of which the last word is missing:
    all sources are of workers that had lost the shard, or had not settled it yet.
    """

    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    attempts: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]
    missing: tuple[int, ...] = ()
    partial: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<MergedRows {self.outcome.size:,}, {len(self.missing)} shards missing, {len(self.partial)} partial>"


def merge(manifest: Manifest, parts: Iterable[Part]) -> MergedRows:
    """Merges what several sources know: see the module's docstring.

    Each part lies within one shard. Raises ValueError for one that does not.
    """
    bases = [facts.base for facts in manifest.shards]
    total = sum(facts.rows for facts in manifest.shards)
    known = np.zeros(total, np.uint64)
    seen: set[int] = set()
    whole: set[int] = set()
    for part in parts:
        index = bisect_right(bases, part.base) - 1
        facts = manifest.shards[index] if index >= 0 else None
        if facts is None or part.base + part.rows > facts.base + facts.rows:
            raise ValueError(f"rows {part.base} to {part.base + part.rows} are not of one shard")
        span = known[part.base : part.base + part.rows]
        np.maximum(span, _as_numbers(part), out=span)
        seen.add(index)
        if part.owned and part.rows == facts.rows:
            whole.add(index)
    every = set(range(len(bases)))
    return _as_rows(known, missing=tuple(sorted(every - seen)), partial=tuple(sorted(seen - whole)))


def _as_numbers(part: Part) -> NDArray[np.uint64]:
    """rank << 56 | outcome << 48 | reason << 40 | attempts << 32 | reply_ms, complemented: the earlier is greater."""
    outcome, reason = part.outcome, part.reason
    died = outcome == Outcome.IN_FLIGHT
    if died.any():
        outcome = np.where(died, np.uint8(Outcome.UNKNOWN), outcome)
        reason = np.where(died, np.uint8(Reason.PROCESS_DIED.code), reason)
    both = (outcome.astype(np.uint16) << np.uint16(8)) | reason
    numbers: NDArray[np.uint64] = certainty(outcome, reason).astype(np.uint64) << np.uint64(56)
    numbers |= both.astype(np.uint64) << np.uint64(40)
    numbers |= part.attempts.astype(np.uint64) << np.uint64(32)
    numbers |= np.uint64(NO_REPLY) - part.reply_ms
    return numbers


def _as_rows(numbers: NDArray[np.uint64], *, missing: tuple[int, ...], partial: tuple[int, ...]) -> MergedRows:
    # The bytes of a little-endian number, the lowest first: reply_ms in four, attempts, reason, outcome, rank.
    little = np.ascontiguousarray(numbers, "<u8").view(np.uint8).reshape(-1, 8)
    reply_ms = np.ascontiguousarray(little[:, :4]).view("<u4").reshape(-1)
    return MergedRows(
        outcome=np.ascontiguousarray(little[:, 6]),
        reason=np.ascontiguousarray(little[:, 5]),
        attempts=np.ascontiguousarray(little[:, 4]),
        reply_ms=np.uint32(NO_REPLY) - reply_ms,
        missing=missing,
        partial=partial,
    )
