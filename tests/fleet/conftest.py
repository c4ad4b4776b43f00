"""Engines, machines and disks for the tests of whole fleets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_processes import Fleet

from nats_servers import NatsServer


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """What `--engine` says: a folder's, or a nats-server's of the test's own."""
    if request.param == "embedded":
        yield f"embedded:{tmp_path / 'engine'}"
        return
    with NatsServer(tmp_path / "nats") as server:
        yield server.url


@pytest.fixture
def fleet(engine: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet without workers yet."""
    with Fleet(tmp_path / "fleet", engine) as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 KB: a journal's head fits, which takes 72 KB, and no shard's rows."""
    yield from _disk(tmp_path / "small", 80 * 1024)


@pytest.fixture
def medium_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB: room for some shards' rows."""
    yield from _disk(tmp_path / "medium", 2 * 1024 * 1024)


def _disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "flashcast-test", str(folder)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here, which takes root: {getattr(error, 'stderr', error)}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
