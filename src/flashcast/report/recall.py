"""A launch as it lies on disk: its report where one was written, else what its journal says.

A launch that was killed has a snapshot and a journal but no report; both are enough for every file but the
latency percentiles, which only the sender knew.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from flashcast import latency
from flashcast.audience.snapshot import Snapshot, open_snapshot
from flashcast.deliver.journal import JournalReader, combined, journal_name, journals
from flashcast.errors import InputError, SnapshotError
from flashcast.report.charts import charts
from flashcast.report.facts import LaunchFacts
from flashcast.report.files import replacing, write_text
from flashcast.report.ledger import Rows
from flashcast.report.page import render_page
from flashcast.report.summary import report_document
from flashcast.report.table import convert_prune, write_outcomes, write_prune
from flashcast.report.write import OUTCOMES, PAGE, PRUNE, read_page, read_report

LAUNCH: Final = "launch.json"
JOURNAL: Final = journal_name("local")
"""The journal of a launch of one process; a fleet has one for each of its workers, and all of them count."""
SNAPSHOT: Final = "snapshot"
UNFINISHED: Final = (
    "This launch has not finished: the figures are what its journal says now, and a row that was in flight "
    "counts as unknown. If no process runs it any more, `flashcast resume` sends the rest."
)


def recall(folder: Path) -> dict[str, Any]:
    """The report of the launch in ``folder``.

    Raises InputError where the folder holds no launch that went live, SnapshotError where its files do not match.
    """
    document = read_report(folder)
    if document is not None:
        return document
    with _opened(folder) as (snapshot, rows):
        document = report_document(snapshot, rows, journal_facts(folder, rows))
    document["warnings"].insert(0, UNFINISHED)
    return document


def export_page(folder: Path, document: dict[str, Any], path: Path) -> None:
    """Writes the page of a recalled launch to ``path``."""
    if read_report(folder) is not None:
        write_text(path, read_page(folder))
        return
    with _opened(folder) as (snapshot, rows):
        write_text(path, render_page(document, charts(snapshot, rows, latency.empty())))


def export_outcomes(folder: Path, document: dict[str, Any], path: Path) -> None:
    """Writes a row per device to the Parquet file ``path``."""
    if _copied(folder / OUTCOMES, path, finished=read_report(folder) is not None):
        return
    started_at = datetime.fromisoformat(document["started_at"]).timestamp()
    with _opened(folder) as (snapshot, rows):
        write_outcomes(path, snapshot, rows, started_at)


def export_prune(folder: Path, path: Path) -> None:
    """Writes the devices that are gone, with their tokens, to ``path``: Parquet where it ends so, else CSV."""
    finished = read_report(folder) is not None
    if path.suffix != ".parquet" and _copied(folder / PRUNE, path, finished=finished):
        return
    if finished and (folder / PRUNE).exists() and not journals(folder):
        convert_prune(folder / PRUNE, path)
        return
    with _opened(folder) as (snapshot, rows):
        write_prune(path, snapshot, rows)


def rewrite(folder: Path, document: dict[str, Any]) -> list[str]:
    """Writes the files of a finished launch that are missing from its folder; returns their names.

    Without the journal, which a demo does not keep, only the page can be made again.
    """
    if read_report(folder) is None:
        return []
    possible = (OUTCOMES, PRUNE, PAGE) if journals(folder) else (PAGE,)
    missing = [name for name in possible if not (folder / name).exists()]
    for name in missing:
        if name == OUTCOMES:
            export_outcomes(folder, document, folder / name)
        elif name == PRUNE:
            export_prune(folder, folder / name)
        else:
            export_page(folder, document, folder / name)
    return missing


def _copied(source: Path, path: Path, *, finished: bool) -> bool:
    """Whether ``source`` could be copied to ``path`` instead of being made again."""
    if not finished or not source.exists() or source == path:
        return False
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Snapshot, Rows]]:
    paths = journals(folder)
    if not paths:
        if read_report(folder) is not None:
            raise InputError(
                f"the journal of launch {folder.name} was not kept, so its rows cannot be written again",
                remedy="`flashcast demo --keep` keeps the snapshot and the journal.",
            )
        raise InputError(
            f"launch {folder.name} never went live: it has no journal",
            remedy="`flashcast report --list` shows the launches; a new one needs `flashcast launch`.",
        )
    with ExitStack() as opened:
        readers = []
        for path in paths:
            readers.append(JournalReader.open(path))
            opened.callback(readers[-1].close)
        snapshot = opened.enter_context(open_snapshot(_snapshot_path(folder), verify=False))
        for reader in readers:
            if snapshot.rows != reader.rows:
                raise SnapshotError(
                    f"the journal of launch {folder.name} has {reader.rows:,} rows, its snapshot {snapshot.rows:,}",
                    remedy="They are not of the same launch; restore the folder from where it was copied.",
                )
        yield snapshot, combined(readers)


def _snapshot_path(folder: Path) -> Path:
    elsewhere = _launch(folder).get("snapshot")
    own = folder / SNAPSHOT
    return own if own.exists() or not isinstance(elsewhere, str) else folder / elsewhere


def journal_facts(folder: Path, rows: Rows) -> LaunchFacts:
    """What is known of a launch whose sender told nothing: its launch.json, and the last reply in the journal."""
    told = _launch(folder)
    started_at = told.get("started_at")
    if not isinstance(started_at, int | float) or not math.isfinite(started_at):
        started_at = min(path.stat().st_ctime for path in journals(folder))
    replied = rows.reply_ms[rows.reply_ms != 0xFFFFFFFF]
    return LaunchFacts(
        launch=folder.name,
        destination=str(told.get("destination", "unknown")),
        started_at=float(started_at),
        latency_us_histogram=latency.empty(),
        go_to_last_reply_s=int(replied.max()) / 1_000 if replied.size else None,
    )


def _launch(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / LAUNCH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
