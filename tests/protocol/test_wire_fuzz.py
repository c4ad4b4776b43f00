"""Whatever bytes a peer sends: no exception but ProtocolError, no row lost, nothing grows.

By default a fixed number of rounds. ``FLASHCAST_FUZZ_SECONDS=60`` goes on with new ones for that long, and
``FLASHCAST_FUZZ_SEED=n`` repeats the round a failure named. With ``NUMBA_BOUNDSCHECK=1`` (and a cache of its own,
``NUMBA_CACHE_DIR=/tmp/checked``) the kernels also check their indices.
"""

from __future__ import annotations

import os
import random
import time

import numpy as np
import pytest
from wire_support import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    SETTINGS,
    Client,
    apns_requests,
    columns,
    frame,
    goaway,
    header,
    ok,
    rst,
    settings,
    window,
)

from flashcast.errors import ProtocolError
from flashcast.limits import CONTROL_BYTES_MAX
from flashcast.model import Hole
from flashcast.wire.connection import Phase

# Read here: the tests themselves see no FLASHCAST_ variables.
SECONDS = float(os.environ.get("FLASHCAST_FUZZ_SECONDS", "0"))
ONLY = os.environ.get("FLASHCAST_FUZZ_SEED")
ROUNDS = 1_000
FEEDS_MAX = 40
ROWS = 300


def a_valid_frame(rng: random.Random, next_stream: int) -> bytes:
    """Something a server could say, mostly about streams that are open."""
    stream = rng.randrange(1, max(2, next_stream) + 2) | 1
    status = rng.choice((b"200", b"200", b"100", b"103", b"400", b"410", b"429", b"503"))
    block = b"".join(
        [header(b":status", status, rng.choice((0, 0, 1, 2)), rng.random() < 0.3)]
        + [header(b"x-name", b"v" * rng.randrange(200), rng.randrange(4), rng.random() < 0.5)] * rng.randrange(3)
    )
    end, pad = rng.choice((0, END_STREAM)), rng.randrange(20)
    return rng.choice((
        ok(stream),
        ok(stream),
        frame(HEADERS, END_HEADERS | end, stream, block),
        frame(HEADERS, END_HEADERS | PADDED | end, stream, bytes((pad,)) + block + bytes(pad)),
        frame(HEADERS, END_HEADERS | PRIORITISED | end, stream, bytes(5) + block),
        frame(HEADERS, end, stream, block[:3]) + frame(CONTINUATION, END_HEADERS, stream, block[3:]),
        frame(HEADERS, end, stream, block) + frame(CONTINUATION, 0, stream, rng.randbytes(9_000)) * rng.randrange(9),
        frame(DATA, end, stream, bytes(rng.randrange(9_000))),
        frame(DATA, end | PADDED, stream, bytes((pad,)) + bytes(pad + rng.randrange(50))),
        rst(stream, rng.choice((0, 7, 8))),
        settings(streams=rng.choice((0, 1, 10, 100, 10_000))),
        settings(window=rng.choice((0, 1, 30, 65_535, 2**31 - 1))),
        settings(table=rng.choice((0, 64, rng.randrange(4_097)))) * rng.choice((1, 1, 200)),
        frame(SETTINGS, ACK),
        frame(PING, rng.choice((0, ACK)), 0, rng.randbytes(8)) * rng.choice((1, 1, 500)),
        goaway(rng.choice((0, stream, 2**31 - 1))),
        window(rng.choice((0, 0, stream)), rng.choice((1, 10, 1_000, 65_535))),
        frame(PRIORITY, 0, stream, bytes(5)),
        frame(rng.randrange(10, 256), rng.randrange(256), stream, rng.randbytes(rng.randrange(40))),
    ))  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One fault: a bit, a byte, a cut, a repetition, a frame's length, type, flags or stream."""
    out = bytearray(data)
    at = rng.randrange(len(out))
    what = rng.randrange(6)
    if what == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif what == 1:
        out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif what == 2:
        del out[at : at + rng.randrange(1, 20)]
    elif what == 3:
        out[at:at] = out[at : at + rng.randrange(1, 40)]
    elif what == 4:
        out[min(rng.randrange(9), len(out) - 1)] = rng.randrange(256)
    else:
        out[at:at] = rng.randbytes(rng.randrange(1, 30))
    return bytes(out)


