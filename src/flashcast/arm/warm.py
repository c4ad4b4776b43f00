"""Opens a provider's connections, waits until they are ready, and keeps them so until GO."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from flashcast.arm.plan import Plan, plan
from flashcast.arm.readiness import ProviderReadiness
from flashcast.arm.target import Target
from flashcast.clock import Clock
from flashcast.deliver.lane import Lane
from flashcast.errors import EnvironmentFault, FlashcastError

_POLL_S: Final = 0.005

MakeLane: TypeAlias = Callable[[str, int], Lane]
"""Makes a lane by its name and number of connections; it is opened by whoever makes it."""


@dataclass
class Crew:
    """The lanes of one provider, warm or becoming so."""

    target: Target
    plan: Plan
    lanes: list[Lane]
    rows: int = 0
    """For how many rows it is planned."""

    @property
    def ready(self) -> int:
        """Connections over which requests may be sent now."""
        return sum(lane.statistics().ready for lane in self.lanes)

    @property
    def wanted(self) -> int:
        """Connections it is to have."""
        return self.plan.connections

    @property
    def rate_per_s(self) -> float:
        """Requests per second that are to be expected after GO; 0 while there is nothing to send."""
        return self.rows / self.plan.predicted_s if self.plan.predicted_s else 0.0

    @property
    def fault(self) -> FlashcastError | None:
        """What keeps it from being ready: a lane that died, what no retry can mend, or that there is no connection."""
        faults = [lane.fault for lane in self.lanes if lane.fault is not None]
        if self.ready:
            faults = [fault for fault in faults if not fault.retryable]
        return faults[0] if faults else None

    def want(self, connections: int) -> None:
        """Changes how many connections are kept, spread over the lanes there are."""
        self.plan = replace(self.plan, connections=connections)
        for lane, share in zip(self.lanes, _shares(connections, len(self.lanes)), strict=True):
            lane.want(share)

    def want_for(self, rows: int, pace_per_s: float | None = None) -> None:
        """Plans anew for ``rows``, with the lanes there are: shards were taken or given back."""
        self.rows = rows
        made = plan_for(self.target, rows, pace_per_s=pace_per_s, lanes=len(self.lanes))
        if made.connections != self.plan.connections:
            self.want(made.connections)
        self.plan = made

    def readiness(self) -> ProviderReadiness:
        """What a heartbeat tells of it before GO; the rows are those it is planned for."""
        told = [lane.statistics() for lane in self.lanes]
        trips = [lane.round_trip_us for lane in told if lane.round_trip_us is not None]
        streams = [lane.streams for lane in told if lane.streams]
        return ProviderReadiness(
            rows=self.rows,
            connections=sum(lane.ready for lane in told),
            connections_wanted=self.wanted,
            streams=min(streams, default=0),
            round_trip_us=max(trips, default=None),
            rate_per_s=self.rate_per_s,
            # Of the kinds of credential only a client certificate ends without being able to renew itself.
            credential_until=getattr(self.target.credential, "valid_until", None),
            quota_per_minute=getattr(self.target.settings, "quota_per_minute", None),
            endpoint=str(self.target.address),
        )

    def close(self) -> None:
        """Ends the lanes."""
        for lane in self.lanes:
            lane.close()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_for(target: Target, rows: int, *, pace_per_s: float | None = None, lanes: int | None = None) -> Plan:
    """The plan for ``rows`` at a provider, by its settings and this machine's cores."""
    settings = target.settings
    return plan(
        target.provider, rows, cores=cores(), pace_per_s=pace_per_s, streams=settings.streams,
        reply_latency_ms=settings.reply_latency_ms, connections=settings.connections, lanes=lanes,
    )  # fmt: skip


def build_crew(
    target: Target,
    rows: int,
    clock: Clock,
    *,
    pace_per_s: float | None = None,
    lanes: int | None = None,
    make_lane: MakeLane | None = None,
) -> Crew:
    """Begins to open what the plan for ``rows`` asks for, and does not wait; see `Crew.ready` and `Crew.fault`.

    ``make_lane`` makes the lanes where they are not to be threads of their own.
    """
    made = plan_for(target, rows, pace_per_s=pace_per_s, lanes=lanes)

    def thread(name: str, connections: int) -> Lane:
        deadline_s = target.settings.handshake_deadline_s
        lane = Lane(target.address, target.context, connections, clock, name, handshake_deadline_s=deadline_s)
        lane.open()
        return lane

    make = make_lane or thread
    crew = Crew(target, made, [], rows)
    try:
        for i, share in enumerate(_shares(made.connections, made.lanes)):
            crew.lanes.append(make(f"{target.provider}-{i}", share))
    except BaseException:
        crew.close()
        raise
    return crew


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
    crew = build_crew(target, rows, clock, pace_per_s=pace_per_s, lanes=lanes)
    try:
        wait_until_ready(crew, clock, progress)
    except BaseException:
        crew.close()
        raise
    return crew


def wait_until_ready(crew: Crew, clock: Clock, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Waits for a crew's connections. Raises what keeps all of them from opening."""
    settings = crew.target.settings
    # All handshakes together may take longer than one: a core does some hundred a second.
    patience_s = settings.handshake_deadline_s + crew.plan.connections / 50
    deadline_ns = clock.monotonic_ns() + int(patience_s * 1e9)
    while (ready := crew.ready) < crew.plan.connections:
        fault = crew.fault
        if fault is not None:
            raise fault
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


def _shares(connections: int, lanes: int) -> list[int]:
    return [connections // lanes + (i < connections % lanes) for i in range(lanes)]
