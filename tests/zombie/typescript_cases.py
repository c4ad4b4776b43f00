"""Cases for two clients to judge: documents true and false in many ways, and sequences of polls and of the queue."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from zombie_data import KEY, NOW, OTHER

from flashcast.zombie.client.core import Core
from flashcast.zombie.client.http import HttpResponse
from flashcast.zombie.client.writes import Fate, Queue, Write
from flashcast.zombie.envelope import SIGNED_PREFIX, envelope
from flashcast.zombie.keys import trusted

FEATURES: Final = ["feed", "payments", "search", "progress"]
LOCALES: Final = ["de-AT", "pt_br", "fr", ""]
USERS: Final = ["", "Jörg", "\U0001f9df", "a\x00b", "e\u0301"]
Random = random.Random

_ODD: Final[list[Any]] = [
    None, True, False, 0, -1, 1, 7, 999, 1_000, 1_001, 2**53 - 1, 2**53, 2**70, 1.0, 1.5, -0.0, 1e300, "", "x", "shop",
    "*", "zombie", "normal", "queue", "send", "ü" * 900, "x" * 2_001, "\ud83e\udddf", "\x00", "__proto__", [], [5],
    ["*"], ["feed"], ["Feed"], [None], ["feed"] * 101, [2, 3], [2, 2], [1], {}, {"*": "y"}, {"__proto__": "y"},
    {"de": 5}, {"de_AT": "y"}, {"index": 1, "of": 8}, {"index": 8, "of": 8}, {"by": "anna", "until": 5},
    {"by": "anna"}, [[[[]]]], {"a": {"b": [{}]}},
]  # fmt: skip
_SNIPPETS: Final = [
    b'"buckets":7.0', b'"buckets":1e2', b'"buckets":-0', b'"buckets":07', b'"buckets":7', b'"version":9', b'"x":NaN',
    b'"x":-Infinity', b'"x":1e999', b'"x":"\\ud800"', b'"x":"\\udc00\\ud800"', b'"x":"\\ud83e\\udddf"', b'"x":"\xff"',
    b'"x":"\xed\xa0\x80"', b'"x":"\xc0\x80"', b'"x":"\x01"', b'"x":"\x7f"', b'"x":"\\x41"', b'"x":"\\u00e"', b'"x":1.',
    b'"x":.5', b'"x":+1', b'"x":[1,]', b'"x":{"a":1,"a":1}', b'"x":{"a":1,"\\u0061":2}', b'"__proto__":{"buckets":1}',
    b'"constructor":1', b'"x":' + b"[" * 98 + b"]" * 98, b'"x":' + b"[" * 99 + b"]" * 99,
    b'"x":' + b"[" * 100 + b"]" * 100,
    b'"x":' + b"[" * 300 + b"]" * 300, b'"x":' + b'{"a":' * 99 + b"1" + b"}" * 99,
    b'"x":' + b'{"a":' * 98 + b"1" + b"}" * 98,
    b'"x":' + b"9" * 4_300, b'"x":' + b"9" * 4_301, b'"x":-' + b"9" * 4_300, b'"x":' + b"9" * 4_301 + b".5",
    b'"x":1.' + b"9" * 5_000, b'"format":1', b'"format":1.0', b'"format":2', b'"format":' + b"9" * 50, b'"x":tru',
    b'"x":truex',
    b'"message":{"de":"a","de":"b"}', b'"":{}', b"5:6", b"'x':1", b'"x" 1', b"", b'"manual":null', b'"cohort":null',
    b'"off":null', b'"x":"\\/\\b\\f"', b'"x":"\xef\xbb\xbf"', b'"x":"\xe2\x80\xa8"',
]  # fmt: skip
_ALPHABET: Final = b'{}[]",:\\u0123456789.eE+-truefalsn \n\t\x00\xff\xc3\xa9'


def _said(chance: Random) -> dict[str, Any]:
    begins = NOW - chance.randrange(0, 4_000)
    return {
        "format": 1, "app": "shop", "version": chance.choice([5, 6, 7, 8]), "issued_at": begins, "not_before": begins,
        "expires_at": begins + chance.choice([3_600, 10, 604_800, 5_000]), "buckets": chance.randrange(0, 1_001),
        "level": chance.choice(["zombie", "zombie", "shielded", "recovering", "normal"]),
        "salt": f"s{chance.randrange(5)}",
        "off": chance.choice([["*"], ["feed"], ["feed", "progress"], ["*", "payments"], []]),
        "keep": chance.choice([[], ["payments"], ["search", "feed"]]), "writes": chance.choice(["queue", "send"]),
        "wait_s": chance.randrange(1, 100), "poll_s": chance.randrange(5, 100), "drain_s": chance.randrange(0, 1_000),
        "message": chance.choice([{}, {"*": "all", "de": "alle", "pt-BR": "todos", "FR": "tous"}, {"de": "alle"}]),
        "incident": chance.choice(["", "inc-1"]),
    }  # fmt: skip


def _signed(payload: bytes, key: Any = KEY) -> bytes:
    return envelope(payload, [(key.id, key.sign(SIGNED_PREFIX + payload))])


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _odd(chance: Random) -> bytes:
    said = _said(chance)
    for _ in range(chance.randrange(1, 4)):
        field = chance.choice([*said, "cohort", "cohorts", "manual", "poll_jitter_s", "unknown"])
        if chance.random() < 0.2:
            said.pop(field, None)
        else:
            said[field] = chance.choice(_ODD)
    return _dumped(said)


def _spliced(payload: bytes, chance: Random) -> bytes:
    snippet = chance.choice(_SNIPPETS)
    return payload[:-1] + b"," + snippet + b"}" if chance.random() < 0.7 else b"{" + snippet + b"," + payload[1:]


def _scribbled(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(changed))
        match chance.randrange(3):
            case 0:
                changed[at] = chance.choice(_ALPHABET)
            case 1:
                changed.insert(at, chance.choice(_ALPHABET))
            case _:
                del changed[at]
    return bytes(changed)


def _outer(chance: Random) -> bytes:
    outer: dict[str, Any] = json.loads(_signed(_dumped(_said(chance))))
    target = chance.choice(["payload", "signatures", "key", "sig", "more"])
    if target in ("payload", "signatures"):
        outer[target] = chance.choice(_ODD)
    elif target in ("key", "sig"):
        outer["signatures"][0][target] = chance.choice([*_ODD, outer["signatures"][0][target].upper()])
    else:
        outer["signatures"] = [chance.choice(_ODD) for _ in range(chance.randrange(0, 9))] + outer["signatures"]
    return _dumped(outer)


def _forged(chance: Random) -> bytes:
    return _signed(_dumped(_said(chance)), OTHER).replace(OTHER.id.encode(), KEY.id.encode())


KINDS: Final[dict[str, Callable[[Random], bytes]]] = {
    "true": lambda chance: _signed(_dumped(_said(chance))),
    "another's": lambda chance: _signed(_dumped(_said(chance)), OTHER),
    "forged": _forged,
    "cut off": lambda chance: (file := _signed(_dumped(_said(chance))))[: chance.randrange(len(file))],
    "scribbled upon": lambda chance: _scribbled(_signed(_dumped(_said(chance))), chance),
    "spliced outside": lambda chance: _spliced(_signed(_dumped(_said(chance))), chance),
    "odd outside": _outer,
    "odd inside": lambda chance: _signed(_odd(chance)),
    "spliced inside": lambda chance: _signed(_spliced(_dumped(_said(chance)), chance)),
    "scribbled upon, then signed": lambda chance: _signed(_scribbled(_dumped(_said(chance)), chance)),
    "noise": lambda chance: chance.randbytes(chance.randrange(300)),
    "too long": lambda chance: _signed(_dumped(_said(chance))) + b" " * chance.choice([20_000, 24_000, 25_000]),
    "a long payload": lambda chance: _signed(_dumped(_said(chance) | {"pad": "x" * chance.randrange(15_500, 16_300)})),
}


def documents(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Cases in the form that clients/typescript/test/judge.mjs reads, besides ``kind``."""
    chance = Random(seed)
    names = list(KINDS)
    for number in range(count):
        kind = names[number % len(names)]
        last = _signed(_dumped(_said(chance))) if chance.random() < 0.3 else None
        file = KINDS[kind](chance)
        yield {
            "kind": kind, "trusted": [KEY.public.text], "app": chance.choice(["shop"] * 9 + ["bank"]),
            "cohort": chance.choice([None] * 9 + [{"index": 1, "of": 8}]), "last": _b64(last) if last else None,
            "now": NOW + chance.choice([0, 0, 0, 0, 0, 0.5, -4_000, 3_000]), "file": _b64(file),
            "users": [f"user-{chance.randrange(10**6)}", chance.choice(USERS)],
            "features": FEATURES, "locales": LOCALES,
        }  # fmt: skip


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Noted:
    """Random numbers, and which of them were drawn."""

    def __init__(self, chance: Random) -> None:
        self._chance, self.drawn = chance, list[float]()

    def __call__(self) -> float:
        self.drawn.append(self._chance.random())
        return self.drawn[-1]

    def during(self, act: Callable[[], Any]) -> tuple[Any, list[float]]:
        self.drawn = []
        done = act()
        return done, self.drawn


