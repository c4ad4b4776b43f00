"""Logs whose truth is known: apps that poll as the reference client does, and what each log would show of it."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

from zombie_data import NOW, normal, zombie

from flashcast.zombie.buckets import bucket, cohort_of
from flashcast.zombie.client.core import Standing
from flashcast.zombie.document import Cohort, Document, Terms

RULES = {
    "app": "shop",
    "spans": {"cache_s": 0, "grace_s": 30},
    "logs": {
        "s3": {"format": "s3", "user": "query:who"},
        "cdn": {"format": "cloudfront", "user": "query:who"},
        "web": {"format": "nginx", "user": "query:who"},
    },
}
GRACE_S = 30
COHORTS = 8
Span = tuple[str, str, int, int, str, str, str]
"""Incident, user, from, until (Unix seconds), level, off, keep."""


def documents() -> list[tuple[Terms, int, int]]:
    """What is published when, and for how long: two incidents, the second of which nobody ends."""
    feed = {"level": "shielded", "buckets": 300, "off": ["feed"], "keep": [], "salt": "s2", "incident": "inc-2"}
    said = [
        (normal(incident=""), -600, 3_600),
        (zombie(), 0, 1_800),
        (zombie(), 900, 1_800),
        (zombie(level="recovering", buckets=500), 1_500, 1_800),
        (zombie(level="recovering", buckets=250), 1_800, 1_800),
        (normal(incident=""), 2_100, 3_600),
        (zombie(**feed), 3_000, 700),
        (normal(incident="", salt="s2"), 4_400, 3_600),
    ]
    return [(terms.changed(cohorts=(COHORTS,)), NOW + at, lasts_s) for terms, at, lasts_s in said]


def published(cohort: Cohort | None = None) -> list[Document]:
    """The documents, or those of one cohort."""
    return [terms.document(version=at, now=at, lasts_s=lasts_s, cohort=cohort) for terms, at, lasts_s in documents()]


@dataclass
class World:
    """What logs show, and what is true."""

    lines: dict[str, list[str]] = field(default_factory=lambda: {"s3": [], "cdn": [], "web": []})
    truth: dict[Span, int] = field(default_factory=dict)
    """Spans, with the polls that each rests on."""
    users: set[str] = field(default_factory=set)

    def write(self, folder: Path, chance: random.Random) -> dict[str, list[str]]:
        """The logs as files: out of order, in several parts, some packed. Returns them by name."""
        for name, lines in self.lines.items():
            chance.shuffle(lines)
            (folder / name).mkdir()
            for part in range(4):
                text = "".join(lines[part::4])
                if name == "cdn":
                    with gzip.open(folder / name / f"E1.{part}.gz", "wt", compresslevel=1) as file:
                        file.write(f"#Version: 1.0\n#Fields: {CLOUDFRONT}\n{text}")
                else:
                    (folder / name / f"access-{part}.log").write_text(text)
        return {name: [str(folder / name)] for name in self.lines}


def made(lines: int, seed: int = 1, *, bad: int = 0) -> World:
    """A world of about ``lines`` lines of log."""
    chance, world, number = random.Random(seed), World(), 0
    whole, cohorts = published(), {i: published(Cohort(index=i, of=COHORTS)) for i in range(COHORTS)}
    while sum(map(len, world.lines.values())) < lines - bad:
        user, number = _name(number, chance), number + 1
        world.users.add(user)
        index = cohort_of("shop", user, COHORTS) if chance.random() < 0.1 else None
        _live(world, user, index, whole if index is None else cohorts[index], chance)
        if number % 50 == 0:
            _noise(world, chance)
    for at in range(bad):
        name = chance.choice(list(world.lines))
        garbage = ["garbage", "\x00\x01", '{"no": "log"}', world.lines[name][at][: chance.randint(5, 30)]]
        world.lines[name].append(chance.choice(garbage) + "\n")
    return world


def _name(number: int, chance: random.Random) -> str:
    strange = ["{} é", "a&b={}", "50% {}", 'q"{}', "+{}", "{}\\x41", "用户{}", "{}@x.example"]
    return (chance.choice(strange) if chance.random() < 0.1 else "user-{}").format(number)


def _live(world: World, user: str, index: int | None, said: list[Document], chance: random.Random) -> None:
    """An app that is opened and closed, and polls while it is open, by the reference client's decision."""
    buckets = {document.salt: bucket(document.salt, user) for document in said}
    at = NOW + chance.randint(-500, 3_000)
    polls: list[tuple[int, Document]] = []
    while at < NOW + 5_000:
        closes = at + chance.randint(60, 2_000)
        while at < min(closes, NOW + 5_000):
            given = [document for document in said if document.issued_at <= at][-1]
            fails = chance.random() < 0.02
            _log(world, at, user, index, "503" if fails else chance.choice(["200", "304"]), chance)
            if not fails:
                polls.append((at, given))
            known = polls[-1][1] if polls and at < polls[-1][1].expires_at else None
            wait_s, jitter_s = (known.poll_s, known.poll_jitter_s) if known else (60, 30)
            at += wait_s + chance.randint(0, jitter_s)
        at = max(at, closes + chance.randint(1, 1_500))
    held: list[tuple[Span, int]] = []
    for (since, document), after in zip(polls, [*(at for at, _ in polls[1:]), 2**62], strict=True):
        until = min(after, since + document.poll_s + document.poll_jitter_s + GRACE_S, document.expires_at)
        if since >= document.expires_at or not Standing(document, buckets[document.salt]).is_inside:
            continue
        off, keep = " ".join(document.off), " ".join(document.keep)
        span = (document.incident, user, since, until, document.level.value, off, keep)
        last, count = held[-1] if held else (None, 0)
        if last is not None and (last[0], *last[4:]) == (span[0], *span[4:]) and last[3] >= since:
            held[-1] = ((*last[:3], until, *last[4:]), count + 1)
        else:
            held.append((span, 1))
    world.truth.update(held)


