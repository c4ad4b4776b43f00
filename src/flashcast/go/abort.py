"""Abort: one compare-and-swap calls a launch off; then the workers are watched until nothing more goes out.

Workers see the record by their watch and stop before their next volley, so it takes effect within 250 ms. What was on
the wire by then is overshoot: its replies are awaited for up to two seconds, and it is settled like any other row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import LaunchRecord
from flashcast.campaign.store import Store
from flashcast.go.follow import Sighting, following

DRAINED_S_MAX: Final = 10.0
"""How long to look on: two seconds of drain, a lease and take-over of what a dead worker held, and the last books."""


@dataclass(frozen=True, slots=True)
class Drained:
    """How an abort came out."""

    record: LaunchRecord
    overshoot: int = 0
    """Requests that were on the wire when the workers stopped."""
    waiting_for: tuple[str, ...] = ()
    """Workers that had not drained when we stopped looking on."""

    @property
    def complete(self) -> bool:
        """Whether every worker has stopped, and the books are closed or about to be."""
        return not self.waiting_for


async def abort(store: Store, launch: str, note: str = "") -> LaunchRecord:
    """Calls the launch off. Raises LifecycleError where it is neither arming, armed nor live."""
    return await store.transition(launch, Input.ABORT, note=note)


async def drained(store: Store, record: LaunchRecord, patience_s: float = DRAINED_S_MAX) -> Drained:
    """Looks on after `abort` until every worker has drained, or the books are closed, or ``patience_s`` are over."""
    if record.go is None:
        return Drained(record)
    last = Drained(record)
    try:
        async with asyncio.timeout(patience_s), following(store.engine, record.launch, store.clock) as sightings:
            async for sighting in sightings:
                last = _as_far(sighting, last)
                if sighting.record.closed_at is not None or last.complete:
                    return last
    except TimeoutError:
        pass
    return last


def _as_far(sighting: Sighting, before: Drained) -> Drained:
    holdings = sighting.holdings
    # A worker that has let go of the launch tells no more of it: what it told before stands.
    overshoot = max(before.overshoot, sum(holding.overshoot for holding in holdings.values()))
    closed = sighting.record.closed_at is not None
    waiting = () if closed else tuple(worker for worker, holding in holdings.items() if not holding.quiet)
    return Drained(sighting.record, overshoot, waiting)
