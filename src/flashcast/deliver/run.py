"""One launch at one worker: the shards it holds, the chunks it was given, GO, and what has come of it.

    hold, add_crew --> armed -- go() --> live, fed by offer() -- end_claims(), window, abort, stop --> finished
                                              '-- settle_shard() closes one shard's books, at any time --'

The `Run` knows no engine: which shards and chunks are this worker's is decided outside and told here, before and after
GO alike, so a shard of a worker that died is one more `hold` and some `offer`s in mid-launch. Whoever holds every shard
himself offers everything (`offer_everything`) and needs no claims.

Three things hold the lanes back without ending anything: a pause, a lease that ran out, and, where the terms say so, a
reply that would meet every other row too. None of them loses a row or a retry, and none of them stops the window.

Every row is handed to the lanes at most once as long as its shard is held: `offer` leaves out what was offered before
and what the journal knows an outcome of.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flashcast.arm.warm import Crew
from flashcast.audience.shards import Shard
from flashcast.clock import Clock
from flashcast.deliver.books import ending, settle_lost, settle_owned
from flashcast.deliver.claims import Chunk, Chunks, ShardRows, Span, grid
from flashcast.deliver.job import NEVER_NS, Job, Terms
from flashcast.deliver.journal import Journal
from flashcast.deliver.progress import LaneStatistics, Progress, progress_of
from flashcast.errors import FlashcastError
from flashcast.latency import BUCKETS
from flashcast.limits import CHUNK_ROWS, WINDOW_S_DEFAULT
from flashcast.model import Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import Outcome
from flashcast.wire.template import columns_of

_KEEP_FRESH_S = 1.0


@dataclass(frozen=True)
class RunTerms:
    """The rules of a launch. ``pace`` is this worker's, in messages per second."""

    policy: UnknownPolicy = UnknownPolicy.DROP
    window_s: float = WINDOW_S_DEFAULT
    pace: Mapping[Provider, float] = field(default_factory=dict)
    pauses: bool = False
    """A reply that would meet every other row too holds the provider's part until `Run.resume`, and does not end it."""


@dataclass
class _Held:
    """A shard that is held."""

    provider: Provider
    shard: ShardRows
    unsent: int
    """Rows that were unsent when it came."""
    offered: NDArray[np.bool_]
    """bool[rows]: what lanes were given, or would have been were it not too late."""


