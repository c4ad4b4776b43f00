"""Virtual time: nothing sleeps, processes stop and die exactly, and every run is the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashcast.testing.virtual_time import (
    DeadlockError,
    EndlessError,
    Process,
    SimulationError,
    VirtualClock,
    VirtualLoop,
    current_process,
)


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def test_an_hour_passes_at_once(loop: VirtualLoop) -> None:
    loop.run_until_complete(asyncio.sleep(3_600))
    assert loop.elapsed_s == 3_600


def test_timers_come_in_order_and_at_their_time(loop: VirtualLoop) -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.elapsed_s))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("also a", 1.0)):
                group.create_task(sleeper(name, seconds))

    loop.run_until_complete(main())
    assert seen == [("a", 1.0), ("also a", 1.0), ("b", 2.0), ("c", 3.0)]


def test_who_sleeps_until_a_deadline_does_not_wake_before_it(loop: VirtualLoop) -> None:
    clock = VirtualClock(loop, drift=1e-5)

    async def main() -> int:
        wakes, deadline_ns = 0, clock.monotonic_ns() + 1_234_567_891
        while (left_ns := deadline_ns - clock.monotonic_ns()) > 0:
            await asyncio.sleep(left_ns / 1e9)
            wakes += 1
        return wakes

    assert loop.run_until_complete(main()) <= 2


def test_timeouts_and_locks_work_as_ever(loop: VirtualLoop) -> None:
    async def main() -> str:
        lock = asyncio.Lock()
        async with lock:
            try:
                async with asyncio.timeout(5):
                    await lock.acquire()
            except TimeoutError:
                return f"after {loop.elapsed_s} s"
        return "never"

    assert loop.run_until_complete(main()) == "after 5.0 s"


def test_a_deadlock_is_an_error_that_says_who_waits_where(loop: VirtualLoop) -> None:
    async def waiting() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(waiting(), name="the waiter")

    with pytest.raises(DeadlockError, match=r"simulation at .*, the waiter at locks\.py"):
        loop.run_until_complete(main())


def test_a_program_that_turns_in_circles_is_an_error() -> None:
    loop = VirtualLoop(steps_max=100)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(EndlessError):
        loop.run_until_complete(main())
    loop.close()


def test_threads_are_refused(loop: VirtualLoop) -> None:
    faults: list[BaseException] = []

    def call() -> None:
        try:
            loop.call_soon_threadsafe(lambda: None)
        except SimulationError as error:
            faults.append(error)

    async def main() -> None:
        with pytest.raises(SimulationError, match="no threads"):
            await asyncio.to_thread(print)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    loop.run_until_complete(main())
    assert len(faults) == 1


def test_clocks_differ_from_machine_to_machine(loop: VirtualLoop) -> None:
    fast, slow = VirtualClock(loop, 0.5, 1e-3, booted_s=7.0), VirtualClock(loop, -0.25)
    loop.run_until_complete(asyncio.sleep(100))
    assert fast.time() - slow.time() == pytest.approx(0.5 + 0.25 + 0.1)
    assert fast.monotonic_ns() == 7_000_000_000 + 100_100_000_000


# --- processes -----------------------------------------------------------------------------------------------


async def _tick(loop: VirtualLoop, seen: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        seen.append(loop.elapsed_s)


def test_a_stopped_process_does_nothing_while_its_timers_go_on(loop: VirtualLoop) -> None:
    seen: list[float] = []
    process = Process("w")

    async def main() -> None:
        loop.spawn(process, _tick(loop, seen))
        await asyncio.sleep(2.5)
        loop.stop_process(process)
        await asyncio.sleep(3)
        assert seen == [1, 2]
        loop.continue_process(process)
        await asyncio.sleep(2.5)

    loop.run_until_complete(main())
    assert seen == [1, 2, 5.5, 6.5, 7.5]


def test_what_others_do_to_a_stopped_process_waits_for_it(loop: VirtualLoop) -> None:
    seen: list[float] = []
    process = Process("w")
    event = asyncio.Event()

    async def wait() -> None:
        await event.wait()
        seen.append(loop.elapsed_s)

    async def main() -> None:
        loop.spawn(process, wait())
        await asyncio.sleep(1)
        loop.stop_process(process)
        event.set()
        await asyncio.sleep(1)
        loop.continue_process(process)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert seen == [2.0]


def test_a_killed_process_does_not_even_clean_up(loop: VirtualLoop) -> None:
    seen: list[str] = []
    process = Process("w")

    async def tidy() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        loop.spawn(process, tidy())
        await asyncio.sleep(1)
        loop.kill_process(process)
        await asyncio.sleep(20)

    loop.run_until_complete(main())
    assert seen == []


def test_tasks_of_a_process_start_tasks_of_that_process(loop: VirtualLoop) -> None:
    seen: list[object] = []
    process = Process("w")

    async def inner() -> None:
        seen.append(current_process())

    async def outer() -> None:
        await asyncio.gather(inner(), asyncio.create_task(inner()))
        asyncio.get_running_loop().call_later(1, lambda: seen.append(current_process()))

    async def main() -> None:
        loop.spawn(process, outer())
        await asyncio.sleep(2)
        seen.append(current_process())

    loop.run_until_complete(main())
    assert seen == [process, process, process, None]


def test_an_exception_that_nobody_asked_for_is_told(loop: VirtualLoop) -> None:
    async def fails() -> None:
        raise ValueError("of no interest to anyone")

    async def main() -> None:
        loop.spawn(Process("w"), fails(), "oops")
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    (told,) = loop.unheard()
    assert told.startswith("w/oops: ValueError: of no interest to anyone (at test_virtual_time.py:")


_CANCELLED = """
import asyncio
from flashcast.testing.virtual_time import VirtualLoop
order = []
async def one(number):
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        order.append(number)
async def main():
    junk = []
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            junk.append(bytearray(hash(str(number)) % 5000))
            group.create_task(one(number))
        await asyncio.sleep(1)
        for task in set(group._tasks):
            task.cancel()
VirtualLoop().run_until_complete(main())
print(order)
"""


def test_sets_of_tasks_have_the_same_order_in_every_process() -> None:
    orders = {
        subprocess.run(
            [sys.executable, "-c", _CANCELLED], check=True, capture_output=True, cwd=Path(__file__).parent,
            env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(orders) == 1
