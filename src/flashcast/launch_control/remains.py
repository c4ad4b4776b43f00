"""The files of a launch that was deleted: its snapshot, and the outcome files and reports beside it. Blocks.

Only what we wrote is removed: the files that the manifest names, and what lies in the launch's own folder of outcomes.
The manifest goes last, so that what was broken off can be finished.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from flashcast.audience.manifest import MANIFEST, Manifest, parse_manifest
from flashcast.audience.places import MissingFileError, Place, place
from flashcast.campaign.records import Remains
from flashcast.errors import FlashcastError, SnapshotError


@dataclass(frozen=True)
class Files:
    """What was removed of one launch's files. ``fault`` is what kept the rest from it, empty where nothing did."""

    launch: str
    url: str
    snapshot_files: int = 0
    outcome_files: int = 0
    fault: str = ""
    again: bool = False
    """Deleting again may remove the rest."""


def remove_files(remains: Remains, *, snapshot: bool) -> Files:
    """Removes the launch's outcomes and, with ``snapshot``, its snapshot. A fault is told, not raised."""
    outcomes = removed = 0
    try:
        there = place(remains.url)
        beside = there.beside(".outcomes")
        outcomes = _remove(beside.child(remains.launch))
        _remove_folder(beside)
        if snapshot:
            removed = _remove_snapshot(there, remains.digest)
    except FlashcastError as error:
        again = not isinstance(error, SnapshotError)
        return Files(remains.launch, remains.url, removed, outcomes, error.message, again)
    return Files(remains.launch, remains.url, removed, outcomes)


def _remove(there: Place) -> int:
    found = there.list()
    for one in found:
        there.delete(one.name)
    _remove_folder(there)
    return len(found)


def _remove_snapshot(there: Place, digest: str) -> int:
    manifest = _manifest(there)
    if manifest is None:
        return 0
    if manifest.digest != digest:
        raise SnapshotError(f"{there.url} has another snapshot by now, which stays")
    files = [facts.file for facts in (*manifest.shards, manifest.dropped)]
    for name in (*files, MANIFEST):
        there.delete(name)
    _remove_folder(there)
    return len(files) + 1


def _manifest(there: Place) -> Manifest | None:
    try:
        return parse_manifest(there.get(MANIFEST), f"{there.url}/{MANIFEST}")
    except MissingFileError:
        return None  # gone already, or a path of another machine


def _remove_folder(there: Place) -> None:
    """A local folder that is empty now; one with anything else in it stays."""
    if there.local is not None:
        with suppress(OSError):
            there.local.rmdir()
