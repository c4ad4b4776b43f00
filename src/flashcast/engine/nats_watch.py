"""A watch that outlives connections, leaders, servers and buckets.

The problem: JetStream delivers to a consumer, and a consumer dies with its server, with its bucket, with the leader it
lived beside, or unnoticed. nats-py's ordered consumer mends a gap in what it gets; it does not notice that nothing
comes any more because the consumer is gone, and it goes on at a sequence number that a bucket made anew may not reach
for days.

Here a `Feed` has one short-lived `_Consumer` after the other. Each begins with all that the bucket holds, which is one
message for each key, and the feed leaves out what is not newer than what it has given of the same key: neither by its
revision, for the replica beside which a consumer lives may lag, nor by its time of writing, for a bucket made anew may
count from 1. So there is no place to resume from that could be wrong, and nothing to find out about what became of the
bucket. It costs one message for each key at each new beginning: some thousand claims, a few milliseconds.

When has it caught up? The server says with each message how many are to come, and is wrong when keys are written while
they are scanned, for each then moves to the end. So the leader is asked for the newest write below the prefix: when the
reader had that already, there was nothing at that moment that it had not.

Messages are pulled, not pushed: a reader that is slow leaves them at the server, where newer values replace them,
instead of piling them up here. While a request for messages is open, the server says every half second that it is
alive.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from flashcast.engine.base import EngineUnavailable, Entry, is_below
from flashcast.engine.nats_bucket import (
    STREAM_NOT_FOUND,
    Bucket,
    Delivery,
    JetStream,
    JetStreamError,
    delivered,
    status,
)
from flashcast.engine.nats_wire import Wire
from flashcast.errors import FlashcastError

BATCH: Final = 256
"""Messages asked for at once; at 5 beats a second a fleet of 50 workers is asked about every second."""
READY_MAX: Final = 1_024
"""Entries that wait for the reader, before no more are asked for."""
HEARTBEAT_S: Final = 0.5
SILENCE_S_MAX: Final = 1.25
"""Two heartbeats missed and some time for the network: the consumer is gone."""
ASK_S: Final = 60.0
"""How long one request for messages stays open."""
FORGET_S: Final = 10.0
"""When NATS removes the consumer of a process that is gone."""
PAUSE_S_FIRST: Final = 0.05
PAUSE_S_MAX: Final = 0.5
LOOKS_MAX: Final = 1_000
"""How often it is asked whether this was all. Where every time something newer was written in that very moment, which
takes thousands of writes a second, the reader is told that it has caught up after some half a second."""
_NS: Final = 1_000_000_000
_HEARTBEAT: Final = "100"
_REQUEST_OVER: Final = ("404", "408")
"""No messages, and the request has expired: ask again."""


class _Write(NamedTuple):
    """What the reader knows of a key."""

    revision: int
    stamp_ns: int
    present: bool


class Feed:
    """An open watch. Its task follows the bucket; the reader takes what is ready."""

    def __init__(
        self, jetstream: JetStream, bucket: Bucket, prefix: str, restore: Callable[[], Awaitable[bool]]
    ) -> None:
        """``restore`` makes a volatile bucket that is gone, and says whether it is there."""
        self.bucket = bucket
        self.prefix = prefix
        self.caught_up = False
        self._jetstream = jetstream
        self._restore = restore
        self._seen: dict[str, _Write] = {}
        self._ready: deque[Entry | None] = deque()
        self._news = asyncio.Event()
        self.wake = asyncio.Event()
        """Set for its task: there is something to see to, or its connection is gone."""
        self.ended = False
        self._fault: FlashcastError | None = None
        self._task = asyncio.create_task(self._run(), name=f"flashcast-watch-{bucket.name}-{prefix}")

    def __repr__(self) -> str:
        state = "ended" if self.ended else "caught up" if self.caught_up else "catching up"
        return f"<Feed {self.bucket.name} {self.prefix!r} keys={len(self._seen)} {state}>"

    def __aiter__(self) -> AsyncIterator[Entry | None]:
        return self

    async def __anext__(self) -> Entry | None:
        # What has come lies in the deque, not with whoever waits: a reader that gives up waiting loses nothing.
        while not self._ready:
            if self._fault is not None:
                raise self._fault
            if self.ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        entry = self._ready.popleft()
        if len(self._ready) == READY_MAX // 2:
            self.wake.set()
        return entry

    async def close(self) -> None:
        """Ends the watch: its reader gets what is ready, and then nothing more."""
        self.ended = True
        self._news.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- for its consumers ---------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the reader has enough to read."""
        return len(self._ready) >= READY_MAX

    def take(self, delivery: Delivery) -> None:
        """Keeps what the reader has not had."""
        entry = delivery.entry
        if not is_below(entry.key, self.prefix):
            return
        last = self._seen.get(entry.key)
        if last is not None and entry.revision <= last.revision and delivery.stamp_ns <= last.stamp_ns:
            return
        self._seen[entry.key] = _Write(entry.revision, delivery.stamp_ns, present=entry.value is not None)
        # A deletion of what the reader does not take for present is no news: it may have found nothing.
        if entry.value is not None or (last is not None and last.present):
            self._give(entry)

    def catch_up(self) -> None:
        """Everything that was there has been delivered."""
        self.caught_up = True
        self._give(None)

    def _give(self, entry: Entry | None) -> None:
        self._ready.append(entry)
        self._news.set()

    # --- its task ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """One consumer after the other, for as long as the watch is open."""
        pause_s = PAUSE_S_FIRST
        try:
            while not self.ended:
                wire = await self._jetstream.link.connected()
                pause_s = PAUSE_S_FIRST if await self._followed(wire) else min(2 * pause_s, PAUSE_S_MAX)
                if wire.alive:
                    await asyncio.sleep(pause_s)
        except FlashcastError as error:
            if not self.ended:
                self._fault = error
        finally:
            self.ended = True
            self._news.set()

    async def _followed(self, wire: Wire) -> bool:
        """Follows one consumer to its end; whether it had begun. Raises only what no waiting would mend."""
        consumer = _Consumer(self, self._jetstream, wire)
        try:
            await consumer.open()
            await consumer.follow()
            return True
        except EngineUnavailable:
            return consumer.opened
        except JetStreamError as error:
            return await self._mended(error)
        except FlashcastError:
            # We are not allowed to; but a watch that has begun is never given up.
            if not self.caught_up:
                raise
            return False
        finally:
            await consumer.close()

    async def _mended(self, error: JetStreamError) -> bool:
        """Whether a new consumer can be tried at once. Raises what no waiting would mend."""
        if error.code == STREAM_NOT_FOUND:
            return await self._restore()
        if not (error.passing or self.caught_up):
            raise error.as_fault(self._jetstream.link)
        return False


