"""The use cases. Every door (command line, later API and console) calls these and nothing below.

    LaunchSession:  seal | adopt -> connect -> arm | take_over -> go ... wait -> finish -> close

A session holds the state folder's lock from beginning to end, so two launches never share one. What it does is on
disk at every step: the engine says how far it came, the journal what became of every row. Operators of a fleet have
use cases of their own (launch_control/); a session runs one launch of the same kind with a worker in this process.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from flashcast.arm.destination import Destination, destination
from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import Snapshot, open_snapshot
from flashcast.audience.source import AudienceSource
from flashcast.audience.synthetic import write_synthetic
from flashcast.campaign.file import Campaign
from flashcast.campaign.lifecycle import State
from flashcast.campaign.load import load_campaign, parse_campaign
from flashcast.campaign.records import Go, LaunchRecord, SnapshotRef
from flashcast.campaign.terms import launch_terms
from flashcast.clock import Clock, SystemClock
from flashcast.deliver.journal import JournalReader, combined, journals
from flashcast.deliver.run import Run
from flashcast.errors import EnvironmentFault, FlashcastError, InputError, LifecycleError, Lost, SnapshotError
from flashcast.launch_control.local import LocalLaunch
from flashcast.launch_control.shielding import Shielding
from flashcast.outcomes import Outcome
from flashcast.report.facts import LaunchFacts
from flashcast.report.files import write_text
from flashcast.report.ledger import ProviderLedger, Rows
from flashcast.report.recall import journal_facts
from flashcast.report.write import write_report
from flashcast.simulator.ledger import load_ledger
from flashcast.simulator.merge import merged
from flashcast.simulator.process import SimulatorProcess
from flashcast.state import StateFolder
from flashcast.wire.warm import compile_kernels

LAUNCH: Final = "launch.json"
LOCAL: Final = "local"
"""The worker's name in a launch of one process; whoever resumes it is local-2, and so on."""
OUTCOMES: Final = "outcomes"
SNAPSHOT: Final = "snapshot"
LEDGER: Final = "ledger.npz"
_BOOKS_S: Final = 15.0
"""How long the worker may take over the last books once its lanes have ended: it writes a file for each shard."""
_SLOW_START_S: Final = 2.5
"""A start from the compiled kernels' cache takes about one."""

Count = Callable[[int, int | None], None]


