"""Events and versions -> spans: one row per user and time in one state, a state being incident, level and features.

    events x versions   a poll brought the version of its time; where caches may have had the one before, either may
    in it               by the user's bucket, or by the cohort whose file was asked for
    until               the user's next poll, the end of the document, or when an open app would have polled again
    merged              per user and state, what touches or overlaps

All of it is SQL over microseconds; docs/reference/zombie-repair.md says the same in words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.bounds import CLIENT_WAIT_S_MAX
from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.repair.database import database, load_users
from flashcast.zombie.repair.events import EVENTS, Log, LogCount, Window, read_log
from flashcast.zombie.repair.history import Version
from flashcast.zombie.repair.lines import find_logs
from flashcast.zombie.repair.rules import RepairRules

BAD_SHARE_MAX: Final = 0.001
"""One bad line of a thousand: a log server that was killed cuts one line, a wrong format all of them."""
COLUMNS: Final = (
    "incident", "user", "from", "until", "level", "off", "keep", "polls", "sheds", "queued", "sources",
)  # fmt: skip
ENDINGS: Final = (".parquet", ".csv")
_US: Final = 1_000_000
_KINDS: Final = (("polls", "poll"), ("sheds", "shed"), ("queued", "queue"))


class IncidentCount(NamedTuple):
    """What was found of one incident. Times in Unix seconds."""

    incident: str
    users: int
    spans: int
    first: float
    last: float


class Found(NamedTuple):
    """What a run found. ``unmatched``: events that no version explains (sheds and queued writes alone)."""

    versions: int
    logs: tuple[LogCount, ...]
    events: int
    unmatched: int
    users: int
    spans: int
    incidents: tuple[IncidentCount, ...]
    out: str


def find_spans(
    rules: RepairRules,
    logs: Mapping[str, Sequence[str]],
    versions: Sequence[Version],
    out: Path,
    *,
    bad_share_max: float = BAD_SHARE_MAX,
    tell: Callable[[int], None] = lambda lines: None,
) -> Found:
    """Writes the table of spans to ``out`` (.parquet or .csv), as a whole, readable by its owner alone.

    ``logs`` are paths, folders or globs by the name of the rules' log; ``tell`` is given the lines read so far.
    Raises InputError where rules, logs or history are wrong, EnvironmentFault where the disk fails.
    """
    if out.suffix not in ENDINGS:
        raise InputError(f"--out {out}: ends in neither .parquet nor .csv")
    chosen = _chosen(rules, logs)
    reaching = [version for version in versions if version.reaches]
    _spare(out, [*(path for log in chosen for path in log.paths), *([Path(rules.users.file)] if rules.users else [])])
    if not reaching:
        raise InputError(
            "nothing was ever off in this history: there is nothing to repair",
            remedy="Look whether the history is whole; publishing keeps each version as APP.vVERSION.json.",
        )
    window, done = _window(rules, reaching), 0

    def count(lines: int) -> None:
        nonlocal done
        done += lines
        tell(done)

    with database(out, "looking for spans") as db:
        if rules.users is not None:
            load_users(db, Path(rules.users.file), rules.users.id, rules.users.user, rules.users.zone)
        db.execute(EVENTS)
        counts = tuple(
            read_log(
                db, log, rules.app, window, bad_share_max=bad_share_max, has_users=rules.users is not None, tell=count
            )
            for log in chosen
        )
        _load_versions(db, versions, rules)
        db.execute(_EVENTS_ONCE)
        db.execute(_POLLED)
        db.execute(_MATCHED.format(skew=rules.spans.skew_s * _US))
        db.execute(_SPANS.format(join=rules.spans.join_s * _US))
        found = _counted(db, counts, len(versions), out)
        _write(db, [log.name for log in chosen], out)
    return found


def _spare(out: Path, read: Sequence[Path]) -> None:
    """Raises InputError where the table would take the place of something else."""
    if out.is_dir():
        raise InputError(f"--out {out}: is a directory", remedy="Name a file in it.")
    if out.exists() and any(out.samefile(path) for path in read if path.exists()):
        raise InputError(f"--out {out}: is one of the files to read", remedy="Name another file.")


def _chosen(rules: RepairRules, logs: Mapping[str, Sequence[str]]) -> list[Log]:
    if not logs:
        raise InputError("no log is named", remedy=f"Give --log NAME=PATH; the rules know {', '.join(rules.logs)}.")
    chosen: list[Log] = []
    for name, patterns in logs.items():
        if name not in rules.logs:
            raise InputError(f"--log {name}: the rules know no such log", remedy=f"They know {', '.join(rules.logs)}.")
        paths = dict.fromkeys(path for pattern in patterns for path in find_logs(pattern))
        chosen.append(Log(name, rules.logs[name], list(paths), 1 << len(chosen)))
    return chosen


def _window(rules: RepairRules, reaching: Sequence[Version]) -> Window:
    """From the first document that reaches anybody to when nobody can be under the last any more."""
    slack_s = rules.spans.cache_s + rules.spans.grace_s + rules.spans.skew_s + CLIENT_WAIT_S_MAX
    first = min(version.begins_at for version in reaching) - slack_s
    last = max(version.document.expires_at for version in reaching) + slack_s
    return Window(first * _US, last * _US)


def _load_versions(db: Any, versions: Sequence[Version], rules: RepairRules) -> None:
    """Tables: ``states``, ``versions`` of those that reach anybody, and the ``cohorts`` that are in each."""
    db.execute("create table states (state integer, incident varchar, level varchar, off varchar, keep varchar)")
    db.execute(
        "create table versions (version bigint, state integer, incident varchar, salt varchar, buckets integer,"
        " begins bigint, seen_until bigint, expires bigint, cap bigint, wait bigint)"
    )
    db.execute("create table cohorts (version bigint, part smallint, parts smallint)")
    states: dict[tuple[str, ...], int] = {}
    for version in versions:
        if not version.reaches:
            continue
        said = version.document
        state = (version.incident, said.level.value, " ".join(sorted(said.off)), " ".join(sorted(said.keep)))
        number = states.setdefault(state, len(states))
        seen_until = 2**62 if version.ends_at is None else (version.ends_at + rules.spans.cache_s) * _US
        cap_s = said.poll_s + said.poll_jitter_s + rules.spans.grace_s
        db.execute(
            "insert into versions values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [said.version, number, version.incident, said.salt, said.buckets, version.begins_at * _US, seen_until,
             said.expires_at * _US, cap_s * _US, said.wait_s * _US],
        )  # fmt: skip
        for index, of in version.cohorts():
            db.execute("insert into cohorts values (?, ?, ?)", [said.version, index, of])
    for (incident, level, off, keep), number in states.items():
        db.execute("insert into states values (?, ?, ?, ?, ?)", [number, incident, level, off, keep])


_BUCKET: Final = f"CAST('0x' || substr(sha256(v.salt || chr(0) || e.who), 1, 12) AS BIGINT) % {BUCKETS}"
"""`buckets.bucket` in SQL."""

_EVENTS_ONCE: Final = """
create table once as select row_number() over () as id, * from (
    select kind, who, device, at_us, part, parts, version, incident, max(until) as until, bit_or(log) as logs
    from events group by kind, who, device, at_us, part, parts, version, incident)
