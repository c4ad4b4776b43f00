"""A launch that stays armed for long, against providers that close idle connections; then GO.

Launches of the same audience by the same worker: some go as soon as they are armed, the last one after --minutes.
In between the simulators close connections that carry no requests, as providers do, and the worker opens them again:
its heartbeats are read, and every dip of its readiness is told with how long it lasted. At the end the two figures that
should be the same stand beside each other: GO to first request, right after arming and after the wait.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from fleet import Operator, Served, nats_server

PROFILE: Final = """\
[apns]
streams_before_auth = 1
latency = {{ kind = "constant", ms = 20 }}
idle_close = {{ min_s = {least}, max_s = {most}, abrupt_share = 0.3 }}
[fcm]
latency = {{ kind = "constant", ms = 50 }}
idle_close = {{ min_s = {least}, max_s = {most}, abrupt_share = 0.3 }}
"""
TOLD_EVERY_S: Final = 30.0


@dataclass
class Watched:
    """What the heartbeats said while nothing happened."""

    beats: int = 0
    below: int = 0
    """Beats with fewer connections than wanted."""
    not_ready: int = 0
    """Beats in which the worker said that it was not ready."""
    connections_least: int | None = None
    connections_wanted: int = 0
    dips_s: list[float] = field(default_factory=list)
    """How long each time some connection was missing, by the beats."""
    missing_since: float | None = None

    def note(self, now: float, ready: bool, connections: int, wanted: int) -> None:
        """One beat."""
        self.beats += 1
        self.not_ready += not ready
        self.connections_wanted = max(self.connections_wanted, wanted)
        least = self.connections_least
        self.connections_least = connections if least is None else min(least, connections)
        if connections < wanted:
            self.below += 1
            if self.missing_since is None:
                self.missing_since = now
        elif self.missing_since is not None:
            self.dips_s.append(round(now - self.missing_since, 3))
            self.missing_since = None


async def watch(store: Any, launch: str, seconds: float) -> Watched:
    """Reads the beats of the launch's workers for so long. Ends the script where it does not stay armed."""
    from flashcast.campaign.lifecycle import State
    from flashcast.go.follow import following

    watched = Watched()
    began = told = time.monotonic()
    seen: dict[str, int] = {}
    async with following(store.engine, launch) as sightings:
        async for sighting in sightings:
            now = time.monotonic()
            if sighting.record.state is not State.ARMED:
                raise SystemExit(f"{launch} is {sighting.record.state}: {sighting.record.trail[-1]}")
            if not any(one.alive for one in sighting.heard):
                raise SystemExit(f"{launch}: the worker is not heard any more")
            for one in sighting.heard:
                holding = one.beat.launches.get(launch)
                if holding is None or seen.get(one.beat.worker) == one.beat.sequence:
                    continue
                seen[one.beat.worker] = one.beat.sequence
                parts = holding.providers.values()
                connections = sum(part.connections for part in parts)
                watched.note(now, holding.ready, connections, sum(part.connections_wanted for part in parts))
            if now - told > TOLD_EVERY_S:
                told = now
                print(f"{now - began:6.0f} s: {_told(watched)}", file=sys.stderr)
            if now - began >= seconds:
                return watched
    raise AssertionError("a follower never ends by itself")


def _told(watched: Watched) -> str:
    return (
        f"{len(watched.dips_s)} dips, the longest {max(watched.dips_s, default=0):.1f} s, at least "
        f"{watched.connections_least} of {watched.connections_wanted} connections, not ready in {watched.not_ready} of "
        f"{watched.beats:,} beats"
    )


def soak(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both launches; what was seen."""
    from flashcast.audience.synthetic import write_synthetic
    from flashcast.simulator.process import SimulatorProcess

    devices = folder / "devices.parquet"
    write_synthetic(devices, given.rows, 0.5, 1)
    profile = folder / "idle.toml"
    profile.write_text(PROFILE.format(least=given.idle_s[0], most=given.idle_s[1]))
    with ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess(folder / "simulator", profile, seed=given.seed))
        address = f"embedded:{folder / 'engine'}"
        if given.engine == "nats":
            address = stack.enter_context(nats_server(folder / "server"))
        operator = Operator("soak", address, folder / "state", simulator.config_path)
        operator.seal(devices, folder / "snapshot")
        stack.enter_context(Served(address, folder / "state"))
        soon = [operator.launch(press=True) for _ in range(given.first)]
        launch = operator.arm()
        print(f"{launch} is armed; GO in {given.minutes:g} min", file=sys.stderr)
        watched = operator.do(lambda store: watch(store, launch, given.minutes * 60))
        late = operator.finish(launch, press=True)
        counts = simulator.counts()
    for document in (*soon, late):
        if not document["balanced"] or document["outcomes"]["accepted"] != given.rows:
            raise SystemExit(f"{document['launch']}: {document['outcomes']} {document['reasons']}")
    opened = {provider: told["connections"] for provider, told in counts["by_provider"].items()}
    return {
        "minutes": given.minutes, "engine": given.engine, "rows": given.rows, "watched": asdict(watched),
        "connections_opened": opened, "malformed": counts["malformed"],
        "right_after_arming": [_figures(document) for document in soon], "after_the_wait": _figures(late),
    }  # fmt: skip


def _figures(document: dict[str, Any]) -> dict[str, float]:
    return {key: document[key] for key in ("go_to_first_request_ms", "go_to_last_reply_s")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the second launch stays armed")
    parser.add_argument("--first", type=int, default=5, help="launches right after arming, before the wait")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--engine", choices=["nats", "embedded"], default="nats")
    parser.add_argument(
        "--idle-s", type=float, nargs=2, default=[20.0, 60.0], metavar=("LEAST", "MOST"),
        help="after how long without requests the simulators close a connection",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flashcast-soak-") as made:
        os.environ["FLASHCAST_HOME"] = made
        result = soak(given, Path(made))
    print(f"armed for {given.minutes:g} min: {_told(Watched(**result['watched']))}", file=sys.stderr)
    print(f"connections opened in all: {result['connections_opened']}", file=sys.stderr)
    told = {"right after arming": result["right_after_arming"], "after the wait": [result["after_the_wait"]]}
    for when, found in told.items():
        ms, last = ", ".join(f"{one['go_to_first_request_ms']:.1f}" for one in found), found[-1]["go_to_last_reply_s"]
        print(f"{when}: GO to first request {ms} ms, to last reply {last:.2f} s", file=sys.stderr)
    if given.json:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
