"""The write queue's rules, without IO: which write is sent when, and what its answer means.

A write is kept until a server has said that it has it, or has refused it for good. It carries its idempotency key from
the moment it is made, in every attempt; so a write whose answer was lost is sent again, and a server that knows its
keys applies it once. One write is under way at a time: a device that kept fifty does not come back as a crowd.

When a user is let back in, the writes that waited get their times: as many random numbers as writes, sorted, stretched
over the drain period, the oldest write the earliest time. Over all devices that is an even load, however many writes
each has. The times are persisted: an app that is closed and opened again does not wait anew.

Writes of one lane are sent in the order they were made, each after the one before has been applied. Writes without a
lane overtake each other. A write belongs to the user who made it, and waits while another is logged in: it would be
sent with the other's credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from flashcast.zombie.bounds import (
    CLIENT_WAIT_S_MAX,
    DRAIN_S_MAX,
    REPLAY_BACKOFF_S_FIRST,
    REPLAY_BACKOFF_S_MAX,
    REPLAY_CONFLICTS_MAX,
    RETRY_AFTER_S_MAX,
)
from flashcast.zombie.client.http import HttpRequest, HttpResponse, retry_after_s

IDEMPOTENCY_KEY = "Idempotency-Key"
QUEUED_AT = "Zombie-Queued-At"
INCIDENT = "Zombie-Incident"
_AGAIN = frozenset({401, 408, 409, 425, 429})
"""Of the 4xx those that may pass: an expired login that the app renews, a time-out, the same key still being worked on
(draft-ietf-httpapi-idempotency-key-header section 2.6), too early, too many."""


class Fate(StrEnum):
    """What became of a write after an attempt."""

    APPLIED = "applied"
    """The server has it; it is forgotten here."""
    AGAIN = "again"
    """It waits for another attempt."""
    REFUSED = "refused"
    """The server does not want it. It is kept, and not sent again, until the app forgets it or asks for another try."""


@dataclass(frozen=True, slots=True, repr=False)
class Write:
    """One write as it is kept. ``id`` is its idempotency key, ``user`` who made it.

    ``due_at`` is when it may be sent, in Unix seconds; None while its feature is off. ``conflicts`` counts answers 409
    in a row; ``refused`` is the status with which it was refused for good, 0 while it was not.
    """

    id: str
    feature: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    lane: str = ""
    user: str = ""
    queued_at: float = 0.0
    incident: str = ""
    due_at: float | None = None
    attempts: int = 0
    conflicts: int = 0
    refused: int = 0

    def __repr__(self) -> str:
        # No address, header or body: what users write is theirs, and this may come into a log.
        return f"<Write {self.id} {self.feature} attempts={self.attempts} due_at={self.due_at} refused={self.refused}>"

    @property
    def size_bytes(self) -> int:
        """What it counts against the queue's bound: the UTF-8 bytes of everything that the app gave."""
        texts = (self.id, self.feature, self.method, self.url, self.lane, self.user)
        return len(self.body) + sum(len(text.encode()) for text in (*texts, *self.headers, *self.headers.values()))

    def request(self, *, replayed: bool = True) -> HttpRequest:
        """The request that sends it. One that is replayed also says since when it has waited, and in which incident."""
        own = {IDEMPOTENCY_KEY: self.id}
        if replayed:
            own |= {QUEUED_AT: str(int(self.queued_at))} | ({INCIDENT: self.incident} if self.incident else {})
        return HttpRequest(self.method, self.url, self.headers, self.body).with_headers(own)


def fate_of(response: HttpResponse | None, conflicts: int = 0) -> Fate:
    """What an answer (None: there was none) means. ``conflicts`` counts the 409s in a row, this one among them.

    2xx: applied. No answer, 3xx (not followed), 401, 408, 409, 425, 429, 5xx: again. Any other: refused.
    """
    status = response.status if response is not None else 0
    if 200 <= status < 300:
        return Fate.APPLIED
    if (400 <= status < 500 and status not in _AGAIN) or conflicts > REPLAY_CONFLICTS_MAX:
        return Fate.REFUSED
    return Fate.AGAIN


