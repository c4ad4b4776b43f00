"""A full disk while sealing: told with figures, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from audience_data import BOTH, campaign

from flashcast.audience.seal import seal
from flashcast.audience.snapshot import open_snapshot
from flashcast.audience.source import AudienceSource
from flashcast.audience.synthetic import write_synthetic
from flashcast.errors import EnvironmentFault, ExitCode

PROGRAM = """
import json, resource, sys
from pathlib import Path
from flashcast.audience.seal import SealOptions, seal
from flashcast.campaign.load import parse_campaign
from flashcast.errors import FlashcastError
audience, out, limit, shard_rows = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    seal(parse_campaign(sys.stdin.buffer.read()), audience, Path(out), SealOptions(shard_rows=int(shard_rows)))
except FlashcastError as error:
    print(json.dumps([type(error).__name__, int(error.exit_code), error.message, error.remedy]))
"""


@pytest.fixture
def audience(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "audience.parquet", 60_000, 0.5, 1)
    return tmp_path / "audience.parquet"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where we may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes Linux and root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this container may not mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def seal_limited(audience: Path, out: Path, limit: int, shard_rows: int) -> bytes:
    """What a process says that may write no file longer than ``limit`` bytes."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(audience), str(out), str(limit), str(shard_rows)],
        input=BOTH.encode(), capture_output=True, check=True,
    ).stdout  # fmt: skip


def test_files_under_the_limit_are_written(tmp_path: Path, audience: Path) -> None:
    # 2,048 rows of at most 200 bytes, and room for the user ids to start on a page of their own.
    assert seal_limited(audience, tmp_path / "out", 600_000, 2_048) == b""
    open_snapshot(tmp_path / "out").close()


@pytest.mark.parametrize(("limit", "shard_rows"), [(1_000_000, 65_536), (1_000, 65_536), (200_000, 4_096)])
def test_a_file_size_limit_is_told_as_a_full_disk(
    tmp_path: Path, audience: Path, limit: int, shard_rows: int
) -> None:
    out = tmp_path / "snapshots" / "out"
    kind, code, message, remedy = json.loads(seal_limited(audience, out, limit, shard_rows))
    assert (kind, code) == ("EnvironmentFault", ExitCode.ENVIRONMENT)
    assert str(out) in message
    assert "bytes are needed" in message
    assert "Nothing was left behind" in remedy
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_is_told_with_what_is_needed_and_leaves_nothing(small_disk: Path, audience: Path) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"No space left on device after .* rows; .* bytes are needed, .* are free"
    ) as caught:
        seal(campaign(), audience, small_disk / "out")
    assert str(small_disk / "out") in caught.value.message
    told = re.search(r"about ([\d,]+) bytes are needed, ([\d,]+) are free", caught.value.message)
    assert told is not None
    needed = int(told[1].replace(",", ""))
    # 60,000 rows: tokens of 64 and about 152 characters in equal parts, and some 40 bytes beside each.
    assert 6_000_000 < needed < 12_000_000
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_sorting_is_told_too(small_disk: Path, audience: Path) -> None:
    with pytest.raises(EnvironmentFault):
        seal(campaign(), AudienceSource(str(audience), sql="SELECT * FROM audience"), small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, audience: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot write beside"):
        seal(campaign(), audience, tmp_path / "file" / "out")