class LaunchSession:
    """One launch, step by step; use it in a ``with`` statement. See the module's docstring."""

    def __init__(
        self,
        state: StateFolder,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        folder: Path | None = None,
    ) -> None:
        """Takes the state folder; ``folder`` is an existing launch's, to resume. Raises BusyError."""
        self.clock = clock or SystemClock()
        self.resuming = folder is not None
        self.snapshot: Snapshot | None = None
        self.destination: Destination | None = None
        self.simulator: SimulatorProcess | None = None
        self.run: Run | None = None
        self.seal_s: float | None = None
        self.arm_s: float | None = None
        self.live = False
        """GO was pressed, here or at another terminal, and the launch's note says so."""
        self.local: LocalLaunch | None = None
        self._state = state
        self._to = ""
        self._terms: dict[str, Any] = {}
        self._faults: list[FlashcastError] = []
        self.shielding = Shielding(self.clock)
        """The shield over the product, if the campaign names one."""
        with ExitStack() as opening:
            opening.enter_context(state.lock(folder.name if folder else ""))
            self.folder = folder or state.create_launch(self.clock, rng or random.Random())
            self._note: dict[str, Any] = read_note(self.folder) if folder else {"launch": self.folder.name}
            opening.callback(self.shielding.close)
            self._stack = opening.pop_all()

    def __enter__(self) -> LaunchSession:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The launch's id, the name of its folder."""
        return self.folder.name

    # --- steps -------------------------------------------------------------------------------------------

    def seal(
        self, campaign: Campaign, audience: AudienceSource, options: SealOptions, progress: Count | None = None
    ) -> Snapshot:
        """Seals the audience into the launch's folder."""
        started = time.perf_counter()
        self._terms = launch_terms(campaign)
        self.snapshot = seal(campaign, audience, self.folder / SNAPSHOT, options, progress)
        self._stack.callback(self.snapshot.close)
        self.seal_s = time.perf_counter() - started
        self.note(name=self.snapshot.name, snapshot=SNAPSHOT, snapshot_digest=self.snapshot.digest, seal_s=self.seal_s)
        return self.snapshot

    def adopt(self, path: Path) -> Snapshot:
        """Takes a snapshot that was sealed before; its digest is checked. Raises SnapshotError."""
        self.snapshot = open_snapshot(path)
        self._stack.callback(self.snapshot.close)
        known = self._note.get("snapshot_digest")
        if known not in (None, self.snapshot.digest):
            raise SnapshotError(
                f"{path} is not the snapshot of launch {self.id}: its digest is another",
                remedy="Restore the folder from where it was copied; what was sealed is what is sent.",
            )
        where = SNAPSHOT if path.parent == self.folder else str(path.resolve())
        self.note(name=self.snapshot.name, snapshot=where, snapshot_digest=self.snapshot.digest)
        return self.snapshot

    def connect_to(self, to: str, *, profile: str = "ideal", seed: int = 0, expected: int = 0) -> Destination:
        """Reads the settings of ``to``; for ``simulator`` starts one that lives as long as the session.

        ``expected`` devices make room in the simulator's books beforehand.
        """
        processes = int(self._note.get("processes", 0)) + 1
        if to == "simulator":
            folder = self._simulator_folder(processes)
            folder.mkdir(mode=0o700)
            self.simulator = self._stack.enter_context(SimulatorProcess(folder, profile, seed, expected=expected))
            made = destination(str(self.simulator.config_path))
            self.destination = Destination(f"simulator ({profile})", made.config)
            self._to = str(self.simulator.config_path.resolve())
        else:
            self.destination = destination(to)
            self._to = to if to in _WORDS else str(Path(to).resolve())
        self.note(destination=self.destination.name, to=to if to in _WORDS else self._to,
                  profile=profile, seed=seed, processes=processes)  # fmt: skip
        return self.destination

    def arm(self, progress: Count | None = None, *, rehearsal: bool = False) -> Run:
        """Compiles kernels, makes the journal, opens and authenticates connections. After this, GO is immediate.

        A ``rehearsal`` raises no shield, as no launch does that goes to a simulator.
        """
        assert self.snapshot is not None and self.destination is not None
        started = time.perf_counter()
        compile_kernels()
        snapshot = self.snapshot
        ref = SnapshotRef(
            url=str(snapshot.path.resolve()), digest=snapshot.digest, sealed_at=self.clock.time(),
            rows={provider: rows for provider, rows in snapshot.rows_by_provider.items() if rows},
            shards=len(snapshot.shards),
        )  # fmt: skip
        local = self._local_launch()
        terms = {**_snapshot_terms(snapshot), **self._terms}
        if rehearsal or self.simulator is not None:
            terms["shield"] = None
        self.shielding.raise_at("arm", local.begin(ref, self._to, terms))
        self.run = local.until_armed(progress)
        self.arm_s = time.perf_counter() - started
        self.shielding.wait()
        self.note(phase="armed", arm_s=self.arm_s)
        return self.run

    def take_over(self, progress: Count | None = None) -> Run | None:
        """Goes on with a launch whose process died, in a new window: what was settled stays, the rest is sent.

        Returns None where nothing is left but to write the report (`finish`).
        """
        assert self.snapshot is not None and self.destination is not None
        started = time.perf_counter()
        compile_kernels()
        local = self._local_launch()
        if local.is_over():
            return None  # it came to its end, and only its report is missing
        self.note(phase="live", started_at=local.reopen(self.snapshot.window_s, self._to))
        self.live = True
        self.run = local.until_taken_over(progress)
        self.arm_s = time.perf_counter() - started
        return self.run

    def _local_launch(self) -> LocalLaunch:
        assert self.destination is not None
        number = len(journals(self.folder)) + 1
        self.local = LocalLaunch(
            self._state.path, self.id, self.clock, worker=LOCAL if number == 1 else f"{LOCAL}-{number}",
            lanes=self.destination.config.lanes,
        )  # fmt: skip
        self._stack.callback(self.local.close)
        self.local.start()
        return self.local

    def go(self) -> Go | None:
        """GO; returns None, or whose GO it was where another terminal was quicker: theirs counts, and this goes on.

        Raises LifecycleError where another terminal has called the launch off or disarmed it.
        """
        assert self.run is not None and self.local is not None
        theirs = None
        try:
            record = self.local.go()
            self.shielding.raise_at("go", record)
        except (Lost, LifecycleError):
            record = self.local.read()
            if record.go is None:
                raise
            theirs = record.go
            self.local.until_begun()
        self._gone_live(record)
        return theirs

    def turned(self) -> LaunchRecord | None:
        """The launch's record where another terminal has launched it, called it off or disarmed it; else None."""
        assert self.local is not None
        record = self.local.record()
        return None if record.state is State.ARMED else record

    def call_off(self) -> Go | None:
        """Calls off what was not to be launched; returns whose GO it was where another terminal had pressed it.

        Then it is aborted as a launch is that went live, and there are books to close and a report to write.
        """
        record = None if self.local is None else self.local.call_off()
        if self.local is not None and (ended := record or self.local.begun) is not None:
            self.shielding.lower(ended)
        if record is None or self.local is None:
            return None
        self.run = self.run or self.local.run
        self.local.until_begun()
        self._gone_live(record)
        return record.go

    def _gone_live(self, record: LaunchRecord) -> None:
        assert record.go is not None
        self.note(phase="live", started_at=record.go.at)
        self.live = True

    def abort(self) -> None:
        """Sends nothing more; replies to what is on the wire are awaited, but not long."""
        assert self.local is not None
        self.local.abort()
        self.shielding.lower(self.local.record())

    def wait(self, timeout_s: float) -> bool:
        """Waits until every row has its outcome, at most ``timeout_s``. Returns whether they have."""
        assert self.local is not None
        return self.local.over(timeout_s)

    @property
    def paused(self) -> str | None:
        """Why nothing is sent for now, None while it is."""
        assert self.local is not None
        pause = self.local.record().paused
        return None if pause is None else pause.why or f"paused by {pause.by}"

    def finish(self) -> dict[str, Any]:
        """Closes the books, stops the simulator, writes the report and returns it.

        What goes wrong on the way is among `faults`; the report is written all the same.
        """
        assert self.snapshot is not None and self.local is not None
        run, local = self.run, self.local
        unreachable = () if run is None else _unreachable(run)
        if run is not None:
            run.close()  # from here on nobody else writes to the journal
            if not local.over(_BOOKS_S):
                run.settle()
            self._faults += run.faults
        self._faults += [local.fault] if local.fault is not None else []
        self.shielding.close()
        self._faults += self.shielding.faults
        ledger, warnings = self._provider_ledger()
        warnings += unreachable
        with self._rows() as rows:
            facts = journal_facts(self.folder, rows) if run is None else self._facts(run, warnings)
            document = write_report(self.folder, self.snapshot, rows, facts, ledger)
        self.note(phase="done")
        shutil.rmtree(self.folder / OUTCOMES, ignore_errors=True)  # the journal and outcomes.parquet say the same
        for process in range(1, int(self._note["processes"]) + 1):
            shutil.rmtree(self._simulator_folder(process), ignore_errors=True)
        return document

    @contextmanager
    def _rows(self) -> Iterator[Rows]:
        """What became of every row: this process's journal, and those of processes before it."""
        with ExitStack() as opened:
            readers = []
            for path in journals(self.folder):
                readers.append(JournalReader.open(path))
                opened.callback(readers[-1].close)
            yield combined(readers)

    @property
    def faults(self) -> list[FlashcastError]:
        """What went wrong after GO without ending the launch: a lane or a simulator that died."""
        return list(self._faults)

    def _simulator_folder(self, process: int) -> Path:
        """Where the simulator of the launch's ``process``-th process keeps its ledger, until there is a report."""
        return self.folder / f"simulator-{process}"

    def _provider_ledger(self) -> tuple[ProviderLedger | None, tuple[str, ...]]:
        """The books of the simulators this launch went to, or why there are none to compare with."""
        if self.simulator is None:
            return None, ()
        try:
            last = self.simulator.stop()
        except FlashcastError as error:
            self._faults.append(error)
            return None, ("The simulator's books are lost, so nothing was compared with them.",)
        if not self.resuming:
            return last, ()
        before = range(1, int(self._note["processes"]))
        try:
            return merged([*(load_ledger(self._simulator_folder(i) / LEDGER) for i in before), last]), ()
        except SnapshotError:
            return None, ("An earlier process of this launch left no simulator's books, so nothing was compared.",)

    def _facts(self, run: Run, warnings: tuple[str, ...]) -> LaunchFacts:
        assert self.destination is not None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # From the key that was pressed; who goes on with a launch counts from its own beginning.
        noticed_ms = 0.0 if self.resuming else run.noticed_go_ms()
        return LaunchFacts(
            launch=self.id,
            destination=self.destination.name,
            started_at=run.started_at or self._gone_at(),
            latency_us_histogram=run.histogram(),
            peak_rss_mib=peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
            go_to_first_request_ms=_plus(run.go_to_first_request_ms(), noticed_ms),
            go_to_last_reply_s=_plus(run.go_to_last_reply_s(), noticed_ms / 1e3),
            sender_cpu_us_per_notification=run.cpu_us_per_notification(),
            seal_s=self.seal_s if self.seal_s is not None else self._note.get("seal_s"),
            arm_s=self.arm_s,
            aborted=any(job.aborted.is_set() for job in run.jobs.values()),
            stopped={p: job.stopped for p, job in run.jobs.items() if job.stopped is not None},
            connections={provider: crew.plan.connections for provider, crew in run.crews.items()},
            overshoot=run.overshoot(),
            resumed=self.local.resumed if self.resuming and self.local is not None else 0,
            warnings=warnings,
        )

    def _gone_at(self) -> float:
        """When GO was pressed, for a launch that was called off before its lanes had begun."""
        record = self.local.record() if self.local is not None else None
        return record.go.at if record is not None and record.go is not None else 0.0

    # --- what is on disk ---------------------------------------------------------------------------------

    def note(self, **facts: Any) -> None:
        """Adds to launch.json."""
        self._note.update(facts)
        write_text(self.folder / LAUNCH, json.dumps(self._note, indent=2) + "\n")

    def discard(self) -> None:
        """Removes the launch's folder: it came to nothing before GO."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Lets go of everything the session holds: connections, simulator, mappings, the lock."""
        self._stack.close()