class _Consumer:
    """One consumer over one connection, until either is gone."""

    def __init__(self, feed: Feed, jetstream: JetStream, wire: Wire) -> None:
        self.name = secrets.token_hex(8)
        self.opened = False
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{feed.bucket.stream}.{self.name}"
        self._feed = feed
        self._jetstream = jetstream
        self._wire = wire
        self._broken = False
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._number = 0
        self._asked = 0
        """Messages that were asked for and have not come."""
        self._delivered = 0
        """The revision of its last message."""
        self._target = 0
        """The revision to reach before it is worth asking whether this is all."""
        self._looks = 0
        self._heard_at = 0.0
        self._time = asyncio.get_running_loop().time

    async def open(self) -> None:
        """Makes the consumer and asks for its first messages. Raises EngineUnavailable or JetStreamError."""
        stream = self._feed.bucket.stream
        self._wire.alarms.add(self._feed.wake)
        self._inbox, self._subscription = await self._wire.subscribe(self._on_message)
        await self._jetstream.call(
            f"CONSUMER.CREATE.{stream}.{self.name}", {"stream_name": stream, "config": self._config()}
        )
        self.opened = True
        await self._ask()

    def _config(self) -> dict[str, object]:
        bucket = self._feed.bucket
        filters = bucket.filters(self._feed.prefix)
        if self._wire.version < (2, 10):
            # Several filters came with 2.10; the feed drops what is not below its prefix.
            filters = bucket.filters("")
        return {
            "name": self.name,
            "deliver_policy": "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(FORGET_S * _NS),
            "num_replicas": 1,
            "mem_storage": True,
            **({"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": filters}),
        }

    async def follow(self) -> None:
        """Returns when nothing more will come of this consumer. Raises as `open` does, and CredentialError."""
        while not (self._broken or self._feed.ended) and self._wire.alive:
            self._feed.wake.clear()
            if not self._feed.caught_up and self._delivered >= self._target:
                await self._look()
            if self._asked == 0:
                if not self._feed.full:
                    await self._ask()
            elif self._time() - self._heard_at > SILENCE_S_MAX:
                self._wire.check_allowed(self._next)
                return
            try:
                # Not wait_for, which before Python 3.12 forgets a cancellation that comes with what it waits for.
                async with asyncio.timeout(HEARTBEAT_S / 2):
                    await self._feed.wake.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Whether this was all. Raises EngineUnavailable or JetStreamError."""
        had = self._delivered
        self._target = await self._jetstream.last(self._feed.bucket, self._feed.prefix)
        self._looks += 1
        if self._target <= had or self._looks == LOOKS_MAX:
            self._feed.catch_up()
        elif self._delivered >= self._target:
            # It came while we asked; what was before it may have moved behind it.
            self._feed.wake.set()

    async def close(self) -> None:
        """Lets go of it. What is lost on the way, NATS removes by itself."""
        self._broken = True
        self._wire.alarms.discard(self._feed.wake)
        if self._wire.alive and self._subscription is not None:
            try:
                await self._subscription.unsubscribe()
            except NatsError:
                pass
            await self._wire.tell(f"$JS.API.CONSUMER.DELETE.{self._feed.bucket.stream}.{self.name}")

    async def _ask(self) -> None:
        """Asks for the next messages: one request at a time."""
        self._asked = BATCH
        self._heard_at = self._time()
        body = {"batch": BATCH, "expires": int(ASK_S * _NS), "idle_heartbeat": int(HEARTBEAT_S * _NS)}
        await self._wire.tell(self._next, json.dumps(body).encode(), reply=f"{self._inbox}.next")

    async def _on_message(self, message: Msg) -> None:
        if self._broken:
            return
        self._heard_at = self._time()
        kind = status(message)
        if not kind:
            self._take(delivered(self._feed.bucket, message))
        elif kind == _HEARTBEAT:
            # Nothing more is coming: what was to be reached has been deleted, or has grown too old.
            self._target = 0
        elif kind in _REQUEST_OVER:
            self._asked = 0
        else:
            # The consumer was deleted, has lost its leader, or there is nobody: a new one.
            self._broken = True
        behind = not self._feed.caught_up and self._delivered >= self._target
        if self._broken or behind or (self._asked == 0 and self._feed.full):
            self._feed.wake.set()
        elif self._asked == 0:
            await self._ask()

    def _take(self, delivery: Delivery) -> None:
        self._number += 1
        if delivery.number != self._number:
            # Something was lost on the way.
            self._broken = True
            return
        self._asked -= 1
        self._delivered = delivery.entry.revision
        self._feed.take(delivery)
