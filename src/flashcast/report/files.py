"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from flashcast.errors import EnvironmentFault

PRIVATE = 0o600
"""Mode of every report file: it tells who uses the app, and a prune file holds device tokens."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes it when the body ends well, and vanishes otherwise.

    The file is flushed to disk before it gets its name, so a power cut leaves the old one or the new one.
    Raises EnvironmentFault where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise EnvironmentFault(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}",
            remedy="Free disk space or choose another folder; `flashcast report` then writes it again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
