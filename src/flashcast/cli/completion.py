"""Names and ids for the shell: what the engine has, if it answers before a person would notice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from flashcast.campaign.store import Store

PATIENCE_S: Final = 1.0
"""A shell that waits longer for TAB seems to hang."""


def complete_campaign(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Campaigns that begin with ``incomplete``, each with the state of its latest launch."""
    return [(name, told) for name, told in _known(ctx, launches=False) if name.startswith(incomplete)]


def complete_launch(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Campaigns and launches that begin with ``incomplete``; launches only once the campaign's name is typed."""
    found = [(name, told) for name, told in _known(ctx, launches=True) if name.startswith(incomplete)]
    campaigns = [(name, told) for name, told in found if told.startswith("campaign")]
    # Every campaign has a launch at least: with both listed at once, half of the list would say nothing.
    return campaigns if len(campaigns) > 1 else found


def _known(ctx: typer.Context, *, launches: bool) -> list[tuple[str, str]]:
    """Every name with what it is. Whatever goes wrong, there is only less to choose from."""
    try:
        return _read(ctx.params, launches=launches)
    except Exception:  # noqa: BLE001 - a traceback in the middle of a command line helps nobody
        return []


def _read(params: dict[str, Any], *, launches: bool) -> list[tuple[str, str]]:
    import asyncio

    from flashcast.campaign.store import Operator, Store
    from flashcast.cli.fleet_options import Reach

    state = params.get("state")
    reach = Reach(params.get("engine"), Path(state) if state else None)
    if not reach.exists():
        return []  # TAB makes no engine

    async def run() -> list[tuple[str, str]]:
        async with asyncio.timeout(PATIENCE_S), reach.open() as engine:
            return await _names(Store(engine, Operator("completion", "shell")), launches=launches)

    return asyncio.run(run())


async def _names(store: Store, *, launches: bool) -> list[tuple[str, str]]:
    records = {record.launch: record for record in await store.launches()}
    found = []
    for campaign in await store.campaigns():
        latest = records.get(campaign.latest)
        found.append((campaign.campaign, f"campaign, {latest.state.value if latest is not None else 'draft'}"))
    if launches:
        found += [(name, f"launch, {record.state.value}") for name, record in records.items()]
    return found
