"""`flashcast`: collects the commands."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from flashcast import __version__

app = typer.Typer(
    name="flashcast",
    help="Send a push notification to millions of phones within seconds of pressing GO.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = ("check", "seal", "launch", "resume", "report", "simulate", "demo", "schema")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flashcast {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Send a push notification to millions of phones within seconds of pressing GO."""


for _name in COMMANDS:
    _module = importlib.import_module(f"flashcast.cli.{_name}")
    app.command(name=_name)(getattr(_module, _name))


def run() -> None:
    """The console script."""
    try:
        app()
    except BrokenPipeError:
        # The reader of our output left (`flashcast ... | head`).
        sys.stderr.close()
        raise SystemExit(0) from None
