"""The client for threads. All it does itself is carry requests and wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from flashcast.zombie.client.core import Action, Decision
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, TransportError, urllib_transport
from flashcast.zombie.client.options import Options, Written
from flashcast.zombie.client.session import IDLE_S_MAX, Session, Step
from flashcast.zombie.client.shell import Shell

T = TypeVar("T")
_LOG: Final = logging.getLogger("flashcast.zombie")


class ZombieClient(Shell):
    """Knows whether calls are off, and keeps writes until they can be sent.

        options = Options(app="shop", base_url="https://cdn.example/zombie", trusted=[KEY], user=user_id, path=file)
        with ZombieClient(options) as client:
            feed = client.call("feed", load_feed, lambda decision: cached_feed())
            client.write("progress", HttpRequest("POST", url, body=b"..."))

    `start` runs a thread that polls and replays; without it, call `step` as often as you like. Every method may be
    called from any thread. ``injected``: clock, random, new_id as in `Session`.
    """

    def __init__(self, options: Options, *, transport: Transport = urllib_transport, **injected: Any) -> None:
        super().__init__(Session(options, **injected))
        self._transport = transport
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Starts the thread that polls and replays. It keeps no process alive."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="flashcast-zombie", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops polling, waits for the request that is under way, closes the file. What is queued stays on disk."""
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.session.close()

    def step(self) -> float:
        """Does what is due, one request at most. Returns the seconds until more will be; 0 to be called at once."""
        step = self.session.next()
        if step.request is None:
            return step.idle_s
        self.session.done(step, self._carried(step))
        return 0.0

    def _loop(self) -> None:
        while not self._ending.is_set():
            self._wake.clear()
            try:
                idle_s = self.step()
            except Exception:  # noqa: BLE001 - whatever it is, an app that hears no more of it is worse
                _LOG.exception("a step of the zombie client failed")
                idle_s = IDLE_S_MAX
            if idle_s > 0 and not self._ending.is_set():
                self._wake.wait(idle_s)

    def _carried(self, step: Step) -> HttpResponse | None:
        try:
            return self._transport(self._prepared(step))
        except (TransportError, OSError):
            return None
        except Exception:  # noqa: BLE001 - it is the app's own transport or `prepare`
            _LOG.exception("a request could not be made")
            return None

    def call(self, feature: str, send: Callable[[], T], fallback: Callable[[Decision], T]) -> T:
        """What ``send`` returns, or, where the feature is off, what ``fallback`` does: the hook around any call."""
        decision = self.decide(feature)
        return send() if decision.action is Action.SEND else fallback(decision)

    def fetch(self, feature: str, request: HttpRequest, fallback: Callable[[Decision], HttpResponse]) -> HttpResponse:
        """The answer to a request that reads, or ``fallback``'s where the feature is off or the server says 429 or 503.

        After such an answer the feature is left alone for as long as the server asked. Raises `TransportError`.
        """
        decision = self.decide(feature)
        if decision.action is not Action.SEND:
            return fallback(decision)
        response = self._transport(self.session.options.prepare(request))
        held = self.session.heard(feature, response)
        return fallback(held) if held is not None else response

    def write(self, feature: str, request: HttpRequest, *, lane: str = "", write_id: str = "") -> Written:
        """Sends a write, or keeps it to be sent later: neither lost nor, given a server that knows its keys, doubled.

        ``write_id`` is the idempotency key where the app has one of its own: the same one twice is one write. Writes of
        one ``lane`` are applied in the order they were made. Raises as `Session.begin_write` does.
        """
        begun = self.session.begin_write(feature, request, lane=lane, write_id=write_id)
        written = begun.written
        if written is None:
            written = self.session.end_write(begun, self._carried(begun.step))
        self._wake.set()
        return written

    def forget(self, write_id: str) -> None:
        """Gives up a write."""
        self.session.forget(write_id)

    def again(self, write_id: str) -> bool:
        """Lets a write that was refused be tried again. Returns whether there is such a one."""
        found = self.session.again(write_id)
        self._wake.set()
        return found

    def log_in(self, user: str, *, take_writes: bool = False) -> None:
        """Another user. Writes of the one before wait until they are back; ``take_writes`` makes them this user's."""
        self.session.log_in(user, take_writes=take_writes)
        self._wake.set()

    def poll_soon(self) -> None:
        """Asks for news now: the app came to the front, the network is back. At most once in 5 s."""
        self.session.poll_soon()
        self._wake.set()
