"""One shard on disk: columns of one provider's rows, laid out to be mapped and sent from.

A device table as Parquet must be decoded before it is sent: that is CPU and memory at the worst moment. Here every
column lies as the kernels read it, so opening a shard is mapping a file, and its pages become resident when
they are first touched. Everything is little-endian.

    byte 0        8         12         16            16 + n        multiple of 64
         +--------+---------+----------+-------------+-----------+-----------+-----------+----
         | magic  | version | n: u32   | header:     | zeros     | section   | section   | ...
         | 8 B    | u32 = 1 |          | JSON, n B   |           |           |           |
         +--------+---------+----------+-------------+-----------+-----------+-----------+----

    header   {"provider", "rows", "sections": [{"name", "dtype", "offset", "length"}, ...]}
             offset: bytes from the start of the file; length: elements, not bytes

    section              dtype     elements    what
    tokens.offsets       uint32    rows + 1    row i's token is tokens.data[offsets[i]:offsets[i + 1]]
    tokens.data          uint8     any         APNs: lower-case hexadecimal; FCM: as given
    variants             uint8     rows        index into the provider's templates
    field.<k>.offsets    uint32    rows + 1    0 elements where no template of the provider uses field k
    field.<k>.data       uint8     any         JSON-escaped UTF-8, without quotes
    user_ids.offsets     uint32    rows + 1    } at a multiple of 16,384: sending never touches these,
    user_ids.data        uint8     any         } so their pages stay out of memory

Sections start at multiples of 64 bytes, a cache line, so that views are aligned for any dtype. Offsets are 32 bits:
a shard's column is less than 4 GiB. The shard's SHA-256 stands in the manifest, not here.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashcast.audience.arrays import NOTHING, VarBytes
from flashcast.errors import EnvironmentFault, SnapshotError
from flashcast.model import Provider

MAGIC: Final = b"FCSHARD\n"
VERSION: Final = 1
ALIGNMENT: Final = 64
COLD_ALIGNMENT: Final = 16_384
"""The largest page size in use (Apple silicon); user ids share no page with what is sent."""
_PREFIX: Final = struct.Struct("<8sII")
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"uint8": np.dtype("u1"), "uint32": np.dtype("<u4")}
_HEADER_BYTES_MAX: Final = 65_536
"""32 fields at two sections of some 90 bytes each are 6 KB."""
_BLOCK_BYTES: Final = 1 << 20


class Columns(NamedTuple):
    """What a shard holds, in memory. Each `VarBytes` has rows + 1 offsets, or none for an unused field."""

    tokens: VarBytes
    variants: NDArray[np.uint8]
    fields: tuple[VarBytes, ...]
    user_ids: VarBytes

    @property
    def nbytes(self) -> int:
        """Bytes of every section."""
        return sum(array.nbytes for _, array in _sections(self))


class Written(NamedTuple):
    """A shard file's size and SHA-256, in hexadecimal."""

    bytes: int
    sha256: str


def _sections(columns: Columns) -> list[tuple[str, NDArray[Any]]]:
    named: list[tuple[str, NDArray[Any]]] = [
        ("tokens.offsets", columns.tokens.offsets),
        ("tokens.data", columns.tokens.data),
        ("variants", columns.variants),
    ]
    for index, field in enumerate(columns.fields):
        named += [(f"field.{index}.offsets", field.offsets), (f"field.{index}.data", field.data)]
    return [*named, ("user_ids.offsets", columns.user_ids.offsets), ("user_ids.data", columns.user_ids.data)]


def _up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _layout(provider: Provider, rows: int, sections: Sequence[tuple[str, NDArray[Any]]]) -> tuple[bytes, list[int]]:
    """The header's bytes and each section's offset. A longer header moves the sections, which are then laid again."""
    start = 4_096
    while True:
        at, offsets, table = start, [], []
        for name, array in sections:
            at = _up(at, COLD_ALIGNMENT if name == "user_ids.offsets" else ALIGNMENT)
            offsets.append(at)
            table.append({"name": name, "dtype": array.dtype.name, "offset": at, "length": array.size})
            at += array.nbytes
        header = json.dumps(
            {"provider": provider.value, "rows": rows, "sections": table}, separators=(",", ":")
        ).encode()
        if _PREFIX.size + len(header) <= start:
            return header, offsets
        start *= 2


