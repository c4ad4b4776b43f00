"""Every key of a profile does what it says, seen by a client that the h2 library keeps strict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulator_support import (
    BODY,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    SETTINGS,
    Bench,
    Line,
    RawClient,
    StrictClient,
    bench,
    frames,
    profile_file,
)

from flashcast.errors import ConfigError
from flashcast.model import Provider
from flashcast.simulator.credentials import Credentials
from flashcast.simulator.profile import (
    BUILT_IN,
    REPLY_STYLES,
    Latency,
    Profile,
    ProviderProfile,
    Reply,
    StreamChange,
    TableChange,
    load_profile,
)

BOTH = pytest.mark.parametrize("provider", list(Provider))


def _client(made: Credentials, provider: Provider, **settings: object) -> StrictClient:
    return StrictClient(bench(made, provider, ProviderProfile.model_validate(settings)))


@BOTH
def test_a_constant_latency_holds_each_reply_for_that_long(
    credentials: Credentials, provider: Provider
) -> None:
    client = _client(credentials, provider, latency=Latency(ms=40))
    stream = client.post(client.bench.headers(), client.bench.body())
    client.wait(0.039)
    client.exchange()
    assert not client.answers[stream].ended
    client.wait(0.001)
    client.exchange()
    assert (client.answers[stream].status, client.answers[stream].ended) == (200, True)


def test_latencies_follow_their_distribution() -> None:
    uniform = Latency(kind="uniform", min_ms=10, max_ms=30).quantiles_ms()
    assert 10 <= min(uniform) < 10.1
    assert 29.9 < max(uniform) <= 30
    lognormal = Latency(kind="lognormal", median_ms=8, sigma=0.5, max_ms=40)
    middle = sorted(lognormal.quantiles_ms())[2_048]
    assert middle == pytest.approx(8, rel=0.01)
    assert max(lognormal.quantiles_ms()) == 40
    assert Latency(ms=40).mean_ms == 40


def test_replies_of_different_latencies_come_in_order_of_their_time(credentials: Credentials) -> None:
    client = _client(credentials, Provider.APNS, latency=Latency(kind="uniform", min_ms=1, max_ms=50))
    for n in range(50):
        client.post(client.bench.headers(n), BODY)
    ended = []
    for _ in range(51):
        client.wait(0.001)
        client.exchange()
        ended.append(sum(a.ended for a in client.answers.values()))
    assert ended[-1] == 50
    assert len(set(ended)) > 10


@BOTH
def test_the_limit_of_streams_rises_after_the_first_good_credential(
    credentials: Credentials, provider: Provider
) -> None:
    client = _client(credentials, provider, streams=500, streams_before_auth=1)
    assert client.limits == [1]
    client.post(client.bench.headers(authorization=None), client.bench.body())
    assert client.limits == [1]
    client.post(client.bench.headers(1), client.bench.body(1))
    client.post(client.bench.headers(2), client.bench.body(2))
    assert client.limits == [1, 500]


def test_the_limit_of_streams_changes_in_mid_flight_over_and_over(credentials: Credentials) -> None:
    changes = (StreamChange(after=3, streams=1), StreamChange(after=2, streams=50))
    client = _client(credentials, Provider.APNS, streams=100, stream_changes=changes)
    client.post_all(range(11))
    assert client.limits == [100, 1, 50, 1, 50]


def _mix(made: Credentials, provider: Provider, seed: int, *replies: Reply) -> StrictClient:
    return StrictClient(bench(made, provider, ProviderProfile(replies=replies), seed=seed))


@BOTH
def test_the_same_seed_gives_each_token_the_same_answer_in_any_order(
    credentials: Credentials, provider: Provider
) -> None:
    word = "Unregistered" if provider is Provider.APNS else "UNREGISTERED"
    mix = Reply(reason=word, share=0.3)
    first = {n: a.status for n, a in _mix(credentials, provider, 7, mix).post_all(range(200)).items()}
    again = {
        n: a.status for n, a in _mix(credentials, provider, 7, mix).post_all(reversed(range(200))).items()
    }
    other = {n: a.status for n, a in _mix(credentials, provider, 8, mix).post_all(range(200)).items()}
    assert first == again
    assert first != other
    gone = sum(status != 200 for status in first.values())
    assert 30 < gone < 90


@BOTH
def test_a_fault_of_first_attempts_ends_after_at_most_so_many(
    credentials: Credentials, provider: Provider
) -> None:
    word = "TooManyRequests" if provider is Provider.APNS else "QUOTA_EXCEEDED"
    client = _mix(credentials, provider, 1, Reply(reason=word, share=1.0, attempts=3, retry_after_s=7))
    attempts = {}
    for n in range(30):
        for attempt in range(1, 5):
            answer = client.answers[client.post(client.bench.headers(n), client.bench.body(n))]
            if answer.status == 200:
                attempts[n] = attempt
                break
            assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert set(attempts.values()) == {2, 3, 4}
    counts = client.bench.ledger.summary()
    assert (counts["received"], counts["duplicates"]) == (30, 0)


@pytest.mark.parametrize(
    ("provider", "word", "taken", "received"),
    [
        (Provider.APNS, "ServiceUnavailable", None, 0),
        (Provider.APNS, "InternalServerError", None, 0),
        (Provider.FCM, "UNAVAILABLE", None, 1),
        (Provider.FCM, "UNAVAILABLE", False, 0),
        (Provider.APNS, "Unregistered", None, 1),
        (Provider.APNS, "ExpiredProviderToken", None, 0),
        (Provider.APNS, "refused", None, 0),
        (Provider.APNS, "reset", None, 1),
        (Provider.APNS, "silence", None, 1),
        (Provider.APNS, "cut", None, 1),
    ],
)
def test_the_books_tell_what_was_taken(
    credentials: Credentials, provider: Provider, word: str, taken: bool | None, received: int
) -> None:
    client = _mix(credentials, provider, 1, Reply(reason=word, share=1.0, attempts=1, taken=taken))
    raw = RawClient(client.bench)
    raw.send(raw.request(client.bench.headers(), client.bench.body()))
    assert client.bench.ledger.summary()["received"] == received


@pytest.mark.parametrize(("word", "code"), [("refused", 0x7), ("reset", 0x2)])
def test_a_stream_is_reset_instead_of_answered(credentials: Credentials, word: str, code: int) -> None:
    client = _mix(credentials, Provider.APNS, 1, Reply(reason=word, share=1.0, attempts=1))
    answers = client.post_all([1, 1])
    assert client.answers[1].reset == code
    assert answers[1].status == 200


def test_a_silent_stream_is_taken_and_never_answered(credentials: Credentials) -> None:
    client = _mix(credentials, Provider.APNS, 1, Reply(reason="silence", share=1.0, attempts=1))
    stream = client.post(client.bench.headers(), BODY)
    client.wait(3_600)
    client.exchange()
    assert not client.answers[stream].ended
    assert client.bench.ledger.summary()["accepted"] == 1


def test_a_connection_can_take_nothing_more_after_a_silence(credentials: Credentials) -> None:
    own = ProviderProfile(silence_then_goaway=True, replies=(Reply(reason="silence", share=1.0, attempts=1),))
    client = RawClient(bench(credentials, Provider.APNS, own, reply_deadline_s=2))
    client.send(b"".join(client.request(client.bench.headers(n), BODY) for n in (1, 2)))
    assert client.fault() == ("connection", 0)
    assert not client.hung_up
    assert client.bench.ledger.summary()["received"] == 1
    client.wait(6)
    assert client.hung_up


def test_a_cut_leaves_one_request_in_doubt_and_no_other(credentials: Credentials) -> None:
    own = ProviderProfile(latency=Latency(ms=50), replies=(Reply(reason="cut", share=0.02, attempts=1),))
    at = bench(credentials, Provider.APNS, own)
    client = RawClient(at)
    client.send(b"".join(client.request(at.headers(n), BODY) for n in range(400)))
    assert client.hung_up
    assert client.connection.abrupt
    data = client.taken()
    whole, at_byte = [], 0
    while at_byte + 9 <= len(data) and at_byte + 9 + int.from_bytes(
        data[at_byte : at_byte + 3], "big"
    ) <= len(data):
        size = 9 + int.from_bytes(data[at_byte : at_byte + 3], "big")
        whole += frames(data[at_byte : at_byte + size])
        at_byte += size
    assert len(data) - at_byte > 9
    cut = int.from_bytes(data[at_byte + 5 : at_byte + 9], "big")
    assert [int.from_bytes(f[3][:4], "big") for f in whole if f[0] == GOAWAY] == [cut]
    assert [f[2] for f in whole if f[0] == HEADERS] == list(range(1, cut, 2))
    assert at.ledger.summary()["received"] == (cut + 1) // 2


@BOTH
def test_goaway_names_the_last_stream_taken_and_ignores_those_above(
    credentials: Credentials, provider: Provider
) -> None:
    own = ProviderProfile(goaway_every=40, goaway_reason="IdleTimeout", latency=Latency(ms=5))
    at = bench(credentials, provider, own)
    client = RawClient(at)
    client.send(b"".join(client.request(at.headers(n), at.body(n)) for n in range(90)))
    ((kind, _, _, payload),) = frames(client.taken())
    last = int.from_bytes(payload[:4], "big")
    assert kind == GOAWAY
    assert json.loads(payload[8:]) == {"reason": "IdleTimeout"}
    assert 21 <= (last + 1) // 2 <= 60
    assert not client.hung_up
    client.wait(0.005)
    assert [f[2] for f in frames(client.taken()) if f[0] == HEADERS] == list(range(1, last + 1, 2))
    assert client.hung_up
    assert not client.connection.abrupt
    assert at.ledger.summary()["received"] == (last + 1) // 2


@BOTH
def test_a_quota_is_refilled_whole_and_tells_when(credentials: Credentials, provider: Provider) -> None:
    client = _client(credentials, provider, quota=3, quota_window_s=60)
    first = client.post_all(range(5))
    assert [a.status for a in first.values()] == [200, 200, 200, 429, 429]
    assert first[4].headers["retry-after"] == "60"
    client.wait(45.5)
    assert client.post_all([5])[5].headers["retry-after"] == "15"
    client.wait(14.5)
    assert [a.status for a in client.post_all(range(6, 10)).values()] == [200, 200, 200, 429]
    assert client.bench.ledger.summary()["received"] == 6


def test_small_windows_are_given_back_a_little_at_a_time(credentials: Credentials) -> None:
    client = _client(
        credentials,
        Provider.APNS,
        stream_window_bytes=7,
        connection_window_bytes=65_535,
        window_update_bytes=100,
    )
    answers = client.post_all(range(30))
    assert {a.status for a in answers.values()} == {200}
    assert client.h2.remote_settings.initial_window_size == 7


def test_only_a_share_of_connections_has_the_small_windows(credentials: Credentials) -> None:
    at = bench(credentials, Provider.APNS, ProviderProfile(stream_window_bytes=7, small_window_share=0.5))
    small = [StrictClient(at).h2.remote_settings.initial_window_size == 7 for _ in range(40)]
    assert 8 < sum(small) < 32


@pytest.mark.parametrize("size", [0, 128, 8_192])
def test_the_header_table_may_have_any_size_from_the_start(credentials: Credentials, size: int) -> None:
    client = _client(credentials, Provider.APNS, header_table_bytes=size)
    assert {a.status for a in client.post_all(range(10)).values()} == {200}


def test_the_header_table_may_change_in_mid_flight(credentials: Credentials) -> None:
    changes = (
        TableChange(after=3, bytes=0),
        TableChange(after=3, bytes=64),
        TableChange(after=3, bytes=4_096),
    )
    client = _client(credentials, Provider.APNS, header_table_changes=changes)
    assert {a.status for a in client.post_all(range(30)).values()} == {200}


def test_a_client_that_ignores_a_smaller_table_breaks_compression(credentials: Credentials) -> None:
    at = bench(
        credentials, Provider.APNS, ProviderProfile(header_table_changes=(TableChange(after=2, bytes=0),))
    )
    client = RawClient(at)
    client.send(client.request(at.headers(1), BODY) + client.request(at.headers(2), BODY))
    assert SETTINGS in {f[0] for f in frames(client.taken())}
    client.send(
        (0).to_bytes(3, "big") + bytes((SETTINGS, 1)) + bytes(4) + client.request(at.headers(3), BODY)
    )
    assert client.fault() == ("connection", 0x9)


def test_pings_come_after_so_many_requests(credentials: Credentials) -> None:
    client = _client(credentials, Provider.APNS, ping_every=4)
    client.post_all(range(12))
    assert client.pings == 3


@BOTH
@pytest.mark.parametrize("style", REPLY_STYLES)
def test_a_reply_in_an_unusual_style_says_the_same(
    credentials: Credentials, provider: Provider, style: str
) -> None:
    gone = Reply(reason="Unregistered" if provider is Provider.APNS else "UNREGISTERED", share=0.5)
    plain = _client(credentials, provider, replies=(gone,)).post_all(range(20))
    client = _client(credentials, provider, replies=(gone,), reply_styles=(style,), odd_reply_share=1.0)
    odd = client.post_all(range(20))
    assert [a.status for a in odd.values()] == [a.status for a in plain.values()]
    assert all(a.ended for a in odd.values())
    assert all((a.informational > 0) == (style == "informational") for a in odd.values())
    assert all(a.trailers == (style == "trailers") for a in odd.values())
    if provider is Provider.APNS:
        assert [json.loads(a.body)["reason"] for a in odd.values() if a.body] == ["Unregistered"] * sum(
            a.status == 410 for a in odd.values()
        )
    else:
        assert all(json.loads(a.body) for a in odd.values())


def test_only_a_share_of_replies_is_odd(credentials: Credentials) -> None:
    client = _client(credentials, Provider.APNS, reply_styles=("trailers",), odd_reply_share=0.5)
    odd = sum(a.trailers for a in client.post_all(range(60)).values())
    assert 15 < odd < 45


def test_data_of_several_replies_comes_after_all_their_headers(credentials: Credentials) -> None:
    at = bench(credentials, Provider.FCM, ProviderProfile(latency=Latency(ms=5), interleave=True))
    client = RawClient(at)
    client.send(b"".join(client.request(at.headers(n), at.body(n)) for n in range(20)))
    client.wait(0.005)
    found = frames(client.taken())
    assert [kind for kind, *_ in found] == [HEADERS] * 8 + [DATA] * 8 + [HEADERS] * 8 + [DATA] * 8 + [
        HEADERS
    ] * 4 + [DATA] * 4
    assert {client.reply(sid, found)[0] for sid in range(1, 40, 2)} == {200}


def test_the_same_connection_number_gets_the_same_events(credentials: Credentials) -> None:
    own = ProviderProfile(goaway_every=1_000, slow_read_share=0.5)

    def story(seed: int) -> list[tuple[int, bool]]:
        at = bench(credentials, Provider.APNS, own, seed=seed)
        lines = [Line(at).connection for _ in range(20)]
        return [(int(c.wire.state[7]), c.slow_reader) for c in lines]

    assert story(3) == story(3)
    assert story(3) != story(4)
    assert 3 < sum(slow for _, slow in story(3)) < 17


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_profile_serves_a_strict_client(credentials: Credentials, name: str) -> None:
    profile = load_profile(name)
    for provider in Provider:
        at = bench(
            credentials, provider, profile.of(provider), seed=5, reply_deadline_s=profile.reply_deadline_s
        )
        settled: dict[int, int] = {}
        waiting = list(range(150))
        for _ in range(60):
            if not waiting:
                break
            waiting = _one_connection(at, waiting, settled)
        assert not waiting
        assert set(settled.values()) <= {200, 400, 404, 410, 500, 503, -1}
        counts = at.ledger.summary()
        assert (counts["duplicates"], counts["malformed"]) == (0, 0)
        assert counts["distinct"] == 150


def _one_connection(at: Bench, waiting: list[int], settled: dict[int, int]) -> list[int]:
    """Sends what waits over one connection; -1 for an outcome that cannot be known. What must be sent again."""
    client = StrictClient(at)
    again = []
    while waiting and client.goaway is None:
        n = waiting.pop(0)
        if client.h2.open_outbound_streams >= client.h2.remote_settings.max_concurrent_streams:
            again.append(n)
            continue
        stream = client.post(at.headers(n), at.body(n))
        client.wait(0.1)
        client.exchange()
        answer = client.answers[stream]
        if (
            answer.reset == 0x7
            or answer.status in (429,)
            or (at.provider is Provider.APNS and answer.status >= 500)
            or (client.goaway is not None and stream > client.goaway[0])
        ):
            again.append(n)
        else:
            settled[n] = answer.status if answer.ended and answer.reset is None else -1
    return again + waiting


def test_a_profile_file_says_what_differs_and_nothing_else(tmp_path: Path) -> None:
    path = profile_file(tmp_path, """
        reply_deadline_s = 3
        access_token_lifetime_s = 60
        tick_ms = 2
        [apns]
        latency = { kind = "uniform", min_ms = 1, max_ms = 2 }
        [[apns.replies]]
        reason = "Unregistered"
        share = 0.1
        [fcm]
        quota = 10
    """)  # fmt: skip
    profile = load_profile(path)
    assert (profile.name, profile.reply_deadline_s, profile.tick_ms) == ("profile", 3, 2)
    assert profile.apns.streams == 1_000
    assert profile.fcm.streams == 100
    assert profile.fcm.quota == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latencyy = 1", "latencyy: Extra inputs"),
        ("[apns]\nreplies = [{reason = 'UNREGISTERED', share = 0.1}]", "apns has no reason 'UNREGISTERED'"),
        (
            "[fcm]\nreplies = [{reason = 'INTERNAL', share = 0.7}, {reason = 'reset', share = 0.7}]",
            "sum to more than 1",
        ),
        ("[apns]\nlatency = {kind = 'uniform', min_ms = 5, max_ms = 1}", "max_ms 1 is less than min_ms 5"),
        ("[apns]\nstreams = 0", "apns.streams"),
        ("[apns", "not valid TOML"),
    ],
)
def test_a_wrong_profile_file_is_told_key_and_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_profile(profile_file(tmp_path, text))


def test_a_profile_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="neither built in nor a file") as caught:
        load_profile("idael")
    assert "ideal, realistic, hostile" in caught.value.remedy


def test_a_tick_gathers_the_replies_of_a_moment(credentials: Credentials) -> None:
    at = bench(
        credentials, Provider.APNS, ProviderProfile(latency=Latency(kind="uniform", min_ms=1, max_ms=9))
    )
    at.front.office.knobs[8] = int(Profile(tick_ms=10).tick_ms * 1e6)
    client = RawClient(at)
    client.send(b"".join(client.request(at.headers(n), BODY) for n in range(50)))
    client.wait(0.0099)
    assert client.taken() == b""
    client.wait(0.0001)
    assert len([f for f in frames(client.taken()) if f[0] == HEADERS and f[1] & END_HEADERS]) == 50
