"""The last word of workers that died on this machine, when their launch was closed without them.

The problem: a worker is lost with its machine; others take its shards, call what it had claimed unknown (WorkerLost)
and close the launch. Then the machine is back, and the journal says what became of those rows. Nobody takes over from
it any more, for there is nothing left to send.

So whichever worker is started in the same state folder reads the journals in it whose processes have ended, and writes
an outcome file for each shard in the dead worker's name and epoch, as that worker would have, had it been cut off and
come back (`Settler.write_lost`). Merging ranks it above the guess (report/merging.py); the launch's record and what the
others wrote stay as they are. What a journal may say:

| the row, in a chunk whose claim is still the dead worker's | is told as                                            |
| ---------------------------------------------------------- | ----------------------------------------------------- |
| answered                                                   | what the answer was                                   |
| in flight                                                  | unknown (ProcessDied)                                 |
| unsent, the machine has not been started anew since        | unsent (Stopped, or Aborted as the launch): nobody    |
|                                                            | else may have sent it                                 |
| unsent, and it has, or that cannot be told                 | unknown (WorkerLost): see docs/guides/unknown.md      |

Of other chunks it says what was accepted and nothing else: who has their claim now may have sent the rows since.

A journal is removed when all of this is written, and before that nothing of it is lost: every step may be repeated, by
several workers at once too, for they write the same.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from flashcast.audience.manifest import Manifest
from flashcast.audience.places import Place
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import CLAIMS, ClaimRecord, LaunchRecord, read_record
from flashcast.deliver.books import settle_lost
from flashcast.deliver.boot import same_boot
from flashcast.deliver.claims import grid
from flashcast.deliver.journal import JournalReader, RowArrays, journals
from flashcast.errors import FlashcastError, SnapshotError
from flashcast.model import UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.report.settled import file_name, write_settled

if TYPE_CHECKING:
    from flashcast.worker.worker import Worker

AGAIN_S: Final = 5.0
AGAIN_S_MAX: Final = 300.0
"""A place or an engine that does not answer is tried again after so long, twice as long each time."""

Chunks = dict[int, dict[int, int]]
"""The claims of one worker: by shard, the epoch of each chunk."""


class LateWords:
    """See the module's docstring. `closed` for every launch that is, and one task that runs `run`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._closed: dict[str, LaunchRecord] = {}
        self._due = asyncio.Event()
        self.told: list[str] = []
        """The outcome files that were written."""

    def closed(self, record: LaunchRecord) -> None:
        """A launch's books are closed."""
        self._closed[record.launch] = record
        self._due.set()

    async def run(self) -> None:
        """Looks at the journals of every launch that was closed, until it is cancelled."""
        hands, pause_s = self._worker.hands, AGAIN_S
        while True:
            await self._due.wait()
            self._due.clear()
            for launch, record in list(self._closed.items()):
                try:
                    await self._tell(record)
                except (SnapshotError, ValueError, LookupError, OSError):
                    pass  # deleted, replaced or damaged: a report of the past is not worth a worker that serves
                except FlashcastError:
                    self._due.set()
                    continue
                if self._closed.get(launch) is record:
                    del self._closed[launch]
            if self._due.is_set():
                await hands.sleep(pause_s)
                pause_s = min(2 * pause_s, AGAIN_S_MAX)
            else:
                pause_s = AGAIN_S

    async def _tell(self, record: LaunchRecord) -> None:
        """Everything that the journals of one launch have to tell. Raises FlashcastError: to be tried again."""
        worker, ref = self._worker, record.snapshot
        folder = worker.options.state / "launches" / record.launch
        paths = await worker.hands.call(lambda: journals(folder))
        if not paths or ref is None:
            return
        claims = await self._claims(record.launch)
        place = await worker.hands.call(lambda: worker.hands.outcomes(ref, record.launch))
        source = await worker.hands.call(lambda: worker.hands.source(ref))
        manifest = await worker.hands.call(source.manifest)
        for path in paths:
            self.told += await worker.hands.call(partial(tell_journal, path, record, manifest, claims, place))

    async def _claims(self, launch: str) -> dict[str, Chunks]:
        """By worker."""
        found: dict[str, Chunks] = defaultdict(lambda: defaultdict(dict))
        for entry in await self._worker.engine.durable.entries(f"{CLAIMS}.{launch}"):
            _, _, shard, chunk = entry.key.rsplit(".", 3)
            claim = read_record(ClaimRecord, entry)
            found[claim.worker][int(shard)][int(chunk)] = claim.epoch
        return found


def tell_journal(
    path: Path, record: LaunchRecord, manifest: Manifest, claims: dict[str, Chunks], place: Place
) -> list[str]:
    """Writes what one journal knows and removes it; returns the names of the files. Blocks. Nothing while its process
    lives, and of a journal of another snapshot."""
    reader = JournalReader.read(path)
    if reader is None:
        return []
    written = []
    with closing(reader):
        worker = str(reader.header.get("worker", ""))
        same = (reader.header.get("launch"), reader.header.get("snapshot")) == (record.launch, manifest.digest)
        if not same or not worker:
            return []
        for shard, chunks in sorted(claims.get(worker, {}).items()):
            facts, epoch = manifest.shards[shard], max(chunks.values())
            if not reader.covers(facts.base, facts.rows) or place.exists(file_name(shard, epoch, worker)):
                continue
            rows = last_word(reader, record, manifest, shard, chunks)
            written.append(
                write_settled(
                    place, rows, launch=record.launch, snapshot=manifest.digest, shard=shard, facts=facts, epoch=epoch,
                    worker=worker, owned=False,
                )
            )  # fmt: skip
    path.unlink(missing_ok=True)
    return written


def last_word(
    reader: JournalReader, record: LaunchRecord, manifest: Manifest, shard: int, chunks: dict[int, int]
) -> RowArrays:
    """Arrays of the whole snapshot's length, in which one shard's rows are as the module's docstring says."""
    facts, total = manifest.shards[shard], reader.rows
    whole = RowArrays(
        np.zeros(total, np.uint8), np.zeros(total, np.uint8), np.zeros(total, np.uint8), np.zeros(total, np.uint32)
    )
    told, said = whole.part(facts.base, facts.rows), reader.arrays.part(facts.base, facts.rows)
    told.outcome[:], told.reason[:] = said.outcome, said.reason
    told.attempts[:], told.reply_ms[:] = said.attempts, said.reply_ms
    died = told.outcome == Outcome.IN_FLIGHT
    told.reason[died] = Reason.PROCESS_DIED.code
    told.outcome[died] = Outcome.UNKNOWN
    claimed = np.zeros(facts.rows, np.bool_)
    spans = grid(facts.rows, record.chunk_rows, [stage.share for stage in record.stages])
    for chunk in chunks:
        claimed[spans[chunk].start : spans[chunk].stop] = True
    others = ~claimed & (told.outcome != Outcome.ACCEPTED)
    told.outcome[others], told.reason[others] = Outcome.UNSENT, Reason.NONE.code
    sure = record.unknown_policy is UnknownPolicy.DROP and same_boot(reader.header.get("boot"))
    settle_lost(told, claimed, resend=not sure, aborted=record.state is State.ABORTED)
    return whole
