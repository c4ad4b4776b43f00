"""What each token got: a hash table of 16-byte slots, so that one request costs one cache miss.

    word 0   fingerprint of the token (0: the slot is free)
    word 1   bits  0-15  requests judged            16-31  requests received
                  32-47  requests accepted          48-55  last reason (Reason.code)
                  56-63  provider + 1

Counts stop at 65,535. The table doubles when it is 60 % full. It holds no tokens.

*Received* is a request processed to a final verdict: accepted, or refused for good. An answer after which the
request may safely be repeated (429, REFUSED_STREAM, APNs 500 and 503, an expired credential) is *judged* only.
"""

# mypy: disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.errors import SnapshotError
from flashcast.model import Provider
from flashcast.outcomes import Reason

SLOTS_FIRST: Final = 1 << 17
SLOTS_MAX: Final = 1 << 28
"""4 GiB: 160 million tokens."""
LOAD_MAX: Final = 0.6
COUNT_MAX: Final = 0xFFFF

PROVIDERS: Final = (Provider.APNS, Provider.FCM)
G_TOKENS = 0
"""Slots in use; then, for each provider from 8 and 16 on:"""
G_REQUESTS, G_JUDGED, G_RECEIVED, G_DISTINCT, G_ACCEPTED, G_MALFORMED, G_CONNECTIONS, G_OVER_LIMIT = range(8)
G_BASE: Final = 8


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def home(fp: np.uint64, slots: int) -> int:
    """The first slot to look in. The low bits of a fingerprint are as good as any."""
    return np.int64(fp & np.uint64(slots - 1))  # type: ignore[return-value]


