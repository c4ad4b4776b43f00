"""The journal: what is written into it is there after the process is gone, and a damaged one is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flashcast.deliver.journal import MAGIC, NO_REPLY, Journal
from flashcast.errors import EnvironmentFault, SnapshotError
from flashcast.outcomes import Outcome, Reason


@pytest.mark.parametrize("rows", [0, 1, 4_095, 4_096, 4_097, 100_000])
def test_a_new_journal_has_every_row_unsent(tmp_path: Path, rows: int) -> None:
    journal = Journal.create(tmp_path / "journal.bin", rows, launch="l1", digest="d1")
    assert journal.rows == journal.outcome.size == journal.reason.size == journal.attempts.size == rows
    assert journal.header == {"rows": rows, "launch": "l1", "digest": "d1"}
    assert not journal.outcome.any()
    assert not journal.reason.any()
    assert not journal.attempts.any()
    assert (journal.reply_ms == NO_REPLY).all()
    assert (tmp_path / "journal.bin").stat().st_size % 4_096 == 0


def test_what_is_written_is_found_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.bin", 5_000)
    values = np.arange(5_000)
    journal.outcome[:] = values % 6
    journal.reason[:] = values % len(Reason)
    journal.attempts[:] = values % 9
    journal.reply_ms[:] = values * 1_000
    journal.flush()
    again = Journal.open(tmp_path / "journal.bin")
    assert (again.outcome == values % 6).all()
    assert (again.reason == values % len(Reason)).all()
    assert (again.attempts == values % 9).all()
    assert (again.reply_ms == values * 1_000).all()


WRITER = """
import os, signal, sys
from pathlib import Path
from flashcast.deliver.journal import Journal
journal = Journal.create(Path(sys.argv[1]), 1_000)
journal.outcome[:10] = 1
journal.outcome[10:14] = 6
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_and_its_rows_in_flight_become_unknown(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    process = subprocess.run([sys.executable, "-c", WRITER, str(path)], timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    journal = Journal.open(path)
    assert journal.settle_interrupted() == 4
    assert np.bincount(journal.outcome).tolist() == [986, 10, 0, 0, 4]
    assert (journal.reason[10:14] == Reason.PROCESS_DIED.code).all()
    assert not journal.reason[:10].any()
    assert journal.settle_interrupted() == 0
    assert Outcome(journal.outcome[10]) is Outcome.UNKNOWN


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    Journal.create(tmp_path / "journal.bin", 10)
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path / "journal.bin", 10)


def test_a_missing_journal_is_told(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"no journal at .*\n.*never went live"):
        Journal.open(tmp_path / "journal.bin")


@pytest.mark.parametrize("left", [0, 10, 4_095])
def test_a_file_without_a_whole_header_is_no_journal(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.bin"
    Journal.create(path, 100)
    os.truncate(path, left)
    with pytest.raises(SnapshotError, match="is not a journal"):
        Journal.open(path)


@pytest.mark.parametrize("left", [4_096, 8_192, 20_479])
def test_a_journal_cut_short_is_refused_with_its_size(tmp_path: Path, left: int) -> None:
    path = tmp_path / "journal.bin"
    Journal.create(path, 100)
    os.truncate(path, left)
    with pytest.raises(SnapshotError, match=f"has {left} bytes, not those of 100 rows"):
        Journal.open(path)


@pytest.mark.parametrize("header", [b"{", b"{}", b'{"rows":"many"}', b"[]", b"\xff"])
def test_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes((MAGIC + header).ljust(4_096) + bytes(16_384))
    with pytest.raises(SnapshotError, match="damaged header"):
        Journal.open(path)


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(bytes(50_000))
    with pytest.raises(SnapshotError, match="is not a journal"):
        Journal.open(path)


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


def test_a_full_disk_is_told_before_the_launch_and_leaves_no_half_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    command = [sys.executable, "-c", FULL, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "no room for the journal" in told
    assert "7,016,448 bytes" in told
    assert told.strip().endswith("False")


def test_any_other_fault_of_the_disk_is_not_called_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory") as fault:
        Journal.create(tmp_path / "nowhere" / "journal.bin", 10)
    assert not isinstance(fault.value, EnvironmentFault)
