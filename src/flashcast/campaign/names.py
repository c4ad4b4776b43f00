"""Names of campaigns and ids of launches: ``superbowl`` has ``superbowl-1`` to ``superbowl-999``."""

from __future__ import annotations

import re
from typing import Final

from flashcast.errors import InputError
from flashcast.limits import CAMPAIGN_NAME_CHARS_MAX

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{CAMPAIGN_NAME_CHARS_MAX - 1}}}")
_LAUNCH: Final = re.compile(r"(?P<campaign>.+)-(?P<number>[1-9][0-9]{0,2})")


def checked_name(name: str) -> str:
    """``name``, or InputError where it cannot be a campaign's."""
    if not _NAME.fullmatch(name):
        fitting = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:CAMPAIGN_NAME_CHARS_MAX].rstrip("-")
        raise InputError(
            f"campaign name {name!r}: not 1 to {CAMPAIGN_NAME_CHARS_MAX} of a-z, 0-9 and -, beginning with a letter "
            "or digit",
            remedy=f"{fitting!r} would do." if fitting else "'superbowl' would do.",
        )
    return name


def is_name(text: str) -> bool:
    """Whether ``text`` can be a campaign's name or a launch's id."""
    split = split_launch(text)
    return _NAME.fullmatch(text) is not None or (split is not None and _NAME.fullmatch(split[0]) is not None)


def split_launch(launch: str) -> tuple[str, int] | None:
    """The campaign and number in a launch's id, None where it is none."""
    found = _LAUNCH.fullmatch(launch)
    return None if found is None else (found["campaign"], int(found["number"]))


def launch_id(campaign: str, number: int) -> str:
    """The id of a campaign's ``number``-th launch, from 1."""
    return f"{campaign}-{number}"
