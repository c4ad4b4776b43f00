"""A lane: one thread that keeps many connections to one provider warm and, at GO, sends.

    arm: open connections, keep them alive      start: a job      run: read replies, write volleys, retry, pace
    starve: nothing to take, and more may come      finish: nothing left to send, nothing in flight, or the drain's
    deadline      close: say good-bye

The thread runs `turn` in a loop, on one selector. Everything slow happens outside the GIL (kernels, TLS) or once per
batch. Shutdown order: stop taking chunks, drain replies, settle what is left, close the connections.

A lane can be stepped instead of having a thread: see `Lane.turn`. The code is the same but for who calls it.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import selectors
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast.clock import Clock
from flashcast.deliver.claims import Chunk, ShardRows
from flashcast.deliver.job import Job
from flashcast.deliver.link import Dial, Link, SelectorLike
from flashcast.deliver.links import Links
from flashcast.deliver.pacing import Pacer
from flashcast.deliver.progress import LaneStatistics
from flashcast.deliver.retry import decide
from flashcast.errors import FlashcastError, ProtocolError
from flashcast.latency import BUCKETS, bucket_of
from flashcast.limits import HANDSHAKE_DEADLINE_S, VOLLEY_BYTES_MAX
from flashcast.outcomes import ACTIONS, BAD_TOKENS, Action, Outcome, Reason
from flashcast.providers.meaning import meaning, retry_after_s
from flashcast.transport.tls import Address, Channel, Stage
from flashcast.wire.connection import Book, Phase
from flashcast.wire.replies import Reply

_TICK_NS: Final = 20_000_000
_IDLE_TICK_NS: Final = 200_000_000
_SWEEP_NS: Final = 250_000_000
_VOLLEY_ROWS_MIN: Final = 256
"""A busy connection waits until this many streams are free (or a quarter of them): small volleys cost more each."""
_ABORT_DRAIN_NS: Final = 2_000_000_000
_EMPTY_U8: Final = np.zeros(0, np.uint8)


class Lane:
    """See the module's docstring. `turn` belongs to the lane's thread; everything else may be called from any."""

    def __init__(
        self, address: Address, context: ssl.SSLContext, connections: int, clock: Clock, name: str,
        *, handshake_deadline_s: float = HANDSHAKE_DEADLINE_S, dial: Dial = Channel,
        selector: SelectorLike | None = None, stepped: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """``stepped`` makes it a lane without a thread; it is called whenever there is a new order. See `turn`."""
        self.name = name
        self.finished = threading.Event()
        self.crashed = False
        self.next_turn_ns = clock.monotonic_ns()
        """When there is something to do even if nothing happens."""
        self.quiet_at = -1
        """`Chunks.handed` when this lane last had nothing to send, to repeat or to wait for."""
        self.starving = False
        """Whether it found nothing to take when it could have sent: whoever adds a chunk wakes it."""
        self._clock = clock
        self._selector: SelectorLike = selector if selector is not None else selectors.DefaultSelector()
        self._orders: deque[Callable[[], None]] = deque()
        self._closing = False
        self._crash: FlashcastError | None = None
        self._next_sweep_ns = self.next_turn_ns
        self._out = np.empty(VOLLEY_BYTES_MAX, np.uint8)
        self._out_view = memoryview(self._out)  # type: ignore[arg-type]
        self._random = random.Random(name)
        self.histogram: NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        book = Book(_EMPTY_U8, np.zeros(0, np.uint32), _EMPTY_U8, self.histogram)
        self._links = Links(
            address, context, connections, clock, self._selector, book, self._note_replies,
            dial=dial, handshake_deadline_s=handshake_deadline_s,
        )  # fmt: skip
        self._job: Job | None = None
        self._idle_job()
        self._stepped = stepped
        self._thread: threading.Thread | None = None
        if stepped is None:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._bell_read, self._bell_write = socket.socketpair()
            self._bell_read.setblocking(False)
            self._bell_write.setblocking(False)
            self._selector.register(self._bell_read, selectors.EVENT_READ, None)

    def __repr__(self) -> str:
        links = self._links
        return f"<Lane {self.name} {links.address}, {links.ready} of {links.wanted} connections ready>"

    # --- orders from other threads ---------------------------------------------------------------------

    def open(self) -> None:
        """Starts the thread: connections begin to open."""
        assert self._thread is not None, "a stepped lane opens its connections as it is stepped"
        self._thread.start()

    def start(self, job: Job) -> None:
        """GO: sends the job's rows. `finished` is set when every row this lane took is settled or given back."""
        self.finished.clear()
        self.quiet_at = -1
        self._order(lambda: self._begin(job))
        if self.crashed:
            self.finished.set()  # nobody is left to take the order

    def wake(self) -> None:
        """Makes the lane look at its job at once: a chunk was added, or something about it has changed."""
        self._order(self._look_now)

    def want(self, connections: int) -> None:
        """Changes how many connections it keeps. Those it has too many close when nothing is in flight on them."""

        def change() -> None:
            self._links.wanted = connections
            self._look_now()

        self._order(change)

    def close(self) -> None:
        """Ends the thread; what is still in flight is returned as lost."""
        if self._thread is None:
            self._closing = True
            self._links.drop_all()
        else:
            self._order(self._set_closing)
            if self._thread.ident is not None:
                self._thread.join()
            for sock in (self._bell_read, self._bell_write):
                sock.close()
        self._selector.close()
        if self._job is not None:
            self.finished.set()  # nothing more will come of it

    @property
    def fault(self) -> FlashcastError | None:
        """Why it died, or why it cannot open a connection; None where all is well."""
        return self._crash or self._links.fault

    def statistics(self) -> LaneStatistics:
        """The lane's counters, read without stopping it."""
        links = list(self._links)
        return LaneStatistics(
            connections=len(links),
            ready=self._links.ready,
            wanted=self._links.wanted,
            in_flight=sum(link.connection.in_flight for link in links),
            accepted=self._accepted_slowly + self._links.accepted - self._accepted_before,
            rejected=self._rejected,
            failed=self._failed,
            unknown=self._unknown,
            sent=self._sent,
            volleys=self._volleys,
            stops=self._stops,
            bad_tokens=self._bad_tokens,
            first_request_ns=self._first_request_ns,
            last_reply_ns=self._last_reply_ns,
            round_trip_us=min((r for r in (x.connection.round_trip_us for x in links) if r is not None), default=None),
            streams=max((link.connection.streams_allowed for link in links), default=0),
            overshoot=self._overshoot,
            bytes_sent=sum(link.channel.bytes_sent for link in links),
            bytes_received=sum(link.channel.bytes_received for link in links),
        )

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        if self._stepped is not None:
            self._stepped()
            return
        with contextlib.suppress(BlockingIOError, OSError):
            self._bell_write.send(b"\0")

    def _set_closing(self) -> None:
        self._closing = True

    def _look_now(self) -> None:
        self.next_turn_ns = 0

    # --- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self.turn()
            self._links.drop_all()
        except Exception as error:  # noqa: BLE001 - a lane that dies must not leave its launch waiting
            self._crash = FlashcastError(f"lane {self.name} failed: {type(error).__name__}: {error}")
            self._crash.__cause__ = error
            self.crashed = True
            self.finished.set()
            if self._job is not None:
                self._job.on_rest()

    def turn(self, wait: bool = True) -> None:
        """Once round: serves what the selector tells of, takes orders, ticks when it is time.

        With ``wait`` it waits for something to happen, until `next_turn_ns` at the latest. Whoever steps a lane calls
        ``turn(False)`` when the selector has something, when ``stepped`` was called, and at `next_turn_ns`.
        """
        if self._closing:
            return
        wait_ns = max(0, self.next_turn_ns - self._clock.monotonic_ns()) if wait else 0
        for key, _ in self._selector.select(wait_ns / 1e9):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._bell_read.recv(4_096)
            else:
                self._serve(key.data)
        while self._orders:
            self._orders.popleft()()
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self.next_turn_ns:
            self._tick(now_ns)
            busy = self._job is not None or self._links.ready < self._links.wanted
            self.next_turn_ns = now_ns + (_TICK_NS if busy else _IDLE_TICK_NS)
        if self._job is not None:
            self._rest_if_done(self._job, now_ns)

    def _serve(self, link: Link) -> None:
        """Something happened on a link: open further, read, answer, write."""
        if link.channel.stage is Stage.CLOSED:
            return  # in this very turn
        try:
            if link.channel.stage is not Stage.OPEN:
                link.open_further()
            if link.channel.stage is Stage.OPEN:
                was_ready = link.ready
                link.channel.flush()
                while self._links.read(link) and link.channel.more:
                    pass
                if link.ready != was_ready:
                    self._links.turned(link)
                link.write_control()
                self._fill(link)
            self._links.watch(link)
        except (ConnectionError, ssl.SSLError, FlashcastError) as error:
            self._links.drop(link, error)
        else:
            if link.connection.phase is Phase.CLOSED:
                self._links.drop(link, None)

    # --- a job -------------------------------------------------------------------------------------------

    def _idle_job(self) -> None:
        self._chunk: Chunk | None = None
        self._position = 0
        self._retries: list[tuple[int, int, ShardRows]] = []
        self._again: deque[Chunk] = deque()
        self._pace: float | None = None
        self._pacer = Pacer(None, self._clock.monotonic_ns())
        self._drops_seen = 0
        self._accepted_slowly = 0
        self._accepted_before = self._links.accepted
        self._rejected = self._failed = self._unknown = self._sent = self._volleys = 0
        self._stops = self._bad_tokens = 0
        self._first_request_ns: int | None = None
        self._last_reply_ns: int | None = None
        self._overshoot = 0
        self._drain_until_ns: int | None = None
        self.starving = False

    def _begin(self, job: Job) -> None:
        self._idle_job()
        self._job = job
        self.histogram[:] = 0
        rows = job.rows
        self._links.take_up(Book(rows.outcome, rows.reply_ms, rows.attempts, self.histogram), job.origin_ns)
        self._links.sending = True
        self._take_pace(job, self._clock.monotonic_ns())
        self._fill_all()  # before anything else: milliseconds from GO are counted

    def _take_pace(self, job: Job, now_ns: int) -> None:
        pace = job.pace_per_s
        if pace != self._pace:
            self._pace = pace
            self._pacer.set_pace(pace / job.lanes if pace is not None else None, now_ns)

    def _fill_all(self) -> None:
        for link in self._links:
            try:
                link.write_control()  # resets first: until it has them, the peer counts those streams as open
                self._fill(link)
                self._links.watch(link)
            except (ConnectionError, ssl.SSLError, ProtocolError) as error:
                self._links.drop(link, error)

    def _fill(self, link: Link) -> None:
        """Writes volleys to a link until its streams, its windows, the socket or the rows are used up."""
        job = self._job
        connection = link.connection
        while job is not None and not link.channel.wants_write and self._drain_until_ns is None:
            room = connection.room()
            if not room or (connection.in_flight and room < min(_VOLLEY_ROWS_MIN, connection.streams_allowed // 4)):
                return
            now_ns = self._clock.monotonic_ns()
            room = self._pacer.allowance(now_ns, room) if job.may_send(now_ns) else 0
            chunk = self._rows(job) if room else None
            if chunk is None:
                return
            rows = chunk.rows[self._position : self._position + room]
            count, size = connection.volley(
                job.requests, chunk.shard.columns, rows, chunk.shard.base, self._out, now_ns // 1_000
            )
            if not count:
                return
            self._position += count
            self._sent += count
            self._volleys += 1
            self._pacer.sent(count)
            link.active_ns = now_ns
            link.channel.send(self._out_view[:size])
            if self._first_request_ns is None:
                self._first_request_ns = self._clock.monotonic_ns()

    def _rows(self, job: Job) -> Chunk | None:
        """The chunk to send from: what is left of the last one, retries that are due, or a fresh one."""
        while self._chunk is None or self._position >= self._chunk.rows.size or self._chunk.shard.gone:
            self._position = 0
            if self._again:
                self._chunk = self._again.popleft()
                continue
            self.starving = True  # before the look: who adds a chunk after it finds us starving, and wakes us
            self._chunk = job.chunks.take()
            if self._chunk is None:
                return None
            self.starving = False
        return self._chunk

    def _left(self) -> bool:
        """Whether this lane has rows of its own to send, now or later."""
        in_hand = self._chunk is not None and self._position < self._chunk.rows.size
        return in_hand or bool(self._retries or self._again)

    def _note_replies(self, link: Link) -> None:
        """Takes over what a connection could not settle by itself."""
        connection = link.connection
        job = self._job
        if job is None:
            connection.replies.clear()
            connection.returned.clear()
            link.accepted_noted = connection.accepted
            return
        replied = connection.accepted - link.accepted_noted + len(connection.replies)
        link.accepted_noted = connection.accepted
        now_ns = self._clock.monotonic_ns()
        if replied:
            link.proven = True
            self._last_reply_ns = now_ns
            self._pacer.replied(replied)
        if connection.replies:
            for reply in connection.replies:
                self._judge(job, reply, now_ns, (link.read_ns // 1_000 - reply.waited_us) * 1_000)
            connection.replies.clear()
        if connection.returned:
            for row, reason in connection.returned:
                self._resolve(job, row, reason, now_ns, None)
            connection.returned.clear()

    def _judge(self, job: Job, reply: Reply, now_ns: int, sent_ns: int) -> None:
        wait_s = None
        if reply.status in (429, 503):
            wait_s = retry_after_s(reply.headers, self._clock.time())
            self._pacer.replied(0, 1, wait_s)
        self.histogram[bucket_of(reply.waited_us)] += 1
        reason = meaning(job.provider, reply.status, reply.body)
        if reason in BAD_TOKENS[job.provider]:
            self._bad_tokens += 1
        refreshed = ACTIONS.get(reason) is Action.REFRESH and job.refused(sent_ns)
        if refreshed:
            job.renew()  # now rather than at the next tick: each request until then would be refused
        self._resolve(job, reply.row, reason, now_ns, wait_s, refreshed=refreshed)

    def _resolve(
        self, job: Job, row: int, reason: Reason, now_ns: int, wait_s: float | None, *, refreshed: bool = False
    ) -> None:
        """Settles a row or puts it among the retries, as the policy says."""
        decision = decide(
            reason, job.terms.policy, int(job.rows.attempts[row]),
            retry_after_s=wait_s, refreshed=refreshed, jitter=self._random.random(),
        )  # fmt: skip
        if decision.stop:
            self._stops += 1
            job.stop(reason)
        if decision.doubtful:
            job.doubted.add(row)
        if decision.outcome is None:
            # Until it is sent again the journal shows what a crash would leave behind.
            self._settle(job, row, Outcome.UNKNOWN if row in job.doubted else Outcome.UNSENT, reason, None)
            shard = job.shard_of(row)
            if not shard.gone:
                heapq.heappush(self._retries, (now_ns + int(decision.delay_s * 1e9), row, shard))
            return
        answered = reason in _ANSWERED
        outcome = decision.outcome
        if outcome is Outcome.FAILED and row in job.doubted:
            outcome = Outcome.UNKNOWN  # this try was surely not taken, but an earlier one may have been
        self._settle(
            job, row, outcome, reason,
            min((now_ns - job.origin_ns) // 1_000_000, 0xFFFFFFFE) if answered else None,
        )  # fmt: skip
        if outcome is Outcome.REJECTED:
            self._rejected += 1
        elif outcome is Outcome.FAILED:
            self._failed += 1
        elif outcome is Outcome.UNKNOWN:
            self._unknown += 1
        else:
            self._accepted_slowly += 1

    def _settle(self, job: Job, row: int, outcome: Outcome, reason: Reason, reply_ms: int | None) -> None:
        job.rows.reason[row] = reason.code
        if reply_ms is not None:
            job.rows.reply_ms[row] = reply_ms
        job.rows.outcome[row] = outcome

    # --- time --------------------------------------------------------------------------------------------

    def _tick(self, now_ns: int) -> None:
        sweep = now_ns >= self._next_sweep_ns
        self._links.open_missing(now_ns)
        if sweep:
            self._next_sweep_ns = now_ns + _SWEEP_NS
            self._links.keep_alive(now_ns)
        job = self._job
        if job is None:
            return
        if job.credential.authorization() != job.authorization:
            job.renew()
        self._take_pace(job, now_ns)
        self._pacer.tick(now_ns)
        if sweep:
            self._give_up_silent(job, now_ns)
        if self._drops_seen != job.drops:
            self._forget_dropped(job)
        if self._drain_until_ns is None:
            self._start_draining(job, now_ns)
        self._release_retries(job, now_ns)
        self._fill_all()

    def _forget_dropped(self, job: Job) -> None:
        """Lets go of what is in hand of shards that were taken away."""
        self._drops_seen = job.drops
        if self._chunk is not None and self._chunk.shard.gone:
            self._chunk = None
        self._again = deque(chunk for chunk in self._again if not chunk.shard.gone)
        self._retries = [retry for retry in self._retries if not retry[2].gone]
        heapq.heapify(self._retries)

    def _start_draining(self, job: Job, now_ns: int) -> None:
        """The window has closed, or sending was halted: nothing new leaves; replies are waited for."""
        if job.halted:
            self._overshoot = self._links.in_flight
            patience_ns = int(job.terms.reply_deadline_s * 1e9)
            self._drain_until_ns = now_ns + min(patience_ns, _ABORT_DRAIN_NS if job.aborted.is_set() else patience_ns)
        elif now_ns >= job.window_ends_ns:
            job.chunks.clear()
            self._drain_until_ns = now_ns + int(job.terms.reply_deadline_s * 1e9)
        else:
            return
        self._chunk = None
        self._again.clear()

    def _give_up_silent(self, job: Job, now_ns: int) -> None:
        deadline_us = int(job.terms.reply_deadline_s * 1e6)
        for link in self._links:
            if link.connection.expire(now_ns // 1_000, deadline_us):
                self._note_replies(link)
                if link.connection.phase is Phase.CLOSED:
                    self._links.drop(link, None)

    def _release_retries(self, job: Job, now_ns: int) -> None:
        """Rows whose back-off is over go out again, grouped by shard; while nothing may leave, they wait."""
        if self._drain_until_ns is not None:
            self._retries.clear()  # the journal shows them as unsent, or unknown where that is the truth
            return
        due: dict[int, tuple[ShardRows, list[int]]] = {}
        while self._retries and self._retries[0][0] <= now_ns and job.may_send(now_ns):
            _, row, shard = heapq.heappop(self._retries)
            due.setdefault(shard.base, (shard, []))[1].append(row - shard.base)
        for shard, rows in due.values():
            self._again.append(Chunk(shard, np.array(rows, np.int32)))

    def _rest_if_done(self, job: Job, now_ns: int) -> None:
        """Ends the lane's part of a job, or notes that it has nothing to do for now."""
        if self._drain_until_ns is None:
            handed = job.chunks.handed
            if self._left() or self._links.in_flight:
                return
            if not (job.chunks.closed and job.chunks.empty):
                if self.quiet_at != handed:
                    self.quiet_at = handed
                    job.on_rest()
                return
        elif self._links.in_flight:
            if now_ns < self._drain_until_ns:
                return
            for link in self._links:
                if link.connection.in_flight:
                    self._links.drop(link, None)
        self._job = None
        self._links.sending = self.starving = False
        self.finished.set()
        job.on_rest()


_ANSWERED: Final = frozenset(
    reason for reason in Reason
    if reason not in {
        Reason.REFUSED_STREAM, Reason.GOING_AWAY, Reason.STREAM_RESET, Reason.CONNECTION_LOST, Reason.SILENCE,
        Reason.PROCESS_DIED, Reason.WINDOW_CLOSED, Reason.ABORTED, Reason.STOPPED, Reason.WORKER_LOST,
    }
)  # fmt: skip
"""Reasons that came with a reply, so that there is a time of reply."""
