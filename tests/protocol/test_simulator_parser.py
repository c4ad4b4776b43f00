"""The simulator's parser sees the same requests however they are cut, coded and framed."""

from __future__ import annotations

import json
import random

import hpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_support import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    SETTINGS,
    WITH_PRIORITY,
    Bench,
    Headers,
    RawClient,
    bench,
    device,
    fcm_body,
    frames,
    registration,
)

from flashcast.digest import fingerprints
from flashcast.model import Provider
from flashcast.simulator.credentials import Credentials
from flashcast.simulator.json_kernel import skeleton
from flashcast.simulator.kernels import print_of
from flashcast.simulator.memo import find_path
from flashcast.simulator.profile import ProviderProfile, Reply
from flashcast.simulator.replies import frame

_PATH_NAME = 4


class Fickle:
    """Encodes requests in every way that RFC 7541 and RFC 9113 leave open."""

    def __init__(self, client: RawClient, rng: random.Random) -> None:
        self._client, self._random = client, rng

    def request(self, headers: Headers, body: bytes) -> bytes:
        stream = self._client.next_id
        self._client.next_id += self._random.choice((2, 2, 2, 4))
        return self._head(stream, self._block(headers)) + self._body(stream, body)

    def _block(self, headers: Headers) -> bytes:
        rng, encoder = self._random, self._client.encoder
        pseudo = [h for h in headers if h[0].startswith(":")]
        regular = [h for h in headers if not h[0].startswith(":")]
        if rng.random() < 0.3:
            rng.shuffle(pseudo)
            rng.shuffle(regular)
        if rng.random() < 0.1:
            encoder.header_table_size = rng.choice((0, 64, 500, 4_096))
        # The size update must come first in the block.
        block = encoder.encode([])
        for name, value in pseudo + regular:
            way = rng.random()
            if name == ":path" and way < 0.7:
                block += self._literal_path(value, never=way < 0.2)
            elif way < 0.15:
                block += encoder.encode(
                    [hpack.NeverIndexedHeaderTuple(name, value)], huffman=rng.random() < 0.5
                )
            else:
                block += encoder.encode([(name, value)], huffman=rng.random() < 0.5)
        return block

    def _literal_path(self, value: str, *, never: bool) -> bytes:
        first = 0x14 if never else 0x04
        size = len(value)
        length = bytes((size,)) if size < 127 else bytes((127, size - 127))
        return bytes((first,)) + length + value.encode()

    def _head(self, stream: int, block: bytes) -> bytes:
        rng = self._random
        flags, payload = 0, block
        if rng.random() < 0.15:
            flags |= WITH_PRIORITY
            payload = b"\x80\0\0\0\x10" + payload
        if rng.random() < 0.15:
            pad = rng.randrange(30)
            flags |= PADDED
            payload = bytes((pad,)) + payload + bytes(pad)
        if flags or rng.random() < 0.8:
            return frame(HEADERS, flags | END_HEADERS, stream, payload)
        cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 4)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        out = frame(HEADERS, 0, stream, pieces[0])
        for piece in pieces[1:-1]:
            out += frame(CONTINUATION, 0, stream, piece)
        return out + frame(CONTINUATION, END_HEADERS, stream, pieces[-1])

    def _body(self, stream: int, body: bytes) -> bytes:
        rng, out = self._random, b""
        while rng.random() < 0.3:
            cut = rng.randrange(len(body) + 1)
            piece, body = body[:cut], body[cut:]
            out += (
                frame(DATA, PADDED, stream, b"\x03" + piece + bytes(3))
                if rng.random() < 0.3
                else frame(DATA, 0, stream, piece)
            )
            out += rng.choice(
                (
                    b"",
                    frame(PING, 1, 0, bytes(8)),
                    frame(PRIORITY, 0, 999, bytes(5)),
                    frame(0xEE, 0, stream, b"?"),
                )
            )
        if rng.random() < 0.1:
            trailers = self._client.encoder.encode([("x-end", "1")])
            return (
                out
                + frame(DATA, 0, stream, body)
                + frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
            )
        return out + frame(DATA, END_STREAM, stream, body)


