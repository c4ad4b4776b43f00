"""Connections that carry nothing but PINGs are closed after a while, so that a sender must keep itself ready."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import pytest
from simulator_support import (
    BODY,
    GOAWAY,
    PING,
    SETTINGS,
    Bench,
    Frame,
    RawClient,
    bench,
    frames,
    profile_file,
)

from flashcast.errors import ConfigError
from flashcast.model import Provider
from flashcast.simulator.connection import PREFACE
from flashcast.simulator.credentials import Credentials
from flashcast.simulator.events import Schedule
from flashcast.simulator.process import serve_in_thread
from flashcast.simulator.profile import IdleClose, Latency, Profile, ProviderProfile, Reply, load_profile
from flashcast.simulator.replies import frame

BOTH = pytest.mark.parametrize("provider", list(Provider))


def _at(made: Credentials, provider: Provider = Provider.APNS, *, seed: int = 0, **settings: object) -> Bench:
    fields = {"idle_close": IdleClose(min_s=10, max_s=10), **settings}
    return bench(made, provider, ProviderProfile.model_validate(fields), seed=seed)


def _ping(client: RawClient) -> list[Frame]:
    client.send(frame(PING, 0, 0, bytes(8)))
    return frames(client.taken())


@BOTH
def test_a_connection_that_has_carried_nothing_is_closed_with_goaway(
    credentials: Credentials, provider: Provider
) -> None:
    client = RawClient(_at(credentials, provider))
    client.wait(9.999)
    assert not client.hung_up
    client.wait(0.001)
    ((kind, _, _, payload),) = frames(client.taken())
    assert (kind, payload[:8]) == (GOAWAY, bytes(8)), "no stream was taken, and NO_ERROR"
    assert json.loads(payload[8:]) == {"reason": "IdleTimeout"}
    assert client.hung_up
    assert not client.connection.abrupt


def test_pings_are_answered_and_keep_nothing_open(credentials: Credentials) -> None:
    client = RawClient(_at(credentials))
    for _ in range(9):
        client.wait(1)
        assert [kind for kind, *_ in _ping(client)] == [PING]
    client.wait(1)
    assert [kind for kind, *_ in frames(client.taken())] == [GOAWAY]
    assert client.hung_up


@BOTH
def test_a_request_starts_the_time_anew(credentials: Credentials, provider: Provider) -> None:
    client = RawClient(_at(credentials, provider))
    for number in range(3):
        client.wait(9)
        assert client.ask(client.bench.headers(number), client.bench.body(number))[0] == 200
    client.wait(9.9)
    assert not client.hung_up
    client.wait(0.1)
    ((kind, _, _, payload),) = frames(client.taken())
    assert (kind, int.from_bytes(payload[:4], "big")) == (GOAWAY, 5), "the last stream that was taken"


def test_a_request_that_waits_for_its_reply_keeps_the_connection_open(credentials: Credentials) -> None:
    client = RawClient(_at(credentials, latency=Latency(ms=25_000)))
    client.send(client.request(client.bench.headers(), BODY))
    client.wait(24)
    assert not client.hung_up
    client.wait(1)
    assert client.reply(1, frames(client.taken()))[0] == 200
    client.wait(9.9)
    assert not client.hung_up, "the time counts from the reply"
    client.wait(0.1)
    assert client.hung_up


def test_a_request_without_its_body_keeps_the_connection_open(credentials: Credentials) -> None:
    client = RawClient(_at(credentials))
    whole = client.request(client.bench.headers(), BODY)
    head = int.from_bytes(whole[:3], "big") + 9
    client.send(whole[:head])
    client.wait(30)
    assert not client.hung_up
    client.send(whole[head:])
    assert client.reply(1, frames(client.taken()))[0] == 200


def test_a_silent_stream_is_left_to_its_silence(credentials: Credentials) -> None:
    client = RawClient(_at(credentials, replies=(Reply(reason="silence", share=1.0),)))
    client.send(client.request(client.bench.headers(), BODY))
    client.wait(3_600)
    assert not client.hung_up


def test_an_abrupt_close_says_nothing(credentials: Credentials) -> None:
    client = RawClient(_at(credentials, idle_close=IdleClose(min_s=5, max_s=5, abrupt_share=1.0)))
    client.wait(5)
    assert client.taken() == b""
    assert client.hung_up
    assert client.connection.abrupt


def _ends(at: Bench, count: int) -> list[tuple[int, bool]]:
    """When and how each of ``count`` connections ends, in tenths of a second."""
    clients = [RawClient(at) for _ in range(count)]
    ended: dict[int, tuple[int, bool]] = {}
    for tenth in range(1, 700):
        at.clock.advance(0.1)
        for number, client in enumerate(clients):
            client.wait(0)
            if client.hung_up and number not in ended:
                ended[number] = (tenth, client.connection.abrupt)
    return [ended[number] for number in range(count)]


def test_every_connection_draws_its_own_time_and_the_seed_repeats_it(credentials: Credentials) -> None:
    settings = {"idle_close": IdleClose(min_s=20, max_s=60, abrupt_share=0.3)}
    first = _ends(_at(credentials, seed=3, **settings), 60)
    assert first == _ends(_at(credentials, seed=3, **settings), 60)
    assert first != _ends(_at(credentials, seed=4, **settings), 60)
    tenths = [tenth for tenth, _ in first]
    assert 200 <= min(tenths) < 300
    assert 500 < max(tenths) <= 601
    assert 6 < sum(abrupt for _, abrupt in first) < 32


def test_without_it_nothing_is_closed_and_with_it_no_other_event_moves(credentials: Credentials) -> None:
    client = RawClient(bench(credentials, Provider.APNS, ProviderProfile()))
    client.wait(86_400)
    assert not client.hung_up
    plain = ProviderProfile(goaway_every=1_000, slow_read_share=0.5)
    idle = plain.model_copy(update={"idle_close": IdleClose(min_s=1, max_s=2)})

    def events(profile: ProviderProfile) -> list[tuple[int, bool]]:
        made = [Schedule(profile, 7, number) for number in range(20)]
        return [(schedule.next_at, schedule.slow_reader) for schedule in made]

    assert events(plain) == events(idle)


def test_a_profile_file_may_say_it_and_is_told_what_is_wrong(tmp_path: Path) -> None:
    text = "[apns]\nidle_close = { min_s = 10, max_s = 60, abrupt_share = 0.3 }"
    assert load_profile(profile_file(tmp_path, text)).apns.idle_close == IdleClose(min_s=10, max_s=60, abrupt_share=0.3)
    for wrong, told in (
        ("{ min_s = 10, max_s = 5 }", "max_s 5 is less than min_s 10"),
        ("{ min_s = 0, max_s = 5 }", "apns.idle_close.min_s"),
        ("{ min_s = 1 }", "apns.idle_close.max_s"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_profile(profile_file(tmp_path, f"[apns]\nidle_close = {wrong}"))


@pytest.mark.parametrize("abrupt_share", [0.0, 1.0])
def test_over_a_real_socket_the_connection_ends_and_a_new_one_serves(tmp_path: Path, abrupt_share: float) -> None:
    own = ProviderProfile(idle_close=IdleClose(min_s=0.05, max_s=0.1, abrupt_share=abrupt_share))
    with serve_in_thread(tmp_path, Profile(apns=own), providers=[Provider.APNS]) as simulator:
        for _ in range(2):
            data, clean = _until_closed(simulator.credentials, simulator.addresses.apns)
            kinds = [kind for kind, *_ in frames(data)]
            assert (kinds[0], kinds[-1] == GOAWAY, clean) == (SETTINGS, not abrupt_share, not abrupt_share)
        counts = simulator.counts()
        assert (counts.received, counts.malformed) == (0, 0)


def _until_closed(made: Credentials, port: int | None) -> tuple[bytes, bool]:
    """What a client that sends no request hears, and whether TLS was ended properly."""
    context = ssl.create_default_context(cafile=made.ca_file)
    context.set_alpn_protocols(["h2"])
    data = b""
    with (
        socket.create_connection(("127.0.0.1", port or 0), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secured,
    ):
        secured.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 1, 0, b""))
        try:
            while True:
                got = secured.recv(65_536)
                if not got:
                    return data, True
                data += got
        except ssl.SSLEOFError:
            return data, False
