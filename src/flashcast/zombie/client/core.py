"""The client's decisions, without IO: bytes, times and random numbers in, decisions out. Every client does the same.

`Core` holds the last good document. It says when to ask for the next and how, judges what comes, and answers whether a
feature is off for a user. docs/reference/zombie-client.md specifies it; the vectors in clients/conformance hold this
and every other client to it.

Times are Unix seconds by the device's clock, as floats. ``random`` gives numbers from 0 up to, not including, 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from flashcast.zombie.bounds import (
    CLIENT_WAIT_S_MAX,
    ENVELOPE_BYTES_MAX,
    ETAG_BYTES_MAX,
    FEATURES_HELD_MAX,
    POLL_BACKOFF_S_MAX,
    POLL_JITTER_S_DEFAULT,
    POLL_S_DEFAULT,
    POLL_S_MIN,
    RETRY_AFTER_S_MAX,
)
from flashcast.zombie.buckets import bucket
from flashcast.zombie.client.http import HttpRequest, HttpResponse, retry_after_s
from flashcast.zombie.document import EVERYTHING, Cohort, Document, Level, Refusal, RefusedError, Writes
from flashcast.zombie.envelope import Opened, admit, open_sealed
from flashcast.zombie.keys import Trusted

_HOLDING: Final = (429, 503)
"""Answers by which a server asks to be left alone for a while."""
_WAIT_S_DEFAULT: Final = 30
_DRAIN_S_DEFAULT: Final = 600
_BACKOFF_DOUBLINGS_MAX: Final = 10


class News(StrEnum):
    """What a poll brought."""

    CHANGED = "changed"
    """A document that was not there before."""
    UNCHANGED = "unchanged"
    """The document that is there already."""
    NONE = "none"
    """No file (404, 410): nothing was ever published, or it was taken away. What is there stays until it expires."""
    REFUSED = "refused"
    """A document that must not be believed."""
    FAILED = "failed"
    """No answer, or not one that says anything."""


class Polled(NamedTuple):
    """What a poll brought. ``save`` tells whether `Core.saved` has changed and should be persisted."""

    news: News
    refusal: Refusal | None = None
    save: bool = False


class Action(StrEnum):
    """What an app does with a call."""

    SEND = "send"
    """It calls home as ever."""
    FALLBACK = "fallback"
    """It goes on with what it has."""
    QUEUE = "queue"
    """It keeps the write, to be sent later."""


class Why(StrEnum):
    """What a decision rests on."""

    ON = "on"
    """Nothing speaks against it."""
    OFF = "off"
    """The document says so."""
    HELD = "held"
    """The server asked, for this feature, to be left alone for a while."""


class Decision(NamedTuple):
    """What to do with a call, and after how many seconds to ask again where it is not `SEND`."""

    action: Action
    why: Why = Why.ON
    wait_s: float = 0.0


class Standing(NamedTuple):
    """How things stand for a user. ``document`` is the one in force, None where there is none: everything is on."""

    document: Document | None
    bucket: int | None

    @property
    def level(self) -> Level:
        """The document's level; normal where there is none."""
        return self.document.level if self.document else Level.NORMAL

    @property
    def is_inside(self) -> bool:
        """Whether this user is in it: something may be off."""
        document = self.document
        if document is None or document.level is Level.NORMAL or self.bucket is None:
            return False
        return self.bucket < document.buckets

    def is_off(self, feature: str) -> bool:
        """Whether a feature is off for this user."""
        if self.document is None or not self.is_inside:
            return False
        off = self.document.off
        return feature in off or (EVERYTHING in off and feature not in self.document.keep)

    def message(self, locale: str) -> str | None:
        """What to show this user, None for nothing. The locale's own text, its language's, or that for all others."""
        if self.document is None or not self.is_inside:
            return None
        texts = {tag.lower(): text for tag, text in self.document.message.items()}
        tag = locale.replace("_", "-").lower()
        while tag:
            if tag in texts:
                return texts[tag]
            tag = tag.rpartition("-")[0]
        return texts.get(EVERYTHING)