class Run:
    """See the module's docstring. Methods may be called from any thread, and none but `wait` and `close` waits."""

    def __init__(
        self,
        journal: Journal,
        crews: Mapping[Provider, Crew],
        templates: Mapping[Provider, Sequence[RequestTemplate]],
        clock: Clock,
        terms: RunTerms,
        on_quiet: Callable[[], None],
        *,
        keeper: bool = True,
    ) -> None:
        """Prepares the jobs: after this, GO is a matter of microseconds.

        ``on_quiet`` is called from lanes' threads when it is time to look: the run may have become quiet or finished,
        or a reply has held it. Without ``keeper`` there is no thread that renews credentials: call `keep_fresh`.
        """
        self.crews: dict[Provider, Crew] = {}
        self.jobs: dict[Provider, Job] = {}
        self.live = False
        self.go_ns = 0
        self.started_at = 0.0
        """Unix time of GO, in a launch that was taken over that of the first."""
        self._clock = clock
        self._journal = journal
        self._templates = templates
        self._terms = terms
        self._on_quiet = on_quiet
        self._lock = threading.RLock()
        self._held: dict[int, _Held] = {}
        self._numbers = np.zeros(0, np.int32)
        self._window_left_s: float | None = None
        self._origin_ns = 0
        self._lease_ns = NEVER_NS
        self._aborted = self._paused = False
        self._heeds_stops = True
        self._cpu_at_go = self._cpu_at_end = 0.0
        for provider, crew in crews.items():
            self.add_crew(provider, crew)
        self._keeper_stop = threading.Event()
        self._keeper: threading.Thread | None = None
        if keeper:
            self._keeper = threading.Thread(target=self._keep_fresh, name="credentials", daemon=True)
            self._keeper.start()

    def __repr__(self) -> str:
        rows = sum(self.to_send.values())
        return f"<Run of {len(self._held)} shards, {rows:,} rows to send{', live' if self.live else ''}>"

    def _keep_fresh(self) -> None:
        while not self._keeper_stop.wait(_KEEP_FRESH_S):
            self.keep_fresh()

    def keep_fresh(self) -> None:
        """Renews the credentials that are about to run out; may wait for the network."""
        for crew in self.crews.values():
            with contextlib.suppress(FlashcastError):  # the provider's refusal will say so, typed and counted
                crew.target.credential.keep_fresh()

    # --- what it works with --------------------------------------------------------------------------------

    def add_crew(self, provider: Provider, crew: Crew) -> None:
        """The connections to a provider; after GO its lanes start at once."""
        with self._lock:
            job = self._job(provider, crew)
            self.jobs = {**self.jobs, provider: job}
            self.crews = {**self.crews, provider: crew}
            if self._aborted:
                job.abort()
            if self.live:
                self._start(provider)

    def _job(self, provider: Provider, crew: Crew) -> Job:
        target = crew.target
        return Job(
            provider=provider,
            shards=[held.shard for held in self._held.values() if held.provider is provider],
            chunks=Chunks.fed(),
            rows=self._journal.arrays,
            templates=self._templates[provider],
            head=target.head,
            path_prefix=target.path_prefix,
            credential=target.credential,
            clock=self._clock,
            terms=Terms(
                policy=self._terms.policy,
                window_s=self._terms.window_s,
                reply_deadline_s=target.settings.reply_deadline_s,
                pace_per_s=self._terms.pace.get(provider),
                pauses=self._terms.pauses,
            ),
            lanes=len(crew.lanes),
            lease_ns=self._lease_ns,
            held=self._paused,
            heeds_stops=self._heeds_stops,
            on_rest=lambda: self._rested(provider),
            on_stop=self._on_quiet,
        )

    def hold(self, shard: Shard) -> None:
        """Takes a mapped shard, before or after GO; one that is held stays as it is.

        Raises EnvironmentFault where the journal has no room for it.
        """
        known = self._held.get(shard.index)
        if known is not None and not known.shard.gone:
            return
        self._journal.hold(shard.base, shard.rows)
        rows = ShardRows(columns_of(shard.tokens, shard.fields, shard.variants), shard.base, shard.rows)
        unsent = self._journal.outcome[shard.base : shard.base + shard.rows] == Outcome.UNSENT
        with self._lock:
            if self._numbers.size < shard.rows:
                # One array serves every chunk: a chunk of consecutive rows is a view of it.
                self._numbers = np.arange(shard.rows, dtype=np.int32)
            offered = np.zeros(shard.rows, bool)
            self._held[shard.index] = _Held(shard.provider, rows, int(unsent.sum()), offered)
            if shard.provider in self.jobs:
                self.jobs[shard.provider].hold(rows)

    def drop(self, index: int) -> None:
        """Lets go of a shard: nothing more of it is sent. After GO replies to what is in flight are still taken.

        Books that were opened after GO stay open until `settle_shard`.
        """
        with self._lock:
            held = self._held.get(index)
            if held is None or held.shard.gone:
                return
            job = self.jobs.get(held.provider)
            if not self.live:
                del self._held[index]
                if job is not None:
                    job.forget(held.shard)
            elif job is not None:
                job.drop(held.shard)
                self._wake(held.provider)
            held.shard.gone = True

    def offer(self, index: int, rows: NDArray[np.int32] | None, span: Span) -> None:
        """Gives the lanes a chunk that is this worker's to send: ``rows`` of shard ``index``, None for all of ``span``.

        Left out are rows that were offered before, and those that have an outcome in the journal, but under ``resend``
        an unknown one. Offered too late (aborted, stopped, out of time, dropped), they are closed with the shard.
        """
        with self._lock:
            held = self._held[index]
            shard, job = held.shard, self.jobs.get(held.provider)
            books = self._journal.outcome[shard.base : shard.base + shard.rows]
            part = slice(span.start, span.stop) if rows is None else rows
            wanted = self._numbers[part] if rows is None else np.require(rows, np.int32, ["C", "W"])
            fresh = books[part] == Outcome.UNSENT
            if self._terms.policy is UnknownPolicy.RESEND:
                doubted = books[part] == Outcome.UNKNOWN
                fresh |= doubted
                if job is not None:
                    job.doubted.update((shard.base + self._numbers[part][doubted]).tolist())
            fresh &= ~held.offered[part]
            held.offered[part] |= fresh
            if not fresh.all():
                wanted = wanted[fresh]
            if shard.gone or job is None:
                return
            job.chunks.add(Chunk(shard, wanted))
            for lane in self.crews[held.provider].lanes:
                if lane.starving:
                    lane.wake()

    def end_claims(self) -> None:
        """Nothing more will be offered: lanes end when nothing is left."""
        for provider, job in self.jobs.items():
            job.chunks.close()
            self._wake(provider)

    # --- the launch --------------------------------------------------------------------------------------

    def go(self, started_at: float | None = None, window_left_s: float | None = None) -> None:
        """Makes the launch live at this worker: the lanes start.

        ``started_at`` is the Unix time of GO where that was earlier or elsewhere; reply times count from it. The window
        ends ``window_left_s`` from now, by default the whole of it.
        """
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu_at_go = usage.ru_utime + usage.ru_stime
        with self._lock:
            now_s = self._clock.time()
            self.started_at = now_s if started_at is None else started_at
            self.go_ns = self._clock.monotonic_ns()
            self._origin_ns = self.go_ns - int((now_s - self.started_at) * 1e9)
            self._window_left_s = window_left_s
            for crew in self.crews.values():
                for lane in crew.lanes:
                    lane.finished.clear()  # of an earlier job: no lane may look finished before it has begun
            self.live = True
            for provider in self.crews:
                self._start(provider)

    def _start(self, provider: Provider) -> None:
        job = self.jobs[provider]
        job.set_go(self.go_ns, self._origin_ns, self._window_left_s)
        for lane in self.crews[provider].lanes:
            lane.start(job)

    def abort(self) -> None:
        """Sends nothing more; replies to what is in flight are waited for, but not long."""
        with self._lock:
            self._aborted = True
            for provider, job in self.jobs.items():
                job.abort()
                self._wake(provider)

    def pause(self) -> None:
        """Sends nothing until `resume`. Lanes look before each volley; what is on the wire is heard."""
        with self._lock:
            self._paused = True
            for job in self.jobs.values():
                job.held = True

    def resume(self, *, heed_stops: bool = False) -> None:
        """Goes on after a pause, or after a reply that held the run.

        Somebody has seen the reason then, so further such replies are counted and told, but hold nothing by themselves
        unless ``heed_stops``.
        """
        with self._lock:
            self._paused = False
            self._heeds_stops = heed_stops
            for provider, job in self.jobs.items():
                job.stop_reason = None
                job.heeds_stops = heed_stops
                job.held = False
                self._wake(provider)

    def lease_until(self, ns: int) -> None:
        """Nothing is sent from ``ns`` of the monotonic clock on, until this is called again."""
        with self._lock:
            fenced = self._lease_ns <= self._clock.monotonic_ns()
            self._lease_ns = ns
            for provider, job in self.jobs.items():
                job.lease_ns = ns
                if fenced:
                    self._wake(provider)

    def set_pace(self, provider: Provider, per_s: float | None) -> None:
        """Changes this worker's pace; lanes take it up within a tick."""
        if provider in self.jobs:
            self.jobs[provider].pace_per_s = per_s

    def _wake(self, provider: Provider) -> None:
        if self.live:
            for lane in self.crews[provider].lanes:
                lane.wake()

    # --- how far it is -------------------------------------------------------------------------------------

    def waiting_rows(self, provider: Provider) -> int:
        """Rows offered and not yet handed to a lane."""
        job = self.jobs.get(provider)
        return job.chunks.waiting_rows if job is not None else 0

    def in_flight(self, index: int) -> int:
        """Rows of a shard that are on the wire, by the journal."""
        shard = self._held[index].shard
        return int((self._journal.outcome[shard.base : shard.base + shard.rows] == Outcome.IN_FLIGHT).sum())

    def quiet(self) -> bool:
        """Whether nothing that was offered is left to send, to repeat or to wait for. False before GO."""
        return self.live and all(self._rests(provider) for provider in self.crews)

    def _rests(self, provider: Provider) -> bool:
        # Before the lanes are asked: what is handed out from now on makes their word old.
        handed, waiting = self.jobs[provider].chunks.glance()
        lanes = self.crews[provider].lanes
        return not waiting and all(lane.finished.is_set() or lane.quiet_at == handed for lane in lanes)

    def _rested(self, provider: Provider) -> None:
        """A lane has nothing to do. Others may not have looked since a chunk went past them: now they do."""
        job, lanes = self.jobs[provider], self.crews[provider].lanes
        handed, waiting = job.chunks.glance()
        if not waiting:
            for lane in lanes:
                if lane.starving and lane.quiet_at != handed:
                    lane.wake()
        if self.quiet() or self.finished:
            self._on_quiet()

    @property
    def finished(self) -> bool:
        """Whether every lane has ended its job. Never before GO, nor without lanes."""
        lanes = [lane for crew in self.crews.values() for lane in crew.lanes]
        if not self.live or not lanes or not all(lane.finished.is_set() for lane in lanes):
            return False
        if not self._cpu_at_end:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self._cpu_at_end = usage.ru_utime + usage.ru_stime
        return True

    def wait(self, timeout_s: float) -> bool:
        """Waits until every lane has ended, or ``timeout_s`` is over. Returns whether they have."""
        deadline_ns = self._clock.monotonic_ns() + int(timeout_s * 1e9)
        for crew in self.crews.values():
            for lane in crew.lanes:
                left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
                if not lane.finished.wait(max(0.0, left_s)):
                    return False
        return self.finished

    def stop_reasons(self) -> dict[Provider, str]:
        """The replies that would meet every other row too, by provider: the first of each since GO or `resume`."""
        return {p: job.stop_reason.value for p, job in self.jobs.items() if job.stop_reason is not None}

    @property
    def to_send(self) -> dict[Provider, int]:
        """Rows of the shards that are held which were not dealt with when they came."""
        rows = dict.fromkeys(self.crews, 0)
        for held in list(self._held.values()):
            if not held.shard.gone:
                rows[held.provider] = rows.get(held.provider, 0) + held.unsent
        return rows

    def progress(self) -> dict[Provider, Progress]:
        """How far each provider is."""
        rows = self.to_send
        return {
            provider: progress_of(self.jobs[provider], rows[provider], [lane.statistics() for lane in crew.lanes])
            for provider, crew in self.crews.items()
        }

    # --- the last entries ----------------------------------------------------------------------------------

    def settle_shard(self, index: int, *, owned: bool, claimed: NDArray[np.bool_] | None = None) -> None:
        """Closes the books of one shard; see deliver/books.py.

        Without ``owned`` it is another worker's by now, and only rows in ``claimed`` (bool[rows], by default what was
        offered) are this worker's to tell about. Lanes may still be at work on other shards. Repeatable.
        """
        with self._lock:
            held = self._held[index]
            rows = self._journal.arrays.part(held.shard.base, held.shard.rows)
            if not owned:
                resend = self._terms.policy is UnknownPolicy.RESEND
                claimed = held.offered if claimed is None else claimed
                settle_lost(rows, claimed, resend=resend, aborted=self._aborted)
                return
            job = self.jobs.get(held.provider)
            crashed = any(lane.crashed for lane in self.crews[held.provider].lanes) if job is not None else False
            settle_owned(rows, ending(job, crashed=crashed, aborted=self._aborted))

    def settle(self) -> None:
        """Closes the books of every shard that is held."""
        for index, held in list(self._held.items()):
            if not held.shard.gone:
                self.settle_shard(index, owned=True)
        self._journal.flush()

    def close(self) -> None:
        """Ends keeper and lanes."""
        self._keeper_stop.set()
        for crew in self.crews.values():
            crew.close()
        if self._keeper is not None:
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
        """CPU of the whole process from GO to the last lane's end, or to now, by rows sent."""
        sent = sum(progress.sent for progress in self.progress().values())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent_s = (self._cpu_at_end or usage.ru_utime + usage.ru_stime) - self._cpu_at_go
        return spent_s * 1e6 / sent if sent else None

    def noticed_go_ms(self) -> float:
        """From GO, by its presser's clock, to GO at this worker."""
        return max(0.0, (self.go_ns - self._origin_ns) / 1e6)

    def go_to_first_request_ms(self) -> float | None:
        """From GO at this worker to the first request handed to the socket."""
        first = [s.first_request_ns for s in self._statistics() if s.first_request_ns is not None]
        return (min(first) - self.go_ns) / 1e6 if first else None

    def go_to_last_reply_s(self) -> float | None:
        """From GO at this worker to the last reply that settled or returned a row."""
        last = [s.last_reply_ns for s in self._statistics() if s.last_reply_ns is not None]
        return (max(last) - self.go_ns) / 1e9 if last else None

    def overshoot(self) -> int:
        """Rows on the wire when an abort or a stop took effect."""
        return sum(s.overshoot for s in self._statistics())

    def _statistics(self) -> list[LaneStatistics]:
        return [lane.statistics() for crew in self.crews.values() for lane in crew.lanes]


def offer_everything(run: Run, shards: Iterable[Shard]) -> None:
    """Offers every row of shards that are held, and says that nothing more will come: a launch without claims."""
    for shard in shards:
        for span in grid(shard.rows, CHUNK_ROWS):
            run.offer(shard.index, None, span)
    run.end_claims()
