"""What the world sees: the published document fetched from its public address, through whatever cache is in between."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, TransportError
from flashcast.zombie.document import RefusedError
from flashcast.zombie.envelope import open_sealed
from flashcast.zombie.keys import Trusted

WAIT_S_MAX: Final = 30.0
"""max-age and stale-while-revalidate are 20 s together: an edge that shows the old document after 30 will go on so."""
WAIT_S_STEP: Final = 2.0
MAX_AGE_S_MAX: Final = 60
"""A cache that keeps the document longer than a poll interval is the slowest part of the chain."""


class Seen(StrEnum):
    """What the public address shows."""

    NEW = "new"
    """The document that was published, or one that is newer still."""
    OLD = "old"
    """An older one, also at the end of the wait."""
    REFUSED = "refused"
    """Something that an app would refuse, or no file at all."""
    UNREACHABLE = "unreachable"
    """No answer."""


class PublicCheck(NamedTuple):
    """What was seen in the end, after how many seconds, and what about the answer would trouble apps."""

    url: str
    seen: Seen
    version: int
    waited_s: float
    advice: tuple[str, ...]


def check_public(
    base_url: str,
    name: str,
    version: int,
    trusted: Trusted,
    *,
    transport: Transport,
    wait_s: float = WAIT_S_MAX,
    sleep: Callable[[float], None] = time.sleep,
) -> PublicCheck:
    """Fetches ``name`` below ``base_url`` as apps would, until it has ``version`` or ``wait_s`` seconds are over.

    Raises nothing: the document is published, whatever the caches do.
    """
    url, waited_s = f"{base_url.rstrip('/')}/{name}", 0.0
    while True:
        check = _look(url, version, trusted, transport)._replace(waited_s=waited_s)
        if check.seen is Seen.NEW or waited_s >= wait_s:
            return check
        sleep(WAIT_S_STEP)
        waited_s += WAIT_S_STEP


def _look(url: str, version: int, trusted: Trusted, transport: Transport) -> PublicCheck:
    try:
        answer = transport(HttpRequest("GET", url, response_bytes_max=ENVELOPE_BYTES_MAX + 1))
    except (TransportError, OSError) as error:
        return PublicCheck(url, Seen.UNREACHABLE, 0, 0.0, (str(error),))
    if answer.status != 200:
        return PublicCheck(url, Seen.REFUSED, 0, 0.0, (f"the answer is {answer.status}",))
    try:
        found = open_sealed(answer.body, trusted).document.version
    except RefusedError as error:
        return PublicCheck(url, Seen.REFUSED, 0, 0.0, (f"apps would refuse it: {error.message}",))
    return PublicCheck(url, Seen.NEW if found >= version else Seen.OLD, found, 0.0, tuple(_advice(answer)))


def _advice(answer: HttpResponse) -> list[str]:
    found = []
    control = answer.headers.get("cache-control", "")
    age = re.search(r"max-age=(\d{1,9})", control)
    if age is None:
        found.append("no max-age: each cache decides by itself how long it keeps the document")
    elif int(age[1]) > MAX_AGE_S_MAX:
        found.append(f"max-age={age[1]}: a change may be that many seconds late; {MAX_AGE_S_MAX} is plenty")
    if not answer.headers.get("etag"):
        found.append("no ETag: every poll carries the whole document")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        found.append(f"content-type is {kind or 'missing'}, not application/json: some proxies meddle with pages")
    return found
