"""The journal of one worker for one launch: every row's outcome, in a memory-mapped file that survives the process.

    offset   bytes        content
    0        4,096        header: magic, then one JSON object, padded with spaces
    4,096    65,536       held ranges: base int64, rows int64; the first with 0 rows ends the list
    69,632   rows         outcome   uint8   `Outcome`; IN_FLIGHT is written before a request leaves
    ...      rows         reason    uint8   `Reason.code`
    ...      rows         attempts  uint8   requests written for the row
    ...      4 * rows     reply_ms  uint32  ms from GO to the settling reply, 2**32 - 1 where there is none

Each array starts at a multiple of 4,096; numbers are little-endian. The arrays have a place for every row of the
snapshot, so a row has the same number everywhere, but only the ranges of shards that this worker has held are there:
the rest of the file is a hole and means nothing. A range is entered once its bytes are on disk, and before it is used.

A store into the mapping reaches the page cache at once, so kill -9 loses nothing; losing power can lose the last
seconds, and `resume` after that cannot promise at most once (docs/guides/unknown.md).

**Whose it is.** The owner holds an exclusive flock for as long as its process lives, stopped or not. Whoever gets a
shared one reads the last word of a process that is no more (`JournalReader.read`); looking without a lock, as a report
does, is always possible (`JournalReader.open`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.certainty import certainty
from flashcast.errors import BusyError, EnvironmentFault, FlashcastError, SnapshotError
from flashcast.outcomes import Outcome, Reason

MAGIC: Final = b"FLASHJNL2\n"
NO_REPLY: Final = 0xFFFFFFFF
HELD_MAX: Final = 4_096
"""Ranges in one journal, 16 bytes each: 268 million rows in shards of 65,536. Neighbours share one."""
_PAGE: Final = 4_096
_TABLE_BYTES: Final = 16 * HELD_MAX
_ARRAYS: Final = (("outcome", "u1", 0), ("reason", "u1", 0), ("attempts", "u1", 0), ("reply_ms", "<u4", 0xFF))
"""Name, type, and the byte that an untouched row consists of."""
_BLOCK: Final = 1 << 20


def journal_name(worker: str) -> str:
    """The file's name in the launch's folder."""
    return f"journal-{worker}.bin"


def journal_path(state: Path, launch: str, worker: str) -> Path:
    """Where ``worker`` keeps its journal of ``launch`` in the state folder ``state``."""
    return state / "launches" / launch / journal_name(worker)


def journals(folder: Path) -> list[Path]:
    """Every worker's journal in a launch's folder, by name."""
    return sorted(folder.glob(journal_name("*")))


@dataclass(frozen=True)
class RowArrays:
    """What is known of rows, in their order: uint8, uint8, uint8, uint32 as in a journal."""

    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    attempts: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]

    def part(self, base: int, rows: int) -> RowArrays:
        """Views of ``rows`` rows from ``base``."""
        span = slice(base, base + rows)
        return RowArrays(self.outcome[span], self.reason[span], self.attempts[span], self.reply_ms[span])


class JournalReader:
    """A journal opened for reading. The arrays are views of the file; rows outside `held` mean nothing."""

    def __init__(self, path: Path, file: IO[bytes], access: int = mmap.ACCESS_READ) -> None:
        """Maps an open file and keeps it. Raises SnapshotError where it is no journal or is cut short."""
        header, memory = _map(path, file, access)
        self.path = path
        self.header = header
        self.rows = int(header["rows"])
        self.arrays = RowArrays(
            *(
                np.frombuffer(memory, dtype, self.rows, at)
                for (_, dtype, _), at in zip(_ARRAYS, _offsets(self.rows), strict=True)
            )
        )
        self.outcome, self.reason = self.arrays.outcome, self.arrays.reason
        self.attempts, self.reply_ms = self.arrays.attempts, self.arrays.reply_ms
        self._table = np.frombuffer(memory, "<i8", 2 * HELD_MAX, _PAGE).reshape(HELD_MAX, 2)
        self._memory = memory
        self._file = file

    def __repr__(self) -> str:
        held = sum(rows for _, rows in self.held)
        return f"<{type(self).__name__} {self.path.name} of {self.rows} rows, {held} held>"

    @staticmethod
    def open(path: Path) -> JournalReader:
        """Looks into a journal, whether or not its owner lives. Raises SnapshotError where it is none."""
        with _closed_on_error(_file(path, "rb")) as file:
            return JournalReader(path, file)

    @staticmethod
    def read(path: Path) -> JournalReader | None:
        """The last word of a process that has ended; close it when it is read.

        None where there is none to be had: its owner lives (a stopped process lives), or there is no whole journal.
        """
        try:
            reader = JournalReader.open(path)
        except (SnapshotError, OSError):
            return None
        try:
            fcntl.flock(reader._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            reader.close()
            return None
        return reader

    @property
    def held(self) -> list[tuple[int, int]]:
        """The ranges that mean something, as (base, rows), in the order in which they came."""
        counts = self._table[:, 1]
        used = HELD_MAX if counts.all() else int((counts == 0).argmax())
        return [(int(base), int(rows)) for base, rows in self._table[:used]]

    def covers(self, base: int, rows: int) -> bool:
        """Whether these rows are held."""
        return any(start <= base and base + rows <= start + count for start, count in self.held)

    def close(self) -> None:
        """Lets go of the lock and the file; the mapping goes with the last view of it. Safe to call twice."""
        if not self._file.closed:
            # The mapping has a descriptor of its own, which would keep the lock.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()


class Journal(JournalReader):
    """A journal opened for writing by its owner."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(path, file, mmap.ACCESS_WRITE)
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, rows: int, **facts: str) -> Journal:
        """Makes a journal with a place for ``rows`` rows, none of them held, and its folder where there is none.

        ``facts`` (launch id, snapshot digest, worker) go into the header. Raises EnvironmentFault on a full disk,
        FileExistsError where there is one already.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("x+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = MAGIC + json.dumps({"rows": rows, **facts}).encode()
            assert len(head) <= _PAGE, "a journal's header is one page"
            _write_at(file, head.ljust(_PAGE) + bytes(_TABLE_BYTES), 0)
            file.truncate(_size(rows))
            os.fsync(file.fileno())
            return cls(path, file)
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            raise _told(error, path, _size(rows)) from None

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Takes up the journal of a process that has ended, to go on writing it.

        Raises BusyError while that process lives, SnapshotError where there is no whole journal.
        """
        with _closed_on_error(_file(path, "r+b")) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{path} belongs to a process that is still there", remedy="Wait until it has ended, or end it."
                ) from None
            return cls(path, file)

    def hold(self, base: int, rows: int) -> None:
        """Makes room for a shard: its rows are unsent, their disk space is taken. Rows that are held stay as they are.

        Raises EnvironmentFault on a full disk or list of ranges; nothing is held then that was not before.
        """
        if not 0 <= base <= base + rows <= self.rows:
            raise ValueError(f"rows {base} to {base + rows} are not in a journal of {self.rows}")
        with self._lock:
            held = self.held
            if rows == 0 or self.covers(base, rows):
                return
            if any(start < base + rows and base < start + count for start, count in held):
                raise ValueError(f"rows {base} to {base + rows} are held in part: shards do not overlap")
            follows = next((i for i, (start, count) in enumerate(held) if start + count == base), None)
            if follows is None and len(held) == HELD_MAX:
                raise EnvironmentFault(
                    f"{self.path} has no room for another shard: it holds {HELD_MAX:,} that are not neighbours",
                    remedy="Spread the launch over more workers, or seal it again with larger shards.",
                )
            try:
                self._allocate(base, rows)
            except OSError as error:
                raise _told(error, self.path, sum(rows * np.dtype(dtype).itemsize for _, dtype, _ in _ARRAYS)) from None
            if follows is not None:
                self._table[follows, 1] += rows
            else:
                self._table[len(held), 0] = base
                self._table[len(held), 1] = rows  # last: the range is read from now on

    def _allocate(self, base: int, rows: int) -> None:
        """Writes the rows as they are at first. A hole is not enough: a store into one that the disk has no room for
        kills the process (SIGBUS). Exactly these bytes are written, for lanes may be at work on the neighbours'."""
        for (_, dtype, byte), at in zip(_ARRAYS, _offsets(self.rows), strict=True):
            start, size = np.dtype(dtype).itemsize * base + at, np.dtype(dtype).itemsize * rows
            block = bytes((byte,)) * min(size, _BLOCK)
            for offset in range(0, size, _BLOCK):
                _write_at(self._file, block[: size - offset], start + offset)

    def settle_interrupted(self) -> int:
        """Rows in flight when the process died become unknown. Returns how many there were."""
        found = 0
        for base, rows in self.held:
            part = self.arrays.part(base, rows)
            lost = part.outcome == Outcome.IN_FLIGHT
            part.reason[lost] = Reason.PROCESS_DIED.code
            part.outcome[lost] = Outcome.UNKNOWN
            found += int(lost.sum())
        return found

    def flush(self) -> None:
        """Asks the system to write the mapping to disk."""
        self._memory.flush()