class Queue:
    """The writes that wait, in the order they were made. Pure: whoever calls persists what changes."""

    def __init__(self, random: Callable[[], float], writes: Iterable[Write] = (), *, user: str) -> None:
        self.user = user
        """Whose writes are sent."""
        self._random = random
        self._writes = {write.id: write for write in writes}
        self._bytes = sum(write.size_bytes for write in self._writes.values())
        self._paused_until = 0.0
        self._under_way: set[str] = set()

    def __len__(self) -> int:
        return len(self._writes)

    def __repr__(self) -> str:
        return f"<Queue {len(self._writes)} writes, {self._bytes} bytes>"

    @property
    def bytes(self) -> int:
        """The sum of the writes' sizes."""
        return self._bytes

    @property
    def writes(self) -> list[Write]:
        """All of them, the oldest first."""
        return list(self._writes.values())

    def get(self, write_id: str) -> Write | None:
        """A write by its id."""
        return self._writes.get(write_id)

    def add(self, write: Write) -> None:
        """Puts a write at the end. One of an id that is there already is not added twice."""
        if write.id not in self._writes:
            self._writes[write.id] = write
            self._bytes += write.size_bytes

    def remove(self, write_id: str) -> None:
        """Takes a write out, also one that is under way: its answer will mean nothing any more."""
        self._under_way.discard(write_id)
        write = self._writes.pop(write_id, None)
        self._bytes -= write.size_bytes if write else 0

    def is_waiting_in(self, lane: str) -> bool:
        """Whether a write that is made now must wait for another of its lane."""
        return bool(lane) and any(write.lane == lane for write in self._waiting())

    def plan(self, is_off: Callable[[str], bool], drain_s: float, now: float) -> list[Write]:
        """Gives writes whose features are on again their times, and takes them from those whose are off.

        Random numbers are drawn one for each write that gets a time. Returns what has changed.
        """
        waiting = self._waiting()
        off = {feature: is_off(feature) for feature in {write.feature for write in waiting}}
        let_in = [write for write in waiting if write.due_at is None and not off[write.feature]]
        times = sorted(now + drain_s * self._random() for _ in let_in)
        changed = [replace(write, due_at=at) for write, at in zip(let_in, times, strict=True)]
        changed += [replace(write, due_at=None) for write in waiting if write.due_at is not None and off[write.feature]]
        # The clock was set back: nobody waits longer than the longest wait there is.
        latest = now + DRAIN_S_MAX
        changed += [
            replace(write, due_at=latest)
            for write in waiting
            if write.due_at is not None and write.due_at > latest and not off[write.feature]
        ]
        for write in changed:
            self._writes[write.id] = write
        return changed

    def take(self, now: float) -> Write | None:
        """The write to send now: of those that may be, the one whose time came first. It is under way until `answered`.

        None where a server has asked to be left alone, and while there is nothing to send.
        """
        if now < self._paused_until <= now + CLIENT_WAIT_S_MAX:
            return None
        may = [write for write in self._free() if write.due_at is not None and write.due_at <= now]
        # `min` takes the first of equals, which is the oldest.
        chosen = min(may, key=lambda write: write.due_at or 0.0, default=None)
        if chosen is not None:
            self._under_way.add(chosen.id)
        return chosen

    def take_this(self, write_id: str) -> bool:
        """Takes a certain write, whatever its time. False where it must wait for its lane, or is under way already."""
        if all(write.id != write_id for write in self._free()):
            return False
        self._under_way.add(write_id)
        return True

    def release(self, write_id: str) -> None:
        """Gives a write back whose attempt was broken off; it may be sent again at once."""
        self._under_way.discard(write_id)

    def next_at(self, now: float) -> float | None:
        """When `take` will have something, None where nothing waits for time to pass."""
        times = [write.due_at for write in self._free() if write.due_at is not None]
        paused = self._paused_until if self._paused_until <= now + CLIENT_WAIT_S_MAX else 0.0
        return max(min(times), paused) if times else None

    def _free(self) -> Iterable[Write]:
        """The writes that need not wait for another: of each lane the first, and none that is under way."""
        lanes: set[str] = set()
        for write in self._waiting():
            if write.lane in lanes:
                continue
            if write.lane:
                lanes.add(write.lane)
            if write.id not in self._under_way:
                yield write

    def _waiting(self) -> list[Write]:
        """The user's writes that are to be sent at some time, the oldest first."""
        return [write for write in self._writes.values() if write.user == self.user and not write.refused]

    def take_over(self, other: str) -> list[Write]:
        """Makes the user's the writes of ``other`` (an installation's, before anybody has logged in). Returns them."""
        changed = [replace(write, user=self.user) for write in self._writes.values() if write.user == other]
        for write in changed:
            self._bytes += write.size_bytes - self._writes[write.id].size_bytes
            self._writes[write.id] = write
        return changed

    def droppable(self) -> list[Write]:
        """The writes that may be dropped to make room, the oldest first: all but those under way."""
        return [write for write in self._writes.values() if write.id not in self._under_way]

    def answered(self, write_id: str, response: HttpResponse | None, now: float) -> tuple[Fate, Write] | None:
        """What an attempt's answer (None: there was none) means for its write, and the write as it is now.

        None where the app has forgotten the write meanwhile.
        """
        write = self._writes.get(write_id)
        self._under_way.discard(write_id)
        if write is None:
            return None
        status = response.status if response is not None else 0
        conflicts = write.conflicts + 1 if status == 409 else 0
        tried = replace(write, attempts=write.attempts + 1, conflicts=conflicts)
        fate = fate_of(response, conflicts)
        if fate is Fate.APPLIED:
            self.remove(write_id)
            return fate, tried
        if fate is Fate.REFUSED:
            self._writes[write_id] = replace(tried, refused=status, due_at=None)
            return fate, self._writes[write_id]
        asked = retry_after_s(response.headers, now) if response is not None else None
        tried = replace(tried, due_at=now + self._wait_s(tried.attempts, asked))
        if status == 0 or status == 429 or status >= 500:
            # It is the server that cannot, not this write: the others leave it alone as well.
            self._paused_until = tried.due_at or 0.0
        self._writes[write_id] = tried
        return fate, tried

    def again(self, write_id: str, now: float) -> Write | None:
        """Asks for another try of a write that was refused."""
        write = self._writes.get(write_id)
        if write is None or not write.refused:
            return None
        self._writes[write_id] = replace(write, refused=0, conflicts=0, due_at=now)
        return self._writes[write_id]

    def _wait_s(self, attempts: int, retry_after: float | None) -> float:
        """Seconds before the next attempt after ``attempts`` of them. Draws one random number.

        2 s doubling up to 300, of which at least half; and no less than Retry-After, plus up to half of that.
        """
        drawn = self._random()
        most = min(REPLAY_BACKOFF_S_FIRST * 2.0 ** min(attempts - 1, 20), REPLAY_BACKOFF_S_MAX)
        asked = min(retry_after, float(RETRY_AFTER_S_MAX)) if retry_after is not None else 0.0
        return max(most * (1 + drawn) / 2, asked * (1 + drawn / 2))
