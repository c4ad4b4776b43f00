"""Claims: a chunk is this worker's to send from the moment its key was created, and no other's for ever.

Claims run ahead of sending, so that they cost no time, but not far: rows claimed by a worker whose machine is lost are
unknown. What was claimed by an earlier owner of a shard is dealt with once, when the shard was taken over:

| the earlier owner's journal | policy   | its claimed chunks                                                        |
| --------------------------- | -------- | ------------------------------------------------------------------------- |
| readable: its process ended | both     | settled rows are copied, rows in flight are unknown, the rest is sent     |
| likewise, before a restart  | `drop`   | the same, and the rest is unknown (WorkerLost): see deliver/boot.py       |
| likewise, before a restart  | `resend` | the same, and the rest is sent again                                      |
| not readable                | `drop`   | unknown (WorkerLost), until the earlier owner says what became of them    |
| not readable                | `resend` | sent again                                                                |

Before such rows are sent their claim is moved here by compare-and-swap, so that the next owner asks the right worker.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import CLAIMS, ClaimRecord, claim_key, read_record
from flashcast.deliver.boot import other_boot
from flashcast.deliver.journal import Journal, JournalReader, inherit, journal_path
from flashcast.engine.base import EngineUnavailable, Entry, KeyExistsError, RevisionConflictError
from flashcast.errors import FlashcastError
from flashcast.model import Provider, UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.report.facts import TakeOver
from flashcast.worker.facts import take_over
from flashcast.worker.mine import Mine

if TYPE_CHECKING:
    from flashcast.worker.launch_work import LaunchWork

AHEAD_S: Final = 0.06
"""Claims run so far ahead of sending: some fifty times what an engine takes to answer."""
AHEAD_CHUNKS_MIN: Final = 2
AHEAD_CHUNKS_MAX: Final = 16
LOOK_S: Final = 0.02
"""How often the queue is looked at while sending: a third of what is claimed ahead. Twice as often costs a launch of
4,000,000 devices over NATS a tenth of its time more (benchmarks/fleet.py --part claims)."""
RETRY_S: Final = 0.05


class Claimer:
    """See the module's docstring."""

    def __init__(self, work: LaunchWork) -> None:
        self.work = work
        self.claims = 0
        """Claims made."""
        self.take_overs: list[TakeOver] = []
        self._asked_rows: dict[Provider, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._offered: set[tuple[int, int, int]] = set()
        self._rates: dict[Provider, float] = {}
        self._seen: tuple[int, dict[Provider, int]] = (0, {})

    def __repr__(self) -> str:
        return f"<Claimer of {self.work.launch}, {self.claims} claims>"

    @property
    def idle(self) -> bool:
        """Whether no claim is under way."""
        return not any(self._asked_rows.values())

    def start(self) -> None:
        """GO: begins to claim."""
        self._task = self.work.worker.spawn(self._run(), f"{self.work.launch} claims")

    def look(self) -> None:
        """Something has changed: look at the queue now."""
        self._due.set()

    def check(self) -> None:
        """Starts anew, and raises what broke the claiming, which nothing should."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            self.start()
            raise FlashcastError(f"claiming broke: {type(error).__name__}: {error}") from error

    async def stop(self) -> None:
        """Ends the claiming."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task

    # --- ahead of the lanes ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            batch = self._next_chunks() if self.work.claiming else []
            if batch:
                await asyncio.gather(*(self._claim(mine, chunk) for mine, chunk in batch))
                if self.work.holder.run is not None and self.idle:
                    self.work.changed.set()
                continue
            self._due.clear()
            await self.work.hands.wait_for(self._due, LOOK_S if self._more() else 1.0)

    def _more(self) -> bool:
        """Whether there is anything left to claim in the stages that are open."""
        stage = self.work.record.stage
        return any(m.open and m.resolved and not m.exhausted(stage) for m in self.work.holder.mine.values())

    def _next_chunks(self) -> list[tuple[Mine, int]]:
        """The chunks to claim now, as far ahead of the lanes as the rate asks for."""
        run, stage = self.work.holder.run, self.work.record.stage
        assert run is not None
        self._measure()
        batch: list[tuple[Mine, int]] = []
        for provider in self.work.holder.crews:
            wanted = self._ahead(provider) - run.waiting_rows(provider) - self._asked_rows.get(provider, 0)
            for mine in self.work.holder.mine.values():
                if mine.facts.provider is not provider or not (mine.open and mine.resolved and mine.ready):
                    continue
                while wanted > 0 and (chunk := mine.next_chunk(stage)) is not None:
                    span = mine.spans[chunk]
                    batch.append((mine, chunk))
                    mine.following = chunk + 1
                    mine.asked += 1
                    wanted -= span.stop - span.start
                    self._asked_rows[provider] = self._asked_rows.get(provider, 0) + span.stop - span.start
        return batch

    def _ahead(self, provider: Provider) -> int:
        """Rows to have claimed and not handed to a lane."""
        chunk = self.work.record.chunk_rows
        rows = int(self._rates.get(provider, self.work.holder.crews[provider].rate_per_s) * AHEAD_S)
        return min(max(rows, AHEAD_CHUNKS_MIN * chunk), AHEAD_CHUNKS_MAX * chunk)

    def _measure(self) -> None:
        """The rate of the last moments, per provider."""
        run, now_ns = self.work.holder.run, self.work.hands.clock.monotonic_ns()
        assert run is not None
        before_ns, before = self._seen
        if now_ns - before_ns < 1e8:
            return
        sent = {provider: told.sent for provider, told in run.progress().items()}
        if before_ns:
            for provider, count in sent.items():
                rate = (count - before.get(provider, 0)) * 1e9 / (now_ns - before_ns)
                if rate > 0:
                    self._rates[provider] = rate
        self._seen = now_ns, sent

    async def _claim(self, mine: Mine, chunk: int) -> None:
        """Claims a chunk and gives it to the lanes; where somebody else has claimed it, deals with that."""
        span = mine.spans[chunk]
        work = self.work
        key = claim_key(work.launch, mine.index, chunk)
        value = ClaimRecord(worker=work.worker.name, epoch=mine.epoch).to_bytes()
        try:
            while True:
                try:
                    await self._claim_once(mine, chunk, key, value)
                    return
                except EngineUnavailable:
                    await work.hands.sleep(RETRY_S)
                # Without a lease nothing is sent, and the shard may be another's or the launch be gone by now: the
                # first heartbeat that comes back has both read anew.
                while not (work.leased or work.deleted):
                    await work.hands.sleep(RETRY_S)
                if work.deleted:
                    return
        finally:
            mine.asked -= 1
            self._asked_rows[mine.facts.provider] -= span.stop - span.start

    async def _claim_once(self, mine: Mine, chunk: int, key: str, value: bytes) -> None:
        """One try; raises EngineUnavailable."""
        durable = self.work.worker.engine.durable
        try:
            await durable.create(key, value)
            self.claims += 1
        except KeyExistsError as error:
            entry = error.entry or await durable.get(key)
            if entry is None:
                raise EngineUnavailable(f"{key} exists and is not to be read yet") from None
            if read_record(ClaimRecord, entry).worker != self.work.worker.name:
                await self._take_claim(mine, chunk, entry)
                return
            # Otherwise it is our own: the answer to an earlier try was lost.
        self._own(mine, chunk)

    async def claim_rest(self) -> None:
        """Claims what nobody seems to have claimed, before it is called unsent: then nobody has sent it, nor will.

        A list of claims may lag behind, and this worker may have lost a shard without knowing it yet; `create` tells.
        Only where nothing was claimed before us and nothing can be claimed any more is there no need.
        """
        live = self.work.record.state is State.LIVE
        rest = [
            (mine, chunk)
            for mine in self.work.holder.mine.values()
            if mine.open and mine.resolved and mine.ready and (live or mine.epoch > 1)
            for chunk in range(len(mine.spans))
            if chunk not in mine.claimed and chunk not in mine.dealt
        ]
        for mine, chunk in rest:
            span, provider = mine.spans[chunk], mine.facts.provider
            mine.asked += 1
            self._asked_rows[provider] = self._asked_rows.get(provider, 0) + span.stop - span.start
        await asyncio.gather(*(self._claim(mine, chunk) for mine, chunk in rest))
        for mine, chunk in rest:
            mine.dealt.add(chunk)

    def _own(self, mine: Mine, chunk: int, rows: NDArray[np.int32] | None = None) -> None:
        """The chunk is ours: its rows go to the lanes, if there is still somebody to send them."""
        mine.claimed.add(chunk)
        run = self.work.holder.run
        if mine.lost or run is None or not self.work.went or (mine.index, mine.epoch, chunk) in self._offered:
            return
        self._offered.add((mine.index, mine.epoch, chunk))
        run.offer(mine.index, rows, mine.spans[chunk])

    # --- claims of earlier owners ------------------------------------------------------------------------

    async def resolve(self) -> None:
        """Looks at the claims of every shard that was taken over. Raises EngineUnavailable: to be tried again."""
        for mine in list(self.work.holder.mine.values()):
            if mine.open and mine.ready and not mine.resolved:
                await self._resolve(mine)

    async def _resolve(self, mine: Mine) -> None:
        work = self.work
        await work.settler.recall(mine.index)
        entries = await work.worker.engine.durable.entries(f"{CLAIMS}.{work.launch}.{mine.index}")
        known = {int(entry.key.rpartition(".")[2]): entry for entry in entries}
        left = sum(span.stop - span.start for chunk, span in enumerate(mine.spans) if chunk not in known)
        for chunk, entry in sorted(known.items()):
            if chunk < len(mine.spans):
                left += await self._take_claim(mine, chunk, entry)
        # What is claimed is dealt with; a claim that comes in from now on is met when ours fails.
        mine.dealt = set(known)
        mine.resolved = True
        if mine.after_go or known:  # not one that was merely let go and taken again while it was armed
            self.take_overs.append(
                take_over(
                    work, shard=mine.index, epoch=mine.epoch, from_worker=mine.from_worker, inherited=mine.inherited,
                    rows=left,
                )
            )  # fmt: skip
        self.look()

    async def _take_claim(self, mine: Mine, chunk: int, entry: Entry) -> int:
        """Deals with one chunk that an earlier owner, or this worker in an earlier epoch, has claimed.

        Returns how many of its rows are left to be sent.
        """
        span, claim = mine.spans[chunk], read_record(ClaimRecord, entry)
        owner, work, journal = claim.worker, self.work, self.work.holder.journal
        assert journal is not None
        if claim.epoch > mine.epoch:
            work.holder.lose(mine)  # the next owner is at work already; the watch will say so
            return 0
        if owner == work.worker.name:
            own = _unsent(journal, mine, chunk)
            self._own(mine, chunk, own)
            return int(own.size)
        unsent = await work.hands.call(lambda: self._inherit(mine, chunk, owner))
        if unsent is None:
            # Under `resend` too: the rows may have been taken, and it may be too late to send them again.
            _lose(journal, mine.facts.base + span.start, mine.facts.base + span.stop)
            if work.record.unknown_policy is UnknownPolicy.DROP:
                return 0
            unsent = np.arange(span.start, span.stop, dtype=np.int32)
        if not unsent.size or work.record.state is not State.LIVE:
            if unsent.size:
                mine.claimed.add(chunk)
            return 0
        claim = ClaimRecord(worker=work.worker.name, epoch=mine.epoch)
        try:
            await work.worker.engine.durable.update(entry.key, claim.to_bytes(), entry.revision)
        except RevisionConflictError:
            fresh = await work.worker.engine.durable.get(entry.key)
            if fresh is None or fresh.revision <= entry.revision:
                raise EngineUnavailable(f"reads of {entry.key} lag behind its writes") from None
            return await self._take_claim(mine, chunk, fresh)
        self._own(mine, chunk, unsent)
        return int(unsent.size)

    def _inherit(self, mine: Mine, chunk: int, owner: str) -> NDArray[np.int32] | None:
        """Copies what the owner's journal knows of a chunk. Returns its rows to be sent, None if it cannot be read."""
        journal = self.work.holder.journal
        assert journal is not None
        path = journal_path(self.work.worker.options.state, self.work.launch, owner)
        reader = JournalReader.read(path)
        if reader is None:
            return None
        span = mine.spans[chunk]
        try:
            base = mine.facts.base + span.start
            unsent = inherit(journal, reader, base, span.stop - span.start)
            if unsent is None:
                return None
            mine.inherited = True
            rows = np.flatnonzero(unsent)
            if other_boot(reader.header.get("boot")):
                # What the kernel had not written is gone: rows that look unsent may have been sent.
                journal.outcome[base + rows] = Outcome.UNKNOWN
                journal.reason[base + rows] = Reason.WORKER_LOST.code
                if self.work.record.unknown_policy is UnknownPolicy.DROP:
                    rows = rows[:0]
            return (rows + span.start).astype(np.int32)
        finally:
            reader.close()


def _unsent(journal: Journal, mine: Mine, chunk: int) -> NDArray[np.int32]:
    """The rows of a chunk that were never sent, as far as this worker knows; int32[n] within the shard."""
    span, base = mine.spans[chunk], mine.facts.base
    unsent = journal.outcome[base + span.start : base + span.stop] == Outcome.UNSENT
    return (np.flatnonzero(unsent) + span.start).astype(np.int32)


def _lose(journal: Journal, start: int, stop: int) -> None:
    """Rows that only a worker out of reach knows about."""
    journal.outcome[start:stop] = Outcome.UNKNOWN
    journal.reason[start:stop] = Reason.WORKER_LOST.code
