"""`flashcast resume`: finish a launch whose process died."""

from __future__ import annotations

from typing import Annotated

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_json, show
from flashcast.cli.completion import complete_launch
from flashcast.cli.fleet_options import EngineOption, OperatorOption, Reach, answer, document_of
from flashcast.cli.launch import StateOption, _say, exit_code, send_and_report
from flashcast.cli.progress import progress_bar
from flashcast.cli.unpause import unpaused


def resume(
    launch: Annotated[
        str | None,
        typer.Argument(
            help="A paused launch in the engine, or the id of one whose process died; by default the latest of those.",
            autocompletion=complete_launch,
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Another destination than the launch had: a flashcast.toml that moved.")
    ] = None,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a paused launch go on, or send the rest of one whose process died.

    Where the engine has a live launch of that name which is paused, it goes on; a misfire guard that had paused it is
    off from then on; of one that is not paused it says who is at work, for a fleet takes over by itself. Otherwise
    reads the journal: rows that were settled stay as they are, rows that were in flight become unknown and are not sent
    again, the rest is sent at once, within a new window.
    """
    with failures(as_json=as_json):
        paused = unpaused(Reach(engine, state, operator), launch) if launch is not None else None
        if paused is not None:
            print_json(document_of(paused)) if as_json else answer(f"{paused.launch} goes on")
            return
        from pathlib import Path

        from flashcast import service

        folders = service.StateFolder(state)
        folder = service.unfinished_launch(folders, launch)
        with service.LaunchSession(folders, folder=folder) as session:
            note = service.read_note(folder)
            with service.saying_if_slow(_say, "starting (the first time, kernels are compiled; some 20 s) ..."):
                session.connect_to(to or note["to"], profile=note.get("profile", "ideal"), seed=note.get("seed", 0))
                service.compile_kernels()
            where = Path(note["snapshot"])
            session.adopt(where if where.is_absolute() else folder / where)
            with progress_bar("connecting") as progress:
                session.take_over(progress)
            assert session.local is not None
            if interactive():
                err.print(f"resuming launch {session.id}: {session.local.resumed:,} rows were not sent")
            document = send_and_report(session)
        show(document, as_json=as_json)
        raise typer.Exit(exit_code(session, document))
