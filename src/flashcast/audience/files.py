"""From what a person names (a path, a glob, a folder, a URL) to local files of one known format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from flashcast.errors import AudienceError, EnvironmentFault


class Format(StrEnum):
    """What a file of rows can be."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    ARROW = "arrow"


EXTENSIONS: Final[dict[str, Format]] = {
    **dict.fromkeys((".parquet", ".pq"), Format.PARQUET),
    **dict.fromkeys((".csv", ".tsv"), Format.CSV),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), Format.JSONL),
    **dict.fromkeys((".arrow", ".arrows", ".ipc", ".feather"), Format.ARROW),
}
MAGIC: Final = re.compile(r"[*?\[]")
"""What makes a path a pattern."""
COMPRESSIONS: Final = (".gz",)
"""May follow the extension of CSV and JSON lines."""


def format_of(path: Path, given: str | None = None) -> Format:
    """The format of a file by ``given`` or by its extension. Raises AudienceError where neither tells."""
    if given is not None:
        try:
            return Format(given.lower())
        except ValueError:
            raise AudienceError(f"--format {given}: unknown", remedy=f"Known: {', '.join(Format)}.") from None
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    last = suffixes[-2] if compressed and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    found = EXTENSIONS.get(last)
    if found is None or (compressed and found not in (Format.CSV, Format.JSONL)):
        raise AudienceError(
            f"{path}: the extension {''.join(path.suffixes[-2:]) or '(none)'} does not tell the format",
            remedy=f"Say --format {'|'.join(Format)}; recognised extensions are {', '.join(EXTENSIONS)}.",
        )
    return found


def find_files(location: str, given: str | None = None, cache: Path | None = None) -> tuple[Format, tuple[Path, ...]]:
    """The local files of a path, glob, folder or URL, sorted by name, and their one format.

    Objects of a URL are fetched into ``cache`` first. Raises AudienceError where nothing is found, formats mix or a
    file is empty; EnvironmentFault where the store cannot be reached.
    """
    paths = _local(location, cache)
    formats = {format_of(path, given) for path in paths}
    if len(formats) > 1:
        raise AudienceError(
            f"{location} has files of several formats: {', '.join(sorted(formats))}",
            remedy="Name one with --format, or narrow the glob.",
        )
    for path in paths:
        try:
            if path.stat().st_size == 0:
                raise AudienceError(f"{path} is empty", remedy="Give a file with at least one row.")
        except OSError as error:
            raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error
    return formats.pop(), tuple(paths)


def _local(location: str, cache: Path | None) -> Sequence[Path]:
    scheme = urlsplit(location).scheme if "://" in location else ""
    if scheme == "file":
        return _expand(unquote(urlsplit(location).path))
    if scheme:
        # obstore is an extra, and slow to import where no URL is named.
        from flashcast.audience.objects import fetch_url

        return fetch_url(location, cache)
    return _expand(location)


def _expand(location: str) -> Sequence[Path]:
    path = Path(location).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        found = [p for p in inside if EXTENSIONS.keys() & {suffix.lower() for suffix in p.suffixes}]
        if not found:
            raise AudienceError(
                f"{path} has no file with rows in it", remedy=f"Recognised extensions are {', '.join(EXTENSIONS)}."
            )
        return found
    if path.exists():
        return [path]
    if MAGIC.search(location):
        found = sorted(
            match for match in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if match.is_file()
        )
        if not found:
            raise AudienceError(
                f"no file matches {location}",
                remedy="Check the pattern; quote it so that the shell leaves it alone.",
            )
        return found
    raise AudienceError(
        f"no audience at {location}", remedy="Check the path; a glob or an object-storage URL will do too."
    )
