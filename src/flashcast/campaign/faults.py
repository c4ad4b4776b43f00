"""What can be wrong with a campaign file, told all at once and with lines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from flashcast.errors import CampaignError

Key = tuple[str | int, ...]
"""A place in the file: table and key names, and indices of arrays."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. ``line`` counts from 1; None where the campaign came from no file."""

    key: Key
    message: str
    line: int | None = None

    @property
    def dotted(self) -> str:
        """The key as a person writes it: ``apns.variants[1].alert.title``."""
        text = ""
        for part in self.key:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                name = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
                text += f".{name}" if text else name
        return text

    def told(self, file: str) -> str:
        """``campaign.toml:12: apns.priority: 7 is not one of 10, 5, 1``."""
        place = file if self.line is None else f"{file}:{self.line}"
        return f"{place}: {self.dotted}: {self.message}" if self.key else f"{place}: {self.message}"


class CampaignFileError(CampaignError):
    """Every fault of a campaign. ``faults`` is in the order of the file's lines."""

    def __init__(self, file: str, faults: tuple[Fault, ...]) -> None:
        super().__init__(
            "\n".join(fault.told(file) for fault in faults),
            remedy="docs/reference/campaign.md lists every key.",
        )
        self.file = file
        self.faults = faults
