"""The write queue: what is sent when, and what its answer means."""

from __future__ import annotations

from typing import Any

from conformance.said import NOW


def queue() -> dict[str, Any]:
    """Each operation is one call; ``random`` are the numbers that it draws, all of them, in order."""
    sequences = [
        {"name": "writes wait while their feature is off, and spread over the drain period in their order", "ops": [
            _add("a"), _add("b"), _add("c"),
            _plan(NOW, {"a": None, "b": None, "c": None}, off=["progress"]), _take(NOW, None), _next(NOW, None),
            _plan(NOW + 50, {"a": NOW + 110, "b": NOW + 350, "c": NOW + 590}, random=[0.9, 0.1, 0.5]),
            _next(NOW + 50, NOW + 110), _take(NOW + 109, None), _take(NOW + 110, "a"), _take(NOW + 400, "b"),
            _answer("a", 200, NOW + 111, "applied"), _answer("b", 201, NOW + 401, "applied"),
            _next(NOW + 402, NOW + 590),
        ]},
        {"name": "zombie mode comes back: what has not been sent waits again, and gets new times", "ops": [
            _add("a"), _add("b"), _plan(NOW, {"a": NOW, "b": NOW + 300}, random=[0.0, 0.5]), _take(NOW, "a"),
            _answer("a", 200, NOW, "applied"), _plan(NOW + 1, {"b": None}, off=["progress"]), _take(NOW + 999, None),
            _plan(NOW + 1000, {"b": NOW + 1600 - 60}, random=[0.9]),
        ]},
        {"name": "only what is off waits", "ops": [
            _add("a", feature="likes"), _add("b"),
            _plan(NOW, {"a": None, "b": NOW + 60}, off=["likes"], random=[0.1]),
        ]},
        {"name": "no answer, 429 and 5xx hold up all; the wait doubles up to 300 s, at least half of it", "ops": [
            _add("a", due_at=NOW), _add("b", due_at=NOW + 1), _take(NOW, "a"),
            _answer("a", None, NOW, "again", due_at=NOW + 1.5, random=[0.5]),
            _take(NOW + 1.4, None), _next(NOW + 1.4, NOW + 1.5), _take(NOW + 1.5, "b"),
            _answer("b", 500, NOW + 2, "again", due_at=NOW + 3, random=[0.0]), _take(NOW + 2.5, None),
            _take(NOW + 3, "a"), _answer("a", 503, NOW + 3, "again", due_at=NOW + 7, random=[1.0]),
            _take(NOW + 6, None), _take(NOW + 7, "b"), _answer("b", 200, NOW + 7, "applied"),
            _take(NOW + 7, "a"), _answer("a", 502, NOW + 7, "again", due_at=NOW + 11, random=[0.0]),
            _take(NOW + 11, "a"), _answer("a", 502, NOW + 11, "again", due_at=NOW + 19, random=[0.0]),
            _take(NOW + 19, "a"), _answer("a", 502, NOW + 19, "again", due_at=NOW + 35, random=[0.0]),
            _take(NOW + 35, "a"), _answer("a", 502, NOW + 35, "again", due_at=NOW + 67, random=[0.0]),
            _take(NOW + 67, "a"), _answer("a", 502, NOW + 67, "again", due_at=NOW + 131, random=[0.0]),
            _take(NOW + 131, "a"), _answer("a", 502, NOW + 131, "again", due_at=NOW + 259, random=[0.0]),
            _take(NOW + 259, "a"), _answer("a", 502, NOW + 259, "again", due_at=NOW + 409, random=[0.0]),
            _take(NOW + 409, "a"), _answer("a", 502, NOW + 409, "again", due_at=NOW + 709, random=[1.0]),
        ]},
        {"name": "Retry-After is the least, half of it may be added, an hour is the most", "ops": [
            _add("a", due_at=NOW), _take(NOW, "a"),
            _answer("a", 503, NOW, "again", due_at=NOW + 125, random=[0.5], retry_after="100"), _take(NOW + 124, None),
            _take(NOW + 125, "a"),
            _answer("a", 429, NOW + 125, "again", due_at=NOW + 125 + 3600, random=[0.0], retry_after="99999"),
            _take(NOW + 3725, "a"),
            _answer("a", 503, NOW + 3725, "again", due_at=NOW + 3729, random=[0.0], retry_after="1"),
        ]},
        {"name": "what may pass is tried again without holding up the others", "ops": [
            *[op for i, status in enumerate((301, 401, 408, 409, 425)) for op in (
                _add(f"w{i}", due_at=NOW), _take(NOW, f"w{i}"),
                _answer(f"w{i}", status, NOW, "again", due_at=NOW + 1, random=[0.0]))],
            _add("z", due_at=NOW), _take(NOW, "z"),
        ]},
        {"name": "what the server does not want is kept and not sent", "ops": [
            *[op for i, status in enumerate((400, 403, 404, 410, 413, 422)) for op in (
                _add(f"w{i}", due_at=NOW), _take(NOW, f"w{i}"),
                _answer(f"w{i}", status, NOW, "refused", refused=status))],
            _take(NOW + 10_000, None), _next(NOW, None), _plan(NOW, {f"w{i}": None for i in range(6)}),
            {"op": "again", "id": "w1", "now": NOW + 5}, _take(NOW + 5, "w1"),
            _answer("w1", 200, NOW + 5, "applied"),
        ]},
        {"name": "the ninth 409 in a row is a refusal", "ops": [
            _add("a", due_at=NOW),
            *[op for i, wait in enumerate((1, 2, 4, 8, 16, 32, 64, 128)) for op in (
                _take(NOW + 1000 * i, "a"),
                _answer("a", 409, NOW + 1000 * i, "again", due_at=NOW + 1000 * i + wait, random=[0.0]))],
            _take(NOW + 9000, "a"), _answer("a", 409, NOW + 9000, "refused", refused=409),
        ]},
        {"name": "one lane is in order, other writes overtake it", "ops": [
            _add("a", lane="x", due_at=NOW), _add("b", lane="x", due_at=NOW), _add("c", due_at=NOW + 1),
            _take(NOW, "a"), _take(NOW, None), _answer("a", 401, NOW, "again", due_at=NOW + 1.5, random=[0.5]),
            _take(NOW + 1, "c"), _answer("c", 200, NOW + 1, "applied"), _take(NOW + 1, None),
            _take(NOW + 2, "a"), _take(NOW + 2, None), _answer("a", 200, NOW + 2, "applied"), _take(NOW + 2, "b"),
        ]},
        {"name": "a refused write does not hold up its lane", "ops": [
            _add("a", lane="x", due_at=NOW), _add("b", lane="x", due_at=NOW), _take(NOW, "a"),
            _answer("a", 422, NOW, "refused", refused=422), _take(NOW, "b"),
        ]},
        {"name": "writes belong to who made them", "ops": [
            _add("a", due_at=NOW), {"op": "log_in", "user": "u2", "take_writes": False}, _take(NOW, None),
            _add("b", user="u2", due_at=NOW), _take(NOW, "b"), _answer("b", 200, NOW, "applied"),
            {"op": "log_in", "user": "u1", "take_writes": False}, _take(NOW, "a"),
        ]},
        {"name": "an installation's writes become those of who logs in", "ops": [
            _add("a", due_at=NOW), {"op": "log_in", "user": "u2", "take_writes": True}, _take(NOW, "a"),
        ]},
        {"name": "the clock is set back: no time lies further ahead than a day, no pause than two hours", "ops": [
            _add("a", due_at=NOW + 100_000_000), _plan(NOW, {"a": NOW + 86_400}),
            _add("b", due_at=NOW), _take(NOW, "b"),
            _answer("b", 503, NOW, "again", due_at=NOW + 3600, random=[0.0], retry_after="3600"),
            _take(NOW - 3600, None), _add("c", due_at=NOW - 10_000), _take(NOW - 3601, "c"),
        ]},
        {"name": "the same id twice is one write", "ops": [
            _add("a", due_at=NOW), _add("a", due_at=NOW), _take(NOW, "a"), _answer("a", 200, NOW, "applied"),
            _take(NOW, None),
        ]},
        {"name": "what a replay carries", "ops": [
            _add("a", due_at=NOW), {"op": "request", "id": "a", "expect": {
                "method": "POST", "url": "https://api.example/w", "headers": {
                    "idempotency-key": "a", "zombie-queued-at": str(NOW), "zombie-incident": "inc-1",
                    "content-type": "application/json"}}},
        ]},
    ]  # fmt: skip
    return {"drain_s": 600, "sequences": sequences}


