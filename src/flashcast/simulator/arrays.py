"""What the kernels keep: the columns of their arrays, and the arrays of a connection, a provider, the process."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.simulator.replies import TEMPLATE_BYTES_MAX

ROUND: Final = 256
NEVER: Final = 2**62
"""The due time of a silent stream."""
PENDING_MAX: Final = 8_192
"""Unanswered requests of a connection: the stream limit, and what was under way when it was lowered."""
ROOM: Final = TEMPLATE_BYTES_MAX + 64
OUT_BYTES: Final = 4 * ROUND * ROOM
MEMO_BLOCKS: Final = 16
MEMO_BYTES_MAX: Final = 2_048
"""A block without its path: where the client may keep no table, it carries a 1,024-character access token."""
BODIES: Final = 8
BODY_BYTES_MAX: Final = 8_192
SKELETONS_MAX: Final = 64
FRAME_BYTES_MAX: Final = 16_384

# A connection's numbers, int64[STATE].
S_LAST = 0  # highest stream id taken
S_WINDOW = 1  # what the client may still send on the connection
S_STREAM_WINDOW = 2  # what it may send on a new stream
S_OPEN = 3  # streams open, as the client can know at most
S_CLOSING = 4  # of these, answered in `out`
S_LIMIT = 5  # streams it may open; NEVER before it acknowledged one
S_HANDLED = 6  # requests settled on this connection
S_STOP_AT = 7  # let Python act when that many are
S_SEND_WINDOW = 8  # what we may still send on the connection
S_PENDING = 9  # rows of `pending` in use
S_NEXT_DUE = 10
S_OUT = 11  # bytes of `out` in use
S_TAKEN_BYTES = 12  # DATA bytes not yet given back to the connection window
S_DIRECT = 13  # 1: replies fit the client's stream window
S_MEMOS = 14
S_MEMO_NEXT = 15
S_SIZE_UPDATE = 16  # 1: the next header block must begin with a table size update
S_SILENT = 17
STATE: Final = 18

# A provider's numbers, int64[KNOBS].
K_PROVIDER = 0  # 0 APNs, 1 FCM
K_QUOTA = 1  # requests left; negative: no quota
K_QUOTA_ROW = 2
K_NO_DELAY = 3
K_ODD_SHARE = 4  # of 65,536
K_INTERLEAVE = 5
K_BODY_NEXT = 6
K_SKELETONS = 7
K_TICK_NS = 8
K_IDS = 9  # replies written, for their ids
KNOBS: Final = 10

B_PREFIX, B_SUFFIX, B_PATH, B_PAYLOAD_MAX, B_CONTENT_LENGTH = range(5)
MEMO_COLUMNS: Final = 5
P_DUE, P_SID, P_TEMPLATE, P_ID_HIGH, P_ID_LOW = range(5)
LOWER_CASE: Final = 1 << 20
"""Added to a template's number: the reply's UUID is in lower case, as the request wrote it."""
PENDING_ROWS: Final = 5

# Why `scan` stopped.
NEED_DATA, SLOW, OUT_FULL, EVENT, CUT, SILENT = range(6)


class Wire(NamedTuple):
    """One connection's arrays."""

    state: NDArray[np.int64]
    memo: NDArray[np.int64]
    memo_bytes: NDArray[np.uint8]
    pending: NDArray[np.int64]


class Office(NamedTuple):
    """One provider's arrays: the verdict table, the reply templates, what was judged before."""

    knobs: NDArray[np.int64]
    salt: NDArray[np.uint64]
    bounds: NDArray[np.uint64]
    bound_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    templates: NDArray[np.uint8]
    meta: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    bodies: NDArray[np.uint8]
    body_bytes: NDArray[np.int64]
    skeletons: NDArray[np.uint64]
    answers: NDArray[np.int64]


class Desk(NamedTuple):
    """What every connection of the process shares in turn: the output buffer and the round's notes."""

    out: NDArray[np.uint8]
    sids: NDArray[np.int64]
    prints: NDArray[np.uint64]
    ends: NDArray[np.int64]
    hold: NDArray[np.uint8]


def new_desk() -> Desk:
    return Desk(
        np.zeros(OUT_BYTES, np.uint8),
        np.zeros(ROUND, np.int64),
        np.zeros(ROUND, np.uint64),
        np.zeros((2, ROUND), np.int64),
        np.zeros((8, ROOM), np.uint8),
    )


def new_wire() -> Wire:
    return Wire(
        np.zeros(STATE, np.int64),
        np.zeros((MEMO_BLOCKS, MEMO_COLUMNS), np.int64),
        np.zeros((MEMO_BLOCKS, MEMO_BYTES_MAX + 8), np.uint8),
        np.zeros((PENDING_ROWS, PENDING_MAX), np.int64),
    )
