"""`flashcast preflight`: go or no-go, with each reason."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from flashcast.cli.common import JsonOption, failures, print_json, print_rich
from flashcast.cli.fleet_options import EngineOption, LaunchArgument, OperatorOption, Reach, StateOption, controlled
from flashcast.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from flashcast.arm.facts import Verdict
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def preflight(
    launch: LaunchArgument,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a launch is ready for GO, and why not: exit code 0 is go, 1 is no-go. Changes nothing."""
    with failures(as_json=as_json):

        async def work(store: Store) -> tuple[LaunchRecord, Verdict]:
            from flashcast.launch_control.advice import preflight

            return await preflight(store, launch)

        record, verdict = controlled(Reach(engine, state, operator), work)
        if as_json:
            print_json(verdict_document(record, verdict))
        else:
            print_rich(partial(show_verdict, record, verdict))
        raise typer.Exit(int(ExitCode.OK if verdict.go else ExitCode.UNBALANCED))


def verdict_document(record: LaunchRecord, verdict: Verdict) -> dict[str, Any]:
    """The verdict for `--json`."""
    return {"launch": record.launch, "campaign": record.campaign, "state": record.state.value, **asdict(verdict)}


def show_verdict(record: LaunchRecord, verdict: Verdict, console: Console) -> None:
    """The verdict for people: each check with its remedy, and go or no-go at the end."""
    from rich.table import Table
    from rich.text import Text

    from flashcast.arm.facts import Level

    styles = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in verdict.checks:
        text = Text(check.text)
        if check.remedy and check.level is not Level.OK:
            text.append(f"\n{check.remedy}", style="dim")
        table.add_row(Text(check.level.value, style=styles[check.level]), check.name, text)
    console.print(table)
    word = Text("GO" if verdict.go else "NO-GO", style="bold green" if verdict.go else "bold red")
    told = f" for {record.launch}: {verdict.rows_covered:,} of {verdict.rows:,} rows are covered"
    if verdict.predicted_s is not None:
        told += f", the last reply about {verdict.predicted_s:,.1f} s after GO"
    console.print(Text.assemble(word, told))