def write_shard(path: Path, provider: Provider, columns: Columns) -> Written:
    """Writes and fsyncs a new shard file. Raises OSError, among them the full disk's."""
    sections = _sections(columns)
    header, offsets = _layout(provider, columns.variants.size, sections)
    digest = hashlib.sha256()
    at = 0
    with path.open("xb", buffering=0) as file:

        def put(data: memoryview) -> None:
            nonlocal at
            at += data.nbytes
            while data.nbytes:
                block = data[:_BLOCK_BYTES]
                written = file.write(block)
                digest.update(block[:written])
                data = data[written:]

        put(memoryview(_PREFIX.pack(MAGIC, VERSION, len(header)) + header))
        for (_, array), offset in zip(sections, offsets, strict=True):
            put(memoryview(bytes(offset - at)))
            put(_little_endian(array))
        os.fsync(file.fileno())
    return Written(at, digest.hexdigest())


def _little_endian(array: NDArray[Any]) -> memoryview:
    if array.size == 0:
        return memoryview(b"")
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.data.cast("B")


def file_sha256(path: Path) -> Written:
    """A file's size and SHA-256, read through a small buffer so that no mapping of it becomes resident."""
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return Written(size, digest.hexdigest())


class Shard:
    """One mapped shard: read-only views whose pages come into memory as they are touched.

    ``tokens``, ``user_ids`` and ``fields[k]`` (by `Hole.field`) are `VarBytes`; ``variants`` uint8[rows] indexes the
    provider's templates. A field that no template of the provider uses has no offsets. ``base`` is the
    number of the shard's first row in the snapshot, ``index`` the shard's place among its shards.
    """

    def __init__(self, path: Path, *, index: int = 0, base: int = 0) -> None:
        self.path = path
        self.index = index
        self.base = base
        self._map, header = _map(path)
        try:
            self.provider = Provider(header["provider"])
            self.rows = int(header["rows"])
            views = {s["name"]: _view(self._map, s["dtype"], s["offset"], s["length"]) for s in header["sections"]}
            fields = sum(name.startswith("field.") for name in views) // 2
            self.tokens = VarBytes(views["tokens.data"], views["tokens.offsets"])
            self.variants: NDArray[np.uint8] = views["variants"]
            self.fields = tuple(
                VarBytes(views[f"field.{k}.data"], views[f"field.{k}.offsets"]) for k in range(fields)
            )
            self.user_ids = VarBytes(views["user_ids.data"], views["user_ids.offsets"])
        except (KeyError, ValueError, TypeError) as error:
            raise SnapshotError(f"{path} has a damaged header", remedy=_SEAL_AGAIN) from error
        if self.variants.size != self.rows or self.tokens.rows != self.rows or self.user_ids.rows != self.rows:
            raise SnapshotError(f"{path}: its sections do not agree on the number of rows", remedy=_SEAL_AGAIN)

    def __repr__(self) -> str:
        return f"<Shard {self.index}: {self.rows:,} {self.provider} rows from {self.base:,}>"

    def close(self) -> None:
        """Lets go of the mapping. Views taken from it keep it alive until they are gone too."""
        self.tokens = self.user_ids = NOTHING
        self.fields = ()
        self.variants = NOTHING.data
        try:
            self._map.close()
        except BufferError:
            pass


_SEAL_AGAIN: Final = "Seal the audience again; a snapshot cannot be repaired."


def _map(path: Path) -> tuple[mmap.mmap, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                raise SnapshotError(f"{path} is cut short", remedy=_SEAL_AGAIN)
            magic, version, length = _PREFIX.unpack(prefix)
            if magic != MAGIC:
                raise SnapshotError(f"{path} is not a shard", remedy=_SEAL_AGAIN)
            if version != VERSION:
                raise SnapshotError(f"{path} has layout {version}; this version reads {VERSION}", remedy=_SEAL_AGAIN)
            if length > _HEADER_BYTES_MAX:
                raise SnapshotError(f"{path} has a damaged header", remedy=_SEAL_AGAIN)
            header = json.loads(file.read(length))
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), header
    except FileNotFoundError:
        raise SnapshotError(f"{path} is missing", remedy=_SEAL_AGAIN) from None
    except ValueError as error:
        raise SnapshotError(f"{path} has a damaged header", remedy=_SEAL_AGAIN) from error
    except OSError as error:
        raise EnvironmentFault(f"cannot map {path}: {error.strerror}") from error


def _view(mapped: mmap.mmap, dtype: str, offset: int, length: int) -> NDArray[Any]:
    kind = _DTYPES[dtype]
    return np.frombuffer(mapped, kind, count=length, offset=offset) if length else np.empty(0, kind)
