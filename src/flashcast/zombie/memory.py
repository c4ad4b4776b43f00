"""What a controller keeps over a restart: a file that is replaced whole, and a lock that keeps a second one out."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import Field, ValidationError

from flashcast.errors import BusyError, InputError
from flashcast.zombie.bounds import VERSION_MAX
from flashcast.zombie.document import Terms
from flashcast.zombie.judging import Part
from flashcast.zombie.levels import State

MEMORY_BYTES_MAX: Final = 1 << 20
"""64 rules take 15 KB, terms with every message 120 KB."""


class Memory(Part):
    """What is kept. ``theirs`` are the terms that somebody else has published and that still hold."""

    format: int = Field(1, ge=1, le=1)
    app: str
    version: int = Field(0, ge=0, le=VERSION_MAX)
    """Of the last document this controller has published or followed."""
    state: State
    salt: str
    incident: str = ""
    theirs: Terms | None = None


class MemoryFile:
    """The file of one app's controller. Entered, it holds a lock: two controllers on one machine are one too many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<MemoryFile {self.path}>"

    def __enter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(
            self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise BusyError(
                f"another controller works with {self.path}", remedy="One is enough: stop it, or name another --state."
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self, app: str) -> Memory | None:
        """What was kept; None where nothing was. Raises InputError where it is damaged or another app's."""
        remedy = "Move it away: the controller then goes on from what is published."
        try:
            with self.path.open("rb") as file:
                data = file.read(MEMORY_BYTES_MAX)
        except FileNotFoundError:
            return None
        try:
            found = Memory.model_validate_json(data)
        except ValidationError:
            raise InputError(f"{self.path} is damaged", remedy=remedy) from None
        if found.app != app:
            raise InputError(f"{self.path} is of {found.app}, not of {app}", remedy=remedy)
        return found

    def save(self, memory: Memory) -> None:
        """Keeps it. Raises OSError."""
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(memory.model_dump(mode="json", exclude_none=True), file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
