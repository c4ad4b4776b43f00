"""An app that writes without pause, as a process of its own, to be killed: `python zombie_writer.py URL FILE SEED`.

Prints the id of each write when the client has taken it, and not before.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from zombie_data import KEY, NOW

from flashcast.clock import FixedClock
from flashcast.zombie.client import HttpRequest, Options, ZombieClient


def main(url: str, path: str, seed: str) -> None:
    chance = random.Random(int(seed))
    # Every run's clock is later than the one before, and runs fast: drains and back-offs pass in no time.
    clock = FixedClock(NOW + 100_000 * int(seed))
    options = Options(app="shop", base_url=url, trusted=[KEY.public], user="u1", path=Path(path))
    client = ZombieClient(options, clock=clock, random=chance.random)
    print("begun", client.statistics().disk_faults, flush=True)
    while True:
        lane = chance.choice(["", "", "a", "b"])
        written = client.write("progress", HttpRequest("POST", f"{url}/w", {}, lane.encode()), lane=lane)
        print(written.id, flush=True)
        for _ in range(chance.randint(0, 3)):
            clock.advance(client.step() * chance.random())


if __name__ == "__main__":
    main(*sys.argv[1:])
