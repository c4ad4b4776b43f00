"""`scripts/simulate`: runs seeds of the fleet simulation, and says how to replay the first that fails.

scripts/simulate --seeds 1000 --jobs 2        a thousand seeds
scripts/simulate --seed 17 --trace            one of them, with everything that happened
scripts/simulate --seeds 100 --break claims   with a deliberate break, to see it found
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flashcast.testing.fleet import Result, World
from flashcast.testing.sabotage import SABOTAGE
from flashcast.testing.scenario import draw
from flashcast.testing.sealed import Sealed, seal_small
from flashcast.wire.warm import compile_kernels

LAST_EVENTS: Final = 60
BATCH: Final = 10
"""Seeds that a process takes at once."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for snapshots and journals; in memory where the system has one there: syncing it costs nothing."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="flashcast-simulation-", dir=where) as folder:
        yield Path(folder)


def run_seed(
    seed: int, sealed: Sequence[Sealed], folder: Path, *, broken: str | None = None, everything: bool = False
) -> Result:
    """Runs one seed in ``folder``. ``broken`` names a deliberate break; with ``everything`` no event is forgotten."""
    place = folder / f"run-{seed}"
    place.mkdir()
    try:
        scenario = draw(seed, len(sealed))
        sabotage = SABOTAGE[broken] if broken is not None else None
        options = {"kept": None} if everything else {}
        return World(scenario, sealed, place, sabotage=sabotage, **options).run()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run_seeds(seeds: Sequence[int], *, broken: str | None = None) -> list[Result]:
    """Runs several seeds in this process."""
    compile_kernels()
    with scratch() as folder:
        sealed = seal_small(folder)
        return [run_seed(seed, sealed, folder, broken=broken) for seed in seeds]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 1 where a seed failed."""
    options = _options(arguments)
    if options.seed is not None:
        return _one(options)
    seeds = range(options.start, options.start + options.seeds)
    started, failed, done = time.perf_counter(), [], 0
    tally: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for result in _results(seeds, options):
        done += 1
        tally.update(result.tally)
        rows.update(result.rows)
        tally.update(f"ended {state}" for state in result.states)
        if result.violations:
            failed.append(result)
            print(f"seed {result.scenario.seed}: {result.violations[0]}", flush=True)
            if len(failed) >= options.failures:
                break
    took_s = time.perf_counter() - started
    print(f"{done} seeds in {took_s:.1f} s, {took_s / max(1, done):.3f} s each; {len(failed)} failed")
    for counts in (tally, rows):
        print(", ".join(f"{what} {count:,}" for what, count in sorted(counts.items())))
    if failed:
        _tell(failed[0], options.broken)
    return 1 if failed else 0


def _results(seeds: Sequence[int], options: argparse.Namespace) -> Iterator[Result]:
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if options.jobs == 1:
        for batch in batches:
            yield from run_seeds(batch, broken=options.broken)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        pending = [pool.submit(run_seeds, batch, broken=options.broken) for batch in batches]
        try:
            for future in pending:
                yield from future.result()
        finally:
            for future in pending:
                future.cancel()


def _one(options: argparse.Namespace) -> int:
    compile_kernels()
    with scratch() as folder:
        result = run_seed(options.seed, seal_small(folder), folder, broken=options.broken, everything=options.trace)
    if options.trace:
        print("\n".join(result.events))
    _tell(result, options.broken, events=0 if options.trace else LAST_EVENTS)
    return 1 if result.violations else 0


def _tell(result: Result, broken: str | None, *, events: int = LAST_EVENTS) -> None:
    print("\n".join(result.scenario.describe()))
    if events and result.violations:
        print(f"the last {min(events, len(result.events))} events:")
        print("\n".join(result.events[-events:]))
    for violation in result.violations:
        print(f"VIOLATION  {violation}")
    print(f"{', '.join(result.states)} after {result.elapsed_s:.3f} s in {result.steps:,} steps; trace {result.digest}")
    breaking = f" --break {broken}" if broken is not None else ""
    print(f"replay: scripts/simulate --seed {result.scenario.seed} --trace{breaking}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=100, help="how many to run (100)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes to run them in (1)")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many seeds that fail (1)")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    names = ", ".join(f"{name} ({made.what})" for name, made in SABOTAGE.items())
    parser.add_argument("--break", dest="broken", choices=list(SABOTAGE), help=f"a deliberate break: {names}")
    parser.add_argument("--break-claims", dest="broken", action="store_const", const="claims", help="--break claims")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