def a_client(rng: random.Random) -> Client:
    tokens = [rng.randbytes(rng.randrange(1, 33)).hex().encode() for _ in range(ROWS)]
    fields = [[bytes(rng.randrange(60)) for _ in tokens]]
    body = (b'{"a":"', Hole(0), b'"}')
    return Client(tokens, apns_requests(body, (b"{}",)), columns(tokens, fields, [rng.randrange(2) for _ in tokens]))


def one_round(seed: int) -> None:
    """A connection from its opening to its end, against a peer that is sometimes right and often wrong."""
    rng = random.Random(seed)
    client = a_client(rng)
    kind = rng.choice(("noise", "mutants", "mutants", "mostly valid"))
    try:
        if rng.random() < 0.95:
            client.receive(settings(streams=rng.choice((1, 20, 500)), window=rng.choice((0, 20, 65_535))))
        for _ in range(rng.randrange(1, FEEDS_MAX)):
            client.now_us += rng.choice((10, 10_000, 3_000_000))
            client.volley(rng.randrange(1, 40))
            if kind == "noise":
                data = rng.randbytes(rng.randrange(1, 400))
            else:
                data = b"".join(a_valid_frame(rng, 2 * client.sent) for _ in range(rng.randrange(1, 8)))
                if rng.random() < (0.8 if kind == "mutants" else 0.05):
                    data = mutated(rng, data)
            while data:
                size = rng.choice((len(data), rng.randrange(1, len(data) + 1)))
                client.receive(data[:size])
                client.check()
                data = data[size:]
            if rng.random() < 0.1:
                client.expire(5_000_000)
            if rng.random() < 0.1:
                client.connection.ping(client.now_us)
            assert len(client._pending) <= 16_384 + 9
            assert len(client.connection._pings) <= FEEDS_MAX
    except ProtocolError:
        client.check()
    assert len(client.connection._control) <= CONTROL_BYTES_MAX + 300_000
    client.lose()
    client.check()
    assert client.connection.in_flight == 0
    assert client.connection.phase is Phase.CLOSED
    assert not np.any(client.connection._slot_stream)
    assert not client.connection._partial
    assert not client.connection._stalled


def test_no_bytes_whatever_break_the_books() -> None:
    until = time.monotonic() + SECONDS
    seed = first = int(ONLY or 0)
    while seed < first + (1 if ONLY else ROUNDS) or (not ONLY and time.monotonic() < until):
        try:
            one_round(seed)
        except BaseException as error:
            error.add_note(f"repeat with FLASHCAST_FUZZ_SEED={seed}")
            raise
        seed += 1


def test_a_flood_of_pings_is_refused_before_it_fills_the_memory() -> None:
    client = a_client(random.Random(1))
    client.receive(settings())
    flood = frame(PING, 0, 0, b"12345678") * 1_000
    with pytest.raises(ProtocolError, match="floods us") as refused:
        for _ in range(1_000):
            client.receive(flood)
    assert refused.value.code == 0xB
    assert len(client.connection._control) < 2 * CONTROL_BYTES_MAX


def test_a_peer_that_keeps_changing_its_header_table_leaves_nothing_behind() -> None:
    client = a_client(random.Random(2))
    for i in range(1_000):
        client.receive(settings(table=i % 300) + settings(table=4_096 - i, streams=1_000) + settings(table=i))
        if i % 5 == 0:
            client.volley(1)
        client.connection.control()
        client.check()
    assert client.sent == 200


def test_the_frames_of_the_fuzzer_are_mostly_right() -> None:
    """A fuzzer whose every frame is refused at once would test one line of the parser."""
    refused = 0
    for seed in range(200):
        rng = random.Random(seed)
        client = a_client(rng)
        client.receive(settings())
        client.volley()
        try:
            client.receive(a_valid_frame(rng, 2 * client.sent))
        except ProtocolError:
            refused += 1
    assert refused < 20


