"""An event loop on virtual time, and the processes that a simulation starts, stops and kills on it.

The problem: a fault such as "stopped for three seconds between the claim and the send" must be had at will and repeated
exactly. The obvious answer, gates that the code under test awaits, freezes it only where somebody thought of a
gate. Here the loop itself knows to which `Process` each callback belongs (a context variable, which tasks inherit), so
stopping one is exact: nothing of it runs, its timers go on, and what came due in between runs when it is continued. A
killed process never runs again, not even its `finally` blocks, as after kill -9.

Nothing sleeps: when nothing is ready, time moves on to the next timer. One thread; the order of callbacks depends on
nothing but the order of calls. Sets of tasks iterate in the order of their making (`asyncio.TaskGroup` cancels in a
set's order), so a run is the same in every process.

What is left out: threads, sockets, subprocesses and signals. Asking for them is an error.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_NS: Final = 1_000_000_000_000
"""Virtual time at which every loop starts: not zero, so that code that takes zero for "never" is found out."""
EPOCH_S: Final = 1_700_000_000.0
"""Unix time at the loop's start."""
STEPS_MAX: Final = 2_000_000
"""Callbacks of one run. A simulated launch takes some 20,000; more than this turns in circles."""
_NAMED_MAX: Final = 12
"""Tasks that an error names."""
_FRAMES_TOLD: Final = 4


class SimulationError(Exception):
    """The simulation itself cannot go on."""


class DeadlockError(SimulationError):
    """Nothing is ready, nothing is due, and the main task has not ended."""


class EndlessError(SimulationError):
    """More callbacks than a run may take."""


class Life(Enum):
    """What the kernel knows of a process."""

    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"


class Process:
    """A group of tasks that can be stopped and killed together. See `VirtualLoop.spawn`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = Life.RUNNING
        self.parked: list[asyncio.Handle] = []
        """What came due while it was stopped."""
        self.tasks: list[asyncio.Task[Any]] = []
        """Every task it ever started: a killed one's coroutines must not be collected, for that would run them."""

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.life.value}>"

    @property
    def running(self) -> bool:
        """Whether its code runs."""
        return self.life is Life.RUNNING


_process: Final[contextvars.ContextVar[Process | None]] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose code is running, None for the simulation's own."""
    return _process.get()