"""
"""The same line twice is one event, and so is one request in the logs of two servers that stamp it alike."""

_POLLED: Final = """
create table polled as
select who, device, at_us, lead(at_us) over (partition by who, device order by at_us) as next
from (select distinct who, device, at_us from once where kind = 'poll')
"""

_MATCHED: Final = f"""
create table matched as
with polls as (
    select e.id, e.kind, e.logs, e.who, v.state, e.at_us as since,
        least(e.at_us + v.cap, v.expires, coalesce(p.next, {2**62})) as until
    from once e
    join polled p on p.who = e.who and p.device = e.device and p.at_us = e.at_us
    join versions v on e.at_us >= v.begins and e.at_us < v.seen_until
    left join cohorts c on c.version = v.version and c.part = e.part and c.parts = e.parts
    where e.kind = 'poll' and (
        case when e.parts is not null then c.part is not null
             else v.buckets = {BUCKETS} or {_BUCKET} < v.buckets end)),
others as (
    select e.*, p.at_us as next from once e
    asof left join polled p on p.who = e.who and p.at_us > e.at_us
    where e.kind <> 'poll'),
sheds as (
    select e.id, e.kind, e.logs, e.who, v.state, e.at_us as since,
        least(e.at_us + v.wait, v.expires, coalesce(e.next, {2**62})) as until
    from others e join versions v on (
        case when e.version is not null then v.version = e.version and e.at_us >= v.begins
             else e.at_us >= v.begins and e.at_us < v.seen_until
                and (v.buckets = {BUCKETS} or {_BUCKET} < v.buckets) end)
    where e.kind = 'shed'),
