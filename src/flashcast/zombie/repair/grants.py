"""Spans -> grants: one row per user, incident and grant. The same spans and rules give the same rows and keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from flashcast.errors import InputError
from flashcast.zombie.repair.database import columns_of, database, load_users, scan_of
from flashcast.zombie.repair.formats import literal
from flashcast.zombie.repair.rules import GrantRules, RepairRules, is_zone
from flashcast.zombie.repair.spans import COLUMNS

KEY_CHARS: Final = 32
"""128 bits of SHA-256: among 10 million grants two are alike with a chance of 1 in 10**24."""
PAGE: Final = 2_000
SAMPLE: Final = 3
_US: Final = 1_000_000


class Grant(NamedTuple):
    """One thing that one user gets for one incident. ``key`` names it for good; times in Unix seconds.

    ``dates`` are the local days on which it counted, in the user's zone.
    """

    key: str
    grant: str
    incident: str
    user: str
    since: float
    until: float
    minutes: float
    dates: tuple[str, ...]
    levels: tuple[str, ...]
    payload: dict[str, str | int | float | bool]

    def __repr__(self) -> str:
        return f"<Grant {self.grant} {self.key}>"  # no user ids in logs

    @property
    def told(self) -> dict[str, Any]:
        """What a receiver is told."""
        return {
            "key": self.key, "grant": self.grant, "incident": self.incident, "user": self.user,
            "from": _moment(self.since), "until": _moment(self.until), "minutes": self.minutes,
            "dates": list(self.dates), "levels": list(self.levels), "payload": self.payload,
        }  # fmt: skip


class GrantCount(NamedTuple):
    """One grant of one incident. ``minutes`` are all users' together; ``sample`` are keys, which tell no user."""

    grant: str
    incident: str
    users: int
    spans: int
    minutes: float
    first: float
    last: float
    sample: tuple[str, ...]


class Grants:
    """The grants of a table of spans, in one order. Open: `grants_of`."""

    def __init__(self, db: Any, rules: RepairRules) -> None:
        self._db, self._rules = db, rules
        (self.total,) = db.execute("select count(*) from grants").fetchone()

    def __len__(self) -> int:
        return int(self.total)

    def counts(self) -> list[GrantCount]:
        """By grant and incident, in the order of the first."""
        rows = self._db.execute(
            'select "grant", incident, count(*), sum(spans), sum(us) / 6e7, min(since) / 1e6, max(until) / 1e6,'
            f" (list(key order by key))[1:{SAMPLE}] from grants"
            ' group by "grant", incident order by min(since), "grant", incident'
        ).fetchall()
        return [
            GrantCount(name, incident, users, spans, minutes, first, last, tuple(sample))
            for name, incident, users, spans, minutes, first, last, sample in rows
        ]

    def pages(self) -> Iterator[list[Grant]]:
        """All of them in the order of their keys, some thousand at a time."""
        after = ""
        while True:
            rows = self._db.execute(
                'select key, "grant", incident, who, since, until, us, dates, levels from grants'
                f" where key > ? order by key limit {PAGE}", [after],
            ).fetchall()  # fmt: skip
            if not rows:
                return
            yield [self._grant(row) for row in rows]
            after = rows[-1][0]

    def _grant(self, row: tuple[Any, ...]) -> Grant:
        key, name, incident, who, since, until, us, dates, levels = row
        payload = self._rules.grants[name].payload
        minutes = round(us / 60 / _US, 3)
        return Grant(
            key, name, incident, who, since / _US, until / _US, minutes, tuple(dates), tuple(levels), dict(payload)
        )


@contextmanager
def grants_of(rules: RepairRules, spans: Path) -> Iterator[Grants]:
    """The grants that ``rules`` make of a table of spans. Raises InputError where either is wrong."""
    if not rules.grants:
        raise InputError("the rules have no [grants.NAME]: nobody would be granted anything")
    scan = scan_of(spans, "spans")
    with database(spans, "working out grants") as db:
        missing = [name for name in COLUMNS if name not in columns_of(db, scan, spans)]
        if missing:
            raise InputError(f"{spans} has no column {missing[0]!r}: it is no table of spans")
        _load(db, scan, rules)
        (bad,) = db.execute("select count(*) from spans where since is null or until is null or who is null").fetchone()
        if bad:
            raise InputError(f"{spans}: {bad:,} rows have no user or no time that can be read")
        for number, (name, rule) in enumerate(rules.grants.items()):
            db.execute(("create table grants as " if not number else "insert into grants ") + _sql(rules, name, rule))
        yield Grants(db, rules)


