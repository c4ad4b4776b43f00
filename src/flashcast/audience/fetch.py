"""A snapshot that lies at a place, as a worker sees it: the manifest, and single shards, each checked and mapped.

A snapshot on a disk of this machine, or on a share that it mounts, is used where it is. One on object storage is
fetched shard by shard into a cache that all workers of a machine share (cache.py).

A shard's SHA-256 is computed every time it is mapped, also when it comes from the cache. The obvious saving is a mark
"was checked", trusted until size or time of the file change. But a shard of 6 MB is hashed in 5 ms, four million rows
in 0.3 s before GO, and reading them brings into memory what GO would have to read. So nothing has to be trusted: not
the mark, not the clock, not the disk. A cached file that fails is fetched again; one that fails twice is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from flashcast.audience.arrays import VarBytes
from flashcast.audience.cache import Arriving, enter
from flashcast.audience.manifest import MANIFEST, Manifest, ShardFacts, parse_manifest
from flashcast.audience.places import MissingFileError, Place, place
from flashcast.audience.shards import Shard, file_sha256
from flashcast.audience.snapshot import Contents, map_shard, verify_file
from flashcast.errors import SnapshotError
from flashcast.model import Field, Provider, RequestTemplate, UnknownPolicy

FETCHES_AT_ONCE_MAX: Final = 8
"""One stream from a store carries 50 to 100 MB/s: eight fill a machine's 5 Gbit/s."""
_REMEDY: Final = "Seal the audience again, or arm with the snapshot that the launch was sealed with."


