"""Where compiled kernels go when neither the package nor the user's cache can be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

import flashcast


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(flashcast, "_can_be_written", lambda folder: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_they_go_to_a_folder_that_is_ours_alone_and_is_found_again(nowhere: Path) -> None:
    for _ in range(2):
        os.environ.pop("NUMBA_CACHE_DIR", None)
        flashcast._find_room_for_kernels()
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
        assert folder == nowhere / f"flashcast-kernels-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_is_not_trusted(nowhere: Path) -> None:
    planted = nowhere / f"flashcast-kernels-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    flashcast._find_room_for_kernels()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder != planted
    assert folder.stat().st_mode & 0o077 == 0


def test_nothing_is_changed_where_numba_finds_room_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    flashcast._find_room_for_kernels()
    assert "NUMBA_CACHE_DIR" not in os.environ
