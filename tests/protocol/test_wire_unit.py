"""One sentence for each way a connection, a stream or a setting can end."""

from __future__ import annotations

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
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    apns_requests,
    frame,
    goaway,
    ok,
    rst,
    settings,
    window,
)

from flashcast.errors import ProtocolError
from flashcast.limits import HEADER_LIST_BYTES_MAX, RECEIVE_WINDOW_BYTES, STALLED_STREAMS_MAX, STREAM_ID_LAST
from flashcast.outcomes import Outcome, Reason
from flashcast.wire import kernels as k
from flashcast.wire.connection import Phase

BODY = b'{"aps":{"alert":"kick-off"}}'


def opened(rows: int = 5, body: bytes = BODY, **values: int) -> Client:
    """A client that knows the peer's settings and has sent nothing yet."""
    client = Client([b"%064x" % i for i in range(rows)], apns_requests((body,)))
    client.receive(settings(**values))
    client.connection.control()
    return client


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        payload = data[at + 9 : at + 9 + size]
        found.append((data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), payload))
        at += 9 + size
    return found


def streams_of(data: bytes) -> list[int]:
    return [stream for kind, _, stream, _ in frames(data) if kind == HEADERS]


# --- the opening -------------------------------------------------------------------------------------


def test_the_opening_asks_for_no_header_table_no_push_and_a_wide_window() -> None:
    data = Client([b"aa"]).connection.opening()
    assert data.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert frames(data[24:]) == [
        (SETTINGS, 0, 0, b"\0\1\0\0\0\0" + b"\0\2\0\0\0\0"),
        (WINDOW_UPDATE, 0, 0, (RECEIVE_WINDOW_BYTES - 65_535).to_bytes(4, "big")),
    ]


