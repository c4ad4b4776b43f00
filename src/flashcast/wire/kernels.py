"""The hot loops: `volley` writes a batch of requests, `scan` reads a buffer of replies.

Both work on one connection's arrays. Per open stream there is one slot, found by stream id::

    slot = (stream_id >> 1) & (slots - 1)
    slot_stream[slot] int32   the stream that holds the slot, 0 where it is free
    slot_row[slot]    int32   the row of the journal the stream carries
    slot_sent[slot]   uint32  when it was written, in us modulo 2**32
    slot_state[slot]  uint8   WAITING, GOT_200 (waiting for END_STREAM) or SLOW (python reads the reply)

``state`` int64[STATE_SIZE] holds the connection's counters, indexed by the constants below. Sources of bytes are
given as addresses, so that one compiled kernel serves any number of personalised columns; the caller keeps the
arrays alive while a kernel runs. A volley measures each request before it writes it, so ``dst`` cannot overflow.

The thread holds no GIL inside a kernel.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from flashcast.latency import bucket_index
from flashcast.outcomes import Outcome
from flashcast.wire import frames as h2

_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""`_nrt` off: no kernel allocates, and counting references to its arrays costs a seventh of a request's CPU."""

# --- indices into ``state`` ------------------------------------------------------------------------
SEND_WINDOW: Final = 0
"""Bytes of DATA the peer still takes on the connection."""
INITIAL_WINDOW: Final = 1
"""Bytes of DATA the peer takes on a new stream."""
MAX_STREAMS: Final = 2
NEXT_STREAM: Final = 3
IN_FLIGHT: Final = 4
RECEIVED_DATA: Final = 5
"""DATA bytes read since our last WINDOW_UPDATE."""
ACCEPTED: Final = 6
"""Replies settled as accepted by `scan`, ever."""
VOLLEY_BYTES: Final = 7
"""What the last volley wrote."""
BLOCKED: Final = 8
"""Why the last volley ended early."""
ERROR: Final = 9
"""The RFC 9113 error code of a connection error found by `scan`, plus one; 0 for none."""
CONTINUATION_OF: Final = 10
"""The stream whose header block is unfinished, 0 for none."""
STALLED: Final = 11
"""Streams whose body is only partly sent; their WINDOW_UPDATEs matter."""
EVENTS: Final = 12
"""Frames `scan` left to python."""
STATE_SIZE: Final = 16

# --- why a volley ended early -------------------------------------------------------------------------
NOT_BLOCKED: Final = 0
BY_STREAMS: Final = 1
BY_SEND_WINDOW: Final = 2
BY_STREAM_WINDOW: Final = 3
BY_BUFFER: Final = 4

# --- columns of ``variants`` (int64[variants, VARIANT_SIZE]), see template.py -----------------------
PRE_OFFSET: Final = 0
PRE_LENGTH: Final = 1
PATH_OFFSET: Final = 2
PATH_LENGTH: Final = 3
"""-1: the path is constant and part of the header bytes."""
POST_OFFSET: Final = 4
POST_LENGTH: Final = 5
BODY_LENGTH: Final = 6
"""Constant bytes of the body."""
SEGMENT_FIRST: Final = 7
SEGMENT_COUNT: Final = 8
VARIANT_SIZE: Final = 9

NO_HOLE: Final = -2
"""In ``segments`` (int64[segments, 3]: offset, length, column of the hole behind it): no hole behind it."""

WAITING: Final = 1
GOT_200: Final = 2
SLOW: Final = 3

_U_IN_FLIGHT: Final = np.uint8(Outcome.IN_FLIGHT)
_U_ACCEPTED: Final = np.uint8(Outcome.ACCEPTED)
_FRAME_MAX: Final = h2.FRAME_SIZE_MIN
_WINDOW_MAX: Final = h2.WINDOW_MAX


@intrinsic
def _copy(typingctx: Any, dst: Any, at: Any, source: Any, length: Any) -> Any:
    """memcpy of ``length`` bytes from address ``source`` to ``dst[at:]``; slice assignment costs ten times as much."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        to = builder.gep(array.data, [args[1]])
        cgutils.raw_memcpy(builder, to, builder.inttoptr(args[2], to.type), args[3], 1)
        return context.get_dummy_value()

    return types.void(dst, types.intp, types.intp, types.intp), codegen


@intrinsic
def _load_u32(typingctx: Any, address: Any) -> Any:
    """The uint32 at an address: one entry of an offsets column."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(types.uint32)
        return builder.load(builder.inttoptr(args[0], kind.as_pointer()))

    return types.uint32(types.intp), codegen


