"""The forecast as JSON, picture and text, and the commands that give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from flashcast.cli.main import app
from flashcast.zombie import plot
from flashcast.zombie.herd import report
from flashcast.zombie.herd.advice import advise
from flashcast.zombie.herd.forecast import forecast
from flashcast.zombie.herd.scenario import scenario_of

SUPERBOWL: dict[str, Any] = {"audience": 4_000_000, "capacity_rps": 20_000.0, "background_rps": 6_000.0}
CASES = {
    "too much": SUPERBOWL,
    "fits": SUPERBOWL | {"capacity_rps": 500_000.0},
    "hopeless": SUPERBOWL | {"capacity_rps": 100.0, "background_app_share": 0.0},
    "too long to see the end": SUPERBOWL | {"horizon_s": 60.0},
    "nobody opens": SUPERBOWL | {"open_share": 0.0},
    "no headroom left, but no overload": {"audience": 1_000_000, "capacity_rps": 9_000.0},
}


def herd(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["herd", *map(str, arguments)])


class TestTheReport:
    @pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
    def test_every_kind_of_forecast_is_told_in_all_three_ways(self, fields: dict[str, Any]) -> None:
        f = forecast(scenario_of(fields))
        advice = advise(f)
        document = json.loads(json.dumps(report.document(f, advice), allow_nan=False))
        assert document["format"] == report.FORMAT
        assert document["advice"]["needed"] == advice.needed
        assert len(document["series"]["herd_rps"]) <= report.SERIES_MAX
        _well_formed(report.picture(f, advice))
        told = report.text(f, advice)
        assert f"{f.scenario.audience:,} devices" in told
        chart = report.text(f, advice, unicode=False)
        assert chart.isascii()
        assert max(len(line) for line in chart.splitlines()[: report.ROWS]) <= 10 + report.COLUMNS

    def test_the_means_of_its_series_keep_the_sum(self) -> None:
        f = forecast(scenario_of(SUPERBOWL | {"horizon_s": 1_200.0}))
        series = report.document(f, advise(f))["series"]
        assert sum(series["herd_rps"]) * series["step_s"] == pytest.approx(f.herd.sum(), rel=1e-3)

    def test_a_chart_shows_a_peak_that_is_one_step_wide(self) -> None:
        top = np.full(3_000, 10.0)
        top[1_700] = 100.0
        rows = report.columns(np.zeros(3_000), top, 50.0, 3_000.0, unicode=False)
        assert rows[0].count("#") == 1


class TestThePicture:
    def test_names_from_outside_stay_text(self) -> None:
        panel = plot.Panel('<script>"&', 0, 10, 5)
        panel.line("</svg>", 0, np.arange(3.0), np.array([1.0, np.nan, 2.0]))
        panel.mark(3, "<b>")
        panel.band(1, 2, '"')
        panel.rule(4, "&")
        root = _well_formed(plot.page("<title>", ["<x>"], [[panel]]))
        assert not [node for node in root.iter() if node.tag.endswith("script")]

    def test_a_thinned_curve_keeps_its_highest_point(self) -> None:
        y = np.zeros(100_000)
        y[54_321] = 7.0
        x, thin = plot.thinned(np.arange(100_000.0), y)
        assert thin.size <= plot.POINTS_MAX + 200
        assert (x[thin.argmax()], thin.max()) == (54_321.0, 7.0)

    @pytest.mark.parametrize(("value", "ceiling"), [(0, 1), (0.83, 1), (7.2, 8), (36_253, 40_000), (float("nan"), 1)])
    def test_scales_end_at_round_values(self, value: float, ceiling: float) -> None:
        assert plot.nice_ceiling(value) == ceiling


def _well_formed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [name for node in root.iter() for name in node.attrib if name.endswith("href")], "it loads nothing"
    assert "nan" not in svg
    return root


class TestForecastCommand:
    def test_options_are_enough(self, tmp_path: Path) -> None:
        svg = tmp_path / "herd.svg"
        done = herd("forecast", "--audience", 4_000_000, "--capacity", 20_000, "--background", 6_000, "--svg", svg)
        assert done.exit_code == 0, done.output
        assert "1.8 times the capacity" in done.stdout
        assert "Slower push:" in done.stdout
        assert "Shield:" in done.stdout
        _well_formed(svg.read_text(encoding="utf-8"))

    def test_options_win_over_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "herd.toml"
        path.write_text("audience = 1000\ncapacity_rps = 50.0\npush_s = 30.0\n[opens]\nopen_share = 0.5\n")
        done = herd("forecast", path, "--push-per-s", 500, "--set", "open_share=0.25", "--json")
        assert done.exit_code == 0, done.output
        scenario = json.loads(done.stdout)["scenario"]
        assert (scenario["audience"], scenario["push_s"], scenario["open_share"]) == (1_000, 2.0, 0.25)

    def test_a_log_of_opens_gives_curve_and_share(self, tmp_path: Path) -> None:
        path = tmp_path / "opens.csv"
        delays = np.random.default_rng(1).lognormal(np.log(40.0), 0.9, 5_000)
        path.write_text("delay_s\n" + "\n".join(f"{delay:.3f}" for delay in delays[delays < 300]) + "\n")
        options = ("--audience", 10**6, "--capacity", 1_000, "--opens", path, "--opens-window-s", 300)
        done = herd("forecast", *options, "--opens-audience", 50_000, "--json")
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert document["scenario"]["open_median_s"] == pytest.approx(40, rel=0.1)
        assert document["scenario"]["open_share"] == pytest.approx(0.1, rel=0.05)
        assert document["fit"]["distance"] < 0.05
        seen = herd("forecast", *options[:-2], "--opens-as-seen", "--json")
        assert len(json.loads(seen.stdout)["scenario"]["open_points"]) > 100

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--capacity", 5), "audience"),
            (("--audience", 5), "capacity_rps"),
            (("--audience", 0, "--capacity", 5), "audience"),
            (("--audience", 5, "--capacity", 5, "--set", "warmth=1"), "warmth"),
            (("--audience", 5, "--capacity", 5, "--set", "cache_warmth"), "--set"),
            (("--audience", 5, "--capacity", 5, "--sent-at", "now"), "--opens"),
            (("--audience", 5, "--capacity", 5, "--opens", "none.csv"), "none.csv"),
            (("--audience", 5, "--capacity", 5, "--push-s", 1, "--push-per-s", 1), "push_per_s"),
            (("none.toml",), "none.toml"),
        ],
    )
    def test_what_is_wrong_is_named(self, options: tuple[object, ...], told: str) -> None:
        done = herd("forecast", *options, "--json")
        assert done.exit_code == 2
        assert told in json.loads(done.stdout)["error"]["message"]


class TestShapeCommand:
    def test_it_writes_what_is_asked_for_and_needs_no_capacity(self, tmp_path: Path) -> None:
        locust, k6 = tmp_path / "locustfile.py", tmp_path / "herd.js"
        options = ("--audience", 100_000, "--scale", 0.1, "--until-s", 300, "--without-background")
        done = herd("shape", "--locust", locust, "--k6", k6, *options, "--json")
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert document["seconds"] == 300
        assert document["files"] == {"locust": str(locust), "k6": str(k6)}
        compile(locust.read_text(encoding="utf-8"), "locustfile.py", "exec")
        assert "ramping-arrival-rate" in k6.read_text(encoding="utf-8")

    def test_nothing_to_write_is_told(self) -> None:
        done = herd("shape", "--audience", 100_000)
        assert done.exit_code == 2


def test_the_guides_forecast_is_what_the_example_gives() -> None:
    root = Path(__file__).parents[2]
    done = herd("forecast", root / "examples" / "herd" / "scenario.toml")
    assert done.exit_code == 0, done.output
    guide = (root / "docs" / "guides" / "herd.md").read_text(encoding="utf-8")
    said = [line for line in done.stdout.splitlines() if line.endswith(".")]
    assert [line for line in said if f"    {line}\n" not in guide] == []
