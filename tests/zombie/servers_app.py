"""The middleware in a real server, for tests: `uvicorn servers_app:app`, with what it is to read in the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flashcast.zombie.middleware import Gate, ZombieMiddleware, routing_of


async def served(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"served"})


_folder = Path(os.environ["TEST_FOLDER"])
_gate = Gate(
    routing_of(json.loads((_folder / "routing.json").read_text(encoding="utf-8"))),
    source=_folder,
    trusted=[os.environ["TEST_KEY"]],
)
# Not later, in a thread: the first request of a test is to meet the document.
_gate.poll()
app = ZombieMiddleware(served, _gate)
