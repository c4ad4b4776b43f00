"""A fleet of real processes: an engine, a simulator, workers on one machine or several, and an operator.

A *machine* is a state folder: workers that share one can read each other's journals once a process has ended, workers
of different ones cannot, as on machines of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fleet_operators import Finished, Pressing
from fleet_view import DEADLINE_S, Observer, View
from fleet_worker import COMMAND, Journalled, Worker, end_with_parent

from flashcast.arm.readiness import LEASE_S
from flashcast.audience.seal import SealOptions
from flashcast.audience.source import AudienceSource
from flashcast.audience.synthetic import write_synthetic
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import LaunchRecord
from flashcast.campaign.store import Operator, Store
from flashcast.clock import SystemClock
from flashcast.deliver.claims import grid
from flashcast.deliver.journal import journal_path
from flashcast.engine.open import open_engine
from flashcast.launch_control.campaigns import seal_campaign
from flashcast.simulator.process import SimulatorProcess

NAME = "superbowl"
CAMPAIGN = """\
name = "superbowl"
window_s = {window_s}
unknown_policy = "{policy}"
{pace}
[apns]
topic = "com.example.app"
alert.title = "Kick-off"
alert.body = "The match begins now."
collapse_id = "kick-off"

[fcm]
notification.title = "Kick-off"
notification.body = "The match begins now."
collapse_key = "kick-off"
"""


class Fleet:
    """See the module's docstring. A context manager; what fails tells what every process said."""

    def __init__(self, folder: Path, engine: str, *, profile: str | Path = "realistic") -> None:
        """``engine`` is what the operator and the observer use; a worker may get another address of the same."""
        self.folder = folder
        self.engine = engine
        self.workers: list[Worker] = []
        self.launch = f"{NAME}-1"
        self._profile = profile
        self._sealed = False
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.simulator = stack.enter_context(SimulatorProcess(self.folder / "simulator", self._profile, seed=5))
            self.observer = stack.enter_context(Observer(self.engine))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for worker in self.workers:
            worker.close()
        self._stack.close()
        if error is not None:
            for worker in self.workers:
                said = [str(event) for event in worker.events[-20:]] + worker.err_lines[-40:]
                error.add_note(f"{worker!r} said:\n  " + "\n  ".join(line.rstrip() for line in said))

    # --- what there is -----------------------------------------------------------------------------------

    def machine(self, name: str = "machine") -> Path:
        """The state folder of a machine."""
        return self.folder / name

    def worker(self, name: str, machine: str = "machine", *, engine: str | None = None) -> Worker:
        """Starts a worker; see `Worker.until_ready`."""
        made = Worker(engine or self.engine, self.machine(machine), name)
        self.workers.append(made)
        return made

    def start_workers(self, *names: str, machines: bool = False) -> list[Worker]:
        """Starts workers beside each other, each on a machine of its own where ``machines``.

        Before there is a launch they are not waited for: they start while it is sealed, and `arm` waits for them.
        """
        made = [self.worker(name, name if machines else "machine") for name in names]
        return [worker.until_ready() for worker in made] if self._sealed else made

    def flashcast(self, *words: object, env: Mapping[str, str] | None = None) -> Finished:
        """One command of the operator's, with --engine, --state and --json, to its end."""
        running = self.command(*words, env=env)
        out, err = running.communicate(timeout=DEADLINE_S)
        return Finished(running.returncode, out, err)

    def command(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The same, not waited for."""
        return subprocess.Popen(
            [*COMMAND, *map(str, words), "--engine", self.engine, "--state", str(self.folder / "operator"), "--json"],
            env={**os.environ, **(env or {})}, text=True, encoding="utf-8", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip

    def said(self, *words: object) -> dict[str, Any]:
        """What a command that must succeed prints."""
        done = self.flashcast(*words)
        assert done.code == 0, f"{words}: {done.told}"
        return done.document

    # --- a launch ----------------------------------------------------------------------------------------

    def seal(
        self, rows: int = 40_000, *, pace: int | None = 5_000, shard_rows: int = 2_500, policy: str = "drop",
        window_s: int = 40,
    ) -> LaunchRecord:  # fmt: skip
        """A campaign whose launch takes ``rows / 2 / pace`` seconds, in shards small enough to have many."""
        self._sealed = True
        devices = self.folder / "devices.parquet"
        write_synthetic(devices, rows, 0.5, seed=1)
        paced = "" if pace is None else f"pace.apns = {pace}\npace.fcm = {pace}"
        text = CAMPAIGN.format(window_s=window_s, policy=policy, pace=paced)

        async def sealed() -> LaunchRecord:
            async with open_engine(self.engine, state=self.folder) as engine:
                store = Store(engine, Operator("alice", "console"), SystemClock())
                await store.create_campaign(NAME, text)
                options = SealOptions(shard_rows=shard_rows)
                source = AudienceSource(str(devices))
                folder = self.folder / "sealed"
                return (await seal_campaign(store, NAME, source, options, folder=folder)).record

        return asyncio.run(sealed())

    def arm(self) -> None:
        """Waits until every worker serves, arms the launch, and waits until every shard is held and ready."""
        for worker in self.workers:
            worker.until_ready()
        self.said("arm", NAME, "--to", self.simulator.config_path)
        # Who looks on may not have heard of the launch yet.
        self.until(lambda view: self.launch in view.launches and self.record(view).state is State.ARMED, "armed")

    def go(self) -> dict[str, Any]:
        """Presses GO."""
        return self.said("go", NAME, "--yes", "--no-watch")

    def fingers_on_enter(self, *operators: str) -> Pressing:
        """Operators who have been asked whether they want to launch, and have not answered yet."""
        return Pressing(self.engine, self.folder / "operator", NAME, operators)

    def record(self, view: View | None = None) -> LaunchRecord:
        """The launch as it was last seen."""
        return (view or self.observer.view).launches[self.launch]

    # --- conditions --------------------------------------------------------------------------------------

    def until(self, condition: Callable[[View], Any], what: str) -> Any:
        """Waits for what the engine says; see `Observer.wait`."""
        return self.observer.wait(condition, what)

    def until_received(self, rows: int) -> int:
        """Waits until the providers have judged so many requests; returns how many."""
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while (received := int(self.simulator.counts()["received"])) < rows:
            assert time.monotonic() < deadline, f"the providers got {received:,} requests, not {rows:,}"
            pause.wait(0.005)
        return received

    def until_sent_by(self, worker: Worker, rows: int) -> Journalled:
        """Waits until ``worker`` has settled so many rows; returns what its journal says then."""
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while True:
            with suppress(Exception):  # the journal is not there yet
                journalled = worker.journal(self.launch)
                if journalled.settled >= rows:
                    return journalled
            assert time.monotonic() < deadline, f"{worker.name} never settled {rows:,} rows"
            assert worker.running, f"{worker.name} ended"
            pause.wait(0.005)

    def until_sending_stopped(self) -> int:
        """Waits until the providers get no more requests, for as long as three leases; returns how many they got."""
        deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
        last, since = -1, time.monotonic()
        while time.monotonic() - since < 3 * LEASE_S:
            assert time.monotonic() < deadline, "they go on sending"
            if (requests := int(self.simulator.counts()["requests"])) != last:
                last, since = requests, time.monotonic()
            pause.wait(0.01)
        return last

    @staticmethod
    def now() -> float:
        """The observer's clock."""
        return time.monotonic()

    def until_let_go(self, worker: Worker) -> None:
        """Waits until ``worker`` says that it has nothing more to do with the launch."""
        self.until(
            lambda view: worker.name in view.beats and self.launch not in view.beats[worker.name].launches,
            f"{worker.name} has let go",
        )

    def until_told(self, worker: Worker) -> None:
        """Waits until the journal of a worker that died is read and removed: its outcome files are there then."""
        path = journal_path(worker.state, self.launch, worker.name)
        self.until(lambda view: not path.exists(), f"{path.name} is read")

    def until_closed(self) -> LaunchRecord:
        """Waits for the end of the launch: every shard settled."""
        self.until(lambda view: self.record(view).closed_at is not None, "closed")
        return self.record()

    # --- what can have been lost ---------------------------------------------------------------------------

    def claimed_rows(self, worker: Worker, view: View | None = None) -> int:
        """Rows of the chunks whose claims are ``worker``'s, but for shards that it has settled."""
        seen = view or self.observer.view
        shards = self.shard_rows()
        chunk_rows = self.record(seen).chunk_rows
        total = 0
        for shard, chunk in seen.claims_of(self.launch, worker.name):
            record = seen.shards[self.launch][shard]
            if record.owner == worker.name and record.settled:
                continue
            span = grid(shards[shard], chunk_rows)[chunk]
            total += span.stop - span.start
        return total

    def shard_rows(self) -> list[int]:
        """Rows of every shard."""
        ref = self.record().snapshot
        assert ref is not None
        manifest = json.loads((Path(ref.url) / "manifest.json").read_text())
        return [int(shard["rows"]) for shard in manifest["shards"]]

    @contextmanager
    def watching_requests(self) -> Iterator[Requests]:
        """Counts the requests that reach the providers for as long as the block lasts."""
        found = Requests()
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                found.note(time.time(), int(self.simulator.counts()["requests"]))
                stop.wait(0.002)

        thread = threading.Thread(target=watch, name="requests", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()


class Requests:
    """How many requests the providers had got, and when (Unix time) that was seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def note(self, at: float, count: int) -> None:
        """One look."""
        if not self.seen or count != self.seen[-1][1]:
            self.seen.append((at, count))

    def last_after(self, at: float) -> float:
        """Seconds from ``at`` until the last new request was seen."""
        return max(0.0, self.seen[-1][0] - at)

    def count_at(self, at: float) -> int:
        """Requests that had been seen by ``at``."""
        return max((count for seen, count in self.seen if seen <= at), default=0)
