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

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.digest import mix64
from flashcast.simulator.arrays import (
    CUT,
    EVENT,
    FRAME_BYTES_MAX,
    K_IDS,
    K_INTERLEAVE,
    K_NO_DELAY,
    K_ODD_SHARE,
    K_PROVIDER,
    K_QUOTA,
    K_QUOTA_ROW,
    K_TICK_NS,
    LOWER_CASE,
    NEED_DATA,
    NEVER,
    OUT_BYTES,
    OUT_FULL,
    P_DUE,
    P_ID_HIGH,
    P_ID_LOW,
    P_SID,
    P_TEMPLATE,
    PENDING_MAX,
    PENDING_ROWS,
    ROOM,
    ROUND,
    S_CLOSING,
    S_DIRECT,
    S_HANDLED,
    S_LAST,
    S_LIMIT,
    S_NEXT_DUE,
    S_OPEN,
    S_OUT,
    S_PENDING,
    S_SEND_WINDOW,
    S_SILENT,
    S_SIZE_UPDATE,
    S_STOP_AT,
    S_STREAM_WINDOW,
    S_TAKEN_BYTES,
    S_WINDOW,
    SILENT,
    SLOW,
    Desk,
    Office,
    Wire,
)
from flashcast.simulator.intrinsics import (
    fingerprint,
    hex_digits,
    memcpy,
    store64,
)
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
from flashcast.simulator.recognise import recognise
from flashcast.simulator.replies import (
    M_BLOCK_AT,
    M_DATA_BYTES,
    M_HEADERS_AT,
    M_ID_AT,
    M_LENGTH,
    M_SID0,
    M_SIDS,
    M_SPLIT_AT,
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


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _write32(out: NDArray[np.uint8], at: int, value: int) -> None:
    out[at] = (value >> 24) & 0x7F
    out[at + 1] = (value >> 16) & 0xFF
    out[at + 2] = (value >> 8) & 0xFF
    out[at + 3] = value & 0xFF


@njit(nogil=True, _nrt=False, error_model="numpy")
def _write_id(
    out: NDArray[np.uint8], at: int, provider: int, letters: int, high: np.uint64, low: np.uint64
) -> None:
    if provider == 1:
        store64(out, at, hex_digits(low >> np.uint64(32), 39))
        store64(out, at + 8, hex_digits(low, 39))
        return
    # 8-4-4-4-12 digits: the stores overlap, the dashes are put back.
    b, c = hex_digits(high, letters), hex_digits(low >> np.uint64(32), letters)
    d = hex_digits(low, letters)
    store64(out, at, hex_digits(high >> np.uint64(32), letters))
    store64(out, at + 9, b)
    store64(out, at + 14, b >> np.uint64(32))
    store64(out, at + 19, c)
    out[at + 13] = out[at + 18] = out[at + 23] = 45
    store64(out, at + 24, c >> np.uint64(32))
    store64(out, at + 28, d)


@njit(nogil=True, _nrt=False, error_model="numpy")
def _emit(
    out: NDArray[np.uint8],
    o: int,
    sid: int,
    t: int,
    high: int,
    low: int,
    s: NDArray[np.int64],
    office: Office,
) -> int:
    """Writes one reply at ``o``; returns the index after it. The caller left `ROOM`."""
    letters = 39 if t & LOWER_CASE else 7
    t &= LOWER_CASE - 1
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
        _write_id(out, o + at + (1 if at >= shift_from else 0), office.knobs[K_PROVIDER], letters, h64, l64)
    return o + length


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _saturate(word: np.uint64, shift: int) -> np.uint64:
    field = (word >> np.uint64(shift)) & np.uint64(0xFFFF)
    return word + (np.uint64(1) << np.uint64(shift)) if field != np.uint64(0xFFFF) else word


@njit(nogil=True, _nrt=False, error_model="numpy")
def _judge(
    fp: np.uint64, forced: int, office: Office, table: NDArray[np.uint64], totals: NDArray[np.int64]
) -> int:
    """The verdict row of one request, noted in the ledger.

    ``forced`` >= 0 is a row decided before; ``fp`` 0: the request has no token.
    """
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
def _answer(
    fp: np.uint64,
    sid: int,
    row: int,
    now: int,
    high: int,
    low: int,
    lower: int,
    wire: Wire,
    office: Office,
    out: NDArray[np.uint8],
) -> None:
    """Writes the reply of verdict ``row``, or puts it aside until it is due. The caller left `ROOM` in both."""
    s, rows, knobs = wire.state, office.rows, office.knobs
    h = mix64(fp + office.salt[0])
    t = rows[row, V_TEMPLATE]
    if rows[row, V_STYLES] > 1 and np.int64(h & np.uint64(0xFFFF)) < knobs[K_ODD_SHARE]:
        t += 1 + np.int64((h >> np.uint64(16)) % np.uint64(rows[row, V_STYLES] - 1))
    silent = rows[row, V_KIND] == KIND_SILENCE
    body = office.meta[t, M_DATA_BYTES]
    if knobs[K_NO_DELAY] != 0 and not silent and s[S_DIRECT] != 0 and s[S_SEND_WINDOW] >= body:
        s[S_OUT] = _emit(out, s[S_OUT], sid, t | lower, high, low, s, office)
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
    p[P_DUE, n], p[P_SID, n], p[P_TEMPLATE, n], p[P_ID_HIGH, n], p[P_ID_LOW, n] = due, sid, t | lower, high, low
    s[S_PENDING] = n + 1
    s[S_NEXT_DUE] = min(s[S_NEXT_DUE], due)


@njit(nogil=True, _nrt=False, error_model="numpy", cache=True)
def settle(
    fp: np.uint64, sid: int, forced: int, now: int, high: int, low: int, lower: int,
    wire: Wire, office: Office, desk: Desk, table: NDArray[np.uint64], totals: NDArray[np.int64],
) -> int:  # fmt: skip
    """Judges and answers one request of the slow path; its stream is open already. Returns the verdict row.

    ``fp`` the token's fingerprint, 0 where the request has none; ``forced`` a verdict row, or -1 to let the
    token decide; ``high``, ``low`` the UUID of a request that brought its own, else 0, and ``lower``
    `LOWER_CASE` or 0. For a row of kind `KIND_CUT`
    nothing is answered. The caller left room in the output, the pending rows and the table.
    """
    row = _judge(fp, forced, office, table, totals)
    wire.state[S_HANDLED] += 1
    if office.rows[row, V_KIND] != KIND_CUT:
        _answer(fp, sid, row, now, high, low, lower, wire, office, desk.out)
    return row


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _length(buf: NDArray[np.uint8], p: int) -> int:
    return np.int64(buf[p]) << 16 | np.int64(buf[p + 1]) << 8 | np.int64(buf[p + 2])


@njit(nogil=True, _nrt=False, error_model="numpy", inline="always")
def _stream(buf: NDArray[np.uint8], p: int) -> int:
    return (
        (np.int64(buf[p + 5]) & 0x7F) << 24
        | np.int64(buf[p + 6]) << 16
        | np.int64(buf[p + 7]) << 8
        | np.int64(buf[p + 8])
    )


@njit(nogil=True, _nrt=False, error_model="numpy")
def _gather(
    buf: NDArray[np.uint8], p: int, n: int, most: int, wire: Wire, office: Office, desk: Desk
) -> tuple[int, int]:
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
        if (
            buf[p + 3] != 1
            or buf[p + 4] != 4
            or sid != last + 2
            or size > FRAME_BYTES_MAX
            or buf[p + 5] >= 0x80
        ):
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
        fp = recognise(buf, p + 9, d, d + 9, end, wire, office)
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
            _answer(desk.prints[k], desk.sids[k], row, now, 0, 0, 0, wire, office, desk.out)
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
        bare = t & (LOWER_CASE - 1)
        body = office.meta[bare, M_DATA_BYTES]
        ready = due <= now
        if ready and s[S_OUT] + (held + 2) * ROOM > OUT_BYTES:
            full = True
        if ready and not full and s[S_DIRECT] != 0 and s[S_SEND_WINDOW] >= body:
            split = office.meta[bare, M_SPLIT_AT]
            o = s[S_OUT]
            end = _emit(desk.out, o, sid, t, p[P_ID_HIGH, i], p[P_ID_LOW, i], s, office)
            if office.knobs[K_INTERLEAVE] != 0 and split > 0:
                split += end - o - office.meta[bare, M_LENGTH]
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
def emit_one(
    out: NDArray[np.uint8],
    at: int,
    sid: int,
    t: int,
    high: int,
    low: int,
    s: NDArray[np.int64],
    office: Office,
) -> int:
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