class SnapshotSource:
    """The snapshot with ``digest`` at ``ref``. Thread-safe; calls block. Close it, or use it in a ``with`` statement.

    It tells everything that `snapshot.Snapshot` tells; the first thing asked fetches the manifest. `shard` gives a
    worker a shard of its own; `shards` are those of the report, mapped when they are first looked into.
    """

    def __init__(self, ref: str | Place, digest: str, cache: Path) -> None:
        self.place: Place = place(ref) if isinstance(ref, str) else ref
        self.digest = digest
        self._cache = cache
        self._lock = threading.Lock()
        self._contents: Contents | None = None
        self._shards: tuple[LateShard, ...] = ()
        self._used: int | None = None

    def __repr__(self) -> str:
        return f"<SnapshotSource {self.digest[:12]} at {self.place.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the cache's folder and of `shards`; what `shard` gave stays mapped until it is closed."""
        with self._lock:
            for late in self._shards:
                late.close()
            if self._used is not None:
                os.close(self._used)
                self._used = None

    # --- what the manifest tells -------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """The manifest, fetched once.

        Raises SnapshotError where it is missing, damaged or another snapshot's, EnvironmentFault where the place or the
        cache cannot be used.
        """
        return self._told().manifest

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self._told().name

    @property
    def window_s(self) -> float:
        """The window that was sealed."""
        return self._told().window_s

    @property
    def unknown_policy(self) -> UnknownPolicy:
        """The policy that was sealed."""
        return self._told().unknown_policy

    @property
    def pace(self) -> Mapping[Provider, float]:
        """Messages per second, for providers that have a pace."""
        return self._told().pace

    @property
    def fields(self) -> tuple[Field, ...]:
        """The personalised columns."""
        return self._told().fields

    @property
    def templates(self) -> Mapping[Provider, tuple[RequestTemplate, ...]]:
        """The messages, by provider and variant."""
        return self._told().templates

    @property
    def rows_by_provider(self) -> Mapping[Provider, int]:
        """Rows of all shards."""
        return self._told().rows_by_provider

    @property
    def rows(self) -> int:
        """Rows of all shards and providers."""
        return self._told().rows

    @property
    def shards(self) -> Sequence[LateShard]:
        """Every shard; their numbers are known at once, their rows are fetched when they are looked at."""
        self._told()
        return self._shards

    def _told(self) -> Contents:
        with self._lock:
            if self._contents is None:
                contents = Contents(self._read_manifest(), self.place.url)
                self._shards = tuple(LateShard(self, i, facts) for i, facts in enumerate(contents.manifest.shards))
                self._contents = contents
            return self._contents

    def _read_manifest(self) -> Manifest:
        cached = None if self.place.local is not None else self._folder() / MANIFEST
        if cached is not None:
            with suppress(OSError, SnapshotError):
                manifest = parse_manifest(cached.read_bytes(), str(cached))
                if manifest.digest == self.digest:
                    return manifest
        try:
            raw = self.place.get(MANIFEST)
        except MissingFileError:
            raise SnapshotError(
                f"{self.place.url} is not a snapshot: it has no {MANIFEST}",
                remedy="It was removed, or another machine was meant: seal to a place that every machine reaches.",
            ) from None
        manifest = parse_manifest(raw, f"{self.place.url}/{MANIFEST}")
        if manifest.digest != self.digest:
            raise SnapshotError(
                f"{self.place.url}/{MANIFEST} has the digest {manifest.digest[:16]}, "
                f"the launch was sealed with {self.digest[:16]}",
                remedy=_REMEDY,
            )
        if cached is not None:
            with Arriving(cached) as temporary:
                temporary.write_bytes(raw)
        return manifest

    # --- shards ------------------------------------------------------------------------------------------

    def shard(self, index: int) -> Shard:
        """Shard ``index``, fetched where it must be, checked and mapped; whoever asked closes it.

        Raises SnapshotError naming the file where it is missing or is not what was sealed, EnvironmentFault.
        """
        manifest = self.manifest()
        if not 0 <= index < len(manifest.shards):
            raise SnapshotError(f"{self.place.url} has {len(manifest.shards)} shards, not one numbered {index}")
        return map_shard(self._holding(manifest.shards[index]), manifest, index)

    def fetch_all(self) -> None:
        """Fetches every shard that is not here yet, several at once. Raises as `shard` does."""
        facts = self.manifest().shards
        if self.place.local is None:
            with ThreadPoolExecutor(FETCHES_AT_ONCE_MAX) as pool:
                list(pool.map(self._holding, facts))

    def _holding(self, facts: ShardFacts) -> Path:
        """The folder in which the file of ``facts`` is, its bytes checked."""
        if self.place.local is not None:
            verify_file(self.place.local, facts)
            return self.place.local
        folder = self._folder()
        try:
            verify_file(folder, facts)
        except SnapshotError:  # not here yet, or damaged since
            self._fetch(facts, folder / facts.file)
        return folder

    def _fetch(self, facts: ShardFacts, path: Path) -> None:
        source = f"{self.place.url}/{facts.file}"
        with Arriving(path) as temporary:
            try:
                self.place.fetch(facts.file, temporary)
            except MissingFileError:
                raise SnapshotError(f"{source} is missing", remedy=_REMEDY) from None
            found = file_sha256(temporary)
            if found.bytes != facts.bytes:
                raise SnapshotError(f"{source} has {found.bytes:,} bytes; {facts.bytes:,} were sealed", remedy=_REMEDY)
            if found.sha256 != facts.sha256:
                raise SnapshotError(
                    f"{source} does not match its digest: its bytes changed after sealing", remedy=_REMEDY
                )

    def _folder(self) -> Path:
        """The snapshot's folder in the cache, locked against removal for as long as this source is open."""
        folder = self._cache / self.digest
        if self._used is None:
            self._used = enter(folder)
        return folder


class LateShard:
    """A shard of a report: its place is known from the manifest, its rows are mapped when they are first looked at."""

    def __init__(self, source: SnapshotSource, index: int, facts: ShardFacts) -> None:
        self.index = index
        self.provider: Provider = facts.provider
        self.rows = facts.rows
        self.base = facts.base
        self._source = source
        self._shard: Shard | None = None

    def __repr__(self) -> str:
        return f"<LateShard {self.index}: {self.rows:,} {self.provider} rows from {self.base:,}>"

    @property
    def tokens(self) -> VarBytes:
        """See `Shard`."""
        return self._mapped().tokens

    @property
    def user_ids(self) -> VarBytes:
        """See `Shard`."""
        return self._mapped().user_ids

    @property
    def variants(self) -> NDArray[np.uint8]:
        """See `Shard`."""
        return self._mapped().variants

    def close(self) -> None:
        """Lets go of the mapping."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _mapped(self) -> Shard:
        if self._shard is None:
            self._shard = self._source.shard(self.index)
        return self._shard
