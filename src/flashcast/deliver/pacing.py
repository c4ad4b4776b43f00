"""How fast a lane may send: a token bucket for the agreed pace, and AIMD where the provider pushes back.

The pace is a campaign's word. The rest is the provider's: where a share of the replies says "slow down" (429, 503),
the rate is halved and then grows by a tenth of its last good value per interval; where nearly all say so, the quota
is used up, and sending rests until the time they name. Single 429s (one device) change nothing.
"""

from __future__ import annotations

from typing import Final

INTERVAL_NS: Final = 100_000_000
THROTTLED_SHARE: Final = 0.1
"""Above this share of an interval's replies the provider means us, not one device."""
EXHAUSTED_SHARE: Final = 0.6
"""Above this share the quota is gone until its refill: probing on would only earn more refusals.

FCM does not count its 429 against the quota; other 4xx it does.
"""
REPLIES_MIN: Final = 20
"""Fewer replies in an interval say nothing."""
RATE_MIN: Final = 50.0


class Pacer:
    """One lane's rate. Pure: time comes in as nanoseconds, allowances go out as numbers of requests."""

    def __init__(self, pace_per_s: float | None, now_ns: int) -> None:
        """``pace_per_s`` is this lane's share of the campaign's pace; None sends as fast as streams allow."""
        self._pace = pace_per_s
        self._cap: float | None = None
        self._credit = 0.0
        self._refilled_ns = now_ns
        self._interval_ns = now_ns
        self._rest_until_ns = 0
        self._sent = self._replies = self._throttled = 0
        self._longest_wait_s = 0.0
        self._step = 0.0

    def __repr__(self) -> str:
        return f"<Pacer {self.rate} per s, resting until {self._rest_until_ns}>"

    @property
    def rate(self) -> float | None:
        """Requests per second in force now, None for unlimited."""
        if self._cap is None:
            return self._pace
        return self._cap if self._pace is None else min(self._cap, self._pace)

    def set_pace(self, pace_per_s: float | None, now_ns: int) -> None:
        """Changes the lane's share of the campaign's pace, 0 for none of it. What was earned until now stays earned."""
        if self.rate is None:
            self._credit = 0.0
            self._refilled_ns = max(now_ns, self._rest_until_ns)
        else:
            self.allowance(now_ns, 0)
        self._pace = pace_per_s
        if pace_per_s is not None:
            self._credit = min(self._credit, _saved_max(pace_per_s)) if pace_per_s else 0.0

    def allowance(self, now_ns: int, wanted: int) -> int:
        """How many of ``wanted`` requests may be sent now."""
        if now_ns < self._rest_until_ns:
            return 0
        rate = self.rate
        if rate is None:
            return wanted
        self._credit += rate * (now_ns - self._refilled_ns) / 1e9
        self._refilled_ns = now_ns
        self._credit = min(self._credit, _saved_max(rate))
        return min(wanted, int(self._credit))

    def sent(self, count: int) -> None:
        """``count`` requests were written."""
        self._sent += count
        if self.rate is not None:
            self._credit -= count

    def replied(self, count: int, throttled: int = 0, wait_s: float | None = None) -> None:
        """``count`` replies came, ``throttled`` of them asking to slow down, the longest for ``wait_s``."""
        self._replies += count
        self._throttled += throttled
        if wait_s is not None:
            self._longest_wait_s = max(self._longest_wait_s, wait_s)

    def tick(self, now_ns: int) -> None:
        """Judges the interval that has passed, if one has."""
        elapsed_ns = now_ns - self._interval_ns
        if elapsed_ns < INTERVAL_NS:
            return
        share = self._throttled / self._replies if self._replies >= REPLIES_MIN else 0.0
        rate_seen = self._sent / (elapsed_ns / 1e9)
        if share > THROTTLED_SHARE:
            if share > EXHAUSTED_SHARE and self._longest_wait_s > 0:
                # A late reply to an earlier request may name a shorter wait; the longest holds.
                self._rest_until_ns = max(self._rest_until_ns, now_ns + int(self._longest_wait_s * 1e9))
            base = rate_seen if self._cap is None else min(self._cap, max(rate_seen, RATE_MIN))
            self._cap = max(RATE_MIN, base / 2)
            self._step = max(RATE_MIN, base / 10)
            self._credit = 0.0
            self._refilled_ns = max(now_ns, self._rest_until_ns)
        elif self._cap is not None and now_ns >= self._rest_until_ns:
            self._cap += self._step
            if self._sent and rate_seen < self._cap / 4:
                self._cap = None  # streams, not the rate, are the bound
        self._interval_ns = now_ns
        self._sent = self._replies = self._throttled = 0
        self._longest_wait_s = 0.0


def _saved_max(rate: float) -> float:
    """A tenth of a second's worth may be saved up, so that a late wake-up costs no throughput."""
    return max(1.0, rate / 10)
