"""The folder in which a machine keeps the snapshots it has fetched, shared by all of its workers.

    <cache>/                      mode 0700: shards hold device tokens
      <digest of the snapshot>/
        .used                     held with a shared flock by every process that uses the folder
        manifest.json
        apns-00000.shard          appears by a rename, after its SHA-256 was found right

It keeps the `CACHE_SNAPSHOTS_MAX` snapshots that were used last. A folder is removed under its exclusive lock and after
a rename: never while a process uses it, and never seen half removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashcast.audience.folder import is_full
from flashcast.errors import EnvironmentFault

CACHE_SNAPSHOTS_MAX: Final = 4
"""Snapshots kept: four million rows take some 400 MB. The one in use, the rehearsal's, and those before."""
_ENTRIES_MAX: Final = 100
"""Tries to enter a folder that others are just removing; a second is already rare."""
_USED: Final = ".used"


def enter(folder: Path) -> int:
    """Makes a snapshot's folder where it is missing, and locks it against removal until the descriptor is closed.

    Beyond `CACHE_SNAPSHOTS_MAX`, others are removed. Raises EnvironmentFault where the cache cannot be used.
    """
    try:
        descriptor = _locked(folder)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot use the cache {folder}: {error.strerror}", remedy="Free disk space, or name another cache."
        ) from error
    with suppress(OSError):  # a cache that is too large is no reason not to send
        remove_oldest(folder.parent)
    return descriptor


def _locked(folder: Path) -> int:
    for _ in range(_ENTRIES_MAX):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(folder / _USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is(descriptor, folder / _USED):
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)  # it was removed between opening and locking
    raise BlockingIOError(None, "it is being removed again and again")


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def remove_oldest(cache: Path, keep: int = CACHE_SNAPSHOTS_MAX) -> None:
    """Removes the snapshots of a cache that were used longest ago, but for ``keep`` and those in use."""
    found: list[tuple[float, Path]] = []
    for entry in cache.iterdir():
        with suppress(OSError):
            found.append(((entry / _USED).stat().st_mtime, entry))
    for _, folder in sorted(found)[: max(0, len(found) - keep)]:
        with suppress(OSError):
            _remove(folder)


def _remove(folder: Path) -> None:
    descriptor = os.open(folder / _USED, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is(descriptor, folder / _USED):
            return
        # Renamed first: whoever waits for the lock finds the name free, and never a folder that is half removed.
        aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder.parent))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(descriptor)


class Arriving:
    """A temporary file that becomes ``path`` when the body ends well. Raises EnvironmentFault where it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", suffix=".part", dir=self._path.parent)
        except OSError as error:
            raise self._fault(error) from error
        os.close(descriptor)
        self._temporary = Path(name)
        return self._temporary

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._temporary.replace(self._path)
        except OSError as fault:
            raise self._fault(fault) from fault
        finally:
            self._temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> EnvironmentFault:
        return EnvironmentFault(
            f"cannot keep {self._path}: {error.strerror}",
            remedy="Free disk space, or name another cache.",
            retryable=is_full(error),
        )
