"""Following the document, and judging requests by it.

One thread per process polls; requests read one attribute, the table of the document in force, which is replaced as a
whole. So a request never waits for a poll, whatever event loop or thread it runs in, and never sees half a change.

Where there is no table everything is served: before the first document, after the last has expired, when nothing is
off. What fails here must not take the service with it, so a fault in finding out whose request it is serves it, too.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final, NamedTuple

from flashcast.clock import Clock, SystemClock
from flashcast.errors import EnvironmentFault, FlashcastError
from flashcast.zombie import keys
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX, POLL_S_MIN
from flashcast.zombie.client.core import Core, News, Polled
from flashcast.zombie.client.http import HttpResponse, Transport, retry_after_s
from flashcast.zombie.document import Document, Level, file_name
from flashcast.zombie.keys import PublicKey
from flashcast.zombie.servers.identify import Identify, Scope, identifiers
from flashcast.zombie.servers.routing import Routing
from flashcast.zombie.servers.sources import replace_file, transport_of
from flashcast.zombie.servers.table import Answer, Routes, Table, compiled

_LOG: Final = logging.getLogger("flashcast.zombie")

POLL_S_DEFAULT: Final = 10.0
"""Apps ask once a minute because there are millions of them. A thousand server processes that ask every 10 s are 100
requests a second, and cost an operator's decision 10 s, which is what caches take anyhow."""
POLL_JITTER: Final = 0.5
"""Up to half as much again at random: a fleet that was started together does not ask together."""
POLL_FAILED_S_MAX: Final = 60.0
"""After failures the wait doubles up to this. A cache that is down for a minute is no reason to be deaf for more."""
POLL_RETRY_AFTER_S_MAX: Final = 300.0


class GateStatistics(NamedTuple):
    """What a gate has seen since it was made. ``shed`` counts by feature, ``""`` for routes without one."""

    version: int
    level: Level
    polls: int
    news: dict[str, int]
    refusals: dict[str, int]
    shed: dict[str, int]
    faults: int


