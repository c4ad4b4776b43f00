"""What every command shares: errors as text or JSON, progress on a terminal, figures for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from flashcast.errors import ExitCode, FlashcastError

err = Console(stderr=True, highlight=False)
"""Progress, prompts and errors go to standard error, so that standard output can be piped."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def print_json(document: dict[str, Any]) -> None:
    """Writes one JSON document, and nothing else, to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def fail(error: FlashcastError, *, as_json: bool = False) -> NoReturn:
    """Shows ``error`` and leaves with its exit code."""
    if as_json:
        print_json({"error": {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}})
    else:
        err.print(f"[bold red]error:[/] {_plain(error.message)}")
        if error.remedy:
            err.print(_plain(error.remedy))
    raise typer.Exit(int(error.exit_code))


@contextmanager
def failures(*, as_json: bool = False) -> Iterator[None]:
    """Turns the errors of a command's body into a message and an exit code.

    The body may raise `FlashcastError` at any depth; a full disk, which can strike any write, is told here too.
    """
    try:
        yield
    except FlashcastError as error:
        fail(error, as_json=as_json)
    except OSError as error:
        fault = FlashcastError(f"{error.filename or 'input/output'}: {error.strerror or error}",
                               remedy="Nothing was half-done; free the resource and run the command again.")
        fault.exit_code = ExitCode.ENVIRONMENT
        fail(fault, as_json=as_json)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def interactive() -> bool:
    """Whether a person watches standard error."""
    return err.is_terminal
