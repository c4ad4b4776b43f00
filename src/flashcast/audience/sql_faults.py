"""DuckDB's errors in our words, without the cells they quote: those may be device tokens."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Final

from flashcast.errors import AudienceError, EnvironmentFault, FlashcastError

MEMORY_LIMIT: Final = "256MB"
"""What DuckDB may hold before it spills. Scans need a tenth of it; sorting millions of rows takes what it gets."""


def translate(error: Exception, what: str) -> FlashcastError:
    """A DuckDB error in our words. Cells of the audience are cut out of it: they may be device tokens."""
    text = str(error)
    if re.search(r"no space left|disk full|max_temp_directory_size", text, re.IGNORECASE):
        return EnvironmentFault(
            f"{what}: the disk is full while sorting or joining",
            remedy="Free some disk space where the snapshot is written.",
        )
    if re.search(r"out of memory", text, re.IGNORECASE):
        return EnvironmentFault(
            f"{what} needs more than {MEMORY_LIMIT} of memory", remedy="Read fewer columns, or filter before joining."
        )
    if found := re.search(r"CSV Error on Line: (\d+)", text):
        counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
        fault = f"it has {counts[2]} values where the header names {counts[1]}" if counts else _csv_fault(text)
        name = re.search(r"file = (.+)", text)
        return AudienceError(
            f"{name[1].strip() if name else what}: line {found[1]} is malformed: {fault}",
            remedy="Mend the line, or write the file again.",
        )
    if found := re.search(r'(?:Malformed JSON|JSON transform error) in file "([^"]+)"', text):
        return json_fault(Path(found[1]))
    kind = "cannot be run" if what.startswith("--") else "cannot be read"
    return AudienceError(
        f"{what} {kind}: {_scrubbed(text)}",
        remedy="The table is called audience; --table NAME=PATH adds others." if what == "--sql" else "",
    )


def json_fault(path: Path) -> AudienceError:
    """JSON lines with a line that is none."""
    line = bad_json_line(path)
    where = "a line is" if line is None else f"line {line} is"
    return AudienceError(f"{path}: {where} no JSON object", remedy="JSON lines have one object on each line.")


def bad_json_line(path: Path) -> int | None:
    """The first line that is no JSON object: DuckDB's own count of lines is not to be relied on."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    if line.strip() and not isinstance(json.loads(line), dict):
                        return number
                except ValueError:
                    return number
    except (OSError, EOFError):
        return None
    return None


def _csv_fault(text: str) -> str:
    lines = [
        line
        for line in text.splitlines()
        if line.strip() and not re.match(r".*CSV Error on Line|Original Line", line)
    ]
    return _scrubbed(lines[0]) if lines else "it cannot be parsed"


def _scrubbed(text: str) -> str:
    """The telling part of a message, without what could be a device token."""
    text = re.split(r"\n\s*\n|\nPossible|\n\* ", text)[0] if "LINE 1" not in text else text
    text = text.replace(") AS audience", "").replace("SELECT * FROM (", "").replace("DESCRIBE ", "")
    text = " ".join(text.split("\n\n", 1)[0].split())
    return re.sub(r"[A-Za-z0-9_:\-]{32,}", "...", text)[:500]
