"""The JetStream API, as far as the engine needs it, and the two buckets.

A bucket is a stream laid out as NATS's key-value stores are (ADR-8), so `nats kv get flashcast_durable <key>` reads
it: stream ``KV_<bucket>``, subjects ``$KV.<bucket>.<key>``, one message kept for each. A deletion is a message with the
header ``KV-Operation: DEL``. A revision is a message's sequence number.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from nats.aio.msg import Msg

from flashcast.engine.base import EngineUnavailable, Entry
from flashcast.engine.nats_link import Link
from flashcast.errors import EnvironmentFault

STREAM_NOT_FOUND: Final = 10059
NO_MESSAGE: Final = 10037
NAME_IN_USE: Final = 10058
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
"""The second where another write of the same subject is on its way through the cluster."""
NO_PEERS: Final = 10005
"""Not enough servers for as many replicas, so far."""
NOT_CLUSTERED: Final = 10074
JETSTREAM_OFF: Final = (10039, 10076)
"""For this account; on this server."""

VOLATILE_AGE_S: Final = 60
"""How long a value that nobody writes again is kept: the beats of the dead vanish."""
CONSUMERS_MAX: Final = 20_000
"""Watches on a bucket, where the server's own default is 1,000: a fleet of 1,000 workers with ten each, and as many
again for those whose processes have just died and which NATS has not yet forgotten."""
_NS: Final = 1_000_000_000
_REMOVED: Final = ("DEL", "PURGE")


class JetStreamError(Exception):
    """JetStream answered that it will not. For this package alone: nothing of it leaves the engine."""

    def __init__(self, what: str, error: Mapping[str, Any]) -> None:
        self.status = int(error.get("code", 0))
        self.code = int(error.get("err_code", 0))
        self.description = str(error.get("description", "no reason given"))
        super().__init__(f"{what}: {self.description} (error {self.code})")

    @property
    def passing(self) -> bool:
        """Whether it may be otherwise in a moment: no leader, no room, a server that is still starting."""
        return self.status >= 500 or self.status == 408

    def as_fault(self, link: Link) -> EnvironmentFault:
        """What callers of the engine get."""
        message = f"NATS at {link.address}: {self}"
        return EngineUnavailable(message) if self.passing else EnvironmentFault(message)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one of the two buckets is meant to be."""

    name: str
    storage: Literal["file", "memory"]
    replicas: int

    @property
    def volatile(self) -> bool:
        return self.storage == "memory"

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    @property
    def root(self) -> str:
        """What every subject begins with."""
        return f"$KV.{self.name}."

    def filters(self, prefix: str) -> list[str]:
        """The subjects of all keys below ``prefix`` or equal to it."""
        return [f"{self.root}{prefix}", f"{self.root}{prefix}.>"] if prefix else [f"{self.root}>"]

    def config(self) -> dict[str, Any]:
        """The stream's configuration."""
        config: dict[str, Any] = {
            "name": self.stream,
            "subjects": [f"{self.root}>"],
            "description": "Flashcast's shared state; see its operating guide before changing anything",
            "retention": "limits",
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_consumers": CONSUMERS_MAX,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msgs_per_subject": 1,
            "max_msg_size": -1,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
        }
        if self.volatile:
            config |= {
                "max_age": VOLATILE_AGE_S * _NS,
                "duplicate_window": VOLATILE_AGE_S * _NS,
                # In microseconds: a bucket that is made anew goes on above the last, which would have needed a million
                # writes a second to get there. Servers before 2.10 do not know it and begin at 1.
                "first_seq": time.time_ns() // 1_000,
            }
        return config


class JetStream:
    """The API behind ``$JS.API``."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def call(self, name: str, body: object = None) -> dict[str, Any]:
        """Raises EngineUnavailable without an answer, JetStreamError for one that refuses."""
        payload = b"" if body is None else json.dumps(body).encode()
        message = await self.link.request(f"$JS.API.{name}", payload)
        if nobody(message):
            raise EngineUnavailable(
                f"JetStream does not answer at {self.link.address}",
                remedy="See that JetStream is on and that the servers of the cluster are up.",
            )
        return answer(name, message)

    async def make(self, bucket: Bucket) -> dict[str, Any]:
        """The bucket as it is; made where it is missing. Any number may do so at once. As `call`."""
        try:
            return await self.call(f"STREAM.INFO.{bucket.stream}")
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
        try:
            return await self.call(f"STREAM.CREATE.{bucket.stream}", bucket.config())
        except JetStreamError as error:
            if error.code != NAME_IN_USE:
                raise
        # Another was faster.
        return await self.call(f"STREAM.INFO.{bucket.stream}")

    async def read(self, bucket: Bucket, what: Mapping[str, object]) -> Entry | None:
        """One message, as the stream's leader has it; None where there is none. As `call`."""
        try:
            found = (await self.call(f"STREAM.MSG.GET.{bucket.stream}", what))["message"]
        except JetStreamError as error:
            if error.code == NO_MESSAGE:
                return None
            raise
        headers = base64.b64decode(found.get("hdrs", "")).decode("utf-8", "replace")
        removed = _removes(dict(line.split(": ", 1) for line in headers.split("\r\n") if ": " in line))
        value = None if removed else base64.b64decode(found.get("data", ""))
        return Entry(found["subject"].removeprefix(bucket.root), value, found["seq"])

    async def last(self, bucket: Bucket, prefix: str) -> int:
        """The revision of the newest write below ``prefix``, deletions too, as the leader has it; 0 without any."""
        reads = (self.read(bucket, {"last_by_subj": subject}) for subject in bucket.filters(prefix))
        return max((entry.revision for entry in await asyncio.gather(*reads) if entry is not None), default=0)


def answer(what: str, message: Msg) -> dict[str, Any]:
    """What an answer says. Raises JetStreamError for one that refuses."""
    try:
        found = json.loads(message.data)
    except ValueError:
        found = {"error": {"description": "not JSON: something else answers there"}}
    if "error" in found:
        raise JetStreamError(what, found["error"])
    return dict(found)


def status(message: Msg) -> str:
    """The status of a message that carries nothing else, or an empty string."""
    return (message.headers or {}).get("Status", "") if not message.data else ""


def nobody(message: Msg) -> bool:
    """Whether this says that nobody listens: the request has surely done nothing."""
    return status(message) == "503"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from a consumer, whose deliveries ``number`` counts from 1."""

    entry: Entry
    stamp_ns: int
    """When it was written, in Unix time: tells a bucket from another of the same name before it."""
    number: int


def delivered(bucket: Bucket, message: Msg) -> Delivery:
    """Reads what a consumer has delivered.

    The reply subject is ``$JS.ACK.<stream>.<consumer>.<tries>.<sequence>.<number>.<time>.<pending>``; servers with a
    JetStream domain put two words before the stream and one behind all (ADR-15).
    """
    words = message.reply.split(".")
    _, sequence, number, stamp = words[4:8] if len(words) == 9 else words[6:10]
    value = None if _removes(message.headers or {}) else message.data
    entry = Entry(message.subject.removeprefix(bucket.root), value, int(sequence))
    return Delivery(entry, int(stamp), int(number))


def _removes(headers: Mapping[str, str]) -> bool:
    """Whether a message deletes its key. Servers from 2.11 on write such ones by themselves, with a reason."""
    return headers.get("KV-Operation") in _REMOVED or "Nats-Marker-Reason" in headers
