"""The guide for mobile teams can be followed: its commands run in order, on its files, and print what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "zombie-mobile.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"(?:^`([\w.-]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MINUTES_MAX = 5

pytestmark = pytest.mark.slow


@pytest.fixture
def ports() -> list[int]:
    """Two that are free, for the guide's 8000 and 8001."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    found = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as the guide builds from: it leaves things there."""
    source, copy = ROOT / "clients" / "typescript", tmp_path / "checkout" / "clients" / "typescript"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    return tmp_path / "checkout"


def _blocks(ports: list[int]) -> Iterator[tuple[str, str, str]]:
    """File name, language and text of each block."""
    for name, language, text in BLOCKS.findall(GUIDE):
        yield name, language, text.replace("8000", str(ports[0])).replace("8001", str(ports[1]))


def test_whoever_follows_it_sees_what_it_says(
    ports: list[int], checkout: Path, tmp_path: Path, require_command: Callable[[str], str]
) -> None:
    for command in ("node", "npm", "curl", "bash"):
        require_command(command)
    folder = tmp_path / "drill"
    folder.mkdir()
    script, expected = ["set -euo pipefail"], list[str]()
    for name, language, text in _blocks(ports):
        if name:
            (folder / name).write_text(text, encoding="utf-8")
        elif language == "sh":
            script.append(text)
        elif language == "text":
            expected += text.splitlines()
    printed = _followed("\n".join(script), folder, checkout)
    assert len(expected) > 15
    rest = iter(printed.splitlines())
    for line in expected:
        assert any(line == each or (line == "shop: normal" and each.startswith(line)) for each in rest), (line, printed)


def _followed(script: str, folder: Path, checkout: Path) -> str:
    """What the commands print. What they leave running is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path, "FLASHCAST": str(checkout), "FLASHCAST_HOME": str(folder / "state"), "NO_COLOR": "1",
        "npm_config_prefer_offline": "true", "npm_config_audit": "false",
    }  # fmt: skip
    log = folder / "printed.log"
    with log.open("wb") as printed:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, stdout=printed, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            code = shell.wait(timeout=60 * MINUTES_MAX)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    if re.search("ENOTFOUND|EAI_AGAIN|ECONNREFUSED.*registry", text) and not os.environ.get("CI"):
        pytest.skip("npm's registry cannot be reached")
    assert code == 0, text
    return text


def test_every_command_and_option_it_names_is_one() -> None:
    from typer.main import get_command

    from flashcast.cli.main import app

    root = get_command(app)
    named = re.findall(r"flashcast zombie ([a-z]+)((?:[^`\n#)]|\\\n)*)", GUIDE)
    assert len(named) > 10
    zombie = root.commands["zombie"]  # type: ignore[attr-defined]
    for command, rest in named:
        found = zombie.commands[command]
        options = {option for each in found.params for option in each.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= options, (command, rest)
