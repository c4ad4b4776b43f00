"""Polling: when, with which ETag, and what an answer means."""

from __future__ import annotations

from typing import Any

from conformance.said import NOW, STRANGER, TRUSTED, b64, said, signed


def polls() -> dict[str, Any]:
    """Each step is one call of the core; ``random`` are the numbers that it draws, all of them."""
    plain, eight = signed(said()), signed(said(version=8, poll_s=10, poll_jitter_s=0))
    brief = signed(said(expires_at=NOW + 100, poll_s=20, poll_jitter_s=10))
    stranger = signed(said(version=9), STRANGER)
    sequences = [
        _sequence("first document, then nothing new, then a change", [
            _due(NOW, True), _ask(NOW, None),
            _got(NOW + 1, 200, plain, 0.5, "changed", NOW + 76, 7, etag='"a"'),
            _due(NOW + 75.9, False), _due(NOW + 76, True), _ask(NOW + 76, '"a"'),
            _got(NOW + 77, 304, None, 0.0, "unchanged", NOW + 137, 7), _ask(NOW + 137, '"a"'),
            _got(NOW + 138, 200, eight, 0.9, "changed", NOW + 148, 8, etag='"b"'), _ask(NOW + 148, '"b"'),
            _got(NOW + 149, 200, eight, 0.0, "unchanged", NOW + 159, 8, etag='"b"'),
        ]),
        _sequence("nothing was ever published", [
            _ask(NOW, None), _got(NOW, 404, None, 0.5, "none", NOW + 75, None),
            _got(NOW + 75, 410, None, 0.0, "none", NOW + 135, None),
        ]),
        _sequence("no answer: the wait doubles up to 900 s, and half of it is added at random at most", [
            _got(NOW, 200, plain, 0.0, "changed", NOW + 60, 7),
            _lost(NOW + 60, 0.0, NOW + 120, 7), _lost(NOW + 120, 1.0, NOW + 300, 7),
            _lost(NOW + 300, 0.5, NOW + 600, 7), _lost(NOW + 600, 0.0, NOW + 1_080, 7),
            _lost(NOW + 1_080, 0.0, NOW + 1_980, 7), _lost(NOW + 1_980, 0.5, NOW + 3_105, 7),
            _got(NOW + 3_105, 304, None, 0.0, "failed", NOW + 4_005, 7),
        ]),
        _sequence("an answer ends the doubling", [
            _lost(NOW, 0.0, NOW + 60, None), _lost(NOW + 60, 0.0, NOW + 180, None),
            _got(NOW + 180, 200, plain, 0.0, "changed", NOW + 240, 7), _lost(NOW + 240, 0.0, NOW + 300, 7),
        ]),
        _sequence("errors of the server, with and without Retry-After", [
            _got(NOW, 500, None, 0.0, "failed", NOW + 60, None),
            _got(NOW + 60, 503, None, 0.5, "failed", NOW + 60 + 500 + 125, None, retry_after="500"),
            _got(NOW + 700, 429, None, 0.0, "failed", NOW + 700 + 3_600, None, retry_after="99999"),
            _got(NOW + 4_300, 403, None, 0.0, "failed", NOW + 4_300 + 480, None, retry_after="soon"),
            _got(NOW + 5_000, 302, None, 0.0, "failed", NOW + 5_900, None),
        ]),
        _sequence("304 without a document says nothing", [_got(NOW, 304, None, 0.0, "failed", NOW + 60, None)]),
        _sequence("what is refused changes nothing, and is no failure", [
            _got(NOW, 200, eight, 0.0, "changed", NOW + 10, 8, etag='"b"'),
            _got(NOW + 10, 200, plain, 0.0, "refused", NOW + 20, 8, etag='"a"', refusal="replayed"),
            _ask(NOW + 20, '"b"'),
            _got(NOW + 20, 200, stranger, 0.0, "refused", NOW + 30, 8, etag='"x"', refusal="unknown_key"),
            _got(NOW + 30, 200, b"", 0.0, "refused", NOW + 40, 8, refusal="malformed"),
            _got(NOW + 40, 200, eight[:-5], 0.0, "refused", NOW + 50, 8, refusal="malformed"),
            _ask(NOW + 50, '"b"'),
        ]),
        _sequence("the document expires: everything is on, its version still counts, waits are the default's", [
            _got(NOW, 200, brief, 0.5, "changed", NOW + 25, 7, etag='"a"'),
            _stands(NOW + 99.9, "zombie"), _stands(NOW + 100, "normal"),
            _ask(NOW + 101, '"a"'),
            _got(NOW + 101, 304, None, 0.5, "unchanged", NOW + 176, 7),
            _got(NOW + 176, 200, brief, 0.0, "refused", NOW + 236, 7, refusal="expired"),
            _got(NOW + 236, 200, signed(said(version=6)), 0.0, "refused", NOW + 296, 7, refusal="replayed"),
            _got(NOW + 296, 200, eight, 0.0, "changed", NOW + 306, 8), _stands(NOW + 296, "zombie"),
        ]),
        _sequence("404 leaves the last document in force until its end", [
            _got(NOW, 200, brief, 0.0, "changed", NOW + 20, 7), _got(NOW + 20, 404, None, 0.0, "none", NOW + 40, 7),
            _stands(NOW + 99, "zombie"), _stands(NOW + 100, "normal"),
        ]),
        _sequence("the clock is set back", [
            _got(NOW, 200, plain, 0.0, "changed", NOW + 60, 7), _due(NOW - 7_140, False), _due(NOW - 7_141, True),
        ]),
        _sequence("a poll before its time, at most one in five seconds", [
            _ask(NOW, None), _got(NOW, 200, plain, 0.0, "changed", NOW + 60, 7),
            {"op": "poll_soon", "now": NOW + 2, "next_poll_at": NOW + 5}, _due(NOW + 4, False), _due(NOW + 5, True),
            _ask(NOW + 5, None), _got(NOW + 5, 200, plain, 0.0, "unchanged", NOW + 65, 7),
            {"op": "poll_soon", "now": NOW + 30, "next_poll_at": NOW + 30},
            {"op": "poll_soon", "now": NOW + 31, "next_poll_at": NOW + 30},
        ]),
        _sequence("an ETag that cannot be sent back is forgotten", [
            _got(NOW, 200, plain, 0.0, "changed", NOW + 60, 7, etag='"a b\\""'), _ask(NOW + 60, None),
            _got(NOW + 60, 200, plain, 0.0, "unchanged", NOW + 120, 7, etag='W/"a"'), _ask(NOW + 120, 'W/"a"'),
            _got(NOW + 120, 200, plain, 0.0, "unchanged", NOW + 180, 7, etag='"' + "x" * 255 + '"'),
            _ask(NOW + 180, None),
        ]),
        _sequence("what was kept is taken up again, and what is older is refused", [
            _restored(eight, '"b"', True), _stands(NOW, "zombie"), _ask(NOW, '"b"'),
            _got(NOW, 200, plain, 0.0, "refused", NOW + 10, 8, refusal="replayed"),
        ]),
        _sequence("what was kept and has expired still says what is too old", [
            _restored(signed(said(version=8, expires_at=NOW - 1)), '"b"', True), _stands(NOW, "normal"),
            _got(NOW, 200, plain, 0.0, "refused", NOW + 60, 8, refusal="replayed"),
        ]),
        _sequence("what was kept and is not believed any more is forgotten with its version", [
            _restored(signed(said(version=99), STRANGER), '"z"', False), _ask(NOW, None),
            _got(NOW, 200, plain, 0.0, "changed", NOW + 60, 7),
        ]),
        _sequence("what was kept is damaged", [_restored(plain[:100], '"z"', False), _ask(NOW, None)]),
        _sequence("what was kept is another app's",
                  [_restored(signed(said(app="bank", version=99)), '"z"', False), _ask(NOW, None)]),
    ]  # fmt: skip
    return {"trusted": TRUSTED, "app": "shop", "url": "https://cdn.example/zombie/shop.json", "sequences": sequences}


