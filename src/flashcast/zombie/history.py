"""What was published, kept beside it: each document once more under a name with its version, `shop.v1800000000.json`.

Repair needs to know which document an app was given at 20:14, and by then it has long been replaced. So whoever
publishes leaves a copy, after apps have theirs: a copy that cannot be written is told and fails nothing. A publisher
that is killed before leaves none; the next one finds the document in place and keeps that as well. The files are
signed like any other, never change, and may be deleted when nobody will repair those days any more.
"""

from __future__ import annotations

import re
from typing import Final

from flashcast.errors import FlashcastError
from flashcast.zombie.targets import SwappedError, Target

_NAME: Final = re.compile(r"(?P<app>[a-z0-9][a-z0-9-]{0,39})\.v(?P<version>[0-9]{1,16})\.json")


def kept_name(app: str, version: int) -> str:
    """The name under which a version is kept."""
    return f"{app}.v{version}.json"


def kept_version(name: str, app: str) -> int | None:
    """The version that a file of this name keeps of ``app``; None for other files."""
    found = _NAME.fullmatch(name)
    return int(found["version"]) if found is not None and found["app"] == app else None


def keep(at: Target, app: str, version: int, data: bytes) -> bool:
    """Keeps a version's file; returns whether it is kept now. Raises nothing."""
    try:
        at.write(kept_name(app, version), data, None)
    except SwappedError:
        return True  # It is there already: a version has one file.
    except FlashcastError:
        return False
    return True
