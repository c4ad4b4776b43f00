"""The door for pushed values: an ASGI app in the controller's own process (`flashcast zombie watch --listen`).

    POST /signals/NAME   {"value": 3.5, "at": 1800000000.0}   `at` in Unix seconds, default now   -> 204
    GET  /health                                                                                 -> 200

What comes goes to `Signals.push`, in the event loop that the signals belong to. Every value needs the token: whoever
can push can switch apps off, or keep them from being.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from flashcast.errors import InputError
from flashcast.zombie.asgi import (
    Answer,
    Receive,
    RefusedRequest,
    Scope,
    Send,
    as_json,
    body_of,
    check_token,
    give,
    json_of,
    path_of,
    problem,
)

BODY_BYTES_MAX: Final = 4_096
BODY_S_MAX: Final = 5.0
CONNECTIONS_MAX: Final = 100
"""Those who push are a few programs; beyond, they are answered with 503."""
_SIGNAL: Final = re.compile(r"/signals/([a-z0-9][a-z0-9_-]{0,39})")


class PushDoor:
    """Hands values to ``push(name, value, at)``, which raises InputError where it does not take one."""

    def __init__(self, push: Callable[[str, float, float | None], None], token: bytes) -> None:
        self._push, self._token = push, token
        self.pushed = 0

    def __repr__(self) -> str:
        return f"<PushDoor pushed={self.pushed}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3; HTTP alone."""
        if scope["type"] != "http":
            return
        try:
            answer = await self._answer(scope, receive)
        except RefusedRequest as refused:
            answer = refused.answer
        await give(send, answer, head=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = path_of(scope), scope["method"]
        if path == "/health" and method in ("GET", "HEAD"):
            return as_json(200, {"status": "ok"})
        named = _SIGNAL.fullmatch(path)
        if named is None:
            raise problem(404, "there is POST /signals/NAME and GET /health")
        if method != "POST":
            raise problem(405, "POST a value", (b"allow", b"POST"))
        check_token(scope, self._token)
        said = json_of(await body_of(scope, receive, BODY_BYTES_MAX, BODY_S_MAX))
        if not isinstance(said, dict) or "value" not in said or not set(said) <= {"value", "at"}:
            raise problem(422, 'send {"value": number, "at": Unix seconds}; `at` may be left out')
        self._take(named[1], said)
        return Answer(204)

    def _take(self, name: str, said: dict[str, Any]) -> None:
        try:
            self._push(name, said["value"], said.get("at"))
        except InputError as error:
            status = 404 if "nobody pushes it" in error.message else 422
            raise problem(status, error.message) from None
        self.pushed += 1