_ANSWERS: Final = [None, 200, 201, 302, 400, 401, 404, 408, 409, 409, 409, 422, 425, 429, 500, 503]
_RETRY_AFTER: Final = ["7", "0", "99999999", "soon", "-1", "Fri, 15 Jan 2027 09:00:00 GMT", "Sun Nov  6 08:49:37 1994"]


def _headers(chance: Random) -> dict[str, str]:
    return {"retry-after": chance.choice(_RETRY_AFTER)} if chance.random() < 0.3 else {}


def queue_sequence(seed: int) -> dict[str, Any]:
    """What the Python queue does with operations drawn by lot, as a sequence of queue.json."""
    chance = Random(seed)
    noted = _Noted(Random(seed + 1))
    queue, now, ops = Queue(noted, user="u1"), float(NOW), list[dict[str, Any]]()
    under_way: list[str] = []
    for number in range(chance.randrange(10, 60)):
        now += chance.choice([0, 0, 0.25, 5, 60, 700, -3, 90_000 if chance.random() < 0.02 else 1])
        op, act = _queue_step(chance, number, now, queue, under_way)
        found, drawn = noted.during(act)
        if op["op"] in ("plan", "answered"):
            op["random"] = drawn
        ops.append(op | ({} if op["op"] in ("add", "again", "log_in") else {"expect": found}))
    return {"name": f"by lot {seed}", "ops": ops}


