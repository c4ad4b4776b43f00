"""A controller whose time passes when it is told to, and signals that are set by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zombie_data import KEY, NOW, TRUSTED

from flashcast.clock import FixedClock
from flashcast.zombie.controller import Controller, Event
from flashcast.zombie.document import Document, Level
from flashcast.zombie.judging import Reading
from flashcast.zombie.memory import MemoryFile
from flashcast.zombie.orders import Act
from flashcast.zombie.post import Post
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.rules import Rules, rules_of
from flashcast.zombie.signals import Signals
from flashcast.zombie.targets import Target, open_target
from flashcast.zombie.trace import TraceWriter


def rules(**changes: Any) -> Rules:
    """Zombie above 10 errors for 5 s, shielded above 10 of latency; clear at 4 for 20 s; steps of 60 s."""
    said: dict[str, Any] = {
        "app": "shop",
        "levels": {
            "shielded": {"off": ["feed"], "min_s": 30},
            "zombie": {
                "off": ["*"],
                "keep": ["payments"],
                "writes": "queue",
                "min_s": 60,
                "poll_s": 20,
                "drain_s": 900,
            },
        },
        "recovery": {"steps": [0.1, 0.5, 1.0], "step_min_s": 90, "back_min_s": 15},
        "signals": {"errors": {"kind": "pushed"}, "latency": {"kind": "pushed"}},
        "rules": {
            "down": {"signal": "errors", "level": "zombie", "above": 10, "clear": 4, "for_s": 5, "clear_for_s": 20},
            "slow": {"signal": "latency", "level": "shielded", "above": 10, "clear": 4, "for_s": 5, "clear_for_s": 20},
        },
    }
    return rules_of(said | changes)


class Dials:
    """A source for every signal, whose values are set by hand; None is no value."""

    name = "dials"
    every_s = math.inf

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {"errors": 0.0, "latency": 0.0}
        self.recorded: dict[str, Reading] | None = None
        """Readings of a recording, in place of the values."""

    def ask(self) -> Callable[[], None]:
        raise AssertionError("nobody asks a dial")

    def readings(self) -> dict[str, Reading]:
        if self.recorded is not None:
            return self.recorded
        return {name: Reading(value, 0.5) for name, value in self.values.items() if value is not None}


class Watch:
    """A controller in a folder. Each second of it ends when all that was begun is done."""

    def __init__(
        self,
        folder: Path,
        *,
        said: Rules | None = None,
        clock: FixedClock | None = None,
        target: Target | None = None,
        signals: Signals | None = None,
        name: str = "kept",
        **options: Any,
    ) -> None:
        self.folder = folder
        self.clock = clock or FixedClock(NOW)
        self.target = target or open_target(folder / "site")
        self.dials = Dials()
        self.events: list[Event] = []
        self.rules = said or rules()
        self.trace = folder / f"{name}.trace.jsonl"
        self.memory = MemoryFile(folder / f"{name}.json")
        self.controller = Controller(
            self.rules,
            signals or Signals([self.dials], self.clock),
            Post(self.target, self.rules.app, [KEY], self.clock),
            clock=self.clock,
            memory=self.memory,
            trace=TraceWriter(self.trace, self.rules.app, self.rules.table),
            salts=lambda: f"salt-{self.clock.time():.0f}",
            tell=self.events.append,
            **options,
        )

    async def begins(self) -> Watch:
        await self.controller.start()
        return self

    async def goes_on(self, seconds: float = 1, *, every_s: float = 1.0, **values: float | None) -> Level:
        """``seconds`` with these values, a tick every second."""
        self.dials.values |= values
        for _ in range(max(1, round(seconds / every_s))):
            self.clock.advance(every_s)
            self.controller.tick()
            await self.controller.settle()
        return self.controller.state.level

    async def until(self, level: Level, *, seconds_max: int = 1_000, **values: float | None) -> None:
        for _ in range(seconds_max):
            if await self.goes_on(**values) is level and self.published.level is level:
                return
        raise AssertionError(f"still {self.controller.state.level} after {seconds_max} s")

    @property
    def published(self) -> Document:
        """What anybody can read."""
        document = read_published(self.target, self.rules.app, TRUSTED).document
        assert document is not None
        return document

    def somebody_publishes(self, act: Act) -> Document:
        """From another laptop: without asking the controller."""
        said = publish(self.target, act.terms, [KEY], lasts_s=act.lasts_s, expect=act.expect, clock=self.clock)
        return said.document

    def told(self, kind: str) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]
