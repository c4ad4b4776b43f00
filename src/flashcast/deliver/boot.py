"""Which start of the machine this is: what a journal says of rows that were not sent holds within one start only.

A store into a mapped file outlives its process, and not the machine's losing power: then rows may look unsent that were
sent. So a journal's header names the start in which it was written.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""Linux: random, the same until the next start (random(4))."""


@cache
def boot_id() -> str:
    """A name for this start of the machine, empty where the system has none to give."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def other_boot(noted: object) -> bool:
    """Whether ``noted``, by an earlier process, is surely an earlier start of the machine."""
    return bool(noted) and bool(boot_id()) and noted != boot_id()


def same_boot(noted: object) -> bool:
    """Whether ``noted``, by an earlier process, is surely this start of the machine."""
    return bool(noted) and noted == boot_id()
