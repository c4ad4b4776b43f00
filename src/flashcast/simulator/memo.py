"""Which header blocks a kernel may recognise again.

A block that changes the decoder's table cannot be repeated. (One with indexing may leave it as it is: what does
not fit an empty table is not kept.) In any other, only the device token in APNs'
`:path` differs from request to request; if that path is a plain literal, what stands before and after it is
kept, and a block with the same bytes around another path says the same.
"""

from __future__ import annotations

import numpy as np

from flashcast.simulator import arrays as a

_PATH_INDEX = 4
"""`:path: /` in HPACK's static table."""


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer with a prefix of ``bits`` bits at ``at``, and the index after it (RFC 7541 section 5.1)."""
    limit = (1 << bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not block[at - 1] & 0x80:
            return value, at


def find_path(block: bytes) -> tuple[int, int] | None:
    """The bounds of the one `:path` literal in a block that the decoder took; None for none, or one that is not plain.

    The block is well-formed and left the table as it was: `hpack` decoded it before.
    """
    at, found = 0, None
    while at < len(block):
        first, start = block[at], at
        if first & 0x80:
            _, at = _integer(block, at, 7)
            continue
        if first & 0xE0 == 0x20:
            return None
        indexing = bool(first & 0x40)
        index, at = _integer(block, at, 6 if indexing else 4)
        if index == 0:
            size, at = _integer(block, at, 7)
            at += size
        huffman = bool(block[at] & 0x80)
        size, at = _integer(block, at, 7)
        at += size
        if index == _PATH_INDEX:
            if huffman or indexing or found:
                return None
            found = (start, at)
    return found


def remember(wire: a.Wire, block: bytes, with_path: bool, payload_max: int, content_length: int) -> None:
    """Keeps a block that was judged good; ``with_path`` when its `:path` may differ."""
    prefix, suffix = block, b""
    if with_path:
        bounds = find_path(block)
        if bounds is None:
            return
        prefix, suffix = block[: bounds[0]], block[bounds[1] :]
    if len(prefix) + len(suffix) > a.MEMO_BYTES_MAX:
        return
    row = int(wire.state[a.S_MEMO_NEXT])
    joined = np.frombuffer(prefix + suffix, np.uint8)
    wire.memo_bytes[row, : joined.size] = joined
    wire.memo[row] = (len(prefix), len(suffix), int(with_path), payload_max, content_length)
    wire.state[a.S_MEMO_NEXT] = (row + 1) % a.MEMO_BLOCKS
    wire.state[a.S_MEMOS] = min(int(wire.state[a.S_MEMOS]) + 1, a.MEMO_BLOCKS)


def forget(wire: a.Wire) -> None:
    """Drops everything: the table the blocks refer to has changed, or the credential in it has expired."""
    wire.state[a.S_MEMOS] = 0
    wire.state[a.S_MEMO_NEXT] = 0
