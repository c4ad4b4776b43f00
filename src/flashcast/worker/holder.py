"""Which shards this worker holds: taking, mapping, releasing them, and the connections for their rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from flashcast.arm.readiness import Holding, ProviderReadiness
from flashcast.arm.share import ShardView, assign
from flashcast.arm.warm import Crew
from flashcast.audience.manifest import Manifest
from flashcast.audience.shards import Shard
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import ShardRecord, shard_key
from flashcast.deliver.boot import boot_id
from flashcast.deliver.claims import grid
from flashcast.deliver.journal import Journal, journal_path
from flashcast.deliver.run import Run, RunTerms
from flashcast.engine.base import EngineUnavailable, KeyExistsError, RevisionConflictError
from flashcast.errors import FlashcastError
from flashcast.model import Provider
from flashcast.worker.hands import Source
from flashcast.worker.mine import Mine

if TYPE_CHECKING:
    from flashcast.worker.launch_work import LaunchWork

COOL_OFF_S: Final = 2.0
"""After a shard could not be made ready, this worker leaves shards to others for so long; the next time twice that."""
COOL_OFF_S_MAX: Final = 60.0
RELEASE_AGAIN_S: Final = 0.1
"""How soon a shard is given back again after the engine did not answer."""
PATIENCE_S: Final = 10.0
"""A provider that has some of its connections after so long counts as ready with those."""


class Holder:
    """See the module's docstring. Everything here runs on the worker's loop; `Hands.call` takes what blocks."""

    def __init__(self, work: LaunchWork) -> None:
        self.work = work
        self.mine: dict[int, Mine] = {}
        self.run: Run | None = None
        self.journal: Journal | None = None
        self.crews: dict[Provider, Crew] = {}
        self.source: Source | None = None
        self.manifest: Manifest | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._crewing = asyncio.Lock()
        self._journal_lock = threading.Lock()
        self._cool_until_ns = 0
        self._cool_off_s = COOL_OFF_S
        self._crewed_ns = 0
        self._began_ns = work.hands.clock.monotonic_ns()
        self.arm_s: float | None = None
        """From the first look at the launch to being ready."""

    def __repr__(self) -> str:
        return f"<Holder of {sorted(self.mine)}>"

    # --- which shards ------------------------------------------------------------------------------------

    async def adjust(self) -> None:
        """Takes what is this worker's share and nobody's; before GO, gives back what is another's share."""
        work, ref = self.work, self.work.record.snapshot
        members, now_ns = work.worker.members, work.hands.clock.monotonic_ns()
        if ref is None or not members.hears(now_ns):
            return
        manifest = await self._open()
        if manifest is None:
            return
        for held in list(self.mine.values()):
            if held.failed and held.open:
                await self._release(held)
        for index, (record, revision) in sorted(work.owners.items()):
            # Taken before the manifest was there, or by a write whose answer was lost.
            if record.owner == work.worker.name and not record.settled and index not in self.mine:
                self._adopt(index, record, revision, "")
        owners = {index: owner for index, (owner, _) in work.owners.items() if index < ref.shards}
        open_shards = [i for i in range(ref.shards) if i not in owners or not owners[i].settled]
        holders = {i: owners[i].owner for i in open_shards if i in owners}
        views = [
            ShardView(
                i, manifest.shards[i].rows, self._live_owner(holders.get(i), now_ns), manifest.shards[i].provider.value
            )
            for i in open_shards
        ]
        arming = work.record.state is State.ARMING
        if not arming and all(view.owner is not None for view in views):
            return
        # Once it is armed nothing moves but what the dead leave behind: a move costs readiness at the worst moment.
        assigned = assign(views, self._capacities(now_ns), rebalance=arming)
        taking = [v.index for v in views if v.owner is None and assigned.get(v.index) == work.worker.name]
        if taking and now_ns >= self._cool_until_ns:
            await asyncio.gather(*(self._take(index) for index in taking))
        if arming:
            for view in views:
                mine = self.mine.get(view.index)
                if mine is not None and mine.open and assigned.get(view.index) not in (None, work.worker.name):
                    await self._release(mine)

    def _live_owner(self, owner: str | None, now_ns: int) -> str | None:
        return None if owner is None or self.work.worker.members.dead(owner, now_ns) else owner

    def _capacities(self, now_ns: int) -> dict[str, int]:
        """Rows each live worker can hold of this launch, as its heartbeat says: all workers see the same.

        One that has just failed to make a shard ready gets no more for a while, or else it, having the fewest rows,
        would be given the same shard again and again.
        """
        found = {}
        for name, beat in self.work.worker.members.alive(now_ns).items():
            here = beat.launches.get(self.work.launch, Holding())
            held = sum(part.rows for part in here.providers.values())
            room = max(0, beat.devices_max - (beat.rows - held))
            found[name] = 0 if beat.draining else min(room, held) if here.cooling else room
        return found

    async def _take(self, index: int) -> None:
        """Makes this worker the owner of a shard, unless another was faster."""
        work = self.work
        known = work.owners.get(index)
        before, revision = known if known is not None else (ShardRecord(), 0)
        record = ShardRecord(owner=work.worker.name, epoch=before.epoch + 1)
        durable, key = work.worker.engine.durable, shard_key(work.launch, index)
        try:
            if revision:
                revision = await durable.update(key, record.to_bytes(), revision)
            else:
                revision = await durable.create(key, record.to_bytes())
        except (KeyExistsError, RevisionConflictError):
            return  # the watch will say who was faster
        except EngineUnavailable:
            return  # and here, whether it was us
        work.owners[index] = (record, revision)
        self._adopt(index, record, revision, before.owner or "")

    def owner_changed(self, index: int) -> None:
        """The watch says who holds a shard: perhaps it is ours without our knowing, or no longer ours."""
        record, revision = self.work.owners[index]
        mine = self.mine.get(index)
        if record.owner == self.work.worker.name:
            if mine is None or record.epoch > mine.epoch:
                if not record.settled:
                    self._adopt(index, record, revision, "")
            elif mine.revision < revision:
                mine.revision = revision
                mine.settled = mine.settled or record.settled
        elif mine is not None and record.epoch >= mine.epoch and not mine.settled:
            self.lose(mine)

    def lose(self, mine: Mine) -> None:
        """A shard is another worker's now: nothing more of it is sent here."""
        mine.lost = True
        # A run that came too late to send anything has books all the same, which are still to be written.
        if self.run is not None and mine.ready and (self.work.went or self.work.record.go is None):
            self.run.drop(mine.index)
        self.work.changed.set()

    def _adopt(self, index: int, record: ShardRecord, revision: int, from_worker: str) -> None:
        if self.manifest is None:
            return  # the next step opens it and meets the shard again
        known = self.mine.get(index)
        if known is not None and known.epoch >= record.epoch:
            return
        mine = Mine(index, record.epoch, revision, self.manifest.shards[index], from_worker)
        mine.since_ns = self.work.hands.clock.monotonic_ns()
        mine.after_go = self.work.record.go is not None
        self.mine[index] = mine
        self._start(self._prepare(mine))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.work.worker.spawn(work, f"{self.work.launch} prepare")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- making it ready ---------------------------------------------------------------------------------

    async def _open(self) -> Manifest | None:
        """The snapshot's manifest; a fault is kept for the heartbeat and tried again."""
        async with self._opening:
            ref = self.work.record.snapshot
            if self.manifest is not None or ref is None:
                return self.manifest
            if self.work.hands.clock.monotonic_ns() < self._cool_until_ns:
                return None
            try:
                source = self.work.hands.source(ref)
                self.manifest = await self.work.hands.call(source.manifest)
                self.source = source
            except FlashcastError as error:
                self._fault(error)
            return self.manifest

    async def _prepare(self, mine: Mine) -> None:
        """Maps a shard, makes room for it in the journal, and opens connections for its rows."""
        try:
            shard = await self.work.hands.call(lambda: self._map(mine))
            async with self._opening:  # several shards are prepared at once, and there is one run
                if self.run is None:
                    self.run = await self.work.hands.call(self._make_run)
                    self.work.obey()  # before anything is settled: the launch may be aborted by now
            if not self.work.too_late:
                await self._crew_up(mine.facts.provider)
        except FlashcastError as error:
            self._fault(error)
            mine.failed = True
            self.work.changed.set()
            return
        if mine.lost:
            return
        self.run.hold(shard)
        shares = [stage.share for stage in self.work.record.stages]
        mine.spans = grid(mine.facts.rows, self.work.record.chunk_rows, shares)
        mine.shard = shard
        # Whether somebody had it before matters only once rows can have been sent.
        mine.resolved = mine.epoch == 1
        self.work.error = None
        self._cool_off_s = COOL_OFF_S
        self.work.worker.soon()
        self.work.changed.set()

    def _map(self, mine: Mine) -> Shard:
        """The shard, checked; its rows have room in the journal then. Blocks."""
        assert self.source is not None and self.manifest is not None
        shard = self.source.shard(mine.index)
        with self._journal_lock:
            if self.journal is None:
                path = journal_path(self.work.worker.options.state, self.work.launch, self.work.worker.name)
                self.journal = Journal.create(
                    path, sum(facts.rows for facts in self.manifest.shards),
                    launch=self.work.launch, snapshot=self.manifest.digest, worker=self.work.worker.name,
                    boot=boot_id(),
                )  # fmt: skip
            self.journal.hold(mine.facts.base, mine.facts.rows)
        return shard

    def _make_run(self) -> Run:
        assert self.source is not None and self.journal is not None
        record = self.work.record
        terms = RunTerms(
            policy=record.unknown_policy, window_s=record.window_s, pace=dict(record.pace),
            pauses=self.work.worker.options.pauses,
        )  # fmt: skip
        templates = self.work.hands.templates(self.source, record.to)
        hands = self.work.hands
        return Run(self.journal, {}, templates, hands.clock, terms, self.work.wake, keeper=hands.keeps_fresh)

    async def _crew_up(self, provider: Provider) -> None:
        """Opens connections to a provider, or adjusts their number to the rows that are held now."""
        async with self._crewing:
            assert self.run is not None
            rows = self.rows_by_provider().get(provider, 0)
            pace = self.work.record.pace.get(provider)
            crew = self.crews.get(provider)
            if crew is not None:
                crew.want_for(rows, pace)
                return
            to = self.work.record.to
            crew = await self.work.hands.call(lambda: self.work.hands.crew(provider, to, rows, pace))
            self.crews[provider] = crew
            self.run.add_crew(provider, crew)
            self._crewed_ns = self.work.hands.clock.monotonic_ns()

    def _fault(self, error: FlashcastError) -> None:
        """Keeps a fault for the heartbeat, and leaves shards to others for a while."""
        self.work.error = error
        now_ns = self.work.hands.clock.monotonic_ns()
        if now_ns >= self._cool_until_ns:  # several shards fail for one reason
            self._cool_until_ns = now_ns + int(self._cool_off_s * 1e9)
            self._cool_off_s = min(2 * self._cool_off_s, COOL_OFF_S_MAX)
        self.work.worker.soon()

    @property
    def cooling(self) -> bool:
        """Whether shards are left to others: one could not be made ready, or the snapshot cannot be opened here."""
        unopened = self.manifest is None and self.work.error is not None
        return unopened or self.work.hands.clock.monotonic_ns() < self._cool_until_ns

    # --- giving back -------------------------------------------------------------------------------------

    async def _release(self, mine: Mine) -> None:
        """Gives a shard back. After GO what is claimed stays this worker's to tell about."""
        work = self.work
        record = ShardRecord(owner=None, epoch=mine.epoch)
        try:
            revision = await work.worker.engine.durable.update(
                shard_key(work.launch, mine.index), record.to_bytes(), mine.revision
            )
            work.owners[mine.index] = (record, revision)
        except RevisionConflictError:
            pass  # it is another's already
        if self.run is not None and mine.shard is not None and not work.went:
            self.run.drop(mine.index)
        if self.mine.get(mine.index) is mine:
            del self.mine[mine.index]
        work.worker.soon()

    async def release_all(self) -> None:
        """Gives every shard back that is not settled."""
        for mine in list(self.mine.values()):
            if mine.open:
                await self._release(mine)

    async def close(self) -> None:
        """Lets go of connections, mappings and the journal."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, FlashcastError):
                await task
        if not self.work.worker.options.keep:
            await self.work.hands.call(self.close_now)

    def close_now(self) -> None:
        """Ends the lanes, closes files. Blocks."""
        if self.run is not None:
            self.run.close()
        for mine in self.mine.values():
            if mine.shard is not None:
                mine.shard.close()
        if self.journal is not None:
            self.journal.close()
            # A launch that has ended is in its outcome files; one that goes on may need this journal.
            record = self.work.record
            ended = record.go is None or record.closed_at is not None or self.work.outdated or self.work.deleted
            if ended and not self.work.worker.options.keep:
                self.journal.path.unlink(missing_ok=True)

    # --- what it tells -----------------------------------------------------------------------------------

    def rows_by_provider(self) -> dict[Provider, int]:
        """Rows of the shards held and not settled."""
        rows: dict[Provider, int] = {}
        for mine in self.mine.values():
            if mine.open:
                rows[mine.facts.provider] = rows.get(mine.facts.provider, 0) + mine.facts.rows
        return rows

    def rows_settled(self) -> dict[Provider, int]:
        """Rows of the shards that this worker has closed or is closing, by provider."""
        rows: dict[Provider, int] = {}
        for mine in self.mine.values():
            if not mine.lost:
                rows[mine.facts.provider] = rows.get(mine.facts.provider, 0) + mine.facts.rows
        return rows

    @property
    def ready(self) -> bool:
        """Whether GO would find every row of this worker's mapped and connected."""
        held = [mine for mine in self.mine.values() if mine.open]
        if not held or not all(mine.ready for mine in held):
            return False
        patient = self.work.hands.clock.monotonic_ns() - self._crewed_ns > PATIENCE_S * 1e9
        for provider in self.rows_by_provider():
            crew = self.crews.get(provider)
            if crew is None or crew.ready < (1 if patient else crew.wanted):
                return False
        return True

    def holding(self, stage_sent: int, stage_sent_at: float | None, error: FlashcastError | None) -> Holding:
        """What the heartbeat says of this launch."""
        run, ready = self.run, self.ready
        if ready and self.arm_s is None:
            self.arm_s = (self.work.hands.clock.monotonic_ns() - self._began_ns) / 1e9
        rows = self.rows_by_provider()
        fault = error or next((f for crew in self.crews.values() if (f := crew.fault) is not None), None)
        return Holding(
            arming=self.work.arming,
            shards=tuple(sorted(index for index, mine in self.mine.items() if mine.open)),
            ready=ready,
            providers={p: self._part(p, rows.get(p, 0)) for p in sorted({*rows, *self.crews})},
            stage_sent=stage_sent,
            stage_sent_at=stage_sent_at,
            fault=fault.message if fault is not None else "",
            cooling=self.cooling,
            go_to_first_request_ms=run.go_to_first_request_ms() if run is not None and self.work.went else None,
            overshoot=run.overshoot() if run is not None and self.work.went else 0,
            quiet=run is not None and self.work.went and run.quiet(),
        )

    def _part(self, provider: Provider, rows: int) -> ProviderReadiness:
        crew, run = self.crews.get(provider), self.run
        if crew is None or run is None:
            return ProviderReadiness(rows=rows)
        facts = crew.readiness()
        told = run.progress().get(provider) if self.work.went else None
        if told is None:
            return facts.model_copy(update={"rows": rows})
        return facts.model_copy(
            update={
                "rows": rows, "sent": told.sent, "in_flight": told.in_flight, "accepted": told.accepted,
                "rejected": told.rejected, "failed": told.failed, "unknown": told.unknown,
                "bad_tokens": told.bad_tokens, "stops": told.stops, "stop_reason": told.stop_reason,
                "pace_per_s": told.pace_per_s,
            }
        )  # fmt: skip
