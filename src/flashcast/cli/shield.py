"""`flashcast shield`: the shield of a launch, by hand; and what `arm`, `go`, `abort` and `disarm` do with it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, failures, print_json, tell
from flashcast.cli.fleet_options import (
    EngineOption,
    LaunchArgument,
    OperatorOption,
    Reach,
    StateOption,
    answer,
    controlled,
    say,
)
from flashcast.errors import FlashcastError, InputError

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def shield(
    launch: LaunchArgument,
    down: Annotated[bool, typer.Option("--down", help="Take it back before its time.")] = False,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise the shield that a launch's campaign names, from now for its minutes, where arming or GO did not.

    Where it is published, and with which key, FLASHCAST_ZOMBIE_TARGET and FLASHCAST_ZOMBIE_KEY say.
    """
    with failures(as_json=as_json):

        async def work(store: Store) -> tuple[LaunchRecord, str]:
            from flashcast.launch_control.shielding import lower_shield, raise_shield

            record, _ = await store.launch(launch)
            if record.shield is None:
                raise InputError(
                    f"launch {record.launch} has no shield",
                    remedy="A campaign names one under [shield] before it is sealed; `flashcast zombie on` needs none.",
                )
            publish = lower_shield if down else raise_shield
            return record, await asyncio.to_thread(publish, record, store.clock)

        record, told = controlled(Reach(engine, state, operator), work)
        if as_json:
            print_json({"launch": record.launch, "told": told})
        else:
            answer(told)


async def raised(store: Store, record: LaunchRecord, at: str) -> FlashcastError | None:
    """Raises the shield of a launch whose moment is ``at``, and says so.

    Returns what kept it from being raised, having said that: the launch goes on without.
    """
    if record.shield is None or record.shield.at != at:
        return None
    from flashcast.campaign.lifecycle import State
    from flashcast.launch_control.shielding import not_published, raise_shield

    try:
        say(await asyncio.to_thread(raise_shield, record, store.clock))
    except FlashcastError as error:
        fault = not_published(record, error)
        tell(fault)
        return fault
    with suppress(FlashcastError):
        latest, _ = await store.launch(record.launch)
        if latest.state in (State.ABORTED, State.SEALED):
            # Called off while we published: whoever did so may have found no shield to lower.
            await lowered(store, latest)
    return None


async def lowered(store: Store, record: LaunchRecord) -> FlashcastError | None:
    """Lowers the shield of a launch that was called off, where it may be up, and says so.

    Returns what kept it from being lowered, having said that: then it ends by itself.
    """
    if record.shield is None:
        return None
    from flashcast.launch_control.shielding import lower_shield, may_be_up, not_published

    if may_be_up(record):
        try:
            say(await asyncio.to_thread(lower_shield, record, store.clock))
        except FlashcastError as error:
            fault = not_published(record, error)
            tell(fault)
            return fault
    return None
