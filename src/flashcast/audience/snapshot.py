"""A sealed audience, opened: mapped shards, the messages that were sealed with them, and the digest of it all.

    <snapshot>/
        manifest.json         counts, templates, options, SHA-256 of every file; see manifest.py
        apns-00000.shard      rows of one provider, at most limits.SHARD_ROWS_MAX; see shards.py
        apns-00001.shard
        fcm-00000.shard
        dropped.parquet       the rows left out and why; see drops.py

Rows are numbered through the snapshot: all APNs shards first, then FCM.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from flashcast.audience.arrays import VarBytes
from flashcast.audience.manifest import FileFacts, Manifest, read_manifest
from flashcast.audience.shards import Shard, file_sha256
from flashcast.campaign.template import template_from_json
from flashcast.errors import EnvironmentFault, SnapshotError
from flashcast.model import Field, Provider, RequestTemplate, UnknownPolicy

__all__ = ["Shard", "Snapshot", "VarBytes", "open_snapshot"]

DROPPED: Final = "dropped.parquet"
_VERIFY_THREADS_MAX: Final = 8
"""SHA-256 runs at 1 to 2 GB/s per core; beyond eight the disk is the limit."""


class Contents:
    """What the manifest alone tells of a snapshot; ``where`` names it in errors. Raises SnapshotError."""

    def __init__(self, manifest: Manifest, where: str) -> None:
        self.manifest = manifest
        self.digest = manifest.digest
        self.name = manifest.name
        self.window_s = manifest.window_s
        self.unknown_policy: UnknownPolicy = manifest.unknown_policy
        self.pace: dict[Provider, float] = dict(manifest.pace)
        self.fields = tuple(Field(field.column, field.fallback) for field in manifest.fields)
        try:
            self.templates: dict[Provider, tuple[RequestTemplate, ...]] = {
                provider: tuple(template_from_json(document) for document in documents)
                for provider, documents in manifest.templates.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"{where}: a template in the manifest cannot be read", remedy=_REMEDY) from error
        self.rows_by_provider: dict[Provider, int] = {
            provider: sum(shard.rows for shard in manifest.shards if shard.provider is provider)
            for provider in Provider
        }
        self.rows = sum(self.rows_by_provider.values())


class Snapshot(Contents):
    """A sealed audience and its messages. Close it, or use it in a ``with`` statement, to let the mappings go."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(manifest, str(path))
        self.path = path
        self.shards = tuple(map_shard(path, manifest, index) for index in range(len(manifest.shards)))

    def __repr__(self) -> str:
        parts = ", ".join(f"{rows:,} {provider}" for provider, rows in self.rows_by_provider.items() if rows)
        return f"<Snapshot {self.name!r} {self.digest[:12]}: {parts}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of every mapping."""
        for shard in self.shards:
            shard.close()


def open_snapshot(path: Path, *, verify: bool = True) -> Snapshot:
    """Opens the snapshot in the folder ``path``.

    With ``verify``, every file is read once and compared with its SHA-256 in the manifest; the manifest is always
    compared with the digest. Verification reads through a buffer, so that it makes no page of the mappings resident.
    Raises SnapshotError where bytes are missing or do not match, EnvironmentFault where they cannot be read.
    """
    manifest = read_manifest(path)
    if verify:
        files: tuple[FileFacts, ...] = (*manifest.shards, manifest.dropped)
        with ThreadPoolExecutor(min(_VERIFY_THREADS_MAX, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda facts: verify_file(path, facts), files))
    return Snapshot(path, manifest)


def map_shard(folder: Path, manifest: Manifest, index: int) -> Shard:
    """Maps shard ``index`` in ``folder``. Raises SnapshotError where it is not the one that the manifest names."""
    facts = manifest.shards[index]
    shard = Shard(folder / facts.file, index=index, base=facts.base)
    if shard.rows != facts.rows or shard.provider is not facts.provider:
        raise SnapshotError(f"{shard.path} is not the shard that the manifest names", remedy=_REMEDY)
    return shard


def verify_file(folder: Path, facts: FileFacts) -> None:
    """Reads a file once. Raises SnapshotError where it is missing or not the one sealed, EnvironmentFault."""
    path = folder / facts.file
    try:
        size = path.stat().st_size
        if size != facts.bytes:
            raise SnapshotError(f"{path} has {size:,} bytes; {facts.bytes:,} were sealed", remedy=_REMEDY)
        if file_sha256(path).sha256 != facts.sha256:
            raise SnapshotError(f"{path} does not match its digest: its bytes changed after sealing", remedy=_REMEDY)
    except FileNotFoundError:
        raise SnapshotError(f"{path} is missing", remedy=_REMEDY) from None
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error


_REMEDY: Final = "Seal the audience again, or restore the folder from where it was copied."
