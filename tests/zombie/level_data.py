"""A small table of rules, and readings of its signals."""

from __future__ import annotations

from flashcast.zombie.document import Level
from flashcast.zombie.judging import Reading, Rule
from flashcast.zombie.levels import Decision, Order, State, Table, decide

START = 1_000_000.0


def rule(name: str, signal: str, level: Level, **changes: object) -> Rule:
    """Bad above 10 for 5 s, clear at 4 for 20 s, fresh for 10 s."""
    fields = {"high": True, "limit": 10.0, "for_s": 5.0, "clear": 4.0, "clear_for_s": 20.0, "fresh_s": 10.0}
    return Rule(name=name, signal=signal, level=level, **(fields | changes))  # type: ignore[arg-type]


TABLE = Table(
    rules=(
        rule("slow", "latency", Level.SHIELDED, step_back=True),
        rule("down", "errors", Level.ZOMBIE),
    ),
    shielded_min_s=30.0,
    zombie_min_s=60.0,
    step_min_s=40.0,
    back_min_s=15.0,
    shielded_buckets=300,
    zombie_buckets=1_000,
    steps=(0.01, 0.05, 0.25, 0.5, 1.0),
)
GOOD = {"latency": Reading(1.0, 0.0), "errors": Reading(1.0, 0.0)}
BAD = {"latency": Reading(1.0, 0.0), "errors": Reading(99.0, 0.0)}
SLOW = {"latency": Reading(99.0, 0.0), "errors": Reading(1.0, 0.0)}
NOTHING: dict[str, Reading] = {}


class Story:
    """Decisions one after the other, a second apart."""

    def __init__(self, table: Table = TABLE, state: State | None = None) -> None:
        self.table = table
        self.now = START
        self.state = State.new(START) if state is None else state
        self.decisions: list[Decision] = []

    def goes_on(self, readings: dict[str, Reading], seconds: float = 1.0, order: Order | None = None) -> Decision:
        """``seconds`` with these readings, a decision a second; the order comes with the first of them."""
        for _ in range(max(1, round(seconds))):
            self.now += 1
            self.decisions.append(decide(self.table, self.state, readings, self.now, order))
            self.state, order = self.decisions[-1].state, None
        return self.decisions[-1]

    def until(self, readings: dict[str, Reading], level: Level, seconds_max: int = 1_000) -> float:
        """Goes on until ``level`` holds; returns how many seconds that took."""
        for second in range(1, seconds_max + 1):
            if self.goes_on(readings).state.level is level:
                return float(second)
        raise AssertionError(f"still {self.state.level} after {seconds_max} s: {self.decisions[-1].text}")

    @property
    def levels(self) -> list[tuple[Level, int]]:
        """Level and buckets, each time they changed."""
        found: list[tuple[Level, int]] = []
        for decision in self.decisions:
            if not found or found[-1] != (decision.state.level, decision.state.buckets):
                found.append((decision.state.level, decision.state.buckets))
        return found
