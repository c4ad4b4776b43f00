"""What the shedding middleware costs a request: an ASGI app that does nothing, with and without it, in turns.

    scripts/bench zombie_middleware          a table
    python benchmarks/zombie_middleware.py --json

Each figure is the median over --rounds of the time per request, each round --requests requests awaited one after the
other; all rounds of all cases are taken in turns, so that what else the machine does meets every case alike. `cost` is
the median of the differences to the bare app in the same round. No server, no network: a server's own work per
request is ten to a hundred times as much.

    bare          the app alone
    unknown       no document was ever read
    normal        a document says that all is well
    expired       a document has ended, and nothing newer is there yet
    off, other    something is off; the request's path is another feature
    off, outside  the request's feature is off, the user not in it: id found, hashed, served
    off, claim    likewise, the id being in a bearer token
    shed          the request is shed with 503
    shed, all     the request is shed; everybody is in it, so that nobody is hashed
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from flashcast.clock import FixedClock
from flashcast.zombie.buckets import bucket
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.document import terms
from flashcast.zombie.envelope import seal
from flashcast.zombie.keys import SigningKey
from flashcast.zombie.middleware import Gate, ZombieMiddleware, routing_of

NOW = 1_800_000_000
BOUND_US = 10.0
"""For every case in which nothing is off."""
SALT = "benchmark"
ROUTES = [
    {"path": "/healthz", "priority": "never"},
    {"path": "/api/payments/**", "feature": "payments", "priority": "last"},
    {"path": "/api/prefetch/**", "feature": "prefetch", "priority": "first"},
    *({"path": f"/api/part{n}/*/items", "feature": f"part{n}"} for n in range(12)),
    {"path": "/api/feed/**", "feature": "feed"},
    {"path": "/api/search", "feature": "search", "methods": ["GET", "POST"], "write": False},
    {"path": "/**"},
]
"""As many as a middling service has; the one that is asked for stands near the end."""
HEADERS = [
    (b"host", b"api.example"),
    (b"user-agent", b"Shop/7.1 (iPhone; iOS 17.2)"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, br"),
    (b"accept-language", b"de-DE,de;q=0.9"),
]

Scope = dict[str, Any]


async def app(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def gated(document: dict[str, Any] | None, *, identify: str = "header:x-user-id", expired: bool = False) -> Any:
    """The app behind a gate that has read ``document``."""
    key = SigningKey.generate()
    answer = HttpResponse(404)
    if document is not None:
        made = terms(app="shop", salt=SALT, **document).document(version=1, now=NOW, lasts_s=3_600)
        answer = HttpResponse(200, {}, seal(made, [key]))

    def transport(request: HttpRequest) -> HttpResponse:
        return answer

    class Clock(FixedClock):
        """Costs what the real one does."""

        def time(self) -> float:
            time.time()
            return super().time()

    clock = Clock(NOW)
    routing = routing_of({"app": "shop", "identify": [identify, "cookie:uid", "address"], "routes": ROUTES})
    gate = Gate(routing, source="http://unused", trusted=[key.public], transport=transport, clock=clock)
    gate.stop()
    gate.poll()
    if expired:
        clock.advance(3_601)
    return ZombieMiddleware(app, gate)


def scope_of(path: str, user: str) -> Scope:
    claims = base64.urlsafe_b64encode(json.dumps({"iss": "shop", "sub": user, "iat": NOW}).encode()).rstrip(b"=")
    token = b"Bearer eyJhbGciOiJFUzI1NiJ9." + claims + b"." + b"s" * 86
    headers = [*HEADERS, (b"authorization", token), (b"x-user-id", user.encode())]
    return {"type": "http", "method": "GET", "path": path, "headers": headers, "client": ("192.0.2.7", 50_000)}


def cases() -> dict[str, tuple[Any, Scope]]:
    outside = next(str(n) for n in range(10_000) if bucket(SALT, str(n)) >= 500)
    inside = next(str(n) for n in range(10_000) if bucket(SALT, str(n)) < 500)
    feed = scope_of("/api/feed/latest", outside)
    half = {"level": "zombie", "buckets": 500, "off": ["feed"]}
    return {
        "bare": (app, feed),
        "unknown": (gated(None), feed),
        "normal": (gated({}), feed),
        "expired": (gated(half, expired=True), feed),
        "off, other": (gated(half), scope_of("/api/part3/7/items", inside)),
        "off, outside": (gated(half), feed),
        "off, claim": (gated(half, identify="claim:sub"), feed),
        "shed": (gated(half), scope_of("/api/feed/latest", inside)),
        "shed, all": (gated(half | {"buckets": 1_000}), feed),
    }


async def measured(rounds: int, requests: int) -> dict[str, list[float]]:
    """Microseconds per request: of each case one figure per round."""
    chosen = cases()
    found: dict[str, list[float]] = {name: [] for name in chosen}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    status = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    for _ in range(rounds):
        for name, (asked, scope) in chosen.items():
            begun = time.perf_counter_ns()
            for _ in range(requests):
                await asked(scope, receive, send)
            found[name].append((time.perf_counter_ns() - begun) / requests / 1_000)
            if status != (503 if name.startswith("shed") else 200):
                raise SystemExit(f"{name}: answered {status}: the figure would mean nothing")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--requests", type=int, default=500, help="per round and case")
    given = parser.parse_args()
    found = asyncio.run(measured(given.rounds, given.requests))
    figures = {
        name: {
            "us_median": statistics.median(times),
            "cost_us": statistics.median(one - bare for one, bare in zip(times, found["bare"], strict=True)),
        }
        for name, times in found.items()
    }
    for name, figure in figures.items():
        print(f"{name:14} {figure['us_median']:7.2f} us   cost {figure['cost_us']:6.2f} us", file=sys.stderr)
    worst = max(figures[name]["cost_us"] for name in ("unknown", "normal", "expired"))
    print(f"nothing off: at most {worst:.2f} us; the bound is {BOUND_US:g} us", file=sys.stderr)
    if given.json:
        document = {
            "python": platform.python_version(), "rounds": given.rounds, "requests": given.requests,
            "routes": len(ROUTES), "bound_us": BOUND_US, "cases": figures,
        }  # fmt: skip
        print(json.dumps(document, indent=2))
    if worst > BOUND_US:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
