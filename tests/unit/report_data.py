"""A snapshot in memory and the rows of a launch that never was, for the tests of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast import latency
from flashcast.digest import fingerprints
from flashcast.model import Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.report.facts import LaunchFacts
from flashcast.report.ledger import NO_REPLY

STARTED_AT = 1_790_000_000.25


class Strings(NamedTuple):
    data: NDArray[np.uint8]
    offsets: NDArray[np.uint32]


@dataclass(frozen=True)
class Rows:
    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]


@dataclass(frozen=True)
class Ledger:
    received: int
    distinct: int
    duplicates: int
    malformed: int
    fingerprint: NDArray[np.uint64]
    received_by_token: NDArray[np.uint32]
    accepted_by_token: NDArray[np.uint32]


@dataclass
class Shard:
    provider: Provider
    rows: int
    base: int
    tokens: Strings
    user_ids: Strings
    variants: NDArray[np.uint8]


@dataclass
class Snapshot:
    shards: tuple[Shard, ...]
    name: str = "Final whistle"
    digest: str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    window_s: float = 60.0
    unknown_policy: UnknownPolicy = UnknownPolicy.DROP

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def templates(self) -> dict[Provider, tuple[RequestTemplate, ...]]:
        return {p: tuple(RequestTemplate(p, name, (), ()) for name in ("en", "de")) for p in Provider}


def strings(texts: list[str]) -> Strings:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.uint32)
    return Strings(np.frombuffer(b"".join(encoded), np.uint8), offsets)


def snapshot(apns: int = 5, fcm: int = 3, shard_rows: int = 4) -> Snapshot:
    """APNs shards first, then FCM; no shard longer than ``shard_rows``."""
    shards: list[Shard] = []
    base = 0
    for provider, count in ((Provider.APNS, apns), (Provider.FCM, fcm)):
        for start in range(0, count, shard_rows):
            rows = min(shard_rows, count - start)
            numbers = range(base, base + rows)
            tokens = [f"{n:064x}" if provider is Provider.APNS else f"fcm-token-{n:_>40}" for n in numbers]
            users = strings([f"user-{n}" for n in numbers])
            variants = (np.arange(rows) % 2).astype(np.uint8)
            shards.append(Shard(provider, rows, base, strings(tokens), users, variants))
            base += rows
    return Snapshot(tuple(shards))


def rows(*ends: tuple[Outcome, Reason], reply_ms: list[int] | None = None) -> Rows:
    """A row per pair; replies come 10 ms apart unless ``reply_ms`` tells."""
    times = [10 * i for i in range(len(ends))] if reply_ms is None else reply_ms
    return Rows(
        np.array([outcome for outcome, _ in ends], np.uint8),
        np.array([reason.code for _, reason in ends], np.uint8),
        np.array(times, np.uint32),
    )


def accepted(count: int) -> Rows:
    return rows(*[(Outcome.ACCEPTED, Reason.NONE)] * count)


def facts(**changes: object) -> LaunchFacts:
    histogram = latency.empty()
    histogram[latency.bucket_of(40_000)] = 90
    histogram[latency.bucket_of(80_000)] = 10
    told: dict[str, object] = {
        "launch": "20260921-141320-k3f9",
        "destination": "simulator",
        "started_at": STARTED_AT,
        "latency_us_histogram": histogram,
        "peak_rss_mib": 612.4,
        "go_to_first_request_ms": 3.21,
        "go_to_last_reply_s": 2.5,
        "sender_cpu_us_per_notification": 0.512,
        "seal_s": 9.81,
        "arm_s": 0.44,
        "connections": {Provider.APNS: 64, Provider.FCM: 180},
    }
    return LaunchFacts(**(told | changes))  # type: ignore[arg-type]


def simulator_ledger(of: Snapshot, taken: list[int], received: list[int] | None = None) -> Ledger:
    """The ledger of a simulator that took row i ``taken[i]`` times, in an order of its own."""
    prints = np.concatenate([_prints(shard.tokens) for shard in of.shards])
    times_taken = np.array(taken, np.uint32)
    times_received = times_taken if received is None else np.array(received, np.uint32)
    came = np.flatnonzero(times_received)[::-1]
    return Ledger(
        received=int(times_received.sum()),
        distinct=int(came.size),
        duplicates=int(np.maximum(times_taken.astype(np.int64) - 1, 0).sum()),
        malformed=0,
        fingerprint=prints[came],
        received_by_token=times_received[came],
        accepted_by_token=times_taken[came],
    )


def _prints(tokens: Strings) -> NDArray[np.uint64]:
    out = np.empty(tokens.offsets.size - 1, np.uint64)
    fingerprints(tokens.data, tokens.offsets, out)
    return out


__all__ = ["NO_REPLY", "STARTED_AT", "Rows", "accepted", "facts", "rows", "simulator_ledger", "snapshot", "strings"]
