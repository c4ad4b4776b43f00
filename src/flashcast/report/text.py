"""The report for a terminal: what happened, in the order in which one asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flashcast.report import workers
from flashcast.report.summary import iso

ACCEPTANCE: Final = "Accepted means that the provider took it; acceptance is not delivery."
_STYLES: Final = {
    "accepted": "green",
    "rejected": "yellow",
    "failed": "red",
    "unknown": "magenta",
    "expired": "red",
    "unsent": "dim",
}
_REASONS_SHOWN_MAX: Final = 12


def render_text(document: Mapping[str, Any], console: Console) -> None:
    """Prints the report on ``console``. What came from outside is shown as it is, never as markup."""
    launch, name = escape(document["launch"]), escape(document["name"])
    destination = escape(document["destination"])
    console.print(f"\n[bold]{name}[/]  {launch}  to {destination}, GO at {document['started_at']}", soft_wrap=True)
    console.print(Padding(_outcomes(document), (1, 0, 0, 0)))
    if document["reasons"]:
        console.print(Padding(_reasons(document), (1, 0, 0, 0)))
    console.print(Padding(_measures(document), (1, 0, 1, 0)))
    if workers.is_fleet(document):
        console.print(Padding(_workers(document), (0, 0, 1, 0)))
    _verdict(document, console)


def _outcomes(document: Mapping[str, Any]) -> Table:
    table = _table("outcome", "devices", "share")
    providers = document["providers"] if len(document["providers"]) > 1 else {}
    for provider in providers:
        table.add_column(provider, justify="right")
    for outcome, rows in document["outcomes"].items():
        per_provider = [f"{p['outcomes'][outcome]:,}" for p in providers.values()]
        style = _STYLES[outcome] if rows else "dim"
        table.add_row(outcome, f"{rows:,}", share(rows, document["devices"]), *per_provider, style=style)
    per_provider = [f"{p['devices']:,}" for p in providers.values()]
    table.add_section()
    table.add_row("devices", f"{document['devices']:,}", "", *per_provider, style="bold")
    return table


def _reasons(document: Mapping[str, Any]) -> Table:
    table = _table("reason", "devices", "share")
    reasons = list(document["reasons"].items())
    for reason, rows in reasons[:_REASONS_SHOWN_MAX]:
        table.add_row(Text(reason), f"{rows:,}", share(rows, document["devices"]))
    rest = reasons[_REASONS_SHOWN_MAX:]
    if rest:
        table.add_row(f"{len(rest)} more", f"{sum(rows for _, rows in rest):,}", "", style="dim")
    return table


def _measures(document: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    latency = document["reply_latency_ms"]
    for label, value, spec, unit in (
        ("GO to first request", document["go_to_first_request_ms"], ",.1f", "ms"),
        ("GO to last reply", document["go_to_last_reply_s"], ",.2f", "s"),
        ("accepted per second", document["accepted_per_s"], ",.0f", "over the whole launch"),
        ("reply latency, median", latency["p50"], ",.1f", "ms"),
        ("95 of 100 within", latency["p95"], ",.1f", "ms"),
        ("99 of 100 within", latency["p99"], ",.1f", "ms"),
        ("sender CPU", document["sender_cpu_us_per_notification"], ",.2f", "us per notification"),
        ("peak memory", document["peak_rss_mib"], ",.0f", "MiB"),
        ("sealing", document["seal_s"], ",.2f", "s"),
        ("arming", document["arm_s"], ",.2f", "s"),
    ):
        if value is not None:
            table.add_row(label, format(value, spec), unit)
    for provider, facts in document["providers"].items():
        if facts["connections"] is not None:
            table.add_row(f"connections to {provider}", f"{facts['connections']:,}", "")
    return table


def _workers(document: Mapping[str, Any]) -> Table:
    # Its host is on the page and in the JSON; by default a worker is called after it.
    table = _table("worker", *(name.replace(" ", "\n", 1) for name in workers.COLUMNS))
    table.padding = (0, 2, 0, 0)
    for worker in document["workers"]:
        table.add_row(Text(worker["worker"]), *workers.cells(worker))
    return table


def _verdict(document: Mapping[str, Any], console: Console) -> None:
    # A sentence is one line, however narrow the terminal: it can be searched for.
    say = partial(console.print, soft_wrap=True)
    for event in workers.events(document):
        say(escape(event))
    spread = workers.spread(document)
    if spread:
        say(f"{len(document['workers']):,} workers, {spread}.")
    simulator = document["simulator"]
    if simulator is not None:
        say(
            f"The simulator received {simulator['received']:,} requests "
            f"for {simulator['distinct']:,} devices: "
            f"{simulator['duplicates']:,} duplicates, {simulator['malformed']:,} malformed."
        )
    if document["balanced"]:
        agree = ", and the simulator's ledger agrees" if simulator is not None else ""
        devices = f"{document['devices']:,} devices"
        say(f"[green]The books balance[/]: {devices}, each in one outcome{agree}.")
    else:
        say("[bold red]The books do not balance:[/]")
        for fault in document["imbalances"]:
            say(f"  {escape(fault)}")
    if document["aborted"]:
        overshoot = f"{document['overshoot']:,} requests"
        say(f"[yellow]Aborted.[/] {overshoot} were on the wire when the abort took effect.")
    for warning in document["warnings"]:
        say(f"[yellow]Warning:[/] {escape(warning)}")
    if document["prune"]:
        say(f"{document['prune']:,} devices are gone; prune.csv lists them.")
    say(ACCEPTANCE, style="dim")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def share(rows: int, devices: int) -> str:
    """``rows`` as a percentage of ``devices``; nothing for none, and never 0.00 % for some."""
    if not rows or not devices:
        return ""
    percent = 100 * rows / devices
    return f"{percent:.2f} %" if percent >= 0.01 else "< 0.01 %"


def render_list(launches: Sequence[tuple[str, Mapping[str, Any] | None]], console: Console) -> None:
    """Prints a line per launch: its id and, where it finished, what became of it."""
    if not launches:
        console.print("There is no launch here yet.")
        return
    table = _table("launch", "devices", "accepted", "seconds")
    table.add_column("name")
    for launch, document in launches:
        if document is None:
            table.add_row(Text(launch), "", "", "", "not finished", style="yellow")
            continue
        seconds = document["go_to_last_reply_s"]
        table.add_row(
            Text(launch),
            f"{document['devices']:,}",
            f"{document['outcomes']['accepted']:,}",
            "" if seconds is None else f"{seconds:,.2f}",
            Text(document["name"]),
            style="" if document["balanced"] else "red",
        )
    console.print(table)


def render_launches(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints a line per launch of an engine: its id, its state, its devices, and when it went live."""
    if not records:
        console.print("There is no launch here yet.")
        return
    table = _table("launch")
    table.add_column("state")
    table.add_column("devices", justify="right")
    table.add_column("GO")
    for record in records:
        devices = sum(record["snapshot"]["rows"].values()) if record["snapshot"] else 0
        went = iso(record["go"]["at"]) if record["go"] else ""
        table.add_row(Text(record["launch"]), record["state"], f"{devices:,}" if devices else "", went)
    console.print(table)
