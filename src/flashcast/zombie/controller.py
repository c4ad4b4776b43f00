"""The controller: signals -> level -> document, around the decisions of `levels.py`.

Each tick asks the sources that are due, decides from what is known, and publishes where the document that is published
is not the one that should be. Nothing blocks a tick: questions, looks and publications run beside it, one look or
publication at a time.

**What is published is the truth.** Anybody with the bucket's credentials and a key may publish, from any laptop, and
the controller learns of it there and nowhere else: by a look every `look_s`, and by publishing only over the version
that it knows (`expect`), so that a decision of somebody else's is never overwritten unseen.

    published by a person, until a time      held: nothing is published until then, though signals are read on
    published for a launch, until a time     a floor: raised above, not lowered
    published without a time                 followed: it goes on from there by the rules
    published by a second controller         the same; where the two keep contradicting each other, this one stops

Where publishing fails, the controller goes on watching and tries again; where the trace or its memory cannot be
written, it says so and goes on: neither is a reason to leave apps without protection.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from flashcast.clock import Clock, SystemClock
from flashcast.errors import BusyError, EnvironmentFault, FlashcastError
from flashcast.zombie.document import Document, Level, Manual, Terms, new_salt
from flashcast.zombie.judging import Reading
from flashcast.zombie.levels import Decision, Order, State, Why, decide
from flashcast.zombie.memory import Memory, MemoryFile
from flashcast.zombie.post import Post, Seen
from flashcast.zombie.publish import OvertakenError
from flashcast.zombie.rules import Rules
from flashcast.zombie.shield import is_launch
from flashcast.zombie.signals import Signals
from flashcast.zombie.threads import in_thread
from flashcast.zombie.trace import TraceWriter

RETRY_S_FIRST: Final = 1.0
RETRY_S_MAX: Final = 30.0
"""A bucket that is back is written to within half a minute."""
CONFLICTS_MAX: Final = 6
CONFLICTS_S: Final = 3_600.0
"""Contradictions of what this controller itself has published. A person who steps in does so once or twice an hour."""
SAVE_S: Final = 30.0
"""What is lost of the rules' clocks by a crash: at worst, something must be clear for half a minute longer."""
CLOSE_S_MAX: Final = 20.0
"""A publication that was begun is waited for: object storage gives up after 15 s."""


class EventKind(StrEnum):
    """What a controller tells."""

    CHANGED = "changed"
    """Another level, step or hold."""
    WAITING = "waiting"
    """It holds for another reason than before."""
    PUBLISHED = "published"
    FAULT = "fault"
    """Something failed; the controller goes on."""
    OVER = "over"
    """A fault is over."""


class Event(NamedTuple):
    """One thing to tell people. ``about`` names what has the fault; ``document`` is what was published."""

    at: float
    kind: EventKind
    text: str
    about: str = ""
    decision: Decision | None = None
    document: Document | None = None


