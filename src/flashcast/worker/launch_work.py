"""One launch at one worker: from arming to its end. One task decides; what is slow runs beside it.

    record says      this worker
    arming, armed    takes its share of the shards, maps them, opens connections, tells how ready it is
    live             claims chunks ahead of its lanes; takes over the shards of the dead; settles what is done
    aborted          stops its lanes, waits for what is on the wire, settles
    anything else    lets go

The launch's task runs `_step` whenever something has changed: the record, who holds which shard, who lives, what the
lanes say. A step decides from what it sees and acts by compare-and-swap, so that a step that saw something old does no
harm, and every step may be repeated.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from flashcast.arm.readiness import Holding, total
from flashcast.arm.share import pace_share
from flashcast.campaign.lifecycle import HELD, Input, State
from flashcast.campaign.records import SHARDS, LaunchRecord, Pause, ShardRecord, read_record
from flashcast.engine.base import EngineUnavailable, Entry
from flashcast.errors import BusyError, FlashcastError, LifecycleError
from flashcast.go.guard import counted, judge, stage_open
from flashcast.outcomes import reason_of
from flashcast.report.meanings import MEANINGS
from flashcast.worker.claimer import Claimer
from flashcast.worker.follow import follow
from flashcast.worker.holder import Holder
from flashcast.worker.settler import Settler

if TYPE_CHECKING:
    from flashcast.worker.worker import Worker

TICK_S: Final = 0.05
"""A step at least so often: leases run out and windows close without anything being written."""
MISSED_S: Final = 10.0
"""A launch that no read has found for so long was deleted: no lag is as great. Usually the watch says so at once."""
JUDGE_S: Final = 0.1
"""The misfire guard adds up the fleet's replies so often: twice for each heartbeat of the others."""


