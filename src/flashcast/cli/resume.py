"""`flashcast resume`: finish a launch whose process died."""

from __future__ import annotations

from typing import Annotated

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, show
from flashcast.cli.launch import StateOption, _say, arm_with_bar, exit_code, send_and_report


def resume(
    launch: Annotated[
        str | None, typer.Argument(help="Id of the launch; by default the latest that was interrupted.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Another destination than the launch had: a flashcast.toml that moved.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the rest of a launch whose process died.

    Reads the journal: rows that were settled stay as they are, rows that were in flight become unknown and are not sent
    again, the rest is sent at once, within a new window.
    """
    with failures(as_json=as_json):
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
            arm_with_bar(session)
            assert session.run is not None
            if interactive():
                err.print(f"resuming launch {session.id}: {sum(session.run.to_send.values()):,} rows were not sent")
            document = send_and_report(session)
        show(document, as_json=as_json)
        raise typer.Exit(exit_code(session, document))
