"""The open curve of past launches: known parameters are found again, and logs that say too little are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashcast.errors import InputError
from flashcast.zombie.herd.curves import Table
from flashcast.zombie.herd.fit import fit_lognormal, table_of
from flashcast.zombie.herd.opens import parse_time, read_delays


def drawn(median_s: float, sigma: float, count: int = 20_000, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(np.log(median_s), sigma, count)


class TestTheFit:
    @settings(max_examples=25, deadline=None)
    @given(st.floats(30, 2_000), st.floats(0.3, 1.9), st.integers(0, 2**32))
    def test_a_complete_log_gives_its_parameters_back(self, median_s: float, sigma: float, seed: int) -> None:
        fit = fit_lognormal(drawn(median_s, sigma, seed=seed))
        # A median is known to sigma / sqrt(n), a deviation to 1 / sqrt(2 n) of itself; five times that is generous.
        assert np.log(fit.median_s / median_s) == pytest.approx(0, abs=5 * sigma / np.sqrt(20_000) + 0.001)
        assert fit.sigma == pytest.approx(sigma, rel=0.03)
        assert fit.seen_share == 1
        assert fit.distance < 0.03

    @pytest.mark.parametrize("seen", [0.45, 0.7, 0.95])
    @pytest.mark.parametrize("sigma", [0.8, 1.5])
    def test_a_log_that_ends_early_gives_them_back_too_with_those_who_are_missing(
        self, seen: float, sigma: float
    ) -> None:
        delays = drawn(90.0, sigma, 200_000)
        window_s = float(np.quantile(delays, seen))
        fit = fit_lognormal(delays[delays <= window_s], window_s)
        assert fit.median_s == pytest.approx(90.0, rel=0.15)
        assert fit.sigma == pytest.approx(sigma, rel=0.08)
        assert fit.seen_share == pytest.approx(seen, abs=0.05)
        assert fit.open_share(2_000_000) == pytest.approx(0.1, rel=0.1)
        naive = fit_lognormal(delays[delays <= window_s])
        assert naive.median_s < fit.median_s, "taken as complete, the log looks quicker than it is"

    def test_opens_past_the_window_are_left_out_rather_than_believed(self) -> None:
        delays = np.append(drawn(90.0, 1.0), [1e9] * 500)
        assert fit_lognormal(delays, 600.0).median_s == pytest.approx(90.0, rel=0.05)

    @pytest.mark.parametrize(
        ("delays", "window_s", "told"),
        [
            (np.arange(10.0), None, "too few"),
            (np.full(1_000, 7.0), None, "same delay"),
            (np.random.default_rng(1).uniform(0, 1, 5_000) ** 0.2 * 10, 10.0, "too early"),
            (np.full(1_000, np.nan), None, "too few"),
            (np.full(1_000, -3.0), None, "too few"),
        ],
    )
    def test_a_log_that_says_too_little_is_refused(self, delays: np.ndarray, window_s: float | None, told: str) -> None:
        with pytest.raises(InputError, match=told):
            fit_lognormal(delays, window_s)

    def test_a_curve_with_two_humps_is_told_by_its_distance_and_can_be_taken_as_it_is(self) -> None:
        delays = np.concatenate([drawn(10.0, 0.3), drawn(1_000.0, 0.3)])
        assert fit_lognormal(delays).distance > 0.1
        table = Table(table_of(delays))
        at = np.array([10.0, 100.0, 1_000.0])
        assert table.share(at) == pytest.approx([0.25, 0.5, 0.75], abs=0.02)

    def test_a_table_is_a_scenarios_open_points(self) -> None:
        points = table_of(np.round(drawn(5.0, 1.0)))
        assert points[0] == (0.0, 0.0)
        assert points[-1][1] == 1.0
        assert all(b[0] > a[0] and b[1] >= a[1] for a, b in pairwise(points))


class TestTheLog:
    def test_delays_are_taken_as_they_are(self, tmp_path: Path) -> None:
        path = tmp_path / "opens.csv"
        path.write_text("user,delay_s\na,1.5\nb,20\nc,\n")
        assert read_delays(path).tolist() == [1.5, 20.0]

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_times_of_sending_and_opening_give_delays_in_any_form(self, kind: str, tmp_path: Path) -> None:
        sent = datetime(2026, 2, 8, 23, 45, tzinfo=UTC)
        opened = [sent + timedelta(seconds=s) for s in (3.25, 60, 3_600)]
        path = tmp_path / f"opens.{kind}"
        if kind == "csv":
            rows = [f"{at.isoformat()},{sent.isoformat()}" for at in opened]
            path.write_text("\n".join(["opened_at,sent_at", *rows]) + "\n")
        else:
            pq.write_table(pa.table({"opened_at": opened, "sent_at": [sent] * 3, "device": ["a", "b", "c"]}), path)
        assert read_delays(path).tolist() == pytest.approx([3.25, 60, 3_600])

    def test_one_time_of_sending_does_for_a_log_that_has_none(self, tmp_path: Path) -> None:
        path = tmp_path / "opens.csv"
        path.write_text("opened_at\n1000.5\n1060\n")
        assert read_delays(path, "1970-01-01T00:16:40Z").tolist() == [0.5, 60.0]
        assert read_delays(path, "1000").tolist() == [0.5, 60.0]
        with pytest.raises(InputError, match="no sent_at"):
            read_delays(path)

    def test_a_time_without_a_zone_is_utc(self) -> None:
        assert parse_time("1970-01-01T00:01:00") == 60.0
        assert parse_time("1970-01-01T01:01:00+01:00") == 60.0
        with pytest.raises(InputError, match="neither"):
            parse_time("yesterday")

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("opens.csv", "a,b\n1,2\n", "none of the columns"),
            ("opens.csv", "delay_s\nsoon\n", "not numbers"),
            ("opens.csv", "opened_at,sent_at\nsoon,later\n", "neither"),
            ("opens.parquet", "garbage", "cannot be read"),
            ("opens.csv", "", "cannot be read"),
            ("none.csv", None, "cannot read"),
        ],
    )
    def test_what_is_wrong_with_it_is_told(self, name: str, text: str | None, told: str, tmp_path: Path) -> None:
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=told):
            read_delays(path)
