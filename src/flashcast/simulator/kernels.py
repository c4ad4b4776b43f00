"""The hot loops: read a run of ordinary requests, judge them, write or delay their replies.

The problem: the sender writes over a million requests a second and the simulator has one core. The obvious
answer, an HTTP/2 library, makes several objects per request. Here a kernel walks the received bytes and takes
every request of the plain shape

    HEADERS(END_HEADERS) + DATA(END_STREAM), next stream id, a header block judged before, a body judged before

and stops at the first frame that is anything else, which `connection` then handles in Python, in order. A
header block is compared with the ones judged on this connection (a `:path` literal in it may differ in its
device token); the memo holds as long as the decoder's dynamic table does not change, which only a block seen
by the slow path can do. Left out on purpose: anything that would need HPACK decoding.

The work goes in rounds of `ROUND` requests: parse, touch the ledger's slots (so that their cache misses
overlap), settle.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.digest import mix64
from flashcast.simulator.intrinsics import (
    all_hex,
    all_token,
    fingerprint,
    hex_digits,
    load64,
    memcpy,
    same_bytes,
    store64,
    token_byte,
)
from flashcast.simulator.json_kernel import skeleton
from flashcast.simulator.ledger import (
    G_ACCEPTED,
    G_BASE,
    G_DISTINCT,
    G_JUDGED,
    G_RECEIVED,
    G_REQUESTS,
    G_TOKENS,
    find,
    home,
)
from flashcast.simulator.replies import (
    M_BLOCK_AT,
    M_DATA_BYTES,
    M_HEADERS_AT,
    M_ID_AT,
    M_LENGTH,
    M_SID0,
    M_SIDS,
    M_SPLIT_AT,
    TEMPLATE_BYTES_MAX,
)
from flashcast.simulator.verdict import (
    KIND_CUT,
    KIND_SILENCE,
    V_ACCEPTED,
    V_ATTEMPTS,
    V_KIND,
    V_REASON,
    V_RECEIVED,
    V_STYLES,
    V_TEMPLATE,
)

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
PENDING_ROWS: Final = 5

# Why `scan` stopped.
NEED_DATA, SLOW, OUT_FULL, EVENT, CUT, SILENT = range(6)

_PATH_PREFIX = np.frombuffer(b"/3/device/" + bytes(8), np.uint8)
_FCM_PREFIX = np.frombuffer(b'{"message":{"token":"' + bytes(8), np.uint8)
_APNS_TOKEN_MIN, _APNS_TOKEN_MAX = 64, 200
_FCM_TOKEN_MIN, _FCM_TOKEN_MAX = 32, 4_096


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


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _write32(out: NDArray[np.uint8], at: int, value: int) -> None:
    out[at] = (value >> 24) & 0x7F
    out[at + 1] = (value >> 16) & 0xFF
    out[at + 2] = (value >> 8) & 0xFF
    out[at + 3] = value & 0xFF


@njit(nogil=True, _nrt=False, error_model="numpy")
def _write_id(out: NDArray[np.uint8], at: int, provider: int, high: np.uint64, low: np.uint64) -> None:
    if provider == 1:
        store64(out, at, hex_digits(low >> np.uint64(32), 39))
        store64(out, at + 8, hex_digits(low, 39))
        return
    # 8-4-4-4-12 digits: the stores overlap, the dashes are put back.
    b, c, d = hex_digits(high, 7), hex_digits(low >> np.uint64(32), 7), hex_digits(low, 7)
    store64(out, at, hex_digits(high >> np.uint64(32), 7))
    store64(out, at + 9, b)
    store64(out, at + 14, b >> np.uint64(32))
    store64(out, at + 19, c)
    out[at + 13] = out[at + 18] = out[at + 23] = 45
    store64(out, at + 24, c >> np.uint64(32))
    store64(out, at + 28, d)


@njit(nogil=True, _nrt=False, error_model="numpy")
def _emit(out: NDArray[np.uint8], o: int, sid: int, t: int, high: int, low: int, s: NDArray[np.int64], office: Office) -> int:
    """Writes one reply at ``o``; returns the index after it. The caller left `ROOM`."""
    m = office.meta[t]
    length = m[M_LENGTH]
    shift_from = length
    if s[S_SIZE_UPDATE] != 0 and m[M_HEADERS_AT] >= 0:
        # RFC 7541 section 4.2: a smaller table is acknowledged at the start of the next header block.
        s[S_SIZE_UPDATE] = 0
        b = m[M_BLOCK_AT]
        shift_from = b
        memcpy(out, o, office.templates[t], 0, b)
        out[o + b] = 0x20
        memcpy(out, o + b + 1, office.templates[t], b, length - b)
        h = o + m[M_HEADERS_AT]
        size = (np.int64(out[h]) << 16 | np.int64(out[h + 1]) << 8 | np.int64(out[h + 2])) + 1
        out[h], out[h + 1], out[h + 2] = size >> 16, (size >> 8) & 0xFF, size & 0xFF
        length += 1
    else:
        memcpy(out, o, office.templates[t], 0, length)
    for k in range(m[M_SIDS]):
        at = m[M_SID0 + k]
        _write32(out, o + at + (1 if at >= shift_from else 0), sid)
    at = m[M_ID_AT]
    if at >= 0:
        h64, l64 = np.uint64(high), np.uint64(low)
        if high == 0 and low == 0:
            office.knobs[K_IDS] += 1
            h64 = office.salt[1]
            l64 = mix64(office.salt[1] ^ np.uint64(office.knobs[K_IDS]))
        _write_id(out, o + at + (1 if at >= shift_from else 0), office.knobs[K_PROVIDER], h64, l64)
    return o + length


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _saturate(word: np.uint64, shift: int) -> np.uint64:
    field = (word >> np.uint64(shift)) & np.uint64(0xFFFF)
    return word + (np.uint64(1) << np.uint64(shift)) if field != np.uint64(0xFFFF) else word


@njit(nogil=True, _nrt=False, error_model="numpy")
def _judge(fp: np.uint64, forced: int, office: Office, table: NDArray[np.uint64], totals: NDArray[np.int64]) -> int:
    """The verdict row of one request, noted in the ledger. ``forced`` >= 0 is a row decided before; ``fp`` 0: no token."""
    knobs, rows = office.knobs, office.rows
    own = G_BASE * (1 + knobs[K_PROVIDER])
    totals[own + G_REQUESTS] += 1
    if knobs[K_QUOTA] >= 0:
        if knobs[K_QUOTA] == 0:
            office.answers[rows[knobs[K_QUOTA_ROW], V_REASON]] += 1
            return knobs[K_QUOTA_ROW]
        knobs[K_QUOTA] -= 1
    row = max(forced, 0)
    if fp == np.uint64(0):
        office.answers[rows[row, V_REASON]] += 1
        return row
    slot = find(table, fp)
    word = table[2 * slot + 1]
    if forced < 0 and office.bounds.size > 0:
        h = mix64(fp ^ office.salt[0])
        for k in range(office.bounds.size):
            if h < office.bounds[k]:
                row = office.bound_rows[k]
                break
        most = rows[row, V_ATTEMPTS]
        if most > 0:
            times = np.uint64(1) + mix64(h) % np.uint64(most)
            if (word & np.uint64(0xFFFF)) >= times:
                row = 0
    if table[2 * slot] == np.uint64(0):
        table[2 * slot] = fp
        totals[G_TOKENS] += 1
    totals[own + G_JUDGED] += 1
    received = word & np.uint64(0xFFFF0000)
    word = _saturate(word, 0)
    if rows[row, V_RECEIVED] != 0:
        totals[own + G_RECEIVED] += 1
        if received == np.uint64(0):
            totals[own + G_DISTINCT] += 1
        word = _saturate(word, 16)
    if rows[row, V_ACCEPTED] != 0:
        totals[own + G_ACCEPTED] += 1
        word = _saturate(word, 32)
    reason = rows[row, V_REASON]
    office.answers[reason] += 1
    word = (word & np.uint64(0xFFFFFFFFFFFF)) | (np.uint64(reason) << np.uint64(48))
    table[2 * slot + 1] = word | (np.uint64(knobs[K_PROVIDER] + 1) << np.uint64(56))
    return row


@njit(nogil=True, _nrt=False, error_model="numpy")
def _answer(fp: np.uint64, sid: int, row: int, now: int, high: int, low: int, wire: Wire, office: Office, out: NDArray[np.uint8]) -> None:
    """Writes the reply of verdict ``row``, or puts it aside until it is due. The caller left `ROOM` in both."""
    s, rows, knobs = wire.state, office.rows, office.knobs
    h = mix64(fp + office.salt[0])
    t = rows[row, V_TEMPLATE]
    if rows[row, V_STYLES] > 1 and np.int64(h & np.uint64(0xFFFF)) < knobs[K_ODD_SHARE]:
        t += 1 + np.int64((h >> np.uint64(16)) % np.uint64(rows[row, V_STYLES] - 1))
    silent = rows[row, V_KIND] == KIND_SILENCE
    body = office.meta[t, M_DATA_BYTES]
    if knobs[K_NO_DELAY] != 0 and not silent and s[S_DIRECT] != 0 and s[S_SEND_WINDOW] >= body:
        s[S_OUT] = _emit(out, s[S_OUT], sid, t, high, low, s, office)
        s[S_SEND_WINDOW] -= body
        s[S_CLOSING] += 1
        return
    due = np.int64(NEVER)
    if silent:
        s[S_SILENT] += 1
    else:
        due = now + office.latency_ns[np.int64((h >> np.uint64(32)) % np.uint64(office.latency_ns.size))]
        # Rounded up, so that replies of a moment leave in one write.
        due = (due + knobs[K_TICK_NS] - 1) // knobs[K_TICK_NS] * knobs[K_TICK_NS]
    n = s[S_PENDING]
    p = wire.pending
    p[P_DUE, n], p[P_SID, n], p[P_TEMPLATE, n], p[P_ID_HIGH, n], p[P_ID_LOW, n] = due, sid, t, high, low
    s[S_PENDING] = n + 1
    s[S_NEXT_DUE] = min(s[S_NEXT_DUE], due)


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def settle(
    fp: np.uint64, sid: int, forced: int, now: int, high: int, low: int,
    wire: Wire, office: Office, desk: Desk, table: NDArray[np.uint64], totals: NDArray[np.int64],
) -> int:  # fmt: skip
    """Judges and answers one request of the slow path; its stream is open already. Returns the verdict row.

    ``fp`` the token's fingerprint, 0 where the request has none; ``forced`` a verdict row, or -1 to let the
    token decide; ``high``, ``low`` the UUID of a request that brought its own, else 0. For a row of kind `KIND_CUT`
    nothing is answered. The caller left room in the output, the pending rows and the table.
    """
    row = _judge(fp, forced, office, table, totals)
    wire.state[S_HANDLED] += 1
    if office.rows[row, V_KIND] != KIND_CUT:
        _answer(fp, sid, row, now, high, low, wire, office, desk.out)
    return row


@njit(nogil=True, _nrt=False, error_model="numpy")
def _known_body(buf: NDArray[np.uint8], start: int, at: int, stop: int, office: Office) -> bool:
    """Whether the body ``buf[start:stop]`` was judged before, in what follows ``at`` (after an FCM token)."""
    size = stop - at
    for k in range(BODIES):
        if office.body_bytes[k] == size and same_bytes(buf, at, office.bodies[k], 0, size):
            return True
    shape = skeleton(buf, start, stop)
    for k in range(office.knobs[K_SKELETONS]):
        if office.skeletons[k] == shape and shape != np.uint64(0):
            ring = office.knobs[K_BODY_NEXT]
            if size <= BODY_BYTES_MAX:
                memcpy(office.bodies[ring], 0, buf, at, size)
                office.body_bytes[ring] = size
                office.knobs[K_BODY_NEXT] = (ring + 1) % BODIES
            return True
    return False


@njit(nogil=True, _nrt=False, error_model="numpy")
def _hex_token(buf: NDArray[np.uint8], start: int, stop: int) -> bool:
    size = stop - start
    if size < _APNS_TOKEN_MIN or size > _APNS_TOKEN_MAX or size & 7:
        return False
    good = True
    for i in range(start, stop, 8):
        good &= all_hex(load64(buf, i))
    return good


@njit(nogil=True, _nrt=False, error_model="numpy")
def _fcm_token_end(buf: NDArray[np.uint8], start: int, stop: int) -> int:
    """The index of the quote after the token that begins at ``start``; -1 where it is no plain token."""
    i = start
    while i + 8 <= stop and all_token(load64(buf, i)):
        i += 8
    while i < stop and token_byte(buf[i]):
        i += 1
    if i >= stop or buf[i] != 34 or i - start < _FCM_TOKEN_MIN or i - start > _FCM_TOKEN_MAX:
        return -1
    return i


@njit(nogil=True, _nrt=False, error_model="numpy")
def _path_token(buf: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """The bounds of the device token in the `:path` literal at ``at`` that ends at ``stop``; (0, 0) for any other shape.

    Name index 4, without indexing or never indexed, not Huffman-coded (RFC 7541 section 6.2.2): the length's
    prefix has 7 bits, and a path of 127 bytes and more has a second octet.
    """
    if stop - at < 2 + 10 or (buf[at] != 0x04 and buf[at] != 0x14):
        return 0, 0
    size = np.int64(buf[at + 1])
    start = at + 2
    if size == 127:
        if buf[at + 2] >= 0x80:
            return 0, 0
        size += np.int64(buf[at + 2])
        start += 1
    if size > 127 + 127 or start + size != stop or not same_bytes(buf, start, _PATH_PREFIX, 0, 10):
        return 0, 0
    return start + 10, stop


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _length(buf: NDArray[np.uint8], p: int) -> int:
    return np.int64(buf[p]) << 16 | np.int64(buf[p + 1]) << 8 | np.int64(buf[p + 2])


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _stream(buf: NDArray[np.uint8], p: int) -> int:
    return (np.int64(buf[p + 5]) & 0x7F) << 24 | np.int64(buf[p + 6]) << 16 | np.int64(buf[p + 7]) << 8 | np.int64(buf[p + 8])


@njit(nogil=True, _nrt=False, error_model="numpy")
def _recognise(buf: NDArray[np.uint8], h: int, h_end: int, body_at: int, body_end: int, wire: Wire, office: Office) -> np.uint64:
    """The fingerprint of the token of a request seen whole, if all of it was judged before; else 0."""
    size = h_end - h
    body = body_end - body_at
    s = wire.state
    for k in range(s[S_MEMOS]):
        prefix, suffix = wire.memo[k, B_PREFIX], wire.memo[k, B_SUFFIX]
        has_path = wire.memo[k, B_PATH] != 0
        if size < prefix + suffix or (not has_path and size != prefix):
            continue
        if not same_bytes(buf, h, wire.memo_bytes[k], 0, prefix):
            continue
        if has_path and not same_bytes(buf, h_end - suffix, wire.memo_bytes[k], prefix, suffix):
            continue
        expected = wire.memo[k, B_CONTENT_LENGTH]
        if body > wire.memo[k, B_PAYLOAD_MAX] or (expected >= 0 and expected != body):
            return np.uint64(0)
        if office.knobs[K_PROVIDER] == 0:
            start, stop = _path_token(buf, h + prefix, h_end - suffix)
            if stop == 0 or not _hex_token(buf, start, stop):
                return np.uint64(0)
            body_rest = body_at
        else:
            start = body_at + 21
            if body < 21 + _FCM_TOKEN_MIN or not same_bytes(buf, body_at, _FCM_PREFIX, 0, 21):
                return np.uint64(0)
            stop = _fcm_token_end(buf, start, body_end)
            if stop < 0:
                return np.uint64(0)
            body_rest = stop
        if not _known_body(buf, body_at, body_rest, body_end, office):
            return np.uint64(0)
        fp = fingerprint(buf, start, stop)
        return fp if fp != np.uint64(0) else np.uint64(1)
    return np.uint64(0)


@njit(nogil=True, _nrt=False, error_model="numpy")
def _gather(buf: NDArray[np.uint8], p: int, n: int, most: int, wire: Wire, office: Office, desk: Desk) -> tuple[int, int]:
    """Notes up to ``most`` plain requests from ``buf[p:n]``; returns how many, and why it stopped (-1: ``most``)."""
    s = wire.state
    last = s[S_LAST]
    window = s[S_WINDOW]
    for m in range(most):
        if p + 9 > n:
            return m, NEED_DATA
        size = _length(buf, p)
        # Only END_HEADERS may be set, and the id must be the next one.
        sid = _stream(buf, p)
        if buf[p + 3] != 1 or buf[p + 4] != 4 or sid != last + 2 or size > FRAME_BYTES_MAX or buf[p + 5] >= 0x80:
            return m, SLOW
        d = p + 9 + size
        if d + 9 > n:
            # A HEADERS frame that came alone opens its stream: the client may be waiting for a window.
            return m, SLOW if d == n else NEED_DATA
        body = _length(buf, d)
        if buf[d + 3] != 0 or buf[d + 4] != 1 or _stream(buf, d) != sid or body > FRAME_BYTES_MAX:
            return m, SLOW
        end = d + 9 + body
        if body > s[S_STREAM_WINDOW] or body > window or s[S_OPEN] + m >= s[S_LIMIT]:
            return m, SLOW
        if end > n:
            return m, NEED_DATA
        fp = _recognise(buf, p + 9, d, d + 9, end, wire, office)
        if fp == np.uint64(0):
            return m, SLOW
        desk.sids[m], desk.prints[m], desk.ends[0, m], desk.ends[1, m] = sid, fp, end, body
        window -= body
        last = sid
        p = end
    return most, -1


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def scan(
    buf: NDArray[np.uint8], p: int, n: int, now: int,
    wire: Wire, office: Office, desk: Desk, table: NDArray[np.uint64], totals: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Takes plain requests from ``buf[p:n]``; returns the index of the first byte not taken, and why it stopped.

    ``buf`` uint8[> n + 8]. `NEED_DATA`: the rest is the beginning of something. `SLOW`: the frame at the index
    needs the slow path. `OUT_FULL`: flush `desk.out`. `EVENT`: `S_STOP_AT` is reached. `CUT`, `SILENT`: the
    request that ends at the index met that verdict. The caller keeps the table less than full by `ROUND` or more.
    """
    s = wire.state
    touched = np.uint64(0)
    while True:
        most = min(ROUND, s[S_STOP_AT] - s[S_HANDLED], PENDING_MAX - s[S_PENDING])
        if most <= 0:
            return p, EVENT if s[S_STOP_AT] <= s[S_HANDLED] else SLOW
        if s[S_OUT] + most * ROOM > OUT_BYTES or (totals[G_TOKENS] + most) * 4 > table.size // 2 * 3:
            return p, OUT_FULL
        m, why = _gather(buf, p, n, most, wire, office, desk)
        slots = table.size >> 1
        for k in range(m):
            touched += table[2 * home(desk.prints[k], slots)]
        for k in range(m):
            row = _judge(desk.prints[k], -1, office, table, totals)
            p = desk.ends[0, k]
            s[S_LAST] = desk.sids[k]
            s[S_WINDOW] -= desk.ends[1, k]
            s[S_TAKEN_BYTES] += desk.ends[1, k]
            s[S_OPEN] += 1
            s[S_HANDLED] += 1
            kind = office.rows[row, V_KIND]
            if kind == KIND_CUT:
                return p, CUT
            _answer(desk.prints[k], desk.sids[k], row, now, 0, 0, wire, office, desk.out)
            if kind == KIND_SILENCE:
                return p, SILENT
        # Keeping the sum keeps the compiler from dropping the loads that warm the cache.
        desk.prints[0] = touched
        if why >= 0:
            return p, why


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def release(now: int, wire: Wire, office: Office, desk: Desk) -> bool:
    """Writes the replies due at ``now``, in order, as far as output and client's window allow.

    Returns whether the output's end stopped it. A reply that waits for the client's window is not counted in
    `S_NEXT_DUE`; the next WINDOW_UPDATE calls again.
    """
    s, p = wire.state, wire.pending
    n = s[S_PENDING]
    kept = 0
    held = 0
    full = False
    s[S_NEXT_DUE] = NEVER
    for i in range(n):
        due, sid, t = p[P_DUE, i], p[P_SID, i], p[P_TEMPLATE, i]
        body = office.meta[t, M_DATA_BYTES]
        ready = due <= now
        if ready and s[S_OUT] + (held + 2) * ROOM > OUT_BYTES:
            full = True
        if ready and not full and s[S_DIRECT] != 0 and s[S_SEND_WINDOW] >= body:
            split = office.meta[t, M_SPLIT_AT]
            o = s[S_OUT]
            end = _emit(desk.out, o, sid, t, p[P_ID_HIGH, i], p[P_ID_LOW, i], s, office)
            if office.knobs[K_INTERLEAVE] != 0 and split > 0:
                split += end - o - office.meta[t, M_LENGTH]
                memcpy(desk.hold[held], 8, desk.out, o + split, end - o - split)
                desk.hold[held, 0], desk.hold[held, 1] = (end - o - split) >> 8, (end - o - split) & 0xFF
                end = o + split
                held += 1
            s[S_OUT] = end
            s[S_SEND_WINDOW] -= body
            s[S_CLOSING] += 1
            if held == 8:
                held = _let_go(desk, s, held)
            continue
        if not ready:
            s[S_NEXT_DUE] = min(s[S_NEXT_DUE], due)
        if kept != i:
            for k in range(PENDING_ROWS):
                p[k, kept] = p[k, i]
        kept += 1
    _let_go(desk, s, held)
    s[S_PENDING] = kept
    return full


