"""Malformed HTTP/2 earns the error that RFC 9113 names, and nothing worse happens."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from simulator_support import (
    ACK,
    BODY,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    RawClient,
    bench,
    frames,
)

from flashcast.model import Provider
from flashcast.simulator.connection import PREFACE
from flashcast.simulator.credentials import Credentials
from flashcast.simulator.faults import Code
from flashcast.simulator.profile import Latency, ProviderProfile, Reply
from flashcast.simulator.replies import frame

Script = Callable[[RawClient], bytes]


def _block(client: RawClient, **changes: str | None) -> bytes:
    return client.encoder.encode(client.bench.headers(**changes))


def _open(client: RawClient, stream: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, _block(client))


def _setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


CONNECTION: dict[str, tuple[Script, Code]] = {
    "DATA on stream 0": (lambda c: frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "DATA on an idle stream": (lambda c: frame(DATA, 0, 5, b"x"), Code.PROTOCOL_ERROR),
    "HEADERS on stream 0": (lambda c: frame(HEADERS, END_HEADERS, 0, _block(c)), Code.PROTOCOL_ERROR),
    "HEADERS on an even stream": (lambda c: frame(HEADERS, END_HEADERS, 2, _block(c)), Code.PROTOCOL_ERROR),
    "a stream id that goes back": (
        lambda c: frame(HEADERS, END_HEADERS, 5, _block(c)) + frame(HEADERS, END_HEADERS, 3, _block(c)),
        Code.PROTOCOL_ERROR,
    ),
    "a stream id used twice": (
        lambda c: c.request(c.bench.headers(1), BODY) + frame(HEADERS, END_HEADERS, 1, _block(c)),
        Code.STREAM_CLOSED,
    ),
    "a frame between HEADERS and CONTINUATION": (
        lambda c: frame(HEADERS, 0, 1, _block(c)) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        lambda c: frame(HEADERS, 0, 1, _block(c)) + frame(CONTINUATION, END_HEADERS, 3, b""), Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (lambda c: frame(CONTINUATION, END_HEADERS, 1, b""), Code.PROTOCOL_ERROR),
    "padding longer than the frame": (
        lambda c: frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff\x82"), Code.PROTOCOL_ERROR,
    ),
    "padding without its length": (lambda c: frame(HEADERS, END_HEADERS | PADDED, 1, b""), Code.FRAME_SIZE_ERROR),
    "priority cut short": (lambda c: frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "a block that is not HPACK": (
        lambda c: frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"), Code.COMPRESSION_ERROR,
    ),
    "an index beyond the table": (lambda c: frame(HEADERS, END_HEADERS, 1, b"\xbf\x80"), Code.COMPRESSION_ERROR),
    "a frame too large": (lambda c: (16_385).to_bytes(3, "big") + bytes((DATA, 0)) + bytes(4), Code.FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (lambda c: frame(PUSH_PROMISE, END_HEADERS, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "SETTINGS on a stream": (lambda c: frame(SETTINGS, 0, 1, b""), Code.PROTOCOL_ERROR),
    "SETTINGS of a wrong size": (lambda c: frame(SETTINGS, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with a payload": (lambda c: frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged twice": (lambda c: frame(SETTINGS, ACK, 0, b""), Code.PROTOCOL_ERROR),
    "ENABLE_PUSH 2": (lambda c: _setting(2, 2), Code.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE 2^31": (lambda c: _setting(4, 1 << 31), Code.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE 1": (lambda c: _setting(5, 1), Code.PROTOCOL_ERROR),
    "PING on a stream": (lambda c: frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of a wrong size": (lambda c: frame(PING, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0": (lambda c: frame(WINDOW_UPDATE, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of a wrong size": (lambda c: frame(WINDOW_UPDATE, 0, 0, b"a"), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE on an idle stream": (lambda c: frame(WINDOW_UPDATE, 0, 7, b"\0\0\0\1"), Code.PROTOCOL_ERROR),
    "a window beyond 2^31 - 1": (lambda c: frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "RST_STREAM on stream 0": (lambda c: frame(RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (lambda c: frame(RST_STREAM, 0, 9, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM of a wrong size": (lambda c: _open(c) + frame(RST_STREAM, 0, 1, b"a"), Code.FRAME_SIZE_ERROR),
    "PRIORITY on stream 0": (lambda c: frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "GOAWAY on a stream": (lambda c: frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY cut short": (lambda c: frame(GOAWAY, 0, 0, bytes(4)), Code.FRAME_SIZE_ERROR),
    "a flood of PINGs": (lambda c: frame(PING, ACK, 0, bytes(8)) * 10_001, Code.ENHANCE_YOUR_CALM),
    "a flood of CONTINUATIONs": (
        lambda c: frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5, Code.ENHANCE_YOUR_CALM,
    ),
    "a header bomb": (
        lambda c: frame(HEADERS, END_HEADERS, 1, b"\x40\x01x\x7f\xbd\x1d" + b"y" * 3_900 + b"\xbe" * 9_000),
        Code.ENHANCE_YOUR_CALM,
    ),
}  # fmt: skip

STREAM: dict[str, tuple[Script, Code]] = {
    "an upper-case header name": (lambda c: _raw(c, ("Apns-Topic", "x")), Code.PROTOCOL_ERROR),
    "a pseudo-header after a regular one": (lambda c: _raw(c, (":path", "/")), Code.PROTOCOL_ERROR),
    "an unknown pseudo-header": (lambda c: _raw(c, (":fragment", "x"), first=True), Code.PROTOCOL_ERROR),
    "a connection-specific header": (lambda c: _raw(c, ("connection", "close")), Code.PROTOCOL_ERROR),
    "TE other than trailers": (lambda c: _raw(c, ("te", "gzip")), Code.PROTOCOL_ERROR),
    "a line break in a value": (lambda c: _raw(c, ("x", "a\r\nb: c")), Code.PROTOCOL_ERROR),
    "no :method": (lambda c: frame(HEADERS, END_HEADERS, 1, _block(c, p_method=None)), Code.PROTOCOL_ERROR),
    "no :path": (lambda c: frame(HEADERS, END_HEADERS, 1, _block(c, p_path=None)), Code.PROTOCOL_ERROR),
    "a content-length that lies": (
        lambda c: frame(HEADERS, END_HEADERS, 1, _block(c, content_length="7")) + frame(DATA, END_STREAM, 1, BODY),
        Code.PROTOCOL_ERROR,
    ),
    "a stream that depends on itself": (
        lambda c: frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\1\0" + _block(c)), Code.PROTOCOL_ERROR,
    ),
    "PRIORITY of a wrong size": (lambda c: frame(PRIORITY, 0, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "DATA after the end": (lambda c: c.request(c.bench.headers(1), BODY) + frame(DATA, 0, 1, b"x"), Code.STREAM_CLOSED),
    "trailers that do not end the stream": (
        lambda c: _open(c) + frame(HEADERS, END_HEADERS, 1, c.encoder.encode([("x", "y")])), Code.PROTOCOL_ERROR,
    ),
    "trailers with a pseudo-header": (
        lambda c: _open(c) + frame(HEADERS, END_HEADERS | END_STREAM, 1, c.encoder.encode([(":path", "/")])),
        Code.PROTOCOL_ERROR,
    ),
    "a body beyond its window": (lambda c: _open(c) + frame(DATA, 0, 1, bytes(101)), Code.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of 0 on a stream": (lambda c: _open(c) + frame(WINDOW_UPDATE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
}  # fmt: skip


def _raw(client: RawClient, line: tuple[str, str], *, first: bool = False) -> bytes:
    headers = client.bench.headers()
    return frame(
        HEADERS, END_HEADERS, 1, client.encoder.encode([line, *headers] if first else [*headers, line])
    )


@pytest.mark.parametrize("what", CONNECTION)
def test_a_connection_error_ends_the_connection_with_its_code(credentials: Credentials, what: str) -> None:
    script, code = CONNECTION[what]
    client = RawClient(bench(credentials, Provider.APNS))
    client.send(script(client))
    assert client.fault() == ("connection", code)
    assert client.hung_up
    assert client.bench.ledger.summary()["malformed"] == 1


@pytest.mark.parametrize("what", STREAM)
def test_a_stream_error_ends_that_stream_alone(credentials: Credentials, what: str) -> None:
    script, code = STREAM[what]
    window = ProviderProfile(stream_window_bytes=100)
    client = RawClient(bench(credentials, Provider.APNS, window))
    client.send(script(client))
    assert client.fault() == ("stream", code)
    assert client.bench.ledger.summary()["malformed"] == 1
    client.next_id = 101
    assert client.ask(client.bench.headers(2), BODY)[0] == 200


def test_what_is_no_preface_is_refused_at_its_first_wrong_byte(credentials: Credentials) -> None:
    from simulator_support import Line

    line = Line(bench(credentials, Provider.APNS))
    line.taken()
    line.send(b"PRI * HT")
    assert not line.hung_up
    line.send(b"TP/1.1")
    assert line.hung_up


def test_the_first_frame_must_be_settings(credentials: Credentials) -> None:
    from simulator_support import Line

    line = Line(bench(credentials, Provider.APNS))
    line.send(PREFACE + frame(PING, 0, 0, bytes(8)))
    assert line.hung_up


def test_unknown_frames_and_settings_are_ignored(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS), struct.pack(">HI", 0xFAFA, 7))
    client.send(frame(0xFA, 0xFF, 0, b"x") + frame(0xFB, 0, 33, b"y"))
    assert client.ask(client.bench.headers(), BODY)[0] == 200


def test_a_ping_is_answered_with_its_own_bytes(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS))
    client.send(frame(PING, 0, 0, b"12345678"))
    assert frames(client.taken()) == [(PING, ACK, 0, b"12345678")]


def test_too_many_streams_earn_a_goaway_that_keeps_those_before(credentials: Credentials) -> None:
    for provider, words in (
        (Provider.APNS, b"Maximum active streams violated for this endpoint."),
        (Provider.FCM, b"exceeded_max_concurrent_streams"),
    ):
        at = bench(credentials, provider, ProviderProfile(streams=3, latency=Latency(ms=20)))
        client = RawClient(at)
        client.send(b"".join(client.request(at.headers(n), at.body(n)) for n in range(5)))
        ((kind, _, _, payload),) = frames(client.taken())
        assert kind == GOAWAY
        assert (int.from_bytes(payload[:4], "big"), payload[8:]) == (5, words)
        client.wait(0.02)
        assert [f[2] for f in frames(client.taken()) if f[0] == HEADERS] == [1, 3, 5]
        assert client.hung_up
        assert at.ledger.summary()["received"] == 3
        assert at.ledger.summary()["by_provider"][provider.value]["over_stream_limit"] == 1


def test_streams_beyond_a_limit_the_client_cannot_know_are_refused_and_may_come_again(
    credentials: Credentials,
) -> None:
    at = bench(credentials, Provider.APNS, ProviderProfile(streams=1, latency=Latency(ms=20)))
    client = RawClient(at, acknowledge=False)
    client.taken()
    client.send(client.request(at.headers(1), BODY) + client.request(at.headers(2), BODY))
    assert client.fault() == ("stream", Code.REFUSED_STREAM)
    client.wait(0.02)
    assert client.reply(1, frames(client.taken()))[0] == 200
    client.send(frame(SETTINGS, ACK, 0, b"") + client.request(at.headers(2), BODY))
    client.wait(0.02)
    assert client.reply(5, frames(client.taken()))[0] == 200
    counts = at.ledger.summary()
    assert (counts["received"], counts["duplicates"], counts["malformed"]) == (2, 0, 0)


def test_a_stream_that_the_client_resets_frees_its_place(credentials: Credentials) -> None:
    own = ProviderProfile(streams=1, replies=(Reply(reason="silence", share=1.0, attempts=1),))
    client = RawClient(bench(credentials, Provider.APNS, own))
    client.send(client.request(client.bench.headers(1), BODY))
    client.wait(60)
    assert client.taken() == b""
    client.send(frame(RST_STREAM, 0, 1, Code.CANCEL.to_bytes(4, "big")))
    assert client.ask(client.bench.headers(1), BODY)[0] == 200


def test_a_client_with_tiny_windows_gets_its_reply_in_pieces(credentials: Credentials) -> None:
    at = bench(credentials, Provider.FCM)
    client = RawClient(at, struct.pack(">HI", 4, 10))
    client.send(client.request(at.headers(1), at.body(1)))
    client.wait(0.001)
    first = frames(client.taken())
    assert [(kind, len(payload)) for kind, _, _, payload in first if kind == DATA] == [(DATA, 10)]
    client.send(frame(WINDOW_UPDATE, 0, 1, (1_000).to_bytes(4, "big")))
    second = frames(client.taken())
    assert second[-1][1] & END_STREAM
    status, _, body = client.reply(1, first + second)
    assert status == 200
    assert body.startswith(b'{"name":"projects/')
    assert body.endswith(b'"}')


def test_a_reply_waits_for_the_connection_window(credentials: Credentials) -> None:
    at = bench(credentials, Provider.FCM)
    client = RawClient(at)
    client.connection.wire.state[8] = 0  # S_SEND_WINDOW: as if the client had given none
    client.send(client.request(at.headers(1), at.body(1)))
    client.wait(1)
    assert client.taken() == b""
    client.send(frame(WINDOW_UPDATE, 0, 0, (4_096).to_bytes(4, "big")))
    assert client.reply(1, frames(client.taken()))[0] == 200


def test_a_client_without_a_header_table_is_told_of_the_size_first(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS)
    client = RawClient(at, struct.pack(">HI", 1, 0))
    client.decoder.max_allowed_table_size = 0
    client.send(client.request(at.headers(1), BODY) + client.request(at.headers(2), BODY))
    first, second = (payload for kind, _, _, payload in frames(client.taken()) if kind == HEADERS)
    assert first[0] == 0x20
    assert second[0] == 0x88
    assert dict(client.decoder.decode(first))[":status"] == "200"