def inherit(into: Journal, other: JournalReader, base: int, rows: int) -> NDArray[np.bool_] | None:
    """Copies what the journal of a worker that died says of rows it had claimed. Returns bool[rows]: never sent.

    Rows that were in flight become unknown (ProcessDied). What ``into`` knows better stays; that a worker was lost
    (WorkerLost) was a guess, which the worker's own word replaces. None where ``other`` does not hold these rows, or is
    of another launch: then it says nothing of them.
    """
    same = all(into.header.get(fact) == other.header.get(fact) for fact in ("rows", "launch", "snapshot"))
    if not same or not other.covers(base, rows):
        return None
    if not into.covers(base, rows):
        raise ValueError(f"rows {base} to {base + rows} are not held by {into!r}")
    mine, part = into.arrays.part(base, rows), other.arrays.part(base, rows)
    lost = part.outcome == Outcome.IN_FLIGHT
    untried = (part.outcome == Outcome.UNSENT) & (part.attempts == 0)
    theirs = RowArrays(
        np.where(lost, np.uint8(Outcome.UNKNOWN), part.outcome),
        # That the other was stopped before it came to a row is no reason any more: this worker goes on.
        np.where(untried, np.uint8(0), np.where(lost, np.uint8(Reason.PROCESS_DIED.code), part.reason)),
        part.attempts,
        part.reply_ms,
    )
    guessed = (mine.outcome == Outcome.UNKNOWN) & (mine.reason == Reason.WORKER_LOST.code)
    _take_over(mine, theirs, guessed | _surer(theirs, mine))
    unsent: NDArray[np.bool_] = mine.outcome == Outcome.UNSENT
    return unsent