def _at(made: Credentials, provider: Provider) -> Bench:
    words = (
        ("Unregistered", "TooManyRequests")
        if provider is Provider.APNS
        else ("UNREGISTERED", "QUOTA_EXCEEDED")
    )
    replies = (Reply(reason=words[0], share=0.2), Reply(reason=words[1], share=0.2, attempts=2))
    return bench(made, provider, ProviderProfile(replies=replies), seed=3)


def _books(at: Bench) -> tuple[list[tuple[int, ...]], dict[str, int]]:
    counts = at.ledger.counts()
    columns = (
        counts.fingerprint,
        counts.judged,
        counts.received_by_token,
        counts.accepted_by_token,
        counts.reason,
    )
    return sorted(tuple(int(v) for v in row) for row in zip(*columns, strict=True)), counts.by_reason


@given(st.integers(0, 2**32), st.sampled_from(list(Provider)), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_books_do_not_depend_on_how_requests_are_coded_and_cut(
    credentials: Credentials, seed: int, provider: Provider, fickle: bool
) -> None:
    rng = random.Random(seed)
    numbers = [rng.randrange(60) for _ in range(80)]
    texts = ["1:0", "2:1", "caf\u00e9 \\u26bd", "x" * 300]
    plain, odd = RawClient(_at(credentials, provider)), RawClient(_at(credentials, provider))
    writer = Fickle(odd, rng)
    stream = b""
    for n in numbers:
        body = _body_of(provider, n, texts[n % 4])
        plain.send(plain.request(plain.bench.headers(n), body))
        stream += (
            writer.request(odd.bench.headers(n), body) if fickle else odd.request(odd.bench.headers(n), body)
        )
    at = 0
    while at < len(stream):
        size = rng.choice((1, 2, 9, 40, 300, 5_000))
        odd.send(stream[at : at + size])
        at += size
    assert _books(odd.bench) == _books(plain.bench)
    assert odd.bench.ledger.summary()["malformed"] == 0


def _body_of(provider: Provider, number: int, text: str) -> bytes:
    if provider is Provider.FCM:
        return fcm_body(registration(number), text)
    return (f'{{"aps":{{"alert":{{"title":"Goal","body":"{text}"}}}}}}').encode()


@pytest.mark.parametrize("provider", list(Provider))
def test_a_request_like_one_judged_before_stays_in_the_kernel(
    credentials: Credentials, provider: Provider
) -> None:
    client = RawClient(bench(credentials, provider, ProviderProfile(streams=1_000)))
    writer = Fickle(client, random.Random(0))
    encoder = client.encoder

    def request(n: int) -> bytes:
        headers = client.bench.headers(n)
        if provider is Provider.FCM:
            return client.request(headers, fcm_body(registration(n), f"personal {n}"))
        stream, client.next_id = client.next_id, client.next_id + 2
        block = encoder.encode(headers[:3]) + writer._literal_path(f"/3/device/{device(n)}", never=False)
        block += encoder.encode(headers[4:])
        return frame(HEADERS, END_HEADERS, stream, block) + frame(
            DATA, END_STREAM, stream, b'{"aps":{"alert":"%d"}}' % n
        )

    for n in range(3):
        client.send(request(n))
    calls = 0
    slow = client.connection._on_block

    def counted(block: object) -> None:
        nonlocal calls
        calls += 1
        slow(block)  # type: ignore[arg-type]

    client.connection._on_block = counted  # type: ignore[method-assign, assignment]
    client.send(b"".join(request(n) for n in range(3, 500)))
    assert calls == 0
    assert client.bench.ledger.summary()["accepted"] == 500


def test_a_bad_body_or_token_is_caught_behind_a_good_head(credentials: Credentials) -> None:
    at = bench(credentials, Provider.FCM)
    client = RawClient(at)
    good = [fcm_body(registration(n)) for n in range(4)]
    bad = [
        good[0][:-1],
        good[0] + b"}",
        good[0].replace(b"Goal", b"Go\xffal"),
        good[0].replace(b"Goal", b"Go\nal"),
        good[0].replace(b"title", b"titel").replace(b'"notification":{', b'"notifications":{'),
        good[0].replace(registration(0).encode(), b"short"),
        good[0].replace(registration(0).encode(), registration(0).encode() + b" "),
    ]
    statuses = [client.ask(at.headers(), body)[0] for body in (*good, *bad, *good)]
    assert statuses == [200] * 4 + [400] * len(bad) + [200] * 4


def test_a_long_body_behind_a_good_head_is_still_too_large(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS))
    sizes = [50, 50, 4_096, 4_097, 50]
    bodies = [b'{"aps":"' + b"x" * (size - 10) + b'"}' for size in sizes]
    assert [client.ask(client.bench.headers(n), b)[0] for n, b in enumerate(bodies)] == [
        200,
        200,
        200,
        413,
        200,
    ]


