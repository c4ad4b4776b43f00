"""Outcomes on their way from workers to a report: one file per shard, epoch and worker, and each worker's facts.

The files lie beside the snapshot, in ``<snapshot>.outcomes/<launch>/``:

    shard-00007.e2.w-berlin.outcomes     what worker w-berlin knows of shard 7, which it held in epoch 2
    facts.w-berlin.json                  what it measured (report/facts.py)

    offset   bytes        content of an outcome file
    0        4,096        header: magic, then one JSON object (`Header`), padded with spaces
    4,096    4 * rows     reply_ms   uint32, little-endian   as in a journal (deliver/journal.py)
    ...      rows         outcome    uint8
    ...      rows         reason     uint8
    ...      rows         attempts   uint8
    ...      32           SHA-256 of everything before it
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from flashcast.audience.manifest import Manifest, ShardFacts
from flashcast.audience.places import Found, Place
from flashcast.campaign.records import Record
from flashcast.errors import InputError, SnapshotError
from flashcast.model import Provider
from flashcast.report.facts import WorkerFacts
from flashcast.report.ledger import Rows
from flashcast.report.merging import MergedRows as MergedRows
from flashcast.report.merging import Part as Part
from flashcast.report.merging import merge as merge

MAGIC: Final = b"FLASHSTL1\n"
_PAGE: Final = 4_096
_ROW_BYTES: Final = 7
_DIGEST_BYTES: Final = 32
READS_AT_ONCE_MAX: Final = 8
"""A shard's file has 460 KB, which a store answers in some 50 ms: the 62 of 4M rows come in half a second."""
_NAME: Final = re.compile(r"shard-(\d{5,})\.e(\d+)\.([A-Za-z0-9_-]+)\.outcomes")
_FACTS: Final = re.compile(r"facts\.([A-Za-z0-9_-]+)\.json")


class SettledRows(Rows, Protocol):
    """`Rows` with how often each was tried; a journal is one."""

    @property
    def attempts(self) -> NDArray[np.uint8]: ...


class Header(Record):
    """Whose rows a file holds, and whether its writer held the shard to the end."""

    launch: str
    snapshot: str
    shard: int
    base: int
    rows: int
    provider: Provider
    epoch: int
    worker: str
    owned: bool = True


# --- files ----------------------------------------------------------------------------------------------------


def file_name(index: int, epoch: int, worker: str) -> str:
    """The name of the outcome file of shard ``index``."""
    name = f"shard-{index:05d}.e{epoch}.{worker}.outcomes"
    if not _NAME.fullmatch(name):
        raise InputError(f"worker {worker!r}: a worker's name is made of letters, digits, _ and -")
    return name


def write_settled(
    place: Place,
    rows: SettledRows,
    *,
    launch: str,
    snapshot: str,
    shard: int,
    facts: ShardFacts,
    epoch: int,
    worker: str,
    owned: bool,
) -> str:
    """Writes the outcome file of one shard and returns its name.

    ``rows`` are those of the whole snapshot (a worker's journal), ``snapshot`` is its digest, ``facts`` the shard's
    entry in its manifest. ``owned`` tells whether the worker holds the shard still. Raises EnvironmentFault.
    """
    header = Header(
        launch=launch, snapshot=snapshot, shard=shard, base=facts.base, rows=facts.rows, provider=facts.provider,
        epoch=epoch, worker=worker, owned=owned,
    )  # fmt: skip
    span = slice(facts.base, facts.base + facts.rows)
    head = MAGIC + json.dumps(header.model_dump(mode="json")).encode()
    assert len(head) <= _PAGE, "names are bounded by the engine's keys"
    body = b"".join(
        (
            head.ljust(_PAGE),
            rows.reply_ms[span].astype("<u4").tobytes(),
            rows.outcome[span].tobytes(),
            rows.reason[span].tobytes(),
            rows.attempts[span].tobytes(),
        )
    )
    name = file_name(shard, epoch, worker)
    place.put(name, body + hashlib.sha256(body).digest())
    return name


