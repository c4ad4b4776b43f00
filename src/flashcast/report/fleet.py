"""The report of a launch that several workers sent: their outcome files merged, their facts summed.

It needs the launch's record and the two places, the snapshot's and the outcomes', and no worker: so it can be made
anywhere, at any time, again and again. Looking at numbers fetches no shard; a row per device, the prune list and a
comparison with a simulator's ledger do. Before a launch has closed, the report is of what is there so far.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from flashcast import latency
from flashcast.audience.fetch import SnapshotSource
from flashcast.audience.manifest import Manifest
from flashcast.audience.places import MissingFileError, Place, place
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import AuditEntry, LaunchRecord, SnapshotRef
from flashcast.deliver.journal import JournalReader, journals
from flashcast.errors import LifecycleError, SnapshotError
from flashcast.limits import NOTE_CHARS_MAX
from flashcast.model import Provider
from flashcast.outcomes import Reason
from flashcast.report.charts import charts
from flashcast.report.facts import LaunchFacts, WorkerFacts
from flashcast.report.files import write_text
from flashcast.report.ledger import NO_REPLY, ProviderLedger
from flashcast.report.merging import MergedRows, Part, merge
from flashcast.report.page import render_page
from flashcast.report.settled import Settled, read_all, sources_digest
from flashcast.report.summary import iso, report_document
from flashcast.report.table import write_outcomes, write_prune
from flashcast.report.write import CHARTS, OUTCOMES, PAGE, PRUNE, REPORT, write_report

_SHARDS_NAMED_MAX: Final = 8
"""Shards that a warning names one by one."""


def sent_snapshot(record: LaunchRecord) -> SnapshotRef:
    """The snapshot that a launch was sent from. Raises LifecycleError for one that has not gone live."""
    if record.go is None or record.snapshot is None:
        raise LifecycleError(
            f"launch {record.launch} has not gone live: it is {record.state}", remedy="There is nothing to report yet."
        )
    return record.snapshot


def outcomes_place(ref: SnapshotRef, launch: str) -> Place:
    """Where the outcome files of a launch lie: beside its snapshot."""
    return place(ref.url).beside(".outcomes").child(launch)


def fleet_report(
    record: LaunchRecord,
    outcomes: Place,
    snapshot: SnapshotSource,
    *,
    trail: Sequence[AuditEntry] | None = None,
    more: Iterable[Part] = (),
    simulator: ProviderLedger | None = None,
) -> dict[str, Any]:
    """The document of `gather`."""
    return gather(record, outcomes, snapshot, trail=trail, more=more, simulator=simulator).document


def gather(
    record: LaunchRecord,
    outcomes: Place,
    snapshot: SnapshotSource,
    *,
    trail: Sequence[AuditEntry] | None = None,
    more: Iterable[Part] = (),
    simulator: ProviderLedger | None = None,
) -> FleetReport:
    """Reads what there is of a launch and makes its report.

    ``trail`` is the whole audit trail where the record has not room for it; ``more`` are further sources, such as
    `journal_parts`; ``simulator`` is the ledger of the simulator that stood in for the providers. Raises LifecycleError
    for a launch that has not gone live, SnapshotError and EnvironmentFault where the places cannot be read.
    """
    sent_snapshot(record)
    found = read_all(outcomes, snapshot.manifest(), record.launch)
    rows = merge(snapshot.manifest(), [*found.parts, *more])
    facts = _facts(record, found, rows, trail if trail is not None else record.trail)
    if simulator is not None:
        snapshot.fetch_all()
    return FleetReport(report_document(snapshot, rows, facts, simulator), outcomes, snapshot, rows, facts, simulator)


@dataclass(frozen=True)
class FleetReport:
    """A report, and what its files are written from."""

    document: dict[str, Any]
    outcomes: Place
    snapshot: SnapshotSource
    rows: MergedRows
    facts: LaunchFacts
    simulator: ProviderLedger | None = None

    def export_page(self, path: Path) -> None:
        """Writes the page. Raises EnvironmentFault."""
        write_text(path, render_page(self.document, charts(self.snapshot, self.rows, self.facts.latency_us_histogram)))

    def export_outcomes(self, path: Path) -> None:
        """Writes a row per device as Parquet. Raises SnapshotError, EnvironmentFault."""
        self.snapshot.fetch_all()
        write_outcomes(path, self.snapshot, self.rows, self.facts.started_at)

    def export_prune(self, path: Path) -> None:
        """Writes the devices that are gone, with their tokens. Raises SnapshotError, EnvironmentFault."""
        self.snapshot.fetch_all()
        write_prune(path, self.snapshot, self.rows)

    def save(self) -> list[str]:
        """Writes every file of the report beside the outcome files and returns their names, report.json last.

        Raises SnapshotError, EnvironmentFault.
        """
        names = [OUTCOMES, PRUNE, CHARTS, PAGE, REPORT]
        self.snapshot.fetch_all()
        with tempfile.TemporaryDirectory(prefix="flashcast-report-") as made:
            write_report(Path(made), self.snapshot, self.rows, self.facts, self.simulator)
            for name in names:
                self.outcomes.put(name, Path(made) / name)
        return names


def saved_report(record: LaunchRecord, outcomes: Place) -> dict[str, Any] | None:
    """The report that `FleetReport.save` left, if nothing has come since that it does not know; else None."""
    if record.closed_at is None:
        return None
    try:
        document = json.loads(outcomes.get(REPORT))
    except (MissingFileError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("launch") != record.launch:
        return None
    return document if document.get("sources") == sources_digest(outcomes.list()) else None


def journal_parts(folder: Path, manifest: Manifest, launch: str) -> list[Part]:
    """What the journals in a launch's ``folder`` say, of workers of this machine that live or have died.

    Journals of another launch or snapshot, and what is none, are passed over.
    """
    parts: list[Part] = []
    for path in journals(folder):
        try:
            reader = JournalReader.open(path)
        except (SnapshotError, OSError):
            continue
        with closing(reader):
            if (reader.header.get("launch"), reader.header.get("snapshot")) != (launch, manifest.digest):
                continue
            for facts in manifest.shards:
                if reader.covers(facts.base, facts.rows):
                    r = reader.arrays.part(facts.base, facts.rows)
                    arrays = (r.outcome, r.reason, r.attempts, r.reply_ms)
                    parts.append(Part(facts.base, facts.rows, *arrays, owned=False))
    return parts


# --- facts ----------------------------------------------------------------------------------------------------


def _facts(record: LaunchRecord, found: Settled, rows: MergedRows, trail: Sequence[AuditEntry]) -> LaunchFacts:
    assert record.go is not None
    workers = tuple(sorted(found.facts, key=lambda facts: facts.worker))
    return LaunchFacts(
        launch=record.launch,
        destination=record.to,
        started_at=record.go.at,
        latency_us_histogram=latency.merge(worker.histogram() for worker in workers),
        peak_rss_mib=_greatest(worker.peak_rss_mib for worker in workers),
        go_to_first_request_ms=min(_known(worker.first_request_ms for worker in workers), default=None),
        go_to_last_reply_s=_greatest((*(worker.go_to_last_reply_s for worker in workers), _last_reply_s(rows))),
        sender_cpu_us_per_notification=_cpu(workers),
        seal_s=_greatest(worker.seal_s for worker in workers),
        arm_s=_greatest(worker.arm_s for worker in workers),
        aborted=record.state is State.ABORTED,
        stopped={p: _reason(word) for worker in reversed(workers) for p, word in worker.stopped.items()},
        connections=_summed(worker.connections for worker in workers),
        overshoot=sum(worker.overshoot for worker in workers),
        resumed=sum(taken.rows for worker in workers for taken in worker.take_overs),
        warnings=tuple(_warnings(record, found, rows, workers, trail)),
        workers=workers,
        audit=audit(record, trail),
        shards_missing=rows.missing,
        shards_partial=rows.partial,
        sources=found.sources,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _greatest(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)


def _last_reply_s(rows: MergedRows) -> float | None:
    """The last reply that settled a row: also of workers that left no facts."""
    replied = rows.reply_ms[rows.reply_ms != NO_REPLY]
    return float(np.max(replied)) / 1_000 if replied.size else None


def _cpu(workers: Sequence[WorkerFacts]) -> float | None:
    """CPU of all workers by requests of all workers."""
    told = [(w.cpu_us_per_notification, w.sent) for w in workers if w.cpu_us_per_notification is not None and w.sent]
    return sum(cpu * sent for cpu, sent in told) / sum(sent for _, sent in told) if told else None


def _summed(counts: Iterable[Mapping[Provider, int]]) -> dict[Provider, int]:
    total: dict[Provider, int] = {}
    for count in counts:
        for provider, number in count.items():
            total[provider] = total.get(provider, 0) + number
    return total


def _reason(word: str) -> Reason:
    try:
        return Reason(word)
    except ValueError:  # a newer version's
        return Reason.UNRECOGNISED_REPLY


def _warnings(
    record: LaunchRecord,
    found: Settled,
    rows: MergedRows,
    workers: Sequence[WorkerFacts],
    trail: Sequence[AuditEntry],
) -> Iterable[str]:
    if record.closed_at is None:
        yield "This launch has not finished: the figures are of what its workers have written down so far."
    if rows.missing:
        yield f"There are no outcomes of {_shards(rows.missing)}: their rows count as unsent."
    if rows.partial and record.closed_at is not None:
        yield f"Of {_shards(rows.partial)} the last word is missing: the figures are of what earlier owners knew."
    known = {worker.worker for worker in workers}
    in_trail = {entry.note for entry in trail}
    lost = sorted({t.from_worker for worker in workers for t in worker.take_overs if t.from_worker} - known)
    if lost:
        yield f"Lost with what they had measured: {', '.join(lost)}. Latencies and counts per worker are without them."
    for fault in found.damaged:
        yield f"Left out: {fault}."
    for worker in workers:
        yield from (f"{worker.worker}: {text}" for text in worker.warnings)
        unheard = (why for why in worker.paused if why[:NOTE_CHARS_MAX] not in in_trail)
        yield from (f"{worker.worker} paused by itself: {why}" for why in unheard)


def _shards(numbers: Sequence[int]) -> str:
    named = ", ".join(str(number) for number in numbers[:_SHARDS_NAMED_MAX])
    more = len(numbers) - _SHARDS_NAMED_MAX
    return f"shard{'s' if len(numbers) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}"


def audit(record: LaunchRecord, trail: Sequence[AuditEntry]) -> dict[str, Any]:
    """Who did what to a launch, in short: see docs/reference/report.md."""
    go, approval = record.go, record.approval
    aborted = next((entry for entry in reversed(trail) if entry.what is Input.ABORT), None)
    return {
        "campaign": record.campaign,
        "state": record.state.value,
        "go": None if go is None else {"at": iso(go.at), "by": go.by, "host": go.host},
        "approval": None if approval is None else {"at": iso(approval.at), "by": approval.by, "to": approval.to},
        "abort": None if aborted is None else {"at": iso(aborted.at), "by": aborted.by, "host": aborted.host},
        "pauses": _pauses(trail),
        "closed_at": None if record.closed_at is None else iso(record.closed_at),
    }


def _pauses(trail: Sequence[AuditEntry]) -> list[dict[str, Any]]:
    pauses: list[dict[str, Any]] = []
    for entry in trail:
        if entry.what is Input.PAUSE:
            made = {"at": iso(entry.at), "by": entry.by, "why": entry.note, "resumed_at": None, "resumed_by": None}
            pauses.append(made)
        elif entry.what is Input.RESUME and pauses:
            pauses[-1].update(resumed_at=iso(entry.at), resumed_by=entry.by)
    return pauses
