"""`flashcast schema`: the JSON Schema of a campaign file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flashcast.cli.common import failures


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; without it, standard output.")] = None,
) -> None:
    """Print the JSON Schema of a campaign file, for editors that complete and check TOML."""
    from flashcast.campaign.schema import campaign_schema

    text = json.dumps(campaign_schema(), indent=2, ensure_ascii=False) + "\n"
    with failures():
        if out is None:
            typer.echo(text, nl=False)
        else:
            out.write_text(text, encoding="utf-8")
