"""Load shapes: they follow the forecast, and the tools they are for can run them."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zombie_server import serving

from flashcast.errors import InputError
from flashcast.zombie.herd.forecast import Forecast, forecast
from flashcast.zombie.herd.scenario import scenario_of
from flashcast.zombie.herd.shapes import STAGES_MAX, Shape, k6_file, locust_file, shape_of

TOLD = 'A herd of "4,000,000" devices; \\ and */ and """ are no way out.'


SMALL = Shape((0.0, 2.0, 4.0, 6.0), (5.0, 40.0, 10.0, 0.0))
"""A herd of 105 requests in six seconds."""


def herd(**fields: Any) -> Forecast:
    return forecast(scenario_of({"audience": 400_000, "capacity_rps": 1.0, "background_rps": 100.0} | fields))


class TestTheShape:
    @settings(max_examples=30, deadline=None)
    @given(
        st.sampled_from([0.0, 5.0, 300.0]), st.floats(2, 600), st.floats(0.3, 2.5), st.sampled_from([0.0, 2.0]),
        st.floats(0.001, 10),
    )  # fmt: skip
    def test_it_has_as_many_requests_as_the_forecast_and_is_never_far_from_it(
        self, push_s: float, median_s: float, sigma: float, receipt: float, scale: float
    ) -> None:
        f = herd(push_s=push_s, open_median_s=median_s, open_sigma=sigma, receipt_requests=receipt, horizon_s=900.0)
        shape = shape_of(f, scale=scale)
        peak = float(f.load.max()) * scale / f.step_s
        assert len(shape.t_s) - 1 <= STAGES_MAX
        assert shape.t_s[0] == 0
        assert shape.requests == pytest.approx(f.load.sum() * scale, rel=1e-9)
        at = (np.arange(f.load.size) + 0.5) * f.step_s
        away = np.abs(np.interp(at, shape.t_s, shape.rps) - f.load * scale / f.step_s)
        assert away.max() <= 0.05 * peak, "even where the whole push arrives within one step"
        assert away.mean() <= 0.01 * peak

    def test_the_herd_alone_and_its_beginning_can_be_had(self) -> None:
        f = herd()
        assert shape_of(f, background=False).rps[-1] < 20
        assert shape_of(f).rps[-1] == pytest.approx(100, abs=0.01 * f.peak_rps)
        assert shape_of(f, until_s=120).t_s[-1] == 120

    def test_nothing_to_send_is_told(self) -> None:
        with pytest.raises(InputError, match="no requests"):
            shape_of(herd(background_rps=0.0, open_share=0.0))

    def test_a_herd_that_no_tool_can_make_is_told(self) -> None:
        shape = Shape((0.0, 10.0), (0.0, 5e6))
        for make in (locust_file, k6_file):
            with pytest.raises(InputError, match="--scale"):
                make(shape, TOLD)


class _Locust(types.ModuleType):
    """As much of locust as a file of ours names; the run time is set by the test."""

    class LoadTestShape:
        run_time = 0.0
        users = 0

        def get_run_time(self) -> float:
            return self.run_time

        def get_current_user_count(self) -> int:
            return self.users

    class FastHttpUser:
        pass

    def __init__(self) -> None:
        super().__init__("locust")
        self.task = lambda function: function