class Gate:
    """What a server does by the document. Every method may be called from any thread.

        gate = Gate(load_routing(path), source="https://cdn.example/zombie", trusted=[KEY])

    routing     which requests are which feature, and whose they are
    source      where documents are published: an address as apps see it, a directory, or a bucket (`s3://...`)
    trusted     public keys: texts (43 characters of base64url), PEM, or `PublicKey`
    identify    instead of the routing's own: names or functions of an ASGI scope, tried in this order
    poll_s      seconds from one poll to the next, at least 5
    keep        a file in which the last good document outlives the process; processes may share it
    transport   instead of the one for ``source``: any callable, see `client/http.py`

    Raises InputError where one of them is wrong.
    """

    def __init__(
        self,
        routing: Routing,
        *,
        source: str | Path,
        trusted: Sequence[PublicKey | str],
        identify: Sequence[Identify | str] | None = None,
        poll_s: float = POLL_S_DEFAULT,
        keep: Path | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        base, fetch = transport_of(source)
        self.routing: Final = routing
        self.table: Table | None = None
        """What is decided now; None where nothing is off."""
        self.needs_start = True
        """Whether nobody polls yet in this process."""
        self._routes = Routes(routing.routes)
        self._identify = identifiers(routing.identify if identify is None else identify)
        self._poll_s = max(float(poll_s), float(POLL_S_MIN))
        self._keep = keep
        self._transport = transport or fetch
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom().random
        self._core = Core(
            app=routing.app,
            url=f"{base}/{file_name(routing.app)}",
            trusted=keys.trusted(trusted),
            random=self._random,
            now=self._clock.time(),
        )
        self._document: Document | None = None
        self._failures = 0
        self._news: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._shed: Counter[str] = Counter()
        self._faults = 0
        self._locks()
        self._restore()
        _restart_after_fork(self)

    def __repr__(self) -> str:
        return f"<Gate {self.routing.app} {self.table!r}>"

    # --- Requests -------------------------------------------------------------------------------

    def judge(self, method: str, path: str, scope: Scope) -> Answer | None:
        """What a request is told instead of being served; None where it is to be served. Raises nothing."""
        table = self.table
        if table is None or self._clock.time() >= table.expires_at:
            return None
        try:
            answer = table.answer(method, path)
            if answer is None:
                return None
            if not table.everyone:
                user = self._user(scope)
                if user is None or not table.is_inside(user):
                    return None
        except Exception:  # noqa: BLE001 - whatever it is, the service must not fall with its gate
            self._fault()
            return None
        with self._counting:
            self._shed[answer.feature] += 1
        return answer

    def told(self, answer: Answer) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body for a request that is shed."""
        return answer.told(self._random())

    def _user(self, scope: Scope) -> str | None:
        for find in self._identify:
            try:
                found = find(scope)
            except Exception:  # noqa: BLE001 - it may be the service's own function
                self._fault()
                continue
            if found:
                return found
        return None

    def _fault(self) -> None:
        with self._counting:
            self._faults += 1
            first = self._faults == 1
        if first:
            _LOG.exception("a request could not be judged and is served; from now on this is only counted")

    # --- Following ------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread that polls, once per process. It keeps no process alive."""
        with self._starting:
            if self.needs_start:
                self.needs_start = False
                threading.Thread(
                    target=_follow, args=(weakref.ref(self), self._ending), name="flashcast-zombie-gate", daemon=True
                ).start()

    def stop(self) -> None:
        """Ends polling for good. What is decided stays until it expires."""
        with self._starting:
            self._ending.set()
            self.needs_start = False

    def poll(self) -> float:
        """Asks for the document now, waits for the answer, and returns the seconds until the next time.

        What the thread does; for those who wish to know how things stand before they serve. Raises nothing.
        """
        with self._polling:
            polled, retry_after = self._asked()
            self._failures = self._failures + 1 if polled.news is News.FAILED else 0
            if polled.save:
                self._save()
            self._swap()
        with self._counting:
            self._news[polled.news.value] += 1
            if polled.refusal is not None:
                self._refusals[polled.refusal.value] += 1
                first = self._refusals[polled.refusal.value] == 1
            else:
                first = False
        if first and polled.refusal is not None:
            _LOG.warning("the document of %s is refused: %s", self.routing.app, polled.refusal.value)
        return self._wait_s(retry_after) * (1 + POLL_JITTER * self._random())

    def statistics(self) -> GateStatistics:
        """Counts since it was made."""
        document = self._core.last
        with self._counting:
            return GateStatistics(
                version=document.version if document else 0,
                level=self._document.level if self._document else Level.NORMAL,
                polls=self._news.total(),
                news=dict(self._news),
                refusals=dict(self._refusals),
                shed=dict(self._shed),
                faults=self._faults,
            )

    def _asked(self) -> tuple[Polled, float]:
        request = self._core.request(self._clock.time())
        try:
            response: HttpResponse | None = self._transport(request)
        except (FlashcastError, OSError):
            response = None
        except Exception:  # noqa: BLE001 - it may be the service's own transport
            _LOG.exception("the document could not be asked for")
            response = None
        now = self._clock.time()
        if response is None:
            return self._core.failed(now), 0.0
        return self._core.answered(response, now), retry_after_s(response.headers, now) or 0.0

    def _swap(self) -> None:
        document = self._core.standing("", self._clock.time()).document
        if (document and document.version) == (self._document and self._document.version):
            return
        self._document = document
        self.table = compiled(document, self.routing, self._routes) if document else None
        _LOG.info(
            "zombie mode of %s: %s, %d of 1,000 buckets, version %d",
            self.routing.app,
            document.level.value if document else "no document in force",
            document.buckets if document else 0,
            document.version if document else 0,
        )

    def _wait_s(self, retry_after: float) -> float:
        if not self._failures:
            return self._poll_s
        doubled = self._poll_s * 2.0 ** min(self._failures, 10)
        return max(self._poll_s, min(doubled, POLL_FAILED_S_MAX), min(retry_after, POLL_RETRY_AFTER_S_MAX))

    # --- Keeping --------------------------------------------------------------------------------

    def _restore(self) -> None:
        if self._keep is None:
            return
        try:
            with self._keep.open("rb") as file:
                data = file.read(ENVELOPE_BYTES_MAX + 1)
        except OSError:
            return
        if self._core.restore(data, ""):
            self._swap()

    def _save(self) -> None:
        if self._keep is None:
            return
        try:
            replace_file(self._keep, self._core.saved[0])
        except EnvironmentFault as fault:
            _LOG.error("%s", fault.message)

    def _locks(self) -> None:
        """Made anew in a child process: those of its parent may be held by threads that it does not have."""
        self._ending = threading.Event()
        self._starting = threading.Lock()
        self._polling = threading.Lock()
        self._counting = threading.Lock()

    def _forked(self) -> None:
        ended = self._ending.is_set()
        self._locks()
        if ended:
            self._ending.set()
        else:
            self.needs_start = True


def _follow(held: weakref.ref[Gate], ending: threading.Event) -> None:
    """The thread. It holds the gate only while it polls, so that one that nobody has any more ends with it."""
    while not ending.is_set():
        gate = held()
        if gate is None:
            return
        try:
            wait_s = gate.poll()
        except Exception:  # noqa: BLE001 - a thread that ends would leave the service deaf
            _LOG.exception("polling the document failed")
            wait_s = POLL_FAILED_S_MAX
        del gate
        ending.wait(wait_s)


def _restart_after_fork(gate: Gate) -> None:
    """Servers that load the app first and fork then: threads do not come along, the next request starts one."""
    held = weakref.ref(gate)

    def child() -> None:
        forked = held()
        if forked is not None:
            forked._forked()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=child)
