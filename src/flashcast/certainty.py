"""How sure it is what became of a row, where several workers tell of it: the surest word counts.

A row can stand in several journals or outcome files: its shard's owner died, was taken for dead, or handed it over. The
obvious way, the last owner wins, would let a guess (the new owner's "that worker is lost") hide what the old one knows.

    8  accepted                         a provider took it, whatever anybody else says
    7  rejected
    6  unknown, but for lost workers    perhaps taken: so it must not be called (in flight at a crash is unknown)
    5  failed                           surely not taken by this one; which of two sent it last is not known
    4  expired
    3  unsent, with a reason            its owner knows that it did not go out
    2  unknown: the worker was lost     a guess by somebody else
    1  bytes that mean nothing
    0  unsent, without a reason         nothing is known
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast.outcomes import Outcome, Reason


def _table() -> NDArray[np.uint8]:
    ranks = np.ones((256, 256), np.uint8)
    ranks[Outcome.ACCEPTED] = 8
    ranks[Outcome.REJECTED] = 7
    ranks[[Outcome.UNKNOWN, Outcome.IN_FLIGHT]] = 6
    ranks[Outcome.UNKNOWN, Reason.WORKER_LOST.code] = 2
    ranks[Outcome.FAILED] = 5
    ranks[Outcome.EXPIRED] = 4
    ranks[Outcome.UNSENT] = 3
    ranks[Outcome.UNSENT, Reason.NONE.code] = 0
    return ranks.reshape(-1)


_TABLE: Final = _table()


def certainty(outcome: NDArray[np.uint8], reason: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8[rows], the greater the surer, from the rows' bytes of outcome and reason."""
    ranks: NDArray[np.uint8] = _TABLE[(outcome.astype(np.uint16) << np.uint16(8)) | reason]
    return ranks
