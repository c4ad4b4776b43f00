"""`flashcast report`: what became of a launch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json, print_rich, show

if TYPE_CHECKING:
    from flashcast.state import StateFolder


def report(
    launch: Annotated[str | None, typer.Argument(help="Id of the launch; by default the latest.")] = None,
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
    all_launches: Annotated[
        bool, typer.Option("--list", help="List the launches in the state folder.")
    ] = False,
) -> None:
    """Show the report of a launch, or write it as files.

    A launch that did not finish is reported from its journal.
    """
    with failures(as_json=as_json):
        from flashcast.report import recall
        from flashcast.state import StateFolder

        folders = StateFolder(state)
        if all_launches:
            _list(folders, as_json=as_json)
            return
        folder = folders.find(launch)
        document = recall.recall(folder)
        for name in recall.rewrite(folder, document):
            err.print(f"wrote {folder / name}", markup=False)
        if html is not None:
            recall.export_page(folder, document, html)
        if parquet is not None:
            recall.export_outcomes(folder, document, parquet)
        if prune is not None:
            recall.export_prune(folder, prune)
        for path in (html, parquet, prune):
            if path is not None:
                err.print(f"wrote {path}", markup=False)
        show(document, as_json=as_json)


def _list(folders: StateFolder, *, as_json: bool) -> None:
    """Every launch of the state folder, the oldest first."""
    from flashcast.report.text import render_list
    from flashcast.report.write import read_report

    launches = [(launch, read_report(folders.launch_folder(launch))) for launch in folders.launches()]
    if as_json:
        print_json(
            {
                "state": str(folders.path),
                "launches": [{"launch": launch, "report": document} for launch, document in launches],
            }
        )
    else:
        print_rich(partial(render_list, launches))
