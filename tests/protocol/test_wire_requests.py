"""The template kernel's bytes, read by the h2 library as a server, are exactly the intended requests.

h2 checks what a peer may demand: flow control, streams open at once, header tables, frame sizes. It raises where
any is exceeded, so a test that ends has been within the limits all the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from wire_support import HEAD, Client, columns

from flashcast.model import Hole, Provider, RequestTemplate
from flashcast.wire.connection import Phase, Requests
from flashcast.wire.template import shape_of

S = h2.settings.SettingCodes
WINDOWS = (0, 1, 13, 300, 65_535, 2**31 - 1 - 10**8)
STREAMS = (0, 1, 2, 3, 7, 100)
TABLES = (0, 64, 300, 4_096, 65_536)
FRAMES = (16_384, 20_000, 2**24 - 1)


@dataclass
class Arrived:
    """A request as the server sees it."""

    headers: list[tuple[bytes, bytes]]
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    answered: bool = False


class Server:
    """h2 as the peer. What it sends waits in ``outbox`` until it is delivered."""

    def __init__(self, initial: dict[S, int]) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self.h2.decoder.max_allowed_table_size = initial.get(S.HEADER_TABLE_SIZE, 4_096)
        self.h2.initiate_connection()
        self.requests: dict[int, Arrived] = {}
        self.most_open = 0

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.requests[event.stream_id] = Arrived(list(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.requests[event.stream_id].body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.requests[event.stream_id].ended = True
            else:
                allowed = (h2.events.RemoteSettingsChanged, h2.events.SettingsAcknowledged, h2.events.WindowUpdated)
                assert isinstance(event, (*allowed, h2.events.StreamReset)), event

    def answer(self, count: int, *, early: bool = False) -> None:
        """Accepts the oldest ``count`` requests; with ``early`` also those whose body is still to come."""
        for stream, request in self.requests.items():
            if count and not request.answered and (request.ended or early):
                self.h2.send_headers(stream, [(":status", "200")], end_stream=True)
                request.answered = True
                count -= 1

    def widen_streams(self, step: int) -> None:
        """Lets the bodies that wait go on."""
        for stream, request in self.requests.items():
            if not request.ended and not request.answered:
                self.h2.increment_flow_control_window(step, stream)


HEADER_NAMES = st.one_of(
    st.sampled_from(["apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "content-type"]),
    st.from_regex(r"x-[a-z0-9-]{0,20}", fullmatch=True),
)
HEADER_VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
HEADER = st.tuples(HEADER_NAMES, HEADER_VALUES)
AUTHORIZATION = st.one_of(st.none(), st.text("abcXYZ019._-", min_size=1, max_size=300).map("bearer {}".format))
TOKEN = st.one_of(
    st.text("0123456789abcdefXYZ_:.-", min_size=1, max_size=200).map(str.encode),
    st.integers(1, 200).map(lambda n: b"f" * n),
)
FIELD = st.one_of(
    st.binary(max_size=40), st.text(max_size=60).map(str.encode), st.integers(0, 400).map(lambda n: b"z" * n)
)


@dataclass
class Case:
    """One launch: what is sent, and to whom."""

    head: tuple[tuple[str, str], ...]
    path_prefix: bytes | None
    templates: list[RequestTemplate]
    tokens: list[bytes]
    fields: list[list[bytes]]
    variants: list[int]

    def requests(self, authorization: str | None) -> Requests:
        return Requests(shape_of(self.head, self.path_prefix, authorization, self.templates))

    def headers(self, row: int, authorization: str | None) -> list[tuple[bytes, bytes]]:
        """What the server must see for ``row``, pseudo-headers in order, the rest sorted."""
        head = list(self.head)
        if self.path_prefix is not None:
            head.append((":path", (self.path_prefix + self.tokens[row]).decode()))
        regular = list(self.template(row).headers)
        if authorization is not None:
            regular.append(("authorization", authorization))
        return [(n.encode(), v.encode()) for n, v in head + sorted(regular)]

    def template(self, row: int) -> RequestTemplate:
        return self.templates[self.variants[row] if self.variants else 0]

    def body(self, row: int) -> bytes:
        filled = {-1: self.tokens[row], **{i: column[row] for i, column in enumerate(self.fields)}}
        return b"".join(filled[p.field] if isinstance(p, Hole) else p for p in self.template(row).body)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.integers(1, 30))
    columns_used = draw(st.integers(0, 5))
    shared = draw(st.lists(HEADER, max_size=3, unique=True))
    piece = st.one_of(st.binary(max_size=80), st.integers(-1, columns_used - 1).map(Hole))
    own = st.lists(HEADER.filter(lambda h: h not in shared), max_size=3, unique=True)
    templates = [
        RequestTemplate(Provider.APNS, str(i), (*shared, *draw(own)), tuple(draw(st.lists(piece, max_size=8))))
        for i in range(draw(st.integers(1, 4)))
    ]
    constant_path = draw(st.booleans())
    one_each = {"min_size": rows, "max_size": rows}
    return Case(
        head=(*HEAD, (":path", "/v1/projects/p/messages:send")) if constant_path else HEAD,
        path_prefix=None if constant_path else b"/3/device/",
        templates=templates,
        tokens=draw(st.lists(TOKEN, **one_each)),
        fields=[draw(st.lists(FIELD, **one_each)) for _ in range(columns_used)],
        variants=draw(st.lists(st.integers(0, len(templates) - 1), **one_each)) if len(templates) > 1 else [],
    )


SETTINGS = st.one_of(
    st.tuples(st.just(S.INITIAL_WINDOW_SIZE), st.sampled_from(WINDOWS)),
    st.tuples(st.just(S.MAX_CONCURRENT_STREAMS), st.sampled_from(STREAMS)),
    st.tuples(st.just(S.HEADER_TABLE_SIZE), st.sampled_from(TABLES)),
    st.tuples(st.just(S.MAX_FRAME_SIZE), st.sampled_from(FRAMES)),
)
INITIAL = st.fixed_dictionaries(
    {S.INITIAL_WINDOW_SIZE: st.sampled_from(WINDOWS)},
    optional={
        S.MAX_CONCURRENT_STREAMS: st.sampled_from(STREAMS),
        S.HEADER_TABLE_SIZE: st.sampled_from(TABLES),
        S.MAX_FRAME_SIZE: st.sampled_from(FRAMES),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("settings"), st.lists(SETTINGS, min_size=1, max_size=3)),
        st.just(("deliver", None)),
        st.just(("deliver", None)),
        st.tuples(st.just("answer"), st.integers(1, 20)),
        st.tuples(st.just("answer early"), st.integers(1, 3)),
        st.tuples(st.just("widen"), st.integers(1, 5_000)),
        st.tuples(st.just("widen streams"), st.integers(1, 200)),
        st.tuples(st.just("rotate"), AUTHORIZATION),
        st.tuples(st.just("volley"), st.integers(1, 15)),
    ),
    max_size=25,
)


class Wire:
    """Client and server, and what the server must have seen."""

    def __init__(self, case: Case, initial: dict[S, int], authorization: str | None) -> None:
        self.case = case
        shard = columns(case.tokens, case.fields, case.variants)
        self.client = Client(case.tokens, case.requests(authorization), shard)
        self.server = Server(initial)
        self.authorization = authorization
        self.expected: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self.server.receive(self.client.connection.opening())

    def deliver(self) -> None:
        self.client.receive(self.server.h2.data_to_send())
        self.server.receive(self.client.connection.control())

    def volley(self, limit: int = 1 << 30) -> None:
        before = self.client.sent
        self.server.receive(self.client.volley(limit))
        for row in range(before, self.client.sent):
            self.expected.append((self.case.headers(row, self.authorization), self.case.body(row)))

    def rotate(self, authorization: str | None) -> None:
        self.authorization = authorization
        self.client.requests = self.case.requests(authorization)

    def do(self, what: str, how: object) -> None:
        server = self.server
        if what == "settings":
            server.h2.update_settings(dict(how))
        elif what == "answer":
            server.answer(how)
        elif what == "answer early":
            server.answer(how, early=True)
        elif what == "widen":
            server.h2.increment_flow_control_window(how)
        elif what == "widen streams":
            server.widen_streams(how)
        elif what == "rotate":
            self.rotate(how)
        elif what == "volley":
            self.volley(how)
        else:
            self.deliver()
        self.client.check()

    def finish(self) -> None:
        """The server becomes generous until every row is sent and answered."""
        self.server.h2.update_settings({S.MAX_CONCURRENT_STREAMS: 10, S.INITIAL_WINDOW_SIZE: 20_000})
        for _ in range(8 * self.client.rows + 10):
            self.deliver()
            self.volley()
            self.server.h2.increment_flow_control_window(50_000)
            self.server.widen_streams(20_000)
            self.deliver()
            self.server.answer(1 << 30)
            self.deliver()
            if self.client.sent == self.client.rows and self.client.connection.in_flight == 0:
                return
        raise AssertionError(f"{self.client.rows - self.client.sent} rows never left: {self.client.connection!r}")

    def check(self) -> None:
        self.client.check()
        assert self.client.connection.accepted == self.client.rows
        arrived = list(self.server.requests.values())
        assert len(arrived) == len(self.expected) == self.client.rows
        for request, (headers, body) in zip(arrived, self.expected, strict=True):
            pseudo = len([h for h in headers if h[0].startswith(b":")])
            assert request.headers[:pseudo] + sorted(request.headers[pseudo:]) == headers
            # The server may have answered before it had the whole body; then it needs no more.
            assert request.body == body if request.ended else body.startswith(request.body)


@hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=cases(),
    initial=INITIAL,
    authorization=AUTHORIZATION,
    steps=STEPS,
)
def test_a_server_reads_exactly_the_requests_that_were_meant(
    case: Case, initial: dict[S, int], authorization: str | None, steps: list[tuple[str, object]]
) -> None:
    wire = Wire(case, initial, authorization)
    wire.deliver()
    wire.volley(3)
    for what, how in steps:
        wire.do(what, how)
    wire.finish()
    wire.check()


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(), first=st.integers(0, 700), second=st.integers(0, 700))
def test_a_header_table_of_any_size_is_kept_to(case: Case, first: int, second: int) -> None:
    wire = Wire(case, {S.HEADER_TABLE_SIZE: first}, "bearer " + "a" * 200)
    wire.deliver()
    wire.volley(len(case.tokens) // 3)
    wire.server.h2.update_settings({S.HEADER_TABLE_SIZE: second})
    wire.deliver()
    wire.volley(len(case.tokens) // 3)
    wire.rotate("bearer " + "b" * 200)
    wire.finish()
    wire.check()


@pytest.mark.parametrize("length", [1, 116, 117, 118, 244, 245, 246, 372, 373, 374, 1_000])
def test_a_path_of_any_length_is_written_with_its_length(length: int) -> None:
    """HPACK lengths take another byte at 127 and at 255; ``/3/device/`` takes ten."""
    tokens = [b"%x" % (i % 16) * length for i in range(5)]
    wire = Wire(Case(HEAD, b"/3/device/", [RequestTemplate(Provider.APNS, "", (), (b"{}",))], tokens, [], []), {}, None)
    wire.finish()
    wire.check()


def test_constant_headers_cross_the_wire_once() -> None:
    template = RequestTemplate(Provider.APNS, "", (("apns-topic", "com.example." + "a" * 80),), (b"{}",))
    tokens = [b"%064x" % i for i in range(50)]
    wire = Wire(Case(HEAD, b"/3/device/", [template], tokens, [], []), {}, "bearer " + "j" * 250)
    wire.deliver()
    first = wire.client.volley(1)
    rest = wire.client.volley(49)
    assert b"j" * 250 not in rest
    assert len(first) > 300
    # Five indexed headers, the path as a literal (one byte and its length), two frame headers, the body.
    assert len(rest) == 49 * (9 + 5 + 2 + len("/3/device/") + 64 + 9 + 2)
    wire.server.receive(first + rest)
    assert len(wire.server.requests) == 50


def test_a_buffer_too_small_for_a_request_teaches_the_peer_nothing_it_does_not_hear() -> None:
    template = RequestTemplate(Provider.APNS, "", (), (b"{}",))
    wire = Wire(Case(HEAD, b"/3/device/", [template], [b"aa"] * 9, [], []), {}, "b")
    wire.deliver()
    assert wire.client.volley(out_bytes=500) == b""
    wire.volley()
    wire.finish()
    wire.check()


def test_no_request_leaves_before_the_peers_settings() -> None:
    client = Client([b"aa", b"bb"])
    assert client.volley() == b""
    assert client.connection.phase is Phase.OPENING
