"""Ctrl-C at every moment of a launch: before GO it ends the command, after GO it is an order to abort.

| when                     | Ctrl-C, SIGTERM, SIGHUP                                               |
| ------------------------ | --------------------------------------------------------------------- |
| before GO                | `KeyboardInterrupt`: everything is undone, exit code 130              |
| after GO, the first      | nothing more is sent; replies to what is on the wire are awaited      |
| after GO, the second     | not even those; the report is written                                 |
| while the report is made | counted, and nothing else: the books are worth the second they take   |

A handler only counts; whoever waits looks at the count. An exception could strike between any two instructions, such
as those between GO and the loop that watches it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # fmt: skip


class Interrupts:
    """How often the operator asked us to end since GO."""

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return f"<Interrupts {self.count}>"

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.count += 1


@contextmanager
def held_interrupts() -> Iterator[Interrupts]:
    """Counts signals instead of letting them end the command, until the block is left."""
    interrupts = Interrupts()
    with _handled(interrupts.note):
        yield interrupts


@contextmanager
def as_keyboard_interrupt() -> Iterator[None]:
    """Ends a command for SIGTERM and SIGHUP as it ends for Ctrl-C: by an exception that undoes what was begun."""
    with _handled(_interrupt):
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        # What our parent had us ignore (nohup, a background job) stays ignored.
        before = {number: old for number in _SIGNALS if (old := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
