"""Connections that carry nothing are closed after a while, as providers and middleboxes are seen to do.

"Nothing" is the absence of requests: SETTINGS, PING and WINDOW_UPDATE do not count, so a connection that is only kept
warm is closed like one that was only opened. A request that is still to be answered keeps its connection open.
"""

from __future__ import annotations

import random

from flashcast.simulator.events import NEVER
from flashcast.simulator.profile import ProviderProfile


class IdleTimer:
    """One connection's time to be idle in, drawn once. Pure: it is told the time and how many requests were handled."""

    def __init__(self, profile: ProviderProfile, seed: int, number: int, now_ns: int) -> None:
        """``number`` counts the provider's connections, so that they differ."""
        settings = profile.idle_close
        self.abrupt = False
        """Whether the connection ends without GOAWAY."""
        self.enabled = settings is not None
        self._patience_ns = 0
        if settings is not None:
            # A generator of its own: a profile's other events stay what they are without this one.
            drawn = random.Random(f"idle {seed} {number}")
            self._patience_ns = int(drawn.uniform(settings.min_s, settings.max_s) * 1e9)
            self.abrupt = drawn.random() < settings.abrupt_share
        self._since_ns = now_ns
        self._handled = 0
        self._busy = False

    @property
    def at_ns(self) -> int:
        """When the connection has been idle for long enough, unless it is used before; `events.NEVER` for never."""
        return self._since_ns + self._patience_ns if self.enabled else NEVER

    def used(self, handled: int, now_ns: int, *, busy: bool) -> None:
        """``handled`` requests so far; ``busy`` where one is being received or waits for its reply."""
        # What was answered since the last call was still open until now.
        if busy or self._busy or handled != self._handled:
            self._since_ns = now_ns
        self._handled, self._busy = handled, busy