@intrinsic
def _load_u8(typingctx: Any, address: Any) -> Any:
    """The uint8 at an address: one entry of the variants column."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(types.uint8)
        return builder.load(builder.inttoptr(args[0], kind.as_pointer()))

    return types.uint8(types.intp), codegen


@njit(**_OPTIONS, inline="always")
def _put_head(dst: Any, at: int, length: int, kind: int, flags: int, stream: int) -> int:
    """Writes a frame header and returns where its payload starts."""
    dst[at] = (length >> 16) & 255
    dst[at + 1] = (length >> 8) & 255
    dst[at + 2] = length & 255
    dst[at + 3] = kind
    dst[at + 4] = flags
    dst[at + 5] = (stream >> 24) & 127
    dst[at + 6] = (stream >> 16) & 255
    dst[at + 7] = (stream >> 8) & 255
    dst[at + 8] = stream & 255
    return at + 9


@njit(**_OPTIONS, inline="always")
def _varint7_size(value: int) -> int:
    """Bytes of an HPACK integer with a seven-bit prefix (RFC 7541 section 5.1), for values below 2**14 + 127."""
    if value < 127:
        return 1
    return 2 if value < 255 else 3


@njit(**_OPTIONS, inline="always")
def _put_varint7(dst: Any, at: int, value: int) -> int:
    if value < 127:
        dst[at] = value
        return at + 1
    dst[at] = 127
    rest = value - 127
    if rest < 128:
        dst[at + 1] = rest
        return at + 2
    dst[at + 1] = 128 | (rest & 127)
    dst[at + 2] = rest >> 7
    return at + 3


@njit(**_OPTIONS, inline="always")
def _hole(columns: Any, column: int, row: int) -> tuple[int, int]:
    """Address and length of a row's bytes in a column; column -1 is the token."""
    offsets = columns[2 * (column + 1) + 1] + 4 * row
    start = np.int64(_load_u32(offsets))
    return columns[2 * (column + 1)] + start, np.int64(_load_u32(offsets + 4)) - start


@njit(**_OPTIONS, cache=True)
def volley(
    dst: NDArray[np.uint8],
    constants: int,
    variants: NDArray[np.int64],
    segments: NDArray[np.int64],
    columns: NDArray[np.int64],
    variant_of: int,
    rows: NDArray[np.int32],
    base: int,
    outcome: NDArray[np.uint8],
    attempts: NDArray[np.uint8],
    slot_stream: NDArray[np.int32],
    slot_row: NDArray[np.int32],
    slot_sent: NDArray[np.uint32],
    slot_state: NDArray[np.uint8],
    state: NDArray[np.int64],
    now_us: int,
    whatever_the_window: bool,
) -> int:
    """Writes requests for ``rows`` (numbers within the shard) into ``dst`` until a limit stops it.

    ``constants`` is the address of the template's bytes; ``columns`` int64[2 * (fields + 1)] holds pairs of
    addresses (bytes uint8[], offsets uint32[rows + 1]), the token's first; ``variant_of`` is the address of the rows'
    variants, uint8[rows], or 0 where all have variant 0. ``base`` is the journal row of the
    shard's row 0. Each row written becomes IN_FLIGHT in ``outcome`` here, before its bytes can leave the process.

    ``whatever_the_window`` writes the first row even where flow control forbids it: the caller splits its DATA.

    Returns the number of rows written; ``state`` tells the bytes (VOLLEY_BYTES) and why it stopped (BLOCKED).
    """
    at = 0
    count = 0
    mask = slot_stream.size - 1
    stream = state[NEXT_STREAM]
    window = state[SEND_WINDOW]
    free = state[MAX_STREAMS] - state[IN_FLIGHT]
    state[BLOCKED] = NOT_BLOCKED
    for i in range(rows.size):
        if free <= 0:
            state[BLOCKED] = BY_STREAMS
            break
        row = np.int64(rows[i])
        v = np.int64(_load_u8(variant_of + row)) if variant_of != 0 else np.int64(0)
        body = variants[v, BODY_LENGTH]
        first = variants[v, SEGMENT_FIRST]
        last = first + variants[v, SEGMENT_COUNT]
        for s in range(first, last):
            if segments[s, 2] != NO_HOLE:
                body += _hole(columns, segments[s, 2], row)[1]
        head = variants[v, PRE_LENGTH] + variants[v, POST_LENGTH]
        path = np.int64(0)
        token_address = np.int64(0)
        token_length = np.int64(0)
        if variants[v, PATH_LENGTH] >= 0:
            token_address, token_length = _hole(columns, -1, row)
            path = variants[v, PATH_LENGTH] + token_length
            head += 1 + _varint7_size(path) + path
        if not whatever_the_window:
            if body > state[INITIAL_WINDOW]:
                state[BLOCKED] = BY_STREAM_WINDOW
                break
            if body > window:
                state[BLOCKED] = BY_SEND_WINDOW
                break
        if at + 18 + head + body > dst.size:
            state[BLOCKED] = BY_BUFFER
            break
        # A slot still held by an old stream costs one stream id; ids may be skipped (RFC 9113 section 5.1.1).
        while slot_stream[(stream >> 1) & mask] != 0:
            stream += 2
        at = _put_head(dst, at, head, h2.HEADERS, h2.END_HEADERS, stream)
        _copy(dst, at, constants + variants[v, PRE_OFFSET], variants[v, PRE_LENGTH])
        at += variants[v, PRE_LENGTH]
        if variants[v, PATH_LENGTH] >= 0:
            dst[at] = 0x04  # literal without indexing, name :path (RFC 7541 section 6.2.2)
            at = _put_varint7(dst, at + 1, path)
            _copy(dst, at, constants + variants[v, PATH_OFFSET], variants[v, PATH_LENGTH])
            at += variants[v, PATH_LENGTH]
            _copy(dst, at, token_address, token_length)
            at += token_length
        _copy(dst, at, constants + variants[v, POST_OFFSET], variants[v, POST_LENGTH])
        at = _put_head(dst, at + variants[v, POST_LENGTH], body, h2.DATA, h2.END_STREAM, stream)
        for s in range(first, last):
            _copy(dst, at, constants + segments[s, 0], segments[s, 1])
            at += segments[s, 1]
            if segments[s, 2] != NO_HOLE:
                address, length = _hole(columns, segments[s, 2], row)
                _copy(dst, at, address, length)
                at += length
        slot = (stream >> 1) & mask
        slot_stream[slot] = stream
        slot_row[slot] = base + row
        slot_sent[slot] = np.uint32(now_us & 0xFFFFFFFF)
        slot_state[slot] = WAITING
        outcome[base + row] = _U_IN_FLIGHT
        attempts[base + row] += np.uint8(1)
        stream += 2
        free -= 1
        count += 1
        if whatever_the_window:
            break
        window -= body
    state[NEXT_STREAM] = stream
    state[IN_FLIGHT] += count
    if not whatever_the_window:
        state[SEND_WINDOW] = window
    state[VOLLEY_BYTES] = at
    return count


