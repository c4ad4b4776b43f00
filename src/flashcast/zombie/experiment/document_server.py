"""The web server of the document: files of one directory, with ETag and 304. It knows nothing of the service."""

from __future__ import annotations

import asyncio
import json
import sys
from hashlib import sha256
from pathlib import Path

from flashcast.zombie.experiment.children import begin, until_stdin_ends
from flashcast.zombie.experiment.wire import Exchange, listen


class Files:
    """Serves the files of a directory by their names, none below it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def handle(self, exchange: Exchange) -> None:
        name = exchange.path.lstrip("/")
        if exchange.method != "GET" or "/" in name or name.startswith("."):
            exchange.answer(404)
            return
        try:
            body = (self._folder / name).read_bytes()
        except OSError:
            exchange.answer(404)
            return
        etag = f'"{sha256(body).hexdigest()[:16]}"'
        if exchange.headers.get("if-none-match") == etag:
            exchange.answer(304, headers={"ETag": etag})
        else:
            exchange.answer(200, body, {"ETag": etag, "Content-Type": "application/json"})


async def _main(folder: Path) -> None:
    server, port = await listen(Files(folder).handle)
    begin({"port": port})
    await until_stdin_ends()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(json.loads(sys.argv[1])["folder"])))