class TestLocust:
    def test_its_users_follow_the_curve_from_tick_to_tick(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shape = shape_of(herd(), scale=0.1)
        path = tmp_path / "locustfile.py"
        path.write_text(locust_file(shape, TOLD), encoding="utf-8")
        monkeypatch.setitem(sys.modules, "locust", _Locust())
        names = runpy.run_path(str(path))
        ticking = names["Herd"]()
        sent = 0.0
        for second in itertools.count():
            ticking.run_time = float(second)
            told = ticking.tick()
            if told is None:
                break
            users, spawn_rate = told
            assert abs(users - ticking.users) <= spawn_rate, "a tick's users are there by the next"
            expected = np.interp(second + 1, shape.t_s, shape.rps)
            assert users == pytest.approx(expected, abs=0.51)
            ticking.users = users
            sent += users * names["PAUSE_S"]
        assert second == math.ceil(shape.t_s[-1])
        assert sent == pytest.approx(shape.requests, rel=0.02)

    def test_locust_itself_sends_the_herd(self, tmp_path: Path) -> None:
        path = tmp_path / "locustfile.py"
        path.write_text(locust_file(SMALL, TOLD), encoding="utf-8")
        # A process of its own: gevent changes whatever it is imported into.
        command = [sys.executable, "-m", "locust", "-f", str(path), "--headless", "--json"]
        with serving() as place:
            place.file = b"{}"
            done = subprocess.run(
                [*command, "--host", place.url], env=os.environ | {"HERD_PATHS": "/a,/b"}, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert {entry["name"] for entry in json.loads(done.stdout)} == {"/a", "/b"}
        assert sum(entry["num_failures"] for entry in json.loads(done.stdout)) == 0
        # A machine that is busy sends fewer; none sends a herd of half as many again.
        assert SMALL.requests / 2 < len(place.polls) < 1.25 * SMALL.requests


K6_STUB = {
    "node_modules/k6/package.json": '{"name": "k6", "type": "module", "exports": {"./http": "./k6.js"}}',
    "node_modules/k6/k6.js": "export default { get(url) { globalThis.asked.push(url); } };",
    "run.mjs": """
        globalThis.asked = [];
        globalThis.__ENV = { BASE_URL: "http://staging/", HERD_PATHS: "/a,/b" };
        const script = await import("./herd.js");
        for (let i = 0; i < 50; i++) script.default();
        console.log(JSON.stringify({ options: script.options, asked: [...new Set(asked)].sort() }));
    """,
    "package.json": '{"type": "module"}',
}


class TestK6:
    def test_its_stages_have_the_area_of_the_curve_when_node_runs_the_file(
        self, tmp_path: Path, require_command: Callable[[str], str]
    ) -> None:
        shape = shape_of(herd(), scale=0.1)
        for name, text in {**K6_STUB, "herd.js": k6_file(shape, TOLD)}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        node = require_command("node")
        done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        ran = json.loads(done.stdout)
        assert ran["asked"] == ["http://staging/a", "http://staging/b"]
        (scenario,) = ran["options"]["scenarios"].values()
        assert scenario["executor"] == "ramping-arrival-rate"
        assert scenario["timeUnit"] == "60s"
        assert 0 < scenario["preAllocatedVUs"] <= scenario["maxVUs"]
        rate, seconds, requests = scenario["startRate"] / 60, 0.0, 0.0
        for stage in scenario["stages"]:
            assert isinstance(stage["target"], int)
            lasts_s = int(re.fullmatch(r"(\d+)ms", stage["duration"])[1]) / 1_000
            assert lasts_s > 0
            requests += lasts_s * (rate + stage["target"] / 60) / 2
            rate, seconds = stage["target"] / 60, seconds + lasts_s
        assert seconds == pytest.approx(shape.t_s[-1])
        assert requests == pytest.approx(shape.requests, rel=0.01)

    def test_k6_itself_sends_the_herd(self, tmp_path: Path) -> None:
        k6 = shutil.which("k6")
        if k6 is None:
            # Not even in CI: no package index that these tests install from has it, and to build it takes minutes.
            pytest.skip("k6 is not on PATH; `go install go.k6.io/k6@latest` builds it")
        path = tmp_path / "herd.js"
        path.write_text(k6_file(SMALL, TOLD), encoding="utf-8")
        with serving() as place:
            place.file = b"{}"
            command = [k6, "run", "--quiet", "--no-usage-report", "-e", f"BASE_URL={place.url}", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # k6 starts requests whatever happens: it is the curve's area, but for what is left of one.
        assert SMALL.requests / 2 < len(place.polls) <= SMALL.requests + 1