class LaunchWork:
    """See the module's docstring."""

    def __init__(self, worker: Worker, record: LaunchRecord, revision: int) -> None:
        self.worker = worker
        self.hands = worker.hands
        self.launch = record.launch
        self.record = record
        self.revision = revision
        self.changed = asyncio.Event()
        self.over = threading.Event()
        """Set when this worker has done with the launch; for other threads to wait on."""
        self._wake = self.hands.from_thread(self.changed.set)
        self.owners: dict[int, tuple[ShardRecord, int]] = {}
        self.error: FlashcastError | None = None
        """What keeps it from being ready; the last fault, where it is tried again."""
        self.holder = Holder(self)
        self.claimer = Claimer(self)
        self.settler = Settler(self)
        self.went = False
        """Whether the lanes have been started."""
        self.deleted = False
        """The launch is no longer in the engine: an operator has deleted it after it had ended."""
        self._missed_ns: int | None = None
        """Since when it has not been to be read."""
        self.arming = record.arming
        """What is held here is for this arming, and for no other."""
        self.seen_armed = record.state in (State.ARMING, State.ARMED)
        self.window_ends_ns: int | None = None
        self._caught_up = asyncio.Event()
        self._judge_ns = 0
        self._paused = False
        self._aborted = False
        self._ending = False
        self._stage_sent = -1
        self._stage_sent_at: float | None = None
        self._lease_ns = 0
        self.paused_for: list[str] = []

    def __repr__(self) -> str:
        return f"<LaunchWork {self.launch} {self.record.state}, {len(self.holder.mine)} shards>"

    @property
    def outdated(self) -> bool:
        """Whether the launch was armed anew, perhaps with another snapshot, without this worker's seeing it in between.

        A watch may leave out what changes fast, or while the engine is away.
        """
        return self.record.arming != self.arming

    # --- what it is told ---------------------------------------------------------------------------------

    def told(self, record: LaunchRecord, revision: int) -> None:
        """The launch's record has changed."""
        if revision <= self.revision:
            return
        self.record, self.revision = record, revision
        self.seen_armed = self.seen_armed or record.state in (State.ARMING, State.ARMED)
        # At once rather than at the next step: GO and abort are what milliseconds are counted for.
        self.obey()
        self.changed.set()

    def was_deleted(self) -> None:
        """The launch is gone from the engine: there is nothing to obey, to give back or to write down any more."""
        self.deleted = True
        if self.holder.run is not None:
            self.holder.run.pause()
        self.changed.set()

    def renew_lease(self, until_ns: int) -> None:
        """Sending is allowed until ``until_ns``."""
        self._lease_ns = until_ns
        run = self.holder.run
        if run is not None:
            run.lease_until(until_ns)

    async def catch_up(self) -> None:
        """Reads what the watches may not have told yet: the record, and who holds what. Raises EngineUnavailable."""
        found = await self.worker.read_launch(self.launch)
        if found is None:
            now_ns = self.hands.clock.monotonic_ns()
            self._missed_ns = self._missed_ns or now_ns
            if now_ns - self._missed_ns >= MISSED_S * 1e9:
                self.was_deleted()
            raise EngineUnavailable(f"launch {self.launch} is not to be read: reads may lag behind writes")
        self._missed_ns = None
        self.told(*found)
        for entry in await self.worker.engine.durable.entries(f"{SHARDS}.{self.launch}"):
            self._owner_told(entry)

    def _owner_told(self, entry: Entry) -> None:
        if entry.value is None:
            return
        index = int(entry.key.rpartition(".")[2])
        known = self.owners.get(index)
        if known is not None and known[1] >= entry.revision:
            return
        try:
            self.owners[index] = read_record(ShardRecord, entry), entry.revision
        except ValidationError:
            return
        self.holder.owner_changed(index)
        self.changed.set()

    # --- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until the launch needs this worker no more, or the worker leaves."""
        watching = self.worker.spawn(
            follow(
                self.hands, self.worker.engine.durable, f"{SHARDS}.{self.launch}", self._owner_told, self._caught_up
            ),
            f"{self.launch} shards",
        )
        try:
            await self._caught_up.wait()
            while not await self._guarded_step():
                await self.hands.wait_for(self.changed, TICK_S)
                self.changed.clear()
        finally:
            self._ending = True
            watching.cancel()
            await self.claimer.stop()
            await self.holder.close()

    async def _guarded_step(self) -> bool:
        try:
            return await self._step()
        except EngineUnavailable:
            return False  # tried again at the next tick
        except FlashcastError as error:
            # The shards are ours until they are given back, so there is no giving up: it is told, and tried again.
            self.error = error
            return False

    async def _step(self) -> bool:
        """One look and what follows from it. Returns whether this launch needs this worker no more."""
        if self.deleted:
            return True
        self.obey()
        self.claimer.check()
        record = self.record
        if self.worker.draining:
            return await self._leave()
        if self.outdated:
            await self.holder.release_all()
            return True  # and it begins afresh
        if record.state in HELD or record.settling:
            await self.holder.adjust()
            if record.state is State.ARMING:
                await self._announce_ready()
            if record.go is not None:
                await self._deliver()
            return False
        if record.go is not None and any(mine.open for mine in self.holder.mine.values()):
            await self.catch_up()  # it was closed without us: which shards are others' now, our watch may tell later
        if not await self.settler.write_lost():
            return False
        await self.holder.release_all()
        return True

    def obey(self) -> None:
        """Does what the record says to the lanes. Repeatable, and never waits."""
        if self._ending or self.outdated:
            return  # GO may be told to one that is leaving, or that has made something else ready
        record, run = self.record, self.holder.run
        if record.go is not None and self.window_ends_ns is None:
            self._open_window()
        if run is None or record.go is None:
            return
        if record.state is State.DONE:
            run.pause()  # to a worker that was stopped or cut off meanwhile: others have closed its books
        if record.state is State.ABORTED and not self._aborted:
            self._aborted = True
            run.abort()
        if record.state is State.LIVE and not self.went and not self.window_over:
            self.went = True
            run.lease_until(self._lease_ns)
            run.go(record.go.at, self._window_left_s())
            self.claimer.start()
        paused = record.paused is not None
        if self.went and paused != self._paused:
            self._paused = paused
            if paused:
                run.pause()
            else:
                run.resume(heed_stops=not record.guard_off)
        self.claimer.look()

    def _open_window(self) -> None:
        """The window runs on this worker's clock from the moment it saw GO, which other clocks cannot upset.

        One that came later, or was cut off, goes by the wall.
        """
        assert self.record.go is not None
        now_ns = self.hands.clock.monotonic_ns()
        prompt = self.seen_armed and self.leased
        late_s = 0.0 if prompt else max(0.0, self.hands.clock.time() - self.record.go.at)
        self.window_ends_ns = now_ns + int((self.record.window_s - late_s) * 1e9)

    def _window_left_s(self) -> float:
        assert self.window_ends_ns is not None
        return (self.window_ends_ns - self.hands.clock.monotonic_ns()) / 1e9

    @property
    def window_over(self) -> bool:
        """Whether nothing may be sent any more because it is late."""
        return self.window_ends_ns is not None and self.hands.clock.monotonic_ns() >= self.window_ends_ns

    @property
    def too_late(self) -> bool:
        """Whether nothing will be sent here any more, so that no connection is needed: only books are to be closed."""
        return self.record.go is not None and (self.window_over or self.record.state is not State.LIVE)

    @property
    def claiming(self) -> bool:
        """Whether chunks may be claimed now."""
        return (
            self.record.state is State.LIVE
            and self.record.paused is None
            and not self.window_over
            and not self.worker.draining
            and self.leased
        )

    @property
    def leased(self) -> bool:
        """Whether anything may be sent or claimed: a heartbeat came back not long ago."""
        return self.hands.clock.monotonic_ns() < self._lease_ns

    # --- arming ------------------------------------------------------------------------------------------

    async def _announce_ready(self) -> None:
        """The first worker that sees every shard held and ready says so."""
        ref = self.record.snapshot
        if ref is None:
            return  # edited since this step began
        now_ns = self.hands.clock.monotonic_ns()
        alive = self.worker.members.alive(now_ns)
        owners = {owner.owner for index, (owner, _) in self.owners.items() if index < ref.shards}
        held = sum(1 for index, (owner, _) in self.owners.items() if index < ref.shards and owner.owner is not None)
        if held < ref.shards or None in owners or not owners <= set(alive):
            return
        beats = [alive[owner] for owner in sorted(o for o in owners if o is not None)]
        now = [beat for beat in beats if beat.launches.get(self.launch, Holding()).arming == self.arming]
        summed = total(self.launch, now)
        if summed.ready_workers == len(owners) and summed.shards >= ref.shards:
            await self._transition(Input.READY)

    # --- live --------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        record, run = self.record, self.holder.run
        await self.claimer.resolve()
        if run is not None and self.went:
            self._share_pace()
            if record.state is State.LIVE:
                await self._judge()
                await self._open_next_stage()
        if self._finished():
            await self.claimer.claim_rest()
            await self.settler.settle()
        elif self.went:
            self.settler.settle_complete()
        ref = record.snapshot
        assert ref is not None
        settled = sum(1 for index, (owner, _) in self.owners.items() if index < ref.shards and owner.settled)
        if settled == ref.shards:
            await self._transition(Input.CLOSE)

    def _finished(self) -> bool:
        """Whether every row this worker holds has been sent and answered, or will not be sent any more."""
        run = self.holder.run
        if any(mine.open and not mine.resolved for mine in self.holder.mine.values()):
            return False
        if not self.went:
            return self.window_over or self.record.state is State.ABORTED
        assert run is not None
        if run.finished:
            return True
        everything = all(m.exhausted(self.record.last_stage) for m in self.holder.mine.values() if m.open)
        return everything and self.claimer.idle and run.quiet()

    def _share_pace(self) -> None:
        """The pace is the fleet's; this worker's part goes by the rows it still holds."""
        run = self.holder.run
        assert run is not None
        if not self.record.pace:
            return
        alive = self.worker.members.alive(self.hands.clock.monotonic_ns())
        summed = total(self.launch, alive.values()).providers
        own = self.holder.rows_by_provider()
        for provider, pace in self.record.pace.items():
            rows = own.get(provider, 0)
            if rows:
                told = summed.get(provider)
                run.set_pace(provider, pace_share(pace, rows, max(rows, told.rows if told is not None else 0)))

    async def _judge(self) -> None:
        """The misfire guard looks at the replies of the whole fleet."""
        terms, run = self.record.guard, self.holder.run
        if run is None or self.record.paused is not None:
            return
        if self.worker.options.pauses and not self.record.guard_off:
            stopped = run.stop_reasons()
            if stopped:
                provider, reason = next(iter(sorted(stopped.items())))
                meaning = MEANINGS[reason_of(provider, reason)]
                await self._pause(f"{provider} answers {reason}, as it would to every further row. {meaning}")
                return
        now_ns = self.hands.clock.monotonic_ns()
        if terms is None or self.record.guard_off or now_ns < self._judge_ns:
            return
        self._judge_ns = now_ns + int(JUDGE_S * 1e9)
        # The others by their last heartbeat, this worker as it is now.
        alive = self.worker.members.alive(now_ns)
        beats = [beat for name, beat in alive.items() if name != self.worker.name]
        trip = judge(counted(total(self.launch, [*beats, self.worker.beat(count=False)]).providers), terms)
        if trip is not None:
            await self._pause(f"{trip.text}. {trip.remedy}")

    async def _pause(self, why: str) -> None:
        run = self.holder.run
        assert run is not None
        run.pause()  # here at once, everywhere by the record
        self._paused = True
        self.paused_for.append(why)
        pause = Pause(at=self.hands.clock.time(), by=self.worker.name, why=why, guard=True)
        await self._transition(Input.PAUSE, update={"paused": pause}, note=why)

    async def _open_next_stage(self) -> None:
        """Opens the next stage when the last one is sent, answered and looked at."""
        stage = self.record.stage
        run = self.holder.run
        assert run is not None
        sent = stage if self._stage_is_sent(stage) else stage - 1
        if sent != self._stage_sent:  # it falls back where a shard is taken over whose rows of this stage are not sent
            self._stage_sent, self._stage_sent_at = sent, self.hands.clock.time()
            self.worker.soon()
        if stage >= self.record.last_stage or self.record.paused is not None:
            return
        alive = self.worker.members.alive(self.hands.clock.monotonic_ns())
        settled = {index for index, (owner, _) in self.owners.items() if owner.settled}
        if stage_open(self.record, alive, self.hands.clock.time(), settled=settled):
            await self._transition(Input.STAGE, update={"stage": stage + 1})

    def _stage_is_sent(self, stage: int) -> bool:
        run = self.holder.run
        mine = [m for m in self.holder.mine.values() if m.open]
        return run is not None and all(m.exhausted(stage) for m in mine) and self.claimer.idle and run.quiet()

    # --- leaving -----------------------------------------------------------------------------------------

    async def _leave(self) -> bool:
        """The worker ends: what is claimed is finished and written down, the rest goes back."""
        run = self.holder.run
        if run is not None and self.went and not (run.finished or (self.claimer.idle and run.quiet())):
            return False
        if not self.settler.idle:
            return False
        if self._finished():
            await self.claimer.claim_rest()
            await self.settler.settle()
        await self.settler.write_lost(leaving=True)
        await self.holder.release_all()
        return True

    # --- shared ------------------------------------------------------------------------------------------

    async def _transition(self, what: Input, *, update: dict[str, object] | None = None, note: str = "") -> None:
        """A transition that somebody else may have made already; then theirs counts."""
        changes = {"closed_at": self.hands.clock.time()} if what is Input.CLOSE else update or {}
        expected_stage, expected_arming = self.record.stage, self.arming

        def change(record: LaunchRecord) -> LaunchRecord:
            if (
                record.arming != expected_arming
                or (what is Input.STAGE and record.stage != expected_stage)
                or (what is Input.PAUSE and record.paused is not None)
                or (what is Input.CLOSE and record.closed_at is not None)
            ):
                raise _AlreadyDone
            return record.model_copy(update=changes)

        with suppress(LifecycleError, BusyError, _AlreadyDone):
            # A read that lags may refuse what is possible by now: then the next step asks again.
            await self.worker.store.transition(self.launch, what, change, note)

    def wake(self) -> None:
        """Called from lane threads: something has come to rest."""
        self._wake()

    def holding(self) -> Holding:
        """What the heartbeat says of this launch."""
        return self.holder.holding(self._stage_sent, self._stage_sent_at, self.error)


class _AlreadyDone(Exception):  # noqa: N818 - a signal of this module's, not an error
    """Another worker has made the transition that this one was about to make."""
