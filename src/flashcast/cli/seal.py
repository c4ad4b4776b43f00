"""`flashcast seal`: an audience and a campaign become a snapshot on disk."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashcast.cli.common import JsonOption, failures, print_json
from flashcast.cli.completion import complete_campaign
from flashcast.cli.fleet_options import (
    EngineOption,
    Leaving,
    OperatorOption,
    Reach,
    StateOption,
    controlled,
    say,
)
from flashcast.cli.progress import progress_bar
from flashcast.errors import InputError

if TYPE_CHECKING:
    from flashcast.audience.manifest import Manifest
    from flashcast.audience.seal import SealOptions
    from flashcast.audience.source import AudienceSource
    from flashcast.campaign.store import Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
"""What can be a campaign's name; a file called so would have no extension."""
CampaignArgument = Annotated[
    str,
    typer.Argument(
        help="The campaign file, TOML; or the name of a campaign that the engine has.",
        autocompletion=complete_campaign,
        show_default=False,
    ),
]
AudienceOption = Annotated[
    str, typer.Option("--audience", "-a", help="The devices: a file, glob, folder or URL.", show_default=False)
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PLACE",
        help="Folder to write, or an address like s3://bucket/name. Default: the file's campaign with .snapshot; for a "
        "campaign of the engine, a folder of the launch's in the state folder.",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", help="parquet, csv, jsonl or arrow, where the extension does not tell.", show_default=False
    ),
]
SqlOption = Annotated[
    str | None,
    typer.Option("--sql", help="A query whose rows are the audience; the file is its table audience."),
]
TableOption = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="NAME=PATH", help="A further table for --sql. Repeatable."),
]
WhereOption = Annotated[str | None, typer.Option("--where", help="An SQL condition that rows must meet.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OURS=THEIRS", help="Which column is token, user_id, ... Repeatable."),
]
SuppressOption = Annotated[
    str | None, typer.Option("--suppress", help="A file with a column of user ids or tokens to leave out.")
]
HoldoutOption = Annotated[float, typer.Option("--holdout", help="Share of the users to set aside, such as 0.05.")]
OnePerUserOption = Annotated[bool, typer.Option("--one-per-user", help="One device for each user id: the first.")]
PreferOption = Annotated[
    str | None,
    typer.Option("--prefer", metavar="COLUMN", help="With --one-per-user: the device where this is greatest."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Stop after so many devices are in.")]
DropTooLargeOption = Annotated[
    bool,
    typer.Option("--drop-too-large", help="Leave out rows whose message is too long, instead of refusing."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace another snapshot at --out.")]


def seal(
    campaign: CampaignArgument,
    audience: AudienceOption,
    out: OutOption = None,
    format: FormatOption = None,  # noqa: A002 - the option's name
    sql: SqlOption = None,
    table: TableOption = None,
    where: WhereOption = None,
    map: MapOption = None,  # noqa: A002 - the option's name
    suppress: SuppressOption = None,
    holdout: HoldoutOption = 0.0,
    one_per_user: OnePerUserOption = False,
    prefer: PreferOption = None,
    limit: LimitOption = None,
    drop_too_large: DropTooLargeOption = False,
    force: ForceOption = False,
    engine: EngineOption = None,
    state: StateOption = None,
    operator: OperatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Filter, check and render an audience into an immutable snapshot that a launch sends from.

    Given the name of a campaign in the engine, its launch is sealed: it can be armed then.
    """
    began = time.monotonic()
    with failures(as_json=as_json):
        from flashcast.audience.seal import SealOptions
        from flashcast.audience.source import AudienceSource

        source = AudienceSource(audience, sql=sql, tables=pairs("--table", table), where=where, format=format)
        options = SealOptions(
            columns=pairs("--map", map),
            suppress=suppress,
            holdout=holdout,
            one_device_per_user=one_per_user,
            prefer=prefer,
            limit=limit,
            drop_too_large=drop_too_large,
            force=force,
        )
        made = _seal_file if is_file(campaign) else partial(_seal_launch, Reach(engine, state, operator))
        with Leaving() as leaving:
            leaving.text = "interrupted; nothing was left behind"
            sealed = made(campaign, source, options, out)
    if as_json:
        seconds = round(time.monotonic() - began, 3)
        launch = {} if sealed.launch is None else {"launch": sealed.launch}
        print_json({**launch, "snapshot": sealed.place, **sealed.manifest.summary(), "seal_s": seconds})
    else:
        _tell(sealed, time.monotonic() - began)


@dataclass(frozen=True)
class _Sealed:
    """What was sealed, where it lies, and for which launch of the engine."""

    manifest: Manifest
    place: str
    launch: str | None = None


def is_file(campaign: str) -> bool:
    """Whether the argument means a file, rather than a campaign's name."""
    return not _NAME.fullmatch(campaign) or Path(campaign).is_file()


def _seal_file(campaign: str, source: AudienceSource, options: SealOptions, out: str | None) -> _Sealed:
    from flashcast.audience.seal import seal as seal_audience
    from flashcast.campaign.load import load_campaign

    loaded = load_campaign(Path(campaign))
    folder = default_folder(loaded.name) if out is None else Path(out)
    if out is not None and "://" in out:
        raise InputError(
            f"--out {out}: a snapshot of a file is written to a folder", remedy="Copy it there afterwards."
        )
    with (
        progress_bar("sealing") as progress,
        seal_audience(loaded, source, folder, options, progress) as snapshot,
    ):
        return _Sealed(snapshot.manifest, str(folder))


def _seal_launch(reach: Reach, campaign: str, source: AudienceSource, options: SealOptions, out: str | None) -> _Sealed:
    async def work(store: Store) -> _Sealed:
        from flashcast.launch_control.campaigns import seal_campaign

        with progress_bar("sealing") as progress:
            sealed = await seal_campaign(
                store, campaign, source, options, folder=reach.state_path, out=out, progress=progress
            )
        if "://" not in sealed.url and not store.engine.address.startswith("embedded:"):
            say(f"workers on other machines must find it at {sealed.url} too: share that folder, or seal to an address")
        return _Sealed(sealed.manifest, sealed.url, sealed.record.launch)

    return controlled(reach, work)


def pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """``a=b`` options as a dict. Raises InputError for one without ``=`` or given twice."""
    found: dict[str, str] = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        name, value = name.strip(), value.strip()
        if not (name and equals and value):
            raise InputError(f"{option} {pair}: not of the form NAME=VALUE")
        if name in found:
            raise InputError(f"{option} {pair}: {name} was given before as {found[name]}")
        found[name] = value
    return found


def default_folder(name: str) -> Path:
    """The folder for a campaign's snapshot: its name in letters that every file system takes."""
    return Path((re.sub(r"[^\w.-]+", "-", name).strip("-.").lower() or "campaign") + ".snapshot")


def _tell(sealed: _Sealed, seconds: float) -> None:
    manifest = sealed.manifest
    counts = manifest.counts
    devices = sum(counts.kept.values())
    rate = f", {counts.read / seconds:,.0f} rows/s" if seconds >= 1 else ""
    lines = [f"{sealed.place}: {devices:,} of {counts.read:,} rows sealed in {seconds:.1f} s{rate}"]
    lines += [f"  {provider.value:<18} {rows:>12,}" for provider, rows in counts.kept.items() if rows]
    lines += [f"  {'- ' + reason:<18} {rows:>12,}" for reason, rows in counts.dropped.items()]
    if counts.dropped:
        lines.append(f"  dropped rows: {sealed.place}/{manifest.dropped.file}")
    lines.append(f"  digest {manifest.digest}")
    if sealed.launch is not None:
        lines.append(f"  launch {sealed.launch} is sealed")
    typer.echo("\n".join(lines))
