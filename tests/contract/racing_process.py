"""A process that races others for keys, and then goes on writing until it is killed or told to end.

    racing_process.py FOLDER NAME KEYS

It says "ready", waits for a line, and then says "won KEY" for each key it created, "raced" when all are done, and
"wrote N" for each value it has put since, until standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flashcast.engine.embedded import EmbeddedEngine
from flashcast.testing.patient import PatientKeyValue, create_or_mine

AT_ONCE = 10


def say(what: str) -> None:
    print(what, flush=True)


async def race(folder: Path, name: str, keys: int) -> None:
    async with EmbeddedEngine(folder) as engine:

        async def create(key: str) -> None:
            mine, _ = await create_or_mine(engine.durable, key, name.encode())
            if mine:
                say(f"won {key}")

        say("ready")
        sys.stdin.readline()
        for first in range(0, keys, AT_ONCE):
            await asyncio.gather(*(create(f"raced.{number}") for number in range(first, first + AT_ONCE)))
        say("raced")
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        number = 0
        while not ended.done():
            await PatientKeyValue(engine.durable).put(f"last.{name}", str(number).encode())
            say(f"wrote {number}")
            number += 1


if __name__ == "__main__":
    asyncio.run(race(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
