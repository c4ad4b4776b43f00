"""`flashcast demo`: the main job on synthetic devices against the simulators, on this machine."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from flashcast.cli.common import JsonOption, failures, show
from flashcast.cli.launch import (
    ProfileOption,
    SeedOption,
    StateOption,
    _say,
    arm_with_bar,
    discarded_unless_live,
    exit_code,
    seal_with_bar,
    send_and_report,
)  # fmt: skip
from flashcast.cli.progress import progress_bar


def demo(
    devices: Annotated[int, typer.Option(min=1, help="Synthetic devices to send to.")] = 1_000_000,
    apns_share: Annotated[float, typer.Option(min=0, max=1, help="Share of them that are Apple's.")] = 0.5,
    profile: ProfileOption = "ideal",
    seed: SeedOption = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the device table, snapshot and journal as well.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send to synthetic devices through the simulators, and compare the books.

    Makes a device table, starts the simulators in a process of their own, seals, arms, launches, and holds the sender's
    ledger against theirs.
    """
    with failures(as_json=as_json):
        from flashcast import service

        with service.LaunchSession(service.StateFolder(state)) as session, discarded_unless_live(session):
            with service.saying_if_slow(_say, "starting (the first time, kernels are compiled; some 20 s) ..."):
                session.connect_to("simulator", profile=profile, seed=seed, expected=devices)
            with progress_bar("making devices") as progress:
                table = service.make_demo_audience(session.folder, devices, apns_share, seed, progress)
            source = service.AudienceSource(str(table))
            seal_with_bar(session, service.demo_campaign(), source, service.SealOptions())
            arm_with_bar(session)
            document = send_and_report(session)
            if not keep:
                table.unlink(missing_ok=True)
                shutil.rmtree(session.folder / "snapshot", ignore_errors=True)
                for journal in service.journals(session.folder):
                    journal.unlink()
        show(document, as_json=as_json)
        raise typer.Exit(exit_code(session, document))
