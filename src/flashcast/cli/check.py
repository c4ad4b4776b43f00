"""`flashcast check`: every fault of a campaign file at once, or what its messages will look like."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flashcast.cli.common import JsonOption, err, failures, print_json
from flashcast.cli.progress import progress_bar
from flashcast.errors import ExitCode
from flashcast.model import Provider

if TYPE_CHECKING:
    from flashcast.campaign.compile import CompiledMessages
    from flashcast.campaign.load import Examination
    from flashcast.campaign.preview import Preview, RowSurvey

CampaignArgument = Annotated[Path, typer.Argument(help="The campaign file, TOML.", show_default=False)]
AudienceOption = Annotated[
    str | None,
    typer.Option("--audience", "-a", help="Rows to check against: a file, glob, folder or URL.", show_default=False),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", help="parquet, csv, jsonl or arrow, where the extension does not tell.", show_default=False
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OURS=THEIRS", help="Which column is token, user_id, ... Repeatable."),
]
RowsOption = Annotated[int, typer.Option("--rows", min=1, help="Messages to show of each provider's rows.")]


def check(
    campaign: CampaignArgument,
    audience: AudienceOption = None,
    format: FormatOption = None,  # noqa: A002 - the option's name
    map: MapOption = None,  # noqa: A002 - the option's name
    rows: RowsOption = 3,
    as_json: JsonOption = False,
) -> None:
    """Tell every fault of a campaign file, with its line, and show how it goes and what its messages will look like.

    With --audience, its columns are checked too, every row's message is measured, and the messages of some rows are
    shown. Without it, fields are filled with their fallbacks or with made-up values.
    """
    from flashcast.campaign.load import examine

    with failures(as_json=as_json):
        examination = examine(campaign)
        survey: RowSurvey | None = None
        if audience is not None and examination.campaign is not None:
            from flashcast.audience.source import AudienceSource
            from flashcast.cli.check_audience import survey_audience
            from flashcast.cli.seal import pairs

            source = AudienceSource(audience, format=format)
            with progress_bar("checking") as progress:
                examination, survey = survey_audience(examination, source, pairs("--map", map), rows, progress)
    if examination.faults:
        _tell_faults(examination, as_json)
        raise typer.Exit(int(ExitCode.USAGE))
    _tell_messages(examination, survey, rows, as_json)


def _tell_faults(examination: Examination, as_json: bool) -> None:
    faults = examination.faults
    if as_json:
        told = [{"line": each.line, "key": each.dotted, "message": each.message} for each in faults]
        print_json({"ok": False, "file": examination.file, "faults": told})
        return
    for fault in faults:
        err.print(fault.told(examination.file), markup=False, soft_wrap=True)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    err.print(f"{count}. docs/reference/campaign.md lists every key.", style="bold", soft_wrap=True)


def _tell_messages(examination: Examination, survey: RowSurvey | None, rows: int, as_json: bool) -> None:
    from flashcast.campaign.compile import compile_messages
    from flashcast.campaign.preview import made_up
    from flashcast.cli.check_terms import terms_document, terms_lines

    campaign = examination.sound()
    compiled = compile_messages(campaign)
    previews = sorted(survey.previews, key=lambda each: each.row or 0) if survey else made_up(compiled)
    if as_json:
        print_json(
            {
                "ok": True,
                "file": examination.file,
                "faults": [],
                "name": compiled.name,
                "window_s": compiled.window_s,
                "unknown_policy": compiled.unknown_policy.value,
                "pace": {provider.value: rate for provider, rate in compiled.pace.items()},
                **terms_document(campaign),
                "columns_needed": sorted(campaign.columns_needed()),
                "variants": _variants(compiled, survey),
                "empty_without_fallback": survey.empty if survey else {},
                "previews": [_preview_json(preview) for preview in previews],
            }
        )
        return
    out = Console(highlight=False, markup=False, soft_wrap=True)
    pace = ", ".join(f"{provider} {rate:,.0f}/s" for provider, rate in compiled.pace.items())
    out.print(f"{examination.file}: no faults", style="bold green")
    out.print(
        f"{compiled.name}: window {compiled.window_s:g} s, unknown outcomes: {compiled.unknown_policy}, "
        f"pace: {pace or 'as fast as the providers take it'}"
    )
    for line in terms_lines(campaign):
        out.print(line)
    out.print(f"columns needed: {', '.join(sorted(campaign.columns_needed())) or 'none'}")
    _print_variants(out, compiled, survey)
    for column, count in (survey.empty if survey else {}).items():
        out.print(f"note: {column} is empty in {count:,} rows and its field has no fallback", style="yellow")
    for provider in compiled.templates:
        mine = [preview for preview in previews if preview.provider is provider]
        for preview in mine[:rows]:
            _print_preview(out, preview)
        if len(mine) > rows:
            out.print(f"\n{provider}: {len(mine) - rows} more with --rows {len(mine)}")


def _variants(compiled: CompiledMessages, survey: RowSurvey | None) -> list[dict[str, Any]]:
    from flashcast.campaign.preview import room_bytes
    from flashcast.campaign.template import payload_bytes_max

    told: list[dict[str, Any]] = []
    for provider, templates in compiled.templates.items():
        chooser = compiled.choosers[provider]
        for index, template in enumerate(templates):
            entry: dict[str, Any] = {
                "provider": provider.value,
                "variant": template.variant,
                "column": chooser.column,
                "when": [value for value, arms in chooser.by_value.items() if index in arms],
                "weight": chooser.weights[index],
                "payload_bytes_max": payload_bytes_max(template),
                "room_for_fields_bytes": room_bytes(template, compiled.fields),
            }
            if survey is not None:
                longest = survey.longest.get((provider, index))
                entry["rows"] = longest.rows if longest else 0
                entry["longest_payload_bytes"] = longest.payload_bytes if longest else None
                entry["longest_row"] = longest.row if longest else None
            told.append(entry)
    return told


def _print_variants(out: Console, compiled: CompiledMessages, survey: RowSurvey | None) -> None:
    for provider in compiled.templates:
        entries = [each for each in _variants(compiled, survey) if each["provider"] == provider]
        column = entries[0]["column"]
        out.print(f"\n{provider}: {_count(len(entries), 'variant')}{f' by {column}' if column else ''}", style="bold")
        width = max(len(each["variant"]) for each in entries)
        for each in entries:
            size = f"{each['room_for_fields_bytes']:,} of {each['payload_bytes_max']:,} bytes left for fields"
            if survey is not None and each["rows"]:
                size = (
                    f"{_count(each['rows'], 'row')}, longest {each['longest_payload_bytes']:,} of "
                    f"{each['payload_bytes_max']:,} bytes (row {each['longest_row']})"
                )
            elif survey is not None:
                size = "no rows"
            out.print(f"  {each['variant']:<{width}}  {size}{_share(each, entries)}")


def _share(entry: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """An arm's share of the rows that have the same ``when``."""
    total = sum(each["weight"] for each in entries if each["when"] == entry["when"])
    return "" if total == entry["weight"] else f", {entry['weight'] / total:.1%} of these rows"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _preview_json(preview: Preview) -> dict[str, Any]:
    return {
        "provider": preview.provider.value,
        "variant": preview.variant,
        "row": preview.row,
        "headers": dict(preview.headers),
        "body": json.loads(preview.body),
        "payload_bytes": preview.payload_bytes,
        "payload_bytes_max": preview.payload_bytes_max,
    }


def _print_preview(out: Console, preview: Preview) -> None:
    source = "made-up values" if preview.row is None else f"row {preview.row}"
    size = f"{preview.payload_bytes:,} of {preview.payload_bytes_max:,} bytes"
    out.print(f"\n{preview.provider} {preview.variant}, {source}, {size}", style="bold")
    for name, value in preview.headers if preview.provider is Provider.APNS else ():
        out.print(f"  {name}: {value}")
    out.print(_indented(json.dumps(json.loads(preview.body), indent=2, ensure_ascii=False).splitlines()))


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
