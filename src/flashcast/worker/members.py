"""Who is alive, by one listener's own clock.

The problem: a worker that is dead must lose its shards within a second, and one that is alive must not lose them
because the *listener* was stopped, cut off from the engine, or slow. The obvious answer, comparing the time in a
heartbeat with one's own, trusts two machines' clocks and calls everybody dead after a pause of one's own.

What was chosen: a heartbeat counts when it arrives, on the listener's monotonic clock; and the listener judges nobody
unless it has just heard its **own** heartbeat come back through the same watch. After an interruption, which it sees by
the silence of its own echo, everybody starts with a fresh lease.

Nothing here is needed for safety: claims alone keep a row from being sent twice. It decides how soon shards are taken
over and how rarely without need.
"""

from __future__ import annotations

from typing import Final

from flashcast.arm.readiness import LEASE_S, Beat

ECHO_S_MAX: Final = 0.5
"""Own heartbeats are written every 0.2 s; two missed in a row mean that this listener hears nothing."""


class Members:
    """The fleet as one worker hears it. Times are nanoseconds of its monotonic clock."""

    def __init__(self, me: str, now_ns: int, *, lease_s: float = LEASE_S) -> None:
        self._me = me
        self._lease_ns = int(lease_s * 1e9)
        self._echo_ns: int | None = None
        self._trusted_ns = now_ns
        self._heard_ns: dict[str, int] = {}
        self._gone: set[str] = set()
        self.beats: dict[str, Beat] = {}
        """The last beat of everybody, the dead among them until they are forgotten."""

    def __repr__(self) -> str:
        return f"<Members of {self._me}: {sorted(self.beats)}>"

    def heard(self, beat: Beat, now_ns: int) -> None:
        """A heartbeat came. One that was heard before, which a watch may repeat, does not count."""
        last = self.beats.get(beat.worker)
        if last is not None and beat.pid == last.pid and beat.sequence <= last.sequence:
            return
        self.beats[beat.worker] = beat
        self._gone.discard(beat.worker)
        self._heard_ns[beat.worker] = now_ns
        if beat.worker == self._me:
            if self._echo_ns is None or now_ns - self._echo_ns > ECHO_S_MAX * 1e9:
                self._trusted_ns = now_ns
            self._echo_ns = now_ns

    def left(self, worker: str) -> None:
        """A worker took its leave: its heartbeat was deleted."""
        if worker in self.beats:
            del self.beats[worker]
            self._gone.add(worker)

    def hears(self, now_ns: int) -> bool:
        """Whether this listener may judge others: its own heartbeat has just come back."""
        return self._echo_ns is not None and now_ns - self._echo_ns <= ECHO_S_MAX * 1e9

    def dead(self, worker: str, now_ns: int) -> bool:
        """Whether ``worker`` has lost its lease. Never, while this listener cannot judge."""
        if worker == self._me or not self.hears(now_ns):
            return False
        if worker in self._gone:
            return True
        since_ns = max(self._heard_ns.get(worker, self._trusted_ns), self._trusted_ns)
        return now_ns - since_ns > self._lease_ns

    def alive(self, now_ns: int) -> dict[str, Beat]:
        """The last beats of those who are not dead, by worker, in the order of their names."""
        return {worker: self.beats[worker] for worker in sorted(self.beats) if not self.dead(worker, now_ns)}
