"""`flashcast report`: what became of a launch, of one process or of a fleet."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json, print_rich, show
from flashcast.cli.completion import complete_launch
from flashcast.cli.fleet_options import EngineOption, Reach, controlled
from flashcast.errors import InputError

if TYPE_CHECKING:
    from flashcast.campaign.records import AuditEntry, LaunchRecord
    from flashcast.campaign.store import Store
    from flashcast.report.fleet import FleetReport
    from flashcast.report.ledger import ProviderLedger
    from flashcast.state import StateFolder


def report(
    launch: Annotated[
        str | None,
        typer.Argument(
            help="Id of the launch, or a campaign for its latest one; by default the latest of all.",
            autocompletion=complete_launch,
        ),
    ] = None,
    engine: EngineOption = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            help="State folder; by default FLASHCAST_HOME or the user's data folder.",
            file_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as one HTML page.", dir_okay=False)
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="Write a row per device as Parquet.", dir_okay=False)
    ] = None,
    prune: Annotated[
        Path | None,
        typer.Option(
            "--prune",
            help="Write the devices that are gone, with their tokens, as CSV or Parquet.",
            dir_okay=False,
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write all of the report's files beside a fleet's outcome files.")
    ] = False,
    ledger: Annotated[
        list[Path] | None,
        typer.Option(
            "--ledger",
            help="A simulator's ledger.npz to hold a fleet's launch against. Repeatable.",
            dir_okay=False,
        ),
    ] = None,
    all_launches: Annotated[
        bool,
        typer.Option(
            "--list", help="List the launches in the state folder, or with --engine or FLASHCAST_ENGINE in the engine."
        ),
    ] = False,
) -> None:
    """Show the report of a launch, or write it as files.

    A launch of workers is reported from their outcome files, wherever this runs: the engine and the place of the
    snapshot are all it needs. A launch that did not finish is reported from what is there.
    """
    with failures(as_json=as_json):
        from flashcast.engine.open import ENGINE_VARIABLE
        from flashcast.state import StateFolder

        folders = StateFolder(state)
        reach = Reach(engine, state)
        if all_launches:
            if engine is None and not os.environ.get(ENGINE_VARIABLE):
                _list(folders, as_json=as_json)
            else:
                _list_engine(reach, as_json=as_json)
        elif _is_in_engine(folders, launch, reach):
            document = _of_fleet(reach, launch, html, parquet, prune, ledger or [], save=save)
            show(document, as_json=as_json)
        else:
            if save or ledger:
                raise InputError(
                    f"{'--save' if save else '--ledger'} is for a launch of workers",
                    remedy="Name a campaign or one of its launches, and --engine where it is not the default one.",
                )
            show(_of_folder(folders, launch, html, parquet, prune), as_json=as_json)


# --- launches of one process --------------------------------------------------------------------------------


def _of_folder(
    folders: StateFolder, launch: str | None, html: Path | None, parquet: Path | None, prune: Path | None
) -> dict[str, Any]:
    from flashcast.report import recall

    own = _own_launches(folders)
    folder = folders.find(own[-1] if launch is None and own else launch)
    document = recall.recall(folder)
    for name in recall.rewrite(folder, document):
        err.print(f"wrote {folder / name}", markup=False)
    if html is not None:
        recall.export_page(folder, document, html)
    if parquet is not None:
        recall.export_outcomes(folder, document, parquet)
    if prune is not None:
        recall.export_prune(folder, prune)
    _tell_written(html, parquet, prune)
    return document


def _own_launches(folders: StateFolder) -> list[str]:
    """The launches of one process, oldest first: a worker keeps its journals in folders beside them."""
    from flashcast.report import recall
    from flashcast.report.write import REPORT

    kept = (recall.LAUNCH, recall.JOURNAL, REPORT)
    return [name for name in folders.launches() if any((folders.launch_folder(name) / file).exists() for file in kept)]


def _is_in_engine(folders: StateFolder, launch: str | None, reach: Reach) -> bool:
    """Whether to look for ``launch``, or for the latest of all, in the engine rather than in the state folder."""
    from flashcast.campaign.names import is_name
    from flashcast.engine.open import ENGINE_VARIABLE, FOLDER

    if reach.engine is not None:
        return True
    # Reporting makes no engine where there is none.
    there_is_one = bool(os.environ.get(ENGINE_VARIABLE)) or (folders.path / FOLDER).is_dir()
    own = _own_launches(folders)
    if not there_is_one or launch in own:
        return False
    if launch is not None:
        return is_name(launch)
    # A launch of one process is in the engine as well; its folder has the report that was written at its end.
    live = [record for record in controlled(reach, _live) if record.launch not in own]
    if not (own and live):
        return bool(live)
    latest = live[-1].go
    assert latest is not None
    return latest.at >= _launched_at(own[-1])


def _launched_at(launch: str) -> float:
    """The Unix time with which the id of a launch of one process begins; 0 where it does not."""
    from datetime import UTC, datetime

    try:
        return datetime.strptime(launch[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _list(folders: StateFolder, *, as_json: bool) -> None:
    """Every launch of the state folder, the oldest first."""
    from flashcast.report.text import render_list
    from flashcast.report.write import read_report

    launches = [(launch, read_report(folders.launch_folder(launch))) for launch in _own_launches(folders)]
    if as_json:
        print_json(
            {
                "state": str(folders.path),
                "launches": [{"launch": launch, "report": document} for launch, document in launches],
            }
        )
    else:
        print_rich(partial(render_list, launches))


# --- launches of a fleet ------------------------------------------------------------------------------------


def _of_fleet(
    reach: Reach,
    launch: str | None,
    html: Path | None,
    parquet: Path | None,
    prune: Path | None,
    ledgers: list[Path],
    *,
    save: bool,
) -> dict[str, Any]:
    from flashcast.audience.fetch import SnapshotSource
    from flashcast.report import fleet

    record, trail = controlled(reach, partial(_launch, name=launch))
    ref = fleet.sent_snapshot(record)
    outcomes = fleet.outcomes_place(ref, record.launch)
    files = (html, parquet, prune)
    saved = None if save or ledgers or any(files) else fleet.saved_report(record, outcomes)
    if saved is not None:
        return saved
    with SnapshotSource(ref.url, ref.digest, reach.state_path / "cache") as snapshot:
        journals = reach.state_path / "launches" / record.launch
        # Once every shard is settled the outcome files say everything that the journals do.
        more = fleet.journal_parts(journals, snapshot.manifest(), record.launch) if record.closed_at is None else []
        made = fleet.gather(record, outcomes, snapshot, trail=trail, more=more, simulator=_simulators(ledgers))
        _export(made, html, parquet, prune, save=save)
    return made.document


def _export(made: FleetReport, html: Path | None, parquet: Path | None, prune: Path | None, *, save: bool) -> None:
    if html is not None:
        made.export_page(html)
    if parquet is not None:
        made.export_outcomes(parquet)
    if prune is not None:
        made.export_prune(prune)
    _tell_written(html, parquet, prune)
    for name in made.save() if save else ():
        err.print(f"wrote {made.outcomes.url}/{name}", markup=False)


def _simulators(ledgers: list[Path]) -> ProviderLedger | None:
    if not ledgers:
        return None
    from flashcast.simulator.ledger import load_ledger
    from flashcast.simulator.merge import merged

    return merged([load_ledger(path) for path in ledgers])


async def _launch(store: Store, name: str | None) -> tuple[LaunchRecord, tuple[AuditEntry, ...]]:
    """The launch of that name, or the one that went live last; and all of its audit trail."""
    if name is None:
        live = await _live(store)
        if not live:
            raise InputError(
                f"no launch in {store.engine.address} has gone live", remedy="`flashcast campaign list` shows them."
            )
        record = live[-1]
    else:
        record, _ = await store.launch(name)
    return record, await store.trail(record)


async def _live(store: Store) -> list[LaunchRecord]:
    """The launches that have gone live, the latest last."""
    live = [record for record in await store.launches() if record.go is not None]
    return sorted(live, key=lambda record: record.go.at if record.go is not None else 0.0)


def _list_engine(reach: Reach, *, as_json: bool) -> None:
    """Every launch of the engine, the oldest first."""
    from flashcast.cli.fleet_options import document_of
    from flashcast.report.text import render_launches

    async def launches(store: Store) -> list[LaunchRecord]:
        return sorted(await store.launches(), key=lambda record: record.created_at)

    records = controlled(reach, launches)
    if as_json:
        print_json({"launches": [document_of(record) for record in records]})
    else:
        print_rich(partial(render_launches, [document_of(record) for record in records]))


def _tell_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            err.print(f"wrote {path}", markup=False)