def test_a_peer_that_does_not_begin_with_settings_is_no_http2_server() -> None:
    for first in (ok(1), frame(SETTINGS, ACK), b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with pytest.raises(ProtocolError, match="is this an HTTP/2 server"):
            Client([b"aa"]).receive(first)


def test_settings_are_acknowledged_each_time() -> None:
    client = Client([b"aa"])
    client.receive(settings(streams=1) + settings(streams=2) + frame(SETTINGS, ACK))
    assert client.connection.control() == frame(SETTINGS, ACK) * 2
    assert client.connection.control() == b""


# --- endings of the connection ----------------------------------------------------------------------


def test_goaway_gives_back_the_rows_above_its_last_stream_and_waits_for_the_rest() -> None:
    client = opened(6)
    client.volley(4)
    client.receive(goaway(3, 0, b'{"reason":"Shutdown"}'))
    assert client.returned == {2: Reason.GOING_AWAY, 3: Reason.GOING_AWAY}
    assert client.connection.phase is Phase.DRAINING
    assert client.connection.closing_reason == 'GOAWAY code 0 {"reason":"Shutdown"}'
    assert client.volley() == b""
    client.receive(ok(1) + ok(3))
    assert client.connection.phase is Phase.CLOSED
    assert client.connection.accepted == 2
    client.check()


def test_a_graceful_goaway_gives_back_nothing_until_the_second_names_the_last_stream() -> None:
    client = opened(4)
    client.volley(3)
    client.receive(goaway(2**31 - 1))
    assert (client.connection.phase, client.returned) == (Phase.DRAINING, {})
    client.receive(ok(1) + goaway(3))
    assert client.returned == {2: Reason.GOING_AWAY}
    client.receive(ok(3))
    assert client.connection.phase is Phase.CLOSED
    client.check()


def test_goaway_on_an_idle_connection_closes_it_at_once() -> None:
    client = opened()
    client.receive(goaway(0))
    assert client.connection.phase is Phase.CLOSED


def test_a_lost_connection_returns_every_row_in_flight() -> None:
    client = opened(4)
    client.volley(3)
    client.receive(ok(3))
    client.lose()
    assert client.returned == {0: Reason.CONNECTION_LOST, 2: Reason.CONNECTION_LOST}
    client.check()


def test_a_connection_is_left_before_its_stream_ids_run_out() -> None:
    client = opened(5)
    client.connection.state[k.NEXT_STREAM] = STREAM_ID_LAST - 2
    client.volley(1)
    assert client.connection.phase is Phase.OPEN
    data = client.volley(3)
    assert max(streams_of(data)) <= 2**31 - 1
    assert client.connection.phase is Phase.DRAINING
    assert client.connection.closing_reason == "stream ids used up"
    assert client.volley() == b""
    client.receive(b"".join(ok(stream) for stream in range(STREAM_ID_LAST - 2, STREAM_ID_LAST + 6, 2)))
    assert (client.connection.phase, client.connection.accepted) == (Phase.CLOSED, 4)
    client.check()


# --- endings of a stream ----------------------------------------------------------------------------


def test_a_refused_stream_is_told_from_other_resets() -> None:
    client = opened(4)
    client.volley()
    client.receive(rst(1, 7) + rst(3, 8) + rst(5, 2) + rst(7, 0))
    assert client.returned == {
        0: Reason.REFUSED_STREAM, 1: Reason.STREAM_RESET, 2: Reason.STREAM_RESET, 3: Reason.STREAM_RESET,
    }  # fmt: skip
    client.check()


def test_a_stream_refused_after_it_was_answered_was_processed_all_the_same() -> None:
    client = opened(2)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x88") + rst(1, 7))
    assert client.returned == {0: Reason.STREAM_RESET}


def test_a_reply_cut_off_behind_its_status_counts_by_its_status() -> None:
    client = opened(3)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x88") + rst(1, 0))
    client.receive(frame(HEADERS, END_HEADERS, 3, b"\x8c") + frame(DATA, 0, 3, b'{"reason":') + rst(3, 8))
    assert (client.replies[0].status, client.replies[1].status) == (200, 400)
    assert client.replies[1].body == b'{"reason":'
    client.check()


def test_silence_beyond_the_deadline_gives_a_stream_up_and_tells_the_peer() -> None:
    client = opened(4)
    client.volley(2)
    client.now_us += 6_000_000
    client.volley(1)
    client.now_us += 6_000_000
    assert client.expire(10_000_000) == 2
    assert client.returned == {0: Reason.SILENCE, 1: Reason.SILENCE}
    assert frames(client.connection.control()) == [(RST_STREAM, 0, 1, b"\0\0\0\x08"), (RST_STREAM, 0, 3, b"\0\0\0\x08")]
    client.receive(ok(1) + frame(HEADERS, END_HEADERS, 3, b"\x8c") + frame(DATA, END_STREAM, 3, b"late") + ok(5))
    assert client.connection.accepted == 1, "an answer to a stream given up is nobody's"
    client.check()


def test_a_silent_stream_does_not_block_its_slot() -> None:
    client = opened(1_000, streams=2)
    seen = streams_of(client.volley())
    for _ in range(998):
        answered = seen[-1]
        client.receive(ok(answered))
        seen += streams_of(client.volley())
    assert seen[0] == 1
    assert len(set(seen)) == len(seen) == 1_000
    assert client.connection.rows_in_flight()[0] == 0 or client.connection.in_flight == 2
    client.check()


def test_reply_times_are_counted_across_the_wrap_of_the_clock() -> None:
    client = opened(1)
    client.now_us = 2**32 - 10
    client.volley()
    client.now_us += 25
    client.receive(ok(1))
    assert client.book.histogram[25] == 1
    assert client.book.reply_ms[0] == client.now_us // 1_000


# --- flow control -----------------------------------------------------------------------------------


def test_a_body_larger_than_the_windows_goes_on_when_they_open() -> None:
    client = opened(1, window=10)
    data = frames(client.volley())
    assert [(kind, flags, payload) for kind, flags, _, payload in data[1:]] == [(DATA, 0, BODY[:10])]
    client.receive(window(1, 5))
    assert frames(client.connection.control()) == [(DATA, 0, 1, BODY[10:15])]
    client.receive(settings(window=20))
    sent = frames(client.connection.control())
    assert sent[-1] == (DATA, 0, 1, BODY[15:25])
    client.receive(window(1, 100))
    assert frames(client.connection.control()) == [(DATA, END_STREAM, 1, BODY[25:])]
    client.receive(ok(1))
    assert client.connection.accepted == 1
    client.check()


def test_a_lowered_window_can_be_negative_and_holds_a_body_back() -> None:
    client = opened(1, window=10)
    client.volley()
    client.receive(settings(window=0) + window(1, 8))
    assert frames(client.connection.control()) == [(SETTINGS, ACK, 0, b"")]
    client.receive(window(1, 3))
    assert frames(client.connection.control()) == [(DATA, 0, 1, BODY[10:11])]


def test_few_bodies_wait_for_a_window_and_the_rows_behind_them_stay_unsent() -> None:
    client = opened(200, window=0)
    client.volley()
    assert client.sent == STALLED_STREAMS_MAX
    assert np.count_nonzero(client.book.outcome == Outcome.IN_FLIGHT) == STALLED_STREAMS_MAX
    client.check()


def test_the_last_of_a_connection_window_is_used_where_nothing_else_can_move() -> None:
    body = b"x" * 10_000
    client = opened(20, body=body)
    client.volley()
    assert client.sent == 6, "the first teaches, five more fit whole into 65,535 bytes"
    assert client.connection.state[k.SEND_WINDOW] == 5_535
    for stream in (1, 3, 5, 7, 9, 11):
        client.receive(ok(stream))
    data = frames(client.volley())
    assert (data[1][0], data[1][1], len(data[1][3])) == (DATA, 0, 5_535)
    client.receive(window(0, 4_465))
    assert frames(client.connection.control()) == [(DATA, END_STREAM, 13, b"x" * 4_465)]
    client.check()


@pytest.mark.parametrize(("size", "whole", "left"), [(13_107, 5, 0), (8_192, 7, 8_191), (8_191, 8, 7)])
def test_bodies_fill_the_connection_window_to_the_last_byte_and_not_beyond(size: int, whole: int, left: int) -> None:
    client = opened(20, body=b"x" * size)
    data = client.volley()
    assert client.sent == whole
    assert client.connection.state[k.SEND_WINDOW] == left
    assert all(flags & END_STREAM for kind, flags, _, _ in frames(data) if kind == DATA)


def test_a_body_as_large_as_the_stream_window_goes_whole() -> None:
    for window_size, stalled in ((len(BODY), 0), (len(BODY) - 1, 3)):
        client = opened(3, window=window_size)
        client.volley()
        assert (client.sent, client.connection.state[k.STALLED]) == (3, stalled)


@pytest.mark.parametrize(
    "end", ["reset by the peer", "answered by the kernel", "answered by python", "silent", "nonsense"]
)
def test_a_stalled_stream_that_ends_leaves_nothing_behind(end: str) -> None:
    client = opened(2, window=10)
    client.volley(1)
    client.now_us += 20_000_000
    if end == "reset by the peer":
        client.receive(rst(1, 8))
    elif end == "answered by the kernel":
        client.receive(ok(1))
    elif end == "answered by python":
        client.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x8c"))
    elif end == "nonsense":
        client.receive(frame(DATA, 0, 1, b"no headers"))
    else:
        client.expire(10_000_000)
    client.check()
    assert client.connection.in_flight == 0
    codes = {"reset by the peer": [], "nonsense": [1]}.get(end, [8])
    assert frames(client.connection.control()) == [(RST_STREAM, 0, 1, c.to_bytes(4, "big")) for c in codes]
    client.receive(window(1, 1_000) + window(0, 1_000))
    assert client.connection.control() == b""
    assert client.connection.room() > 0


def test_the_peers_window_is_opened_again_after_much_data() -> None:
    client = opened(1)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, 0, 1, bytes(16_000)))
    assert client.connection.control() == b""
    client.connection.state[k.RECEIVED_DATA] = RECEIVE_WINDOW_BYTES // 2
    client.receive(frame(DATA, END_STREAM, 1, bytes(100)))
    assert frames(client.connection.control()) == [
        (WINDOW_UPDATE, 0, 0, (RECEIVE_WINDOW_BYTES // 2 + 100).to_bytes(4, "big"))
    ]


def test_a_window_beyond_two_gigabytes_is_an_overflow() -> None:
    client = opened(2, window=10)
    client.volley()
    with pytest.raises(ProtocolError) as connection:
        client.receive(window(0, 2**31 - 1))
    client = opened(2, window=10)
    client.volley()
    with pytest.raises(ProtocolError, match="stream window overflow") as stream:
        client.receive(window(1, 2**31 - 1) + window(1, 1))
    assert connection.value.code == stream.value.code == 3
    client.check()


# --- limits -----------------------------------------------------------------------------------------


def test_a_limit_of_one_is_kept_and_a_higher_one_used_as_soon_as_it_is_told() -> None:
    client = opened(10, streams=1)
    assert streams_of(client.volley()) == [1]
    client.receive(ok(1) + settings(streams=4))
    assert streams_of(client.volley()) == [3, 5, 7, 9]
    client.receive(settings(streams=1) + ok(3))
    assert client.volley() == frame(SETTINGS, ACK), "three are in flight where one is allowed"
    client.receive(ok(5) + ok(7))
    assert client.volley() == b""
    client.receive(ok(9))
    assert streams_of(client.volley()) == [11]
    client.check()


def test_a_limit_of_nothing_waits() -> None:
    client = opened(3, streams=0)
    assert client.volley() == b""
    client.receive(settings(streams=2))
    assert len(streams_of(client.volley())) == 2


def test_more_slots_keep_the_streams_in_flight() -> None:
    client = opened(2_000, streams=20)
    client.volley()
    before = client.connection._slot_stream.size
    client.receive(ok(5) + settings(streams=1_500))
    assert client.connection._slot_stream.size >= 8 * 1_500 > before
    assert sorted(client.connection.rows_in_flight()) == [0, 1, *range(3, 20)]
    client.volley()
    assert client.connection.in_flight == 1_500
    client.receive(b"".join(ok(stream) for stream in range(1, 2 * client.sent, 2) if stream != 5))
    assert (client.connection.in_flight, client.connection.accepted) == (0, client.sent)
    client.check()


def test_a_smaller_header_table_is_obeyed_by_the_next_request() -> None:
    client = opened(6)
    client.volley(2)
    settled = client.volley(1)
    client.receive(settings(table=0))
    after = frames(client.volley(1))
    assert after[0] == (SETTINGS, ACK, 0, b"")
    assert after[1][3][0] == 0x20, "a block begins with the new size (RFC 7541 section 4.2)"
    assert len(frames(client.volley(1))[0][3]) > len(frames(settled)[0][3])
    client.receive(settings(table=4_096))
    assert frames(client.volley(1))[1][3][:3] == b"\x3f\xe1\x1f"


@pytest.mark.parametrize(("sizes", "told"), [
    ((64, 0), b"\x20"), ((0, 64), b"\x20\x3f\x21"), ((9, 0, 30), b"\x20\x3e"), ((0, 4_096), b"\x20\x3f\xe1\x1f"),
])  # fmt: skip
def test_of_several_table_sizes_the_smallest_and_the_last_are_told(sizes: tuple[int, ...], told: bytes) -> None:
    client = opened(2)
    client.volley(1)
    client.receive(b"".join(settings(table=size) for size in sizes))
    client.connection.control()
    block = frames(client.volley())[0][3]
    assert block.startswith(told)
    assert block[len(told)] & 0xE0 != 0x20


# --- signs of life ----------------------------------------------------------------------------------


def test_the_answer_to_a_ping_tells_the_round_trip_and_silence_is_noticed() -> None:
    client = opened()
    client.connection.ping(client.now_us)
    (kind, flags, stream, opaque), = frames(client.connection.control())
    assert (kind, flags, stream) == (PING, 0, 0)
    client.now_us += 40_000
    assert client.connection.ping_overdue(client.now_us, 30_000)
    assert not client.connection.ping_overdue(client.now_us, 50_000)
    client.receive(frame(PING, ACK, 0, b"whatever") + frame(PING, ACK, 0, opaque))
    assert client.connection.round_trip_us == 40_000
    assert not client.connection.ping_overdue(client.now_us + 10**9, 30_000)


def test_the_peers_ping_is_answered_with_its_own_bytes() -> None:
    client = opened()
    client.receive(frame(PING, 0, 0, b"12345678"))
    assert client.connection.control() == frame(PING, ACK, 0, b"12345678")


# --- bad peers --------------------------------------------------------------------------------------


def test_a_frame_larger_than_we_allow_is_refused_by_its_header_alone() -> None:
    client = opened(1)
    client.volley()
    with pytest.raises(ProtocolError) as refused:
        client.receive((16_385).to_bytes(3, "big") + bytes((DATA, 0)) + (1).to_bytes(4, "big"))
    assert refused.value.code == 6
    assert frames(client.connection.fault(refused.value)) == [(7, 0, 0, b"\0\0\0\0\0\0\0\x06")]
    client.lose()
    assert client.returned == {0: Reason.CONNECTION_LOST}


def test_a_header_block_without_end_is_refused_and_not_kept() -> None:
    client = opened(1)
    client.volley()
    client.receive(frame(HEADERS, 0, 1, bytes(16_384)))
    with pytest.raises(ProtocolError, match=f"above {HEADER_LIST_BYTES_MAX}"):
        for _ in range(10):
            client.receive(frame(CONTINUATION, 0, 1, bytes(16_384)))
            assert len(client.connection._blocks._block) <= HEADER_LIST_BYTES_MAX
    client.check()


def test_a_small_block_that_unfolds_into_a_large_one_is_refused() -> None:
    client = opened(1)
    client.volley()
    # 3,000 times the same static entry: 45 bytes each when decoded (RFC 7541 section 4.1 counts 32 more).
    with pytest.raises(ProtocolError, match="undecodable"):
        client.receive(frame(HEADERS, END_HEADERS, 1, b"\x8c" + b"\x90" * 3_000))
    client.check()


def test_the_body_of_an_error_is_kept_up_to_a_bound() -> None:
    client = opened(1)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x8c"))
    for _ in range(5):
        client.receive(frame(DATA, 0, 1, b"x" * 5_000))
    client.receive(frame(DATA, END_STREAM, 1))
    assert client.replies[0].body == b"x" * 8_192


def test_an_error_is_not_made_good_by_a_success_behind_it() -> None:
    client = opened(2)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x8c") + ok(1))
    assert client.replies[0].status == 400
    client.check()


def test_a_header_without_a_name_does_no_harm() -> None:
    client = opened(2)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x8c\0\0\x01x"))
    client.receive(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88\0\0\x01x"))
    assert client.replies[0].status == 400
    assert client.connection.accepted == 1


def test_padding_around_nothing_is_padding() -> None:
    client = opened(1)
    client.volley()
    client.receive(frame(HEADERS, END_HEADERS, 1, b"\x88"))
    client.receive(frame(DATA, PADDED, 1, b"\x03\0\0\0") + frame(DATA, PADDED | END_STREAM, 1, b"\0"))
    assert client.connection.accepted == 1


def test_two_hundred_and_fifty_seven_slow_replies_in_one_buffer_are_all_read() -> None:
    client = opened(600)
    client.volley()
    client.receive(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, b"\x8c") for i in range(600)))
    assert len(client.replies) == 600
    client.check()
