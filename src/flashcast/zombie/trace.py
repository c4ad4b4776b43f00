"""The trace: everything that decisions were made from, and the decisions, as JSON lines. Replayed, it decides the same.

    {"kind": "start", "format": 1, "at": T, "app": "shop", "table": {...}, "state": {...}}
    {"kind": "tick", "at": T, "signals": {"api.p95_ms": [412.5, 1.2]}, "order": {...},
     "level": "zombie", "buckets": 1000, "why": "raised", "text": "..."}

`at` is Unix seconds, a signal is its value and its age in seconds; `order` is there where somebody else has published.
A start comes first, and again after each restart and at the head of each new file. Addresses, queries and tokens are
not in it.

Traces of other tools are read too, where a line is one observation: `t` in seconds, and numbers by signal name.

    {"t": 12.25, "latency_p95_ms": 412.5, "errors_rps": 0}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from flashcast.errors import InputError
from flashcast.zombie.judging import Reading
from flashcast.zombie.levels import Decision, Order, State, Table, Why, decide

FORMAT: Final = 1
TRACE_BYTES_MAX: Final = 64 << 20
"""Then a new file is begun, and the one before is kept beside it: at one tick a second and 400 bytes, two days each."""
LINE_BYTES_MAX: Final = 1 << 20
"""A start with 64 rules has 30 KB."""
DIFFERENCES_MAX: Final = 100
"""Differences that a replay tells; one is enough to look into."""
_NO_SIGNALS: Final = frozenset({"t", "back"})


class Start(NamedTuple):
    """Where a trace begins."""

    at: float
    app: str
    table: Table
    state: State


class Recorded(NamedTuple):
    """What was decided."""

    level: str
    buckets: int
    why: str
    text: str


class Tick(NamedTuple):
    """One observation; ``recorded`` is None where only observations were kept."""

    at: float
    readings: dict[str, Reading]
    order: Order | None = None
    recorded: Recorded | None = None


class Change(NamedTuple):
    """A decision of a replay that changed something."""

    at: float
    level: str
    buckets: int
    why: str
    text: str


class Difference(NamedTuple):
    """A tick at which a replay decides otherwise."""

    at: float
    recorded: Recorded
    replayed: Recorded


class Replayed(NamedTuple):
    """What a replay gave.

    ``compared``     ticks with a recorded decision
    ``different``    how many of them came out otherwise; the first of them are in ``differences``
    ``same_rules``   whether the rules are those of the recording; None where it does not say
    """

    app: str
    ticks: int
    began_at: float
    ended_at: float
    changes: tuple[Change, ...]
    compared: int
    different: int
    differences: tuple[Difference, ...]
    same_rules: bool | None
    state: State


def start_line(app: str, table: Table, state: State) -> str:
    """A start's line, with its end."""
    said = {"kind": "start", "format": FORMAT, "at": state.at, "app": app}
    return _line(said | {"table": table.model_dump(mode="json"), "state": state.model_dump(mode="json")})


def tick_line(at: float, readings: Mapping[str, Reading], order: Order | None, decision: Decision) -> str:
    """A tick's line, with its end."""
    said: dict[str, Any] = {"kind": "tick", "at": at, "signals": {name: [*one] for name, one in readings.items()}}
    if order is not None:
        said["order"] = order.model_dump(mode="json", exclude_none=True)
    return _line(said | _recorded(decision)._asdict())


class TraceWriter:
    """Appends to a trace. Raises OSError where the disk does not take it."""

    def __init__(self, path: Path, app: str, table: Table, *, bytes_max: int = TRACE_BYTES_MAX) -> None:
        self._path, self._app, self._table, self._bytes_max = path, app, table, bytes_max
        self._begun = False

    def __repr__(self) -> str:
        return f"<TraceWriter {self._path}>"

    def tick(
        self, before: State, at: float, readings: Mapping[str, Reading], order: Order | None, decision: Decision
    ) -> None:
        """Notes one decision; ``before`` is the state that it was made from."""
        line = tick_line(at, readings, order, decision)
        if self._path.exists() and self._path.stat().st_size > self._bytes_max:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._begun = False
        if not self._begun:
            line = start_line(self._app, self._table, before) + line
        self._append(line)
        self._begun = True

    def _append(self, text: str) -> None:
        with self._path.open("ab+") as file:
            # A line that a kill cut off is ended, so that it spoils no other.
            if file.tell() and file.seek(-1, 2) is not None and file.read(1) != b"\n":
                file.write(b"\n")
            file.write(text.encode())


