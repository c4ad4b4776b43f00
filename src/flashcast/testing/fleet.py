"""A whole fleet in one thread: real workers, operators and delivery on virtual time, and everything that befalls them.

    Scenario (drawn from a seed) -> World.run -> Evidence -> checker -> Result

What is real: `worker/`, `campaign/store`, `go/`, `deliver/`, `wire/`, journals and shards on disk. What is simulated:
time, the network, the providers, the engine behind its contract, and the place of outcome files.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import flashcast.deliver.journal as journal_module
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import LAUNCHES, launch_key
from flashcast.engine.base import Entry
from flashcast.model import Provider
from flashcast.testing.chaos import Chaos
from flashcast.testing.checker import judge
from flashcast.testing.evidence import Evidence, LaunchFacts, WorkerHistory, Write
from flashcast.testing.memory_engine import Faults, MemorySpace
from flashcast.testing.memory_place import MemoryFiles
from flashcast.testing.network import Network, Weather
from flashcast.testing.operators import Operators
from flashcast.testing.sabotage import Sabotage
from flashcast.testing.scenario import DEVICES_MAX, Scenario
from flashcast.testing.sealed import Sealed
from flashcast.testing.simulated_engine import Lag, SimulatedEngine
from flashcast.testing.simulated_hands import PORT, SimulatedHands
from flashcast.testing.simulated_provider import Mood, SimulatedProvider
from flashcast.testing.trace import KEPT, Trace
from flashcast.testing.virtual_time import Process, SimulationError, VirtualClock, VirtualLoop, in_words
from flashcast.worker.worker import Worker, WorkerOptions

ARMED_WITHIN_S: Final = 30.0
"""From the last fault's end to GO: a cool-off of 2 s, connections after 10 s of patience, and operators who look."""
CLOSED_WITHIN_S: Final = 12.0
"""From the last fault's end, or the window's, to the last shard's settlement: reply deadlines, drains, a take-over."""
LINGER_S: Final = 3.0
"""After the end, for workers that were stopped to write down what they know."""
LEFT_WITHIN_S: Final = 10.0
CALM_FAULTS: Final = Faults(request_s=(0.0002, 0.001), reply_s=(0.0002, 0.001), event_s=(0.0002, 0.002))


@dataclass
class Machine:
    """A machine of the fleet."""

    number: int
    clock: VirtualClock
    folder: Path
    full: bool = False
    """Whether its disk is."""

    @property
    def name(self) -> str:
        """Its host name."""
        return f"machine-{self.number}"


@dataclass
class Member:
    """A worker of the fleet."""

    name: str
    machine: Machine
    process: Process
    engine: SimulatedEngine
    hands: SimulatedHands
    worker: Worker | None = None
    leaving: bool = False
    history: WorkerHistory = field(default_factory=WorkerHistory)

    @property
    def alive(self) -> bool:
        """Whether its process is there, stopped or not."""
        return self.history.ended_ns is None

    def journals(self) -> Iterator[Any]:
        """The journals it has open."""
        for work in list(self.worker.works.values()) if self.worker is not None else []:
            if work.holder.journal is not None:
                yield work.holder.journal


@dataclass(frozen=True)
class Result:
    """How a run came out."""

    scenario: Scenario
    violations: list[str]
    digest: str
    events: list[str]
    steps: int
    elapsed_s: float
    """Virtual."""
    states: list[str]
    """Of each launch, in the end."""
    tally: dict[str, int]
    """What was done to the fleet how often."""
    rows: Counter[str]
    """What became of the rows, by outcome and reason."""


