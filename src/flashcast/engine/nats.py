"""The engine of a fleet: NATS JetStream.

    flashcast_durable    file storage, as many replicas as asked for      campaigns, launches, shards, claims
    flashcast_volatile   memory, each value for a minute                  beats of the workers

Each space is a bucket (nats_bucket.py). `create` and `update` are messages with the header
Nats-Expected-Last-Subject-Sequence, which the stream's leader compares with the last message of the same subject
before it takes them: 0 where there is none. A deleted key's last message is its deletion, so `create` over one names
that. What a conflict means is asked of the leader, which always answers `get` too. Reads are as fresh as that leader;
it may be an old one for a moment after a change of leaders, which is why nothing is decided by reading (base.py).

What is left out: nats-py's KeyValue, which reads from any replica, cannot tell a conflict from other refusals, and
whose watches end with their consumer; de-duplication by message id, for an unanswered write is repeated by its caller,
who finds by what it reads whether the first went through; and leaf nodes with a JetStream domain of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from flashcast.engine.base import (
    EngineUnavailable,
    Entry,
    KeyExistsError,
    RevisionConflictError,
    checked_key,
    checked_value,
)
from flashcast.engine.nats_bucket import (
    JETSTREAM_OFF,
    NO_PEERS,
    NOT_CLUSTERED,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    Bucket,
    JetStream,
    JetStreamError,
    answer,
    nobody,
)
from flashcast.engine.nats_checks import check_bucket, check_disks, check_server
from flashcast.engine.nats_link import Link
from flashcast.engine.nats_options import NatsOptions, parse_servers
from flashcast.engine.nats_watch import Feed
from flashcast.errors import EnvironmentFault

__all__ = ["NatsEngine", "NatsKeyValue", "NatsOptions"]

OPEN_S_MAX: Final = 5.0
"""What servers that have just started get to choose their leaders."""
OPEN_PAUSE_S: Final = 0.1
CONFLICT_ROUNDS_MAX: Final = 8
CONFLICT_PAUSE_S: Final = 0.01
"""Rounds of asking what a conflict was about, each with a longer pause: 0.3 s together. A cluster refuses a write while
another of the same key is on its way, which may be an earlier try of ours; mostly that one is through by then."""


class _ConflictError(Exception):
    """The key is at another revision than the write expected."""


class NatsKeyValue:
    """One space. A KeyValue."""

    def __init__(self, jetstream: JetStream, bucket: Bucket) -> None:
        self._jetstream = jetstream
        self._link = jetstream.link
        self._bucket = bucket
        self._feeds: set[Feed] = set()
        self._restoring = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<NatsKeyValue {self._bucket.name} watches={len(self._feeds)}>"

    async def get(self, key: str) -> Entry | None:
        found = await self._read({"last_by_subj": self._subject(key)})
        return found if found is not None and found.value is not None else None

    async def create(self, key: str, value: bytes) -> int:
        subject, value = self._subject(key), checked_value(key, value)
        last: Entry | None = None
        for round_ in range(CONFLICT_ROUNDS_MAX):
            try:
                return await self._write(subject, value, 0 if last is None else last.revision)
            except _ConflictError:
                last = await self._read({"last_by_subj": subject})
                if last is not None and last.value is not None:
                    raise KeyExistsError(key, last) from None
            # Deleted, or not there: it may be created after all.
            await asyncio.sleep(round_ * CONFLICT_PAUSE_S)
        raise self._undecided(key)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        subject, value = self._subject(key), checked_value(key, value)
        for round_ in range(CONFLICT_ROUNDS_MAX):
            try:
                return await self._write(subject, value, revision)
            except _ConflictError:
                last = await self._read({"last_by_subj": subject})
                if last is None or last.value is None or last.revision != revision:
                    raise RevisionConflictError(key, revision) from None
            await asyncio.sleep(round_ * CONFLICT_PAUSE_S)
        raise self._undecided(key)

    async def put(self, key: str, value: bytes) -> int:
        return await self._write(self._subject(key), checked_value(key, value))

    async def delete(self, key: str, revision: int | None = None) -> None:
        subject = self._subject(key)
        for round_ in range(CONFLICT_ROUNDS_MAX):
            try:
                # Without looking first whether it is there: an old leader could say that it is not.
                await self._write(subject, b"", revision, deletes=True)
                return
            except _ConflictError:
                last = await self._read({"last_by_subj": subject})
                if last is None or last.value is None:
                    return
                if revision is not None and last.revision != revision:
                    raise RevisionConflictError(key, revision) from None
            await asyncio.sleep(round_ * CONFLICT_PAUSE_S)
        raise self._undecided(key)

    async def entries(self, prefix: str = "") -> list[Entry]:
        found: dict[str, Entry] = {}
        # A watch up to its marker, which comes when it had all that the leader has. It would wait for a connection.
        _ = self._link.wire
        feed = self._feed(prefix)
        try:
            async with asyncio.timeout(self._link.options.timeout_s) as limit:
                async for entry in feed:
                    if entry is None:
                        break
                    found[entry.key] = entry
                    limit.reschedule(asyncio.get_running_loop().time() + self._link.options.timeout_s)
                else:
                    raise EngineUnavailable("the engine was closed before it had answered")
        except TimeoutError:
            raise EngineUnavailable(f"NATS at {self._link.address} did not list {self._bucket.name} in time") from None
        finally:
            await self._end(feed)
        return sorted((entry for entry in found.values() if entry.value is not None), key=lambda entry: entry.key)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Feed]:
        feed = self._feed(prefix)
        try:
            yield feed
        finally:
            await self._end(feed)

    async def close(self) -> None:
        """Ends every watch."""
        await asyncio.gather(*(feed.close() for feed in self._feeds))

    async def restore(self) -> bool:
        """Makes the bucket where it is volatile and gone; whether it is there now."""
        if not self._bucket.volatile:
            return False
        async with self._restoring:
            try:
                await self._jetstream.make(self._bucket)
            except (EngineUnavailable, JetStreamError):
                return False
        return True

    def _subject(self, key: str) -> str:
        return self._bucket.root + checked_key(key)

    def _feed(self, prefix: str) -> Feed:
        if prefix:
            checked_key(prefix)
        self._link.check_open()
        feed = Feed(self._jetstream, self._bucket, prefix, self.restore)
        self._feeds.add(feed)
        return feed

    async def _end(self, feed: Feed) -> None:
        self._feeds.discard(feed)
        await feed.close()

    async def _read(self, what: dict[str, object]) -> Entry | None:
        """One message from the leader, deletions too. Raises EngineUnavailable."""
        try:
            return await self._jetstream.read(self._bucket, what)
        except JetStreamError as error:
            if error.code == STREAM_NOT_FOUND and await self.restore():
                return None
            raise self._refused(error) from None

    async def _write(self, subject: str, value: bytes, expected: int | None = None, *, deletes: bool = False) -> int:
        """Publishes one message. Raises _ConflictError where the subject's last is not ``expected``."""
        headers = {} if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        if deletes:
            headers["KV-Operation"] = "DEL"
        reply = await self._link.request(subject, value, headers or None)
        if nobody(reply):
            # Surely not written: there is no such stream, or it has no leader.
            if await self.restore():
                reply = await self._link.request(subject, value, headers or None)
            if nobody(reply):
                raise EngineUnavailable(
                    f"NATS at {self._link.address}: nobody keeps the bucket {self._bucket.name}",
                    remedy=f"See in the servers' logs whether the stream {self._bucket.stream} has a leader.",
                )
        try:
            ack = answer(f"writing {subject}", reply)
        except JetStreamError as error:
            if error.code in WRONG_LAST_SEQUENCE:
                raise _ConflictError from None
            raise self._refused(error) from None
        if ack.get("stream") != self._bucket.stream:
            raise EnvironmentFault(f"the NATS stream {ack.get('stream')} takes the subjects of {self._bucket.stream}")
        return int(ack["seq"])

    def _undecided(self, key: str) -> EngineUnavailable:
        """Refused because of a write that nobody can read yet: it may still come to nothing, with its leader."""
        return EngineUnavailable(f"NATS at {self._link.address}: another write of {key} is on its way")

    def _refused(self, error: JetStreamError) -> EnvironmentFault:
        if error.code == STREAM_NOT_FOUND:
            return EngineUnavailable(
                f"the NATS stream {self._bucket.stream} is gone",
                remedy="Restore it from a backup, or open the engine again to begin with an empty one.",
            )
        return error.as_fault(self._link)


