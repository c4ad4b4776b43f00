"""Writes the files of a finished launch, and writes them again where they are missing.

report.json       the report: docs/reference/report.md
charts.json       the series behind the page's pictures
report.html       the page
outcomes.parquet  a row per device, tokens as digests
prune.csv         the devices that are gone, with their tokens
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from flashcast.errors import InputError
from flashcast.report.charts import Charts, charts
from flashcast.report.facts import LaunchFacts
from flashcast.report.files import write_text
from flashcast.report.ledger import ProviderLedger, Rows, SnapshotView
from flashcast.report.page import render_page
from flashcast.report.summary import report_document
from flashcast.report.table import write_outcomes, write_prune

REPORT: Final = "report.json"
CHARTS: Final = "charts.json"
PAGE: Final = "report.html"
OUTCOMES: Final = "outcomes.parquet"
PRUNE: Final = "prune.csv"


def write_report(
    folder: Path,
    snapshot: SnapshotView,
    rows: Rows,
    facts: LaunchFacts,
    simulator: ProviderLedger | None = None,
) -> dict[str, Any]:
    """Writes every file of the report into the launch's ``folder`` and returns the document.

    report.json comes last: where it is, the others are too. Raises EnvironmentFault where one cannot be
    written; the journal still holds everything then.
    """
    document = report_document(snapshot, rows, facts, simulator)
    series = charts(snapshot, rows, facts.latency_us_histogram)
    write_outcomes(folder / OUTCOMES, snapshot, rows, facts.started_at)
    write_prune(folder / PRUNE, snapshot, rows)
    write_text(folder / CHARTS, json.dumps(series.to_json()) + "\n")
    write_text(folder / PAGE, render_page(document, series))
    write_text(folder / REPORT, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return document


def read_report(folder: Path) -> dict[str, Any] | None:
    """The document of a launch, None where none was written. Raises InputError for a damaged one."""
    return _read(folder / REPORT)


def read_page(folder: Path) -> str:
    """The page of a launch, drawn from report.json and charts.json. Raises InputError where one is amiss."""
    document, series = _read(folder / REPORT), _read(folder / CHARTS)
    if document is None or series is None:
        raise InputError(f"{folder} has no {REPORT if document is None else CHARTS}", remedy=_REMEDY)
    try:
        return render_page(document, Charts.from_json(series))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: the report is damaged: {error!r}", remedy=_REMEDY) from error


_REMEDY: Final = "Move report.json away and run `flashcast report` again: it is rebuilt from the journal."


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", remedy=_REMEDY) from error
    return document