def _add(write_id: str, **more: Any) -> dict[str, Any]:
    write = {"id": write_id, "feature": "progress", "method": "POST", "url": "https://api.example/w",
             "headers": {"content-type": "application/json"}, "lane": "", "user": "u1", "queued_at": NOW + 0.75,
             "incident": "inc-1", "due_at": None}  # fmt: skip
    return {"op": "add", "write": write | more}


def _plan(now: float, expect: dict[str, Any], *, off: list[str] | None = None, random: Any = ()) -> dict[str, Any]:
    return {"op": "plan", "now": now, "off": off or [], "random": list(random), "expect": expect}


def _take(now: float, expect: str | None) -> dict[str, Any]:
    return {"op": "take", "now": now, "expect": expect}


def _next(now: float, expect: float | None) -> dict[str, Any]:
    return {"op": "next_at", "now": now, "expect": expect}


def _answer(
    write_id: str, status: int | None, now: float, fate: str,
    *, due_at: float | None = None, refused: int = 0, random: Any = (), retry_after: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    headers = {} if retry_after is None else {"retry-after": retry_after}
    expect = {"fate": fate, "due_at": due_at, "refused": refused}
    return {"op": "answered", "id": write_id, "status": status, "headers": headers, "now": now, "random": list(random),
            "expect": expect}  # fmt: skip