def _queue_step(
    chance: Random, number: int, now: float, queue: Queue, under_way: list[str]
) -> tuple[dict[str, Any], Callable[[], Any]]:
    kind = chance.choice(["add", "add", "plan", "take", "take", "next_at", "answered", "answered", "again", "log_in"])
    if kind == "answered" and under_way:
        return _answered(chance, now, queue, under_way.pop())
    if kind == "again" and (refused := [write.id for write in queue.writes if write.refused]):
        return {"op": "again", "id": refused[0], "now": now}, lambda: queue.again(refused[0], now)
    if kind == "plan":
        off = [feature for feature in ("a", "b") if chance.random() < 0.3]
        return {"op": "plan", "now": now, "off": off}, lambda: _planned(queue, off, now)
    if kind == "take":
        return {"op": "take", "now": now}, lambda: _taken(queue, under_way, now)
    if kind == "next_at":
        return {"op": "next_at", "now": now}, lambda: queue.next_at(now)
    if kind == "log_in":
        user, take = chance.choice(["u1", "u2"]), chance.random() < 0.3
        return {"op": "log_in", "user": user, "take_writes": take}, lambda: _logged_in(queue, user, take)
    write = {
        "id": f"w{number}", "feature": chance.choice("ab"), "method": "POST", "url": "https://api.example/w",
        "lane": chance.choice(["", "", "x", "y"]), "user": queue.user, "queued_at": now, "incident": "",
        "headers": {}, "due_at": chance.choice([None, now, now + 100, now + 200_000]),
    }  # fmt: skip
    return {"op": "add", "write": write}, lambda: queue.add(replace(Write(**write), body=b"{}"))


