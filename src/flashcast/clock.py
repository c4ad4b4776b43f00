"""Time as an argument, so that a launch can be replayed and tests never sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary point; never goes back."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch, as the provider's clock would show them."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def time(self) -> float:
        return time.time()


class FixedClock:
    """A clock that moves only when told to."""

    def __init__(self, epoch_s: float = 1_700_000_000.0) -> None:
        self._epoch_s = epoch_s
        self._elapsed_ns = 0

    def __repr__(self) -> str:
        return f"<FixedClock +{self._elapsed_ns / 1e9:.3f} s>"

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward by ``seconds``."""
        if seconds < 0:
            raise ValueError(f"a clock never goes back: advance({seconds})")
        self._elapsed_ns += int(seconds * 1e9)

    def monotonic_ns(self) -> int:
        return self._elapsed_ns

    def time(self) -> float:
        return self._epoch_s + self._elapsed_ns / 1e9
