"""The books of several simulators as one: those of a launch that was interrupted and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flashcast.simulator.ledger import LedgerCounts


@dataclass(frozen=True)
class MergedLedger:
    """What `LedgerCounts` says, summed by token; the report compares it with the journal.

    ``fingerprint`` uint64, ``received_by_token`` and ``accepted_by_token`` uint32, one entry per token.
    """

    received: int
    distinct: int
    duplicates: int
    malformed: int
    fingerprint: NDArray[np.uint64] = field(repr=False)
    received_by_token: NDArray[np.uint32] = field(repr=False)
    accepted_by_token: NDArray[np.uint32] = field(repr=False)


def merged(ledgers: Sequence[LedgerCounts]) -> MergedLedger:
    """One set of books. A token that two simulators received counts as received twice."""
    every = np.concatenate([ledger.fingerprint for ledger in ledgers])
    fingerprint, place = np.unique(every, return_inverse=True)
    received = _summed([ledger.received_by_token for ledger in ledgers], place, fingerprint.size)
    accepted = _summed([ledger.accepted_by_token for ledger in ledgers], place, fingerprint.size)
    total = sum(ledger.received for ledger in ledgers)
    distinct = int(np.count_nonzero(received))
    return MergedLedger(
        received=total,
        distinct=distinct,
        duplicates=total - distinct,
        malformed=sum(ledger.malformed for ledger in ledgers),
        fingerprint=fingerprint,
        received_by_token=received,
        accepted_by_token=accepted,
    )


def _summed(parts: Sequence[NDArray[np.uint32]], place: NDArray[np.intp], size: int) -> NDArray[np.uint32]:
    sums = np.zeros(size, np.uint32)
    np.add.at(sums, place, np.concatenate(parts))
    return sums
