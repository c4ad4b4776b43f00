"""The experiment itself, at twice its pace: real processes, real sockets, and conditions instead of times."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from flashcast.cli.main import app
from flashcast.zombie.experiment import demo as module
from flashcast.zombie.experiment.demo import Demo, demo
from flashcast.zombie.experiment.parameters import DEFAULT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(out: Path) -> Demo:
    return demo(DEFAULT.faster(2), out)


def test_without_zombie_mode_the_service_collapses_and_stays_down_after_the_peak(done: Demo) -> None:
    bare = done.document["without"]
    assert bare["goodput_after_rps"] < 0.2 * bare["wanted_after_rps"]
    assert bare["wanted_after_rps"] < DEFAULT.capacity_rps, "what users want by then it could do"
    assert bare["offered_after_rps"] > 2 * bare["wanted_after_rps"], "the retry storm"
    assert bare["recovered_s"] is None
    assert bare["reads"]["failed"] > 0
    assert bare["writes"]["lost"] > 0


def test_with_it_no_write_is_lost_and_none_is_applied_twice(done: Demo) -> None:
    held = done.document["with"]
    assert held["writes"]["made"] == held["writes"]["applied"]
    assert held["writes"]["lost"] == held["writes"]["waiting"] == held["writes"]["applied_twice"] == 0
    assert held["writes"]["kept_from_twice"] > 0, "answers got lost, and the keys were needed"
    assert done.document["without"]["writes"]["applied_twice"] > 0, "without keys they are applied again"


def test_with_it_users_are_served_by_their_apps_then_by_the_service_as_ever(done: Demo) -> None:
    held = done.document["with"]
    assert held["reads"]["from_the_app"] > 0
    assert held["everybody_back_s"] is not None
    assert held["published"][-1]["level"] == "normal"


def test_with_it_goodput_stays_near_the_capacity(done: Demo) -> None:
    held, bare = done.document["with"], done.document["without"]
    assert held["goodput_share_mean"] > bare["goodput_share_mean"]
    if held["late_s"] > DEFAULT.faster(2).window_s / 3:
        pytest.skip(f"the machine was busy: apps came up to {held['late_s']:.1f} s late")
    assert held["goodput_share_mean"] >= 0.9


def test_everything_is_written_down_and_can_be_read(done: Demo, out: Path) -> None:
    assert sorted(file.name for file in done.files) == sorted(
        [module.PICTURE, module.SUMMARY, module.RULES_USED, *module.TRACES]
    )
    ET.parse(out / module.PICTURE)
    assert json.loads((out / module.SUMMARY).read_text(encoding="utf-8")) == json.loads(json.dumps(done.document))


@pytest.mark.parametrize("name", module.TRACES)
def test_a_trace_of_it_replays_to_the_decisions_of_its_controller(done: Demo, out: Path, name: str) -> None:
    ran = CliRunner().invoke(app, ["zombie", "replay", str(out / name), "--rules", str(out / "rules.toml"), "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert (found["different"], found["same_rules"]) == (0, True)
    assert found["compared"] > 20
    record = done.with_zombie if name == module.TRACES[1] else done.without
    assert [change["level"] for change in found["changes"]] == [decision["level"] for decision in record.decisions]


def test_shown_the_collapse_the_rules_would_have_raised_zombie_mode_and_kept_it_to_the_end(done: Demo) -> None:
    assert [decision["level"] for decision in done.without.decisions] == ["zombie"]
    assert [published["level"] for published in done.without.published] == ["normal"], "and published nothing"


CHILDREN = {
    "service": {"database": "service.db", "parameters": DEFAULT.as_dict()},
    "monitoring": {"metrics_port": 1, "clock_factor": 10.0},
    "document_server": {"folder": "."},
    "herd": {
        "parameters": DEFAULT.as_dict(), "app": "herd", "service_port": 1, "document_port": 1, "trusted": "",
        "log": "herd.json",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CHILDREN)
def test_no_process_outlives_its_conductor(name: str, tmp_path: Path) -> None:
    """A conductor that is killed closes its children's standard input: they end by themselves, also in mid-run."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("this system cannot wait for a process that is not a child")
    code = (
        "import sys, time\n"
        "from flashcast.zombie.experiment.children import Child\n"
        f"with Child({name!r}, {CHILDREN[name]!r}) as child:\n"
        "    child.tell({'start': time.monotonic(), 'epoch': 1.0, 'speaks': False})\n"
        "    print(child._process.pid, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    conductor = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert conductor.stdout is not None
    child = os.pidfd_open(int(conductor.stdout.readline()))
    try:
        conductor.kill()
        conductor.communicate()
        ended, _, _ = select.select([child], [], [], DEFAULT.length_s / 2)
        assert ended == [child], "long before the run would be over"
    finally:
        os.close(child)
