"""Apps that poll without pause, with the real client over real HTTP, and remember everything that went wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flashcast.clock import FixedClock
from flashcast.zombie.bounds import POLL_S_MIN
from flashcast.zombie.client import Options, ZombieClient
from flashcast.zombie.client.core import News
from flashcast.zombie.document import Cohort
from flashcast.zombie.keys import PublicKey

WAIT_S_MAX = 60


class Reader(threading.Thread):
    """One app. Its clock runs ahead, so that it asks as often as it may at once: 100,000 polls are six days."""

    def __init__(self, url: str, key: PublicKey, cohort: Cohort | None) -> None:
        super().__init__(daemon=True)
        self.versions: list[int] = []
        """Of each document that it took, in the order in which it did."""
        self.faults: list[str] = []
        self._ending = threading.Event()
        self._polled = threading.Condition()
        self._polls = 0
        clock = FixedClock(time.time())
        self._clock = clock
        options = Options(app="shop", base_url=url, trusted=[key], user="u1", cohort=cohort, on_news=self._heard)
        self._client = ZombieClient(options, clock=clock)

    def run(self) -> None:
        # A hundred polls a second leave the machine to those who publish.
        while not self._ending.wait(0.01):
            if self._client.step() > 0:
                self._clock.advance(POLL_S_MIN)
                self._client.poll_soon()
        self._client.close()

    def polls(self, more: int) -> None:
        """Waits until it has polled so many times more."""
        with self._polled:
            wanted = self._polls + more
            assert self._polled.wait_for(lambda: self._polls >= wanted, WAIT_S_MAX), "the reader stands still"

    def end(self) -> None:
        self._ending.set()
        self.join()

    def _heard(self, polled: Any, standing: Any) -> None:
        if polled.news is News.CHANGED:
            self.versions.append(standing.document.version)
        elif polled.news is not News.UNCHANGED:
            self.faults.append(f"{polled.news.value} {polled.refusal or ''}".strip())
        with self._polled:
            self._polls += 1
            self._polled.notify_all()


@contextmanager
def readers(url: str, key: PublicKey, cohorts: Sequence[Cohort | None]) -> Iterator[list[Reader]]:
    """A reader of the app's document and of each cohort's; afterwards nothing may have gone wrong for any of them."""
    made = [Reader(url, key, cohort) for cohort in cohorts]
    for reader in made:
        reader.start()
    try:
        yield made
    finally:
        for reader in made:
            reader.end()
    for reader in made:
        assert reader.faults == [], reader.faults[:5]
        assert reader.versions == sorted(set(reader.versions))
