"""The examples and the first steps of the documentation do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


def flashcast(*args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flashcast", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_campaign_is_without_fault(example: Path) -> None:
    alone = flashcast("check", example)
    assert alone.returncode == 0, alone.stderr
    with_rows = flashcast("check", example, "--audience", ROOT / "examples" / "devices.csv")
    assert with_rows.returncode == 0, with_rows.stderr


def test_the_comments_in_the_examples_name_commands_that_work() -> None:
    for example in EXAMPLES:
        for command in re.findall(r"flashcast (check .+)", example.read_text()):
            assert flashcast(*command.split()).returncode == 0, command


def test_the_first_campaign_of_the_docs_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHCAST_HOME", str(tmp_path / "state"))
    text = (ROOT / "docs" / "start.md").read_text()
    (campaign,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (table,) = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    (tmp_path / "hello.toml").write_text(campaign)
    (tmp_path / "devices.csv").write_text(table)
    commands = re.findall(r"^    flashcast ((?:check|launch) hello\.toml[^#\n]*)", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        yes = ["--yes"] if command.startswith("launch") else []
        done = flashcast(*command.split(), *yes, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    sealed = re.search(r"`flashcast (seal hello\.toml[^`]*)`", text)
    assert sealed is not None
    assert flashcast(*sealed.group(1).split(), cwd=tmp_path).returncode == 0
    assert flashcast("launch", "hello.snapshot", "--yes", cwd=tmp_path).returncode == 0