@njit(nogil=True, _nrt=False, error_model="numpy")
def _let_go(desk: Desk, s: NDArray[np.int64], held: int) -> int:
    for k in range(held):
        size = np.int64(desk.hold[k, 0]) << 8 | np.int64(desk.hold[k, 1])
        memcpy(desk.out, s[S_OUT], desk.hold[k], 8, size)
        s[S_OUT] += size
    return 0


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def emit_one(out: NDArray[np.uint8], at: int, sid: int, t: int, high: int, low: int, s: NDArray[np.int64], office: Office) -> int:
    """Writes reply template ``t`` at ``at``; returns the index after it. For the slow path, which cuts it up."""
    return _emit(out, at, sid, t, high, low, s, office)


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def cancel(sid: int, wire: Wire) -> bool:
    """Forgets the delayed reply of stream ``sid``; whether there was one."""
    s, p = wire.state, wire.pending
    for i in range(s[S_PENDING]):
        if p[P_SID, i] == sid:
            if p[P_DUE, i] == NEVER:
                s[S_SILENT] -= 1
            for j in range(i + 1, s[S_PENDING]):
                for k in range(PENDING_ROWS):
                    p[k, j - 1] = p[k, j]
            s[S_PENDING] -= 1
            s[S_OPEN] -= 1
            return True
    return False


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def skip_above(buf: NDArray[np.uint8], p: int, n: int, last: int, wire: Wire) -> int:
    """Passes over whole frames of requests above GOAWAY's ``last``; returns the index of the first other byte.

    Their DATA still counts against the connection's window (RFC 9113 section 6.8).
    """
    s = wire.state
    while p + 9 <= n:
        size = _length(buf, p)
        kind = buf[p + 3]
        if size > FRAME_BYTES_MAX or _stream(buf, p) <= last or (kind > 3 and kind != 8 and kind != 9):
            return p
        if p + 9 + size > n:
            return p
        if kind == 0:
            s[S_WINDOW] -= size
            s[S_TAKEN_BYTES] += size
        p += 9 + size
    return p


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def print_of(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """The ledger's key of the token ``data[start:stop]``: its fingerprint, never 0."""
    fp = fingerprint(data, start, stop)
    return fp if fp != np.uint64(0) else np.uint64(1)


KERNELS: Final[tuple[Any, ...]] = (scan, release, settle, emit_one, cancel, skip_above, print_of, skeleton)
