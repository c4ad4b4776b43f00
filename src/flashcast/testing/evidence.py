"""What the checker is given after a simulation: facts as they were seen from outside, in plain values.

Nothing in here was made by the code under test: the history is what the engine was made to hold, the receipts are the
provider's, the files are bytes, and the rest is what the simulation itself did to the fleet. All times are nanoseconds
of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flashcast.testing.simulated_provider import Receipt


class Write(NamedTuple):
    """A write that took effect in the durable space. ``value`` is the parsed JSON, None for a deletion."""

    at_ns: int
    key: str
    value: dict[str, Any] | None
    revision: int


class Span(NamedTuple):
    """Something that lasted: a pause of a process, a partition."""

    start_ns: int
    stop_ns: int


@dataclass
class ShardFacts:
    """A shard as it was sealed: the tokens of its rows."""

    provider: str
    tokens: list[str]


@dataclass
class LaunchFacts:
    """A launch as the simulation set it up."""

    launch: str
    snapshots: dict[str, list[ShardFacts]]
    """Every snapshot that was sealed for it, by address."""
    files: dict[str, dict[str, bytes]]
    """Outcome files by snapshot and name."""
    written_ns: dict[str, dict[str, int]]


@dataclass
class WorkerHistory:
    """What the simulation did to a worker."""

    paused: list[Span] = field(default_factory=list)
    cut_off: list[Span] = field(default_factory=list)
    crashed_ns: int | None = None
    """When it was killed."""
    ended_ns: int | None = None
    """When its process was no more, for whatever reason."""


@dataclass
class Evidence:
    """One run."""

    launches: list[LaunchFacts]
    writes: list[Write]
    receipts: dict[str, dict[str, list[Receipt]]]
    """By provider and token, in the order they came."""
    workers: dict[str, WorkerHistory]
    malformed: list[str]
    """What clients did wrong, as providers saw it."""
    faults: list[str]
    """Exceptions that nobody caught."""
    winners: dict[str, list[str]]
    """By launch the operators who were told that their GO made it live."""
    calm: bool
    """Whether nothing was done to the fleet, the network, the engine or the providers."""
