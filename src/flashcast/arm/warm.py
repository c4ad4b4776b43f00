"""Opens a provider's connections, waits until they are ready, and keeps them so until GO."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from flashcast.arm.plan import Plan, plan
from flashcast.arm.target import Target
from flashcast.clock import Clock
from flashcast.deliver.lane import Lane
from flashcast.errors import EnvironmentFault

_POLL_S = 0.005


@dataclass
class Crew:
    """The lanes of one provider, warm."""

    target: Target
    plan: Plan
    lanes: list[Lane]

    @property
    def ready(self) -> int:
        """Connections over which requests may be sent now."""
        return sum(lane.statistics().ready for lane in self.lanes)

    def close(self) -> None:
        """Ends the lanes."""
        for lane in self.lanes:
            lane.close()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up_crew(
    target: Target,
    rows: int,
    clock: Clock,
    *,
    pace_per_s: float | None = None,
    lanes: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Crew:
    """Opens what the plan for ``rows`` asks for and returns when all connections are ready.

    Connections that fail are tried again until the handshake deadline, unless the very first cannot be opened: then
    what is wrong is wrong for all. ``progress`` is told (ready, wanted). Raises EnvironmentFault.
    """
    settings = target.settings
    made = plan(
        target.provider, rows, cores=cores(), pace_per_s=pace_per_s, streams=settings.streams,
        reply_latency_ms=settings.reply_latency_ms, connections=settings.connections, lanes=lanes,
    )  # fmt: skip
    shares = [made.connections // made.lanes + (i < made.connections % made.lanes) for i in range(made.lanes)]
    crew = Crew(target, made, [
        Lane(target.address, target.context, share, clock, f"{target.provider}-{i}",
             handshake_deadline_s=settings.handshake_deadline_s)
        for i, share in enumerate(shares)
    ])  # fmt: skip
    try:
        for lane in crew.lanes:
            lane.open()
        _wait_until_ready(crew, clock, progress)
    except BaseException:
        crew.close()
        raise
    return crew


def _wait_until_ready(crew: Crew, clock: Clock, progress: Callable[[int, int | None], None] | None) -> None:
    settings = crew.target.settings
    # All handshakes together may take longer than one: a core does some hundred a second.
    patience_s = settings.handshake_deadline_s + crew.plan.connections / 50
    deadline_ns = clock.monotonic_ns() + int(patience_s * 1e9)
    while (ready := crew.ready) < crew.plan.connections:
        for lane in crew.lanes:
            if lane.fault is not None and (not ready or not lane.fault.retryable):
                raise lane.fault
        if clock.monotonic_ns() > deadline_ns:
            if ready:
                return  # fewer than planned; the lanes go on trying
            raise EnvironmentFault(
                f"no connection to {crew.target.address} within {patience_s:.0f} s",
                remedy=f"Check [{crew.target.provider}] endpoint and proxy in flashcast.toml.",
                retryable=True,
            )
        if progress is not None:
            progress(ready, crew.plan.connections)
        time.sleep(_POLL_S)
