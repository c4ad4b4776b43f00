"""The state folder: launches by id, and one process at a time."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flashcast.clock import FixedClock
from flashcast.errors import BusyError, EnvironmentFault, InputError
from flashcast.state import StateFolder, default_state_path, new_launch_id

GO = 1_790_000_000.0
HOLDER = """
import sys
from pathlib import Path
from flashcast.state import StateFolder
with StateFolder(Path(sys.argv[1])).lock("20260921-141320-k3f9"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_flashcast_home_where_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLASHCAST_HOME", str(tmp_path))
    assert StateFolder().path == tmp_path
    monkeypatch.setenv("FLASHCAST_HOME", "")
    assert default_state_path().name == "flashcast"


def test_an_id_tells_the_time_and_sorts_by_it() -> None:
    clock, rng = FixedClock(GO), random.Random(1)
    first = new_launch_id(clock, rng)
    clock.advance(1)
    second = new_launch_id(clock, rng)
    assert first.startswith("20260921-141320-")
    assert len(first) == 20
    assert first < second


def test_the_same_clock_and_seed_give_the_same_id() -> None:
    assert new_launch_id(FixedClock(GO), random.Random(7)) == new_launch_id(FixedClock(GO), random.Random(7))


def test_launches_are_listed_oldest_first_and_the_latest_is_found(tmp_path: Path) -> None:
    folder, clock, rng = StateFolder(tmp_path / "state"), FixedClock(GO), random.Random(2)
    assert folder.launches() == []
    made = []
    for _ in range(3):
        made.append(folder.create_launch(clock, rng))
        clock.advance(1)
    assert folder.launches() == [path.name for path in made]
    assert folder.find() == made[-1]
    assert folder.find(made[0].name) == made[0]
    assert "launches=3" in repr(folder)


def test_launches_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    # The same seed draws the same id first; the folder is taken, so the next is drawn.
    made = [folder.create_launch(FixedClock(GO), random.Random(3)) for _ in range(3)]
    assert len(set(made)) == 3


def test_no_launch_and_an_unknown_launch_are_told_with_a_remedy(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with pytest.raises(InputError, match="there is no launch in") as none:
        folder.find()
    assert "--state" in none.value.remedy
    folder.create_launch(FixedClock(GO), random.Random(4))
    with pytest.raises(InputError, match="there is no launch 20200101-000000-aaaa"):
        folder.find("20200101-000000-aaaa")


@pytest.mark.parametrize("launch", ["../../etc", "a/b", "", ".", "-x", "a" * 81])
def test_what_cannot_be_an_id_is_refused_and_never_used_as_a_path(tmp_path: Path, launch: str) -> None:
    with pytest.raises(InputError, match="is not a launch id"):
        StateFolder(tmp_path).find(launch)


def test_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    launch = folder.create_launch(FixedClock(GO), random.Random(5))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder.path, folder.launches_path, launch)} == {0o700}


def test_a_state_path_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot use the state folder"):
        StateFolder(tmp_path / "state").create_launch(FixedClock(GO), random.Random(6))


def test_a_second_launch_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with StateFolder(tmp_path).lock("20260921-141320-k3f9"):
        with pytest.raises(BusyError) as busy, StateFolder(tmp_path).lock():
            pass
        assert f"process {os.getpid()} with launch 20260921-141320-k3f9" in busy.value.message
        assert "--state" in busy.value.remedy
    with StateFolder(tmp_path).lock():
        assert (tmp_path / "lock").read_text() != ""
    assert (tmp_path / "lock").read_text() == ""


def test_a_holder_that_has_not_told_its_name_yet_still_holds(tmp_path: Path) -> None:
    with StateFolder(tmp_path).lock():
        (tmp_path / "lock").write_text("")
        with pytest.raises(BusyError, match="held by another process"), StateFolder(tmp_path).lock():
            pass


def test_a_process_that_is_killed_lets_the_folder_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} with launch"), StateFolder(tmp_path).lock():
            pass
        holder.kill()
        holder.wait()
        with StateFolder(tmp_path).lock():
            pass
