"""The journal of one launch: every row's outcome, in a memory-mapped file that survives the process.

    offset   bytes        content
    0        4,096        header: magic, then one JSON object, padded with spaces
    4,096    rows         outcome   uint8   `Outcome`; IN_FLIGHT is written before a request leaves
    ...      rows         reason    uint8   `Reason.code`
    ...      rows         attempts  uint8   requests written for the row
    ...      4 * rows     reply_ms  uint32  ms from GO to the settling reply, 2**32 - 1 where there is none

Each array starts at a multiple of 4,096; numbers are little-endian. A store into the mapping reaches the page
cache at once, so kill -9 loses nothing; losing power can lose the last seconds, and `resume` after that cannot
promise at most once (docs/guides/unknown.md).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.errors import EnvironmentFault, SnapshotError
from flashcast.outcomes import Outcome, Reason

MAGIC: Final = b"FLASHJNL1\n"
NO_REPLY: Final = 0xFFFFFFFF
_PAGE: Final = 4_096


class Journal:
    """A journal opened for writing. The arrays are views of the file."""

    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    attempts: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]

    def __init__(self, path: Path, header: dict[str, Any], memory: mmap.mmap) -> None:
        self.path = path
        self.header = header
        self.rows = int(header["rows"])
        self._memory = memory
        at = _PAGE
        for name, dtype in (("outcome", "u1"), ("reason", "u1"), ("attempts", "u1"), ("reply_ms", "<u4")):
            array = np.frombuffer(memory, dtype, self.rows, at)
            setattr(self, name, array)
            at += _pages(array.nbytes)

    def __repr__(self) -> str:
        return f"<Journal {self.path.name} of {self.rows} rows>"

    @classmethod
    def create(cls, path: Path, rows: int, **facts: str) -> Journal:
        """Makes a journal in which every row is unsent; its disk space is taken at once.

        ``facts`` (launch id, snapshot digest) go into the header. Raises EnvironmentFault on a full disk.
        """
        header = {"rows": rows, **facts}
        size = _PAGE + 3 * _pages(rows) + _pages(4 * rows)
        try:
            with path.open("xb") as file:
                file.write((MAGIC + json.dumps(header).encode()).ljust(_PAGE))
                _write_run(file, b"\0", 3 * _pages(rows))
                _write_run(file, b"\xff", _pages(4 * rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            path.unlink(missing_ok=True)
            raise EnvironmentFault(
                f"no room for the journal {path}: it takes {size:,} bytes", remedy="Free disk space, or set --state."
            ) from None
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Maps an existing journal. Raises SnapshotError where it is none or is cut short."""
        try:
            with path.open("r+b") as file:
                head = file.read(_PAGE)
                memory = mmap.mmap(file.fileno(), 0) if len(head) == _PAGE else None
        except FileNotFoundError:
            raise SnapshotError(f"no journal at {path}", remedy="This launch never went live.") from None
        if memory is None or not head.startswith(MAGIC):
            raise SnapshotError(f"{path} is not a journal")
        try:
            header = json.loads(head[len(MAGIC) :])
            rows = int(header["rows"])
        except (ValueError, KeyError, TypeError):
            raise SnapshotError(f"{path} has a damaged header") from None
        if len(memory) != _PAGE + 3 * _pages(rows) + _pages(4 * rows):
            raise SnapshotError(f"{path} has {len(memory)} bytes, not those of {rows} rows: it was cut short")
        return cls(path, header, memory)

    def settle_interrupted(self) -> int:
        """Rows in flight when the process died become unknown. Returns how many there were."""
        lost = self.outcome == Outcome.IN_FLIGHT
        self.outcome[lost] = Outcome.UNKNOWN
        self.reason[lost] = Reason.PROCESS_DIED.code
        return int(lost.sum())

    def flush(self) -> None:
        """Asks the system to write the mapping to disk."""
        self._memory.flush()


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _write_run(file: Any, byte: bytes, size: int) -> None:
    block = byte * min(size, 1 << 20)
    while size > 0:
        size -= file.write(block[:size] if size < len(block) else block)
