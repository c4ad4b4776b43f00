"""The herd: all apps of a run in one process, and the log of what they wanted and got."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from flashcast.zombie.experiment.app import Client, ClientApp, Log, NaiveApp, World
from flashcast.zombie.experiment.children import begin, say, stdin_reader
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.parameters import parameters_of
from flashcast.zombie.experiment.plan import Visit, visits
from flashcast.zombie.keys import PublicKey

GRACE_S: Final = 0.5
"""After the run's end, for answers that are on their way."""
QUEUED_S_MAX: Final = 15.0
"""Apps that still have queued writes stay so much longer: a slow machine is no reason to call them lost."""


async def run(world: World, client: Client | None, wanted: list[Visit]) -> None:
    """Lets everybody come at their time, and leave when the run is over."""
    length_s = world.parameters.length_s
    apps, tasks = [], []
    for visit in wanted:
        await asyncio.sleep(max(visit.at_s - world.log.now(), 0))
        app = NaiveApp(world, visit) if client is None else ClientApp(world, visit, client)
        apps.append(app)
        tasks.append(asyncio.create_task(app.live()))
    await asyncio.sleep(max(length_s + GRACE_S - world.log.now(), 0))
    if client is not None:
        await asyncio.wait(tasks, timeout=QUEUED_S_MAX)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [error for error in ended if isinstance(error, Exception)]
    if failed:
        raise failed[0]
    for app in apps:
        app.leave()


async def _main(config: dict[str, Any]) -> None:
    p = parameters_of(config["parameters"])
    wanted = visits(p)
    stdin = await stdin_reader()
    begin({})
    told = json.loads(await stdin.readline())
    log = Log(told["start"])
    client = None
    if config["trusted"]:
        clock = FastClock(told["start"], told["epoch"], p.clock_factor)
        client = Client(config["app"], clock, config["document_port"], PublicKey.parse(config["trusted"]))
    # Input that ends means that the conductor is gone: nobody will read what comes of this.
    running = asyncio.create_task(run(World(p, log, config["service_port"]), client, wanted))
    left = asyncio.create_task(stdin.read())
    await asyncio.wait((running, left), return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not running.done():
        running.cancel()
        return
    await running
    document = {
        "asks": log.asks, "attempts": log.attempts, "polls": log.polls, "polls_failed": log.polls_failed,
        "cpu_s": time.process_time(), "late_s": log.late_s,
    }  # fmt: skip
    Path(config["log"]).write_text(json.dumps(document), encoding="utf-8")
    say({"log": config["log"]})


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
