"""`flashcast seal`: an audience and a campaign become a snapshot on disk."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json
from flashcast.cli.progress import progress_bar
from flashcast.errors import ExitCode, InputError

if TYPE_CHECKING:
    from flashcast.audience.manifest import Manifest

CampaignArgument = Annotated[Path, typer.Argument(help="The campaign file, TOML.", show_default=False)]
AudienceOption = Annotated[
    str, typer.Option("--audience", "-a", help="The devices: a file, glob, folder or URL.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder to write; default: the campaign's name with .snapshot.", show_default=False
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
    as_json: JsonOption = False,
) -> None:
    """Filter, check and render an audience into an immutable snapshot that a launch sends from."""
    began = time.monotonic()
    with failures(as_json=as_json):
        from flashcast.audience.seal import SealOptions
        from flashcast.audience.seal import seal as seal_audience
        from flashcast.audience.source import AudienceSource
        from flashcast.campaign.load import load_campaign

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
        loaded = load_campaign(campaign)
        folder = out if out is not None else default_folder(loaded.name)
        try:
            with (
                progress_bar("sealing") as progress,
                seal_audience(loaded, source, folder, options, progress) as snapshot,
            ):
                manifest = snapshot.manifest
        except KeyboardInterrupt:
            err.print("interrupted; nothing was left behind")
            raise typer.Exit(int(ExitCode.ABORTED)) from None
    if as_json:
        seconds = round(time.monotonic() - began, 3)
        print_json({"snapshot": str(folder), **manifest.summary(), "seal_s": seconds})
    else:
        _tell(manifest, folder, time.monotonic() - began)


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


def _tell(manifest: Manifest, folder: Path, seconds: float) -> None:
    counts = manifest.counts
    devices = sum(counts.kept.values())
    rate = f", {counts.read / seconds:,.0f} rows/s" if seconds >= 1 else ""
    lines = [f"{folder}: {devices:,} of {counts.read:,} rows sealed in {seconds:.1f} s{rate}"]
    lines += [f"  {provider.value:<18} {rows:>12,}" for provider, rows in counts.kept.items() if rows]
    lines += [f"  {'- ' + reason:<18} {rows:>12,}" for reason, rows in counts.dropped.items()]
    if counts.dropped:
        lines.append(f"  dropped rows: {folder / manifest.dropped.file}")
    lines.append(f"  digest {manifest.digest}")
    typer.echo("\n".join(lines))