class _Task(asyncio.Task[Any]):
    """A task that hashes by its number and not by its address."""

    number: int

    def __new__(cls, *args: Any, loop: VirtualLoop, **kwargs: Any) -> _Task:
        task = super().__new__(cls)
        task.number = loop.next_number()
        return task

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module's docstring. Only what a program without IO asks of a loop is there."""

    def __init__(self, *, steps_max: int = STEPS_MAX) -> None:
        self.now_ns = START_NS
        self.steps = 0
        self.faults: list[str] = []
        """Exceptions that no task or callback caught, in words."""
        self._steps_max = steps_max
        self._ready: deque[tuple[asyncio.Handle, Process | None]] = deque()
        self._timers: list[tuple[int, int, asyncio.Handle, Process | None]] = []
        self._numbers = itertools.count(1)
        self._thread: int | None = None
        self._stopping = False
        self._closed = False
        self._tasks: list[tuple[asyncio.Task[Any], Process | None]] = []

    def __repr__(self) -> str:
        return f"<VirtualLoop +{self.elapsed_s:.3f} s, {self.steps} steps>"

    def next_number(self) -> int:
        """A number that no one else gets."""
        return next(self._numbers)

    # --- processes -----------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Coroutine[Any, Any, T], name: str = "main") -> asyncio.Task[T]:
        """Starts a task inside ``process``; every task and callback that comes of it belongs to it too."""
        context = contextvars.copy_context()
        context.run(_process.set, process)
        return self.create_task(work, name=f"{process.name}/{name}", context=context)

    @contextmanager
    def inside(self, process: Process | None) -> Iterator[None]:
        """Runs the body as ``process``: what it schedules is the process's, or nobody's for None."""
        token = _process.set(process)
        try:
            yield
        finally:
            _process.reset(token)

    def stop_process(self, process: Process) -> None:
        """SIGSTOP: from the next callback on nothing of it runs."""
        if process.life is Life.RUNNING:
            process.life = Life.STOPPED

    def continue_process(self, process: Process) -> None:
        """SIGCONT: what came due meanwhile runs now, in its order."""
        if process.life is Life.STOPPED:
            process.life = Life.RUNNING
            self._ready.extend((handle, process) for handle in process.parked)
            process.parked.clear()

    def kill_process(self, process: Process) -> None:
        """SIGKILL: nothing of it ever runs again. What the kernel does for the dead is the caller's part."""
        process.life = Life.DEAD
        process.parked.clear()

    # --- time ----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now_ns / 1e9

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the loop's start."""
        return (self.now_ns - START_NS) / 1e9

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, context.get(_process)))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if self._thread is not None and threading.get_ident() != self._thread:
            raise SimulationError("a thread called into the simulation: its order would be left to chance")
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at_ns(round(when * 1e9), callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        # Rounded up: whoever sleeps until a deadline must not wake a nanosecond before it, for ever.
        return self.call_at_ns(self.now_ns - int(-max(delay, 0.0) * 1e9 // 1), callback, *args, context=context)

    def call_at_ns(
        self, when_ns: int, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Like `call_at`, in nanoseconds of `now_ns`."""
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.TimerHandle(when_ns / 1e9, callback, args, self, context)
        entry = (max(when_ns, self.now_ns), next(self._numbers), handle, context.get(_process))
        heapq.heappush(self._timers, entry)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their turn comes."""

    # --- running -------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Runs until ``future`` (a coroutine or future) is done, and returns its result.

        Raises DeadlockError, EndlessError, and whatever the future raised.
        """
        main = self.create_task(future, name="simulation") if asyncio.iscoroutine(future) else future
        main.add_done_callback(lambda _: self.stop())
        self.run_forever()
        if not main.done():
            raise SimulationError("the loop was stopped before the main task had ended")
        return main.result()

    def run_forever(self) -> None:
        if self._closed:
            raise SimulationError("the loop is closed")
        hooks = sys.get_asyncgen_hooks()
        self._thread = threading.get_ident()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._finalize)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._stopping = False
            self._thread = None
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        """Runs what is ready, or moves time on."""
        if not self._ready:
            self._move_on()
        # What these schedule runs in the next turn, as asyncio's own loop has it.
        for _ in range(len(self._ready)):
            handle, process = self._ready.popleft()
            if handle.cancelled():
                continue
            if process is not None and process.life is not Life.RUNNING:
                if process.life is Life.STOPPED:
                    process.parked.append(handle)
                continue
            self.steps += 1
            if self.steps > self._steps_max:
                raise EndlessError(f"more than {self._steps_max:,} steps; waiting: {self._waiting()}")
            handle._run()

    def _move_on(self) -> None:
        timers = self._timers
        while timers and (timers[0][2].cancelled() or _dead(timers[0][3])):
            heapq.heappop(timers)
        if not timers:
            raise DeadlockError(f"nothing is ready and no timer is set; waiting: {self._waiting()}")
        self.now_ns = timers[0][0]
        while timers and timers[0][0] <= self.now_ns:
            _, _, handle, process = heapq.heappop(timers)
            self._ready.append((handle, process))

    def unheard(self, whose: Process | None = None) -> list[str]:
        """Exceptions that ended a task whose result nobody has asked for, in words; once told, they have been heard.

        With ``whose`` those of one process, otherwise everybody's but those of the dead.
        """
        found = []
        for task, process in self._tasks:
            if whose is not None and process is not whose:
                continue
            if task.done() and not task.cancelled() and not _dead(process) and task._log_traceback:
                error = task.exception()
                found.append(f"{task.get_name()}: {in_words(error)}")
        return found

    def _waiting(self) -> str:
        pending = [task for task, process in self._tasks if not task.done() and not _dead(process)]
        named = ", ".join(f"{task.get_name()} at {_place(task)}" for task in pending[:_NAMED_MAX])
        more = len(pending) - _NAMED_MAX
        return f"{named} and {more} more" if more > 0 else named or "nobody"

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._thread is not None

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the world: what has not ended is closed without a word, whatever it would like to do about it."""
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for task, _ in self._tasks:
            if not task.done():
                _close(task)
        self._tasks.clear()

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: generators are closed when they are dropped."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is none."""

    def _finalize(self, generator: Any) -> None:
        if not self._closed and not _dead(current_process()):
            self.call_soon(lambda: self.create_task(generator.aclose()))

    # --- tasks ---------------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **more: Any
    ) -> asyncio.Task[Any]:
        task = _Task(coro, loop=self, name=name, context=context)
        process = (context or contextvars.copy_context()).get(_process)
        self._tasks.append((task, process))
        if process is not None:
            process.tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debugging would add wall-clock time to what happens."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Notes what nobody caught; the simulation's checker reads it."""
        error = context.get("exception")
        what = in_words(error) if error is not None else ""
        self.faults.append(" ".join(part for part in (str(context.get("message", "")), what) if part))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        raise SimulationError("a simulation has no threads: hand blocking work to the environment's `call`")


class VirtualClock:
    """A machine's clocks: ``offset_s`` from true time, ``drift`` seconds gained per second.

    ``booted_s`` is what the monotonic clock showed at the start of the simulation.
    """

    def __init__(self, loop: VirtualLoop, offset_s: float = 0.0, drift: float = 0.0, booted_s: float = 1_000.0) -> None:
        self._loop = loop
        self._offset_s = offset_s
        self._drift = drift
        self._booted_ns = int(booted_s * 1e9)

    def __repr__(self) -> str:
        return f"<VirtualClock {self._offset_s:+.3f} s, {self._drift:+.1e}>"

    def _elapsed_ns(self) -> int:
        true_ns = self._loop.now_ns - START_NS
        return true_ns + int(true_ns * self._drift)

    def monotonic_ns(self) -> int:
        return self._booted_ns + self._elapsed_ns()

    def time(self) -> float:
        return EPOCH_S + self._offset_s + self._elapsed_ns() / 1e9


def _dead(process: Process | None) -> bool:
    return process is not None and process.life is Life.DEAD


def in_words(error: BaseException | None) -> str:
    """An exception with the innermost lines that it came through; a group's in turn."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(in_words(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    told = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__}: {error}" + (f" (at {' > '.join(told[-_FRAMES_TOLD:])})" if told else "")


def _place(task: asyncio.Task[Any]) -> str:
    """The innermost line that a task waits at."""
    place, inner = "its end", task.get_coro()
    while (frame := getattr(inner, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        inner = inner.cr_await  # type: ignore[union-attr]
    return place


_CLOSINGS_MAX: Final = 16
"""Awaits inside `finally` blocks on the way out of one coroutine."""


def _close(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    for _ in range(_CLOSINGS_MAX):
        try:
            if coroutine is not None:
                coroutine.close()
            return
        except BaseException:  # noqa: BLE001 - it awaits in a `finally`: there is nobody to wait for
            continue
