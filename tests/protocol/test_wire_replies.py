"""The reply kernel agrees with the h2 library about random frame sequences, however they are cut."""

from __future__ import annotations

from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from reply_frames import CHUNK_SIZES, Traffic, chunks, traffic
from wire_support import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    frame,
    goaway,
    ok,
    rst,
    settings,
    window,
)  # fmt: skip

from flashcast.errors import ProtocolError
from flashcast.limits import REPLY_BODY_BYTES_MAX
from flashcast.outcomes import Outcome, Reason

FAST = hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Told:
    """What h2 understood of one stream."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None


class Reference:
    """h2 as a client that has made the same requests."""

    def __init__(self, streams: int) -> None:
        codes = h2.settings.SettingCodes
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self.h2.local_settings = h2.settings.Settings(initial_values={codes.HEADER_TABLE_SIZE: 0, codes.ENABLE_PUSH: 0})
        self.h2.decoder.max_allowed_table_size = self.h2.decoder.header_table_size = 0
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**31 - 1 - 65_535)
        for stream in range(1, 2 * streams, 2):
            head = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
            self.h2.send_headers(stream, head, end_stream=True)
        self.told = {stream: Told() for stream in range(1, 2 * streams, 2)}

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                headers = dict(event.headers)
                self.told[event.stream_id].status = int(headers[":status"])
                self.told[event.stream_id].headers = {n: v for n, v in headers.items() if n[0] != ":"}
            elif isinstance(event, h2.events.DataReceived):
                self.told[event.stream_id].body += event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.told[event.stream_id].ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.told[event.stream_id].reset = event.error_code


def a_client(streams: int) -> Client:
    client = Client([b"%02x" % i for i in range(streams)])
    client.receive(settings(streams=100))
    client.volley()
    assert client.sent == streams
    return client


def compare(client: Client, stream: int, told: Told) -> None:
    """Our word on the row of ``stream`` is what h2's events mean."""
    row = stream // 2
    reply, returned = client.replies.get(row), client.returned.get(row)
    accepted = client.book.outcome[row] == Outcome.ACCEPTED
    words = told.ended or (told.reset is not None and told.status not in (None, 200))
    if words or (told.status == 200 and told.reset == 0):
        assert returned is None
        assert accepted or reply is not None
        assert (reply.status if reply else 200) == told.status
        if reply is not None and reply.status != 200:
            assert reply.body == told.body[:REPLY_BODY_BYTES_MAX]
            assert reply.headers == told.headers
    elif told.reset is not None:
        refused = told.reset == 7 and told.status is None
        assert (returned, reply) == (Reason.REFUSED_STREAM if refused else Reason.STREAM_RESET, None)
    else:
        assert (returned, reply, accepted) == (None, None, False)
        assert row in client.connection.rows_in_flight()


@FAST
@given(sent=traffic(), sizes=CHUNK_SIZES)
def test_every_reply_is_understood_as_h2_does(sent: Traffic, sizes: list[int]) -> None:
    reference, client = Reference(sent.streams), a_client(sent.streams)
    reference.receive(settings(streams=100) + sent.data)
    for piece in chunks(sent.data, sizes):
        client.receive(piece)
        client.check()
    for stream, told in reference.told.items():
        compare(client, stream, told)


