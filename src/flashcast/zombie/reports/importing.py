"""A file of complaints into the store: all of it or, where too much is malformed, nothing.

The file is read, checked and sorted onto the temporary disk first. Only then are complaints added, in short
transactions, so that an endpoint goes on beside it. One that is killed before has added nothing; one that is killed
meanwhile has added a part, and the same import again adds the rest: a complaint that is there is not taken again. That
a source was heard is noted last, when all is in: comparisons never see half a file as a quiet day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from flashcast.errors import InputError
from flashcast.zombie.reports import bounds
from flashcast.zombie.reports.complaint import DAY_S, Intake, Record
from flashcast.zombie.reports.config import Profile, zone_of
from flashcast.zombie.reports.files import Row, Table, opened, value_at
from flashcast.zombie.reports.store import Staged, Store

TOLD_EVERY_S: Final = 0.5


@dataclass
class Imported:
    """What became of a file's rows: they are added, known, praise, old or malformed."""

    rows: int = 0
    added: int = 0
    known: int = 0
    praise: int = 0
    """Ratings above the profile's."""
    old: int = 0
    """Older than what is kept."""
    malformed: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    """The first malformed lines, each with what is wrong."""
    since: float | None = None
    until: float | None = None
    """From the first complaint until the last."""

    def malforms(self, line: int, what: str) -> None:
        """Counts a malformed row, and names it where there is room."""
        self.malformed += 1
        if len(self.faults) < bounds.MALFORMED_TOLD_MAX:
            self.faults.append((line, what))


def import_file(
    path: Path,
    store: Store,
    intake: Intake,
    profile: Profile,
    *,
    source: str,
    now: float,
    malformed_max: int,
    covers: tuple[float, float] | None = None,
    form: str | None = None,
    encoding: str | None = None,
    zone: str | None = None,
    named: Sequence[str] = (),
    dry_run: bool = False,
    tell: Callable[[Imported], None] = lambda _: None,
) -> Imported:
    """Adds a file's complaints. ``covers`` is when the source was heard; by default from the first row to the last.

    ``named`` are columns that must be there: somebody has named them for this file.

    Raises InputError where more than ``malformed_max`` rows are malformed, and for a file that cannot be read; then
    nothing was added.
    """
    if source not in intake.config.sources:
        raise InputError(f"--source {source}: there is: {', '.join(intake.config.sources)}")
    done = Imported()
    times = zone or profile.zone
    with opened(path, form, encoding) as table, store.staged() as staged:
        _check_columns(table, profile, named, path)
        reading = _Reading(intake, profile, source, zone_of(times) if times else None, now, done)
        _gather(table, reading, staged, tell)
        done.faults.sort()
        if done.malformed > malformed_max:
            raise InputError(
                f"{path}: {done.malformed:,} of {done.rows:,} rows are malformed, more than {malformed_max:,}; nothing "
                "was imported\n" + "\n".join(f"  line {line}: {what}" for line, what in done.faults),
                remedy="Mend the file or the profile, or allow more with --malformed.",
            )
        if dry_run:
            return done
        gathered = done.rows - done.praise - done.old - done.malformed
        done.added = staged.add()
        done.known = gathered - done.added
    since, until = covers or (done.since, done.until)
    if since is not None and until is not None:
        since = max(since, now - intake.config.keep_days * DAY_S)
        if until > since:
            store.heard(source, since, min(until, now))
    store.purge(now, intake.config.keep_days)
    return done


@dataclass(frozen=True)
class _Reading:
    """What each batch of rows needs."""

    intake: Intake
    profile: Profile
    source: str
    zone: tzinfo | None
    now: float
    done: Imported

    def records(self, rows: list[Row]) -> list[Record]:
        """What is kept of these rows."""
        done, said, lines = self.done, [], []
        for row in rows:
            done.rows += 1
            if row.fault:
                done.malforms(row.line, row.fault)
                continue
            try:
                complaint = complaint_of(row.values, self.profile)
            except ValueError as error:
                done.malforms(row.line, str(error))
                continue
            if complaint is None:
                done.praise += 1
                continue
            said.append(complaint)
            lines.append(row.line)
        taken = self.intake.take(said, self.now, source=self.source, zone=self.zone, unit=self.profile.time_unit)
        for i, faults in taken.refused:
            done.malforms(lines[i], "; ".join(map(str, faults)))
        done.old += taken.old
        for record in taken.records:
            done.since = record.at if done.since is None else min(done.since, record.at)
            done.until = record.at if done.until is None else max(done.until, record.at)
        return taken.records


def complaint_of(values: Mapping[str, Any], profile: Profile) -> dict[str, Any] | None:
    """A row by our names; None for praise. Without an id the row itself identifies it. Raises ValueError."""
    found: dict[str, Any] = {}
    for name, columns in profile.columns.items():
        cells = [value_at(values, one) for one in ((columns,) if isinstance(columns, str) else columns)]
        texts = [_text(name, cell) for cell in cells if cell is not None]
        if joined := "\n".join(text for text in texts if text):
            found[name] = joined
    rating = found.pop("rating", None)
    if profile.rating_max is not None and rating is not None:
        try:
            stars = float(rating)
        except ValueError:
            raise ValueError("rating: is no number") from None
        if stars > profile.rating_max:
            return None
    if "time" not in found:
        raise ValueError("time: is missing")
    if profile.platform is not None:
        found.setdefault("platform", profile.platform)
    if "id" not in found:
        whole = "\0".join(f"{name}\0{found[name]}" for name in sorted(found))
        found["id"] = f"row {sha256(whole.encode(errors='replace')).hexdigest()}"
    return found


def _text(name: str, cell: object) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        raise ValueError(f"{name}: is neither text nor number")
    return repr(cell)


def _check_columns(table: Table, profile: Profile, must: Sequence[str], path: Path) -> None:
    """The time must be there, and what was named for this file; of other columns those that are."""
    if table.columns is None:
        return
    wanted = profile.columns.get("time")
    if wanted is None:
        raise InputError("the profile does not say which column is the time", remedy="Add --map COLUMN=time.")
    named = (wanted,) if isinstance(wanted, str) else wanted
    missing = [name for name in (*named, *must) if name not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]!r}; it has: {', '.join(table.columns[:30])}",
            remedy="Choose another --profile, or mend --map COLUMN=field.",
        )


def _gather(table: Table, reading: _Reading, staged: Staged, tell: Callable[[Imported], None]) -> None:
    told_at = time.monotonic()
    for rows in _batches(table.rows):
        staged.gather(reading.records(rows))
        if reading.done.rows > bounds.ROWS_MAX:
            raise InputError(f"the file has more than {bounds.ROWS_MAX:,} rows", remedy="Import it in parts.")
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            tell(reading.done)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, bounds.BATCH_ROWS)):
        yield batch
