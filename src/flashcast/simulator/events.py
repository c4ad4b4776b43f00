"""When something happens to a connection: after so many requests on it, each kind by its own count."""

from __future__ import annotations

import random
from enum import Enum
from typing import NamedTuple

from flashcast.simulator.profile import ProviderProfile

NEVER = 2**62


class Event(Enum):
    STREAMS = "streams"
    """A new SETTINGS_MAX_CONCURRENT_STREAMS."""
    TABLE = "table"
    """A new SETTINGS_HEADER_TABLE_SIZE."""
    PING = "ping"
    GOAWAY = "goaway"


class Due(NamedTuple):
    """What happens now; ``value`` is the new setting."""

    event: Event
    value: int


class Schedule:
    """The events of one connection. ``number`` counts the provider's connections, so that they differ."""

    def __init__(self, profile: ProviderProfile, seed: int, number: int) -> None:
        self._profile = profile
        self._random = random.Random(seed * 1_000_003 + number)
        self.slow_reader = self._random.random() < profile.slow_read_share
        """Whether this connection is one that is read slowly."""
        self.small_windows = self._random.random() < profile.small_window_share
        """Whether it gets the profile's flow-control windows."""
        self._turn = {Event.STREAMS: 0, Event.TABLE: 0}
        self._next = dict.fromkeys(Event, NEVER)
        for event in Event:
            self._plan(event, 0)

    @property
    def next_at(self) -> int:
        """The count of requests at which the next event is due."""
        return min(self._next.values())

    def due(self, handled: int) -> list[Due]:
        """The events due after ``handled`` requests; each is planned anew."""
        now = [event for event in Event if self._next[event] <= handled]
        found = [Due(event, self._value(event)) for event in now]
        for event in now:
            if event in self._turn:
                self._turn[event] += 1
            self._plan(event, handled)
        return found

    def _changes(self, event: Event) -> list[tuple[int, int]]:
        if event is Event.STREAMS:
            return [(change.after, change.streams) for change in self._profile.stream_changes]
        return [(change.after, change.bytes) for change in self._profile.header_table_changes]

    def _value(self, event: Event) -> int:
        if event not in self._turn:
            return 0
        changes = self._changes(event)
        return changes[self._turn[event] % len(changes)][1]

    def _plan(self, event: Event, handled: int) -> None:
        if event in self._turn:
            changes = self._changes(event)
            after = changes[self._turn[event] % len(changes)][0] if changes else 0
        elif event is Event.PING:
            after = self._profile.ping_every
        else:
            every = self._profile.goaway_every
            after = self._random.randint(every // 2 + 1, every + every // 2) if every else 0
        self._next[event] = handled + after if after else NEVER
