"""One run: starts the processes, presses GO, reads signals, publishes documents, keeps what was seen."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flashcast.zombie.client.http import HttpRequest
from flashcast.zombie.experiment.app import APP
from flashcast.zombie.experiment.children import Child
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.experiment.pilot import Flight, State, decide, flight, told
from flashcast.zombie.experiment.wire import NoAnswerError, call
from flashcast.zombie.keys import SigningKey
from flashcast.zombie.publish import publish

LEAD_S: Final = 0.5
"""From telling the herd to the start of the run."""
LASTS_S: Final = 3_600
SIGNAL_TIMEOUT_S: Final = 1.0
HERD_END_S: Final = 90.0

Progress = Callable[[float, dict[str, Any]], None]
"""Called with the seconds since the start and the latest signals."""


@dataclass
class Record:
    """What was seen of one run. Times are seconds since its start."""

    zombie: bool
    parameters: Parameters
    plan: Flight
    signals: list[dict[str, Any]] = field(default_factory=list)
    """One entry a tick: what `zombie replay` reads."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    asks: list[tuple[str, str, float, float, str]] = field(default_factory=list)
    attempts: list[tuple[float, float, int]] = field(default_factory=list)
    polls: int = 0
    polls_failed: int = 0
    cpu_s: float = 0.0
    """Processor time of the herd."""
    late_s: float = 0.0
    """The latest that an app came to the service, after the time the plan has for it: how busy the machine was."""
    applied: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By operation: how often it was applied, and when first; from the service's database."""
    kept_off: int = 0
    """Writes that came again and were not applied again, thanks to their keys."""

    def trace(self) -> str:
        """The signals as JSON lines."""
        return "".join(json.dumps(entry) + "\n" for entry in self.signals)


def run(p: Parameters, *, zombie: bool, folder: Path, progress: Progress | None = None) -> Record:
    """Runs the experiment once, in ``folder``, with or without zombie mode. Takes ``p.length_s`` and a few seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    record = Record(zombie, p, flight(p))
    key = SigningKey.generate()
    database, log = folder / "service.db", folder / "herd.json"
    service = {"database": str(database), "parameters": p.as_dict()}
    with ExitStack() as stack:
        front = stack.enter_context(Child("service", service))
        web = stack.enter_context(Child("document_server", {"folder": str(documents)}))
        herd = stack.enter_context(
            Child(
                "herd",
                {
                    "parameters": p.as_dict(),
                    "service_port": front.ready["port"],
                    "document_port": web.ready["port"],
                    "trusted": key.public.text if zombie else "",
                    "log": str(log),
                },
            )
        )
        start, epoch = time.monotonic() + LEAD_S, float(int(time.time()))
        clock = FastClock(start, epoch, p.clock_factor)
        conductor = _Conductor(record, start, clock, documents, key, front.ready["signals_port"])
        conductor.publish(State())
        herd.tell({"start": start, "epoch": epoch})
        asyncio.run(conductor.watch(progress))
        herd.next_line(HERD_END_S)
    seen = json.loads(log.read_text(encoding="utf-8"))
    record.asks = [tuple(ask) for ask in seen["asks"]]
    record.attempts = [tuple(attempt) for attempt in seen["attempts"]]
    record.polls, record.polls_failed = seen["polls"], seen["polls_failed"]
    record.cpu_s, record.late_s = seen["cpu_s"], seen["late_s"]
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("select op, count(*), min(at) from effects group by op")
        record.applied = {op: (count, at - start) for op, count, at in rows}
        (record.kept_off,) = db.execute("select coalesce(sum(seen), 0) from keys").fetchone()
    return record


class _Conductor:
    def __init__(
        self, record: Record, start: float, clock: FastClock, documents: Path, key: SigningKey, port: int
    ) -> None:
        self._record = record
        self._start = start
        self._clock = clock
        self._documents = documents
        self._key = key
        self._port = port
        self._salt = f"seed-{record.parameters.seed}"
        self._state = State()

    def publish(self, state: State) -> None:
        record = self._record
        said = told(state, record.plan, record.parameters, APP, self._salt)
        publish(self._documents, said, [self._key], lasts_s=LASTS_S, clock=self._clock)
        self._state = state
        record.decisions.append({"t": round(self._now(), 3), "level": state.level.value, "back": state.back})

    async def watch(self, progress: Progress | None) -> None:
        """Reads signals every tick and acts on them, until the run is over."""
        record = self._record
        p = record.parameters
        tick = 0
        while (t := tick * p.tick_s) < p.length_s:
            await asyncio.sleep(max(t - self._now(), 0))
            # A machine that was busy for a while skips ticks rather than reading them all at once.
            tick = max(tick + 1, int(self._now() / p.tick_s) + 1)
            signals = await self._signals()
            now = self._now()
            if record.zombie:
                state = decide(self._state, record.plan, signals, now)
                if state is not self._state:
                    await asyncio.to_thread(self.publish, state)
            standing = {"level": self._state.level.value, "back": self._state.back}
            record.signals.append({"t": round(now, 3), **signals, **standing})
            if progress is not None:
                progress(now, record.signals[-1])

    async def _signals(self) -> dict[str, Any]:
        try:
            response = await call(self._port, HttpRequest("GET", "http://service/signals"), SIGNAL_TIMEOUT_S)
        except NoAnswerError:
            return {}
        document = json.loads(response.body)
        assert isinstance(document, dict)
        return document

    def _now(self) -> float:
        return time.monotonic() - self._start
