"""The rows of a launch as files: outcomes.parquet for analysis, the prune list for the user's database.

outcomes.parquet names a device by the first 16 hex digits of its token's SHA-256: enough to join with the
user's own table, useless to anyone who would send to it. The prune file is the exception: it holds the
tokens themselves, because they are what the user must delete. Both are written one shard at a time.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flashcast.model import Provider, RequestTemplate
from flashcast.outcomes import Outcome, Reason
from flashcast.report.files import replacing
from flashcast.report.ledger import NO_REPLY, PRUNED, Rows, ShardView, SnapshotView, VarBytesView, settled

DIGEST_HEX: Final = 16
"""Hex digits kept of a token's SHA-256: 64 bits, so 8 million tokens collide with probability 2e-6."""
_WORD: Final = pa.dictionary(pa.int8(), pa.string())
_CODE: Final = pa.dictionary(pa.uint8(), pa.string())
_TIME: Final = pa.timestamp("ms", tz="UTC")
OUTCOME_SCHEMA: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("token_digest", pa.string()),
        ("provider", _WORD),
        ("variant", _CODE),
        ("outcome", _CODE),
        ("reason", _CODE),
        ("replied_at", _TIME),
    ]
)
PRUNE_SCHEMA: Final = pa.schema(
    [("user_id", pa.string()), ("provider", pa.string()), ("token", pa.string()), ("reason", pa.string())]
)
_OUTCOMES: Final = pa.array([outcome.name.lower() for outcome in Outcome])
_REASONS: Final = pa.array([reason.value for reason in Reason])


def write_outcomes(path: Path, snapshot: SnapshotView, rows: Rows, started_at: float) -> None:
    """Writes outcomes.parquet: `OUTCOME_SCHEMA`, one row group per shard, in the snapshot's order.

    ``started_at`` is GO in Unix seconds. Raises EnvironmentFault where the file cannot be written.
    """
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, OUTCOME_SCHEMA, compression="zstd", use_dictionary=_dictionaries()) as writer,
    ):
        for shard in snapshot.shards:
            batch = _outcome_batch(shard, snapshot.templates[shard.provider], rows, started_at)
            writer.write_batch(batch, row_group_size=max(shard.rows, 1))


def _dictionaries() -> list[str]:
    """The columns worth a dictionary in the file; user ids and digests hardly repeat."""
    return [f.name for f in OUTCOME_SCHEMA if pa.types.is_dictionary(f.type)]


def _outcome_batch(
    shard: ShardView, templates: Sequence[RequestTemplate], rows: Rows, started_at: float
) -> pa.RecordBatch:
    stop = shard.base + shard.rows
    outcome, reason = settled(rows, shard.base, stop)
    names = pa.array([template.variant for template in templates])
    return pa.record_batch(
        [
            strings(shard.user_ids, shard.rows),
            token_digests(shard.tokens, shard.rows),
            pa.DictionaryArray.from_arrays(np.zeros(shard.rows, np.int8), pa.array([str(Provider(shard.provider))])),
            pa.DictionaryArray.from_arrays(shard.variants, names),
            _words(outcome, _OUTCOMES, outcome >= len(Outcome)),
            # A reason of an accepted row is that of an earlier try.
            _words(reason, _REASONS, (outcome == Outcome.ACCEPTED) | (reason == 0) | (reason >= len(Reason))),
            _times(rows.reply_ms[shard.base : stop], started_at),
        ],
        schema=OUTCOME_SCHEMA,
    )


def _words(codes: NDArray[np.uint8], words: pa.Array, missing: NDArray[np.bool_]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), words)


def _times(reply_ms: NDArray[np.uint32], started_at: float) -> pa.Array:
    times = reply_ms.astype(np.int64) + round(started_at * 1_000)
    return pa.array(times, pa.int64(), mask=reply_ms == NO_REPLY).cast(_TIME)


def strings(column: VarBytesView, rows: int) -> pa.Array:
    """A column of a shard as Arrow strings without copying its bytes; an empty one is null."""
    offsets = np.asarray(column.offsets)
    if offsets.size != rows + 1:
        return pa.nulls(rows, pa.string())
    present = offsets[1:] != offsets[:-1]
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    # A shard's text stays far below 2 GiB, so its uint32 offsets are int32 ones to Arrow.
    edges, data = pa.py_buffer(offsets.view(np.int32)), pa.py_buffer(np.asarray(column.data))
    return pa.StringArray.from_buffers(rows, edges, data, validity)


def token_digests(tokens: VarBytesView, rows: int) -> pa.Array:
    """The first 16 hex digits of each token's SHA-256, as Arrow strings."""
    data: memoryview = np.asarray(tokens.data).data
    edges = np.asarray(tokens.offsets).tolist()
    sha256 = hashlib.sha256
    whole = b"".join([sha256(data[a:b]).digest() for a, b in itertools.pairwise(edges)])
    kept = np.frombuffer(whole, np.uint8).reshape(rows, 32)[:, : DIGEST_HEX // 2]
    text = np.frombuffer(np.ascontiguousarray(kept).tobytes().hex().encode(), np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * DIGEST_HEX
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))


def write_prune(path: Path, snapshot: SnapshotView, rows: Rows) -> int:
    """Writes the devices that are gone and returns their number: Parquet where ``path`` ends so, else CSV.

    Columns of `PRUNE_SCHEMA`. The file holds device tokens and is readable by its owner alone.
    Raises EnvironmentFault where it cannot be written.
    """
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, PRUNE_SCHEMA, compression="zstd") as parquet:
                return _write_prune(snapshot, rows, parquet.write_batch)
        with pa_csv.CSVWriter(temporary, PRUNE_SCHEMA) as csv:
            return _write_prune(snapshot, rows, csv.write_batch)


def convert_prune(source: Path, path: Path) -> None:
    """Writes a prune list that is CSV as Parquet. Raises EnvironmentFault where it cannot be written."""
    options = pa_csv.ConvertOptions(
        column_types=PRUNE_SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    with replacing(path) as temporary:
        pq.write_table(pa_csv.read_csv(source, convert_options=options), temporary, compression="zstd")


def _write_prune(snapshot: SnapshotView, rows: Rows, write: Callable[[pa.RecordBatch], None]) -> int:
    written = 0
    for batch in prune_batches(snapshot, rows):
        write(batch)
        written += batch.num_rows
    return written


def prune_batches(snapshot: SnapshotView, rows: Rows) -> Iterator[pa.RecordBatch]:
    """The devices that are gone, shard by shard: rejected for a reason whose action is to prune."""
    for shard in snapshot.shards:
        outcome, reason = settled(rows, shard.base, shard.base + shard.rows)
        places = np.flatnonzero((outcome == Outcome.REJECTED) & PRUNED[reason])
        if places.size:
            chosen = pa.array(places)
            provider = pa.array([str(Provider(shard.provider))]).take(pa.array(np.zeros(places.size, np.int8)))
            yield pa.record_batch(
                [
                    strings(shard.user_ids, shard.rows).take(chosen),
                    provider,
                    strings(shard.tokens, shard.rows).take(chosen),
                    _REASONS.take(pa.array(reason[places])),
                ],
                schema=PRUNE_SCHEMA,
            )
