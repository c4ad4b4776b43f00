"""A sealed snapshot copied to a place that many workers can reach.

The manifest goes last: until it is there, what lies there is no snapshot, and one that was replaced is gone as soon as
the first of its files changes. So a worker finds all of a snapshot or none, however an upload ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from flashcast.audience.manifest import MANIFEST, FileFacts, Manifest
from flashcast.audience.places import Found, MissingFileError, Place, place
from flashcast.audience.snapshot import open_snapshot
from flashcast.errors import EnvironmentFault, InputError

UPLOADS_AT_ONCE_MAX: Final = 8
"""One stream to a store carries 50 to 100 MB/s: eight fill a machine's 5 Gbit/s."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and how many there are."""


def upload_snapshot(
    folder: Path, url: str | Place, *, replace: bool = False, progress: Progress | None = None
) -> Place:
    """Copies the snapshot in ``folder`` to ``url`` and returns that place.

    Every byte is checked against the manifest before it leaves, every size where it arrived; workers check the rest.
    The same snapshot found there is left as it is; another one is replaced with ``replace`` only. Raises SnapshotError
    for a damaged snapshot, InputError for another one in its place, EnvironmentFault.
    """
    target = place(url) if isinstance(url, str) else url
    with open_snapshot(folder) as snapshot:
        manifest = snapshot.manifest
    raw = manifest.to_bytes()
    there = _manifest_there(target)
    if there == raw and not _amiss(manifest, target.list()):
        return target
    if there is not None:
        if there != raw and not replace:
            raise InputError(
                f"another snapshot is at {target.url}", remedy="Choose another address, or say that it may be replaced."
            )
        target.delete(MANIFEST)
    _put_all(folder, (*manifest.shards, manifest.dropped), target, progress)
    amiss = _amiss(manifest, target.list())
    if amiss:
        raise EnvironmentFault(
            f"{target.url}: {', '.join(amiss[:3])} did not arrive whole", remedy="Upload it again.", retryable=True
        )
    target.put(MANIFEST, raw)
    return target


def _manifest_there(target: Place) -> bytes | None:
    try:
        return target.get(MANIFEST)
    except MissingFileError:
        return None


def _put_all(folder: Path, files: Iterable[FileFacts], target: Place, progress: Progress | None) -> None:
    wanted = list(files)
    total = sum(facts.bytes for facts in wanted)
    arrived = 0
    with ThreadPoolExecutor(UPLOADS_AT_ONCE_MAX) as pool:
        uploads = [(facts, pool.submit(target.put, facts.file, folder / facts.file)) for facts in wanted]
        try:
            for facts, upload in uploads:
                upload.result()
                arrived += facts.bytes
                if progress is not None:
                    progress(arrived, total)
        finally:
            # The first fault ends it: what has not begun is not begun.
            pool.shutdown(cancel_futures=True)


def _amiss(manifest: Manifest, found: Iterable[Found]) -> list[str]:
    """The files that are missing or of another size at a place."""
    sizes = {one.name: one.bytes for one in found}
    return [f.file for f in (*manifest.shards, manifest.dropped) if sizes.get(f.file) != f.bytes]
