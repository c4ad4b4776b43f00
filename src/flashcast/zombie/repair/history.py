"""The documents that were published, as versions on a line of time. What is not genuine is an error, never passed over:
a history with a hole grants the wrong users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from flashcast.errors import InputError
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX
from flashcast.zombie.buckets import cohorts_in
from flashcast.zombie.document import Document, Level, RefusedError, file_name
from flashcast.zombie.envelope import Opened, open_sealed
from flashcast.zombie.history import kept_version
from flashcast.zombie.keys import Trusted
from flashcast.zombie.targets import DirectoryTarget, open_target

VERSIONS_MAX: Final = 1_000_000
"""Thirty years of one every quarter of an hour."""
_SALTED: Final = "salt-"


class Version(NamedTuple):
    """One version: when apps that polled could be given it, and what it said.

    ``begins_at``  Unix seconds from which a poll could bring it: when it was signed, or when it begins if that is later
    ``ends_at``    when the next one began; None for the last
    """

    document: Document
    begins_at: int
    ends_at: int | None

    @property
    def incident(self) -> str:
        """What spans are grouped by: the document's incident, and where it has none, its salt."""
        return self.document.incident or f"{_SALTED}{self.document.salt}"

    @property
    def reaches(self) -> bool:
        """Whether anything is off for anybody."""
        document = self.document
        return document.level is not Level.NORMAL and document.buckets > 0 and bool(document.off)

    def cohorts(self) -> Iterator[tuple[int, int]]:
        """The cohorts that are in it, as (index, of), in the files that were published beside it."""
        if self.reaches:
            for of in self.document.cohorts:
                yield from ((index, of) for index in cohorts_in(self.document.salt, of, self.document.buckets))


def read_history(places: Sequence[str], app: str, trusted: Trusted) -> list[Version]:
    """The versions of ``app`` found at ``places``, oldest first.

    A place is a directory or bucket that documents are published to, a file as it was published, or a file with one
    such file per line. Raises InputError for what is not genuine, contradicts itself, or is not there.
    """
    if not places:
        raise InputError("no history is named", remedy="Say where documents are published, or name files kept of them.")
    found: dict[int, Opened] = {}
    for place in places:
        for name, data in _files(place, app):
            opened = _opened(name, data, trusted)
            if opened.document.app != app or opened.document.cohort is not None:
                continue
            known = found.setdefault(opened.document.version, opened)
            if known.payload != opened.payload:
                raise InputError(f"{name}: there are two documents of version {opened.document.version}")
    if not found:
        raise InputError(
            f"no document of {app} in {', '.join(places)}", remedy="Look at the place and at `app` in the rules."
        )
    return timeline(one.document for one in found.values())


def timeline(documents: Iterable[Document]) -> list[Version]:
    """Versions in their order. Each ends where a later one begins, whatever its own end."""
    ordered = sorted(documents, key=lambda document: document.version)
    begins = [max(document.issued_at, document.not_before) for document in ordered]
    # One that begins late may be overtaken by the next: a reader keeps the higher version.
    for at in range(len(begins) - 2, -1, -1):
        begins[at] = min(begins[at], begins[at + 1])
    return [
        Version(document, begin, end)
        for document, begin, end in zip(ordered, begins, [*begins[1:], None], strict=True)
        if end is None or begin < end
    ]


def _files(place: str, app: str) -> Iterator[tuple[str, bytes]]:
    path = Path(place).expanduser()
    if "://" not in place and not path.is_dir():
        yield from _lines_of(path)
        return
    at = open_target(path if "://" not in place else place)
    names = [n for n in at.names() if n == file_name(app) or kept_version(n, app) is not None]  # type: ignore[attr-defined]
    if len(names) > VERSIONS_MAX:
        raise InputError(f"{at.url} has more than {VERSIONS_MAX:,} versions")
    with ThreadPoolExecutor(1 if isinstance(at, DirectoryTarget) else at.parallel) as pool:
        for name, stored in zip(names, pool.map(at.read, names), strict=True):
            if stored is not None:
                yield f"{at.url}/{name}", stored.data


def _lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(ENVELOPE_BYTES_MAX + 1), b""), 1):
                if line.strip():
                    yield f"{path}:{number}", line
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _opened(name: str, data: bytes, trusted: Trusted) -> Opened:
    try:
        return open_sealed(data, trusted)
    except RefusedError as error:
        raise InputError(
            f"{name} is no genuine document: {error.message}",
            remedy="Name the key that signed it with --trust, or leave the file out and know what is missing.",
        ) from None
