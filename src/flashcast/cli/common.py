"""What every command shares: errors as text or JSON, progress on a terminal, figures for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from flashcast.cli.interrupts import as_keyboard_interrupt
from flashcast.errors import EnvironmentFault, ExitCode, FlashcastError

err = Console(stderr=True, highlight=False)
"""Progress, prompts and errors go to standard error, so that standard output can be piped."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def print_json(document: dict[str, Any]) -> None:
    """Writes one JSON document, and nothing else, to standard output."""
    utf8 = sys.stdout is not None and sys.stdout.encoding.lower().replace("-", "") == "utf8"
    print_text(json.dumps(document, indent=2, ensure_ascii=not utf8, allow_nan=False) + "\n")


def print_line(document: dict[str, Any]) -> None:
    """Writes a JSON document on one line, for a stream of them."""
    print_text(json.dumps(document, ensure_ascii=True, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Writes ``text`` to standard output. Raises EnvironmentFault where it does not take it.

    A reader that has left (`flashcast ... | head -1`) has seen what it wanted: that is no fault.
    """
    if sys.stdout is None:  # closed by the caller (`>&-`)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        raise _OutputLost(
            f"cannot write to standard output: {error.strerror or error}",
            remedy="What the command did is done; `flashcast report` prints a launch's report again.",
        ) from error


def show(document: dict[str, Any], *, as_json: bool) -> None:
    """A launch's report on standard output."""
    from flashcast.report.text import render_text

    if as_json:
        print_json(document)
    else:
        print_rich(partial(render_text, document))


def print_rich(render: Callable[[Console], None]) -> None:
    """What ``render`` prints on a console, on standard output, where a reader that leaves does no harm."""
    console = Console(highlight=False)
    with console.capture() as capture:
        render(console)
    print_text(capture.get())


class _OutputLost(EnvironmentFault):
    """Standard output takes nothing more, so this is told on standard error, whatever the format."""


def _forget_stdout() -> None:
    """Standard output goes nowhere from here on, so that the interpreter's last flush does not fail."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def fail(error: FlashcastError, *, as_json: bool = False) -> NoReturn:
    """Shows ``error`` and leaves with its exit code."""
    if as_json and not isinstance(error, _OutputLost):
        print_json({"error": {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}})
    else:
        tell(error)
    raise typer.Exit(int(error.exit_code))


@contextmanager
def failures(*, as_json: bool = False) -> Iterator[None]:
    """Turns the errors of a command's body into a message and an exit code.

    The body may raise `FlashcastError` at any depth; a full disk, which can strike any write, is told here too. Ctrl-C,
    SIGTERM and SIGHUP end the body with a KeyboardInterrupt, which a launch that has gone live does not let through.
    """
    try:
        with as_keyboard_interrupt():
            yield
    except FlashcastError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        err.print("interrupted; nothing was sent")
        raise typer.Exit(int(ExitCode.ABORTED)) from None
    except OSError as error:
        fault = EnvironmentFault(
            f"{error.filename or 'input/output'}: {error.strerror or error}",
            remedy="Nothing was half-done; free the resource and run the command again.",
        )
        fail(fault, as_json=as_json)


def tell(error: FlashcastError) -> None:
    """Shows ``error`` to a person; what came from outside is shown as it is, never as markup."""
    err.print(Text.assemble(("error:", "bold red"), " ", error.message), soft_wrap=True)
    if error.remedy:
        err.print(error.remedy, markup=False, soft_wrap=True)


def interactive() -> bool:
    """Whether a person watches standard error."""
    return err.is_terminal