def read_trace(lines: Iterable[bytes]) -> Iterator[Start | Tick]:
    """The entries of a trace. Raises InputError for a line that is none.

    A line that a kill cut off is passed over: it is the last one, or a start follows.
    """
    cut_off: int | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > LINE_BYTES_MAX:
            raise InputError(f"line {number} has more than {LINE_BYTES_MAX:,} bytes: this is no trace")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            if cut_off is not None:
                break
            cut_off = number
            continue
        try:
            entry = _entry(said)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = type(error).__name__ if isinstance(error, ValidationError) else error
            raise InputError(f"line {number} is no entry of a trace: {what}") from None
        if cut_off is not None and not isinstance(entry, Start):
            break
        cut_off = None
        yield entry
    else:
        return
    raise InputError(f"line {cut_off} is no JSON")


def replay(lines: Iterable[bytes], table: Table | None = None) -> Replayed:
    """Decides anew what a trace tells. ``table`` takes the place of the recording's; needed where that has none.

    Raises InputError for what is no trace.
    """
    app, state, used, same_rules = "", None, table, None
    ticks = compared = different = 0
    began_at = ended_at = 0.0
    changes: list[Change] = []
    differences: list[Difference] = []
    for entry in read_trace(lines):
        if isinstance(entry, Start):
            app, state, used = entry.app, entry.state, table or entry.table
            same_rules = used == entry.table and same_rules is not False
            continue
        if used is None:
            raise InputError("the trace does not say by which rules", remedy="Name them with --rules.")
        if not ticks:
            began_at = entry.at
        before = State.new(entry.at) if state is None else state
        decision = decide(used, before, entry.readings, entry.at, entry.order)
        state, ended_at = decision.state, entry.at
        ticks += 1
        if (state.level, state.buckets, state.hold) != (before.level, before.buckets, before.hold):
            changes.append(Change(entry.at, *_recorded(decision)))
        if entry.recorded is not None:
            compared += 1
            found = _recorded(decision)
            if found[:3] != entry.recorded[:3]:
                different += 1
                if len(differences) < DIFFERENCES_MAX:
                    differences.append(Difference(entry.at, entry.recorded, found))
    if state is None:
        raise InputError("the trace is empty")
    return Replayed(
        app, ticks, began_at, ended_at, tuple(changes), compared, different, tuple(differences), same_rules, state
    )


def replay_file(path: Path, table: Table | None = None) -> Replayed:
    """`replay` of a file."""
    try:
        with path.open("rb") as file:
            return replay(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), table)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {error.message}", remedy=error.remedy) from None


def _entry(said: Any) -> Start | Tick:
    if not isinstance(said, dict):
        raise TypeError("it is no object")
    kind = said.get("kind")
    if kind is None:
        at = said["t"]
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise TypeError("t is no number")
        found = {name: value for name, value in said.items() if name not in _NO_SIGNALS and _is_number(value)}
        return Tick(float(at), {name: Reading(float(value), 0.0) for name, value in found.items()})
    if kind == "start":
        if said["format"] != FORMAT:
            raise ValueError(f"format {said['format']!r} is not known here")
        table, state = (json.dumps(said[name]) for name in ("table", "state"))
        return Start(float(said["at"]), said["app"], Table.model_validate_json(table), State.model_validate_json(state))
    if kind != "tick":
        raise ValueError(f"kind {kind!r} is not known here")
    readings = {name: Reading(float(value), float(age_s)) for name, (value, age_s) in said["signals"].items()}
    order = Order.model_validate_json(json.dumps(said["order"])) if "order" in said else None
    recorded = Recorded(said["level"], said["buckets"], Why(said["why"]).value, said["text"])
    return Tick(float(said["at"]), readings, order, recorded)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _recorded(decision: Decision) -> Recorded:
    return Recorded(decision.state.level.value, decision.state.buckets, decision.why.value, decision.text)


def _line(said: dict[str, Any]) -> str:
    return json.dumps(said, separators=(",", ":"), allow_nan=False) + "\n"
