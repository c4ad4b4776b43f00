"""The last entries: outcome files beside the snapshot, then the word that a shard is settled.

The order is what makes `done` mean something: rows settled in the journal, outcome file and facts written whole, and
only then the compare-and-swap of the shard's record. A worker that lost the shard in between finds out by that and
writes what it knows under its own epoch; merging ranks the two (report/settled.py).

A shard is closed as soon as each of its rows has its outcome, while others are still being sent: what is settled cannot
be lost any more, so of a worker whose machine dies only the shards that it was at work on are unknown.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.campaign.records import ShardRecord, shard_key
from flashcast.engine.base import EngineUnavailable, RevisionConflictError
from flashcast.errors import FlashcastError
from flashcast.model import UnknownPolicy
from flashcast.outcomes import Outcome
from flashcast.report.settled import write_facts, write_settled
from flashcast.worker.facts import worker_facts
from flashcast.worker.mine import Mine

if TYPE_CHECKING:
    from flashcast.worker.launch_work import LaunchWork

COMPLETE_S: Final = 0.25
"""Shards that are complete are closed so often: a file for each, and one of facts for all."""
AGAIN_S: Final = 1.0
"""A file that could not be written (a full disk, a store that does not answer) is tried again so often."""


class Settler:
    """See the module's docstring."""

    def __init__(self, work: LaunchWork) -> None:
        self.work = work
        self._not_before_ns = 0
        self._look_ns = 0
        self._closing = False
        self._written: set[tuple[int, int]] = set()
        self._told_lost: dict[int, set[str]] = {}
        """By shard the files that say which of its rows this worker has not sent."""

    @property
    def idle(self) -> bool:
        """Whether no shard is being closed beside the launch's other work."""
        return not self._closing

    def settle_complete(self) -> None:
        """Begins to close the shards of which every row has its outcome. Does not wait: the place may be far away."""
        now_ns = self.work.hands.clock.monotonic_ns()
        if self._closing or now_ns < self._look_ns:
            return
        self._look_ns = now_ns + int(COMPLETE_S * 1e9)
        complete = [m for m in self.work.holder.mine.values() if m.open and m.ready and self._is_complete(m)]
        if complete:
            self._closing = True
            self.work.worker.spawn(self._settle_complete(complete), f"{self.work.launch} settles")

    def _is_complete(self, mine: Mine) -> bool:
        record, journal = self.work.record, self.work.holder.journal
        if journal is None or not mine.exhausted(record.last_stage):
            return False
        outcome = journal.outcome[mine.facts.base : mine.facts.base + mine.facts.rows]
        undone = (outcome == Outcome.UNSENT) | (outcome == Outcome.IN_FLIGHT)
        if record.unknown_policy is UnknownPolicy.RESEND:
            undone |= outcome == Outcome.UNKNOWN  # it may be waiting for another try
        return not undone.any()

    async def _settle_complete(self, complete: list[Mine]) -> None:
        try:
            if await self._write(complete, owned=True):
                await asyncio.gather(*(self._close(mine) for mine in complete if mine.open))
        except EngineUnavailable:
            pass  # looked at again
        finally:
            self._closing = False
            self.work.changed.set()

    async def settle(self) -> None:
        """Writes and closes every open shard of this worker's."""
        await self.write_lost()
        if self._closing:
            return
        ready = [m for m in self.work.holder.mine.values() if m.open and m.resolved and m.ready]
        worker = self.work.worker
        if worker.lapses or self.work.hands.clock.monotonic_ns() >= worker.lease_ns:
            # What the next owner has sent must not be called unsent here, be it only until the last write fails.
            ours = await asyncio.gather(*(self._is_ours(mine) for mine in ready))
            ready = [mine for mine, is_ours in zip(ready, ours, strict=True) if is_ours]
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
        gone = [
            m for m in self.work.holder.mine.values()
            if m.ready and not m.written and (m.lost or (leaving and m.open))
        ]  # fmt: skip
        if not leaving and any(m.asked for m in gone):
            return False  # the answer to a claim was lost: whether it was made is being asked, and its rows are unsent
        lost, run = [m for m in gone if m.claimed], self.work.holder.run
        if not lost or run is None:
            return True
        if not (run.finished or run.quiet() or not self.work.went) or not await self._write(lost, owned=False):
            return False
        for mine in lost:
            mine.written = True
        return True

    async def recall(self, index: int) -> None:
        """A shard that was lost is ours again: what was told of its unsent rows is no longer so once they are sent.

        Raises EnvironmentFault where the place cannot be reached; nothing may be sent then.
        """
        names, ref = self._told_lost.get(index), self.work.record.snapshot
        if names and ref is not None:
            place = self.work.hands.outcomes(ref, self.work.launch)
            for name in sorted(names):
                await self.work.hands.call(partial(place.delete, name))
            del self._told_lost[index]

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
                name = write_settled(
                    place, journal, launch=work.launch, snapshot=manifest.digest, shard=mine.index, facts=mine.facts,
                    epoch=mine.epoch, worker=work.worker.name, owned=owned,
                )  # fmt: skip
                if owned:  # a file of one that wanted to leave, and could not, is not the last word
                    self._written.add((mine.index, mine.epoch))
                else:
                    self._told_lost.setdefault(mine.index, set()).add(name)
        write_facts(place, worker_facts(work))

    async def _is_ours(self, mine: Mine) -> bool:
        """Whether a shard is surely ours still: a write tells, a read would not. Raises EngineUnavailable."""
        work = self.work
        record = ShardRecord(owner=work.worker.name, epoch=mine.epoch)
        try:
            mine.revision = await work.worker.engine.durable.update(
                shard_key(work.launch, mine.index), record.to_bytes(), mine.revision
            )
        except RevisionConflictError:
            await work.catch_up()
            return False
        work.owners[mine.index] = (record, mine.revision)
        return True

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
