"""What happened in a simulation, in order: its end for people, and a digest of all of it to compare two runs."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

from flashcast.testing.virtual_time import VirtualLoop

KEPT: Final = 4_000
"""Events kept to be shown; the digest covers all."""


class Trace:
    """The events of one run."""

    def __init__(self, loop: VirtualLoop, *, kept: int | None = KEPT) -> None:
        """``kept`` events stay to be shown, None for all."""
        self._loop = loop
        self._digest = hashlib.blake2b(digest_size=16)
        self.events: deque[str] = deque(maxlen=kept)
        self.count = 0

    def __repr__(self) -> str:
        return f"<Trace of {self.count} events, {self.digest}>"

    def note(self, what: str) -> None:
        """Adds an event that happens now."""
        line = f"{self._loop.elapsed_s:11.6f}  {what}"
        self._digest.update(line.encode())
        self.events.append(line)
        self.count += 1

    @property
    def digest(self) -> str:
        """The digest of every event so far, in hexadecimal."""
        return self._digest.hexdigest()
