"""A request's constant bytes and its holes, laid out for the volley kernel.

A request on the wire, with the parts that differ from row to row in brackets::

    HEADERS  [length] type flags [stream id]
             pre            header bytes before the path
             04 [n] /3/device/ [token]        the path, a literal; absent where the path is constant
             post           header bytes behind the path
    DATA     [length] type flags [stream id]
             segment [hole] segment [hole] ... segment

`RequestShape` is what the provider asks for, in words; `Layout` is its bytes for one connection's HPACK state;
`Columns` is where the holes' bytes lie. Layouts are made once per connection state and shared: connections that
were primed alike have the same bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack
import numpy as np
from numpy.typing import NDArray

from flashcast.limits import HEADER_TABLE_BYTES_MAX
from flashcast.model import Hole, RequestTemplate
from flashcast.wire import kernels as k

Header = tuple[str, str]


@dataclass(frozen=True)
class RequestShape:
    """One provider's requests in one launch, before they are bytes.

    ``head`` are the pseudo-headers before the path and, where it is constant, the path itself. ``path_prefix`` is
    what stands before the token in the path, None where the path is constant. ``common`` are the regular headers
    every variant has (authorization first: it is the longest), ``extra`` those of each variant alone.
    """

    head: tuple[Header, ...]
    path_prefix: bytes | None
    common: tuple[Header, ...]
    extra: tuple[tuple[Header, ...], ...]
    bodies: tuple[tuple[bytes | Hole, ...], ...]


def shape_of(
    head: tuple[Header, ...],
    path_prefix: bytes | None,
    authorization: str | None,
    templates: Sequence[RequestTemplate],
) -> RequestShape:
    """The shape of ``templates`` under one credential: headers that all variants share come first."""
    if not templates:
        raise ValueError("a request shape needs at least one template")
    shared = tuple(h for h in templates[0].headers if all(h in t.headers for t in templates))
    bearer = (("authorization", authorization),) if authorization is not None else ()
    return RequestShape(
        head=head,
        path_prefix=path_prefix,
        common=(*bearer, *shared),
        extra=tuple(tuple(h for h in t.headers if h not in shared) for t in templates),
        bodies=tuple(t.body for t in templates),
    )


class Columns(NamedTuple):
    """Where the bytes of one shard's holes lie.

    ``table`` int64[2 * (fields + 1)] is what the kernel reads: pairs of addresses, the token's first. ``variants``
    is the address of uint8[rows], 0 where all rows have variant 0. ``keep`` holds the arrays the addresses point into.
    """

    table: NDArray[np.int64]
    variants: int
    keep: tuple[NDArray[np.uint8] | NDArray[np.uint32], ...]


def columns_of(
    tokens: tuple[NDArray[np.uint8], NDArray[np.uint32]],
    fields: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint32]]],
    variants: NDArray[np.uint8],
) -> Columns:
    """The columns of a shard: each a pair of bytes uint8[] and offsets uint32[rows + 1], both contiguous.

    ``variants`` is uint8[rows], or of size 0 where all rows have variant 0.
    """
    keep: list[NDArray[np.uint8] | NDArray[np.uint32]] = []
    addresses = []
    for data, offsets in (tokens, *fields):
        if data.dtype != np.uint8 or offsets.dtype != np.uint32:
            raise TypeError(f"a column is uint8 bytes and uint32 offsets, not {data.dtype} and {offsets.dtype}")
        if not (data.flags.c_contiguous and offsets.flags.c_contiguous):
            raise TypeError("a column's arrays are contiguous: the kernel reads them by address")
        keep += [data, offsets]
        addresses += [data.ctypes.data, offsets.ctypes.data]
    address = variants.ctypes.data if variants.size else 0
    return Columns(np.array(addresses, np.int64), address, (*keep, variants))


@dataclass(frozen=True)
class Layout:
    """The bytes of a shape under one HPACK state; the arrays are those `kernels.volley` documents."""

    constants: NDArray[np.uint8]
    variants: NDArray[np.int64]
    segments: NDArray[np.int64]
    address: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.constants.ctypes.data)


def lay_out(shape: RequestShape, pre: bytes, post: bytes) -> Layout:
    """The layout of ``shape`` whose header bytes around the path are ``pre`` and ``post``."""
    constants = bytearray()
    segments: list[tuple[int, int, int]] = []
    table = np.zeros((len(shape.bodies), k.VARIANT_SIZE), np.int64)

    def put(piece: bytes) -> tuple[int, int]:
        constants.extend(piece)
        return len(constants) - len(piece), len(piece)

    pre_at, path_at = put(pre), put(shape.path_prefix or b"")
    for v, (extra, body) in enumerate(zip(shape.extra, shape.bodies, strict=True)):
        post_at = put(post + literals(extra))
        first = len(segments)
        length = 0
        for piece in body:
            if isinstance(piece, Hole):
                if len(segments) == first or segments[-1][2] != k.NO_HOLE:
                    segments.append((0, 0, k.NO_HOLE))
                segments[-1] = (*segments[-1][:2], piece.field)
            else:
                segments.append((*put(piece), k.NO_HOLE))
                length += len(piece)
        table[v, k.PRE_OFFSET : k.POST_LENGTH + 1] = (*pre_at, *path_at, *post_at)
        if shape.path_prefix is None:
            table[v, k.PATH_LENGTH] = -1
        table[v, k.BODY_LENGTH :] = (length, first, len(segments) - first)
    return Layout(
        np.frombuffer(bytes(constants), np.uint8),
        table,
        np.array(segments, np.int64).reshape(-1, 3),
    )


def literals(headers: Sequence[Header]) -> bytes:
    """Header bytes that neither use nor change a dynamic table: literals never indexed, plain."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    encoded = encoder.encode([hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers], huffman=False)
    return encoded.removeprefix(b"\x20")


