"""Files that are believed, and files that are refused, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from conformance.said import NEW, NOW, OLD, PLAIN, STRANGER, TRUSTED, b64, dumped, malleable, said, signed
from flashcast.zombie.envelope import SIGNED_PREFIX, envelope


def documents() -> dict[str, Any]:
    cases: list[dict[str, Any]] = []

    def add(name: str, file: bytes, expect: str | int, **context: Any) -> None:
        asked = {"trusted": TRUSTED, "app": "shop", "cohort": None, "last": None, "now": NOW} | context
        asked["last"] = b64(asked["last"]) if asked["last"] is not None else None
        told = {"version": expect} if isinstance(expect, int) else {"refused": expect}
        cases.append({"name": name, **asked, "file": b64(file), "expect": told})

    _genuine(add)
    _outer(add)
    _forged(add)
    _inner(add)
    _misplaced(add)
    return {"cases": cases}


Add = Callable[..., None]


def _genuine(add: Add) -> None:
    plain = signed(said())
    add("a plain document", plain, 7)
    add("signed by old and new key, the old trusted", signed(said(), OLD, NEW), 7)
    add("signed by old and new key, the new trusted", signed(said(), OLD, NEW), 7, trusted=[NEW.public.text])
    add("both keys trusted, one has signed", signed(said(), NEW), 7, trusted=[OLD.public.text, NEW.public.text])
    add("fields that nobody knows yet", signed(said(colour="red", nested={"a": [1, {"b": None}]})), 7)
    outer = json.loads(plain)
    add("an envelope with fields that nobody knows yet", dumped(outer | {"hint": 1}), 7)
    add("an envelope that a proxy has re-formatted", json.dumps(outer, indent=4, sort_keys=True).encode() + b"\n", 7)
    strange = [{"key": STRANGER.id, "sig": "AA"}, 5, None, {"kid": "x"}, {"key": 7, "sig": 7}]
    add("signatures of kinds to come beside ours", dumped(outer | {"signatures": [*strange, *outer["signatures"]]}), 7)
    false = {"key": OLD.id, "sig": "A" * 86}
    add("a false signature before the true one", dumped(outer | {"signatures": [false, *outer["signatures"]]}), 7)
    add("raw UTF-8 in the payload", signed(json.dumps(said(), ensure_ascii=False).encode()), 7)
    least = ("format", "app", "version", "not_before", "expires_at", "level", "buckets", "salt")
    add("the fields that must be there and no other", signed({name: PLAIN[name] for name in least}), 7)
    add("the largest version", signed(said(version=2**53 - 1)), 2**53 - 1)
    room = 16_384 - len(dumped(said(pad="")))
    add("a payload of 16,384 bytes", signed(said(pad="x" * room)), 7)
    add("the most features", signed(said(off=[f"f{i}" for i in range(100)], keep=[])), 7)
    add("a message of 2,000 bytes", signed(said(message={"*": "\u00e9" * 1_000})), 7)
    add("a lifetime of seven days", signed(said(not_before=NOW, expires_at=NOW + 604_800)), 7)
    add("for a cohort", signed(said(cohort={"index": 3, "of": 8})), 7, cohort={"index": 3, "of": 8})
    add("cohort null is no cohort", signed(dumped(said() | {"cohort": None})), 7)
    add("the same again", plain, 7, last=plain)
    add("the same document with another signature", signed(said(), OLD, NEW), 7, last=plain)
    add("newer than the last", signed(said(version=8)), 8, last=plain)
    add("one second before its end", plain, 7, now=NOW + 3_539)
    add("a clock that lags by 300 s", plain, 7, now=NOW - 360)
    add("newer, after the last has expired", signed(said(version=8)), 8, last=signed(said(expires_at=NOW - 1)))


def _outer(add: Add) -> None:
    plain = signed(said())
    outer = json.loads(plain)
    room = 16_385 - len(dumped(said(pad="")))
    add("a payload of 16,385 bytes", signed(said(pad="x" * room)), "oversized")
    add("a file of 24,577 bytes", plain + b" " * (24_577 - len(plain)), "oversized")
    add("a genuine file within a heap of blanks of 24,576 bytes", plain + b" " * (24_576 - len(plain)), 7)
    for name, file in {
        "an empty file": b"", "null": b"null", "a list": b"[]", "a number": b"7", "a text": b'"zombie"',
        "a page": b"<!doctype html><title>502 Bad Gateway</title>", "random bytes": sha256(b"noise").digest() * 4,
        "cut off in the payload": plain[:200], "cut off before the last brace": plain[:-1],
        "cut off in the signature": plain[:-30], "something after it": plain + b"x", "two of them": plain + plain,
        "NaN in a field that nobody knows": plain[:-1] + b',"x":NaN}', "a comment in it": plain[:-1] + b"/* */}",
        "the document without an envelope": dumped(said()),
        "no payload": dumped({"signatures": outer["signatures"]}),
        "payload is a number": dumped(outer | {"payload": 5}), "payload is null": dumped(outer | {"payload": None}),
        "payload with padding": dumped(outer | {"payload": _padded(outer["payload"])}),
        "payload in the other alphabet": dumped(outer | {"payload": outer["payload"][:-4] + "+/+/"}),
        "payload with a line end": dumped(outer | {"payload": outer["payload"] + "\n"}),
        "payload of an impossible length": dumped(outer | {"payload": _impossible(outer["payload"])}),
        "no signatures": dumped({"payload": outer["payload"]}),
        "an empty list of signatures": dumped(outer | {"signatures": []}),
        "signatures is an object": dumped(outer | {"signatures": outer["signatures"][0]}),
        "nine signatures": dumped(outer | {"signatures": outer["signatures"] * 9}),
    }.items():  # fmt: skip
        add(name, file, "malformed")
    add("eight signatures", dumped(outer | {"signatures": outer["signatures"] * 8}), 7)


def _padded(text: str) -> str:
    return text.rstrip("=") + "=" * (-len(text) % 4 or 4)


def _impossible(text: str) -> str:
    return text[: len(text) - (len(text) - 1) % 4]


def _forged(add: Add) -> None:
    plain = json.loads(signed(said()))
    data = dumped(said())

    def sig(raw: bytes, key_id: str = OLD.id) -> bytes:
        return envelope(data, [(key_id, raw)])

    true = OLD.sign(SIGNED_PREFIX + data)
    other = json.loads(signed(said(buckets=1_000)))
    add("signed by a stranger", signed(said(), STRANGER), "unknown_key")
    add("signed by a key that is no longer trusted", signed(said(), OLD), "unknown_key", trusted=[NEW.public.text])
    add("the key's id in capitals", sig(true, OLD.id.upper()), "unknown_key")
    add("no signature is an object", dumped(plain | {"signatures": [1, "x", None, []]}), "unknown_key")
    add("a stranger's signature under a trusted key's id", sig(STRANGER.sign(SIGNED_PREFIX + data)), "bad_signature")
    add("another document's signature", dumped(plain | {"payload": other["payload"]}), "bad_signature")
    add("one bit of the signature", sig(bytes([true[0] ^ 1]) + true[1:]), "bad_signature")
    add("S plus the group's order", sig(malleable(true)), "bad_signature")
    add("a signature over the bare document", sig(OLD.sign(data)), "bad_signature")
    add("a signature over the text of the payload", sig(OLD.sign(plain["payload"].encode())), "bad_signature")
    add("a signature of 63 bytes", sig(true[:63]), "bad_signature")
    add("an empty signature", sig(b""), "bad_signature")
    add("a signature that is a number", dumped(plain | {"signatures": [{"key": OLD.id, "sig": 5}]}), "bad_signature")
    add("forged, expired and of another app", signed(said(app="bank", expires_at=NOW - 30), STRANGER), "unknown_key")


def _inner(add: Add) -> None:
    add("format 2", signed(said(format=2)), "unsupported")
    add("format 2 in which nothing else is as we know it", signed({"format": 2, "who": "all"}), "unsupported")
    add("format 0", signed(said(format=0)), "unsupported")
    for name, payload in {"that is no JSON": b"zombie", "that is a list": b"[1]", "that is empty": b"",
                          "with NaN": b'{"format":1,"x":NaN}', "cut off": dumped(said())[:-1]}.items():  # fmt: skip
        add(f"a payload {name}", signed(payload), "invalid")
    for field in ("format", "app", "version", "not_before", "expires_at", "level", "buckets", "salt"):
        add(f"no {field}", signed(said(**{field: None})), "invalid")
        add(f"{field} is null", signed(dumped(said() | {field: None})), "invalid")
    wrong: dict[str, list[Any]] = {
        "format": ["1", True, [1]],
        "app": ["Shop", "", "a b", "-shop", "x" * 41, 5],
        "version": [0, -1, "7", 2**53, 1.5],
        "not_before": [-1, "now", NOW + 3_540, 253_402_300_800],
        "expires_at": [NOW - 60, NOW - 61, 0, NOW - 60 + 604_801],
        "level": ["panic", "", "Zombie", 1],
        "buckets": [-1, 1_001, "300", 0.5, True],
        "salt": ["", "a b", "\u00e9", "x" * 65, 5],
        "off": ["*", ["Feed"], [""], ["a b"], ["x" * 65], [5], [f"f{i}" for i in range(101)], {}],
        "keep": [["*"], "payments", [None]],
        "writes": ["drop", "", 1],
        "drain_s": [-1, 86_401, "600"],
        "wait_s": [0, 3_601],
        "poll_s": [4, 3_601, "60"],
        "poll_jitter_s": [-1, 3_601],
        "message": ["Back soon", {"*": 5}, {"de_DE": "x"}, {"*": "\u00e9" * 1_000 + "x"},
                    {f"x{i}": "y" for i in range(51)}, {"": "x"}],
        "incident": ["a b", "x" * 65, 5],
        "cohort": [{"index": 8, "of": 8}, {"index": -1, "of": 8}, {"index": 0}, {"of": 8}, {"index": 0, "of": 1},
                   {"index": 0, "of": 101}, "3-of-8", [3, 8]],
    }  # fmt: skip
    for field, values in wrong.items():
        for value in values:
            shown = json.dumps(value, ensure_ascii=True)
            add(
                f"{field} is {shown if len(shown) < 40 else shown[:36] + '...'}",
                signed(said(**{field: value})),
                "invalid",
            )


def _misplaced(add: Add) -> None:
    plain = signed(said())
    three = signed(said(cohort={"index": 3, "of": 8}))
    add("another app's", plain, "wrong_app", app="bank")
    add("a cohort's, where the app's is expected", three, "wrong_cohort")
    add("the app's, where a cohort's is expected", plain, "wrong_cohort", cohort={"index": 3, "of": 8})
    add("another cohort's", three, "wrong_cohort", cohort={"index": 4, "of": 8})
    add("another split's", three, "wrong_cohort", cohort={"index": 3, "of": 16})
    eight = signed(said(version=8))
    add("older than the last", plain, "replayed", last=eight)
    add("older than the last, which has expired", plain, "replayed", last=signed(said(version=8, expires_at=NOW - 1)))
    add("older than the last, and expired", signed(said(expires_at=NOW - 1)), "replayed", last=eight)
    add("of the last's version, and says something else", signed(said(buckets=1_000)), "conflict", last=plain)
    add("of the last's version, said in other words", signed(json.dumps(said()).encode()), "conflict", last=plain)
    add("at its end", plain, "expired", now=NOW + 3_540)
    add("long after its end", plain, "expired", now=NOW + 10**8)
    add("the last again, at its end", plain, "expired", last=plain, now=NOW + 3_540)
    add("a clock that lags by 301 s", plain, "too_early", now=NOW - 361)
    add("expired and another app's", signed(said(expires_at=NOW - 1)), "wrong_app", app="bank")