class Controller:
    """One app's controller. Belongs to one event loop; see the module's docstring."""

    def __init__(
        self,
        rules: Rules,
        signals: Signals,
        post: Post,
        *,
        clock: Clock | None = None,
        memory: MemoryFile | None = None,
        trace: TraceWriter | None = None,
        dry_run: bool = False,
        salts: Callable[[], str] = new_salt,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.rules, self.signals = rules, signals
        self._table = rules.table
        self._post, self._memory, self._trace = post, memory, trace
        self._clock: Clock = clock or SystemClock()
        self._dry_run, self._salts, self._tell_outside = dry_run, salts, tell
        self.state = State.new(self._clock.time())
        self.document: Document | None = None
        """What is published, as far as is known."""
        self._salt, self._incident = "0", ""
        self._theirs: Terms | None = None
        self._expect = 0
        self._order: Order | None = None
        self._mine = False
        self._conflicts: deque[float] = deque(maxlen=CONFLICTS_MAX)
        self._io: asyncio.Task[None] | None = None
        # When something is due, by the monotonic clock: a clock that is set back must not silence a controller.
        self._look_at = self._publish_at = self._save_at = -math.inf
        self._failures, self._must_look = 0, False
        self._faults: dict[str, str] = {}
        self._last: Decision | None = None
        self._failed: BaseException | None = None
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        state = self.state
        return f"<Controller {self.rules.app} {state.level.value} buckets={state.buckets} version={self._expect}>"

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Watches until `end` is called. Raises what `start` raises, and BusyError for a second controller."""
        await self.start()
        try:
            while not self._ended.is_set():
                self.tick()
                await self._pause(sleep)
        finally:
            await self.close()

    def end(self) -> None:
        """Lets `run` return. The document stays in force until it expires."""
        self._ended.set()

    async def start(self) -> None:
        """Goes on from what was kept and what is published.

        Raises EnvironmentFault where that cannot be read: a controller that cannot publish protects nobody, and whoever
        starts it should hear so. Raises InputError where the rules no longer say what the level means that was kept.
        """
        kept = self._memory.load(self.rules.app) if self._memory else None
        if kept is not None:
            self.state, self._salt, self._incident = kept.state, kept.salt, kept.incident
            self._theirs, self._mine = kept.theirs, True
            if kept.state.origin is Level.SHIELDED and kept.theirs is None:
                self.rules.look(Level.SHIELDED)
        seen = await in_thread(lambda: self._post.look(whole=True))
        now, document = self._clock.time(), seen.document
        self._note(seen)
        if document is None:
            return
        if now >= document.expires_at:
            # Apps are on their own: to go on with what was would pull everybody out again for an incident that is over.
            if self.state.level is not Level.NORMAL:
                self._theirs, self._order = None, Order(level=Level.NORMAL, buckets=0, lapsed=True)
        elif kept is None or document.version != kept.version:
            self._follow(document)
            if document.level is Level.NORMAL and document.manual is None:
                self._theirs = None

    def tick(self) -> Decision:
        """One decision from what is known now. Returns at once; `settle` waits for what it has begun.

        Raises BusyError where a second controller contradicts this one, and what a bug raised beside it.
        """
        if self._failed is not None:
            raise self._failed
        now = self._clock.time()
        self.signals.start_due()
        readings = {name: one for name, one in self.signals.readings().items() if _is_finite(one)}
        order, self._order = self._order, None
        before = self.state
        decision = decide(self._table, before, readings, now, order)
        self.state = decision.state
        self._write_trace(before, now, readings, order, decision)
        self._tell_decision(before, decision)
        self._look_and_publish(before, decision, now)
        self._save(before)
        self._last = decision
        return decision

    async def settle(self) -> None:
        """Waits until no question, look or publication is open."""
        await self.signals.settle()
        if self._io is not None:
            await asyncio.wait([self._io])

    async def close(self) -> None:
        """Ends in order: a publication that was begun is waited for, then the memory is written."""
        await self.signals.close()
        if self._io is not None:
            await asyncio.wait([self._io], timeout=CLOSE_S_MAX)
        self._save_at = -math.inf
        self._save(self.state)

    async def _pause(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        async def pause() -> None:
            await sleep(self.rules.tick_s)

        waiting = [asyncio.ensure_future(pause()), asyncio.ensure_future(self._ended.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()

    # --- What is published ---------------------------------------------------------------------------

    def _look_and_publish(self, before: State, decision: Decision, now: float) -> None:
        self._adopt_look_of_rules(before, decision, now)
        if self._io is not None:
            return
        steady_s, hold = self._steady_s(), self.state.hold
        may = not self._dry_run and (hold is None or hold.floor) and not self._must_look
        if may and steady_s >= self._publish_at and not self._is_published(terms := self._wanted(), now):
            self._begin(self._publish(terms))
        elif steady_s >= self._look_at:
            self._look_at = steady_s + self.rules.look_s
            self._begin(self._look())

    def _begin(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except BaseException as error:  # noqa: BLE001 - raised from the next tick, where somebody hears it
                self._failed = error
            finally:
                self._io = None

        self._io = asyncio.get_running_loop().create_task(run())

    async def _look(self) -> None:
        # After a failure cohorts' files may be newer than the document: then they say which version comes next.
        whole = self._must_look
        try:
            seen = await in_thread(lambda: self._post.look(whole=whole))
        except EnvironmentFault as error:
            self._fault("looking", error.message)
            return
        self._must_look = False
        self._over("looking")
        known, now = self._expect, self._clock.time()
        self._note(seen)
        document = seen.document
        if document is not None and document.version > known and now < document.expires_at:
            self._follow(document)

    def _note(self, seen: Seen) -> None:
        if seen.fault:
            self._fault("document", f"what is published is not genuine, and apps refuse it: {seen.fault}")
        else:
            self._over("document")
        self.document, self._expect = seen.document, seen.expect

    def _follow(self, document: Document) -> None:
        """Goes on from a document of somebody else's."""
        order, state = self._order_of(document), self.state
        now, steady_s = self._clock.time(), self._steady_s()
        contradicts = (document.level, document.buckets) != (state.level, state.buckets)
        if contradicts and self._mine and order.until is None:
            self._conflicts.append(steady_s)
            if len(self._conflicts) == CONFLICTS_MAX and steady_s - self._conflicts[0] < CONFLICTS_S:
                raise BusyError(
                    f"somebody else keeps publishing otherwise for {self.rules.app}: another controller is at work",
                    remedy="One is enough. Stop one of them; what is published stays in force until it expires.",
                )
        self._mine = False
        self._salt, self._incident = document.salt, document.incident
        # Also where nothing is off: two controllers whose rules differ would else correct each other for ever.
        self._theirs = document.terms
        held = order.until is not None and order.until > now
        if contradicts or held or state.hold is not None:
            self._order = order

    def _order_of(self, document: Document) -> Order:
        manual, state, level = document.manual, self.state, document.level
        origin, full = Level.ZOMBIE, None
        if level is Level.RECOVERING:
            shielded = self.rules.levels.shielded
            if state.origin in (Level.SHIELDED, Level.ZOMBIE):
                origin, full = state.origin, max(state.full, state.buckets, document.buckets)
            elif shielded is not None and set(shielded.off) == set(document.off):
                origin = Level.SHIELDED
        return Order(
            level=level, buckets=document.buckets, full=full, origin=origin,
            by=manual.by if manual else "",
            # Nobody is under a document that has expired, whatever it says about itself.
            until=float(min(manual.until, document.expires_at)) if manual else None,
            floor=manual is not None and is_launch(manual),
        )  # fmt: skip

    def _adopt_look_of_rules(self, before: State, decision: Decision, now: float) -> None:
        """Whose features are off: a person's as long as their level holds or is recovered from, else the rules'."""
        after = decision.state
        if before.level is Level.NORMAL and after.level is not Level.NORMAL and decision.why is not Why.ORDERED:
            self._salt = self._salts()
            self._incident = f"auto-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
        raised = decision.why is Why.RAISED and after.origin is not before.origin
        if raised or decision.why in (Why.FINISHED, Why.LAPSED):
            self._theirs = None

    def _wanted(self) -> Terms:
        state, theirs = self.state, self._theirs
        if theirs is None:
            said = self.rules.terms(
                state.level, state.buckets, origin=state.origin, salt=self._salt, incident=self._incident
            )
        else:
            said = theirs.changed(level=state.level, buckets=state.buckets)
        hold = state.hold
        return said.changed(manual=Manual(by=hold.by, until=int(hold.until)) if hold is not None else None)

    def _is_published(self, wanted: Terms, now: float) -> bool:
        found = self.document
        if found is None or found.expires_at - now < self.rules.lasts_s / 2:
            return False
        splits = set(wanted.cohorts) <= set(found.cohorts)
        return splits and found.terms.changed(cohorts=()) == wanted.changed(cohorts=())

    async def _publish(self, terms: Terms) -> None:
        expect, lasts_s = self._expect, self.rules.lasts_s
        try:
            document = await in_thread(lambda: self._post.publish(terms, lasts_s, expect))
        except FlashcastError as error:
            self._failures += 1
            wait_s = min(RETRY_S_MAX, RETRY_S_FIRST * 2 ** min(self._failures - 1, 10))
            self._publish_at = self._steady_s() + wait_s
            # Some of it may have been written, or another's: what is there is looked at before the next attempt.
            self._look_at, self._must_look = -math.inf, True
            if not isinstance(error, OvertakenError):
                self._fault("publishing", error.message)
            return
        self._over("publishing")
        self._failures, self._save_at = 0, -math.inf
        self.document, self._expect, self._mine = document, document.version, True
        until = f"{datetime.fromtimestamp(document.expires_at, UTC):%H:%M:%S} UTC"
        share = f"{document.buckets / 10:g} % of users in it"
        text = f"version {document.version}: {document.level.value}, {share}, until {until}"
        self._tell(EventKind.PUBLISHED, text, document=document)

    # --- What is kept and told ------------------------------------------------------------------------

    def _write_trace(
        self, before: State, now: float, readings: dict[str, Reading], order: Order | None, decision: Decision
    ) -> None:
        if self._trace is None:
            return
        try:
            self._trace.tick(before, now, readings, order, decision)
            self._over("trace")
        except OSError as error:
            self._fault("trace", f"the trace cannot be written: {error.strerror}")

    def _save(self, before: State) -> None:
        if self._memory is None:
            return
        changed = (before.level, before.buckets, before.hold) != (self.state.level, self.state.buckets, self.state.hold)
        if not changed and self._steady_s() < self._save_at:
            return
        kept = Memory(
            app=self.rules.app, version=self._expect, state=self.state, salt=self._salt, incident=self._incident,
            theirs=self._theirs,
        )  # fmt: skip
        try:
            self._memory.save(kept)
            self._save_at = self._steady_s() + SAVE_S
            self._over("memory")
        except OSError as error:
            self._fault("memory", f"the controller's memory cannot be written: {error.strerror}")

    def _tell_decision(self, before: State, decision: Decision) -> None:
        after, last = decision.state, self._last
        if (after.level, after.buckets, after.hold) != (before.level, before.buckets, before.hold):
            text = (
                f"{before.level.value} -> {after.level.value}, {after.buckets / 10:g} % of users in it: {decision.text}"
            )
            self._tell(EventKind.CHANGED, text, decision=decision)
        elif last is None or last.why is not decision.why:
            self._tell(EventKind.WAITING, decision.text, decision=decision)
        for name, fault in self.signals.faults.items():
            self._fault(f"signal {name}", fault)
        for about in [one for one in self._faults if one.startswith("signal ")]:
            if about.removeprefix("signal ") not in self.signals.faults:
                self._over(about)

    def _fault(self, about: str, text: str) -> None:
        if self._faults.get(about) != text:
            self._faults[about] = text
            self._tell(EventKind.FAULT, text, about)

    def _over(self, about: str) -> None:
        if self._faults.pop(about, None) is not None:
            self._tell(EventKind.OVER, "it works again", about)

    def _steady_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _tell(
        self,
        kind: EventKind,
        text: str,
        about: str = "",
        decision: Decision | None = None,
        document: Document | None = None,
    ) -> None:
        self._tell_outside(Event(self._clock.time(), kind, text, about, decision, document))


def _is_finite(reading: Reading) -> bool:
    return math.isfinite(reading.value) and math.isfinite(reading.age_s)
