"""Deciding: what is off for whom, what to show, and whom to leave alone."""

from __future__ import annotations

from typing import Any

from conformance.said import NOW, TRUSTED, b64, said, signed


def decisions() -> dict[str, Any]:
    """With salt s1, "user-1" is in bucket 391 and "42" in 324: see buckets.json."""
    inside, outside = "42", "user-1"
    send, later = ("send", "on", 0), ("queue", "off", 45)
    back = ("fallback", "off", 45)

    def case(
        name: str, document: dict[str, Any] | None, user: str, calls: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        rows = []
        for call, (action, why, wait_s) in calls.items():
            feature, _, kind = call.partition(" ")
            expect = {"action": action, "why": why, "wait_s": wait_s}
            rows.append({"feature": feature, "write": kind == "write", "expect": expect})
        file = None if document is None else b64(signed(document))
        return {"name": name, "file": file, "user": user, "now": NOW, "calls": rows} | more

    message = [{"locale": "en", "expect": "Back soon"}, {"locale": "de-AT", "expect": "Gleich wieder da"},
               {"locale": "pt-br", "expect": "J\u00e1 voltamos"}, {"locale": "pt_BR", "expect": "J\u00e1 voltamos"},
               {"locale": "pt", "expect": "Back soon"}, {"locale": "", "expect": "Back soon"},
               {"locale": "DE", "expect": "Gleich wieder da"},
               {"locale": "de-DE-1996", "expect": "Gleich wieder da"}]  # fmt: skip
    silent = [{"locale": "de", "expect": None}]
    some = said(level="shielded", off=["feed", "search"], keep=[], writes="send")
    cases = [
        case("no document", None, inside, {"feed": send, "feed write": send}, messages=silent),
        case("everything off but payments", said(), inside,
             {"feed": back, "feed write": later, "payments": send, "payments write": send}, messages=message),
        case("a user who is not in it", said(), outside, {"feed": send, "feed write": send}, messages=silent),
        case("bucket 324 is in at 325", said(buckets=325), inside, {"feed": back}),
        case("bucket 324 is not in at 324", said(buckets=324), inside, {"feed": send}),
        case("everybody", said(buckets=1000), outside, {"feed": back}),
        case("nobody", said(buckets=0), inside, {"feed": send}, messages=silent),
        case("chosen features off, writes are sent", some, inside,
             {"feed": back, "feed write": send, "search": back, "profile": send, "feed.top": send}),
        case("a feature that is off and kept as well is off", said(off=["*", "feed"], keep=["feed"]), inside,
             {"feed": back}),
        case("keep without everything off means nothing", said(off=["feed"], keep=["feed", "search"]), inside,
             {"feed": back, "search": send}),
        case("normal, whatever else is said", said(level="normal"), inside, {"feed": send, "feed write": send},
             messages=silent),
        case("recovering decides by the same fields", said(level="recovering"), inside,
             {"feed": back, "feed write": later}),
        case("one second before the end", said(expires_at=NOW + 1), inside, {"feed": back}),
        case("at the end", said(expires_at=NOW + 100), inside, {"feed": send, "feed write": send}, messages=silent,
             later_s=100),
        case("no message is no message", said(message={}), inside, {"feed": back}, messages=silent),
        case("no message for others", said(message={"de": "Gleich"}), inside, {"feed": back},
             messages=[{"locale": "en", "expect": None}, {"locale": "de", "expect": "Gleich"}]),
    ]  # fmt: skip
    held = [
        {"name": "503 with Retry-After", "file": None, "status": 503, "retry_after": "100", "random": [0.5],
         "until_s": 125},
        {"name": "429 without it: the default of 30 s", "file": None, "status": 429, "retry_after": None,
         "random": [0.0], "until_s": 30},
        {"name": "503 without it: as the document says", "file": b64(signed(said(off=["x"], keep=[]))), "status": 503,
         "retry_after": None, "random": [0.5], "until_s": 56.25},
        {"name": "no longer than an hour, and half of that", "file": None, "status": 503, "retry_after": "86400",
         "random": [1.0], "until_s": 5_400},
        {"name": "500 holds nothing", "file": None, "status": 500, "retry_after": "100", "random": [], "until_s": 0},
        {"name": "200 holds nothing", "file": None, "status": 200, "retry_after": "100", "random": [], "until_s": 0},
    ]  # fmt: skip
    return {"trusted": TRUSTED, "app": "shop", "cases": cases, "held": held}