@FAST
@given(sent=traffic(), sizes=CHUNK_SIZES, data=st.data())
def test_after_goaway_the_rows_above_are_given_back_and_the_rest_go_on(
    sent: Traffic, sizes: list[int], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(sent.frames)))
    last = data.draw(st.sampled_from((0, *range(1, 2 * sent.streams, 2), 2**31 - 1)))
    before = sent.frames[:at]
    # A server says no more on streams it gives up; h2 itself cannot read on after GOAWAY, so it is not told.
    after = [(stream, group) for stream, group in sent.frames[at:] if stream <= last]
    reference, client = Reference(sent.streams), a_client(sent.streams)
    reference.receive(settings(streams=100) + b"".join(piece for _, group in before for piece in group))
    given_up = {s for s, t in reference.told.items() if s > last and not t.ended and t.reset is None}
    reference.receive(b"".join(piece for _, group in after for piece in group))
    stream = b"".join(piece for _, group in before for piece in group) + goaway(last, 0, b'{"reason":"Shutdown"}')
    for piece in chunks(stream + b"".join(piece for _, group in after for piece in group), sizes):
        client.receive(piece)
        client.check()
    assert client.connection.room() == 0
    assert "Shutdown" in client.connection.closing_reason
    for number, told in reference.told.items():
        if number in given_up:
            assert client.returned[number // 2] is Reason.GOING_AWAY
        else:
            compare(client, number, told)


JSON = b'{"reason":"BadDeviceToken"}'
BROKEN = {
    "DATA before HEADERS on an idle stream": frame(DATA, END_STREAM, 99, b"x"),
    "HEADERS on an idle stream": ok(99),
    "HEADERS on a stream of the server": ok(2),
    "HEADERS on the connection": ok(0),
    "DATA on the connection": frame(DATA, 0, 0, b"x"),
    "RST_STREAM on the connection": rst(0, 8),
    "RST_STREAM of three bytes": frame(RST_STREAM, 0, 1, b"\0\0\0"),
    "SETTINGS on a stream": frame(SETTINGS, 0, 1),
    "SETTINGS of five bytes": frame(SETTINGS, 0, 0, b"\0\1\0\0\0"),
    "SETTINGS acknowledgement with a payload": frame(SETTINGS, ACK, 0, b"\0\1\0\0\0\0"),
    "a window of 2**31": settings(window=2**31),
    "a frame size below the least": settings(frame=16_383),
    "a frame size above the most": settings(frame=2**24),
    "a server that enables push": settings(push=1),
    "PING of seven bytes": frame(PING, 0, 0, b"1234567"),
    "PING on a stream": frame(PING, 0, 1, b"12345678"),
    "GOAWAY of seven bytes": frame(GOAWAY, 0, 0, b"1234567"),
    "GOAWAY on a stream": frame(GOAWAY, 0, 1, b"12345678"),
    "WINDOW_UPDATE of nothing": window(0, 0),
    "WINDOW_UPDATE of three bytes": frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"),
    "WINDOW_UPDATE beyond 2**31 - 1": window(0, 2**31 - 1),
    "WINDOW_UPDATE on an idle stream": window(99, 1),
    "CONTINUATION of nothing": frame(CONTINUATION, END_HEADERS, 1, b"\x88"),
    "CONTINUATION of another stream": frame(HEADERS, 0, 1, b"\x88") + frame(CONTINUATION, END_HEADERS, 3, b""),
    "PING within a header block": frame(HEADERS, 0, 1, b"\x88") + frame(PING, 0, 0, b"12345678"),
    "an unknown frame within a header block": frame(HEADERS, 0, 1, b"\x88") + frame(0xFA, 0, 1, b"x"),
    "padding as long as HEADERS": frame(HEADERS, END_HEADERS | PADDED, 1, b"\x04\x88\0\0"),
    "padding in HEADERS without a payload": frame(HEADERS, END_HEADERS | PADDED, 1, b""),
    "padding as long as DATA": frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, PADDED, 1, b"\x05abcd"),
    "padding in DATA without a payload": frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, PADDED, 1, b""),
    "padding as long as DATA of a 400": frame(HEADERS, END_HEADERS, 1, b"\x8c") + frame(DATA, PADDED, 1, b"\x05abcd"),
    "HEADERS too short for a priority": frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"\0\0\0\0"),
    "a frame above the frame size": frame(HEADERS, END_HEADERS, 1, b"\x88" + bytes(16_384)),
    "a frame of unknown type above the frame size": frame(0xFA, 0, 0, bytes(16_385)),
    "PUSH_PROMISE": frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2\x82\x84\x87\x41\x01a"),
    "an index beyond the static table": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\xbe"),
    "a header that is cut off": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x0f\x10\x05abc"),
    "a header table larger than allowed": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x3f\xe1\x1f\x88"),
    "index zero": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x80"),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_h2_refuses_is_refused_and_no_row_is_lost(data: bytes) -> None:
    reference, client = Reference(3), a_client(3)
    reference.receive(settings(streams=100))
    with pytest.raises(h2.exceptions.ProtocolError):
        reference.receive(data)
    with pytest.raises(ProtocolError) as refused:
        client.receive(data)
    client.check()
    assert client.connection.fault(refused.value)[3] == GOAWAY
    client.lose()
    client.check()
    assert set(client.returned.values()) <= {Reason.CONNECTION_LOST, Reason.STREAM_RESET}
    assert len(client.returned) == 3


def test_a_reset_of_a_stream_never_opened_is_refused_although_h2_lets_it_pass() -> None:
    client = a_client(1)
    with pytest.raises(ProtocolError, match="stream 99, which we never opened"):
        client.receive(rst(99, 8))
    client.check()


@FAST
@given(sent=traffic(), sizes=CHUNK_SIZES, broken=st.sampled_from(sorted(BROKEN)), data=st.data())
def test_a_broken_frame_among_good_ones_loses_no_row(
    sent: Traffic, sizes: list[int], broken: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(sent.frames)))
    frames = [piece for _, group in sent.frames[:at] for piece in group] + [BROKEN[broken]]
    client = a_client(sent.streams)
    with pytest.raises(ProtocolError):
        for piece in chunks(b"".join(frames), sizes):
            client.receive(piece)
            client.check()
        # Some are harmless on a stream that has ended already.
        client.receive(frame(PING, 0, 0, b""))
    client.check()
    client.lose()
    client.check()
    assert client.connection.in_flight == 0


STREAM_ERRORS = {
    "DATA before HEADERS": frame(DATA, END_STREAM, 1, b"x"),
    "no status": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x0f\x10\x03abc"),
    "two statuses": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x8c"),
    "a status of four digits": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x08\x042000"),
    "a status of letters": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x08\x03abc"),
    "a status behind a header": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x0f\x10\x03abc\x88"),
    "a request's pseudo-header": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x83"),
    "an interim reply that ends": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x08\x03103"),
    "trailers that do not end": frame(HEADERS, END_HEADERS, 1, b"\x88") * 2,
    "trailers that do not end, of an error": frame(HEADERS, END_HEADERS, 1, b"\x8c") * 2,
    "a switch of protocols": frame(HEADERS, END_HEADERS, 1, b"\x08\x03101"),
}


@pytest.mark.parametrize("data", STREAM_ERRORS.values(), ids=STREAM_ERRORS.keys())
def test_nonsense_on_one_stream_costs_that_stream_alone(data: bytes) -> None:
    client = a_client(2)
    client.receive(data + ok(3))
    client.check()
    assert client.returned == {0: Reason.STREAM_RESET}
    assert client.book.outcome[1] == Outcome.ACCEPTED
    assert client.connection.control().endswith(rst(1, 1))
