"""The scripts: they parse, can be run from anywhere, and prepare the environment once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*(ROOT / "scripts" / name for name in ("demo", "test", "check", "bench")), ROOT / ".ci" / "run"]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/setup.py, looking at a repository in ``tmp_path`` and installing by writing a line."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_an_environment_is_ready_until_what_it_depends_on_changes(setup: ModuleType) -> None:
    assert not setup.is_ready("dev")
    setup.stamp("dev").write_text(setup.wanted())
    assert setup.is_ready("dev")
    assert setup.is_ready("run"), "what tests need includes what runs"
    (setup.ROOT / "pyproject.toml").write_text("[project]\ndependencies = ['more']\n")
    assert not setup.is_ready("dev")


def test_what_runs_is_not_enough_for_tests(setup: ModuleType) -> None:
    setup.stamp("run").write_text(setup.wanted())
    assert setup.is_ready("run")
    assert not setup.is_ready("dev")


def test_an_environment_whose_python_is_gone_is_not_ready(setup: ModuleType) -> None:
    setup.stamp("dev").write_text(setup.wanted())
    setup.PYTHON.unlink()
    assert not setup.is_ready("dev")


def test_a_missing_command_is_named_where_it_cannot_be_installed() -> None:
    # A PATH without apt-get stands for another system.
    code = f"source {ROOT}/scripts/lib.sh; PATH={ROOT}/scripts; id() {{ echo 1000; }}; need no-such-command"
    told = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
    assert "Not found: no-such-command." in told.stderr
