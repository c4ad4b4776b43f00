"""`flashcast status`: a launch, its workers and what has become of its rows so far."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, failures, print_json, print_line, print_rich
from flashcast.cli.completion import complete_launch
from flashcast.cli.fleet_options import EngineOption, Leaving, Reach, StateOption, controlled, document_of
from flashcast.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store
    from flashcast.launch_control.status import Status


def status(
    launch: Annotated[
        str | None,
        typer.Argument(
            help="A campaign or the id of a launch; by default the latest launch of every campaign.",
            autocompletion=complete_launch,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until it has ended.")] = False,
    engine: EngineOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a launch: its state, who holds it, connections, rates and outcomes so far.

    With --watch five times a second; with --json as well, a JSON document on each line.
    """
    with failures(as_json=as_json):
        reach = Reach(engine, state)
        if watch:
            with Leaving() as leaving:
                leaving.text = "watching ends; the launch goes on"
                controlled(reach, partial(_watch, name=launch, as_json=as_json))
        elif launch is None:
            _tell_all(controlled(reach, _overview), as_json=as_json)
        else:
            _tell_one(controlled(reach, partial(_status, name=launch)), as_json=as_json)


async def _overview(store: Store) -> list[LaunchRecord]:
    from flashcast.launch_control.status import overview

    return await overview(store)


async def _status(store: Store, name: str) -> Status:
    from flashcast.launch_control.status import status

    return await status(store, name)


async def _watch(store: Store, name: str | None, *, as_json: bool) -> None:
    from flashcast.cli.fleet_live import live_picture
    from flashcast.launch_control.status import overview, status_stream

    if name is None:
        open_ones = [record.launch for record in await overview(store) if not record.ended or record.settling]
        if len(open_ones) != 1:
            told = f"{len(open_ones)} launches are open" if open_ones else "no launch is open"
            raise InputError(
                f"--watch follows one launch, and {told}", remedy="Name it: `flashcast status NAME --watch`."
            )
        name = open_ones[0]
    record, _ = await store.launch(name)
    last = None
    with live_picture() as show:
        async for last in status_stream(store, record.launch):
            if as_json:
                print_line(last.document())
            else:
                show(last.sighting)
    if last is not None and not as_json:
        _tell_one(last, as_json=False)


def _tell_one(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(found.document())
    else:
        print_rich(partial(_show_one, found))


def _show_one(found: Status, console: Console) -> None:
    from flashcast.cli.fleet_live import Picture

    console.print(Picture().draw(found.sighting))
    if found.shards is not None and found.shards.all:
        console.print(f"shards: {found.shards.held:,} of {found.shards.all:,} held, {found.shards.settled:,} settled")


def _tell_all(records: list[LaunchRecord], *, as_json: bool) -> None:
    if as_json:
        told: list[dict[str, Any]] = [document_of(record) for record in records]
        print_json({"launches": told})
    else:
        print_rich(partial(_show_all, records))


def _show_all(records: list[LaunchRecord], console: Console) -> None:
    import time

    from flashcast.cli.fleet_live import headline

    if not records:
        console.print("no campaigns yet: flashcast campaign create NAME FILE")
    for record in records:
        console.print(headline(record, time.time()))
