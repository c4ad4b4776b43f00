"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flashcast.errors import EnvironmentFault

_FULL: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def is_full(error: OSError) -> bool:
    """Whether an error means that the disk, the quota or the file size limit is used up."""
    # pyarrow raises OSError with the number in its text alone.
    return error.errno in _FULL or any(f"[Errno {number}]" in str(error) for number in _FULL)


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` to build in; it is removed again unless `publish` moved it to ``out``.

    Only its owner can read it: a snapshot holds device tokens. Raises EnvironmentFault where it cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".building", dir=out.parent))
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write beside {out}: {error.strerror}", remedy="Choose another --out."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, out: Path) -> None:
    """Moves the finished ``folder`` to ``out``, replacing what is there, so that a crash leaves one or the other."""
    sync_folder(folder)
    if out.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
        out.rename(aside / out.name)
        try:
            folder.rename(out)
        except OSError:
            (aside / out.name).rename(out)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    else:
        folder.rename(out)
    sync_folder(out.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a new file and fsyncs it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """fsyncs a file that somebody else wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """fsyncs a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
