"""A document and the routing, compiled: what is decided for each request. Immutable, and without IO.

The order of the questions is that of their cost. Most requests of a service that is well meet none of them: where
nothing is off for anybody there is no table at all. Then the path says which route it is, and with it whether the
document reaches it; only then somebody looks whose request it is, and hashes. Where everybody is in it, nobody does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from flashcast.zombie.bounds import RETRY_AFTER_S_MAX
from flashcast.zombie.buckets import BUCKETS, bucket, cohort_of, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers.routing import ALWAYS_SERVED, SAFE, Route, Routing

LEVEL: Final = "zombie-level"
VERSION: Final = "zombie-version"
FEATURE: Final = "zombie-feature"
"""Headers of an answer that sheds. `zombie-level` is in no other answer: it tells a client that this 503 is meant, and
`zombie-version` whether the document it rests on is newer than the client's own."""

_NOWHERE: Final = -1

Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """What requests of one route are told. Only the seconds differ from one to the next."""

    feature: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    wait_s: int
    spread_s: int

    def told(self, random: float) -> tuple[Headers, bytes]:
        """Headers and body. ``random`` from 0 to 1 (not included) spreads those who are turned away together."""
        seconds = b"%d" % (self.wait_s + int(random * (self.spread_s + 1)))
        body = self.body + seconds + b"}\n"
        return [*self.headers, (b"retry-after", seconds), (b"content-length", b"%d" % len(body))], body


class Routes:
    """Finds the route of a request: one regular expression per method."""

    def __init__(self, routes: Sequence[Route]) -> None:
        named = {method for route in routes for method in route.methods}
        self._by_method = {method: _compiled(routes, method) for method in named | SAFE}
        self._others = _compiled(routes, "")

    def find(self, method: str, path: str) -> int:
        """The index of the first route that fits, -1 where none does."""
        search, indices = self._by_method.get(method, self._others)
        found = search(path)
        # Each route is one group, so the last one that took part is the route.
        return indices[(found.lastindex or 1) - 1] if found is not None else _NOWHERE


class Table:
    """What a document means for requests. `compiled` makes it, or None where it means nothing."""

    __slots__ = (
        "_app", "_buckets", "_cohorts", "_of", "_reads", "_routes", "_salt", "_writes",
        "everyone", "expires_at", "version",
    )  # fmt: skip

    def __init__(self, document: Document, routing: Routing, routes: Routes) -> None:
        self.version: Final = document.version
        self.expires_at: Final = float(document.expires_at)
        self._routes: Final = routes
        self._reads: Final = _answers(document, routing, "GET")
        self._writes: Final = _answers(document, routing, "POST")
        self._app: Final = routing.app
        self._salt: Final = document.salt
        self._buckets: Final = document.buckets
        self._of: Final = routing.cohorts
        self._cohorts: Final = cohorts_in(document.salt, routing.cohorts, document.buckets)
        self.everyone: Final = document.buckets == BUCKETS or len(self._cohorts) == routing.cohorts > 0
        """Whether all users are in it, so that nobody needs to be told from another."""

    def __repr__(self) -> str:
        return f"<Table version={self.version} buckets={self._buckets} until={self.expires_at:.0f}>"

    @property
    def means_nothing(self) -> bool:
        """Whether no request of anybody is shed."""
        return not self._buckets or not any((*self._reads, *self._writes))

    def answer(self, method: str, path: str) -> Answer | None:
        """What users who are in it are told; None where the document does not reach these requests."""
        if method == ALWAYS_SERVED:
            return None
        index = self._routes.find(method, path)
        if index < 0:
            return None
        return (self._reads if method in SAFE else self._writes)[index]

    def is_inside(self, user: str) -> bool:
        """Whether a user is in it."""
        if self._of:
            return cohort_of(self._app, user, self._of) in self._cohorts
        return bucket(self._salt, user) < self._buckets


def compiled(document: Document, routing: Routing, routes: Routes) -> Table | None:
    """The table of a document, None where it sheds nothing."""
    table = Table(document, routing, routes)
    return None if table.means_nothing else table


def retry_spread(document: Document) -> tuple[int, int]:
    """The least seconds of `Retry-After`, and over how many more it is spread: the drain period.

    Whoever is turned away in the same second comes back over as long a time as queued writes do. Both together stay
    within what clients believe (an hour).
    """
    wait_s = min(document.wait_s, RETRY_AFTER_S_MAX)
    return wait_s, min(document.drain_s, RETRY_AFTER_S_MAX - wait_s)


def told_headers(document: Document, feature: str) -> dict[str, str]:
    """The headers of an answer that sheds, but for `Retry-After` and those of its body."""
    said = {"cache-control": "no-store", LEVEL: document.level.value, VERSION: str(document.version)}
    return said | ({FEATURE: feature} if feature else {})


def told_body(document: Document, feature: str) -> str:
    """The body, up to the seconds; ``}`` and a line's end come after them."""
    said = {"error": "unavailable", "level": document.level.value} | ({"feature": feature} if feature else {})
    return json.dumps(said, separators=(",", ":"))[:-1] + ',"retry_after_s":'


def _answers(document: Document, routing: Routing, method: str) -> tuple[Answer | None, ...]:
    return tuple(
        _answer(document, route.feature or "") if route.is_reached(document, write=route.writes(method)) else None
        for route in routing.routes
    )


def _answer(document: Document, feature: str) -> Answer:
    said = {"content-type": "application/json"} | told_headers(document, feature)
    headers = tuple((name.encode(), value.encode()) for name, value in said.items())
    return Answer(feature, headers, told_body(document, feature).encode(), *retry_spread(document))


def _compiled(routes: Sequence[Route], method: str) -> tuple[Callable[[str], re.Match[str] | None], tuple[int, ...]]:
    chosen = [(i, route.regex) for i, route in enumerate(routes) if not route.methods or method in route.methods]
    pattern = "|".join(f"({regex})" for _, regex in chosen) or "(?!)"
    return re.compile(pattern).fullmatch, tuple(i for i, _ in chosen)
