"""Random replies of a server: valid ones, made of every kind of frame the protocol allows, and broken ones."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from wire_support import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INDEXED,
    NEVER_INDEXED,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    WITH_INDEXING,
    WITHOUT_INDEXING,
    frame,
    header,
    rst,
    settings,
    window,
)  # fmt: skip

Frames = tuple[bytes, ...]
"""Frames that must follow one another: a header block with its CONTINUATIONs, or a single frame."""

HOWS = st.sampled_from((INDEXED, WITH_INDEXING, WITHOUT_INDEXING, NEVER_INDEXED))
REGULAR = st.tuples(
    st.sampled_from((b"content-type", b"apns-id", b"date", b"server", b"x-name", b"retry-after", b"accept-encoding")),
    st.one_of(
        st.sampled_from((b"application/json", b"gzip, deflate", b"120", b"")),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30).map(str.encode),
        st.integers(100, 300).map(lambda n: b"v" * n),
    ),
)
ERRORS = st.sampled_from((400, 403, 404, 410, 413, 429, 500, 503))
REASONS = st.sampled_from((b'{"reason":"Unregistered","timestamp":1700000000000}', b'{"reason":"BadTopic"}', b"", b"{"))


@st.composite
def block(draw: st.DrawFn, status: int | None, most: int = 4) -> bytes:
    """A header block; ``None`` makes trailers."""
    coded = b""
    if status is not None:
        coded += b"\x20" * draw(st.integers(0, 1))
        how = draw(st.sampled_from((INDEXED, INDEXED, WITH_INDEXING, WITHOUT_INDEXING)))
        coded += header(b":status", b"%d" % status, how, draw(st.booleans()))
    fewest = 1 if status is None else 0
    for name, value in draw(st.lists(REGULAR, min_size=fewest, max_size=most)):
        coded += header(name, value, draw(HOWS), draw(st.booleans()))
    return coded


@st.composite
def headers(draw: st.DrawFn, stream: int, coded: bytes, end: bool) -> Frames:
    """The block in frames: perhaps padded, with priority fields, and continued."""
    flags = END_STREAM if end else 0
    cuts = sorted(draw(st.lists(st.integers(0, len(coded)), max_size=draw(st.sampled_from((0, 0, 0, 3))))))
    pieces = [coded[a:b] for a, b in zip([0, *cuts], [*cuts, len(coded)], strict=True)]
    first = pieces[0]
    if draw(st.sampled_from((False, False, True))):
        flags |= PRIORITISED
        first = (0).to_bytes(4, "big") + b"\x10" + first
    flags, first = draw(padded(flags, first))
    frames = [frame(HEADERS, flags, stream, first), *(frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:])]
    last = bytearray(frames[-1])
    last[4] |= END_HEADERS
    return (*frames[:-1], bytes(last))


@st.composite
def padded(draw: st.DrawFn, flags: int, payload: bytes) -> tuple[int, bytes]:
    """Flags and payload, perhaps with padding."""
    padding = draw(st.sampled_from((None, None, None, 0, 1, 17)))
    # hyperframe refuses padding around nothing, which RFC 9113 section 6.1 allows.
    if padding is None or (padding and not payload):
        return flags, payload
    return flags | PADDED, bytes((padding,)) + payload + bytes(padding)


@st.composite
def reply(draw: st.DrawFn, stream: int) -> list[Frames]:
    """Everything a server says on one stream, in order: from nothing at all to a reply with all its parts."""
    kind = draw(st.sampled_from(("plain", "plain", "200", "200", "error", "error", "error", "silent")))
    script: list[Frames] = []
    if kind == "plain":
        return [(frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88"),)]
    if kind == "silent":
        return draw(st.sampled_from(([], [(rst(stream, 7),)], [(rst(stream, 8),)])))
    for status in draw(st.lists(st.sampled_from((100, 103)), max_size=draw(st.sampled_from((0, 0, 2))))):
        script.append(draw(headers(stream, draw(block(status, 1)), False)))
    ending = draw(st.sampled_from(("headers", "data", "data", "empty data", "trailers", "reset")))
    coded = draw(block(200 if kind == "200" else draw(ERRORS)))
    script.append(draw(headers(stream, coded, ending == "headers")))
    if ending == "headers":
        return script
    body = draw(st.one_of(REASONS, st.sampled_from((1, 300, 8_192, 9_000)).map(lambda n: b"b" * n)))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    for i, piece in enumerate(pieces):
        end = END_STREAM if ending == "data" and i == len(pieces) - 1 else 0
        flags, payload = draw(padded(end, piece))
        script.append((frame(DATA, flags, stream, payload),))
    if ending == "empty data":
        script.append((frame(DATA, END_STREAM, stream),))
    elif ending == "trailers":
        script.append(draw(headers(stream, draw(block(None, 2)), True)))
    elif ending == "reset":
        script.append((rst(stream, draw(st.sampled_from((0, 2, 7, 8)))),))
    return script


@dataclass(frozen=True)
class Traffic:
    """``frames`` in order, with the stream each group belongs to (0: the connection)."""

    streams: int
    frames: list[tuple[int, Frames]]

    @property
    def data(self) -> bytes:
        return b"".join(piece for _, group in self.frames for piece in group)


def connection_frames(streams: int) -> st.SearchStrategy[Frames]:
    """Frames that change nothing for any reply."""
    used = st.integers(1, streams).map(lambda i: 2 * i - 1)
    return st.one_of(
        st.binary(min_size=8, max_size=8).map(lambda b: frame(PING, 0, 0, b)),
        st.binary(min_size=8, max_size=8).map(lambda b: frame(PING, ACK, 0, b)),
        st.sampled_from((0, 1, 50, 1_000)).map(lambda n: settings(streams=n)),
        st.sampled_from((0, 1_000, 65_535)).map(lambda n: settings(window=n)),
        st.sampled_from((0, 64, 4_096)).map(lambda n: settings(table=n)),
        st.builds(frame, st.integers(11, 255), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=30)),
        st.integers(1, 1_000).map(lambda n: window(0, n)),
        st.tuples(used, st.integers(1, 1_000)).map(lambda p: window(*p)),
        used.map(lambda s: frame(PRIORITY, 0, s, (0).to_bytes(4, "big") + b"\x05")),
    ).map(lambda f: (f,))


@st.composite
def traffic(draw: st.DrawFn, most_streams: int = 6) -> Traffic:
    """Replies on several streams, interleaved with one another and with frames of the connection."""
    streams = draw(st.integers(1, most_streams))
    scripts = {2 * i + 1: draw(reply(2 * i + 1)) for i in range(streams)}
    noise = draw(st.lists(connection_frames(streams), max_size=6))
    order = draw(st.permutations([s for s, script in scripts.items() for _ in script] + [0] * len(noise)))
    waiting = {**{s: iter(script) for s, script in scripts.items()}, 0: iter(noise)}
    return Traffic(streams, [(stream, next(waiting[stream])) for stream in order])


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` cut to ``sizes``, taken round and round; what is left after a hundred pieces comes at once."""
    pieces, at, i = [], 0, 0
    while at < len(data):
        if i == 100:
            return [*pieces, data[at:]]
        pieces.append(data[at : at + sizes[i % len(sizes)]])
        at, i = at + len(pieces[-1]), i + 1
    return pieces


CHUNK_SIZES = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 20_000)), min_size=1, max_size=12)
