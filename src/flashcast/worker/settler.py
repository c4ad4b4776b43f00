"""The last entries: outcome files beside the snapshot, then the word that a shard is settled.

The order is what makes `done` mean something: rows settled in the journal, outcome file and facts written whole, and
only then the compare-and-swap of the shard's record. A worker that lost the shard in between finds out by that and
writes what it knows under its own epoch; merging ranks the two (report/settled.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.campaign.records import ShardRecord, shard_key
from flashcast.engine.base import EngineUnavailable, RevisionConflictError
from flashcast.errors import FlashcastError
from flashcast.report.settled import write_facts, write_settled
from flashcast.worker.facts import worker_facts
from flashcast.worker.mine import Mine

if TYPE_CHECKING:
    from flashcast.worker.launch_work import LaunchWork

AGAIN_S: Final = 1.0
"""A file that could not be written (a full disk, a store that does not answer) is tried again so often."""


class Settler:
    """See the module's docstring."""

    def __init__(self, work: LaunchWork) -> None:
        self.work = work
        self._not_before_ns = 0
        self._written: set[tuple[int, int]] = set()

    async def settle(self) -> None:
        """Writes and closes every open shard of this worker's."""
        await self.write_lost()
        ready = [m for m in self.work.holder.mine.values() if m.open and m.resolved and m.ready]
        if not ready or not await self._write(ready, owned=True):
            return
        await asyncio.gather(*(self._close(mine) for mine in ready))

    async def write_lost(self, *, leaving: bool = False) -> bool:
        """Writes what this worker knows of shards that are others' now, or will be when it has left.

        Returns whether nothing is left to write: what is on the wire is waited for, a place that cannot be written to
        is tried again.
        """
        if self.work.record.go is None:
            return True
        lost = [
            m for m in self.work.holder.mine.values()
            if m.ready and not m.written and m.claimed and (m.lost or (leaving and m.open))
        ]  # fmt: skip
        run = self.work.holder.run
        if not lost or run is None:
            return True
        if not (run.finished or run.quiet() or not self.work.went) or not await self._write(lost, owned=False):
            return False
        for mine in lost:
            mine.written = True
        return True

    async def _write(self, shards: list[Mine], *, owned: bool) -> bool:
        """Whether the files of ``shards`` are there."""
        work, now_ns = self.work, self.work.hands.clock.monotonic_ns()
        if now_ns < self._not_before_ns:
            return False
        try:
            await work.hands.call(lambda: self._write_now(shards, owned=owned))
        except FlashcastError as error:
            work.error = error
            self._not_before_ns = now_ns + int(AGAIN_S * 1e9)
            work.worker.soon()
            return False
        work.error = None
        return True

    def _write_now(self, shards: list[Mine], *, owned: bool) -> None:
        """Blocks."""
        work, holder = self.work, self.work.holder
        ref, run, journal, manifest = work.record.snapshot, holder.run, holder.journal, holder.manifest
        assert ref is not None and run is not None and journal is not None and manifest is not None
        place = work.hands.outcomes(ref, work.launch)
        for mine in shards:
            if (mine.index, mine.epoch) not in self._written or not owned:
                run.settle_shard(mine.index, owned=owned, claimed=None if owned else _claimed_rows(mine))
                write_settled(
                    place, journal, launch=work.launch, snapshot=manifest.digest, shard=mine.index, facts=mine.facts,
                    epoch=mine.epoch, worker=work.worker.name, owned=owned,
                )  # fmt: skip
                self._written.add((mine.index, mine.epoch))
        write_facts(place, worker_facts(work))

    async def _close(self, mine: Mine) -> None:
        work = self.work
        record = ShardRecord(owner=work.worker.name, epoch=mine.epoch, settled=True)
        try:
            revision = await work.worker.engine.durable.update(
                shard_key(work.launch, mine.index), record.to_bytes(), mine.revision
            )
        except RevisionConflictError:
            # Another's by now, or our own earlier try went through: the watch tells which.
            await work.catch_up()
            return
        except EngineUnavailable:
            return
        mine.settled = True
        mine.revision = revision
        work.owners[mine.index] = (record, revision)
        work.changed.set()


def _claimed_rows(mine: Mine) -> NDArray[np.bool_]:
    """bool[rows of the shard]: whether the row's chunk was claimed by this worker."""
    claimed = np.zeros(mine.facts.rows, np.bool_)
    for chunk in mine.claimed:
        span = mine.spans[chunk]
        claimed[span.start : span.stop] = True
    return claimed
