"""What lanes are told to do: one provider's part of a launch, and what it has come to so far."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flashcast.clock import Clock
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.limits import WINDOW_S_DEFAULT
from flashcast.model import Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import Reason
from flashcast.providers.credentials import Credential
from flashcast.wire.connection import Requests
from flashcast.wire.template import shape_of


@dataclass(frozen=True)
class RowArrays:
    """The journal's arrays, over all rows of the launch: uint8, uint8, uint8, uint32."""

    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    attempts: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]


@dataclass(frozen=True)
class Terms:
    """The rules of a launch that do not depend on the provider."""

    policy: UnknownPolicy = UnknownPolicy.DROP
    window_s: float = WINDOW_S_DEFAULT
    reply_deadline_s: float = 10.0
    pace_per_s: float | None = None
    """Messages per second to this provider, all lanes together; None is unlimited."""


@dataclass
class Job:
    """One provider's part of a launch. Lanes share it; what they write is theirs alone or guarded."""

    provider: Provider
    shards: Sequence[ShardRows]
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
    """The first GO, from which reply times count; earlier than ``go_ns`` in a launch that was resumed."""
    renewed_ns: int = -1
    """Requests written before this carry an earlier credential than the one in force."""
    stopped: Reason | None = None
    aborted: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._bases = [shard.base for shard in self.shards]
        self._lock = threading.Lock()
        self._authorization = self.credential.authorization()
        self.requests = self._shape()

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

    def set_go(self, go_ns: int, origin_ns: int) -> None:
        """Notes the moment of GO; relative expirations count from here, not from arming hours before."""
        self.go_ns = go_ns
        self.origin_ns = origin_ns
        with self._lock:
            self._authorization = self.credential.authorization()
            self.requests = self._shape()

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

    def shard_of(self, row: int) -> ShardRows:
        """The shard a journal row belongs to."""
        return self.shards[bisect_right(self._bases, row) - 1]

    def window_ends_ns(self) -> int:
        """When the window closes, on the monotonic clock."""
        return self.go_ns + int(self.terms.window_s * 1e9)

    def stop(self, reason: Reason) -> None:
        """The provider will refuse every row: nothing more is sent."""
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
