"""`flashcast campaign`: create, list, show, edit and delete campaigns in the engine."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.campaign_delete import delete
from flashcast.cli.common import JsonOption, failures, print_json, print_rich, print_text
from flashcast.cli.fleet_options import (
    CampaignName,
    EngineOption,
    OperatorOption,
    Reach,
    StateOption,
    answer,
    controlled,
    document_of,
    say,
)
from flashcast.errors import CampaignError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from flashcast.campaign.records import CampaignRecord, LaunchRecord
    from flashcast.campaign.store import Store

app = typer.Typer(
    name="campaign", help="Create, list, show, edit and delete the campaigns that the engine keeps.",
    no_args_is_help=True,
)  # fmt: skip


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What operators will type: a-z, 0-9 and -.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The campaign file, TOML.", show_default=False)],
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a campaign to the engine, and open its first launch in draft."""
    with failures(as_json=as_json):
        text = _text_of(file)

        async def work(store: Store) -> CampaignRecord:
            from flashcast.launch_control.campaigns import create

            return await create(store, name, text, str(file))

        record = controlled(Reach(engine, state, operator), work)
        if as_json:
            print_json({**_document(record), "latest": record.latest})
        else:
            answer(f"created {name}; its launch {record.latest} is draft. Next: flashcast seal {name} -a DEVICES")


@app.command(name="list")
def list_campaigns(engine: EngineOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the campaigns, each with its latest launch."""
    with failures(as_json=as_json):

        async def work(store: Store) -> tuple[list[CampaignRecord], list[LaunchRecord]]:
            return await store.campaigns(), await store.launches()

        campaigns, launches = controlled(Reach(engine, state), work)
        states = {record.launch: record.state.value for record in launches}
        if as_json:
            told = [
                {**_document(one), "latest": one.latest, "state": states.get(one.latest, "draft")} for one in campaigns
            ]
            print_json({"campaigns": told})
        else:
            print_rich(partial(_table, campaigns, states))


@app.command()
def show(
    name: CampaignName, engine: EngineOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Print a campaign's text, as it was given."""
    with failures(as_json=as_json):

        async def work(store: Store) -> tuple[CampaignRecord, LaunchRecord]:
            campaign = await store.campaign(name)
            return campaign, (await store.launch(campaign.latest))[0]

        campaign, launch = controlled(Reach(engine, state), work)
        if as_json:
            print_json({**_document(campaign), "text": campaign.text, "launch": document_of(launch)})
            return
        print_text(campaign.text)
        if not launch.ended and launch.campaign_digest != campaign.digest:
            say("An edit of this campaign was broken off: edit it again before it is sealed.")


@app.command()
def edit(
    name: CampaignName,
    file: Annotated[
        Path | None, typer.Argument(help="The new campaign file; without it, $EDITOR opens.", show_default=False)
    ] = None,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a campaign another text. Its launch goes back to draft: it must be sealed and armed again."""
    with failures(as_json=as_json):
        reach = Reach(engine, state, operator)
        text = _text_of(file) if file is not None else _edited(reach, name)

        async def work(store: Store) -> tuple[CampaignRecord, LaunchRecord]:
            from flashcast.launch_control.campaigns import edit

            return await edit(store, name, text, str(file) if file is not None else f"campaign {name}")

        campaign, launch = controlled(reach, work)
        if as_json:
            print_json({**_document(campaign), "latest": launch.launch, "state": launch.state.value})
        else:
            answer(f"{name} says so now; its launch {launch.launch} is {launch.state.value}")


app.command()(delete)


def _text_of(file: Path) -> str:
    """A file's text, its line ends as they are. Raises CampaignError."""
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        raise CampaignError(f"no campaign file at {file}", remedy="Give the path of a TOML file.") from None
    except UnicodeDecodeError as error:
        raise CampaignError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise CampaignError(f"cannot read {file}: {error.strerror}") from None


def _edited(reach: Reach, name: str) -> str:
    """The campaign's text after the operator's editor was closed. The engine is not held open meanwhile."""
    before = controlled(reach, lambda store: store.campaign(name)).text
    with tempfile.TemporaryDirectory(prefix="flashcast-") as folder:
        file = Path(folder) / f"{name}.toml"
        file.write_bytes(before.encode())
        _run_editor(file)
        text = _text_of(file)
    if text == before:
        raise InputError("nothing was changed", remedy=f"{name} is as it was.")
    return text


def _run_editor(file: Path) -> None:
    """Opens ``file`` in VISUAL, EDITOR or vi, and waits. Raises InputError where that fails."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    remedy = "Set EDITOR to a command that waits until the file is closed, or give a file."
    try:
        code = subprocess.run([*shlex.split(command), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise InputError(f"the editor {command!r} cannot be run: {error}", remedy=remedy) from None
    if code:
        raise InputError(f"the editor {command!r} ended with {code}, so nothing was changed", remedy=remedy)


def _document(record: CampaignRecord) -> dict[str, object]:
    told = record.model_dump(mode="json")
    del told["text"]
    return told


def _table(campaigns: list[CampaignRecord], states: dict[str, str], console: Console) -> None:
    from rich.table import Table

    from flashcast.campaign.refusal import moment

    if not campaigns:
        console.print("no campaigns yet: flashcast campaign create NAME FILE")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("campaign", "latest launch", "state", "changed", "by"):
        table.add_column(name, no_wrap=True)
    for one in campaigns:
        table.add_row(one.campaign, one.latest, states.get(one.latest, "draft"), moment(one.at), one.by)
    console.print(table)
