"""Lines -> events: at this time this user polled, was turned away, or queued a write. One pass, bounded memory.

What a line is counted as, in this order; each line is one of them:

    skipped        a header or an empty line
    bad            no line of the format, or without a time where it must have one
    other          another path, method or status: nothing to do with the document
    outside        before the first document that reaches anybody, or long after the last
    nobody         no user stands in it, or the table of users does not know the id
    events         the rest; of those that say the same, of one second or of one file delivered twice, one counts
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from flashcast.errors import InputError
from flashcast.zombie.document import App
from flashcast.zombie.repair.formats import head_of, literal, microseconds_of, shape_of, value_of
from flashcast.zombie.repair.lines import chunks
from flashcast.zombie.repair.rules import LogRules

EXAMPLES_MAX: Final = 5
"""Bad lines that are named."""
BAD_EARLY: Final = 100_000
"""So many bad lines end a run at once where most lines are bad: the format is not this one."""
EVENTS: Final = """
create table events (
    log bigint not null, kind varchar not null, who varchar not null, device varchar not null, at_us bigint not null,
    part smallint, parts smallint, version bigint, incident varchar, until bigint)
"""
"""``log`` is a bit. ``part`` of ``parts`` is a cohort's file. Times are microseconds since 1970."""

Progress = Callable[[int, int | None], None]


@dataclass
class LogCount:
    """What became of one log's lines; see the module's docstring."""

    name: str
    files: int = 0
    lines: int = 0
    skipped: int = 0
    bad: int = 0
    other: int = 0
    outside: int = 0
    nobody: int = 0
    events: int = 0
    bad_at: list[str] = field(default_factory=list)
    """The first bad lines, as file:line."""

    @property
    def bad_share(self) -> float:
        """Bad lines among those that are not skipped."""
        return self.bad / max(1, self.lines - self.skipped)


class Log(NamedTuple):
    """A log to read. ``bit`` stands for it in the events."""

    name: str
    rules: LogRules
    paths: Sequence[Path]
    bit: int


class Window(NamedTuple):
    """What is looked at, in microseconds since 1970."""

    first: int
    last: int


def read_log(
    db: Any, log: Log, app: App, window: Window, *, bad_share_max: float, has_users: bool, tell: Callable[[int], None]
) -> LogCount:
    """Reads a log into the table of events. Raises InputError where too much of it is bad.

    ``has_users``: there is a table ``users`` (id, user) that ids are looked up in.
    """
    count = LogCount(log.name, files=len(log.paths))
    for chunk in chunks(log.paths, head=head_of(log.rules)):
        db.register("chunk", chunk.table)
        db.execute(f"create or replace temp table seen as {_seen(log, chunk.head, app, window, has_users=has_users)}")
        db.unregister("chunk")
        _count(db, log, count)
        db.execute(
            f"insert into events select {log.bit}, {literal(log.rules.evidence)}, who, device, at_us, part, parts,"
            " version, incident, until from seen where fate = 'events'"
        )
        tell(chunk.table.num_rows)
        if count.bad > max(BAD_EARLY, count.lines / 2):
            break
    if count.bad_share > bad_share_max:
        raise InputError(
            f"logs.{log.name}: {count.bad:,} of {count.lines - count.skipped:,} lines are no lines of format "
            f"{log.rules.format}: {', '.join(count.bad_at)}",
            remedy="Look at these lines and at the log's rules; or allow more with --max-bad-lines.",
        )
    return count


def _count(db: Any, log: Log, count: LogCount) -> None:
    for fate, lines in db.execute("select fate, count(*) from seen group by fate").fetchall():
        count.lines += lines
        setattr(count, fate, getattr(count, fate) + lines)
    if count.bad and len(count.bad_at) < EXAMPLES_MAX:
        wanted = EXAMPLES_MAX - len(count.bad_at)
        found = db.execute(f"select file, number from seen where fate = 'bad' order by all limit {wanted}").fetchall()
        count.bad_at += [f"{log.paths[file]}:{number}" for file, number in found]


def _seen(log: Log, head: str | None, app: App, window: Window, *, has_users: bool) -> str:
    """SQL: each line of `chunk` with its fate and what an event needs."""
    rules = log.rules
    shape = shape_of(rules, head, log.name)

    def value(ref: str | None, other: str = "NULL") -> str:
        try:
            return value_of(rules, shape, ref) if ref is not None else other
        except LookupError as error:
            raise InputError(f"logs.{log.name}: {error.args[0]}") from None

    offset = round(rules.offset_s * 1_000_000)
    # A time at the end of what can be counted must not end the run.
    at_of_line = f"try({shape.at} + {offset})"
    at, until = at_of_line, "CAST(NULL AS BIGINT)"
    if rules.evidence == "queue":
        at = microseconds_of(value(rules.queued_at))
        until = microseconds_of(value(rules.replayed_at)) if rules.replayed_at else at_of_line
    file = f"regexp_extract({shape.path}, {literal(_file_pattern(app, rules.under or ''))}, ['file', 'part', 'parts'])"
    relevant = {
        "poll": "d.file <> '' AND status IN (200, 304) AND method = 'GET'",
        "shed": f"status IN ({', '.join(map(str, rules.status))})" + (" AND version IS NOT NULL" * bool(rules.version)),
        "queue": "true",
    }[rules.evidence]
    timeless = "at_us IS NULL" if rules.evidence != "queue" else "at_us IS NULL AND raw_at IS NOT NULL"
    # A request that no write was queued for has no such header: it is another line, not a bad one.
    if rules.evidence == "queue":
        relevant = "at_us IS NOT NULL AND incident IS NOT NULL"
    return f"""
    with texts as (select file, number, rtrim(try(decode(raw)), chr(13)) as text from chunk),
    read as (select file, number, text, {shape.fields} as f from texts),
    told as (
        select file, number, text is null as broken, coalesce({shape.skip}, false) as skip,
            coalesce({shape.valid}, false) as valid, {at} as at_us, {value(rules.queued_at)} as raw_at,
            {shape.status} as status, {shape.method} as method, {file} as d,
            nullif(nullif({value(rules.user)}, ''), '-') as id,
            coalesce({value(rules.device)}, '') as device, try_cast({value(rules.version)} as bigint) as version,
            {value(rules.incident)} as incident, {until} as until
        from read),
    named as (select told.*, {"users.user" if has_users else "id"} as who from told
        {"left join users on users.id = told.id" if has_users else ""})
    select file, number, at_us, who, device, version, incident, until,
        try_cast(d.part as smallint) as part, try_cast(d.parts as smallint) as parts,
        case when not broken and skip then 'skipped'
             when broken or not valid or ({timeless}) then 'bad'
             when not coalesce({relevant}, false) then 'other'
             when at_us < {window.first} or at_us >= {window.last} then 'outside'
             when who is null then 'nobody'
             else 'events' end as fate
    from named"""


def _file_pattern(app: str, under: str) -> str:
    """The document's file, or a cohort's, at the end of a path."""
    import re

    before = re.escape(under.rstrip("/") + "/") if under else "/"
    return rf"{before}({re.escape(app)}(?:\.(\d{{1,3}})-of-(\d{{1,3}}))?\.json)$"
