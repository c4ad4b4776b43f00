"""What befalls the fleet of a simulation, when its scenario says so. Whatever was done is undone when all heals."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from flashcast.testing.evidence import Span
from flashcast.testing.scenario import Event, Kind
from flashcast.testing.virtual_time import Life, Process, current_process

if TYPE_CHECKING:
    from flashcast.testing.fleet import Member, World

SENDS_MAX: Final = 12
"""A fault "while sending" strikes at one of so many sends from now on."""
RESTARTED: Final = 0.7
"""So many of the killed are started again, under another name."""


class Chaos:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._at_send: dict[Process, tuple[int, Event]] = {}
        self.tally: Counter[str] = Counter()
        """What was done how often."""

    # --- events --------------------------------------------------------------------------------------------

    async def happen(self, event: Event) -> None:
        """Waits for the event's time, and lets it happen."""
        world = self._world
        if event.after_go:
            await world.went.wait()
        await asyncio.sleep(event.at_s)
        if world.healed.is_set():
            return
        world.trace.note(f"chaos: {event}")
        self.tally[event.kind.value] += 1
        if event.kind in _OPERATORS:
            await self._by_operator(event)
        elif event.kind in _FOR_ALL:
            await self._to_all(event)
        elif event.kind is Kind.JOIN:
            world.start_worker(world.machines[int(event.pick * len(world.machines))])
        elif world.serving:
            await self._to_one(event, world.serving[int(event.pick * len(world.serving))])

    async def _while(self, event: Event) -> None:
        """For as long as the event lasts, or until all heals."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(event.lasts_s):
                await self._world.healed.wait()

    async def _by_operator(self, event: Event) -> None:
        teams = self._world.operators
        operators = teams[int(event.pick * len(teams))]
        if event.kind is Kind.PAUSE:
            await operators.hold(lambda: self._while(event))
        elif event.kind is Kind.ABORT:
            await operators.call_off()
        elif event.kind is Kind.DISARM:
            await operators.disarm()
        else:
            await operators.edit()

    async def _to_all(self, event: Event) -> None:
        world = self._world
        if event.kind is Kind.ENGINE_DOWN:
            await asyncio.gather(*(self._partition(member, event) for member in world.members if member.alive))
        elif event.kind is Kind.KILL_ALL:
            for member in [member for member in world.members if member.alive]:
                self.kill(member, event)
        elif event.kind is Kind.VOLATILE_LOST:
            world.space.restart_volatile()
        elif event.kind in (Kind.GOAWAY, Kind.SETTINGS, Kind.PROVIDER_DOWN):
            await self._to_provider(event)
        else:
            world.files.full = True
            await self._while(event)
            world.files.full = False

    async def _to_provider(self, event: Event) -> None:
        world = self._world
        provider = sorted(world.providers)[int(event.pick * len(world.providers))]
        simulated = world.providers[provider]
        if event.kind is Kind.GOAWAY:
            simulated.go_away()
        elif event.kind is Kind.SETTINGS:
            simulated.change_settings()
        else:
            world.network.down.add(provider.value)
            host = provider.value
            world.network.cut_all(lambda made: made.channel.address.host == host, silent=event.lasts_s > 1)
            await self._while(event)
            world.network.down.discard(host)

    async def _to_one(self, event: Event, member: Member) -> None:
        world = self._world
        world.trace.note(f"chaos: it is {member.name}")
        if event.kind is Kind.KILL:
            self.kill(member, event)
        elif event.kind is Kind.STOP:
            self.stop(member, event)
        elif event.kind in (Kind.KILL_SENDING, Kind.STOP_SENDING):
            self._at_send[member.process] = 1 + int(event.pick * 1e6) % SENDS_MAX, event
        elif event.kind is Kind.LEAVE:
            world.leave(member)
        elif event.kind is Kind.PARTITION:
            await self._partition(member, event)
        elif event.kind is Kind.ISLAND:
            world.network.islanded.add(member.name)
            world.network.cut_all(lambda connection: connection.process is member.process, silent=event.pick > 0.5)
            await self._while(event)
            world.network.islanded.discard(member.name)
        elif event.kind is Kind.CUT:
            world.network.cut_all(lambda connection: connection.process is member.process, silent=event.pick > 0.5)
        elif event.kind is Kind.DISK_FULL:
            member.machine.full = True
            await self._while(event)
            member.machine.full = False
        elif event.kind is Kind.SLOW_DISK:
            usual, member.hands.call_s = member.hands.call_s, (0.02, 0.4)
            await self._while(event)
            member.hands.call_s = usual

    async def _partition(self, member: Member, event: Event) -> None:
        start_ns = self._world.loop.now_ns
        span_at = len(member.history.cut_off)
        member.history.cut_off.append(Span(start_ns, 1 << 62))
        member.engine.partition()
        await self._while(event)
        member.engine.heal()
        member.history.cut_off[span_at] = Span(start_ns, self._world.loop.now_ns)

    # --- processes -----------------------------------------------------------------------------------------

    def at_send(self, process: Process) -> None:
        """Called by the network at each send: a process may be stopped or killed in the midst of it."""
        armed = self._at_send.get(process)
        if armed is None or self._world.healed.is_set():
            return
        left, event = armed
        if left > 1:
            self._at_send[process] = left - 1, event
            return
        del self._at_send[process]
        member = next(member for member in self._world.members if member.process is process)
        self._world.trace.note(f"chaos: {member.name} sends, and is struck by {event.kind.value}")
        with self._world.loop.inside(None):
            if event.kind is Kind.KILL_SENDING:
                self.kill(member, event)
            else:
                self.stop(member, event)

    def kill(self, member: Member, event: Event) -> None:
        """kill -9; perhaps it is started again after a while."""
        world = self._world
        self.tally["killed"] += 1
        world.bury(member)
        member.history.crashed_ns = world.loop.now_ns
        if (event.pick * 1e3) % 1 < RESTARTED:
            world.network.later(
                world.loop.now_ns + int(event.lasts_s * 1e9), lambda: world.start_worker(member.machine)
            )

    def stop(self, member: Member, event: Event) -> None:
        """kill -STOP, and kill -CONT when the event is over."""
        world = self._world
        if member.process.life is not Life.RUNNING:
            return
        self.tally["stopped"] += 1
        world.loop.stop_process(member.process)
        member.history.paused.append(Span(world.loop.now_ns, 1 << 62))
        world.network.later(world.loop.now_ns + int(event.lasts_s * 1e9), lambda: self.go_on(member))

    def go_on(self, member: Member) -> None:
        """kill -CONT."""
        world = self._world
        if member.process.life is not Life.STOPPED:
            return
        world.trace.note(f"chaos: {member.name} goes on")
        span = member.history.paused.pop()
        member.history.paused.append(Span(span.start_ns, world.loop.now_ns))
        world.loop.continue_process(member.process)
        world.network.thaw(member.process)

    # --- disks ---------------------------------------------------------------------------------------------

    def disk_is_full(self) -> bool:
        """Whether the disk under the code that is running is full."""
        process = current_process()
        return any(member.process is process and member.machine.full for member in self._world.members)


_FOR_ALL: Final = frozenset(
    {
        Kind.KILL_ALL, Kind.ENGINE_DOWN, Kind.VOLATILE_LOST, Kind.GOAWAY, Kind.SETTINGS, Kind.PROVIDER_DOWN,
        Kind.OUTCOMES_FULL,
    }
)  # fmt: skip
_OPERATORS: Final = frozenset({Kind.PAUSE, Kind.ABORT, Kind.DISARM, Kind.EDIT})
