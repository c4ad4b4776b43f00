"""A job for lanes to do, lanes to do it, and a clock that leaps."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from wire_support import columns

from flashcast.clock import Clock
from flashcast.deliver.books import settle
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.deliver.job import Job, RowArrays, Terms
from flashcast.deliver.lane import Lane
from flashcast.model import Hole, Provider, RequestTemplate
from flashcast.outcomes import Outcome, Reason
from flashcast.providers import apns, fcm
from flashcast.transport.tls import Address

PATIENCE_S = 30.0
"""After this a lane hangs; no test comes near."""
NO_REPLY = 0xFFFFFFFF


class LeapingClock:
    """The machine's clock, which a test can put forward from any thread."""

    def __init__(self) -> None:
        self._leapt_ns = 0

    def leap(self, seconds: float) -> None:
        self._leapt_ns += int(seconds * 1e9)

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self._leapt_ns

    def time(self) -> float:
        return time.time() + self._leapt_ns / 1e9


@dataclass
class Secret:
    """A credential that renews itself as often as ``renewals`` allows when it is refused."""

    value: str = "bearer first"
    renewals: int = 0
    refusals: list[str | None] = field(default_factory=list)

    def authorization(self) -> str:
        return self.value

    def keep_fresh(self) -> None:
        pass

    def refused(self, authorization: str | None) -> bool:
        self.refusals.append(authorization)
        if authorization != self.value:
            return True
        if not self.renewals:
            return False
        self.renewals -= 1
        self.value += "+"
        return True


def tokens_of(provider: Provider, rows: int) -> list[bytes]:
    return [b"%064x" % i if provider is Provider.APNS else b"fcm_token-%d:%d" % (i, i * i) for i in range(rows)]


def apns_template(body: Sequence[bytes | Hole] = (b'{"aps":{"alert":"kick-off"}}',)) -> RequestTemplate:
    return RequestTemplate(Provider.APNS, "", (("apns-topic", "com.example.app"), ("apns-priority", "10")), tuple(body))


def fcm_template() -> RequestTemplate:
    body = (b'{"message":{"token":"', Hole(-1), b'","notification":{"title":"kick-off"}}}')
    return RequestTemplate(Provider.FCM, "", (("content-type", "application/json"),), body)


def job_for(
    provider: Provider,
    rows: int,
    clock: Clock,
    *,
    credential: Secret | None = None,
    terms: Terms | None = None,
    shards: int = 2,
    authority: str = "localhost",
    lanes: int = 1,
) -> Job:
    """A job of ``rows`` rows in ``shards`` shards, ready for GO."""
    tokens, held, base = tokens_of(provider, rows), [], 0
    for part in np.array_split(np.arange(rows), shards):
        mine = tokens[base : base + part.size]
        held.append(ShardRows(columns(mine), base, part.size))
        base += part.size
    arrays = RowArrays(
        np.zeros(rows, np.uint8), np.zeros(rows, np.uint8), np.zeros(rows, np.uint8), np.full(rows, NO_REPLY, np.uint32)
    )
    is_apns = provider is Provider.APNS
    return Job(
        provider=provider,
        shards=held,
        chunks=Chunks(held),
        rows=arrays,
        templates=[apns_template() if is_apns else fcm_template()],
        head=apns.request_head(authority) if is_apns else fcm.request_head(authority, "project-7"),
        path_prefix=apns.PATH_PREFIX if is_apns else None,
        credential=credential or Secret(),
        clock=clock,
        terms=terms or Terms(),
        lanes=lanes,
    )


@contextmanager
def lanes_to(
    address: Address, context: ssl.SSLContext, clock: LeapingClock, *, connections: int = 1, lanes: int = 1
) -> Iterator[list[Lane]]:
    """Open lanes; they are closed in the end."""
    made = [Lane(address, context, connections, clock, f"test-{i}") for i in range(lanes)]
    try:
        for lane in made:
            lane.open()
        yield made
    finally:
        for lane in made:
            lane.close()


def start(job: Job, lanes: list[Lane]) -> None:
    """GO."""
    now_ns = job.clock.monotonic_ns()
    job.set_go(now_ns, now_ns)
    for lane in lanes:
        lane.start(job)


def finish(job: Job, lanes: list[Lane]) -> Counter[str]:
    """Waits for the lanes and closes the books. Returns how many rows ended how."""
    for lane in lanes:
        assert lane.finished.wait(PATIENCE_S), f"{lane!r} hangs: {lane.statistics()}"
        assert not lane.crashed, lane.fault
    settle(job, crashed=False)
    return told(job)


def run(job: Job, lanes: list[Lane]) -> Counter[str]:
    """GO, and the books of it."""
    start(job, lanes)
    return finish(job, lanes)


def told(job: Job) -> Counter[str]:
    """Rows by outcome and reason, as ``accepted`` or ``rejected BadTopic``.

    The reason of an accepted row is left out: the journal keeps that of an earlier try.
    """
    words = []
    for outcome, reason in zip(job.rows.outcome.tolist(), job.rows.reason.tolist(), strict=True):
        why = "" if outcome == Outcome.ACCEPTED else f" {Reason.from_code(reason).value}"
        words.append(Outcome(outcome).name.lower() + why)
    return Counter(words)
