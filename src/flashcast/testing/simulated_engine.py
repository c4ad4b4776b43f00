"""A client of the in-memory engine whose reads may lag, as the contract allows after a change of leader.

`get` and `entries` of the durable space show what was there some time ago; writes are as linearizable as ever. Code
that decides by what a read has shown is found out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flashcast.engine.base import Entry
from flashcast.testing.memory_engine import Faults, MemoryEngine, MemorySpace, _MemoryKeyValue, _Table


@dataclass(frozen=True)
class Lag:
    """How reads of one client lag: a share of them, by seconds drawn from a range."""

    share: float = 0.0
    behind_s: tuple[float, float] = (0.0, 3.0)


class SimulatedEngine(MemoryEngine):
    """See the module's docstring."""

    def __init__(
        self,
        space: MemorySpace,
        faults: Faults,
        rng: random.Random,
        revision_at: Callable[[float], int],
        lag: Lag = Lag(),
    ) -> None:
        """``revision_at`` gives the durable space's revision so many seconds ago."""
        super().__init__(space, faults, rng)
        self.revision_at = revision_at
        self.lag = lag
        """May be replaced at any time."""
        self.durable = _LaggingKeyValue(self, space.durable)


class _LaggingKeyValue(_MemoryKeyValue):
    """The durable space as one client has it."""

    def __init__(self, engine: SimulatedEngine, table: _Table) -> None:
        super().__init__(engine, table)
        self._client = engine

    async def get(self, key: str) -> Entry | None:
        revision = self._revision()
        if revision is None:
            return await super().get(key)
        return await self._engine.call(lambda: self._as_of(revision).get(key))

    async def entries(self, prefix: str = "") -> list[Entry]:
        revision = self._revision()
        if revision is None:
            return await super().entries(prefix)
        return await self._engine.call(lambda: self._as_of(revision).entries(prefix))

    def _revision(self) -> int | None:
        """What a lagging read shows; None for one that does not lag."""
        lag, rng = self._client.lag, self._engine.rng
        if not lag.share or rng.random() >= lag.share:
            return None
        return self._client.revision_at(rng.uniform(*lag.behind_s))

    def _as_of(self, revision: int) -> _Table:
        """The table as it was. Every write is remembered: a run has far fewer than `HISTORY_MAX`."""
        then = _Table()
        for entry in self._table.history:
            if entry.revision <= revision:
                then.latest[entry.key] = entry
        return then