@njit(**_OPTIONS, inline="always")
def _u32(buffer: Any, at: int) -> int:
    return (
        (np.int64(buffer[at]) << 24)
        | (np.int64(buffer[at + 1]) << 16)
        | (np.int64(buffer[at + 2]) << 8)
        | np.int64(buffer[at + 3])
    )


@njit(**_OPTIONS, inline="always")
def _skip_string(buffer: Any, at: int, end: int) -> int:
    """Where a short HPACK string ends, or -1 if it is long, cut off, or names a pseudo-header."""
    if at >= end:
        return -1
    size = np.int64(buffer[at] & 0x7F)
    if size == 127 or at + 1 + size > end:
        return -1
    if size > 0 and buffer[at + 1] == 0x3A and buffer[at] < 128:
        return -1
    return at + 1 + size


@njit(**_OPTIONS, inline="always")
def _is_plain_200(buffer: Any, at: int, end: int) -> bool:
    """Whether a header block is ``:status 200`` and then only static entries and short literals.

    Anything else, right or wrong, is for python: the kernel never judges a block it does not know. Strings are
    stepped over, not read: what else a 200 says changes nothing for its row.
    """
    if at < end and buffer[at] == 0x20:
        at += 1  # "table size is now 0": the answer to our SETTINGS, due once (RFC 7541 section 4.2)
    if at >= end or buffer[at] != 0x88:
        return False
    at += 1
    while at < end:
        first = buffer[at]
        if first & 0x80:
            # A regular header from the static table, 15 to 61.
            if (first & 0x7F) < 15 or (first & 0x7F) > 61:
                return False
            at += 1
            continue
        if first & 0xE0 == 0x20:
            return False  # a size update where none belongs
        # A literal. Indexing it changes nothing: our table has size 0 (RFC 7541 section 4.4).
        prefix = 0x3F if first & 0x40 else 0x0F
        name = np.int64(first & prefix)
        at += 1
        if name == prefix:
            if at >= end or buffer[at] > 46:  # at most 15 + 46 = 61, the last static entry
                return False
            name += np.int64(buffer[at])
            at += 1
        if name == 0:
            at = _skip_string(buffer, at, end)
            if at < 0:
                return False
        elif name < 15 or name > 61:
            return False
        at = _skip_string(buffer, at, end)
        if at < 0:
            return False
    return at == end


