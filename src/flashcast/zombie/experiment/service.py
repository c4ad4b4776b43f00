"""The service: HTTP, a pool of slots that each take their time, SQLite behind it. A process of its own.

It is naive in the way that most are: requests wait in a queue, first come, first served, and when one's turn comes its
work is done whether or not the client still waits. That is the mechanism of the collapse: once the queue is longer than
the clients' patience, all work is done for clients that have left, and they come back.

A slot's next job begins when the one before it was due to end, not when the event loop came round to it: the capacity
is ``slots / service_s`` whatever the machine is doing.

    GET  /feed                 reads a row
    POST /done                 applies an operation; with an Idempotency-Key once, however often it is sent
    GET  /health               the same, for a probe
    GET  /metrics  (own port)  for monitoring, in Prometheus's text format; costs no slot, like a sidecar's
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

from flashcast.zombie.experiment.children import begin, until_stdin_ends
from flashcast.zombie.experiment.parameters import Parameters, parameters_of
from flashcast.zombie.experiment.wire import Exchange, listen

SPAN_S: Final = 10.0
"""Rates are those of the last ten seconds of the run's clock."""
SAMPLES_MAX: Final = 4_096

SCHEMA: Final = """
create table feed (id integer primary key, body text not null);
create table keys (key text primary key, seen integer not null default 0);
create table effects (seq integer primary key, op text not null, at real not null);
create index effects_of_op on effects (op);
"""


class Database:
    """The service's data. ``effects`` has one row for each time an operation was applied."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.executescript(SCHEMA)
        self._db.executemany("insert into feed values (?, ?)", [(i, f"card {i} " * 8) for i in range(100)])

    def read(self, number: int) -> bytes:
        (body,) = self._db.execute("select body from feed where id = ?", (number % 100,)).fetchone()
        return str(body).encode()

    def apply(self, op: str, key: str | None) -> bool:
        """Applies an operation. Returns False where its key says that it has been already."""
        self._db.execute("begin immediate")
        try:
            if key is not None:
                fresh = self._db.execute("insert or ignore into keys (key) values (?)", (key,)).rowcount
                if not fresh:
                    self._db.execute("update keys set seen = seen + 1 where key = ?", (key,))
                    return False
            self._db.execute("insert into effects (op, at) values (?, ?)", (op, time.monotonic()))
            return True
        finally:
            self._db.execute("commit")

    def close(self) -> None:
        self._db.close()


class Service:
    """Slots, a queue before them, and what monitoring counts."""

    def __init__(self, database: Database, p: Parameters) -> None:
        self._database = database
        self._service_s = p.service_s
        self._lost_answers = p.lost_answers
        self._chance = random.Random(f"answers {p.seed}")
        self._queue: asyncio.Queue[tuple[float, Exchange]] = asyncio.Queue(p.queue_max)
        self._slots = [asyncio.create_task(self._slot()) for _ in range(p.slots)]
        self._capacity_rps, self._clock_factor = p.capacity_rps, p.clock_factor
        self._span_s = SPAN_S / p.clock_factor
        self._done: deque[tuple[float, bool]] = deque(maxlen=SAMPLES_MAX)
        """(when, whether somebody still waited) of requests that were served."""
        self._came: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._turned_away: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._reads = 0

    def handle(self, exchange: Exchange) -> None:
        now = time.monotonic()
        self._came.append(now)
        try:
            self._queue.put_nowait((now, exchange))
        except asyncio.QueueFull:
            self._turned_away.append(now)
            exchange.answer(503, b"too many requests wait")

    async def _slot(self) -> None:
        free_at = 0.0
        while True:
            came, exchange = await self._queue.get()
            free_at = max(free_at, came) + self._service_s
            delay = free_at - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            self._serve(exchange)
            self._done.append((time.monotonic(), not exchange.gone))

    def _serve(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            self._reads += 1
            exchange.answer(200, self._database.read(self._reads))
        else:
            key = exchange.headers.get("idempotency-key")
            applied = self._database.apply(str(json.loads(exchange.body)["op"]), key)
            if self._chance.random() < self._lost_answers:
                exchange.hang_up()
            else:
                exchange.answer(200, b'{"applied": true}' if applied else b'{"applied": false}')

    def metrics(self) -> dict[str, float]:
        """What monitoring sees. Times and rates are by the run's clock.

        ``service_load``            requests that come, over those that it can do
        ``service_queue_seconds``   how long one that comes now waits for its turn
        ``service_goodput``         requests that are answered while somebody waits, over those that it can do
        ``service_errors``          those that are turned away, or answered too late, likewise
        """
        since = time.monotonic() - self._span_s
        done = [waited for at, waited in self._done if at >= since]
        turned_away = sum(at >= since for at in self._turned_away)
        possible = self._capacity_rps * self._span_s
        return {
            "service_load": sum(at >= since for at in self._came) / possible,
            "service_queue_seconds": self._queue.qsize() / self._capacity_rps * self._clock_factor,
            "service_goodput": sum(done) / possible,
            "service_errors": (len(done) - sum(done) + turned_away) / possible,
        }

    def page(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return "".join(f"# TYPE {name} gauge\n{name} {value:.9g}\n" for name, value in self.metrics().items()).encode()


async def _main(config: dict[str, Any]) -> None:
    database = Database(Path(config["database"]))
    service = Service(database, parameters_of(config["parameters"]))
    front, port = await listen(service.handle)
    side, side_port = await listen(lambda asked: asked.answer(200, service.page()))
    begin({"port": port, "metrics_port": side_port})
    await until_stdin_ends()
    front.close()
    side.close()
    database.close()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
