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
from level_data import TABLE, rule

from flashcast.zombie.document import Level
from flashcast.zombie.experiment import demo as module
from flashcast.zombie.experiment.demo import Demo, demo
from flashcast.zombie.experiment.parameters import DEFAULT
from flashcast.zombie.trace import read_trace, replay

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
    assert held["decisions"][-1]["level"] == "normal"


def test_with_it_goodput_stays_near_the_capacity(done: Demo) -> None:
    held, bare = done.document["with"], done.document["without"]
    assert held["goodput_share_mean"] > bare["goodput_share_mean"]
    if held["late_s"] > DEFAULT.faster(2).window_s / 3:
        pytest.skip(f"the machine was busy: apps came up to {held['late_s']:.1f} s late")
    assert held["goodput_share_mean"] >= 0.9


def test_everything_is_written_down_and_can_be_read(done: Demo, out: Path) -> None:
    assert sorted(file.name for file in done.files) == sorted([module.PICTURE, module.SUMMARY, *module.TRACES])
    ET.parse(out / module.PICTURE)
    assert json.loads((out / module.SUMMARY).read_text(encoding="utf-8")) == done.document
    for name in module.TRACES:
        ticks = list(read_trace((out / name).read_bytes().splitlines(keepends=True)))
        assert len(ticks) > 20


def test_a_controller_that_is_shown_the_collapse_raises_zombie_mode_and_keeps_it(done: Demo, out: Path) -> None:
    slow = rule("slow", "latency_p95_ms", Level.ZOMBIE, limit=1_000.0, clear=500.0, for_s=1.0)
    table = TABLE.model_copy(update={"rules": (slow,)})
    replayed = replay((out / module.TRACES[0]).read_bytes().splitlines(keepends=True), table)
    assert [change.level for change in replayed.changes] == [Level.ZOMBIE]


def test_no_process_outlives_its_conductor(tmp_path: Path) -> None:
    """A conductor that is killed closes its children's standard input: they end by themselves."""
    code = (
        "import sys\n"
        "from flashcast.zombie.experiment.children import Child\n"
        f"with Child('document_server', {{'folder': {str(tmp_path)!r}}}) as child:\n"
        "    print(child._process.pid, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    if not hasattr(os, "pidfd_open"):
        pytest.skip("this system cannot wait for a process that is not a child")
    conductor = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert conductor.stdout is not None
    child = os.pidfd_open(int(conductor.stdout.readline()))
    try:
        conductor.kill()
        conductor.communicate()
        ended, _, _ = select.select([child], [], [], 60)
        assert ended == [child]
    finally:
        os.close(child)
