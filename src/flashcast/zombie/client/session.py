"""A client without its loop: the core, the queue and the file, safe to use from several threads.

The two shells (`sync.py`, `aio.py`) do nothing but carry requests and wait:

    while open:
        step = session.next()              # decides, and persists what it decided
        if step.request is None: wait step.idle_s, or until woken
        else: session.done(step, transport(step.request) or None)

Calls that touch the disk are marked; an event loop hands them to a thread. Two locks, so that a decision never waits
for a disk; the queue's is taken before the core's.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

from flashcast.clock import Clock, SystemClock
from flashcast.errors import EnvironmentFault, FlashcastError, InputError
from flashcast.zombie.bounds import WRITE_BYTES_MAX
from flashcast.zombie.buckets import bucket
from flashcast.zombie.client.core import Action, Core, Decision, News, Standing, Why
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.client.options import Options, QueueFullError, Result, Statistics, Written
from flashcast.zombie.client.store import Store
from flashcast.zombie.client.writes import Fate, Queue, Write, fate_of
from flashcast.zombie.keys import trusted

_LOG: Final = logging.getLogger("flashcast.zombie")
IDLE_S_MAX: Final = 60.0
"""Also with nothing to do it looks up once a minute: clocks are set, machines sleep."""
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_WRITE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_RESULTS: Final = {Fate.APPLIED: Result.APPLIED, Fate.AGAIN: Result.QUEUED, Fate.REFUSED: Result.REFUSED}


class Step(NamedTuple):
    """What to do next: carry ``request`` (of a poll, or of the write ``write_id``), or wait ``idle_s`` seconds."""

    request: HttpRequest | None = None
    write_id: str = ""
    idle_s: float = 0.0


class Begun(NamedTuple):
    """A write that was begun. It is to be sent now unless ``written`` says that it waits.

    ``fault`` is why it could not be kept, where it could not.
    """

    write: Write
    written: Written | None = None
    fault: FlashcastError | None = None

    @property
    def step(self) -> Step:
        """Sending it."""
        return Step(self.write.request(replayed=False), self.write.id)


class Session:
    """See the module's docstring. ``random`` gives numbers from 0 up to, not including, 1; ``new_id`` fresh ids."""

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock | None = None,
        random: Callable[[], float] = random.random,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.options = options
        self._clock = clock or SystemClock()
        self._new_id = new_id
        believed = trusted(options.trusted)
        self._user = _with_a_bucket(options.user)
        self._store = Store(options.path)
        self._queue = Queue(random, self._store.writes(), user=options.user)
        self._queue_lock = threading.RLock()
        self._core_lock = threading.Lock()
        self._core = Core(
            app=options.app,
            url=options.url,
            trusted=believed,
            cohort=options.cohort,
            random=random,
            now=self._clock.time(),
        )
        file, etag = self._store.document()
        if file and not self._core.restore(file, etag):
            _LOG.warning("the document that was kept is not believed any more; waiting for another")
        self._polls = self._dropped = self._disk_faults = 0
        self._news: dict[str, int] = {}
        self._refusals: dict[str, int] = {}
        self._fates: dict[str, int] = {}
        if self._store.put_aside is not None:
            self._disk_faults += 1
            _LOG.error("the client's file was damaged and has been put aside as %s", self._store.put_aside)

    def __repr__(self) -> str:
        return f"<Session {self.options.app} {self._core!r} {self._queue!r}>"

    def close(self) -> None:
        """Closes the file. Disk."""
        with self._queue_lock:
            self._store.close()

    def statistics(self) -> Statistics:
        """Counts since the client was made, and how many writes wait."""
        with self._queue_lock, self._core_lock:
            last = self._core.last
            return Statistics(
                last.version if last else 0, self._polls, dict(self._news), dict(self._refusals), len(self._queue),
                self._queue.bytes, dict(self._fates), self._dropped, self._disk_faults,
            )  # fmt: skip

    # --- Deciding -------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """Whose bucket decides."""
        return self._user

    def log_in(self, user: str, *, take_writes: bool = False) -> None:
        """Another user. Writes of the one before wait until they are back, or, with ``take_writes``, are this user's
        from now on: right for an installation's id before the first login, and for nothing else. Disk.

        Raises InputError, and changes nothing, where ``user`` is no Unicode text.
        """
        _with_a_bucket(user)
        with self._queue_lock:
            before, self._user, self._queue.user = self._user, user, user
            if take_writes and (taken := self._queue.take_over(before)):
                self._store.change(put=taken)

    def standing(self) -> Standing:
        """How things stand for the user now."""
        with self._core_lock:
            return self._core.standing(self._user, self._clock.time())

    def decide(self, feature: str, *, write: bool = False) -> Decision:
        """What to do with a call of ``feature`` now."""
        with self._core_lock:
            return self._core.decide(self._user, feature, self._clock.time(), write=write)

    def heard(self, feature: str, response: HttpResponse) -> Decision | None:
        """Tells how a server answered a call. Returns what that decides for the next ones, None if nothing."""
        now = self._clock.time()
        with self._core_lock:
            self._core.heard(feature, response.status, response.headers, now)
            decision = self._core.decide(self._user, feature, now)
        return decision if decision.why is Why.HELD else None

    # --- The loop -------------------------------------------------------------------------------

    def poll_soon(self) -> None:
        """Makes the next poll due, at most one in 5 s. Whoever calls wakes the loop."""
        with self._core_lock:
            self._core.poll_soon(self._clock.time())

    def next(self) -> Step:
        """What to do next. Disk."""
        now = self._clock.time()
        with self._core_lock:
            if self._core.is_due(now):
                self._polls += 1
                return Step(self._core.request(now))
        with self._queue_lock:
            self._plan(now)
            write = self._queue.take(now)
            if write is not None:
                return Step(write.request(), write.id)
            at = [self._queue.next_at(now)]
            waits = len(self._queue) > 0
        with self._core_lock:
            at += [self._core.next_poll_at, self._core.changes_at(now) if waits else None]
        soonest = min(time for time in at if time is not None)
        return Step(idle_s=min(max(soonest - now, 0.0), IDLE_S_MAX))

    def done(self, step: Step, response: HttpResponse | None) -> tuple[Fate, Write] | None:
        """Takes the answer to a step's request, None where there was none. Disk.

        Returns what became of the write, None for a poll and for a write that was forgotten meanwhile.
        """
        if step.write_id:
            return self._attempted(step.write_id, response)
        self._polled(response)
        return None

    def release(self, step: Step) -> None:
        """Gives a step back undone: whoever carried it was stopped, and nobody knows what became of it."""
        with self._queue_lock:
            self._queue.release(step.write_id)

    def _polled(self, response: HttpResponse | None) -> None:
        now = self._clock.time()
        with self._core_lock:
            polled = self._core.answered(response, now) if response is not None else self._core.failed(now)
            saved, standing = self._core.saved, self._core.standing(self._user, now)
            self._news[polled.news] = self._news.get(polled.news, 0) + 1
            if polled.refusal is not None:
                self._refusals[polled.refusal] = self._refusals.get(polled.refusal, 0) + 1
        if polled.news is News.REFUSED:
            _LOG.warning("a document was refused: %s", polled.refusal)
        if polled.save:
            with self._queue_lock, self._disk():
                self._store.keep_document(*saved)
        self._tell(self.options.on_news, polled, standing)

    def _attempted(self, write_id: str, response: HttpResponse | None) -> tuple[Fate, Write] | None:
        with self._queue_lock:
            judged = self._queue.answered(write_id, response, self._clock.time())
            if judged is None:
                return None
            fate, write = judged
            self._fates[fate] = self._fates.get(fate, 0) + 1
            with self._disk():
                # If this fails after the server took it, it is sent again with its key: applied once all the same.
                if fate is Fate.APPLIED:
                    self._store.change(gone=(write_id,))
                else:
                    self._store.change(put=(write,))
        self._tell(self.options.on_write, write, fate)
        return judged

    def _plan(self, now: float) -> None:
        changed = self._queue.plan(self._must_wait, self._drain_s(), now)
        if changed:
            with self._disk():
                self._store.change(put=changed)

    def _must_wait(self, feature: str) -> bool:
        decision = self.decide(feature, write=True)
        return decision.action is Action.QUEUE and decision.why is Why.OFF

    def _drain_s(self) -> float:
        with self._core_lock:
            return float(self._core.drain_s)

    # --- Writes ---------------------------------------------------------------------------------

    def begin_write(self, feature: str, request: HttpRequest, *, lane: str = "", write_id: str = "") -> Begun:
        """Keeps a write and says whether to send it now. Disk.

        It is on disk before it is sent, so that it is sent again with the same key if the process ends meanwhile.
        Where it cannot be kept and may be sent, it is sent all the same.

        Raises InputError for a write that is too large or carries secrets, QueueFullError where it must wait and there
        is no room, EnvironmentFault where it must wait and the disk fails. Then the write was not taken.
        """
        now = self._clock.time()
        write = self._new_write(feature, request, lane, write_id, now)
        with self._queue_lock:
            if (known := self._queue.get(write.id)) is not None:
                return Begun(write, Written(Result.REFUSED if known.refused else Result.QUEUED, write.id))
            decision = self.decide(feature, write=True)
            off = decision.why is Why.OFF and decision.action is Action.QUEUE
            waits = decision.action is Action.QUEUE or self._queue.is_waiting_in(lane)
            write = replace(
                write, due_at=None if off else now + decision.wait_s, incident=self._incident() if off else ""
            )
            try:
                dropped = self._keep(write)
            except (QueueFullError, EnvironmentFault) as fault:
                if waits:
                    raise
                return Begun(write, fault=fault)
            if not waits and not self._queue.take_this(write.id):
                # Another user has logged in meanwhile: it would go with their credentials.
                waits = True
        for one in dropped:
            self._tell(self.options.on_write, one, None)
        return Begun(write, Written(Result.QUEUED, write.id) if waits else None)

    def end_write(self, begun: Begun, response: HttpResponse | None) -> Written:
        """Takes the answer to a write that was sent at once, None where there was none. Disk.

        Raises what kept the write from being kept, where it should now wait.
        """
        write = begun.write
        if response is not None:
            self.heard(write.feature, response)
        if begun.fault is None:
            judged = self._attempted(write.id, response)
            fate = judged[0] if judged else Fate.AGAIN
            if fate is Fate.REFUSED:
                with self._disk():
                    self.forget(write.id)
        else:
            fate = fate_of(response)
            if fate is Fate.AGAIN:
                raise begun.fault
        return Written(_RESULTS[fate], write.id, response)

    def pending(self) -> list[Write]:
        """The writes that are kept, the oldest first: those that wait and those that were refused for good."""
        with self._queue_lock:
            return self._queue.writes

    def forget(self, write_id: str) -> None:
        """Takes a write out of the queue: it will not be sent (again). Disk."""
        with self._queue_lock:
            self._queue.remove(write_id)
            self._store.change(gone=(write_id,))

    def again(self, write_id: str) -> bool:
        """Lets a write that was refused be tried again. Returns whether there is such a one. Disk."""
        with self._queue_lock:
            write = self._queue.again(write_id, self._clock.time())
            if write is not None:
                self._store.change(put=(write,))
        return write is not None

    def _new_write(self, feature: str, request: HttpRequest, lane: str, write_id: str, now: float) -> Write:
        if secret := sorted(name for name in request.headers if name.lower() in _SECRET):
            raise InputError(
                f"a write with the header {secret[0]} would lie on disk with it",
                remedy="Add it in Options.prepare, which is asked each time the write is sent.",
            )
        chosen = write_id or self._new_id()
        if not _WRITE_ID.fullmatch(chosen):
            raise InputError("write_id: 1 to 128 letters, digits and . _ : -")
        if fault := request.fault:
            raise InputError(fault)
        write = Write(
            chosen, feature, request.method, request.url, dict(request.headers), request.body, lane, self._user, now
        )
        try:
            size_bytes = write.size_bytes
        except UnicodeEncodeError:
            raise InputError("the feature or the lane of a write is no Unicode text: it has a lone surrogate") from None
        if size_bytes > WRITE_BYTES_MAX:
            raise InputError(f"a write of {size_bytes} bytes is too large for the queue: {WRITE_BYTES_MAX} at most")
        return write

    def _keep(self, write: Write) -> list[Write]:
        """Makes room for a write, persists it, and returns what was dropped."""
        dropped = self._room_for(write)
        self._store.change(put=(write,), gone=[one.id for one in dropped])
        for one in dropped:
            self._queue.remove(one.id)
        self._queue.add(write)
        self._dropped += len(dropped)
        return dropped

    def _room_for(self, write: Write) -> list[Write]:
        kept, policy = self._queue.droppable(), self.options.on_full
        over_writes = len(self._queue) + 1 - self.options.queue_writes_max
        over_bytes = self._queue.bytes + write.size_bytes - self.options.queue_bytes_max
        if over_writes <= 0 and over_bytes <= 0:
            return []
        if policy == "drop-oldest":
            dropped: list[Write] = []
            for one in kept:
                if len(dropped) >= over_writes and sum(each.size_bytes for each in dropped) >= over_bytes:
                    break
                dropped.append(one)
        elif callable(policy):
            chosen = set(policy(write, kept))
            dropped = [one for one in kept if one.id in chosen]
        else:
            dropped = []
        if len(dropped) < over_writes or sum(each.size_bytes for each in dropped) < over_bytes:
            raise QueueFullError(
                f"the write queue is full: {len(self._queue)} writes of {self._queue.bytes} bytes",
                remedy="Options.on_full says what to drop; queue_writes_max and queue_bytes_max are the bounds.",
            )
        return dropped

    def _incident(self) -> str:
        with self._core_lock:
            return self._core.last.incident if self._core.last else ""

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """A disk that fails costs what it should have kept, not the app's work: memory goes on."""
        try:
            yield
        except EnvironmentFault as error:
            self._disk_faults += 1
            _LOG.error("%s", error.message)

    def _tell(self, callback: Callable[..., None] | None, *told: Any) -> None:
        if callback is None:
            return
        try:
            callback(*told)
        except Exception:  # noqa: BLE001 - it is the app's
            # Whoever looks on does not steer: the loop goes on, and the fault is in the log.
            _LOG.exception("a callback of the app failed")


def _with_a_bucket(user: str) -> str:
    """This user. Raises InputError for what is no Unicode: now, and not in the herd, at the first document."""
    bucket("", user)
    return user
