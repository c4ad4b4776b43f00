"""The question before GO of a launch on one machine, and who else may have answered it.

The launch's record is in the engine, so another terminal can press GO, call it off or disarm it while this one waits
for ENTER. What has happened ends the waiting, and is told with who did it.
"""

from __future__ import annotations

import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import typer

from flashcast.cli.common import err
from flashcast.errors import ExitCode

if TYPE_CHECKING:
    from flashcast.campaign.records import Go, LaunchRecord
    from flashcast.service import LaunchSession

_POLL_S: Final = 0.05
"""How soon what another terminal did is noticed."""


def until_entered(session: LaunchSession) -> None:
    """Returns when the operator has pressed ENTER, or another terminal GO; what was typed before does not count.

    Raises KeyboardInterrupt for Ctrl-C and for Ctrl-D, the end of input; leaves the command where another terminal has
    called the launch off or disarmed it, and raises what broke the worker.
    """
    import termios

    assert session.snapshot is not None and session.destination is not None and session.local is not None
    question = f"Press ENTER to send to {session.snapshot.rows:,} devices at {session.destination.name}"
    with suppress(termios.error):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    try:
        err.print(question, style="bold", markup=False, soft_wrap=True, end=" (Ctrl-C: no) ")
        while not select.select([sys.stdin], [], [], _POLL_S)[0]:
            record = session.turned()
            if record is not None:
                err.print()
                return _turned(record)
            if session.local.fault is not None:
                err.print()
                raise session.local.fault
        if not sys.stdin.readline():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        err.print()
        raise


def _turned(record: LaunchRecord) -> None:
    """Another terminal has decided. Returns where it pressed GO, and leaves the command where it did otherwise."""
    if record.go is not None:
        return
    from flashcast.campaign.refusal import moment

    told = f"launch {record.launch} is {record.state.value} now"
    if record.trail:
        last = record.trail[-1]
        told += f", by {last.by} at {moment(last.at)} from {last.host}"
    err.print(f"{told}; nothing was sent", markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.ABORTED)


def tell_who_launched(go: Go, *, then: str) -> None:
    """Says whose GO it was, that of another terminal, and what follows from it."""
    from flashcast.campaign.refusal import moment

    told = f"GO was pressed by {go.by} at {moment(go.at)} from {go.host}; {then}"
    err.print(told, style="bold", markup=False, soft_wrap=True)
