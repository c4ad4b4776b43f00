"""What the acceptance tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashcast.simulator.process import SimulatorProcess


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, which every command takes unless told otherwise."""
    folder = tmp_path / "state"
    monkeypatch.setenv("FLASHCAST_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """A simulator for a module's tests; its counts grow from one to the next."""
    with SimulatorProcess(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
def realistic(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """A simulator of the test's own that answers as slowly as the real providers."""
    with SimulatorProcess(tmp_path / "realistic", "realistic", seed=5) as running:
        yield running
