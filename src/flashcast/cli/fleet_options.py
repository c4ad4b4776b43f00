"""What the commands of launch control share: where the engine is, who acts, and how one is asked and told."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from flashcast.cli.common import err, print_text
from flashcast.cli.completion import complete_campaign, complete_launch
from flashcast.errors import ExitCode, InputError

if TYPE_CHECKING:
    from flashcast.campaign.store import Operator, Store
    from flashcast.engine.base import Engine

T = TypeVar("T")
OPERATOR_VARIABLE: Final = "FLASHCAST_OPERATOR"

EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="embedded, embedded:DIR or nats://HOST:PORT; by default FLASHCAST_ENGINE, else one in the state folder.",
        show_default=False,
    ),
]
OperatorOption = Annotated[
    str | None,
    typer.Option(
        "--operator",
        help="Who acts, for the audit trail; by default FLASHCAST_OPERATOR or user@host.",
        show_default=False,
    ),
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", help="State folder; by default FLASHCAST_HOME or the user's data folder.", show_default=False
    ),
]
LaunchArgument = Annotated[
    str,
    typer.Argument(
        help="A campaign, which means its latest launch, or the id of a launch.",
        autocompletion=complete_launch,
        show_default=False,
    ),
]
CampaignName = Annotated[
    str, typer.Argument(help="Name of the campaign.", autocompletion=complete_campaign, show_default=False)
]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for the audit trail.", show_default=False)]


@dataclass(frozen=True)
class Reach:
    """Which engine a command speaks to, and for whom."""

    engine: str | None = None
    state: Path | None = None
    operator: str | None = None

    @property
    def state_path(self) -> Path:
        """The state folder."""
        from flashcast.state import StateFolder

        return StateFolder(self.state).path

    def open(self) -> Engine:
        """The engine, to be entered."""
        from flashcast.engine.open import open_engine

        return open_engine(self.engine, state=self.state_path)

    def exists(self) -> bool:
        """False where opening the engine would make a new one, for what can only be found in an old one."""
        kind, _, folder = self.open().address.partition(":")
        return kind != "embedded" or Path(folder).is_dir()


def controlled(reach: Reach, work: Callable[[Store], Awaitable[T]], *, warn: bool = False) -> T:
    """Opens the engine, does ``work``, closes it; with ``warn`` tells what the engine says about its durability."""
    import asyncio

    from flashcast.campaign.store import Store

    operator = this_operator(reach.operator)

    async def run() -> T:
        async with reach.open() as engine:
            for warning in engine.warnings if warn else ():
                err.print(f"warning: {warning}", markup=False, soft_wrap=True)
            return await work(Store(engine, operator))

    return asyncio.run(run())


def this_operator(given: str | None) -> Operator:
    """Who acts: ``given``, else FLASHCAST_OPERATOR, else user@host. It is taken at their word."""
    import socket

    from flashcast.campaign.store import Operator

    host = socket.gethostname() or "unknown"
    return Operator(given or os.environ.get(OPERATOR_VARIABLE) or f"{_user()}@{host}", host)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return str(os.getuid())


class Leaving:
    """Ends a command at Ctrl-C with ``text``, which says what goes on all the same; without a text as any other.

    It goes around `controlled`: an interrupt seldom comes up in the coroutine that runs, which is only cancelled.
    """

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> Leaving:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.text and isinstance(error, KeyboardInterrupt):
            say(f"\n{self.text}")
            raise typer.Exit(int(ExitCode.ABORTED)) from None


def say(text: str) -> None:
    """A line of progress on standard error; what comes from outside is shown as it is, never as markup."""
    err.print(text, markup=False, soft_wrap=True)


def answer(text: str) -> None:
    """What a command answers, a line on standard output."""
    print_text(f"{text}\n")


def check_can_ask(*, yes: bool, remedy: str = "Add --yes.") -> None:
    """Raises InputError where somebody should press ENTER and nobody can."""
    if not (yes or (sys.stdin is not None and sys.stdin.isatty())):
        raise InputError("standard input is no terminal, so nobody can press ENTER", remedy=remedy)


async def entered(question: str) -> bool:
    """Whether the operator pressed ENTER; the event loop runs on meanwhile. What was typed before does not count."""
    import asyncio
    import termios

    with suppress(termios.error):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    err.print(question, style="bold", markup=False, soft_wrap=True, end=" (Ctrl-C: no) ")
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, pressed.set)
    try:
        await pressed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return bool(sys.stdin.readline())  # Ctrl-D: the end of input


def document_of(record: Any) -> dict[str, Any]:
    """A launch's record for `--json`, without its trail."""
    from flashcast.campaign.records import as_document

    told = as_document(record)
    told.pop("trail", None)
    return told


__all__ = [
    "CampaignName",
    "EngineOption",
    "LaunchArgument",
    "Leaving",
    "NoteOption",
    "OperatorOption",
    "Reach",
    "StateOption",
    "answer",
    "check_can_ask",
    "controlled",
    "document_of",
    "entered",
    "say",
    "this_operator",
]