def _answered(
    chance: Random, now: float, queue: Queue, write_id: str
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    status, headers = chance.choice(_ANSWERS), _headers(chance)

    def act() -> dict[str, Any]:
        judged = queue.answered(write_id, HttpResponse(status, headers) if status else None, now)
        assert judged is not None
        fate, write = judged
        due_at = None if fate is Fate.APPLIED else write.due_at
        return {"fate": fate.value, "due_at": due_at, "refused": write.refused}

    return {"op": "answered", "id": write_id, "now": now, "status": status, "headers": headers if status else {}}, act


def _planned(queue: Queue, off: list[str], now: float) -> dict[str, float | None]:
    queue.plan(off.__contains__, 600, now)
    return {write.id: write.due_at for write in queue.writes}


def _taken(queue: Queue, under_way: list[str], now: float) -> str | None:
    taken = queue.take(now)
    if taken is not None:
        under_way.append(taken.id)
    return taken.id if taken else None


def _logged_in(queue: Queue, user: str, take: bool) -> None:
    before, queue.user = queue.user, user
    if take:
        queue.take_over(before)


def poll_sequence(seed: int) -> dict[str, Any]:
    """What the Python core does with answers drawn by lot, as a sequence of polls.json."""
    chance = Random(seed)
    noted = _Noted(Random(seed + 1))
    core = Core(app="shop", url="", trusted=trusted([KEY]), random=noted, now=NOW)
    now, steps = float(NOW), list[dict[str, Any]]()
    for _ in range(chance.randrange(5, 30)):
        now += chance.choice([0, 1, 5, 30, 90, 1_000, -10, 100_000 if chance.random() < 0.03 else 60])
        kind = chance.choice(["answered"] * 4 + ["failed", "is_due", "poll_soon", "request", "level", "restore"])
        steps.append(_poll_step(kind, core, noted, chance, now))
    return {"name": f"by lot {seed}", "start": NOW, "steps": steps}


def _poll_step(kind: str, core: Core, noted: _Noted, chance: Random, now: float) -> dict[str, Any]:
    step: dict[str, Any] = {"op": kind, "now": now}
    file = KINDS[chance.choice(["true"] * 6 + ["forged", "odd inside"])](chance)
    match kind:
        case "is_due":
            return step | {"expect": core.is_due(now)}
        case "level":
            return step | {"expect": core.standing("somebody", now).level.value}
        case "request":
            return step | {"if_none_match": core.request(now).headers.get("If-None-Match")}
        case "poll_soon":
            core.poll_soon(now)
            return step | {"next_poll_at": core.next_poll_at}
        case "restore":
            etag = chance.choice(['"r"', "", "a b"])
            return step | {"file": _b64(file), "etag": etag, "expect": core.restore(file, etag)}
        case "failed":
            polled, drawn = noted.during(lambda: core.failed(now))
        case _:
            status = chance.choice([200, 200, 200, 304, 404, 410, 500, 503, 429, 403, 302, 204])
            headers = _headers(chance) | (
                {"etag": chance.choice(['"a"', 'W/"b"', "x", "", "é"])} if status == 200 else {}
            )
            step["answer"] = {"status": status, "headers": headers, "file": _b64(file)}
            polled, drawn = noted.during(lambda: core.answered(HttpResponse(status, headers, file), now))
    version = core.last.version if core.last else None
    refusal = polled.refusal.value if polled.refusal else None
    expect = {"news": polled.news.value, "refusal": refusal, "next_poll_at": core.next_poll_at, "version": version}
    return step | {"random": drawn, "expect": expect}