class Core:
    """One app's client. Not thread-safe; `session.py` has the lock."""

    def __init__(
        self,
        *,
        app: str,
        url: str,
        trusted: Trusted,
        random: Callable[[], float],
        now: float,
        cohort: Cohort | None = None,
    ) -> None:
        self._app = app
        self._url = url
        self._trusted = trusted
        self._cohort = cohort
        self._random = random
        self._last: Opened | None = None
        self._file = b""
        self._etag = ""
        self._failures = 0
        self._next_poll_at = now
        self._asked_at: float | None = None
        self._held: dict[str, float] = {}
        self._bucket: tuple[str, str, int] | None = None

    def __repr__(self) -> str:
        version = self._last.document.version if self._last else None
        return f"<Core {self._app} version={version} next_poll_at={self._next_poll_at:.0f}>"

    # --- The document ---------------------------------------------------------------------------

    @property
    def last(self) -> Document | None:
        """The last good document. It may have expired; it still says which versions are too old."""
        return self._last.document if self._last else None

    @property
    def saved(self) -> tuple[bytes, str]:
        """What to persist: the last good file as it was received, and its ETag. Both empty before the first."""
        return self._file, self._etag

    def restore(self, file: bytes, etag: str) -> bool:
        """Takes up what was persisted. Returns whether it is still believed.

        It is judged like any other, save for its times: a key that is no longer trusted takes its document with it,
        and with the document the version below which everything is refused.
        """
        try:
            opened = open_sealed(file, self._trusted)
        except RefusedError:
            return False
        if (opened.document.app, opened.document.cohort) != (self._app, self._cohort):
            return False
        self._last, self._file, self._etag = opened, file, _clean(etag)
        return True

    # --- Polling --------------------------------------------------------------------------------

    @property
    def next_poll_at(self) -> float:
        """When to ask next."""
        return self._next_poll_at

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask. Also where the clock was set back and the time lies beyond any wait."""
        return not now < self._next_poll_at <= now + CLIENT_WAIT_S_MAX

    def poll_soon(self, now: float) -> None:
        """Asks for a poll before its time: the app came to the front, the network is back. At most one in 5 s."""
        soonest = now if self._asked_at is None or self._asked_at > now else max(now, self._asked_at + POLL_S_MIN)
        self._next_poll_at = min(self._next_poll_at, soonest)

    def request(self, now: float) -> HttpRequest:
        """The request to make now. Its answer goes to `answered`, the lack of one to `failed`."""
        self._asked_at = now
        # Until it is answered nobody else asks; and an answer that never comes ends no polling.
        self._next_poll_at = now + POLL_S_DEFAULT
        headers = {"Accept": "application/json"}
        if self._etag and self._last:
            headers["If-None-Match"] = self._etag
        return HttpRequest("GET", self._url, headers, response_bytes_max=ENVELOPE_BYTES_MAX + 1)

    def answered(self, response: HttpResponse, now: float) -> Polled:
        """Judges an answer, and sets the time of the next poll. Raises nothing, whatever the answer."""
        if response.status == 200:
            polled = self._received(response, now)
        elif response.status == 304 and self._etag and self._last:
            polled = Polled(News.UNCHANGED)
        elif response.status in (404, 410):
            polled = Polled(News.NONE)
        else:
            return self._fail(now, retry_after_s(response.headers, now))
        self._failures = 0
        self._schedule(now)
        return polled

    def failed(self, now: float) -> Polled:
        """There was no answer."""
        return self._fail(now, None)

    def _received(self, response: HttpResponse, now: float) -> Polled:
        try:
            opened = open_sealed(response.body, self._trusted)
            admit(opened, app=self._app, cohort=self._cohort, last=self._last, now=now)
        except RefusedError as error:
            return Polled(News.REFUSED, error.reason)
        changed = self._last is None or opened.document.version != self._last.document.version
        before = self.saved
        self._last, self._file, self._etag = opened, response.body, _clean(response.headers.get("etag", ""))
        return Polled(News.CHANGED if changed else News.UNCHANGED, save=self.saved != before)

    def _fail(self, now: float, retry_after: float | None) -> Polled:
        self._failures += 1
        self._schedule(now, retry_after or 0.0)
        return Polled(News.FAILED)

    def _schedule(self, now: float, retry_after: float = 0.0) -> None:
        document = self._in_force(now)
        wait = float(document.poll_s if document else POLL_S_DEFAULT)
        jitter = float(document.poll_jitter_s if document else POLL_JITTER_S_DEFAULT)
        if self._failures:
            doubled = wait * 2.0 ** min(self._failures - 1, _BACKOFF_DOUBLINGS_MAX)
            wait = max(wait, min(doubled, float(POLL_BACKOFF_S_MAX)), min(retry_after, float(RETRY_AFTER_S_MAX)))
            jitter = max(jitter, wait / 2)
        self._next_poll_at = now + wait + self._random() * jitter

    # --- Deciding -------------------------------------------------------------------------------

    def _in_force(self, now: float) -> Document | None:
        if self._last is None or now >= self._last.document.expires_at:
            return None
        return self._last.document

    def standing(self, user: str, now: float) -> Standing:
        """How things stand for ``user`` at ``now``."""
        document = self._in_force(now)
        if document is None:
            return Standing(None, None)
        if self._bucket is None or self._bucket[:2] != (document.salt, user):
            self._bucket = (document.salt, user, bucket(document.salt, user))
        return Standing(document, self._bucket[2])

    def decide(self, user: str, feature: str, now: float, *, write: bool = False) -> Decision:
        """What to do with a call of ``feature``."""
        standing = self.standing(user, now)
        if standing.document is not None and standing.is_off(feature):
            wait_s = float(standing.document.wait_s)
            if not write:
                return Decision(Action.FALLBACK, Why.OFF, wait_s)
            if standing.document.writes is Writes.QUEUE:
                return Decision(Action.QUEUE, Why.OFF, wait_s)
        held_s = self._held.get(feature, now) - now
        if 0 < held_s <= CLIENT_WAIT_S_MAX:
            return Decision(Action.QUEUE if write else Action.FALLBACK, Why.HELD, held_s)
        return Decision(Action.SEND)

    def heard(self, feature: str, status: int, headers: Mapping[str, str], now: float) -> None:
        """Tells how a server answered a call of ``feature``: after 429 and 503 it is left alone for a while.

        As long as `Retry-After` says, else as long as the document says, and up to half as long again at random, so
        that those who were turned away together do not come back together.
        """
        if status not in _HOLDING:
            self._held.pop(feature, None)
            return
        asked = retry_after_s(headers, now)
        document = self._in_force(now)
        wait = min(asked, float(RETRY_AFTER_S_MAX)) if asked is not None else float(self._wait_s(document))
        self._held[feature] = now + wait * (1 + self._random() / 2)
        if len(self._held) > FEATURES_HELD_MAX:
            del self._held[min(self._held, key=self._held.__getitem__)]

    @staticmethod
    def _wait_s(document: Document | None) -> int:
        return document.wait_s if document else _WAIT_S_DEFAULT

    @property
    def drain_s(self) -> int:
        """Seconds over which queued writes are spread: what the last document said, in force or not."""
        return self._last.document.drain_s if self._last else _DRAIN_S_DEFAULT

    def changes_at(self, now: float) -> float | None:
        """When standings change by themselves: the end of the document in force. None where none is."""
        document = self._in_force(now)
        return float(document.expires_at) if document else None


def _clean(etag: str) -> str:
    """An ETag that can be sent back; empty where it cannot."""
    return etag if 2 <= len(etag) <= ETAG_BYTES_MAX and all("!" <= letter <= "~" for letter in etag) else ""