def combined(readers: Sequence[JournalReader]) -> RowArrays:
    """What several workers' journals of one launch say together; rows that nobody held are unsent.

    Of a row that several have held, what is surest counts (certainty.py).
    """
    (rows,) = {reader.rows for reader in readers}
    if len(readers) == 1 and readers[0].covers(0, rows):
        return readers[0].arrays
    known = RowArrays(
        np.zeros(rows, np.uint8), np.zeros(rows, np.uint8), np.zeros(rows, np.uint8), np.full(rows, NO_REPLY, np.uint32)
    )
    for reader in readers:
        for base, count in reader.held:
            mine, theirs = known.part(base, count), reader.arrays.part(base, count)
            _take_over(mine, theirs, _surer(theirs, mine))
    return known


def _surer(one: RowArrays, other: RowArrays) -> NDArray[np.bool_]:
    return certainty(one.outcome, one.reason) > certainty(other.outcome, other.reason)


def _take_over(mine: RowArrays, theirs: RowArrays, which: NDArray[np.bool_]) -> None:
    mine.reason[which] = theirs.reason[which]
    mine.attempts[which] = theirs.attempts[which]
    mine.reply_ms[which] = theirs.reply_ms[which]
    mine.outcome[which] = theirs.outcome[which]  # last: it is what a crash in between would be judged by


# --- the file ------------------------------------------------------------------------------------------


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _offsets(rows: int) -> list[int]:
    """Where each array starts, and where the last ends."""
    at = [_PAGE + _TABLE_BYTES]
    for _, dtype, _ in _ARRAYS[:-1]:
        at.append(at[-1] + _pages(rows * np.dtype(dtype).itemsize))
    return at


def _size(rows: int) -> int:
    return _offsets(rows)[-1] + _pages(4 * rows)


def _file(path: Path, mode: str) -> IO[bytes]:
    try:
        return path.open(mode, buffering=0)
    except FileNotFoundError:
        raise SnapshotError(f"no journal at {path}", remedy="This launch never went live.") from None


@contextmanager
def _closed_on_error(file: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        yield file
    except BaseException:
        file.close()
        raise


def _map(path: Path, file: IO[bytes], access: int) -> tuple[dict[str, Any], mmap.mmap]:
    head = os.pread(file.fileno(), _PAGE, 0)
    if len(head) < _PAGE or not head.startswith(MAGIC):
        raise SnapshotError(f"{path} is not a journal")
    try:
        header = json.loads(head[len(MAGIC) :])
        rows = int(header["rows"])
    except (ValueError, KeyError, TypeError):
        raise SnapshotError(f"{path} has a damaged header") from None
    size = os.fstat(file.fileno()).st_size
    if size != _size(rows):
        raise SnapshotError(f"{path} has {size} bytes, not those of {rows} rows: it was cut short")
    return header, mmap.mmap(file.fileno(), 0, access=access)


def _write_at(file: IO[bytes], data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        offset += written
        view = view[written:]


def _told(error: OSError, path: Path, size: int) -> OSError | FlashcastError:
    """The fault to raise for one of the disk's: a full one is told with what it takes."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return EnvironmentFault(
        f"no room for the journal {path}: it takes {size:,} bytes", remedy="Free disk space, or set --state."
    )