def _sequence(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "start": NOW, "steps": steps}


def _due(now: float, expect: bool) -> dict[str, Any]:
    return {"op": "is_due", "now": now, "expect": expect}


def _ask(now: float, etag: str | None) -> dict[str, Any]:
    return {"op": "request", "now": now, "if_none_match": etag}


def _got(
    now: float, status: int, file: bytes | None, random: float, news: str, next_poll_at: float, version: int | None,
    *, etag: str | None = None, retry_after: str | None = None, refusal: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    headers = {name: value for name, value in (("etag", etag), ("retry-after", retry_after)) if value is not None}
    answer = {"status": status, "headers": headers, "file": b64(file or b"")}
    expect = {"news": news, "refusal": refusal, "next_poll_at": next_poll_at, "version": version}
    return {"op": "answered", "now": now, "random": [random], "answer": answer, "expect": expect}


def _lost(now: float, random: float, next_poll_at: float, version: int | None) -> dict[str, Any]:
    expect = {"news": "failed", "refusal": None, "next_poll_at": next_poll_at, "version": version}
    return {"op": "failed", "now": now, "random": [random], "expect": expect}


def _stands(now: float, level: str) -> dict[str, Any]:
    return {"op": "level", "now": now, "expect": level}


def _restored(file: bytes, etag: str, expect: bool) -> dict[str, Any]:
    return {"op": "restore", "file": b64(file), "etag": etag, "expect": expect}