def _plus(measured: float | None, more: float) -> float | None:
    return None if measured is None else measured + more


def _snapshot_terms(snapshot: Snapshot) -> dict[str, Any]:
    """What a sealed snapshot says of how it is to be sent."""
    return {"window_s": snapshot.window_s, "unknown_policy": snapshot.unknown_policy, "pace": dict(snapshot.pace)}


_WORDS: Final = frozenset({"simulator", "sandbox", "production"})


def _unreachable(run: Run) -> tuple[str, ...]:
    """A sentence for each provider that rows were left for and no connection was open to at the end."""
    return tuple(
        f"No connection to {crew.target.address} was open any more when sending ended; {provider} rows that had not "
        "been sent by then were not sent."
        for provider, crew in run.crews.items()
        if not crew.ready and not run.jobs[provider].halted and run.jobs[provider].window_ends_ns <= run.now_ns()
    )


def read_note(folder: Path) -> dict[str, Any]:
    """launch.json of a launch. Raises InputError where it cannot be read."""
    try:
        note = json.loads((folder / LAUNCH).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / LAUNCH} cannot be read: {error}", remedy="This launch cannot be resumed."
        ) from None
    if not isinstance(note, dict):
        raise InputError(f"{folder / LAUNCH} is damaged", remedy="This launch cannot be resumed.")
    return note


