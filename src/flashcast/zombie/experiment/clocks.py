"""The run's clock: faster than this machine's, and the same in every process."""

from __future__ import annotations

import asyncio
import time


class FastClock:
    """Shows ``epoch`` when this machine's monotonic clock shows ``start``, and runs ``factor`` times as fast."""

    def __init__(self, start: float, epoch: float, factor: float) -> None:
        self._start = start
        self._epoch = epoch
        self._factor = factor

    def __repr__(self) -> str:
        return f"<FastClock times {self._factor:g}>"

    def monotonic_ns(self) -> int:
        return int((time.monotonic() - self._start) * self._factor * 1e9)

    def time(self) -> float:
        return self._epoch + (time.monotonic() - self._start) * self._factor

    async def sleep(self, seconds: float) -> None:
        """Sleeps so many seconds of this clock."""
        await asyncio.sleep(seconds / self._factor)