class World:
    """One run. See the module's docstring."""

    def __init__(
        self, scenario: Scenario, sealed: Sequence[Sealed], folder: Path, *, sabotage: Sabotage | None = None,
        kept: int | None = KEPT,
    ) -> None:  # fmt: skip
        """``folder`` is empty and the run's own."""
        self.scenario = scenario
        self.snapshots = list(sealed)
        self.sabotage = sabotage
        self.loop = VirtualLoop()  # type: ignore[abstract]  # what has to do with IO is left out
        self.trace = Trace(self.loop, kept=kept)
        self.chaos = Chaos(self)
        self.network = Network(
            self.loop, self.random_for("network"), self.trace, scenario.weather, freeze=self.chaos.at_send
        )
        self.space = MemorySpace()
        self.files = MemoryFiles(lambda: self.loop.now_ns)
        self.office_clock = VirtualClock(self.loop)
        self.engine_faults = scenario.engine
        self.lag = scenario.lag
        self.providers = {
            provider: SimulatedProvider(provider.value, self.network, self.random_for(provider), mood)
            for provider, mood in scenario.moods.items()
        }
        for provider, simulated in self.providers.items():
            self.network.listen(provider.value, PORT, simulated.accept)
        self.machines = [
            Machine(i, VirtualClock(self.loop, facts.offset_s, facts.drift, 500.0 + i), folder / f"machine-{i}")
            for i, facts in enumerate(scenario.machines)
        ]
        self.members: list[Member] = []
        self.clients: list[SimulatedEngine] = []
        self.operators = [Operators(self, launch) for launch in scenario.launches]
        self.writes: list[Write] = []
        self.went = asyncio.Event()
        """Set when the first launch goes live."""
        self.closed = {team.launch: asyncio.Event() for team in self.operators}
        self.healed = asyncio.Event()
        self._folder = folder
        self._record_writes()

    def random_for(self, what: str) -> random.Random:
        """A generator for one purpose: what others draw does not change it."""
        return random.Random(f"{what} {self.scenario.seed}")

    # --- the engine ----------------------------------------------------------------------------------------

    def client(self, name: str) -> SimulatedEngine:
        """A connection to the engine."""
        kind = SimulatedEngine if self.sabotage is None else self.sabotage.engine
        rng = self.random_for(f"engine {name} {len(self.clients)}")
        made = kind(self.space, self.engine_faults, rng, self._revision_at, self.lag)
        self.clients.append(made)
        return made

    def _revision_at(self, ago_s: float) -> int:
        """The durable space's revision so many seconds ago."""
        then_ns = self.loop.now_ns - int(ago_s * 1e9)
        index = bisect_right(self.writes, then_ns, key=lambda write: write.at_ns)
        return self.writes[index - 1].revision if index else 0

    def _record_writes(self) -> None:
        """Every write that takes effect in the durable space is evidence, and an event of the trace."""
        write = self.space.durable._write

        def recorded(key: str, value: bytes | None) -> int:
            revision = write(key, value)
            self._wrote(Entry(key, value, revision))
            return revision

        setattr(self.space.durable, "_write", recorded)  # noqa: B010 - a method is replaced on purpose

    def _wrote(self, entry: Entry) -> None:
        document = json.loads(entry.value) if entry.value is not None else None
        self.writes.append(Write(self.loop.now_ns, entry.key, document, entry.revision))
        self.trace.note(f"engine: {entry.key} r{entry.revision} {_shown(entry.key, document)}")
        kind, _, name = entry.key.partition(".")
        if kind == LAUNCHES and document is not None:
            if document.get("go"):
                self.went.set()
            if document.get("closed_at") or (document["state"] == State.ABORTED and not document.get("go")):
                self.closed[name].set()

    # --- workers -------------------------------------------------------------------------------------------

    def start_worker(self, machine: Machine, devices_max: int = DEVICES_MAX) -> Member:
        """One more worker."""
        name = f"w{len(self.members) + 1}"
        member = Member(
            name, machine, Process(name), self.client(name),
            SimulatedHands(
                self.network, machine.clock, self.files, self.random_for(f"hands {name}"), self.scenario.settings,
                machine.folder / "cache",
            ),
        )  # fmt: skip
        self.members.append(member)
        self.trace.note(f"{name} starts on {machine.name}")
        main = self.loop.spawn(member.process, self._work(member, devices_max))
        main.add_done_callback(lambda task: self._ended(member, task), context=self.network.context)
        return member

    async def _work(self, member: Member, devices_max: int) -> None:
        options = WorkerOptions(member.name, member.machine.name, member.machine.folder, devices_max)
        member.worker = Worker(member.engine, member.hands, options)
        await member.worker.run()

    def _ended(self, member: Member, task: asyncio.Task[None]) -> None:
        """A worker's process ended by itself."""
        error = None if task.cancelled() else task.exception()
        if error is not None or not member.leaving:
            self.loop.faults.append(f"{member.name} ended: {in_words(error)}")
        self.trace.note(f"{member.name} has left")
        self.bury(member)

    def bury(self, member: Member) -> None:
        """What the kernel does when a process is no more."""
        member.history.ended_ns = self.loop.now_ns
        self.loop.faults += self.loop.unheard(member.process)
        self.loop.kill_process(member.process)
        self.network.kill(member.process)
        for journal in member.journals():
            journal.close()
        for watch in member.engine.watches.values():
            watch.end()

    def leave(self, member: Member) -> None:
        """Asks a worker to end."""
        if member.worker is not None and member.alive and not member.leaving:
            member.leaving = True
            self.trace.note(f"{member.name} is asked to leave")
            with self.loop.inside(member.process):
                member.worker.end()

    @property
    def serving(self) -> list[Member]:
        """The workers that are there and have not been asked to leave."""
        return [member for member in self.members if member.alive and not member.leaving]

    # --- running -------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Runs the scenario and judges it."""
        found: list[str] = []
        collecting = gc.isenabled()
        # Collection runs finalizers at moments that depend on what else the interpreter did.
        gc.disable()
        try:
            with self._surroundings():
                self.loop.run_until_complete(self._main(found))
        except SimulationError as error:
            found.append(f"{type(error).__name__}: {error}")
        finally:
            if collecting:
                gc.enable()
        judged = judge(self._evidence())
        found += judged.violations
        result = Result(
            self.scenario, found, self.trace.digest, list(self.trace.events), self.loop.steps, self.loop.elapsed_s,
            self._states(),
            dict(self.chaos.tally),
            judged.rows,
        )  # fmt: skip
        for member in self.members:
            for journal in member.journals():
                journal.close()
        self.loop.close()
        return result

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """What the code under test finds around it: disks that may be full, and perhaps a deliberate break."""
        write_at = journal_module._write_at

        def write_if_room(*args: Any) -> None:
            if self.chaos.disk_is_full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_at(*args)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(journal_module, "_write_at", write_if_room))
            if self.sabotage is not None:
                stack.enter_context(self.sabotage.applied())
            yield

    async def _main(self, found: list[str]) -> None:
        scenario = self.scenario
        for (machine, at_s), devices_max in zip(scenario.workers, scenario.devices_max, strict=True):
            self.loop.call_later(at_s, self.start_worker, self.machines[machine], devices_max)
        leads = [asyncio.create_task(team.lead(), name=f"operator of {team.campaign}") for team in self.operators]
        others = [asyncio.create_task(team.attend(), name=f"guardian of {team.campaign}") for team in self.operators]
        others += [asyncio.create_task(self.chaos.happen(event), name=str(event)) for event in scenario.events]
        await asyncio.sleep(scenario.heal_s)
        self.heal()
        await asyncio.wait(leads, timeout=ARMED_WITHIN_S)
        for team, lead in zip(self.operators, leads, strict=True):
            if lead.done():
                await self._until_closed(team, found)
            else:
                found.append(f"{team.launch} could not be brought to GO {ARMED_WITHIN_S} s after the last fault's end")
        await asyncio.sleep(LINGER_S)
        for member in self.serving:
            self.leave(member)
        await self._until_left(found)
        for task in (*leads, *others):
            task.cancel()
        await asyncio.wait([*leads, *others])

    async def _until_closed(self, team: Operators, found: list[str]) -> None:
        key = launch_key(team.launch)
        go_ns = next((w.at_ns for w in self.writes if w.key == key and w.value and w.value.get("go")), 0)
        window_left_s = max(0.0, (go_ns - self.loop.now_ns) / 1e9 + team.terms.window_s)
        bound_s = window_left_s + CLOSED_WITHIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                await self.closed[team.launch].wait()
                return
        found.append(f"{team.launch} has not ended {bound_s:.1f} s after the last fault's end")

    async def _until_left(self, found: list[str]) -> None:
        deadline_s = self.loop.elapsed_s + LEFT_WITHIN_S
        while any(member.alive for member in self.members) and self.loop.elapsed_s < deadline_s:
            await asyncio.sleep(0.1)
        found += [f"{member.name} did not leave within {LEFT_WITHIN_S} s" for member in self.members if member.alive]

    def heal(self) -> None:
        """From now on nothing goes wrong any more; what was stopped goes on."""
        self.trace.note("all faults end")
        self.healed.set()
        self.network.weather = Weather()
        self.network.islanded.clear()
        self.engine_faults = CALM_FAULTS
        self.lag = Lag()
        self.files.full = False
        for simulated in self.providers.values():
            simulated.mood = Mood()
        for client in self.clients:
            client.faults = CALM_FAULTS
            client.lag = self.lag
            client.heal()
        for machine in self.machines:
            machine.full = False
        for member in self.members:
            member.hands.call_s = (0.0001, 0.003)
            self.chaos.go_on(member)
        self.network.down.clear()
        # Whoever is left may have room for a part of the rows only.
        self.start_worker(self.machines[0])

    # --- what is left of it --------------------------------------------------------------------------------

    def _evidence(self) -> Evidence:
        facts = [self._facts(team) for team in self.operators]
        return Evidence(
            launches=facts,
            writes=self.writes,
            receipts={provider.value: self.providers[provider].receipts for provider in Provider},
            workers={member.name: member.history for member in self.members},
            malformed=[what for simulated in self.providers.values() for what in simulated.malformed],
            faults=[*self.loop.faults, *self.loop.unheard()],
            winners={team.launch: list(team.won) for team in self.operators},
            calm=self.scenario.calm,
        )

    def _facts(self, team: Operators) -> LaunchFacts:
        files: dict[str, dict[str, bytes]] = {}
        written_ns: dict[str, dict[str, int]] = {}
        for sealed in team.snapshots:
            prefix = f"{sealed.ref.url}.outcomes/{team.launch}/"
            names = [address for address in self.files.files if address.startswith(prefix)]
            files[sealed.ref.url] = {name.removeprefix(prefix): self.files.files[name] for name in names}
            written_ns[sealed.ref.url] = {name.removeprefix(prefix): self.files.written_ns[name] for name in names}
        snapshots = {sealed.ref.url: list(sealed.shards) for sealed in team.snapshots}
        return LaunchFacts(team.launch, snapshots, files, written_ns)

    def _states(self) -> list[str]:
        """The state each launch came to."""
        last = {write.key: write.value for write in self.writes if write.key.startswith(f"{LAUNCHES}.")}
        return [record["state"] for record in last.values() if record is not None]


def _shown(key: str, document: dict[str, Any] | None) -> str:
    """A record for the trace: nothing in it that differs between two runs of a seed."""
    if document is None:
        return "deleted"
    if not key.startswith("launches."):
        return json.dumps({name: value for name, value in document.items() if name not in ("text", "at")})
    entry = (document.get("trail") or [{}])[-1]
    return f"{document['state']} by {entry.get('by')} ({entry.get('what')}) stage {document.get('stage', 0)}"