@njit(**_OPTIONS, cache=True)
def scan(
    buffer: NDArray[np.uint8],
    length: int,
    events: NDArray[np.int64],
    outcome: NDArray[np.uint8],
    reply_ms: NDArray[np.uint32],
    slot_stream: NDArray[np.int32],
    slot_row: NDArray[np.int32],
    slot_sent: NDArray[np.uint32],
    slot_state: NDArray[np.uint8],
    state: NDArray[np.int64],
    histogram: NDArray[np.int64],
    now_us: int,
    now_ms: int,
) -> int:
    """Reads the whole frames in ``buffer[:length]``; settles plain successes and leaves the rest to python.

    ``events`` int64[n, 2] takes position and length (payload only) of each frame left to python, in order;
    ``state[EVENTS]`` tells how many. It stops when ``events`` is full, at an incomplete frame, or at a
    connection error (``state[ERROR]``).

    Returns the bytes consumed. They must stay in place until the events are read.
    """
    at = 0
    mask = slot_stream.size - 1
    left = 0
    state[ERROR] = 0
    while at + 9 <= length and left < events.shape[0]:
        size = (np.int64(buffer[at]) << 16) | (np.int64(buffer[at + 1]) << 8) | np.int64(buffer[at + 2])
        if size > _FRAME_MAX:
            state[ERROR] = h2.FRAME_SIZE_ERROR + 1
            break
        body = at + 9
        end = body + size
        if end > length:
            break
        kind = buffer[at + 3]
        flags = buffer[at + 4]
        stream = _u32(buffer, at + 5) & 0x7FFFFFFF
        if state[CONTINUATION_OF] != 0 and (kind != h2.CONTINUATION or stream != state[CONTINUATION_OF]):
            state[ERROR] = h2.PROTOCOL_ERROR + 1
            break
        at = end
        slot = (stream >> 1) & mask
        ours = stream & 1 == 1 and slot_stream[slot] == stream
        done = False
        to_python = True
        if kind == h2.HEADERS:
            if flags & h2.END_HEADERS == 0:
                state[CONTINUATION_OF] = stream
            elif ours and slot_state[slot] == WAITING and flags & (h2.PADDED | h2.PRIORITY_FLAG) == 0:
                if _is_plain_200(buffer, body, end):
                    to_python = False
                    slot_state[slot] = GOT_200
                    done = flags & h2.END_STREAM != 0
            if to_python and ours and slot_state[slot] == WAITING:
                slot_state[slot] = SLOW  # whatever follows on this stream must be read after this
        elif kind == h2.DATA:
            state[RECEIVED_DATA] += size
            if ours and slot_state[slot] == GOT_200:
                to_python = False
                if flags & h2.PADDED and (size == 0 or np.int64(buffer[body]) >= size):
                    state[ERROR] = h2.PROTOCOL_ERROR + 1
                    break
                done = flags & h2.END_STREAM != 0
        elif kind == h2.WINDOW_UPDATE:
            if size != 4:
                state[ERROR] = h2.FRAME_SIZE_ERROR + 1
                break
            step = _u32(buffer, body) & 0x7FFFFFFF
            if stream == 0:
                to_python = False
                state[SEND_WINDOW] += step
                if step == 0:
                    state[ERROR] = h2.PROTOCOL_ERROR + 1
                    break
                if state[SEND_WINDOW] > _WINDOW_MAX:
                    state[ERROR] = h2.FLOW_CONTROL_ERROR + 1
                    break
            else:
                # A stream whose request left whole needs no more window; a wrong step is still an error.
                to_python = state[STALLED] > 0 or step == 0 or stream & 1 == 0 or stream >= state[NEXT_STREAM]
        elif kind == h2.CONTINUATION:
            if state[CONTINUATION_OF] == 0:
                state[ERROR] = h2.PROTOCOL_ERROR + 1
                break
            if flags & h2.END_HEADERS:
                state[CONTINUATION_OF] = 0
        elif kind > h2.CONTINUATION:
            to_python = False  # unknown types are ignored (RFC 9113 section 4.1)
        if done:
            row = slot_row[slot]
            outcome[row] = _U_ACCEPTED
            reply_ms[row] = now_ms
            waited = (now_us - np.int64(slot_sent[slot])) & 0xFFFFFFFF
            histogram[bucket_index(waited)] += 1
            slot_stream[slot] = 0
            state[IN_FLIGHT] -= 1
            state[ACCEPTED] += 1
        elif to_python:
            events[left, 0] = body - 9
            events[left, 1] = size
            left += 1
    state[EVENTS] = left
    return at


@njit(**_OPTIONS, cache=True)
def silent(
    slot_stream: NDArray[np.int32],
    slot_sent: NDArray[np.uint32],
    now_us: int,
    deadline_us: int,
    found: NDArray[np.int32],
) -> int:
    """Finds the streams that have waited longer than ``deadline_us``; ``found`` int32[] takes their slots.

    Returns how many were found.
    """
    count = 0
    for slot in range(slot_stream.size):
        if slot_stream[slot] != 0 and count < found.size:
            if (now_us - np.int64(slot_sent[slot])) & 0xFFFFFFFF > deadline_us:
                found[count] = slot
                count += 1
    return count
