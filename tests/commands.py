"""Other people's commands that tests start."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def required(command: str) -> str:
    """The path of a command. Where it is missing the test is skipped, or fails where CI is set."""
    # Wheels put theirs beside Python; Debian keeps nghttpd in /usr/sbin, which is not on everybody's PATH.
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")
    path = shutil.which(command, path=os.pathsep.join(places))
    if path is not None:
        return path
    told = f"{command} is not installed; scripts/test installs what tests need, on Debian when run as root"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