def unfinished_launch(state: StateFolder, launch: str | None) -> Path:
    """The launch to resume: the one named, or the latest that went live and has no report. Raises InputError."""
    if launch is not None:
        folder = state.find(launch)
        if not journals(folder):
            raise InputError(f"launch {launch} never went live", remedy="Start a new one with `flashcast launch`.")
        if read_note(folder).get("phase") == "done":
            raise InputError(f"launch {launch} has finished", remedy=f"See `flashcast report {launch}`.")
        return folder
    for name in reversed(state.launches()):
        folder = state.launch_folder(name)
        # A folder without a note is of a fleet's launch, which workers take over.
        if (folder / LAUNCH).exists() and journals(folder) and _went_live(folder):
            return folder
    raise InputError(f"no launch in {state.path} was interrupted", remedy="`flashcast report --list` shows all.")


def _went_live(folder: Path) -> bool:
    """Whether a launch without a report has sent anything: a kill can come between GO and the note of it."""
    phase = read_note(folder).get("phase")
    if phase != "armed":
        return phase == "live"
    for path in journals(folder):
        reader = JournalReader.open(path)
        sent = any(bool((reader.outcome[base : base + rows] != Outcome.UNSENT).any()) for base, rows in reader.held)
        reader.close()
        if sent:
            return True
    return False


@contextmanager
def saying_if_slow(say: Callable[[str], None], text: str) -> Iterator[None]:
    """Calls ``say(text)`` if the body takes longer than a start with compiled kernels."""
    timer = threading.Timer(_SLOW_START_S, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# --- demo ------------------------------------------------------------------------------------------------

DEMO_CAMPAIGN: Final = b"""\
name = "demo"
window_s = 60
guard = false

[apns]
topic = "com.example.app"
push_type = "alert"
priority = 10
alert = { title = "Do your lesson", body = "No buts. Five minutes are enough." }
sound = "default"

[fcm]
notification = { title = "Do your lesson", body = "No buts. Five minutes are enough." }
priority = "high"
"""


def demo_campaign() -> Campaign:
    """The campaign that `flashcast demo` sends: the same few words to everyone."""
    return parse_campaign(DEMO_CAMPAIGN, "demo.toml")


def make_demo_audience(folder: Path, devices: int, apns_share: float, seed: int, progress: Count | None = None) -> Path:
    """Writes the demo's synthetic device table as Parquet and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "devices.parquet"
    try:
        write_synthetic(path, devices, apns_share, seed, progress)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write the demo's devices to {path}: {error.strerror or error}",
            remedy="Free disk space, or name another folder with --state.",
        ) from error
    return path


__all__ = [
    "AudienceSource",
    "LaunchSession",
    "SealOptions",
    "StateFolder",
    "compile_kernels",
    "demo_campaign",
    "journals",
    "load_campaign",
    "make_demo_audience",
    "read_note",
    "saying_if_slow",
    "unfinished_launch",
]  # fmt: skip
