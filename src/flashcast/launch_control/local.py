"""A launch on one machine: its record in the embedded engine, and one worker in this process.

The same path as a fleet's: the record goes from arming to armed to live by compare-and-swap, the worker takes every
shard, claims chunks and settles. So another terminal can watch it, pause it or call it off, and what a crash leaves
behind is taken over by whoever resumes it.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import LaunchRecord, SnapshotRef, launch_key
from flashcast.campaign.store import Operator, Store
from flashcast.clock import Clock
from flashcast.deliver.run import Run
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.engine.open import FOLDER
from flashcast.errors import EnvironmentFault, FlashcastError, InputError, LifecycleError
from flashcast.go.release import press_go
from flashcast.launch_control.arming import chunk_rows_for
from flashcast.model import Provider
from flashcast.worker.hands import RealHands
from flashcast.worker.launch_work import LaunchWork
from flashcast.worker.thread import WorkerThread
from flashcast.worker.worker import WorkerOptions

_POLL_S: Final = 0.005
_DEVICES_MAX: Final = 1 << 40
"""The only worker there is takes everything."""


class LocalLaunch:
    """See the module's docstring. `start`, then `until_armed`, `go`, `over`, `close`; methods block."""

    def __init__(self, state: Path, launch: str, clock: Clock, *, worker: str, lanes: int | None = None) -> None:
        self.launch = launch
        self._state = state
        self._clock = clock
        self._fault: FlashcastError | None = None
        self.begun: LaunchRecord | None = None
        """The launch as this process began it."""
        hands = RealHands(state / "cache", lanes=lanes, clock=clock, outcomes=state / "launches" / launch / "outcomes")
        options = WorkerOptions(
            worker, socket.gethostname(), state, _DEVICES_MAX, frozenset({launch}), pauses=False, keep=True
        )
        self._thread = WorkerThread(EmbeddedEngine(state / FOLDER), hands, options)

    def __repr__(self) -> str:
        return f"<LocalLaunch {self.launch} {self._thread!r}>"

    # --- steps -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the engine and starts the worker."""
        self._thread.start()

    def begin(self, snapshot: SnapshotRef, to: str, terms: dict[str, Any]) -> LaunchRecord:
        """Writes the record of a new launch, sealed and arming: the worker takes its shards."""
        if terms.get("require_approval"):
            raise InputError(
                "this campaign needs another operator's approval (require_approval), which `flashcast launch` has not",
                remedy="Use `flashcast campaign create`, `seal`, `arm`, `approve` and `go`.",
            )
        record = LaunchRecord(
            launch=self.launch, campaign=self.launch, state=State.SEALED, created_at=self._clock.time(),
            snapshot=snapshot, to=to, chunk_rows=chunk_rows_for(terms["pace"]), **terms,
        )  # fmt: skip
        store = self._store()

        async def write() -> LaunchRecord:
            await store.engine.durable.create(launch_key(self.launch), record.to_bytes())
            return await store.transition(self.launch, Input.ARM, note=f"to {to}")

        self.begun = self._thread.do(write())
        return self.begun

    def reopen(self, window_s: float, to: str) -> float:
        """Opens another window of ``window_s`` for a launch whose process died; returns the Unix time of its GO.

        Raises InputError where the engine knows no such launch, LifecycleError where it has ended.
        """
        store = self._store()
        now_s = self._clock.time()

        def reopened(record: LaunchRecord) -> LaunchRecord:
            assert record.go is not None
            window = {"window_s": now_s - record.go.at + window_s, "paused": None, "to": to}
            return record.model_copy(update=window)

        record = self._thread.do(store.transition(self.launch, Input.RESUME, reopened, note="taken over"))
        assert record.go is not None
        return record.go.at

    def record(self) -> LaunchRecord:
        """The launch's record, as the worker has it, or the engine."""
        work = self.work
        return work.record if work is not None else self.read()

    def read(self) -> LaunchRecord:
        """The launch's record, as the engine has it."""
        return self._thread.do(self._store().launch(self.launch))[0]

    def until_armed(self, progress: Callable[[int, int | None], None] | None = None) -> Run:
        """Waits until every shard is held and connected. Raises what keeps one of them from it."""
        while True:
            work = self.work
            self._check(work)
            if work is not None and work.record.state is not State.ARMING:
                run = work.holder.run
                # Another terminal may have pressed GO the moment it was armed.
                if run is not None and (work.record.state is State.ARMED or work.record.go is not None):
                    return run
                raise LifecycleError(
                    f"launch {self.launch} was taken to {work.record.state} by {work.record.trail[-1].by}"
                )
            self._tell(work, progress)
            time.sleep(_POLL_S)

    def is_over(self) -> bool:
        """Whether the launch has ended and its books are closed: there is nothing to take over."""
        record = self.read()
        return record.ended and not record.settling

    def until_taken_over(self, progress: Callable[[int, int | None], None] | None = None) -> Run:
        """Waits until every shard that is not settled is held here and its earlier claims are dealt with."""
        while True:
            work = self.work
            self._check(work)
            if work is not None and work.record.go is not None and work.holder.run is not None:
                taken = {index for index, mine in work.holder.mine.items() if mine.resolved}
                settled = {index for index, (owner, _) in work.owners.items() if owner.settled}
                assert work.record.snapshot is not None
                if len(taken | settled) == work.record.snapshot.shards:
                    return work.holder.run
            if work is not None and work.record.closed_at is not None:
                raise LifecycleError(f"launch {self.launch} is {work.record.state} and closed")
            self._tell(work, progress)
            time.sleep(_POLL_S)

    def go(self) -> LaunchRecord:
        """Presses GO, and returns when the worker has begun. Raises Lost where another terminal was quicker."""
        pressed_at = self._clock.time()
        record = self._thread.do(press_go(self._store(), self.launch, at=pressed_at))
        self.until_begun()
        return record

    def until_begun(self) -> None:
        """Waits until the worker has seen that the launch is live, whoever pressed GO, or that it was called off."""
        work = self._work()
        while self._thread.running and not (work.went or work.over.is_set()):
            if work.record.go is not None and work.record.state is not State.LIVE:
                return  # called off before the worker had begun
            time.sleep(_POLL_S)

    def abort(self) -> None:
        """Calls the launch off; here at once, everywhere by the record."""
        run = self.run
        if run is not None:
            run.abort()
        try:
            self._thread.do(self._store().transition(self.launch, Input.ABORT))
        except LifecycleError:
            pass  # it has just ended, or another terminal was quicker
        except FlashcastError as error:
            self._fault = error

    def call_off(self) -> LaunchRecord | None:
        """Calls off what nobody is to have launched; its record where GO was pressed all the same, by another terminal.

        What is decided by the engine is told, not what the worker has seen of it yet.
        """
        if self._thread.worker is None:
            return None  # it has not begun
        try:
            record = self._thread.do(self._store().transition(self.launch, Input.ABORT))
        except LifecycleError:
            record = self.read()  # it has ended, or somebody disarmed it
        except InputError:
            return None  # there is no record yet
        return record if record.go is not None else None

    def over(self, timeout_s: float) -> bool:
        """Waits for the launch's end, at most ``timeout_s``; also where the worker broke."""
        work = self._work()
        return work.over.wait(timeout_s) or not self._thread.running

    def close(self) -> None:
        """Ends connections, worker and engine. A launch that did not go live is called off."""
        work = self.work
        if work is not None and work.record.go is None:
            self.abort()
        if work is not None:
            work.holder.close_now()
        try:
            self._thread.stop()
        except FlashcastError as error:
            self._fault = error

    # --- what is to be seen ------------------------------------------------------------------------------

    @property
    def work(self) -> LaunchWork | None:
        """The launch as the worker has it, None until it has seen it."""
        worker = self._thread.worker
        return None if worker is None else worker.works.get(self.launch)

    def _work(self) -> LaunchWork:
        work = self.work
        assert work is not None, "the launch was armed"
        return work

    @property
    def run(self) -> Run | None:
        work = self.work
        return None if work is None else work.holder.run

    @property
    def resumed(self) -> int:
        """Rows that were left over by another process and are this one's to send."""
        work = self.work
        return 0 if work is None else sum(taken.rows for taken in work.claimer.take_overs)

    @property
    def fault(self) -> FlashcastError | None:
        """What broke the worker, or kept an order from the engine."""
        return self._fault or self._thread.fault

    def _check(self, work: LaunchWork | None) -> None:
        fault = self._thread.fault
        if fault is None and work is not None:
            crews: dict[Provider, Any] = dict(work.holder.crews)
            fault = work.error or next((crew.fault for crew in crews.values() if crew.fault is not None), None)
        if fault is not None:
            raise fault
        if not self._thread.running:
            raise EnvironmentFault("the worker ended")

    def _tell(self, work: LaunchWork | None, progress: Callable[[int, int | None], None] | None) -> None:
        if progress is not None and work is not None:
            crews = list(work.holder.crews.values())
            progress(sum(crew.ready for crew in crews), sum(crew.wanted for crew in crews) or None)

    def _store(self) -> Store:
        return Store(self._thread.engine, Operator(_operator(), socket.gethostname()), self._clock)


def _operator() -> str:
    named = os.environ.get("FLASHCAST_OPERATOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
