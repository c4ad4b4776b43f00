"""The senders that `wire.py` measures, each run as a process of its own so that its CPU can be told exactly.

    python benchmarks/sending.py NAME '{"config": ..., "requests": ..., "connections": ...}'

Prints one JSON object: requests, cpu_s, wall_s, and what else the sender knows. CPU is user and system time of the
whole process from the first request to the last reply.
"""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
import selectors
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

APNS = {"topic": "com.example.app", "alert": {"title": "Do your lesson", "body": "No buts. Five minutes are enough."}}
FCM = {"notification": {"title": "Do your lesson", "body": "No buts. Five minutes are enough."}, "priority": "high"}


def cpu_s() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def apns_tokens(count: int) -> list[str]:
    """Distinct tokens of 64 hexadecimal digits."""
    tail = secrets.token_hex(28)
    return [f"{i:08x}{tail}" for i in range(count)]


def fcm_tokens(count: int) -> list[str]:
    """Distinct tokens of 152 characters, as long as real ones."""
    tail = secrets.token_urlsafe(97)[:129]
    return [f"c{i:014x}:APA91b{tail}" for i in range(count)]


def flashcast(provider: str, options: dict[str, Any]) -> dict[str, Any]:
    """Flashcast's lanes, without sealing and without a display: the data plane."""
    import numpy as np
    import pyarrow as pa

    from flashcast.arm.target import target_for
    from flashcast.arm.warm import warm_up_crew
    from flashcast.audience.arrays import column_bytes
    from flashcast.clock import SystemClock
    from flashcast.config import load_config
    from flashcast.deliver.claims import Chunks, ShardRows
    from flashcast.deliver.job import Job, RowArrays, Terms
    from flashcast.model import Provider
    from flashcast.outcomes import Outcome
    from flashcast.sender import Message
    from flashcast.wire.template import columns_of
    from flashcast.wire.warm import compile_kernels

    compile_kernels()
    clock = SystemClock()
    config = load_config(Path(options["config"]))
    chosen = Provider(provider)
    section = config.endpoint(chosen)
    section.connections = options["connections"]
    rows = options["requests"]
    tokens = (apns_tokens if chosen is Provider.APNS else fcm_tokens)(rows)
    if "token" in options:
        tokens = [options["token"]] * rows
    column = column_bytes(pa.array(tokens, pa.string()))
    del tokens
    message = Message(apns=APNS) if chosen is Provider.APNS else Message(fcm=FCM)
    target = target_for(chosen, config, clock)
    crew = warm_up_crew(target, rows, clock, lanes=1)
    shard = ShardRows(columns_of((column.data, column.offsets), [], np.zeros(0, np.uint8)), 0, rows)
    arrays = RowArrays(np.zeros(rows, np.uint8), np.zeros(rows, np.uint8), np.zeros(rows, np.uint8),
                       np.full(rows, 0xFFFFFFFF, np.uint32))  # fmt: skip
    job = Job(chosen, [shard], Chunks([shard]), arrays, message.compiled.templates[chosen], target.head,
              target.path_prefix, target.credential, clock, Terms())  # fmt: skip
    before, began = cpu_s(), time.perf_counter()
    now_ns = clock.monotonic_ns()
    job.set_go(now_ns, now_ns)
    crew.lanes[0].start(job)
    crew.lanes[0].finished.wait()
    spent, took = cpu_s() - before, time.perf_counter() - began
    told = crew.lanes[0].statistics()
    answered = int((arrays.reply_ms != 0xFFFFFFFF).sum())
    crew.close()
    return {
        "requests": rows, "answered": answered, "accepted": int((arrays.outcome == Outcome.ACCEPTED).sum()),
        "cpu_s": spent, "wall_s": took, "bytes_sent": told.bytes_sent, "bytes_received": told.bytes_received,
        "volleys": told.volleys,
    }  # fmt: skip


