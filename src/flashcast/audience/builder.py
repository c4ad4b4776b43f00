"""Shards as they fill: exact de-duplication, appending, and writing each full shard while the next one fills.

Memory is two open shards, one being written, and the tables: eight bytes a slot, at most 70 % full.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashcast.audience import kernels
from flashcast.audience.arrays import NOTHING, VarBytes
from flashcast.audience.drops import KEPT, PROVIDERS
from flashcast.audience.manifest import ShardFacts
from flashcast.audience.screen import Rendered, Screened
from flashcast.audience.shards import Columns, Shard, Written, write_shard

_ROOM_FIRST_BYTES = 1 << 16


class _Column:
    """A growing column: at most ``rows`` strings."""

    def __init__(self, rows: int) -> None:
        self.data = np.empty(_ROOM_FIRST_BYTES, np.uint8)
        self.offsets = np.zeros(rows + 1, np.uint32)

    def make_room(self, at: int, more: int) -> None:
        """Room for ``more`` bytes behind row ``at``."""
        used = int(self.offsets[at])
        if used + more > 2**32 - 1:
            raise OverflowError("a shard's column would pass 4 GiB")
        if used + more > self.data.size:
            larger = np.empty(max(self.data.size * 2, used + more), np.uint8)
            larger[:used] = self.data[:used]
            self.data = larger

    def filled(self, rows: int) -> VarBytes:
        """The first ``rows`` strings, as views."""
        return VarBytes(self.data[: int(self.offsets[rows])], self.offsets[: rows + 1])


class _OpenShard:
    """The buffers of one shard in the making. ``fields_rows`` trails the admitted rows until fields are appended."""

    def __init__(self, rows: int, used: list[bool]) -> None:
        self.tokens = _Column(rows)
        self.users = _Column(rows)
        self.variants = np.zeros(rows, np.uint8)
        self.fields = [_Column(rows) if needed else None for needed in used]
        self.fields_rows = 0

    def columns(self, rows: int) -> Columns:
        return Columns(
            self.tokens.filled(rows),
            self.variants[:rows],
            tuple(NOTHING if field is None else field.filled(rows) for field in self.fields),
            self.users.filled(rows),
        )


class ShardBuilder:
    """Admits screened rows and writes them to ``folder`` in shards of at most ``shard_rows`` rows."""

    def __init__(
        self,
        folder: Path,
        used: dict[int, list[bool]],
        *,
        shard_rows: int,
        one_per_user: bool,
        limit: int | None,
        expected: int | None,
    ) -> None:
        self._folder = folder
        self._used = used
        self._shard_rows = shard_rows
        self._one_per_user = one_per_user
        self._limit: int = int(np.iinfo(np.int64).max) if limit is None else limit
        self.counts = np.zeros(2, np.int64)
        self._directory = np.zeros((2, 16, kernels.DIRECTORY_COLUMNS), np.uint64)
        self._tokens = np.zeros(_slots(expected), np.uint64)
        self._users = np.zeros(_slots(expected) if one_per_user else kernels.TABLE_SLOTS_MIN, np.uint64)
        self._open: dict[int, _OpenShard] = {}
        self._spare: dict[int, _OpenShard] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flashcast-shard")
        self._pending: tuple[Future[Written], int, int, int, _OpenShard] | None = None
        self._facts: dict[int, list[ShardFacts]] = {code: [] for code in range(len(PROVIDERS))}
        self._mapped: list[Shard] = []
        self._handed_rows = self._handed_bytes = 0

    @property
    def rows(self) -> int:
        """Rows admitted so far."""
        apns, fcm = self.counts.tolist()
        return int(apns + fcm)

    def bytes_for(self, rows: int) -> int:
        """Bytes that so many rows take on disk, as far as the shards handed to the writer so far tell."""
        return self._handed_bytes * max(rows, self._handed_rows) // max(1, self._handed_rows)

    def add(self, screened: Screened, rendered: dict[int, Rendered]) -> int:
        """Admits the batch's standing rows in order. Returns how many rows were looked at: fewer at the limit."""
        row = 0
        while True:
            self._make_room(screened)
            stop, why = kernels.admit(
                row, screened.verdicts, screened.codes,
                screened.tokens.data, screened.tokens.offsets, screened.token_hashes,
                screened.users.data, screened.users.offsets, screened.user_hashes,
                self._tokens, self._users, self._one_per_user, self._directory, self.counts,
                self._shard_rows, self._limit,
            )  # fmt: skip
            for code, part in rendered.items():
                self._append_fields(code, part, screened.verdicts, row, stop)
            row = int(stop)
            if why in (kernels.DONE, kernels.LIMIT):
                return row
            if why == kernels.SHARD_FULL:
                self._next_shard(int(screened.codes[row]))
            elif why == kernels.TOKENS_FULL:
                self._tokens = _doubled(self._tokens)
            else:
                self._users = _doubled(self._users)

    def finish(self) -> tuple[ShardFacts, ...]:
        """Writes what is open and returns every shard in the snapshot's order: all APNs shards first, then FCM."""
        for code in sorted(self._open):
            self._write(code)
        self._collect()
        base = 0
        placed: list[ShardFacts] = []
        for code in range(len(PROVIDERS)):
            for facts in self._facts[code]:
                placed.append(facts.model_copy(update={"base": base}))
                base += facts.rows
        return tuple(placed)

    def close(self) -> None:
        """Waits for the writer and lets go of everything. The files stay."""
        self._pool.shutdown(wait=True)
        for shard in self._mapped:
            shard.close()
        self._mapped.clear()
        self._open.clear()
        self._spare.clear()
        self._pending = None

    def _rows_open(self, code: int) -> int:
        """Rows in the provider's open shard."""
        return int(self.counts[code]) - len(self._facts[code]) * self._shard_rows - self._pending_rows(code)

    def _pending_rows(self, code: int) -> int:
        return self._pending[3] if self._pending is not None and self._pending[1] == code else 0

    def _make_room(self, screened: Screened) -> None:
        token_bytes = int(screened.tokens.offsets[-1]) - int(screened.tokens.offsets[0])
        user_bytes = int(screened.users.offsets[-1]) - int(screened.users.offsets[0])
        for code, shard in self._open.items():
            rows = self._rows_open(code)
            shard.tokens.make_room(rows, token_bytes)
            shard.users.make_room(rows, user_bytes)
            self._point(code, int(self.counts[code] - rows) // self._shard_rows, shard.tokens, shard.users)

    def _point(self, code: int, index: int, tokens: Any, users: Any) -> None:
        columns = (tokens.data, tokens.offsets, users.data, users.offsets)
        self._directory[code, index] = [column.ctypes.data for column in columns]

    def _next_shard(self, code: int) -> None:
        """Gives the provider an open shard, writing the full one if it had one."""
        if code in self._open:
            self._write(code)
        index = int(self.counts[code]) // self._shard_rows
        if index + 1 >= self._directory.shape[1]:
            self._directory = np.concatenate([self._directory, np.zeros_like(self._directory)], axis=1)
        spare = self._spare.pop(code) if code in self._spare else None
        self._open[code] = spare or _OpenShard(self._shard_rows, self._used[code])

    def _write(self, code: int) -> None:
        """Hands the provider's open shard to the writer, once the writer is done with the one before."""
        self._collect()
        shard = self._open.pop(code)
        rows = int(self.counts[code]) - len(self._facts[code]) * self._shard_rows
        index = len(self._facts[code])
        path = self._folder / _file_name(code, index)
        columns = shard.columns(rows)
        self._handed_rows += rows
        self._handed_bytes += columns.nbytes
        future = self._pool.submit(write_shard, path, PROVIDERS[code], columns)
        self._pending = (future, code, index, rows, shard)

    def _collect(self) -> None:
        """Waits for the shard being written; from then on its rows are compared in the file. Raises OSError."""
        if self._pending is None:
            return
        future, code, index, rows, shard = self._pending
        written = future.result()
        self._pending = None
        name = _file_name(code, index)
        self._facts[code].append(
            ShardFacts(
                file=name, rows=rows, bytes=written.bytes, sha256=written.sha256, provider=PROVIDERS[code], base=0
            )
        )
        mapped = Shard(self._folder / name)
        self._mapped.append(mapped)
        self._point(code, index, mapped.tokens, mapped.user_ids)
        shard.fields_rows = 0
        self._spare[code] = shard

    def _append_fields(self, code: int, part: Rendered, verdicts: NDArray[np.uint8], first: int, stop: int) -> None:
        """Appends variants and fields of the rows that were just admitted between ``first`` and ``stop``."""
        low, high = np.searchsorted(part.rows, (first, stop)).tolist()
        chosen = low + np.flatnonzero(verdicts[part.rows[low:high]] == KEPT)
        if chosen.size == 0:
            return
        shard = self._open[code]
        at = shard.fields_rows
        shard.variants[at : at + chosen.size] = part.variants[chosen]
        for column, source in zip(shard.fields, part.fields, strict=True):
            if column is not None:
                column.make_room(at, int((source.offsets[chosen + 1] - source.offsets[chosen]).sum(dtype=np.int64)))
                kernels.gather(source.data, source.offsets, chosen, column.data, column.offsets, at)
        shard.fields_rows = at + chosen.size


def _slots(expected: int | None) -> int:
    """Slots for as many rows at no more than 70 %, if the number is known."""
    wanted = kernels.TABLE_SLOTS_MIN if expected is None else expected * 10 // 7
    return max(kernels.TABLE_SLOTS_MIN, 1 << (wanted - 1).bit_length() if wanted > 1 else 1)


def _doubled(table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    larger = np.zeros(table.size * 2, np.uint64)
    kernels.enlarge(table, larger)
    return larger


def _file_name(code: int, index: int) -> str:
    return f"{PROVIDERS[code].value}-{index:05d}.shard"
