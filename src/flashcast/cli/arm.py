"""`flashcast arm`: workers take the shards of a sealed launch and open their connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli import shield
from flashcast.cli.common import JsonOption, failures, interactive, print_json
from flashcast.cli.fleet_options import (
    EngineOption,
    LaunchArgument,
    Leaving,
    OperatorOption,
    Reach,
    StateOption,
    answer,
    controlled,
    document_of,
    say,
)
from flashcast.errors import ExitCode, FlashcastError

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store
    from flashcast.go.follow import Sighting


def arm(
    launch: LaunchArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DESTINATION",
            help="production, sandbox, or the path of a flashcast.toml on the workers' machines.",
        ),
    ] = "production",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every shard is held and ready.")] = True,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the workers take a sealed launch, check it, and open and authenticate every connection.

    Ctrl-C stops waiting, not arming; `flashcast disarm` takes it back. Where the latest launch of a campaign has ended,
    the next is opened with the same snapshot.
    """
    with failures(as_json=as_json):

        async def work(store: Store) -> LaunchRecord:
            from flashcast.launch_control.arming import arm, destination_of

            bound = destination_of(to, one_machine=store.engine.address.startswith("embedded:"))
            record = await arm(store, launch, bound)
            say(f"arming {record.launch}: {record.rows:,} rows to {record.to}")
            if (again := _sent_before(record)) is not None:
                say(f"warning: this is {again}; whoever got it then gets it a second time")
            word = record.approval
            if word is not None and word.to != record.to:
                say(f"warning: {word.by} approved it for {word.to or 'no destination'}: it needs another approval")
            leaving.text = f"{record.launch} goes on arming; `flashcast disarm {record.campaign}` takes it back"
            unshielded.append(await shield.raised(store, record, "arm"))
            return await _until_armed(store, record) if wait else record

        unshielded: list[FlashcastError | None] = []
        with Leaving() as leaving:
            record = controlled(Reach(engine, state, operator), work, warn=True)
        if as_json:
            print_json(document_of(record))
        elif wait:
            answer(
                f"armed {record.launch}. Next: flashcast preflight {record.campaign}, flashcast go {record.campaign}"
            )
        if any(unshielded):
            raise typer.Exit(int(ExitCode.ENVIRONMENT))


async def _until_armed(store: Store, record: LaunchRecord) -> LaunchRecord:
    from flashcast.campaign.lifecycle import State
    from flashcast.errors import LifecycleError
    from flashcast.launch_control.arming import until_armed

    last, told = record, ""
    async for sighting in until_armed(store, record.launch):
        last, amiss = sighting.record, _amiss(sighting)
        now = "; ".join(filter(None, (_so_far(sighting), amiss))) if interactive() else amiss
        if now and now != told and last.state is State.ARMING:
            told = now
            say(f"  {now}")
    if last.state is not State.ARMED:
        by = f" by {last.trail[-1].by}" if last.trail else ""
        raise LifecycleError(f"launch {last.launch} was not armed: it is {last.state.value} now{by}")
    return last


def _sent_before(record: LaunchRecord) -> str | None:
    """Which snapshot a launch took over from the one before it; None where it was sealed for itself."""
    from flashcast.campaign.lifecycle import Input

    sealed = [entry.note for entry in record.trail if entry.what is Input.SEAL]
    return sealed[-1] if sealed and sealed[-1] else None


def _so_far(sighting: Sighting) -> str:
    total, record = sighting.total, sighting.record
    shards = record.snapshot.shards if record.snapshot is not None else 0
    connections = sum(part.connections for part in total.providers.values())
    wanted = sum(part.connections_wanted for part in total.providers.values())
    workers = "1 worker" if total.workers == 1 else f"{total.workers:,} workers"
    return (
        f"{total.shards:,} of {shards:,} shards held by {workers}, {total.ready_workers:,} ready, "
        f"{connections:,} of {wanted:,} connections"
    )


def _amiss(sighting: Sighting) -> str:
    """What keeps it from being armed, where that does not pass by itself."""
    if not any(one.alive for one in sighting.heard):
        return "no worker is there: start one with `flashcast worker`"
    return "; ".join(f"{worker}: {fault}" for worker, fault in sighting.total.faults.items())