def tls_alone(options: dict[str, Any]) -> dict[str, Any]:
    """The same bytes over as many connections through the same TLS channel, and nothing else.

    ``pattern`` "volleys" sends a volley's bytes on a connection once the replies to the one before have come, as
    stream limits make any sender do; "stream" never waits for replies.
    """
    from flashcast.transport.tls import Channel, client_context, parse_address

    address = parse_address(options["endpoint"], None, "endpoint")
    context = client_context(Path(options["ca_file"]))
    raw, into = bytearray(1 << 18), memoryview(bytearray(1 << 19))
    channels = [Channel(address, context, raw) for _ in range(options["connections"])]
    selector = selectors.DefaultSelector()
    for channel in channels:
        while not channel.advance():
            time.sleep(0.001)
        selector.register(channel.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, channel)
    chunk = memoryview(b"x" * (options["volley"] * options["bytes_in"]))
    reply_bytes = options["volley"] * options["bytes_out"]
    waits = options["pattern"] == "volleys"
    owed = dict.fromkeys(channels, 0)
    volleys = options["requests"] // options["volley"]
    to_receive = volleys * reply_bytes
    before, began = cpu_s(), time.perf_counter()
    while to_receive > 0:
        for ready, _ in selector.select():
            channel = ready.data
            channel.flush()
            got = channel.receive(into)
            to_receive -= got
            owed[channel] -= got
            if volleys > 0 and not channel.wants_write and (not waits or owed[channel] <= 0):
                channel.send(chunk)
                owed[channel] += reply_bytes
                volleys -= 1
            more = volleys > 0 and not waits
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if more or channel.wants_write else 0)
            if events != ready.events:
                selector.modify(channel.socket, events, channel)
    return {"requests": options["requests"], "cpu_s": cpu_s() - before, "wall_s": time.perf_counter() - began}


async def _in_parallel(send: Callable[[str], Awaitable[object]], tokens: list[str], width: int) -> None:
    queue = iter(tokens)

    async def worker() -> None:
        for token in queue:
            await send(token)

    await asyncio.gather(*(worker() for _ in range(width)))


async def aioapns_client(options: dict[str, Any]) -> dict[str, Any]:
    """aioapns, one of the common Python clients, against the simulator."""
    import aioapns

    from flashcast.config import load_config

    section = load_config(Path(options["config"])).apns
    assert section is not None
    host, port = section.endpoint.removeprefix("https://").split(":")
    import ssl

    from aioapns import connection as inner

    # aioapns knows only Apple's hosts; everything else of it stays as it is.
    inner.APNsProductionClientProtocol.APNS_SERVER = host
    inner.APNsBaseClientProtocol.APNS_PORT = inner.APNsTLSClientProtocol.APNS_PORT = int(port)
    context = ssl.create_default_context(cafile=str(section.ca_file))
    context.set_alpn_protocols(["h2"])
    client = aioapns.APNs(
        key=Path(str(section.key_file)).read_text(), key_id=section.key_id, team_id=section.team_id,
        topic="com.example.app",
        ssl_context=context, max_connections=1,
    )  # fmt: skip
    accepted = 0

    async def send(token: str) -> None:
        nonlocal accepted
        request = aioapns.NotificationRequest(
            token, {"aps": {"alert": APNS["alert"]}}, push_type=aioapns.PushType.ALERT
        )
        response = await client.send_notification(request)
        accepted += response.is_successful

    tokens = apns_tokens(options["requests"] + 1)
    await send(tokens.pop())
    accepted = 0
    before, began = cpu_s(), time.perf_counter()
    await _in_parallel(send, tokens, 100)
    return {
        "requests": options["requests"], "accepted": accepted, "cpu_s": cpu_s() - before,
        "wall_s": time.perf_counter() - began,
    }  # fmt: skip


async def httpx_client(options: dict[str, Any]) -> dict[str, Any]:
    """httpx over HTTP/2 with google-auth: what one writes for FCM HTTP v1 without Google's SDK."""
    import httpx

    from flashcast.clock import SystemClock
    from flashcast.config import load_config
    from flashcast.providers.fcm import ServiceAccount

    section = load_config(Path(options["config"])).fcm
    assert section is not None
    account = ServiceAccount(section.service_account_file, SystemClock(), ca_file=section.ca_file)
    account.keep_fresh()
    url = f"{section.endpoint}/v1/projects/{account.project_id}/messages:send"
    headers = {"authorization": account.authorization()}
    accepted = 0
    import ssl

    async with httpx.AsyncClient(http2=True, verify=ssl.create_default_context(cafile=str(section.ca_file))) as client:

        async def send(token: str) -> None:
            nonlocal accepted
            body = {"message": {"token": token, "notification": FCM["notification"], "android": {"priority": "high"}}}
            response = await client.post(url, json=body, headers=headers)
            accepted += response.status_code == 200

        tokens = fcm_tokens(options["requests"] + 1)
        await send(tokens.pop())
        accepted = 0
        before, began = cpu_s(), time.perf_counter()
        await _in_parallel(send, tokens, 50)
        spent, took = cpu_s() - before, time.perf_counter() - began
    return {"requests": options["requests"], "accepted": accepted, "cpu_s": spent, "wall_s": took}


def main() -> None:
    name, options = sys.argv[1], json.loads(sys.argv[2])
    if name in ("apns", "fcm"):
        result = flashcast(name, options)
    elif name == "tls":
        result = tls_alone(options)
    elif name == "aioapns":
        result = asyncio.run(aioapns_client(options))
    else:
        result = asyncio.run(httpx_client(options))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