def _load(db: Any, scan: str, rules: RepairRules) -> None:
    db.execute(
        'create table spans as select incident, "user" as who, epoch_us(try_cast("from" as timestamptz)) as since,'
        " epoch_us(try_cast(until as timestamptz)) as until, level, string_split(coalesce(off, ''), ' ') as off,"
        f" string_split(coalesce(keep, ''), ' ') as keep from {scan}"
    )
    if rules.users is None or rules.users.zone is None:
        db.execute("create table zones (who varchar, zone varchar)")
        return
    load_users(db, Path(rules.users.file), rules.users.id, rules.users.user, rules.users.zone)
    for (zone,) in db.execute("select distinct zone from users where zone is not null").fetchall():
        if not is_zone(zone):
            raise InputError(
                f"users.zone: {zone[:64]!r} in {rules.users.file} is no time zone", remedy="Write it as Europe/Berlin."
            )
    db.execute('create table zones as select "user" as who, max(zone) as zone from users group by "user"')


def _sql(rules: RepairRules, name: str, rule: GrantRules) -> str:
    """One grant's rows. Spans are cut at the local days and hours that count, then joined where they overlap."""
    wanted = ["true"]
    if rule.levels:
        wanted.append(f"level in ({_list(rule.levels)})")
    if rule.incidents:
        wanted.append(f"incident in ({_list(rule.incidents)})")
    if rule.off:
        named = (f"list_contains(off, {literal(one)})" for one in rule.off)
        swept = (f"(list_contains(off, '*') and not list_contains(keep, {literal(one)}))" for one in rule.off)
        wanted.append(f"({' or '.join((*named, *swept))})")
    days = f"and strftime(day, '%Y-%m-%d') in ({_list(rule.dates)})" if rule.dates else ""
    begins, ends = (_hours(text) for text in rule.between)
    over = "+ interval 1 day" if rule.crosses_midnight else ""
    key = f"sha256({literal(f'flashcast.repair:{rules.app}:{name}:')} || incident || chr(0) || who)"
    return f"""
    with chosen as (
        select spans.*, coalesce(zones.zone, {literal(rule.zone)}) as zone,
            row_number() over () as span from spans left join zones using (who) where {" and ".join(wanted)}),
    daily as (
        select *, unnest(generate_series(
            date_trunc('day', timezone(zone, make_timestamptz(since))) - interval 1 day,
            date_trunc('day', timezone(zone, make_timestamptz(until - 1))), interval 1 day)) as day from chosen),
    cut as (
        select incident, who, level, span, day, greatest(since, epoch_us(timezone(zone, day + {begins}))) as since,
            least(until, epoch_us(timezone(zone, day + {ends} {over}))) as until from daily where true {days}),
    marked as (
        select *, max(until) over (
            partition by incident, who order by since, until rows between unbounded preceding and 1 preceding
        ) as before from cut where until > since)
    select substr({key}, 1, {KEY_CHARS}) as key, {literal(name)} as "grant", incident, who,
        min(since) as since, max(until) as until, count(distinct span) as spans,
        CAST(sum(greatest(until - greatest(since, coalesce(before, since)), 0)) AS BIGINT) as us,
        list_sort(list(distinct strftime(day, '%Y-%m-%d'))) as dates, list_sort(list(distinct level)) as levels
    from marked group by incident, who having us >= {round(rule.minutes * 60 * _US)}"""


def _hours(text: str) -> str:
    hours, minutes = text.split(":")
    return f"interval {int(hours) * 60 + int(minutes)} minute"


def _list(texts: tuple[str, ...]) -> str:
    return ", ".join(literal(text) for text in texts)


def _moment(at: float) -> str:
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
    return f"{text.removesuffix('.000000')}Z"


def line_of(grant: Grant) -> str:
    """A grant as a line of JSON, with its end."""
    return json.dumps(grant.told, ensure_ascii=False, separators=(",", ":")) + "\n"
