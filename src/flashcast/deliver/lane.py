"""A lane: one thread that keeps many connections to one provider warm and, at GO, sends.

    arm: open connections, keep them alive      start: a job      run: read replies, write volleys, retry, pace
    finish: nothing left to send, nothing in flight, or the drain's deadline       close: say good-bye

The thread runs one selector loop. Everything slow happens outside the GIL (kernels, TLS) or once per batch.
Shutdown order: stop taking chunks, drain replies, settle what is left, close the connections.
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
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast.clock import Clock
from flashcast.deliver.claims import Chunk, ShardRows
from flashcast.deliver.job import Job
from flashcast.deliver.link import Link, Reopening
from flashcast.deliver.pacing import Pacer
from flashcast.deliver.retry import decide
from flashcast.errors import EnvironmentFault, FlashcastError, ProtocolError
from flashcast.latency import BUCKETS, bucket_of
from flashcast.limits import (
    FRAME_BYTES_MAX,
    HANDSHAKE_DEADLINE_S,
    HANDSHAKES_AT_ONCE_MAX,
    PING_INTERVAL_S,
    RECEIVE_BUFFER_BYTES,
    VOLLEY_BYTES_MAX,
)
from flashcast.outcomes import ACTIONS, Action, Outcome, Reason
from flashcast.providers.meaning import meaning, retry_after_s
from flashcast.transport.tls import Address, Stage
from flashcast.wire.connection import Book, Phase
from flashcast.wire.replies import Reply

_TICK_NS: Final = 20_000_000
_IDLE_TICK_NS: Final = 200_000_000
_SWEEP_NS: Final = 250_000_000
_VOLLEY_ROWS_MIN: Final = 256
"""A busy connection waits until this many streams are free (or a quarter of them): small volleys cost more each."""
_ABORT_DRAIN_NS: Final = 2_000_000_000

_EMPTY_U8: Final = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class LaneStatistics:
    """A lane at one moment. Bytes are those of the connections it has now, before encryption."""

    connections: int
    ready: int
    in_flight: int
    accepted: int
    rejected: int
    failed: int
    unknown: int
    sent: int
    volleys: int
    first_request_ns: int | None
    last_reply_ns: int | None
    round_trip_us: int | None
    streams: int
    overshoot: int
    bytes_sent: int
    bytes_received: int


class Lane:
    """See the module's docstring. Methods other than `run` may be called from any thread."""

    def __init__(
        self, address: Address, context: ssl.SSLContext, connections: int, clock: Clock, name: str,
        *, handshake_deadline_s: float = HANDSHAKE_DEADLINE_S,
    ) -> None:  # fmt: skip
        self.name = name
        self.fault: FlashcastError | None = None
        self.finished = threading.Event()
        self.crashed = False
        self._address = address
        self._context = context
        self._wanted = connections
        self._clock = clock
        self._handshake_deadline_ns = int(handshake_deadline_s * 1e9)
        self._links: list[Link] = []
        self._ready_count = 0
        self._reopening = Reopening()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._orders: deque[Callable[[], None]] = deque()
        self._closing = False
        self._raw = bytearray(RECEIVE_BUFFER_BYTES)
        self._buffer = np.empty(RECEIVE_BUFFER_BYTES + FRAME_BYTES_MAX + 9, np.uint8)
        self._view = memoryview(self._buffer)  # type: ignore[arg-type]
        self._out = np.empty(VOLLEY_BYTES_MAX, np.uint8)
        self._out_view = memoryview(self._out)  # type: ignore[arg-type]
        self._random = random.Random(name)
        self.histogram: NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        self._book = Book(_EMPTY_U8, np.zeros(0, np.uint32), _EMPTY_U8, self.histogram)
        self._job: Job | None = None
        self._idle_job()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        return f"<Lane {self.name} {self._address}, {self._ready_count} of {self._wanted} connections ready>"

    # --- orders from other threads ---------------------------------------------------------------------

    def open(self) -> None:
        """Starts the thread: connections begin to open."""
        self._thread.start()

    def start(self, job: Job) -> None:
        """GO: sends the job's rows. `finished` is set when every row this lane took is settled or given back."""
        self.finished.clear()
        self._order(lambda: self._begin(job))
        if self.crashed:
            self.finished.set()  # nobody is left to take the order

    def wake(self) -> None:
        """Makes the lane look at its job at once: it was aborted or stopped."""
        self._order(lambda: None)

    def close(self) -> None:
        """Ends the thread; what is still in flight is returned as lost."""
        self._order(self._set_closing)
        if self._thread.ident is not None:
            self._thread.join()
        for sock in (self._wake_read, self._wake_write):
            sock.close()
        self._selector.close()

    def statistics(self) -> LaneStatistics:
        """The lane's counters, read without stopping it."""
        links = list(self._links)
        return LaneStatistics(
            connections=len(links),
            ready=self._ready_count,
            in_flight=sum(link.connection.in_flight for link in links),
            accepted=self._accepted_gone + sum(link.connection.accepted for link in links) - self._accepted_before,
            rejected=self._rejected,
            failed=self._failed,
            unknown=self._unknown,
            sent=self._sent,
            volleys=self._volleys,
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
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"\0")

    def _set_closing(self) -> None:
        self._closing = True

    # --- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001 - a lane that dies must not leave its launch waiting
            self.fault = FlashcastError(f"lane {self.name} failed: {type(error).__name__}: {error}")
            self.fault.__cause__ = error
            self.crashed = True
            self.finished.set()

    def _loop(self) -> None:
        now_ns = self._clock.monotonic_ns()
        next_tick_ns = next_sweep_ns = now_ns
        while not self._closing:
            wait_ns = max(0, next_tick_ns - self._clock.monotonic_ns())
            for key, _ in self._selector.select(wait_ns / 1e9):
                if key.data is None:
                    self._take_orders()
                else:
                    self._serve(key.data)
            now_ns = self._clock.monotonic_ns()
            if now_ns >= next_tick_ns:
                self._tick(now_ns, sweep=now_ns >= next_sweep_ns)
                if now_ns >= next_sweep_ns:
                    next_sweep_ns = now_ns + _SWEEP_NS
                busy = self._job is not None or self._ready_count < self._wanted
                next_tick_ns = now_ns + (_TICK_NS if busy else _IDLE_TICK_NS)
            if self._job is not None:
                self._finish_if_done(now_ns)
        for link in list(self._links):
            self._drop(link, None)

    def _take_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4_096)
        while self._orders:
            self._orders.popleft()()

    def _serve(self, link: Link) -> None:
        """Something happened on a link: open further, read, answer, write."""
        try:
            if link.channel.stage is not Stage.OPEN:
                link.open_further()
            if link.channel.stage is Stage.OPEN:
                was_ready = link.ready
                link.channel.flush()
                origin_ns = self._job.origin_ns if self._job is not None else 0
                while link.read(self._buffer, self._view, self._clock.monotonic_ns, origin_ns):
                    self._note_replies(link)
                    if not link.channel.more:
                        break
                if link.ready != was_ready:
                    self._count_ready()
                    if link.ready:
                        self._reopening.succeeded()
                link.write_control()
                self._fill(link)
            self._watch(link)
        except (ConnectionError, ssl.SSLError) as error:
            self._drop(link, error)
        except FlashcastError as error:
            self._drop(link, error)
        else:
            if link.connection.phase is Phase.CLOSED:
                self._drop(link, None)

    def _watch(self, link: Link) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.channel.wants_write else 0)
        if wanted != link.watched_events:
            if link.watched_events:
                self._selector.modify(link.channel.socket, wanted, link)
            else:
                self._selector.register(link.channel.socket, wanted, link)
            link.watched_events = wanted

    def _count_ready(self) -> None:
        self._ready_count = sum(1 for link in self._links if link.ready)

    # --- connections -------------------------------------------------------------------------------------

    def _open_missing(self, now_ns: int) -> None:
        """Opens what is missing, so many handshakes at once; a draining connection does not count."""
        lasting = sum(1 for link in self._links if link.connection.phase in (Phase.OPENING, Phase.OPEN))
        opening = lasting - self._ready_count
        missing = min(self._wanted - lasting, HANDSHAKES_AT_ONCE_MAX - opening)
        if self._reopening.failures:
            missing = min(missing, 1)  # one at a time finds out whether the peer is back
        while missing > 0 and now_ns >= self._reopening.not_before_ns:
            missing -= 1
            try:
                link = Link(self._address, self._context, self._raw, self._book, now_ns)
            except FlashcastError as error:
                self._opening_failed(error, now_ns)
                return
            self._links.append(link)
            self._watch(link)

    def _opening_failed(self, error: FlashcastError, now_ns: int) -> None:
        self._reopening.failed(error, now_ns)
        if not error.retryable or self._job is None:
            self.fault = self.fault or error

    def _drop(self, link: Link, error: Exception | None) -> None:
        """Closes a link; its rows in flight go to the retry policy."""
        opened = link.connection.phase is not Phase.OPENING
        if opened and isinstance(error, ConnectionError):
            self._hear_out(link)
        link.close(error)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.channel.socket)
        if link not in self._links:
            return
        self._note_replies(link)
        self._links.remove(link)
        self._accepted_gone += link.connection.accepted
        self._count_ready()
        if not opened and error is not None:
            fault = error if isinstance(error, FlashcastError) else _lost_while_opening(self._address, error)
            self._opening_failed(fault, self._clock.monotonic_ns())
        elif not link.proven:
            # Without a pause a peer that hangs up at once would be dialled at every tick.
            fault = _lost_while_opening(self._address, "no request was answered")
            self._reopening.failed(fault, self._clock.monotonic_ns())

    def _hear_out(self, link: Link) -> None:
        """Writing fails as soon as the peer has left; what it said before, a GOAWAY perhaps, is still to be read."""
        origin_ns = self._job.origin_ns if self._job is not None else 0
        with contextlib.suppress(ConnectionError, ssl.SSLError, ProtocolError):
            while link.read(self._buffer, self._view, self._clock.monotonic_ns, origin_ns):
                self._note_replies(link)

    def _keep_alive(self, now_ns: int) -> None:
        for link in list(self._links):
            if link.connection.phase is Phase.OPENING and now_ns - link.opened_ns > self._handshake_deadline_ns:
                self._drop(link, ConnectionError("it took too long"))
                continue
            if link.channel.stage is not Stage.OPEN:
                continue
            quiet_ns = now_ns - link.active_ns
            try:
                if link.connection.ping_overdue(now_ns // 1_000, int(PING_INTERVAL_S * 5e5)):
                    raise ConnectionError("no answer to PING")
                if quiet_ns > PING_INTERVAL_S * 1e9 or (link.ready and not link.connection.pinged):
                    link.active_ns = now_ns
                    link.connection.ping(now_ns // 1_000)
                link.write_control()
                self._watch(link)
            except (ConnectionError, ssl.SSLError) as error:
                self._drop(link, error)

    # --- a job -------------------------------------------------------------------------------------------

    def _idle_job(self) -> None:
        self._chunk: Chunk | None = None
        self._position = 0
        self._retries: list[tuple[int, int]] = []
        self._again: deque[Chunk] = deque()
        self._pacer = Pacer(None, self._clock.monotonic_ns())
        self._accepted_gone = 0
        self._accepted_before = sum(link.connection.accepted for link in self._links)
        self._rejected = self._failed = self._unknown = self._sent = self._volleys = 0
        self._first_request_ns: int | None = None
        self._last_reply_ns: int | None = None
        self._overshoot = 0
        self._drain_until_ns: int | None = None

    def _begin(self, job: Job) -> None:
        self._idle_job()
        self._job = job
        self.histogram[:] = 0
        rows = job.rows
        self._book = Book(rows.outcome, rows.reply_ms, rows.attempts, self.histogram)
        for link in self._links:
            link.connection.book = self._book
        pace = job.terms.pace_per_s
        self._pacer = Pacer(pace / job.lanes if pace is not None else None, self._clock.monotonic_ns())
        self._fill_all()

    def _fill_all(self) -> None:
        for link in list(self._links):
            try:
                link.write_control()  # resets first: until it has them, the peer counts those streams as open
                self._fill(link)
                self._watch(link)
            except (ConnectionError, ssl.SSLError, ProtocolError) as error:
                self._drop(link, error)

    def _fill(self, link: Link) -> None:
        """Writes volleys to a link until its streams, its windows, the socket or the rows are used up."""
        job = self._job
        connection = link.connection
        while job is not None and not link.channel.wants_write and self._may_send(job):
            room = connection.room()
            if not room or (connection.in_flight and room < min(_VOLLEY_ROWS_MIN, connection.streams_allowed // 4)):
                return
            now_ns = self._clock.monotonic_ns()
            room = self._pacer.allowance(now_ns, room)
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

    def _may_send(self, job: Job) -> bool:
        return not job.halted and self._drain_until_ns is None

    def _rows(self, job: Job) -> Chunk | None:
        """The chunk to send from: what is left of the last one, retries that are due, or a fresh claim."""
        if self._chunk is None or self._position >= self._chunk.rows.size:
            self._position = 0
            self._chunk = self._again.popleft() if self._again else job.chunks.take()
        return self._chunk

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
            job.stop(reason)
        if decision.outcome is None:
            # Until it is sent again the journal shows what a crash would leave behind.
            self._settle(job, row, Outcome.UNKNOWN if decision.doubtful else Outcome.UNSENT, reason, None)
            due_ns = now_ns + int(decision.delay_s * 1e9)
            heapq.heappush(self._retries, (due_ns, row))
            return
        answered = reason in _ANSWERED
        self._settle(
            job,
            row,
            decision.outcome,
            reason,
            min((now_ns - job.origin_ns) // 1_000_000, 0xFFFFFFFE) if answered else None,
        )
        if decision.outcome is Outcome.REJECTED:
            self._rejected += 1
        elif decision.outcome is Outcome.FAILED:
            self._failed += 1
        elif decision.outcome is Outcome.UNKNOWN:
            self._unknown += 1
        else:
            self._accepted_gone += 1

    def _settle(self, job: Job, row: int, outcome: Outcome, reason: Reason, reply_ms: int | None) -> None:
        job.rows.reason[row] = reason.code
        if reply_ms is not None:
            job.rows.reply_ms[row] = reply_ms
        job.rows.outcome[row] = outcome

    # --- time --------------------------------------------------------------------------------------------

    def _tick(self, now_ns: int, *, sweep: bool) -> None:
        self._open_missing(now_ns)
        if sweep:
            self._keep_alive(now_ns)
        job = self._job
        if job is None:
            return
        if job.credential.authorization() != job.authorization:
            job.renew()
        self._pacer.tick(now_ns)
        if sweep:
            self._give_up_silent(job, now_ns)
        if self._drain_until_ns is None:
            self._start_draining(job, now_ns)
        self._release_retries(job, now_ns)
        self._fill_all()

    def _start_draining(self, job: Job, now_ns: int) -> None:
        """The window has closed, or sending was halted: nothing new leaves; replies are waited for."""
        if job.halted:
            self._overshoot = sum(link.connection.in_flight for link in self._links)
            patience_ns = int(job.terms.reply_deadline_s * 1e9)
            self._drain_until_ns = now_ns + min(patience_ns, _ABORT_DRAIN_NS if job.aborted.is_set() else patience_ns)
        elif now_ns >= job.window_ends_ns():
            job.chunks.clear()
            self._drain_until_ns = now_ns + int(job.terms.reply_deadline_s * 1e9)
        else:
            return
        self._chunk = None
        self._again.clear()

    def _give_up_silent(self, job: Job, now_ns: int) -> None:
        deadline_us = int(job.terms.reply_deadline_s * 1e6)
        for link in list(self._links):
            if link.connection.expire(now_ns // 1_000, deadline_us):
                self._note_replies(link)
                if link.connection.phase is Phase.CLOSED:
                    self._drop(link, None)

    def _release_retries(self, job: Job, now_ns: int) -> None:
        """Rows whose back-off is over go out again, grouped by shard."""
        if self._drain_until_ns is not None:
            self._retries.clear()  # the journal shows them as unsent, or unknown where that is the truth
            return
        due: dict[int, tuple[ShardRows, list[int]]] = {}
        while self._retries and self._retries[0][0] <= now_ns:
            row = heapq.heappop(self._retries)[1]
            shard = job.shard_of(row)
            due.setdefault(shard.base, (shard, []))[1].append(row - shard.base)
        for shard, rows in due.values():
            self._again.append(Chunk(shard, np.array(rows, np.int32)))

    def _finish_if_done(self, now_ns: int) -> None:
        job = self._job
        assert job is not None
        left = bool(self._retries or self._again)
        if self._drain_until_ns is None and (left or self._rows(job) is not None):
            return
        if any(link.connection.in_flight for link in self._links):
            if self._drain_until_ns is None or now_ns < self._drain_until_ns:
                return
            for link in [link for link in self._links if link.connection.in_flight]:
                self._drop(link, None)
        self._job = None
        self.finished.set()


_ANSWERED: Final = frozenset(
    reason for reason in Reason
    if reason not in {
        Reason.REFUSED_STREAM, Reason.GOING_AWAY, Reason.STREAM_RESET, Reason.CONNECTION_LOST, Reason.SILENCE,
        Reason.PROCESS_DIED, Reason.WINDOW_CLOSED, Reason.ABORTED, Reason.STOPPED,
    }
)  # fmt: skip
"""Reasons that came with a reply, so that there is a time of reply."""


def _lost_while_opening(address: Address, error: Exception | str) -> FlashcastError:
    return EnvironmentFault(
        f"{address} closed the connection while it was opening: {error}",
        remedy="Check the endpoint, and the client certificate if there is one.",
        retryable=True,
    )
