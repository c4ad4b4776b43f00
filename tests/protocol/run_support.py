"""A `Run` in memory: shards without files, a server and lanes that are stepped, and a clock that stands still."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from delivery_support import Secret, apns_template
from memory_server import NOWHERE, MemoryServer, SteppedLanes

from flashcast.arm.plan import Plan
from flashcast.arm.target import Target
from flashcast.arm.warm import Crew
from flashcast.audience.arrays import VarBytes
from flashcast.audience.shards import Shard
from flashcast.clock import FixedClock
from flashcast.config import ApnsConfig
from flashcast.deliver.claims import Span, grid
from flashcast.deliver.journal import Journal
from flashcast.deliver.run import Run, RunTerms
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.providers import apns

APNS = Provider.APNS


def shard(index: int, base: int, rows: int) -> Shard:
    """A shard in memory; row i of the snapshot has the token i, in hexadecimal."""
    tokens = b"".join(b"%064x" % (base + i) for i in range(rows))
    offsets = np.arange(0, 64 * (rows + 1), 64, dtype=np.uint32)

    @dataclass
    class InMemory:
        provider: Provider = APNS
        tokens: VarBytes = field(default_factory=lambda: VarBytes(np.frombuffer(tokens, np.uint8), offsets))
        fields: tuple[VarBytes, ...] = ()
        variants: Any = field(default_factory=lambda: np.zeros(rows, np.uint8))

    made: Any = InMemory()
    made.index, made.base, made.rows = index, base, rows
    return cast("Shard", made)


def crew_of(stepped: SteppedLanes) -> Crew:
    """A crew of stepped lanes."""
    settings = ApnsConfig.model_construct(reply_deadline_s=10.0, handshake_deadline_s=10.0)
    target = Target(
        APNS,
        NOWHERE,
        ssl.create_default_context(),
        Secret(),
        apns.request_head("localhost"),
        apns.PATH_PREFIX,
        settings,
    )
    return Crew(target, Plan(len(stepped.lanes), len(stepped.lanes), 1.0), stepped.lanes)


class Bench:
    """Everything around one `Run`."""

    def __init__(self, path: Path, rows: int, *, lanes: int, connections: int, streams: int, terms: RunTerms) -> None:
        self.clock = FixedClock()
        self.server = MemoryServer(streams=streams)
        self.stepped = SteppedLanes(self.server, self.clock, lanes=lanes, connections=connections)
        self.journal = Journal.create(path / "journal-w.bin", rows, launch="l", snapshot="s", worker="w")
        self.called = 0
        self.crew = crew_of(self.stepped)
        self.run = Run(
            self.journal, {APNS: self.crew}, {APNS: [apns_template()]}, self.clock, terms, self._call, keeper=False
        )
        self.stepped.run_dry()

    def _call(self) -> None:
        self.called += 1

    def hold(self, *shards: tuple[int, int, int]) -> None:
        """Holds shards by index, base and rows."""
        for each in shards:
            self.run.hold(shard(*each))

    def offer(self, index: int, start: int, stop: int, rows: Sequence[int] | None = None) -> None:
        """Offers a chunk."""
        self.run.offer(index, None if rows is None else np.array(rows, np.int32), Span(start, stop, 0))

    def offer_all(self, index: int, rows: int, chunk_rows: int = 10) -> None:
        """Offers a shard in chunks."""
        for span in grid(rows, chunk_rows):
            self.run.offer(index, None, span)

    def pass_time(self, seconds: float, step_s: float = 0.05) -> None:
        """Lets time go on, and lanes with it."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            self.stepped.run_dry()

    def sent(self) -> list[int]:
        """The snapshot's rows that arrived, in their order."""
        return [int(request.path.rpartition("/")[2], 16) for request in self.server.seen]

    def told(self, start: int = 0, stop: int | None = None) -> Counter[str]:
        """Rows by outcome and reason; the reason of an accepted row is left out."""
        words = []
        for outcome, reason in zip(
            self.journal.outcome[start:stop].tolist(), self.journal.reason[start:stop].tolist(), strict=True
        ):
            why = f" {Reason.from_code(reason).value}" if reason and outcome != Outcome.ACCEPTED else ""
            words.append(Outcome(outcome).name.lower() + why)
        return Counter(words)


@contextmanager
def bench(
    path: Path, rows: int = 100, *, lanes: int = 1, connections: int = 1, streams: int = 100, **terms: Any
) -> Iterator[Bench]:
    """A bench that is cleared in the end."""
    made = Bench(path, rows, lanes=lanes, connections=connections, streams=streams, terms=RunTerms(**terms))
    try:
        yield made
    finally:
        made.run.close()
        made.journal.close()
