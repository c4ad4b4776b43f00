"""What can be known of a NATS server at the start: whether it will do, and where it keeps less than it could.

A plain client is told little. The version, the size of messages and the buckets' configuration it can read; how often
a server writes to its disk only the monitoring port says (``/jsz?config=true``), which is off by default and which
nothing that a client may ask gives away. So that is looked up where FLASHCAST_NATS_MONITOR names it, and otherwise a
warning says that nobody knows.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flashcast.engine.base import VALUE_BYTES_MAX
from flashcast.engine.nats_bucket import VOLATILE_AGE_S, Bucket
from flashcast.engine.nats_wire import Wire
from flashcast.errors import EnvironmentFault

VERSION_MIN: Final = (2, 9, 0)
"""Named consumers and reading the next message of a subject came with it."""
VERSION_MIN_REPLICATED: Final = (2, 9, 21)
"""Before it, two that create the same key at once in a cluster may both succeed (nats-server issue 4320)."""
VERSION_GOOD_REPLICATED: Final = (2, 11, 0)
"""Before it, replicas may come to differ after conditional writes (nats-server pull requests 5794 and 6194)."""
MESSAGE_BYTES_MIN: Final = VALUE_BYTES_MAX * 4 // 3 + 4_096
"""A value as JetStream gives it back, in base64, with its subject and headers."""
MONITOR_S_MAX: Final = 2.0
MONITOR_BYTES_MAX: Final = 1 << 20


DISKS_UNKNOWN: Final = (
    "whether the NATS servers write each change to the disk before they acknowledge it could not be checked. Set "
    "`sync_interval: always` in the jetstream block of each (the default is two minutes: a crash of the operating "
    "system then undoes claims, and notifications go out twice). To have it checked, set FLASHCAST_NATS_MONITOR to the "
    "servers' monitoring addresses, as http://host:8222."
)


def check_server(wire: Wire, replicas: int) -> list[str]:
    """Warnings. Raises EnvironmentFault for a server with which the engine cannot keep its promises."""
    where, version = wire.server.address, ".".join(str(word) for word in wire.version)
    if wire.version < VERSION_MIN:
        raise EnvironmentFault(f"{where} is nats-server {version}; 2.9 or newer is needed")
    if wire.client.max_payload < MESSAGE_BYTES_MIN:
        raise EnvironmentFault(
            f"{where} takes messages of at most {wire.client.max_payload:,} bytes; {MESSAGE_BYTES_MIN:,} are needed",
            remedy="Remove max_payload from the server's configuration: its default is 1 MB.",
        )
    if replicas > 1 and wire.version < VERSION_MIN_REPLICATED:
        raise EnvironmentFault(
            f"{where} is nats-server {version}: in a cluster two workers may both win the same claim",
            remedy="Use 2.11 or newer; alone, without replicas, this version will do.",
        )
    if replicas > 1 and wire.version < VERSION_GOOD_REPLICATED:
        told = f"{where} is nats-server {version}, whose replicas may come to differ after conditional writes: "
        return [told + "upgrade the cluster to 2.11 or newer."]
    return []


def check_bucket(bucket: Bucket, config: Mapping[str, Any], asked: int) -> list[str]:
    """Warnings about a bucket as it is, where ``asked`` replicas were wanted. Raises EnvironmentFault as above."""
    stream = bucket.stream
    wrong = [
        f"{name} is {config.get(name)!r} and must be {must!r}"
        for name, must in _musts(bucket).items()
        if config.get(name, must) != must
    ]
    if not bucket.volatile and config.get("max_age", 0):
        wrong.append("max_age is set, so that claims would vanish while their launch lives")
    if not bucket.volatile and max(config.get("max_msgs", -1), config.get("max_bytes", -1)) > 0:
        wrong.append("it is bounded by max_msgs or max_bytes")
    if wrong:
        raise EnvironmentFault(
            f"the NATS stream {stream} is not as Flashcast needs it: {'; '.join(wrong)}",
            remedy="Set FLASHCAST_NATS_BUCKET to another name; or, while no launch runs, delete the stream: "
            "Flashcast makes it anew.",
        )
    return [] if bucket.volatile else _weaknesses(bucket, config, asked)


def _musts(bucket: Bucket) -> dict[str, Any]:
    return {
        "subjects": [f"{bucket.root}>"],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        **({"max_age": VOLATILE_AGE_S * 1_000_000_000} if bucket.volatile else {}),
    }


def _weaknesses(bucket: Bucket, config: Mapping[str, Any], asked: int) -> list[str]:
    warnings = []
    replicas = int(config.get("num_replicas", 1))
    if config.get("storage") != "file":
        warnings.append(
            f"the NATS stream {bucket.stream} is kept in {config.get('storage')}, not in files: a restart of the "
            "servers loses every campaign, claim and launch. Delete it while no launch runs: it is made anew in files."
        )
    if config.get("persist_mode") == "async":
        warnings.append(
            f"the NATS stream {bucket.stream} acknowledges writes before they are written (persist_mode async): a "
            "killed server loses some. Delete it while no launch runs: it is made anew."
        )
    if replicas == 1:
        warnings.append(
            f"the NATS stream {bucket.stream} is kept on one server: while that is away nothing goes on, and with its "
            "disk every campaign and launch is lost. For production run three servers and set FLASHCAST_NATS_REPLICAS=3"
            + (
                f", and for this stream: nats stream edit {bucket.stream} --replicas=3."
                if asked == 1
                else f"; this stream was made before: nats stream edit {bucket.stream} --replicas={asked}."
            )
        )
    elif replicas < asked:
        warnings.append(
            f"the NATS stream {bucket.stream} has {replicas} replicas, where FLASHCAST_NATS_REPLICAS asks for {asked}: "
            f"nats stream edit {bucket.stream} --replicas={asked}."
        )
    return warnings


async def check_disks(monitor: str | None) -> list[str]:
    """Warnings about how often the servers write to their disks, as their monitoring addresses tell."""
    if monitor is None:
        return [DISKS_UNKNOWN]
    addresses = [address.strip() for address in monitor.split(",") if address.strip()]
    answers = await asyncio.gather(*(asyncio.to_thread(_asked, address) for address in addresses))
    return [warning for warnings in map(_disk_warnings, addresses, answers) for warning in warnings]


def _asked(address: str) -> Mapping[str, Any] | str:
    """What JetStream's monitoring says of its configuration, or why it says nothing."""
    if not address.startswith(("http://", "https://")):
        return "not an http:// address"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/jsz?config=true", timeout=MONITOR_S_MAX) as reply:
            found = json.loads(reply.read(MONITOR_BYTES_MAX))
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    return dict(found.get("config") or {}) if isinstance(found, dict) else "no JetStream there"


def _disk_warnings(address: str, found: Mapping[str, Any] | str) -> Sequence[str]:
    if isinstance(found, str):
        return [f"FLASHCAST_NATS_MONITOR: {address} does not say how often the server writes to its disk: {found}."]
    if found.get("sync_always"):
        return []
    every_s = found.get("sync_interval", 120_000_000_000) / 1e9
    told = (
        f"the NATS server behind {address} writes acknowledged changes to its disk every {every_s:g} s only: a crash "
        "of its operating system undoes claims, and notifications go out twice. Set `sync_interval: always` in its "
        "jetstream block (nats-server 2.10 or newer)."
    )
    return [told]
