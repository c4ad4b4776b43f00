"""One simulated provider: its rules, verdicts and memory, shared by all its connections."""

from __future__ import annotations

import itertools
import uuid
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast.clock import Clock
from flashcast.model import Provider
from flashcast.outcomes import Reason
from flashcast.simulator import arrays as a
from flashcast.simulator import kernels as k
from flashcast.simulator.json_kernel import skeleton
from flashcast.simulator.ledger import PROVIDERS, Ledger
from flashcast.simulator.profile import Profile, ProviderProfile
from flashcast.simulator.replies import TEMPLATE_BYTES_MAX, pack, reply
from flashcast.simulator.rules import ApnsRules, BodyVerdict, FcmRules, HeadVerdict
from flashcast.simulator.verdict import V_KIND, V_REASON, V_STYLES, V_TEMPLATE, compile_verdicts

_MASK64: Final = 2**64 - 1
_FCM_PREFIX: Final = b'{"message":{"token":"'


def _mix(value: int) -> int:
    """splitmix64's next output: seeds of several parts must not resemble each other."""
    z = (value + 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


class Front:
    """What the connections of a provider ask.

    ``desk`` holds the output buffer that every connection uses in turn; ``ledger`` the books.
    """

    def __init__(
        self, provider: Provider, profile: Profile, rules: ApnsRules | FcmRules, ledger: Ledger, desk: a.Desk,
        seed: int, project: str, clock: Clock,
    ) -> None:  # fmt: skip
        self.provider = provider
        self.profile: ProviderProfile = profile.of(provider)
        self.reply_deadline_s = profile.reply_deadline_s
        self.rules = rules
        self.ledger = ledger
        self.desk = desk
        self.seed = _mix(seed * 4 + 1 + PROVIDERS.index(provider))
        self.clock = clock
        self.numbers = itertools.count()
        self._project = project
        self._verdicts = compile_verdicts(provider, self.profile, project, clock.time())
        self.row_of = self._verdicts.row_of
        self.office = self._office(profile)
        self._token = np.zeros(4_096 + 256, np.uint8)
        self._refill_at_ns = 0
        self._quota_wait_s = -1

    def __repr__(self) -> str:
        return f"<Front {self.provider}, {self.ledger!r}>"

    def _office(self, profile: Profile) -> a.Office:
        v, own = self._verdicts, self.profile
        quantiles = own.latency.quantiles_ms()
        knobs = np.zeros(a.KNOBS, np.int64)
        knobs[a.K_PROVIDER] = PROVIDERS.index(self.provider)
        knobs[a.K_QUOTA] = own.quota if own.quota else -1
        knobs[a.K_QUOTA_ROW] = v.quota_row
        knobs[a.K_NO_DELAY] = int(max(quantiles) <= 0)
        knobs[a.K_ODD_SHARE] = int(own.odd_reply_share * 65_536)
        knobs[a.K_INTERLEAVE] = int(own.interleave)
        knobs[a.K_TICK_NS] = int(profile.tick_ms * 1e6)
        return a.Office(
            knobs,
            np.array([self.seed, _mix(self.seed)], np.uint64),
            v.bounds,
            v.bound_rows,
            v.rows,
            v.templates,
            v.meta,
            np.array([int(ms * 1e6) for ms in quantiles], np.int64),
            np.zeros((a.BODIES, a.BODY_BYTES_MAX + 8), np.uint8),
            np.full(a.BODIES, -1, np.int64),
            np.zeros(a.SKELETONS_MAX, np.uint64),
            self.ledger.answers[PROVIDERS.index(self.provider)],
        )

    def row_kind(self, row: int) -> int:
        """How verdict ``row`` answers: a KIND_ of `verdict`."""
        return int(self._verdicts.rows[row, V_KIND])

    def note(self, what: int, more: int = 1) -> None:
        """Adds to one of the ledger's G_ counters."""
        self.ledger.note(self.provider, what, more)

    def judge_body(self, head: HeadVerdict, body: bytes) -> BodyVerdict:
        """Judges a body, and remembers its shape where requests like it can be judged by a kernel."""
        verdict = self.rules.body(head, body)
        if verdict.reason is Reason.NONE and verdict.plain:
            self._remember(body)
        return verdict

    def _remember(self, body: bytes) -> None:
        data = np.frombuffer(body + bytes(8), np.uint8)
        shape = skeleton(data, 0, len(body))
        knobs, count = self.office.knobs, int(self.office.knobs[a.K_SKELETONS])
        if shape and shape not in self.office.skeletons[:count] and count < a.SKELETONS_MAX:
            self.office.skeletons[count] = shape
            knobs[a.K_SKELETONS] = count + 1
        start = 0
        if self.provider is Provider.FCM:
            if not body.startswith(_FCM_PREFIX):
                return
            start = body.index(b'"', len(_FCM_PREFIX))
        size = len(body) - start
        if size <= a.BODY_BYTES_MAX:
            ring = int(knobs[a.K_BODY_NEXT])
            self.office.bodies[ring, :size] = data[start : len(body)]
            self.office.body_bytes[ring] = size
            knobs[a.K_BODY_NEXT] = (ring + 1) % a.BODIES

    def settle(
        self, wire: a.Wire, sid: int, token: bytes, reason: Reason, request_id: str, now_ns: int
    ) -> int:
        """Judges and answers a request of the slow path; returns the verdict row."""
        fp = np.uint64(0)
        if token:
            self._token[: len(token)] = np.frombuffer(token, np.uint8)
            fp = np.uint64(k.print_of(self._token, 0, len(token)))
        forced = -1 if reason is Reason.NONE else self.row_of[reason]
        high = low = 0
        lower = 0
        if request_id:
            high, low = (int(part) for part in np.frombuffer(uuid.UUID(request_id).bytes, ">i8"))
            lower = a.LOWER_CASE if request_id == request_id.lower() else 0
        self.ledger.room_for(a.ROUND)
        return int(
            k.settle(
                fp,
                sid,
                forced,
                now_ns,
                high,
                low, lower,
                wire,
                self.office,
                self.desk,
                self.ledger.table,
                self.ledger.totals,
            )
        )

    def success(self, wire: a.Wire, sid: int) -> NDArray[np.uint8]:
        """The bytes of a plain success, for a connection that is cut inside them."""
        return self.emit(wire, sid, 0, 0, 0)

    def emit(self, wire: a.Wire, sid: int, template: int, high: int, low: int) -> NDArray[np.uint8]:
        """The bytes of one reply."""
        out = np.zeros(TEMPLATE_BYTES_MAX + 64, np.uint8)
        return out[: int(k.emit_one(out, 0, sid, template, high, low, wire.state, self.office))]

    def tick(self, now_ns: int) -> None:
        """Refills the quota's bucket when its time has come, and keeps its Retry-After true."""
        if not self.profile.quota:
            return
        window_ns = int(self.profile.quota_window_s * 1e9)
        if now_ns >= self._refill_at_ns:
            self._refill_at_ns = now_ns + window_ns
            self.office.knobs[a.K_QUOTA] = self.profile.quota
        wait_s = max(1, -(-(self._refill_at_ns - now_ns) // 1_000_000_000))
        if wait_s != self._quota_wait_s:
            self._quota_wait_s = wait_s
            row = self._verdicts.rows[self._verdicts.quota_row]
            reason = Reason.from_code(int(row[V_REASON]))
            styles = ("plain", *self.profile.reply_styles)[: int(row[V_STYLES])]
            first = int(row[V_TEMPLATE])
            data, meta = pack(
                [reply(self.provider, reason, s, self._project, self.clock.time(), wait_s) for s in styles]
            )
            self.office.templates[first : first + len(styles)] = data
            self.office.meta[first : first + len(styles)] = meta