class NatsEngine:
    """See the module's docstring. An Engine on the servers ``nats://host:port[,nats://host:port...]``."""

    def __init__(self, servers: str, options: NatsOptions | None = None) -> None:
        """Raises ConfigError for an address that is none."""
        self.options = NatsOptions() if options is None else options
        self.warnings: tuple[str, ...] = ()
        self._servers = parse_servers(servers)
        self._link: Link | None = None
        self._spaces: tuple[NatsKeyValue, NatsKeyValue] | None = None

    def __repr__(self) -> str:
        return f"<NatsEngine {self.address} {self.options.bucket} {'open' if self._spaces else 'closed'}>"

    @property
    def address(self) -> str:
        return ",".join(server.address for server in self._servers)

    @property
    def durable(self) -> NatsKeyValue:
        return self._space(0)

    @property
    def volatile(self) -> NatsKeyValue:
        return self._space(1)

    def _space(self, index: int) -> NatsKeyValue:
        if self._spaces is None:
            raise EngineUnavailable("the engine is not open")
        return self._spaces[index]

    async def __aenter__(self) -> NatsEngine:
        """Connects, makes the buckets that are missing, and looks for weaknesses.

        Raises EnvironmentFault or CredentialError, with what to do about it.
        """
        if self._link is not None:
            raise RuntimeError("an engine is opened once")
        self._link = Link(self._servers, self.options)
        try:
            await self._link.open()
            self._spaces = await self._opened(self._link)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.gather(*(space.close() for space in self._spaces or ()))
        if self._link is not None:
            await self._link.close()

    async def _opened(self, link: Link) -> tuple[NatsKeyValue, NatsKeyValue]:
        """The spaces. Waits for servers that have just started."""
        until = time.monotonic() + OPEN_S_MAX
        jetstream = JetStream(link)
        options = self.options
        durable = Bucket(f"{options.bucket}_durable", "file", options.replicas)
        volatile = Bucket(f"{options.bucket}_volatile", "memory", options.replicas)
        while True:
            try:
                warnings = await self._checked(jetstream, durable, volatile)
            except JetStreamError as error:
                if not _may_pass(error) or time.monotonic() > until:
                    raise _unusable(link, options, error) from None
            except EngineUnavailable:
                if time.monotonic() > until or not _has_jetstream(link):
                    raise
            else:
                self.warnings = (*warnings, *await check_disks(options.monitor))
                return NatsKeyValue(jetstream, durable), NatsKeyValue(jetstream, volatile)
            await asyncio.sleep(OPEN_PAUSE_S)

    async def _checked(self, jetstream: JetStream, *buckets: Bucket) -> list[str]:
        """Warnings about the server and the buckets, which are made where they are missing."""
        replicas = self.options.replicas
        warnings = check_server(jetstream.link.wire, replicas)
        await jetstream.call("INFO")
        for bucket in buckets:
            warnings += check_bucket(bucket, (await jetstream.make(bucket))["config"], replicas)
        return warnings


def _has_jetstream(link: Link) -> bool:
    try:
        return bool(link.wire.info.get("jetstream"))
    except EngineUnavailable:
        return True


def _may_pass(error: JetStreamError) -> bool:
    """Whether servers that have just started may say otherwise soon."""
    if error.code in (*JETSTREAM_OFF, NOT_CLUSTERED):
        return False
    # A stream that another has asked for may not be there yet, nor every server.
    return error.passing or error.code in (STREAM_NOT_FOUND, NO_PEERS)


def _unusable(link: Link, options: NatsOptions, error: JetStreamError) -> EnvironmentFault:
    """Why the buckets cannot be had."""
    if error.code in JETSTREAM_OFF:
        return EnvironmentFault(
            f"JetStream is off for this account at {link.address}",
            remedy="Enable it for the account (jetstream: enabled), or use another user.",
        )
    if error.code in (NO_PEERS, NOT_CLUSTERED):
        return EnvironmentFault(
            f"NATS at {link.address} cannot keep {options.replicas} replicas: {error.description}",
            remedy="Start that many servers as one cluster, or set FLASHCAST_NATS_REPLICAS=1.",
        )
    return error.as_fault(link)