CLOUDFRONT = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie)"
)
_BERLIN = timezone(timedelta(hours=1))
AGENTS = ["App/1.0 (iOS)", 'Mo"zil"la', "-", "x" * 300]


def s3_line(at: int, who: str, *, file: str = "shop.json", status: str = "200", agent: str = "-") -> str:
    when = f"{datetime.fromtimestamp(at, UTC):%d/%b/%Y:%H:%M:%S} +0000"
    return (
        f"79a5 bucket [{when}] 192.0.2.3 - {random.getrandbits(64):016X} REST.GET.OBJECT zombie/{file} "
        f'"GET /bucket/zombie/{file}?who={who} HTTP/1.1" {status} - 900 900 7 6 "-" "{agent}" - hostid= SigV4 -\n'
    )


def cloudfront_line(at: int, who: str, *, file: str = "shop.json", status: str = "200", agent: str = "-") -> str:
    when = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d\t%H:%M:%S}"
    return (
        f"{when}\tFRA2\t900\t2001:db8::7\tGET\tcdn.example\t/zombie/{file}\t{status}\t-\t{quote(agent)}\t"
        f"who={who.replace('%', '%25')}\t-\n"
    )


def nginx_line(
    at: int, who: str, *, file: str = "shop.json", status: str = "200", agent: str = "-", zone: timezone = _BERLIN
) -> str:
    when = f"{datetime.fromtimestamp(at, zone):%d/%b/%Y:%H:%M:%S %z}"
    escaped = agent.replace('"', "\\x22")
    return f'::1 - - [{when}] "GET /zombie/{file}?v=1&who={who} HTTP/2.0" {status} 900 "-" "{escaped}"\n'


def _log(world: World, at: int, user: str, index: int | None, status: str, chance: random.Random) -> None:
    file = "shop.json" if index is None else f"shop.{index}-of-{COHORTS}.json"
    name = chance.choice(["s3", "cdn", "web"])
    line = {"s3": s3_line, "cdn": cloudfront_line, "web": nginx_line}[name]
    agent = chance.choice(AGENTS)
    made = line(at, quote(user, safe=""), file=file, status=status, agent=agent)
    # Delivered at least once.
    world.lines[name] += [made] * (1 + (chance.random() < 0.03))


def _noise(world: World, chance: random.Random) -> None:
    at = NOW + chance.randint(0, 4_000)
    world.lines["s3"] += [s3_line(at, "", file="shop.json"), s3_line(at, "u", file="other.json")]
    world.lines["cdn"] += [cloudfront_line(at, "u", status="404"), cloudfront_line(at, "-")]
    world.lines["web"] += [nginx_line(at, "u", file="myshop.json"), nginx_line(at - 10**7, "u"), "\n"]


def jsonl(path: Path, rows: Iterable[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
