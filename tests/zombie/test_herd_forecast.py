"""The forecast: its books balance, its curves are what they should be, and its advice is the least that does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashcast.errors import InputError
from flashcast.zombie.herd.advice import (
    advise,
    shield_buckets,
    shielded_load,
    slower_push_s,
    usable_rps,
    variants,
)
from flashcast.zombie.herd.curves import LogNormal, Table, even_weights, opened_by, spread
from flashcast.zombie.herd.forecast import forecast
from flashcast.zombie.herd.scenario import Scenario, read_fields, scenario_of
from flashcast.zombie.herd.storm import Retries, serve

SUPERBOWL: dict[str, Any] = {"audience": 4_000_000, "capacity_rps": 20_000.0, "background_rps": 6_000.0}

scenarios = st.builds(
    lambda **fields: Scenario(**fields, horizon_s=600.0),
    audience=st.integers(1, 10**8),
    push_s=st.sampled_from([0.0, 0.3, 5.0, 61.7, 400.0]),
    receipt_requests=st.sampled_from([0.0, 0.5, 2.0]),
    receipt_spread_s=st.sampled_from([0.0, 1.0, 7.3]),
    open_share=st.floats(0, 1),
    open_median_s=st.floats(0.5, 5_000),
    open_sigma=st.floats(0.1, 3),
    first_requests=st.floats(1, 50),
    first_s=st.sampled_from([0.0, 0.4, 2.0, 9.9]),
    later_requests=st.floats(0, 50),
    session_s=st.sampled_from([0.0, 3.0, 60.0, 900.0]),
    cache_warmth=st.floats(0, 1),
    capacity_rps=st.floats(1, 1e6),
    background_rps=st.floats(0, 1e5),
    step_s=st.sampled_from([0.5, 1.0, 3.0]),
)


class TestTheBooks:
    @settings(max_examples=80, deadline=None)
    @given(scenarios)
    def test_everybody_who_is_sent_to_opens_and_asks_exactly_as_often_as_stated(self, s: Scenario) -> None:
        f = forecast(s)
        opens = s.audience * s.open_share
        cold = 1 - s.cache_warmth
        requests = (opens * (s.first_requests + s.later_requests) + s.audience * s.receipt_requests) * cold
        assert f.sent.sum() + f.after["sent"] == pytest.approx(s.audience)
        assert f.opens.sum() + f.after["opens"] == pytest.approx(opens, abs=1e-6)
        assert f.herd.sum() + f.after["herd"] == pytest.approx(requests, abs=1e-6)
        assert (f.herd >= 0).all()
        assert (f.opens >= 0).all()
        assert all(amount >= -1e-6 * s.audience for amount in f.after.values())

    @pytest.mark.parametrize("curve", [LogNormal(40.0, 1.2), Table(((0.0, 0.0), (10.0, 0.5), (100.0, 1.0)))])
    def test_the_width_of_a_step_changes_no_sum(self, curve: LogNormal | Table) -> None:
        coarse = np.diff(opened_by(np.arange(0, 301, 10.0), 33.0, curve))
        fine = np.diff(opened_by(np.arange(0, 300.5, 0.5), 33.0, curve))
        assert coarse == pytest.approx(fine.reshape(-1, 20).sum(axis=1))

    @pytest.mark.parametrize("push_s", [0.5, 5.0, 300.0])
    @pytest.mark.parametrize("curve", [LogNormal(40.0, 1.2), Table(((0.0, 0.0), (10.0, 0.5), (100.0, 1.0)))])
    def test_opens_are_the_mean_of_the_curve_over_the_moments_of_sending(
        self, curve: LogNormal | Table, push_s: float
    ) -> None:
        at = np.array([1.0, 7.0, 33.0, 120.0, 400.0])
        sends = (np.arange(20_000) + 0.5) / 20_000 * push_s
        expected = [curve.share(np.maximum(t - sends, 0.0)).mean() for t in at]
        assert opened_by(at, push_s, curve) == pytest.approx(expected, abs=1e-4)

    @given(st.floats(0, 500), st.sampled_from([0.1, 1.0, 7.0]))
    def test_what_is_spread_stays_the_same_amount(self, over_s: float, step_s: float) -> None:
        assert even_weights(over_s, step_s).sum() == pytest.approx(1)
        assert (even_weights(over_s, step_s) >= -1e-12).all()
        amounts = np.array([3.0, 0.0, 5.0])
        assert spread(amounts, over_s, step_s).sum() == pytest.approx(8)

    def test_half_have_opened_at_the_median_and_a_quantile_undoes_the_share(self) -> None:
        curve = LogNormal(120.0, 1.5)
        assert curve.share(np.array([0.0, 120.0])) == pytest.approx([0.0, 0.5])
        assert curve.share(np.array([curve.quantile_s(0.9)]))[0] == pytest.approx(0.9)
        table = Table(((0.0, 0.0), (10.0, 0.5), (100.0, 1.0)))
        assert table.quantile_s(0.75) == pytest.approx(55.0)
        assert table.share(np.array([-5.0, 5.0, 500.0])) == pytest.approx([0.0, 0.25, 1.0])

    def test_a_push_that_calls_home_on_receipt_peaks_while_it_is_sent(self) -> None:
        quiet = forecast(scenario_of(SUPERBOWL))
        chatty = forecast(scenario_of(SUPERBOWL | {"receipt_requests": 1.0}))
        assert chatty.peak_rps > 20 * quiet.peak_rps
        assert chatty.peak_at_s <= 6


class TestTheStorm:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.floats(0, 500), min_size=5, max_size=80),
        st.floats(1, 300),
        st.floats(1, 4),
        st.integers(0, 4),
        st.floats(0.5, 8),
        st.floats(0, 2),
    )
    def test_more_capacity_never_makes_anything_worse_and_nothing_disappears(
        self, fresh: list[float], capacity: float, times: float, count: int, delay_s: float, waste: float
    ) -> None:
        retries = Retries(count, delay_s, 2.0)
        small = serve(np.array(fresh), capacity, retries, waste, 1.0)
        large = serve(np.array(fresh), capacity * times, retries, waste, 1.0)
        for storm in (small, large):
            gone = storm.useful.sum() + storm.given_up.sum() + storm.pending
            assert gone == pytest.approx(sum(fresh), abs=1e-6)
        assert (large.offered <= small.offered + 1e-6).all()
        assert (large.given_up <= small.given_up + 1e-6).all()
        assert large.useful.sum() + 1e-6 >= small.useful.sum() - large.pending

    def test_below_its_capacity_a_service_serves_everything_at_once(self) -> None:
        storm = serve(np.full(20, 99.0), 100.0, Retries(3, 2.0, 2.0), 1.0, 1.0)
        assert (storm.useful == 99.0).all()
        assert storm.overloaded is None
        assert storm.failed_share == 0

    def test_retries_of_the_everyday_load_alone_can_keep_a_service_down(self) -> None:
        everyday = np.full(600, 60.0)
        everyday[20:40] = 400.0
        retries = Retries(3, 2.0, 2.0)
        wasteful = serve(everyday, 100.0, retries, 2.0, 1.0)
        assert wasteful.offered[-1] > 100, "long after the peak, retries hold it down"
        frugal = serve(everyday, 100.0, retries, 0.0, 1.0)
        assert frugal.offered[-1] == pytest.approx(60.0), "one that refuses for free comes back"
        assert frugal.useful[25:40] == pytest.approx(100.0), "and does what it can meanwhile"
        patient = serve(everyday, 100.0, Retries(0, 2.0, 2.0), 2.0, 1.0)
        assert patient.offered[-1] == pytest.approx(60.0), "without retries it comes back as well"


class TestTheAdvice:
    def test_what_fits_needs_nothing(self) -> None:
        advice = advise(forecast(scenario_of(SUPERBOWL | {"capacity_rps": 100_000.0})))
        assert not advice.needed
        assert advice.shield is None

    def test_the_slower_push_fits_and_a_quicker_one_does_not(self) -> None:
        s = scenario_of(SUPERBOWL)
        push_s = slower_push_s(s)
        assert push_s is not None
        assert forecast(s.changed(push_s=push_s)).peak_rps <= usable_rps(s)
        assert forecast(s.changed(push_s=push_s * 0.95)).peak_rps > usable_rps(s)

    def test_the_shield_is_the_smallest_that_does(self) -> None:
        f = forecast(scenario_of(SUPERBOWL))
        buckets = shield_buckets(f)
        assert buckets is not None
        relieved = f.load * (1 - f.scenario.shield_keeps)
        room = usable_rps(f.scenario) * f.step_s
        assert (f.load - relieved * buckets / 1_000 <= room + 1e-6).all()
        assert (f.load - relieved * (buckets - 1) / 1_000 > room).any()

    def test_a_shield_is_raised_early_enough_for_apps_to_hear_of_it(self) -> None:
        for poll_s, raise_at_s in ((60.0, -55.0), (2.0, 0.0)):
            shield = advise(forecast(scenario_of(SUPERBOWL | {"poll_s": poll_s}))).shield
            assert shield is not None
            assert (shield.needed_from_s, shield.raise_at_s) == (5.0, raise_at_s)

    def test_shield_way_back_and_drain_together_stay_within_the_usable_capacity(self) -> None:
        f = forecast(scenario_of(SUPERBOWL))
        shield = advise(f).shield
        assert shield is not None
        assert shield.clear
        assert [step.back for step in shield.steps] == [0.5, 1.0], "below what is open anyhow there is no step"
        load = shielded_load(f, shield)
        assert f.rate(load).max() <= usable_rps(f.scenario) * (1 + 1e-9)
        # The writes come back on top of what is asked anyway.
        replayed = (load - (f.load - f.load * 0.95 * (1 - shield.back_at(f.t_s)))).sum()
        assert replayed == pytest.approx(shield.queued_writes, rel=1e-6)

    @settings(max_examples=40, deadline=None)
    @given(scenarios, st.floats(1.05, 5))
    def test_more_capacity_never_takes_more_shield(self, s: Scenario, times: float) -> None:
        small, large = (
            shield_buckets(forecast(s.changed(capacity_rps=s.capacity_rps * n))) for n in (1.0, min(times, 1e9))
        )
        assert small is None or (large is not None and large <= small)

    def test_each_piece_of_advice_prevents_the_storm(self) -> None:
        f = forecast(scenario_of(SUPERBOWL))
        found = variants(f, advise(f))
        assert found["as planned"].failed_share > 0.1
        assert found["slower push"].failed_share == 0
        assert found["shielded"].failed_share == 0

    def test_what_cannot_help_says_why(self) -> None:
        full = advise(forecast(scenario_of(SUPERBOWL | {"background_rps": 17_000.0})))
        assert full.push_s is None
        assert "everyday load" in full.why["push_s"]
        foreign = SUPERBOWL | {"background_rps": 17_000.0, "background_app_share": 0.0}
        advice = advise(forecast(scenario_of(foreign)))
        assert advice.shield is None
        assert "every user shielded" in advice.why["shield"]


class TestTheScenario:
    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({}, "audience: it has no default"),
            (SUPERBOWL | {"open_share": 1.5}, "open_share"),
            (SUPERBOWL | {"opne_share": 0.5}, "opne_share: there is no such key"),
            (SUPERBOWL | {"push_s": 5, "push_per_s": 1_000}, "push_s and push_per_s"),
            (SUPERBOWL | {"push_per_s": 0}, "push_per_s is 0"),
            (SUPERBOWL | {"open_points": [[0, 0], [5, 0.5]]}, "end with share 1"),
            (SUPERBOWL | {"open_points": [[0, 0], [5, 0.7], [9, 0.6], [10, 1]]}, "does not come after"),
            (SUPERBOWL | {"writes_per_open": 30}, "writes_per_open"),
            (SUPERBOWL | {"audience": float("nan")}, "audience"),
            (SUPERBOWL | {"step_s": 0.01, "horizon_s": 80_000}, "steps"),
        ],
    )
    def test_what_is_wrong_is_named(self, fields: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=told.replace("(", r"\(")):
            scenario_of(fields)

    def test_a_pace_is_a_duration_said_the_other_way_round(self) -> None:
        assert scenario_of(SUPERBOWL | {"push_per_s": 800_000}).push_s == 5.0

    def test_a_file_may_group_its_keys(self, tmp_path: Any) -> None:
        path = tmp_path / "herd.toml"
        path.write_text("audience = 1000\n[service]\ncapacity_rps = 50.0\n[opens]\nopen_share = 0.1\n")
        assert read_fields(path) == {"audience": 1000, "capacity_rps": 50.0, "open_share": 0.1}
        path.write_text("audience = 1000\n[more]\naudience = 5\n")
        with pytest.raises(InputError, match="stands there twice"):
            read_fields(path)
        path.write_text("audience = ")
        with pytest.raises(InputError, match="is no TOML"):
            read_fields(path)
        with pytest.raises(InputError, match="cannot read"):
            read_fields(tmp_path / "none.toml")