@njit(nogil=True, _nrt=False, error_model="numpy")
def find(table: NDArray[np.uint64], fp: np.uint64) -> int:
    """The slot of ``fp``, or the free one where it belongs. The table always has free slots."""
    slots = table.size >> 1
    i = home(fp, slots)
    while table[2 * i] != fp and table[2 * i] != np.uint64(0):
        i += 1
        if i == slots:
            i = 0
    return i


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def rehash(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> None:
    """Moves every entry of ``old`` into the empty, larger ``new``."""
    for i in range(old.size >> 1):
        if old[2 * i] != np.uint64(0):
            j = find(new, old[2 * i])
            new[2 * j] = old[2 * i]
            new[2 * j + 1] = old[2 * i + 1]


@dataclass(frozen=True)
class LedgerCounts:
    """A simulator's books.

    ``received`` requests processed to a final verdict; ``distinct`` tokens among them; ``duplicates`` their
    difference; ``accepted`` of them taken; ``malformed`` requests and connections with a protocol fault;
    ``requests`` all requests read, answered or not; ``by_reason`` answers by reason, success under "accepted".
    The arrays have one entry per token seen: ``fingerprint`` uint64 (`flashcast.digest.fingerprint64`),
    ``judged``, ``received_by_token`` and ``accepted_by_token`` uint32, ``reason`` uint8 (last `Reason.code`),
    ``provider`` uint8 (0 APNs, 1 FCM).
    """

    received: int
    distinct: int
    duplicates: int
    accepted: int
    malformed: int
    requests: int
    by_reason: dict[str, int]
    by_provider: dict[str, dict[str, int]]
    fingerprint: NDArray[np.uint64] = field(repr=False)
    judged: NDArray[np.uint32] = field(repr=False)
    received_by_token: NDArray[np.uint32] = field(repr=False)
    accepted_by_token: NDArray[np.uint32] = field(repr=False)
    reason: NDArray[np.uint8] = field(repr=False)
    provider: NDArray[np.uint8] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The counts without the arrays, for JSON."""
        return {
            "received": self.received,
            "distinct": self.distinct,
            "duplicates": self.duplicates,
            "accepted": self.accepted,
            "malformed": self.malformed,
            "requests": self.requests,
            "by_reason": self.by_reason,
            "by_provider": self.by_provider,
        }


class Ledger:
    """The table, and the counters beside it that the kernels keep."""

    def __init__(self, expected: int = 0) -> None:
        slots = SLOTS_FIRST
        while slots * LOAD_MAX < expected and slots < SLOTS_MAX:
            slots *= 2
        self.table: NDArray[np.uint64] = np.zeros(2 * slots, np.uint64)
        self.totals: NDArray[np.int64] = np.zeros(G_BASE * (1 + len(PROVIDERS)), np.int64)
        self.answers: NDArray[np.int64] = np.zeros((len(PROVIDERS), 256), np.int64)

    def __repr__(self) -> str:
        return f"<Ledger {int(self.totals[G_TOKENS])} tokens in {self.table.size // 2} slots>"

    def room_for(self, more: int) -> None:
        """Grows the table so that ``more`` new tokens fit."""
        slots = self.table.size // 2
        wanted = slots
        while (int(self.totals[G_TOKENS]) + more) > wanted * LOAD_MAX:
            wanted *= 2
        if wanted > SLOTS_MAX:
            raise MemoryError(f"the simulator's ledger is bounded at {int(SLOTS_MAX * LOAD_MAX)} tokens")
        if wanted != slots:
            table = np.zeros(2 * wanted, np.uint64)
            rehash(self.table, table)
            self.table = table

    def note(self, provider: Provider, what: int, more: int = 1) -> None:
        """Adds to one of the G_ counters of a provider."""
        self.totals[G_BASE * (1 + PROVIDERS.index(provider)) + what] += more

    def summary(self) -> dict[str, Any]:
        """The counts alone, without going through the table."""
        return _summary(self.totals, self.answers)

    def counts(self) -> LedgerCounts:
        """The books as they stand. Copies one array per column."""
        used = np.flatnonzero(self.table[0::2])
        word = self.table[1::2][used]
        return _counts(_summary(self.totals, self.answers), {
            "fingerprint": self.table[0::2][used],
            "judged": (word & 0xFFFF).astype(np.uint32),
            "received": ((word >> 16) & 0xFFFF).astype(np.uint32),
            "accepted": ((word >> 32) & 0xFFFF).astype(np.uint32),
            "reason": ((word >> 48) & 0xFF).astype(np.uint8),
            "provider": ((word >> 56) - 1).astype(np.uint8),
        })  # fmt: skip

    def save(self, path: Path) -> None:
        """Writes the books as .npz. Raises OSError."""
        counts = self.counts()
        with path.open("wb") as file:
            np.savez(
                file, fingerprint=counts.fingerprint, judged=counts.judged, received=counts.received_by_token,
                accepted=counts.accepted_by_token, reason=counts.reason, provider=counts.provider,
                totals=self.totals, answers=self.answers,
            )  # fmt: skip


def load_ledger(path: Path) -> LedgerCounts:
    """Reads what `Ledger.save` wrote. Raises SnapshotError where it is no such file."""
    try:
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        return _counts(_summary(columns["totals"], columns["answers"]), columns)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SnapshotError(f"{path} is not a simulator's ledger: {error}") from error


def _summary(totals: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, Any]:
    by_provider: dict[str, dict[str, int]] = {}
    by_reason: dict[str, int] = {}
    for i, provider in enumerate(PROVIDERS):
        own = totals[G_BASE * (1 + i) : G_BASE * (2 + i)]
        by_provider[provider.value] = {
            "received": int(own[G_RECEIVED]),
            "distinct": int(own[G_DISTINCT]),
            "duplicates": int(own[G_RECEIVED] - own[G_DISTINCT]),
            "accepted": int(own[G_ACCEPTED]),
            "malformed": int(own[G_MALFORMED]),
            "requests": int(own[G_REQUESTS]),
            "connections": int(own[G_CONNECTIONS]),
            "over_stream_limit": int(own[G_OVER_LIMIT]),
        }
        for code in np.flatnonzero(answers[i]):
            word = Reason.from_code(int(code)).value or "accepted"
            by_reason[word] = by_reason.get(word, 0) + int(answers[i][code])
    keys = ("received", "distinct", "duplicates", "accepted", "malformed", "requests")
    total = {key: sum(own[key] for own in by_provider.values()) for key in keys}
    return {**total, "by_reason": by_reason, "by_provider": by_provider}


def _counts(summary: dict[str, Any], columns: dict[str, NDArray[Any]]) -> LedgerCounts:
    return LedgerCounts(
        **summary, fingerprint=columns["fingerprint"], judged=columns["judged"], received_by_token=columns["received"],
        accepted_by_token=columns["accepted"], reason=columns["reason"], provider=columns["provider"],
    )  # fmt: skip
