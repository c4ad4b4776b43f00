"""The endpoint of complaints: an ASGI app, to run with `flashcast zombie reports serve` or to mount into your server.

    POST /reports   one complaint, an array of them (application/json), or JSON lines (application/x-ndjson)
    GET  /counts    counts over time: ?since=24h&every=1h&by=feature        needs the token
    GET  /alarm     what the alarm says of each feature                      needs the token
    GET  /metrics   the same for Prometheus                                  needs the token
    GET  /health    200 while complaints can be written, else 503

Trusted senders show the token. Without it complaints of open sources are taken, within rates by address and in all.
What is answered with 200 is on the disk.

**One writer.** Requests hand their complaints to one task, which checks, sorts and writes what has come meanwhile in
one transaction, in a thread. It also writes the heartbeat that tells that the sources were heard: through the same
queue, so that a disk that is full or a writer that hangs ends the heartbeats as well.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from flashcast.clock import Clock, SystemClock
from flashcast.errors import FlashcastError, InputError
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
    header,
    json_of,
    path_of,
    problem,
    shows,
)
from flashcast.zombie.reports import bounds, metrics
from flashcast.zombie.reports.complaint import Intake, Taken
from flashcast.zombie.reports.config import ReportsConfig
from flashcast.zombie.reports.limiter import Limiter
from flashcast.zombie.reports.series import Asked, series_document
from flashcast.zombie.reports.store import Store
from flashcast.zombie.reports.watching import Watched, document, watch
from flashcast.zombie.threads import in_thread

_LINES: Final = (b"application/x-ndjson", b"application/jsonl", b"application/x-jsonlines")
_FIELDS_MAX: Final = 20
"""Of a query."""
_PATHS: Final = {
    "/reports": ("POST", "OPTIONS"),
    "/counts": ("GET", "HEAD"),
    "/alarm": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
}


class _Job(NamedTuple):
    """Complaints of one request; none is a heartbeat."""

    said: list[object]
    trusted: bool
    done: asyncio.Future[tuple[Taken, int]]


class Endpoint:
    """The app. Belongs to one event loop; opens the store with the first request or the server's start."""

    def __init__(
        self,
        config: ReportsConfig,
        *,
        token: bytes | None = None,
        user_key: bytes | None = None,
        clock: Clock | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.fault = ""
        """Why complaints cannot be written; empty while they can."""
        self.received: Counter[str] = Counter()
        """New complaints by source since the start."""
        self._token, self._clock, self._tell = token, clock or SystemClock(), tell
        self._intake = Intake(config, user_key)
        self._limiter = Limiter(config.endpoint)
        self._store: Store | None = None
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._pending = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._watched: tuple[float, Watched] | None = None
        self._reading = asyncio.Lock()
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Endpoint {self.config.app} received={self.received.total()} pending={self._pending}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3: HTTP and lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        if scope["type"] != "http":
            return
        try:
            if not self._tasks:
                await self.start()
            answer = await self._answer(scope, receive)
        except RefusedRequest as refused:
            answer = refused.answer
        except FlashcastError as error:
            # The reason may name paths of this machine: it is for the operator alone.
            self._tell(error.message)
            answer = problem(503, "complaints cannot be read or written now", (b"retry-after", b"30")).answer
        await give(send, answer, self._cors(scope), head=scope["method"] == "HEAD")

    async def start(self) -> None:
        """Opens the store and begins to write. Raises FlashcastError where it cannot be opened."""
        async with self._starting:
            if self._tasks:
                return
            self._store = await in_thread(lambda: Store(Path(self.config.store)))
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._write()), loop.create_task(self._beat())]

    async def close(self) -> None:
        """Ends in order: heartbeats, then what waits is written, then the store is closed."""
        if not self._tasks:
            return
        writer, beat = self._tasks
        beat.cancel()
        await asyncio.wait([beat])
        while self._pending:
            await asyncio.sleep(0.01)
        writer.cancel()
        await asyncio.wait([writer])
        self._tasks = []
        if self._store is not None:
            self._store.close()

    # --- Answers ------------------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = path_of(scope), scope["method"]
        methods = _PATHS.get(path)
        if methods is None:
            raise problem(404, f"there is {', '.join(_PATHS)}")
        if method not in methods:
            raise problem(405, f"{path} takes {methods[0]}", (b"allow", ", ".join(methods).encode()))
        if method == "OPTIONS":
            return Answer(204)
        if path == "/health":
            return as_json(503, {"status": "failing"}) if self.fault else as_json(200, {"status": "ok"})
        if path == "/reports":
            return await self._take(scope, receive)
        check_token(scope, self._token)
        if path == "/counts":
            return await self._counts(scope)
        if path == "/alarm":
            return as_json(200, document(await self.watched()))
        store, watched = self._opened, await self.watched()
        totals = await self._read(store.totals)
        return Answer(200, metrics.text_of(totals, watched, self.received).encode(), kind=metrics.KIND)

    async def _take(self, scope: Scope, receive: Receive) -> Answer:
        trusted = shows(scope, self._token)
        if trusted is False:
            check_token(scope, self._token)
        if trusted is None and not any(source.open for source in self.config.sources.values()):
            check_token(scope, self._token)
        bytes_max = bounds.BODY_BYTES_MAX if trusted else bounds.OPEN_BODY_BYTES_MAX
        said, single = _complaints(scope, await body_of(scope, receive, bytes_max, bounds.BODY_S_MAX))
        if trusted is None:
            self._limit(scope, len(said))
        if self._pending + len(said) > bounds.PENDING_MAX:
            raise problem(503, "too many complaints are waiting to be written", (b"retry-after", b"5"))
        job = _Job(said, bool(trusted), asyncio.get_running_loop().create_future())
        self._pending += len(said)
        self._jobs.put_nowait(job)
        taken, added = await asyncio.shield(job.done)
        return _told(taken, added, single=single)

    def _limit(self, scope: Scope, count: int) -> None:
        client = scope.get("client")
        wait_s = self._limiter.wait_s(client[0] if client else None, count, self._clock.monotonic_ns() / 1e9)
        if math.isinf(wait_s):
            raise problem(413, "without a token no more than a few complaints are taken at once")
        if wait_s > 0:
            raise problem(429, "too many complaints", (b"retry-after", str(math.ceil(wait_s)).encode()))

    async def _counts(self, scope: Scope) -> Answer:
        try:
            query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), max_num_fields=_FIELDS_MAX))
        except ValueError:
            raise problem(422, f"the query has more than {_FIELDS_MAX} fields") from None
        try:
            asked = Asked.of(query, self._clock.time())
        except InputError as error:
            raise problem(422, error.message) from None
        store = self._opened
        return as_json(200, await self._read(lambda: series_document(store, asked, self.config.watched)))

    async def watched(self) -> Watched:
        """What the alarm says, made anew every few seconds however many ask."""
        async with self._reading:
            now_s = self._clock.monotonic_ns() / 1e9
            if self._watched is None or now_s - self._watched[0] >= bounds.FINDINGS_S:
                store, now = self._opened, self._clock.time()
                self._watched = now_s, await in_thread(lambda: watch(store, self.config, now))
            return self._watched[1]

    async def _read(self, work: Callable[[], Any]) -> Any:
        # One at a time: whoever asks for more waits, rather than having a thread each.
        async with self._reading:
            return await in_thread(work)

    @property
    def _opened(self) -> Store:
        assert self._store is not None, "start opens it"
        return self._store

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """For pages that may send to open sources. The token is never for pages, so no credentials are allowed."""
        origin = header(scope, b"origin")
        allowed = self.config.endpoint.origins
        if origin is None or path_of(scope) != "/reports" or not allowed:
            return []
        if "*" not in allowed and origin.decode("latin-1") not in allowed:
            return [(b"vary", b"Origin")]
        found = [(b"access-control-allow-origin", b"*" if "*" in allowed else origin), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS":
            found += [
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", b"content-type"),
                (b"access-control-max-age", b"86400"),
            ]
        return found

    # --- Writing -------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            size = len(jobs[0].said)
            while not self._jobs.empty() and size < bounds.GROUP_MAX:
                jobs.append(self._jobs.get_nowait())
                size += len(jobs[-1].said)
            try:
                await self._write_group(jobs)
            finally:
                self._pending -= size

    async def _write_group(self, jobs: list[_Job]) -> None:
        now = self._clock.time()
        beats = any(not job.said for job in jobs)
        try:
            done = await in_thread(lambda: self._written(jobs, now, beats=beats))
        except Exception as error:  # noqa: BLE001 - one that is not foreseen must not end the writer unheard
            message = error.message if isinstance(error, FlashcastError) else f"{type(error).__name__}: {error}"
            if message != self.fault:
                self._tell(f"complaints cannot be written: {message}")
            self.fault = message
            answer = problem(503, "complaints cannot be written now", (b"retry-after", b"30"))
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(answer)
                    job.done.exception()  # a heartbeat's is nobody's to retrieve
            return
        if self.fault:
            self.fault = ""
            self._tell("complaints can be written again")
        for job, (taken, added) in zip(jobs, done, strict=True):
            if not job.done.done():
                job.done.set_result((taken, added))

    def _written(self, jobs: list[_Job], now: float, *, beats: bool) -> list[tuple[Taken, int]]:
        store, done = self._opened, []
        taken = [self._intake.take(job.said, now, trusted=job.trusted) for job in jobs]
        heard = [(name, now) for name, one in self.config.sources.items() if one.via == "endpoint"] if beats else []
        # Each request is told what was new of its own, so each is counted by itself in the one transaction.
        added = store.add_each([one.records for one in taken], heard)
        for one, new in zip(taken, added, strict=True):
            for record in new:
                self.received[record.source] += 1
            done.append((one, len(new)))
        return done

    async def beat(self) -> None:
        """Notes that the endpoint's sources are heard, once what came before is written. Raises where it cannot."""
        job = _Job([], True, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        await job.done

    async def _beat(self) -> None:
        purge_at = time.monotonic()
        while True:
            with suppress(RefusedRequest):
                await self.beat()
            if time.monotonic() >= purge_at and not self.fault:
                purge_at = time.monotonic() + bounds.PURGE_EVERY_S
                with suppress(FlashcastError):
                    await self._purge()
            await asyncio.sleep(bounds.HEARTBEAT_S)

    async def _purge(self) -> None:
        store, now = self._opened, self._clock.time()
        await in_thread(lambda: store.purge(now, self.config.keep_days))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except FlashcastError as error:
                    await send({"type": "lifespan.startup.failed", "message": error.message})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _complaints(scope: Scope, body: bytes) -> tuple[list[object], bool]:
    """The complaints of a body, and whether it was one by itself."""
    kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind in _LINES:
        said: list[object] = [_line(line) for line in body.split(b"\n") if line.strip()]
    elif kind in (b"application/json", b""):
        whole = json_of(body)
        if not isinstance(whole, list):
            return [whole], True
        said = whole
    else:
        raise problem(415, "send application/json or application/x-ndjson")
    if not 0 < len(said) <= bounds.BATCH_COMPLAINTS_MAX:
        raise problem(413 if said else 422, f"send 1 to {bounds.BATCH_COMPLAINTS_MAX} complaints at once")
    return said, False


def _line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # no object: refused with its place


def _told(taken: Taken, added: int, *, single: bool) -> Answer:
    if single and taken.refused:
        raise problem(422, "the complaint is wrong", fields=[fault._asdict() for fault in taken.refused[0][1]])
    said = {
        "new": added, "known": len(taken.records) - added, "old": taken.old, "retimed": taken.retimed,
        "refused": [{"index": i, "fields": [fault._asdict() for fault in faults]} for i, faults in taken.refused],
    }  # fmt: skip
    nothing = bool(taken.refused) and not taken.records and not taken.old
    return as_json(422 if nothing else 200, said)
