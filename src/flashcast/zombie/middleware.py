"""ASGI middleware that sheds: for FastAPI, Starlette, Quart, or any other app that speaks ASGI 3.

    from flashcast.zombie.middleware import Gate, ZombieMiddleware, load_routing

    gate = Gate(load_routing(Path("routing.toml")), source="https://cdn.example/zombie", trusted=[KEY])
    app.add_middleware(ZombieMiddleware, gate=gate)      # or: app = ZombieMiddleware(app, gate)

Put it inside what answers for browsers' CORS, and outside everything that costs anything: sessions, authentication,
the database. docs/guides/zombie-servers.md tells what it is good for.

It buffers nothing and holds no state per request. While nothing is off a request costs it one attribute; the gate's
thread is started by the first request, or the server's start, in each process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from flashcast.zombie.servers.gate import Gate, GateStatistics
from flashcast.zombie.servers.identify import Identify, by_address, by_claim, by_cookie, by_header
from flashcast.zombie.servers.routing import Priority, Route, Routing, load_routing, routing_of
from flashcast.zombie.servers.table import Answer

__all__ = [
    "Gate",
    "GateStatistics",
    "Identify",
    "Priority",
    "Route",
    "Routing",
    "ZombieMiddleware",
    "by_address",
    "by_claim",
    "by_cookie",
    "by_header",
    "load_routing",
    "routing_of",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

STATUS: Final = 503
TRY_AGAIN_LATER: Final = 1013
"""The WebSocket close code (IANA registry, RFC 6455 section 7.4) where a server cannot answer a handshake otherwise;
before the handshake is done it reaches the client as 403."""


class ZombieMiddleware:
    """Answers requests that are to be shed with 503, and hands all others to ``app``."""

    __slots__ = ("app", "gate")

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app: Final = app
        self.gate: Final = gate

    def __repr__(self) -> str:
        return f"<ZombieMiddleware {self.gate!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        gate = self.gate
        if gate.needs_start:
            gate.start()
        if gate.table is not None:
            kind = scope["type"]
            if kind == "http":
                answer = gate.judge(scope["method"], scope["path"], scope)
                if answer is not None:
                    await _refuse(gate, answer, send, is_head=scope["method"] == "HEAD")
                    return
            elif kind == "websocket":
                answer = gate.judge("GET", scope["path"], scope)
                if answer is not None:
                    await _refuse_websocket(gate, answer, scope, receive, send)
                    return
        await self.app(scope, receive, send)


async def _refuse(gate: Gate, answer: Answer, send: Send, *, is_head: bool) -> None:
    headers, body = gate.told(answer)
    await send({"type": "http.response.start", "status": STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


async def _refuse_websocket(gate: Gate, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    # ASGI: the handshake is answered after `websocket.connect` was received. A client that left needs no answer.
    if (await receive())["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or {}):
        headers, body = gate.told(answer)
        await send({"type": "websocket.http.response.start", "status": STATUS, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "shed"})
