"""One launch in one process: GO, progress, abort, and the last entries in the books.

Armed -- go() --> live -- every lane finished --> settled. An abort or a stop only shortens the way: lanes drain what
is in flight, then every row that was never sent gets its outcome. The seam for launches over several processes is
`Chunks.take` (claims) and `settle` (this process closes only the rows it holds).
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashcast.arm.warm import Crew
from flashcast.audience.snapshot import Snapshot
from flashcast.clock import Clock
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.deliver.job import Job, RowArrays, Terms
from flashcast.deliver.journal import Journal
from flashcast.deliver.lane import LaneStatistics
from flashcast.errors import FlashcastError
from flashcast.latency import BUCKETS
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.wire.template import columns_of

_KEEP_FRESH_S = 1.0


@dataclass(frozen=True)
class Progress:
    """One provider at one moment, all lanes together."""

    rows: int
    accepted: int
    rejected: int
    failed: int
    unknown: int
    in_flight: int
    sent: int
    connections_ready: int


class Run:
    """See the module's docstring."""

    def __init__(
        self, snapshot: Snapshot, journal: Journal, crews: Mapping[Provider, Crew], clock: Clock, window_s: float
    ) -> None:
        """Prepares the jobs: after this, GO is a matter of microseconds."""
        self.crews = crews
        self.go_ns = 0
        self.started_at = 0.0
        self._clock = clock
        self._journal = journal
        self._window_s = window_s
        self._snapshot = snapshot
        self._rows = RowArrays(journal.outcome, journal.reason, journal.attempts, journal.reply_ms)
        unsent = journal.outcome == Outcome.UNSENT
        fresh = bool(unsent.all())
        self.to_send: dict[Provider, int] = {}
        self.jobs: dict[Provider, Job] = {}
        for provider, crew in crews.items():
            shards = _shards(snapshot, provider)
            self.to_send[provider] = int(sum(unsent[s.base : s.base + s.rows].sum() for s in shards))
            self.jobs[provider] = self._job(crew, shards, None if fresh else unsent)
        self._cpu_at_go = self._cpu_at_end = 0.0
        self._keeper_stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep_fresh, name="credentials", daemon=True)
        self._keeper.start()

    def __repr__(self) -> str:
        return f"<Run of {self._snapshot.name!r}, {sum(self.to_send.values()):,} rows to send>"

    def _job(self, crew: Crew, shards: list[ShardRows], unsent: NDArray[np.bool_] | None) -> Job:
        target = crew.target
        return Job(
            provider=target.provider,
            shards=shards,
            chunks=Chunks(shards, unsent),
            rows=self._rows,
            templates=self._snapshot.templates[target.provider],
            head=target.head,
            path_prefix=target.path_prefix,
            credential=target.credential,
            clock=self._clock,
            terms=Terms(
                policy=self._snapshot.unknown_policy,
                window_s=self._window_s,
                reply_deadline_s=target.settings.reply_deadline_s,
                pace_per_s=self._snapshot.pace.get(target.provider),
            ),
            lanes=len(crew.lanes),
        )

    def _keep_fresh(self) -> None:
        while not self._keeper_stop.wait(_KEEP_FRESH_S):
            for crew in self.crews.values():
                try:
                    crew.target.credential.keep_fresh()
                except FlashcastError:
                    pass  # the provider's refusal will say so, typed and counted

    # --- the launch --------------------------------------------------------------------------------------

    def go(self, started_at: float | None = None) -> None:
        """Makes the launch live. ``started_at`` is the Unix time of the first GO where this one resumes it."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_at_go = usage.ru_utime + usage.ru_stime
        now_s = self._clock.time()
        self.started_at = now_s if started_at is None else started_at
        self.go_ns = self._clock.monotonic_ns()
        for provider, job in self.jobs.items():
            job.set_go(self.go_ns, self.go_ns - int((now_s - self.started_at) * 1e9))
            for lane in self.crews[provider].lanes:
                lane.start(job)

    def abort(self) -> None:
        """Sends nothing more; replies to what is in flight are waited for, but not long."""
        for provider, job in self.jobs.items():
            job.abort()
            for lane in self.crews[provider].lanes:
                lane.wake()

    def wait(self, timeout_s: float) -> bool:
        """Waits until every lane has finished, or ``timeout_s`` is over. Returns whether they have."""
        deadline_ns = self._clock.monotonic_ns() + int(timeout_s * 1e9)
        for crew in self.crews.values():
            for lane in crew.lanes:
                left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
                if not lane.finished.wait(max(0.0, left_s)):
                    return False
        if not self._cpu_at_end:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self._cpu_at_end = usage.ru_utime + usage.ru_stime
        return True

    def progress(self) -> dict[Provider, Progress]:
        """How far each provider is."""
        shown = {}
        for provider, crew in self.crews.items():
            lanes = [lane.statistics() for lane in crew.lanes]
            shown[provider] = Progress(
                rows=self.to_send[provider],
                accepted=sum(lane.accepted for lane in lanes),
                rejected=sum(lane.rejected for lane in lanes),
                failed=sum(lane.failed for lane in lanes),
                unknown=sum(lane.unknown for lane in lanes),
                in_flight=sum(lane.in_flight for lane in lanes),
                sent=sum(lane.sent for lane in lanes),
                connections_ready=sum(lane.ready for lane in lanes),
            )
        return shown

    def settle(self) -> None:
        """The last entries: what was never sent is expired, or unsent where the launch was cut short."""
        for provider, job in self.jobs.items():
            settle(job, crashed=any(lane.crashed for lane in self.crews[provider].lanes))
        self._journal.flush()

    def close(self) -> None:
        """Ends keeper and lanes."""
        self._keeper_stop.set()
        for crew in self.crews.values():
            crew.close()
        self._keeper.join()

    # --- what it measured --------------------------------------------------------------------------------

    @property
    def faults(self) -> list[FlashcastError]:
        """What went wrong in lanes that died, which none should."""
        return [lane.fault for c in self.crews.values() for lane in c.lanes if lane.crashed and lane.fault is not None]

    def now_ns(self) -> int:
        """The time on the launch's clock."""
        return self._clock.monotonic_ns()

    def elapsed_s(self) -> float:
        """Seconds since GO."""
        return (self.now_ns() - self.go_ns) / 1e9

    def histogram(self) -> NDArray[np.int64]:
        """Reply times of all lanes, int64[BUCKETS] in microseconds."""
        total = np.zeros(BUCKETS, np.int64)
        for crew in self.crews.values():
            for lane in crew.lanes:
                total += lane.histogram
        return total

    def cpu_us_per_notification(self) -> float | None:
        """CPU of the whole process from GO to the last lane's end, by rows sent."""
        sent = sum(progress.sent for progress in self.progress().values())
        return (self._cpu_at_end - self._cpu_at_go) * 1e6 / sent if sent and self._cpu_at_end else None

    def go_to_first_request_ms(self) -> float | None:
        """From GO to the first request handed to the socket."""
        first = [s.first_request_ns for s in self._statistics() if s.first_request_ns is not None]
        return (min(first) - self.go_ns) / 1e6 if first else None

    def go_to_last_reply_s(self) -> float | None:
        """From GO to the last reply that settled or returned a row."""
        last = [s.last_reply_ns for s in self._statistics() if s.last_reply_ns is not None]
        return (max(last) - self.go_ns) / 1e9 if last else None

    def overshoot(self) -> int:
        """Rows on the wire when an abort or a stop took effect."""
        return sum(s.overshoot for s in self._statistics())

    def _statistics(self) -> list[LaneStatistics]:
        return [lane.statistics() for crew in self.crews.values() for lane in crew.lanes]


