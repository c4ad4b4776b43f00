"""What a client is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from flashcast.errors import FlashcastError
from flashcast.zombie.bounds import QUEUE_BYTES_MAX, QUEUE_WRITES_MAX
from flashcast.zombie.client.core import Polled, Standing
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.client.writes import Fate, Write
from flashcast.zombie.document import Cohort, file_name
from flashcast.zombie.keys import PublicKey

OnFull = Literal["refuse", "drop-oldest"] | Callable[[Write, Sequence[Write]], Iterable[str]]


class QueueFullError(FlashcastError):
    """The write queue is at its bound, and the app chose not to drop anything; the write was not taken."""


class Result(StrEnum):
    """What became of a write when `write` returned."""

    APPLIED = "applied"
    """A server has it."""
    QUEUED = "queued"
    """It is on disk, and will be sent."""
    REFUSED = "refused"
    """The server does not want it; ``response`` says why. It is not kept: the app knows."""


class Written(NamedTuple):
    """What became of a write, under which id, and the server's answer where there was one."""

    result: Result
    id: str
    response: HttpResponse | None = None


class Statistics(NamedTuple):
    """What a client has seen since it was made."""

    version: int
    polls: int
    news: dict[str, int]
    refusals: dict[str, int]
    queued: int
    queued_bytes: int
    fates: dict[str, int]
    dropped: int
    disk_faults: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a client is told.

    app             the app's name, as in the document
    base_url        the directory or prefix in which the documents are published, as apps see it
    trusted         public keys: texts (43 characters of base64url), PEM, or `PublicKey`
    user            whose bucket decides: a stable id; before anybody has logged in, one of the installation (`log_in`
                    changes it)
    cohort          the cohort whose file is asked for; None: the app's document
    who             an opaque id that polls carry as ``?who=``, so that access logs tell who was told what; the CDN must
                    leave it out of its cache key. Empty: none
    path            the file in which document and queue are kept; None: in memory only, nothing survives the process
    prepare         given each replayed or fetched request just before it is sent: adds what must not be kept on disk,
                    such as a fresh `Authorization`
    on_full         what to do with a write that the queue has no room for: "refuse" raises QueueFullError,
                    "drop-oldest" drops as many as needed, a function is given the write and the kept ones (oldest
                    first) and returns the ids to drop
    on_news         told after each poll; on_write after each attempt of a kept write, and of each dropped one (None)
    """

    app: str
    base_url: str
    trusted: Sequence[PublicKey | str]
    user: str
    cohort: Cohort | None = None
    who: str = ""
    path: Path | None = None
    prepare: Callable[[HttpRequest], HttpRequest] = field(default=lambda request: request)
    queue_writes_max: int = QUEUE_WRITES_MAX
    queue_bytes_max: int = QUEUE_BYTES_MAX
    on_full: OnFull = "refuse"
    on_news: Callable[[Polled, Standing], None] | None = None
    on_write: Callable[[Write, Fate | None], None] | None = None

    @property
    def url(self) -> str:
        """The address of the document that is asked for."""
        query = f"?who={quote(self.who, safe='')}" if self.who else ""
        return f"{self.base_url.rstrip('/')}/{file_name(self.app, self.cohort)}{query}"