def read_settled(place: Place, name: str) -> tuple[Header, Part]:
    """Reads an outcome file; on a disk its arrays are views of the mapped file.

    Raises SnapshotError for a file that is cut short, changed, or none of ours; EnvironmentFault.
    """
    where = f"{place.url}/{name}"
    data = _mapped(place, name) if place.local is not None else memoryview(place.get(name))
    if len(data) < _PAGE + _DIGEST_BYTES or bytes(data[: len(MAGIC)]) != MAGIC:
        raise SnapshotError(f"{where} is not an outcome file, or was cut short")
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != bytes(data[-_DIGEST_BYTES:]):
        raise SnapshotError(f"{where} does not match its checksum: it was cut short or changed")
    try:
        header = Header.model_validate_json(bytes(data[len(MAGIC) : _PAGE]))
    except ValidationError:
        raise SnapshotError(f"{where} has a damaged header") from None
    rows = header.rows
    if rows < 0 or len(data) != _PAGE + _ROW_BYTES * rows + _DIGEST_BYTES:
        raise SnapshotError(f"{where} has {len(data):,} bytes, not those of {rows:,} rows")
    at = _PAGE + 4 * rows
    return header, Part(
        base=header.base,
        rows=rows,
        outcome=np.frombuffer(data, np.uint8, rows, at),
        reason=np.frombuffer(data, np.uint8, rows, at + rows),
        attempts=np.frombuffer(data, np.uint8, rows, at + 2 * rows),
        reply_ms=np.frombuffer(data, "<u4", rows, _PAGE),
        owned=header.owned,
    )


def _mapped(place: Place, name: str) -> memoryview:
    assert place.local is not None
    try:
        with (place.local / name).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError:  # an empty file cannot be mapped
        return memoryview(b"")
    except OSError:
        return memoryview(place.get(name))  # which tells what is wrong


@dataclass(frozen=True)
class Settled:
    """What lies at a launch's place of outcomes. ``damaged`` are sentences about files that were left out."""

    parts: Sequence[Part]
    facts: Sequence[WorkerFacts]
    damaged: Sequence[str]
    sources: str
    """A digest of the files' names and sizes: another one means that there is more to be read."""


def read_all(place: Place, manifest: Manifest, launch: str) -> Settled:
    """Reads every outcome file of a launch and its workers' facts, several at once.

    A file that is damaged, or of another launch or snapshot, is left out and told. Raises EnvironmentFault where the
    place cannot be read.
    """
    found = place.list()
    names = [one.name for one in found if _NAME.fullmatch(one.name)]
    told = [one.name for one in found if _FACTS.fullmatch(one.name)]
    parts: list[Part] = []
    facts: list[WorkerFacts] = []
    damaged: list[str] = []
    with ThreadPoolExecutor(READS_AT_ONCE_MAX) as pool:
        for part in pool.map(lambda name: _part(place, name, manifest, launch), names):
            if isinstance(part, str):
                damaged.append(part)
            else:
                parts.append(part)
        for fact in pool.map(lambda name: _facts(place, name, launch), told):
            if isinstance(fact, str):
                damaged.append(fact)
            else:
                facts.append(fact)
    return Settled(parts, facts, damaged, sources_digest(found))


def sources_digest(found: Iterable[Found]) -> str:
    """A digest of the names and sizes of those files in a launch's place that a report is made from."""
    sources = sorted(one for one in found if _NAME.fullmatch(one.name) or _FACTS.fullmatch(one.name))
    return hashlib.sha256("\n".join(f"{one.name} {one.bytes}" for one in sources).encode()).hexdigest()


def _part(place: Place, name: str, manifest: Manifest, launch: str) -> Part | str:
    try:
        header, part = read_settled(place, name)
    except SnapshotError as error:
        return error.message
    where = f"{place.url}/{name}"
    if header.launch != launch or header.snapshot != manifest.digest:
        return f"{where} is of another launch or snapshot"
    known = manifest.shards[header.shard] if 0 <= header.shard < len(manifest.shards) else None
    if known is None or (known.base, known.rows, known.provider) != (header.base, header.rows, header.provider):
        return f"{where} is of a shard that the snapshot does not have"
    return part


# --- facts ----------------------------------------------------------------------------------------------------


def write_facts(place: Place, facts: WorkerFacts) -> str:
    """Writes what a worker measured, in the place of what it told before; returns the file's name."""
    name = f"facts.{facts.worker}.json"
    if not _FACTS.fullmatch(name):
        raise InputError(f"worker {facts.worker!r}: a worker's name is made of letters, digits, _ and -")
    place.put(name, facts.to_bytes())
    return name


def read_facts(place: Place, launch: str) -> list[WorkerFacts]:
    """What the workers of a launch measured, as far as it can be read. Raises EnvironmentFault."""
    names = [one.name for one in place.list() if _FACTS.fullmatch(one.name)]
    found = [_facts(place, name, launch) for name in names]
    return [facts for facts in found if isinstance(facts, WorkerFacts)]


def _facts(place: Place, name: str, launch: str) -> WorkerFacts | str:
    try:
        facts = WorkerFacts.model_validate_json(place.get(name))
    except ValidationError:
        return f"{place.url}/{name} cannot be read"
    return facts if facts.launch == launch else f"{place.url}/{name} is of another launch"
