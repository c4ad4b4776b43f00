"""From rows, rates, streams and latency to connections and lanes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flashcast.arm.plan import ASSUMED_LATENCY_MS, ASSUMED_STREAMS, CONNECTIONS_MIN, HEADROOM, TARGET_S, plan
from flashcast.limits import CONNECTIONS_MAX, LANES_MAX
from flashcast.model import Provider

APNS, FCM = Provider.APNS, Provider.FCM


def test_little_s_law_decides_how_many_connections_are_opened() -> None:
    # 1,000,000 within 2.5 s is 400,000/s; at 100 ms 40,000 are in flight, a hundred to a connection.
    made = plan(FCM, 1_000_000, cores=2)
    assert made.connections == round(1_000_000 / TARGET_S * 0.1 * HEADROOM / 100) == 520
    assert made.lanes == 1
    assert 2.5 <= made.predicted_s <= 2.7


def test_a_pace_needs_fewer_connections_and_takes_its_time() -> None:
    made = plan(FCM, 1_000_000, cores=2, pace_per_s=10_000)
    assert made.connections == 13
    assert round(made.predicted_s) == 100


def test_one_lost_connection_must_not_halve_the_rate() -> None:
    assert plan(APNS, 100_000, cores=4).connections == CONNECTIONS_MIN


def test_few_rows_open_few_connections() -> None:
    assert plan(APNS, 1, cores=8).connections == 1
    assert plan(APNS, 0, cores=8).connections == 1
    assert plan(FCM, 250, cores=8).connections == 3


def test_what_is_given_is_taken() -> None:
    made = plan(APNS, 4_000_000, cores=16, connections=7, lanes=3)
    assert (made.connections, made.lanes) == (7, 3)
    assert plan(APNS, 10, cores=1, connections=2, lanes=9).lanes == 2, "a lane without a connection would be idle"


def test_a_single_core_gets_a_lane_too() -> None:
    assert plan(APNS, 4_000_000, cores=1).lanes == 1


def test_lanes_grow_with_the_rows_but_leave_a_core() -> None:
    assert plan(APNS, 8_000_000, cores=8).lanes == 4
    assert plan(APNS, 80_000_000, cores=8).lanes == 7


@given(
    provider=st.sampled_from(Provider),
    rows=st.integers(0, 10**9),
    cores=st.integers(1, 256),
    pace=st.none() | st.floats(0.1, 1e7),
    streams=st.none() | st.integers(1, 10_000),
    latency=st.none() | st.floats(0.01, 60_000),
)
def test_every_plan_is_within_its_bounds_and_can_do_what_it_predicts(
    provider: Provider, rows: int, cores: int, pace: float | None, streams: int | None, latency: float | None
) -> None:
    made = plan(provider, rows, cores=cores, pace_per_s=pace, streams=streams, reply_latency_ms=latency)
    assert 1 <= made.lanes <= min(LANES_MAX, made.connections)
    assert made.connections <= CONNECTIONS_MAX
    latency_s = (latency or ASSUMED_LATENCY_MS[provider]) / 1e3
    if rows:
        assert made.predicted_s >= rows * latency_s / (made.connections * (streams or ASSUMED_STREAMS[provider]))
        assert made.predicted_s >= latency_s
        if pace is not None:
            assert made.predicted_s >= rows / pace
