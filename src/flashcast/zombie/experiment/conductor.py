"""One run: starts the processes and the controller, presses GO, and keeps what was seen.

In the run without zombie mode the controller watches all the same and publishes nothing (a dry run): its trace tells
what it would have done.
"""

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

from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.controller import Controller, Event, EventKind
from flashcast.zombie.document import Document, Level
from flashcast.zombie.experiment import control
from flashcast.zombie.experiment.children import Child
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.control import Desk
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.keys import SigningKey
from flashcast.zombie.rules import Rules
from flashcast.zombie.threads import in_thread

LEAD_S: Final = 0.5
"""From telling the herd to the start of the run."""
HERD_END_S: Final = 90.0
TELL_S: Final = 0.5
"""How often a person who watches is told."""

Progress = Callable[[float, str], None]
"""Called with the seconds since the start and how things stand."""


@dataclass
class Record:
    """What was seen of one run. Times are seconds since its start."""

    zombie: bool
    parameters: Parameters
    rules: Rules
    published: list[dict[str, Any]] = field(default_factory=list)
    """What apps were told, each time it changed: ``t``, ``level``, ``buckets``, ``back`` (share of users that are not
    in it), ``why``."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    """What the controller decided, each time it changed something: ``t``, ``level``, ``buckets``, ``why``, ``text``.
    Without zombie mode: what it would have done."""
    trace: str = ""
    """The controller's trace: `zombie replay` reads it."""
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


def run(p: Parameters, rules: Rules, *, zombie: bool, folder: Path, progress: Progress | None = None) -> Record:
    """Runs the experiment once, in ``folder``, with or without zombie mode. Takes ``p.length_s`` and a few seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    record = Record(zombie, p, rules)
    key = SigningKey.generate()
    database, log, trace = folder / "service.db", folder / "herd.json", folder / "trace.jsonl"
    with ExitStack() as stack:

        def started(module: str, **config: Any) -> Child:
            return stack.enter_context(Child(module, config))

        service = started("service", database=str(database), parameters=p.as_dict())
        monitoring = started("monitoring", metrics_port=service.ready["metrics_port"], clock_factor=p.clock_factor)
        web = started("document_server", folder=str(documents))
        herd = started(
            "herd", parameters=p.as_dict(), app=rules.app, service_port=service.ready["port"],
            document_port=web.ready["port"], trusted=key.public.text if zombie else "", log=str(log),
        )  # fmt: skip
        start, epoch = time.monotonic() + LEAD_S, float(int(time.time()))
        desk = Desk(rules, p, documents, key, FastClock(start, epoch, p.clock_factor))
        conductor = _Conductor(record, start, desk, monitoring)
        controller = control.controller(
            desk,
            {"service": service.ready["port"], "monitoring": monitoring.ready["port"]},
            folder / "controller.json",
            trace,
            dry_run=not zombie,
            tell=conductor.told,
        )
        herd.tell({"start": start, "epoch": epoch})
        asyncio.run(conductor.conduct(controller, progress))
        herd.next_line(HERD_END_S)
    record.trace = trace.read_text(encoding="utf-8")
    _gather(record, log, database, start)
    return record


def _gather(record: Record, log: Path, database: Path, start: float) -> None:
    """What the herd and the service have noted."""
    seen = json.loads(log.read_text(encoding="utf-8"))
    record.asks = [tuple(ask) for ask in seen["asks"]]
    record.attempts = [tuple(attempt) for attempt in seen["attempts"]]
    record.polls, record.polls_failed = seen["polls"], seen["polls_failed"]
    record.cpu_s, record.late_s = seen["cpu_s"], seen["late_s"]
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute("select op, count(*), min(at) from effects group by op")
        record.applied = {op: (count, at - start) for op, count, at in rows}
        (record.kept_off,) = db.execute("select coalesce(sum(seen), 0) from keys").fetchone()


class _Conductor:
    def __init__(self, record: Record, start: float, desk: Desk, monitoring: Child) -> None:
        self._record, self._start, self._desk, self._monitoring = record, start, desk, monitoring
        self._standing = ""
        self._published(0.0, None, "before anything happens")

    async def conduct(self, controller: Controller, progress: Progress | None) -> None:
        """Lets the controller watch until the run is over, and does what the story has for others to do."""
        watch = asyncio.create_task(controller.run(self._desk.clock.sleep))
        others = [asyncio.create_task(self._go()), asyncio.create_task(self._silence())]
        if progress is not None:
            others.append(asyncio.create_task(self._tell(progress)))
        over = asyncio.create_task(self._until(self._record.parameters.length_s))
        try:
            # A controller that ends before that has failed, and says why when it is awaited.
            await asyncio.wait((watch, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            controller.end()
            await watch
            for task in (*others, over):
                task.cancel()
            ended = await asyncio.gather(*others, return_exceptions=True)
        failed = [error for error in ended if isinstance(error, Exception)]
        if failed:
            raise failed[0]

    def told(self, event: Event) -> None:
        """What the controller tells: decisions, and what they led to."""
        t, decision = self._now(), event.decision
        if event.kind is EventKind.CHANGED and decision is not None:
            state = decision.state
            self._standing = f"{state.level.value}, {100 * state.buckets / BUCKETS:g} % of users in it"
            self._record.decisions.append(
                {
                    "t": round(t, 3), "level": state.level.value, "buckets": state.buckets,
                    "why": decision.why.value, "text": decision.text,
                }
            )  # fmt: skip
        elif event.kind is EventKind.PUBLISHED:
            told = self._record.decisions[-1]["text"] if self._record.decisions else ""
            self._published(t, event.document, told)

    def _published(self, t: float, document: Document | None, why: str) -> None:
        level = Level.NORMAL if document is None else document.level
        buckets = 0 if document is None else document.buckets
        last = self._record.published[-1] if self._record.published else None
        if last is None or (last["level"], last["buckets"]) != (level.value, buckets):
            self._record.published.append(
                {
                    "t": round(t, 3), "level": level.value, "buckets": buckets, "back": 1 - buckets / BUCKETS,
                    "why": why,
                }
            )  # fmt: skip

    async def _go(self) -> None:
        """The launch: at GO its shield goes up. The push itself is what the herd does."""
        await self._until(self._record.parameters.go_s)
        if self._record.zombie:
            document = await in_thread(lambda: control.raise_shield(self._desk))
            if document is not None:
                self._published(self._now(), document, f"the shield of {control.LAUNCH}")

    async def _silence(self) -> None:
        """Monitoring stops answering, and answers again."""
        for t, speaks in zip(self._record.parameters.monitoring_down_s, (False, True), strict=False):
            await self._until(t)
            self._monitoring.tell({"speaks": speaks})

    async def _tell(self, progress: Progress) -> None:
        while True:
            progress(self._now(), self._standing)
            await asyncio.sleep(TELL_S)

    async def _until(self, t: float) -> None:
        await asyncio.sleep(max(t - self._now(), 0))

    def _now(self) -> float:
        return time.monotonic() - self._start
