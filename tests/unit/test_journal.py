"""The journal: what is written into it is there after the process is gone, and a damaged one is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flashcast.deliver import journal as module
from flashcast.deliver.journal import MAGIC, NO_REPLY, Journal, JournalReader, journal_path, journals
from flashcast.errors import BusyError, EnvironmentFault, SnapshotError
from flashcast.outcomes import Outcome, Reason

ARRAYS_AT = 69_632
"""Header and list of held ranges come before."""


def made(path: Path, rows: int, *held: tuple[int, int], **facts: str) -> Journal:
    """A new journal with these ranges held, or all of it."""
    journal = Journal.create(path, rows, **facts)
    for base, count in held or ((0, rows),):
        journal.hold(base, count)
    return journal


# --- what is in it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 4_095, 4_096, 4_097, 100_000])
def test_a_new_journal_has_every_row_unsent(tmp_path: Path, rows: int) -> None:
    journal = made(tmp_path / "journal.bin", rows, launch="l1", digest="d1")
    assert journal.rows == journal.outcome.size == journal.reason.size == journal.attempts.size == rows
    assert journal.header == {"rows": rows, "launch": "l1", "digest": "d1"}
    assert not journal.outcome.any()
    assert not journal.reason.any()
    assert not journal.attempts.any()
    assert (journal.reply_ms == NO_REPLY).all()
    assert (tmp_path / "journal.bin").stat().st_size % 4_096 == 0


def test_what_is_written_is_found_again(tmp_path: Path) -> None:
    journal = made(tmp_path / "journal.bin", 5_000)
    values = np.arange(5_000)
    journal.outcome[:] = values % 6
    journal.reason[:] = values % len(Reason)
    journal.attempts[:] = values % 9
    journal.reply_ms[:] = values * 1_000
    journal.flush()
    again = JournalReader.open(tmp_path / "journal.bin")
    assert (again.outcome == values % 6).all()
    assert (again.reason == values % len(Reason)).all()
    assert (again.attempts == values % 9).all()
    assert (again.reply_ms == values * 1_000).all()


def test_only_what_is_held_takes_disk_space(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    journal = Journal.create(path, 100_000_000)
    empty = path.stat().st_blocks * 512
    assert empty < 200_000
    journal.hold(50_000_000, 65_536)
    assert 7 * 65_536 <= path.stat().st_blocks * 512 - empty < 7 * 65_536 + 100_000
    assert path.stat().st_size > 700_000_000


def test_ranges_are_told_in_the_order_in_which_they_came_and_neighbours_are_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    journal = made(path, 10_000, (5_000, 100), (0, 10), (10, 20), (9_990, 10), (5_100, 1))
    assert journal.held == JournalReader.open(path).held == [(5_000, 101), (0, 30), (9_990, 10)]
    assert journal.covers(5_050, 51)
    assert journal.covers(0, 30)
    assert not journal.covers(0, 31)
    assert not journal.covers(4_999, 2)
    assert (journal.reply_ms[5_000:5_101] == NO_REPLY).all()


def test_holding_again_changes_nothing(tmp_path: Path) -> None:
    journal = made(tmp_path / "journal.bin", 1_000, (100, 200))
    journal.outcome[150] = Outcome.ACCEPTED
    journal.hold(100, 200)
    assert journal.held == [(100, 200)]
    assert journal.outcome[150] == Outcome.ACCEPTED


def test_a_new_range_leaves_the_neighbours_rows_alone(tmp_path: Path) -> None:
    """They share pages, and lanes may be at work on them."""
    journal = made(tmp_path / "journal.bin", 30_000, (10_000, 1_001))
    for array in (journal.outcome, journal.reason, journal.attempts, journal.reply_ms):
        array[10_000:11_001] = 3
    journal.hold(11_001, 5_000)
    journal.hold(9_001, 999)
    for array in (journal.outcome, journal.reason, journal.attempts, journal.reply_ms):
        assert (array[10_000:11_001] == 3).all()
    assert not journal.outcome[11_001:16_001].any()
    assert not journal.outcome[9_001:10_000].any()


def test_ranges_that_cannot_be_shards_are_refused(tmp_path: Path) -> None:
    journal = made(tmp_path / "journal.bin", 1_000, (100, 200))
    for base, rows in ((50, 51), (299, 2), (90, 300)):
        with pytest.raises(ValueError, match="overlap"):
            journal.hold(base, rows)
    for base, rows in ((-1, 10), (900, 101)):
        with pytest.raises(ValueError, match="not in a journal of 1000"):
            journal.hold(base, rows)


def test_a_list_of_ranges_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_MAX", 3)
    journal = made(tmp_path / "journal.bin", 1_000, (0, 1), (10, 1), (20, 1))
    with pytest.raises(EnvironmentFault, match="no room for another shard"):
        journal.hold(30, 1)
    journal.hold(21, 1)
    assert journal.held == [(0, 1), (10, 1), (20, 2)]


def test_a_journal_makes_its_folder_for_its_owner_alone_and_is_found_there(tmp_path: Path) -> None:
    for worker in ("b", "a"):
        Journal.create(journal_path(tmp_path, "cup-1", worker), 10)
    folder = tmp_path / "launches" / "cup-1"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert journals(folder) == [folder / "journal-a.bin", folder / "journal-b.bin"]


# --- whose it is --------------------------------------------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from flashcast.deliver.journal import Journal
journal = Journal.create(Path(sys.argv[1]), 1_000)
journal.hold(0, 500)
journal.outcome[:10] = 1
journal.outcome[10:14] = 6
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the journal ``journal.bin``."""
    command = [sys.executable, "-c", OWNER, str(tmp_path / "journal.bin")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_killed_process_loses_nothing_and_its_rows_in_flight_become_unknown(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    owner.kill()
    assert owner.wait() == -signal.SIGKILL
    journal = Journal.reopen(tmp_path / "journal.bin")
    assert journal.held == [(0, 500)]
    assert journal.settle_interrupted() == 4
    assert np.bincount(journal.outcome).tolist() == [986, 10, 0, 0, 4]
    assert (journal.reason[10:14] == Reason.PROCESS_DIED.code).all()
    assert not journal.reason[:10].any()
    assert journal.settle_interrupted() == 0
    assert Outcome(journal.outcome[10]) is Outcome.UNKNOWN


def test_the_last_word_of_a_process_is_heard_when_it_has_ended(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    path = tmp_path / "journal.bin"
    assert JournalReader.read(path) is None, "it lives"
    owner.send_signal(signal.SIGSTOP)
    assert JournalReader.read(path) is None, "a process that is stopped may go on at any moment"
    owner.kill()
    owner.wait()
    reader = JournalReader.read(path)
    assert reader is not None
    assert reader.covers(0, 500)
    assert np.bincount(reader.outcome[:500]).tolist() == [486, 10, 0, 0, 0, 0, 4]
    with pytest.raises(BusyError):
        Journal.reopen(path)  # nobody goes on writing while it is being read
    reader.close()
    Journal.reopen(path).close()


def test_looking_without_a_lock_is_always_possible(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    path = tmp_path / "journal.bin"
    assert JournalReader.open(path).outcome[:14].tolist() == [1] * 10 + [6] * 4
    with pytest.raises(BusyError, match="still there"):
        Journal.reopen(path)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    made(tmp_path / "journal.bin", 10)
    reader = JournalReader.open(tmp_path / "journal.bin")
    with pytest.raises(ValueError, match="read-only"):
        reader.outcome[0] = 1


def test_closing_lets_go_although_views_are_left(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    journal = made(path, 10)
    view = journal.outcome
    assert JournalReader.read(path) is None
    journal.close()
    journal.close()
    reader = JournalReader.read(path)
    assert reader is not None
    reader.close()
    assert not view.any()


@pytest.mark.parametrize("content", [None, b"", b"FLASHJNL2\n", bytes(100_000)])
def test_what_is_no_journal_has_no_last_word(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "journal.bin").write_bytes(content)
    assert JournalReader.read(tmp_path / "journal.bin") is None


# --- damage -------------------------------------------------------------------------------------------


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    made(tmp_path / "journal.bin", 10).outcome[3] = 1
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path / "journal.bin", 10)
    assert JournalReader.open(tmp_path / "journal.bin").outcome[3] == 1


def test_a_missing_journal_is_told(tmp_path: Path) -> None:
    for way in (JournalReader.open, Journal.reopen):
        with pytest.raises(SnapshotError, match=r"no journal at .*\n.*never went live"):
            way(tmp_path / "journal.bin")


@pytest.mark.parametrize("left", [0, 10, 4_095])
def test_a_file_without_a_whole_header_is_no_journal(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.bin"
    Journal.create(path, 100)
    os.truncate(path, left)
    with pytest.raises(SnapshotError, match="is not a journal"):
        JournalReader.open(path)


@pytest.mark.parametrize("left", [4_096, 8_192, ARRAYS_AT + 16_383])
def test_a_journal_cut_short_is_refused_with_its_size(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.bin"
    Journal.create(path, 100)
    os.truncate(path, left)
    with pytest.raises(SnapshotError, match=f"has {left} bytes, not those of 100 rows"):
        JournalReader.open(path)


@pytest.mark.parametrize("header", [b"{", b"{}", b'{"rows":"many"}', b"[]", b"\xff"])
def test_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes((MAGIC + header).ljust(4_096) + bytes(100_000))
    with pytest.raises(SnapshotError, match="damaged header"):
        JournalReader.open(path)


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(bytes(50_000))
    with pytest.raises(SnapshotError, match="is not a journal"):
        JournalReader.open(path)


# --- a full disk --------------------------------------------------------------------------------------

FULL = """
import resource, sys
from pathlib import Path
from flashcast.deliver.journal import Journal
from flashcast.errors import EnvironmentFault
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
path = Path(sys.argv[1])
try:
    Journal.create(path, 1_000_000)
except EnvironmentFault as fault:
    print(fault, path.exists())
"""


def test_a_disk_too_small_is_told_before_the_launch_and_leaves_no_half_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    command = [sys.executable, "-c", FULL, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "no room for the journal" in told
    assert "7,081,984 bytes" in told
    assert told.strip().endswith("False")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where we may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes Linux and root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_shard_for_which_there_is_no_room_is_not_held(small_disk: Path) -> None:
    journal = Journal.create(small_disk / "journal.bin", 10_000_000)
    journal.hold(0, 65_536)
    journal.outcome[:65_536] = 1
    with pytest.raises(EnvironmentFault, match="no room for the journal") as told:
        journal.hold(65_536, 131_072)
    assert "917,504 bytes" in told.value.message
    assert "Free disk space" in told.value.remedy
    assert journal.held == [(0, 65_536)]
    assert (journal.outcome[:65_536] == 1).all()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_range_is_not_entered_before_its_space_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    journal = made(tmp_path / "journal.bin", 1_000, (0, 10))
    written = os.pwrite

    def fails(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= ARRAYS_AT + 8_192:
            raise OSError(code, os.strerror(code))
        return written(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fails)
    for base in (10, 500):
        with pytest.raises(EnvironmentFault):
            journal.hold(base, 100)
        assert journal.held == [(0, 10)]
    monkeypatch.undo()
    journal.hold(10, 100)
    assert journal.held == [(0, 110)]


def test_any_other_fault_of_the_disk_is_not_called_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="File exists") as fault:
        Journal.create(tmp_path / "file" / "journal.bin", 10)
    assert not isinstance(fault.value, EnvironmentFault)