def settle(job: Job, *, crashed: bool) -> None:
    """Gives every row of a job that no lane settled its outcome.

    What was never sent expired, unless the job was cut short: then it is unsent. A row that was tried keeps the reason
    of its last refusal.
    """
    for shard in job.shards:
        outcome = job.rows.outcome[shard.base : shard.base + shard.rows]
        reason = job.rows.reason[shard.base : shard.base + shard.rows]
        in_flight = outcome == Outcome.IN_FLIGHT
        outcome[in_flight] = Outcome.UNKNOWN
        reason[in_flight] = Reason.CONNECTION_LOST.code
        unsent = outcome == Outcome.UNSENT
        never_tried = unsent & (reason == Reason.NONE.code)
        if job.aborted.is_set():
            reason[never_tried] = Reason.ABORTED.code
        elif job.stopped is not None or crashed:
            reason[never_tried] = Reason.STOPPED.code
        else:
            outcome[unsent] = Outcome.EXPIRED
            reason[never_tried] = Reason.WINDOW_CLOSED.code


def _shards(snapshot: Snapshot, provider: Provider) -> list[ShardRows]:
    return [
        ShardRows(columns_of(shard.tokens, shard.fields, shard.variants), shard.base, shard.rows)
        for shard in snapshot.shards
        if shard.provider is provider
    ]