@given(st.binary(max_size=600))
@settings(deadline=None)
def test_a_tokens_key_is_its_fingerprint(data: bytes) -> None:
    padded = np.frombuffer(data + bytes(8), np.uint8)
    out = np.zeros(1, np.uint64)
    fingerprints(padded, np.array([0, len(data)], np.uint32), out)
    assert int(print_of(padded, 0, len(data))) == max(int(out[0]), 1)


def _shape(text: bytes) -> int:
    return int(skeleton(np.frombuffer(text + bytes(8), np.uint8), 0, len(text)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _strict(text: bytes) -> bool:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return isinstance(json.loads(text.decode("utf-8"), parse_constant=refuse), dict)
    except ValueError:
        return False


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=5), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_the_json_kernel_takes_what_json_takes(
    document: dict[str, object], ascii_only: bool, data: st.DataObject
) -> None:
    text = bytearray(json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    assert bool(_shape(bytes(text))) == _strict(bytes(text))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 1))] = bytes(
            (data.draw(st.sampled_from(b'{}[]:,"\\ 019eE+-.tfn\x80\xc3\xe9\n')),)
        )
        assert bool(_shape(bytes(text))) == _strict(bytes(text))


def test_texts_that_differ_in_strings_have_one_shape_and_others_not() -> None:
    assert _shape(b'{"a":"x","b":[1]}') == _shape(b'{ "a": "much longer \\u00e9", "b":[1] }') != 0
    others = [
        b'{"a":"x"}',
        b'{"b":"x"}',
        b'{"a":1}',
        b'{"a":2}',
        b'{"a":["x"]}',
        b'{"a":{"x":"x"}}',
        b'{"a":null}',
    ]
    assert len({_shape(text) for text in others}) == len(others)


def test_a_path_literal_is_found_only_where_it_may_differ() -> None:
    path = b"\x04\x05/path"
    assert find_path(b"\x83\x87" + path + b"\xbe") == (2, 9)
    assert find_path(b"\x83\x00\x01a\x01b" + path) == (6, 13)
    assert find_path(b"\x83\x87") is None
    assert find_path(b"\x83" + path + path) is None
    assert find_path(b"\x83\x44\x05/path") is None
    assert find_path(b"\x83\x04\x82ab") is None


def test_random_bytes_never_break_the_simulator(credentials: Credentials) -> None:
    rng = random.Random(11)
    for _ in range(300):
        client = RawClient(bench_shared(credentials))
        data = bytearray(
            b"".join(client.request(client.bench.headers(n), client.bench.body(n)) for n in range(4))
        )
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
        client.send(bytes(data))
        client.wait(0.01)
        frames(client.taken())


_SHARED: list[Bench] = []


def bench_shared(made: Credentials) -> Bench:
    """One bench for all: making one costs more than the test of a connection."""
    if not _SHARED:
        _SHARED.append(bench(made, Provider.APNS))
    return _SHARED[0]


def test_settings_frames_of_any_content_are_survived(credentials: Credentials) -> None:
    rng = random.Random(5)
    for _ in range(200):
        client = RawClient(bench_shared(credentials))
        client.send(frame(SETTINGS, 0, 0, rng.randbytes(6 * rng.randrange(4))))
        client.send(client.request(client.bench.headers(), client.bench.body()))
        client.wait(0.01)
        frames(client.taken())
