"""What every test may rely on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import required


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests, and the processes they start, never see the user's launches or settings."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("FLASHCAST_")]:
            patch.delenv(name)
        patch.setenv("FLASHCAST_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def require_command() -> Callable[[str], str]:
    """Gives the path of a command. Where it is missing the test is skipped, or fails where CI is set."""
    return required
