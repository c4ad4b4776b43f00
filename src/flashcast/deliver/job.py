"""What lanes are told to do: one provider's part of a launch, and what holds it back."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flashcast.clock import Clock
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.deliver.journal import RowArrays
from flashcast.limits import WINDOW_S_DEFAULT
from flashcast.model import Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import Reason
from flashcast.providers.credentials import Credential
from flashcast.wire.connection import Requests
from flashcast.wire.template import shape_of

__all__ = ["NEVER_NS", "Job", "RowArrays", "Terms"]

NEVER_NS: Final = 2**63 - 1
"""A moment that no monotonic clock comes to."""


@dataclass(frozen=True)
class Terms:
    """The rules of a launch for one provider."""

    policy: UnknownPolicy = UnknownPolicy.DROP
    window_s: float = WINDOW_S_DEFAULT
    reply_deadline_s: float = 10.0
    pace_per_s: float | None = None
    """Messages per second to this provider, all lanes together; None is unlimited."""
    pauses: bool = False
    """A reply that would meet every other row too holds the job for somebody to decide, rather than ending it."""


def _nothing() -> None:
    """Nobody wants to know."""


@dataclass
class Job:
    """One provider's part of a launch. Lanes share it; what they write is theirs alone or guarded.

    What one thread tells the lanes is a single attribute, which they read before each volley: `held`, `lease_ns`,
    `stopped`, `aborted`, and a shard's `gone`.
    """

    provider: Provider
    shards: Sequence[ShardRows]
    """In any order; see `hold`."""
    chunks: Chunks
    rows: RowArrays
    templates: Sequence[RequestTemplate]
    head: tuple[tuple[str, str], ...]
    path_prefix: bytes | None
    credential: Credential
    clock: Clock
    terms: Terms
    lanes: int = 1
    go_ns: int = 0
    origin_ns: int = 0
    """The first GO, from which reply times count; earlier than ``go_ns`` in a launch that was taken over."""
    window_ends_ns: int = NEVER_NS
    renewed_ns: int = -1
    """Requests written before this carry an earlier credential than the one in force."""
    held: bool = False
    """Nothing is sent for now; nothing is given up either."""
    lease_ns: int = NEVER_NS
    """Nothing is sent from this moment of the monotonic clock on, until it is moved. The clock goes on while a process
    is stopped, so one that was stopped for long sends nothing on waking."""
    pace_per_s: float | None = None
    """The pace in force; at first that of the terms. Lanes take it up at their next tick."""
    stopped: Reason | None = None
    stop_reason: Reason | None = None
    """The first reply that would meet every other row too; with ``terms.pauses`` it holds the job."""
    heeds_stops: bool = True
    """Whether such a reply holds the job: not once somebody has seen the reason and gone on."""
    doubted: set[int] = field(default_factory=set)
    """Journal rows sent again although an earlier try may have been taken (`resend`): they never end as surely not."""
    drops: int = 0
    """How many shards were taken away; lanes look for their rows of these when it changes."""
    aborted: threading.Event = field(default_factory=threading.Event)
    on_rest: Callable[[], None] = _nothing
    """Called by a lane that has nothing left to do, or has ended."""
    on_stop: Callable[[], None] = _nothing
    """Called by a lane at the first reply that sets ``stop_reason``."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._authorization = self.credential.authorization()
        self.requests = self._shape()
        self.pace_per_s = self.terms.pace_per_s if self.pace_per_s is None else self.pace_per_s
        self._arrange(self.shards)

    # --- what is sent ------------------------------------------------------------------------------------

    def _shape(self) -> Requests:
        templates = [self._resolved(template) for template in self.templates]
        return Requests(shape_of(self.head, self.path_prefix, self._authorization, templates))

    def _resolved(self, template: RequestTemplate) -> RequestTemplate:
        """A relative expiration (``+3600``) becomes the absolute time APNs wants."""
        headers = tuple(
            (name, str(int(self.clock.time()) + int(value)) if name == "apns-expiration" and value[0] == "+" else value)
            for name, value in template.headers
        )
        return RequestTemplate(template.provider, template.variant, headers, template.body)

    @property
    def authorization(self) -> str | None:
        """The credential the requests carry now."""
        return self._authorization

    def renew(self) -> bool:
        """Takes up a renewed credential, if there is one. Returns whether there was."""
        with self._lock:
            fresh = self.credential.authorization()
            if fresh == self._authorization:
                return False
            self._authorization = fresh
            self.requests = self._shape()
            # After the change: a volley that began before it may have taken either.
            self.renewed_ns = self.clock.monotonic_ns()
            return True

    def refused(self, sent_ns: int) -> bool:
        """The provider called the credential of a request written at ``sent_ns`` expired. Is there a newer one?"""
        with self._lock:
            return sent_ns <= self.renewed_ns or self.credential.refused(self._authorization)

    # --- whose rows --------------------------------------------------------------------------------------

    def _arrange(self, shards: Sequence[ShardRows]) -> None:
        ordered = sorted(shards, key=lambda shard: shard.base)
        # In one store: lanes look a row up while another thread adds a shard.
        self._table = [shard.base for shard in ordered], ordered
        self.shards = ordered

    def hold(self, shard: ShardRows) -> None:
        """Adds a shard, or puts it in the place of the one that has the same rows."""
        with self._lock:
            self._arrange([*(other for other in self.shards if other.base != shard.base), shard])

    def forget(self, shard: ShardRows) -> None:
        """Takes a shard out again of which nothing was sent."""
        with self._lock:
            self._arrange([other for other in self.shards if other is not shard])
        self.drop(shard)

    def drop(self, shard: ShardRows) -> None:
        """Sends nothing more of a shard. Replies to what is in flight are still taken."""
        shard.gone = True
        self.chunks.discard(shard)
        self.drops += 1

    def shard_of(self, row: int) -> ShardRows:
        """The shard a journal row belongs to."""
        bases, shards = self._table
        return shards[bisect_right(bases, row) - 1]

    # --- when --------------------------------------------------------------------------------------------

    def set_go(self, go_ns: int, origin_ns: int, window_left_s: float | None = None) -> None:
        """Notes the moment of GO; relative expirations count from here, not from arming hours before.

        The window ends ``window_left_s`` later, by default the whole window of the terms.
        """
        self.go_ns = go_ns
        # A presser's clock may be ahead of ours; no reply comes before GO.
        self.origin_ns = min(origin_ns, go_ns)
        self.window_ends_ns = go_ns + int((self.terms.window_s if window_left_s is None else window_left_s) * 1e9)
        with self._lock:
            self._authorization = self.credential.authorization()
            self.requests = self._shape()

    def may_send(self, now_ns: int) -> bool:
        """Whether anything may leave now."""
        return not self.held and now_ns < self.lease_ns and now_ns < self.window_ends_ns and not self.halted

    def stop(self, reason: Reason) -> None:
        """The provider will refuse every row: nothing more is sent, or nothing until somebody has decided."""
        first = self.stop_reason is None
        if first:
            self.stop_reason = reason
        if self.terms.pauses:
            self.held = self.held or self.heeds_stops
            if first:
                self.on_stop()
            return
        if self.stopped is None:
            self.stopped = reason
        self.chunks.clear()

    def abort(self) -> None:
        """The operator changed their mind: nothing more is sent; what is in flight is waited for."""
        self.aborted.set()
        self.chunks.clear()

    @property
    def halted(self) -> bool:
        """Whether sending has ended early."""
        return self.stopped is not None or self.aborted.is_set()
