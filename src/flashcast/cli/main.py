"""`flashcast`: collects the commands."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from flashcast import __version__
from flashcast.cli.common import fail
from flashcast.errors import ExitCode, InputError

app = typer.Typer(
    name="flashcast",
    help="Send a push notification to millions of phones within seconds of pressing GO.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    "check", "demo", "launch", "simulate", "schema",
    "campaign create", "campaign list", "campaign show", "campaign edit", "campaign delete",
    "seal", "arm", "preflight", "approve", "go", "abort", "disarm", "pause", "resume",
    "status", "report", "audit", "shield", "worker", "workers",
    "zombie on", "zombie off", "zombie recover", "zombie status", "zombie watch", "zombie replay",
    "zombie keys new", "zombie keys show", "zombie demo", "zombie nginx", "zombie envoy",
    "zombie repair spans", "zombie repair grants",
    "zombie reports import", "zombie reports serve", "zombie reports show", "zombie reports alarm",
    "herd forecast", "herd shape",
)  # fmt: skip
"""In the order of `flashcast --help`. The commands of a group are in one module, which has an ``app`` of its own."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flashcast {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Send a push notification to millions of phones within seconds of pressing GO."""


for _name in dict.fromkeys(_command.partition(" ")[0] for _command in COMMANDS):
    _module = importlib.import_module(f"flashcast.cli.{_name}")
    if _name in COMMANDS:
        app.command(name=_name)(getattr(_module, _name))
    else:
        app.add_typer(_module.app)


def run() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks is shown escaped rather than ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="flashcast", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.ABORTED
    except typer.Exit as left:
        code = left.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = _usage_error(error)
    raise SystemExit(int(code) if isinstance(code, int) else 0)


def _usage_error(error: Any) -> int:
    """Tells a wrong option in the form of every other error. ``error`` is the parser's UsageError."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return int(ExitCode.OK)
    message = error.format_message()
    given = _given(getattr(getattr(error, "param", None), "opts", ()))
    if given is not None and given not in message:
        message += f"; {given!r} was given"
    command = context.command_path if context is not None else "flashcast"
    try:
        fail(InputError(message, remedy=f"See `{command} --help`."), as_json="--json" in sys.argv)
    except typer.Exit as left:
        return int(left.exit_code)


def _given(names: Sequence[str]) -> str | None:
    """The value an option has on the command line; the parser's message leaves it out."""
    for word, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return None