class HeaderState:
    """Our half of one connection's HPACK state: what the peer's decoder remembers of our constant headers.

    The peer's table may be too small for all of them: those that do not fit are written out each time. `prime`
    gives header bytes that teach the peer; `settled` header bytes that only refer to what it was taught, or
    None while there is more to teach.
    """

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def __repr__(self) -> str:
        table = self._encoder.header_table
        return f"<HeaderState {len(table.dynamic_entries)} entries, table of {table.maxsize} bytes>"

    def resize(self, table_bytes: int) -> None:
        """Obeys the peer's SETTINGS_HEADER_TABLE_SIZE; the next block tells it so (RFC 7541 section 4.2)."""
        wanted = min(table_bytes, HEADER_TABLE_BYTES_MAX)
        if wanted != self._encoder.header_table_size:
            self._encoder.header_table_size = wanted
            changes = self._encoder.table_size_changes
            # The smallest and the last, and no other: one in between may exceed the limit now in force, and a peer
            # that keeps changing its mind must not make the list grow (RFC 7541 section 4.2).
            changes[:] = [min(changes), changes[-1]] if min(changes) < changes[-1] else changes[-1:]

    def prime(self, shape: RequestShape) -> tuple[bytes, bytes]:
        """Header bytes before and behind the path; they must be sent, for they change the peer's table."""
        return self._encode(shape, self._encoder)

    def settled(self, shape: RequestShape) -> tuple[bytes, bytes] | None:
        """Header bytes that leave the peer's table as it is, or None if `prime` must be sent first."""
        encoder = self._encoder
        before = list(encoder.header_table.dynamic_entries)
        if encoder.table_size_changes:
            return None
        trial = copy.deepcopy(encoder)
        encoded = self._encode(shape, trial)
        return encoded if list(trial.header_table.dynamic_entries) == before else None

    def _encode(self, shape: RequestShape, encoder: hpack.Encoder) -> tuple[bytes, bytes]:
        room = encoder.header_table.maxsize
        indexed: set[Header] = set()
        # The longest first: they save most; RFC 7541 section 4.1 counts 32 bytes for each entry.
        for name, value in sorted({*shape.head, *shape.common}, key=lambda h: -len(h[0]) - len(h[1])):
            cost = len(name) + len(value) + 32
            if cost <= room:
                indexed.add((name, value))
                room -= cost
        pre, post = (
            encoder.encode([h if h in indexed else hpack.NeverIndexedHeaderTuple(*h) for h in part])
            for part in (shape.head, shape.common)
        )
        return pre, post