queued as (
    select e.id, e.kind, e.logs, e.who, v.state, greatest(e.at_us, v.begins) as since,
        least(greatest(e.at_us, v.begins) + v.cap, v.expires, coalesce(e.until, {2**62}), coalesce(e.next, {2**62}))
            as until
    from others e join versions v on v.incident = e.incident and e.at_us >= v.begins - {{skew}} and e.at_us < v.expires
        and (v.buckets = {BUCKETS} or {_BUCKET} < v.buckets)
    where e.kind = 'queue'
    qualify row_number() over (
        partition by e.id
        order by v.begins <= e.at_us desc, case when v.begins <= e.at_us then -v.version else v.version end
    ) = 1)
select id, kind, who, state, bit_or(logs) as logs, min(since) as since, max(until) as until
from (from polls union all from sheds union all from queued) where until > since
group by id, kind, who, state
"""

_SPANS: Final = """
create table spans as
with marked as (
    select *, since > max(until) over (
        partition by who, state order by since, until rows between unbounded preceding and 1 preceding
    ) + {join} as begins from matched),
numbered as (
    select *, sum(case when begins then 1 else 0 end) over (
        partition by who, state order by since, until rows unbounded preceding) as number from marked)
select who, state, min(since) as since, max(until) as until, bit_or(logs) as logs,
    count(*) filter (kind = 'poll') as polls, count(*) filter (kind = 'shed') as sheds,
    count(*) filter (kind = 'queue') as queued
from numbered group by who, state, number
"""


def _counted(db: Any, logs: tuple[LogCount, ...], versions: int, out: Path) -> Found:
    rows = db.execute(
        "select incident, count(distinct who), count(*), min(since) / 1e6, max(until) / 1e6 from spans"
        " join states using (state) group by incident order by min(since), incident"
    ).fetchall()
    users, spans = db.execute("select count(distinct who), count(*) from spans").fetchone()
    (events,) = db.execute("select count(*) from once").fetchone()
    (unmatched,) = db.execute(
        "select count(*) from once where kind <> 'poll' and not exists (from matched m where m.id = once.id)"
    ).fetchone()
    return Found(versions, logs, events, unmatched, users, spans, tuple(IncidentCount(*row) for row in rows), str(out))


def _write(db: Any, names: Sequence[str], out: Path) -> None:
    sources = ", ".join(f"case when logs & {1 << n} <> 0 then '{name}' end" for n, name in enumerate(names))

    def moment(column: str) -> str:
        if out.suffix == ".csv":
            return f"strftime(make_timestamp({column}), '%Y-%m-%dT%H:%M:%S.%fZ')"
        return f"timezone('UTC', make_timestamp({column}))"

    temporary = out.with_name(f".{out.name}.part")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    form = "format parquet" if out.suffix == ".parquet" else "format csv, header"
    try:
        db.execute(
            f"""copy (select incident, who as user, {moment("since")} as "from", {moment("until")} as until, level, off,
                keep, polls, sheds, queued, concat_ws(' ', {sources}) as sources from spans join states using (state)
                order by incident, user, since, level, off, keep)
            to '{str(temporary).replace("'", "''")}' ({form}, use_tmp_file false)"""
        )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {out}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
