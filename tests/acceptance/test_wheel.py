"""What is published as a wheel: everything that the package needs is in it, and it works outside of the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import flashcast
from flashcast.cli.main import run
assert flashcast.__file__.startswith(sys.path[0]), flashcast.__file__
run()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made as a release makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), *options, "--wheel-dir", str(folder)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """The wheel's files where nothing of the repository is."""
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def flashcast(unpacked: Path, *words: object) -> str:
    """What a command of the wheel prints."""
    words = (sys.executable, "-c", RUN, str(unpacked), *map(str, words))
    environment = os.environ | {"FLASHCAST_HOME": str(unpacked.parent / "home")}
    done = subprocess.run(
        [str(word) for word in words], cwd=unpacked.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel_and_no_other(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / "flashcast").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".nbi", ".nbc")
    }
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {Path(name).suffix for name in packed} > {".py", ".lua", ".css", ".toml"}


def test_the_wheel_says_what_it_is(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert "flashcast = flashcast.cli.main:run" in (info / "entry_points.txt").read_text(encoding="utf-8")
    assert (info / "licenses" / "LICENSE").is_file()
    extras = {line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")}
    assert {"objectstore", "serve", "testing"} <= extras


def test_zombie_mode_works_from_the_wheel_alone(unpacked: Path) -> None:
    folder = unpacked.parent
    (folder / "routing.toml").write_text('app = "shop"\nidentify = ["header:x-user-id"]\nroutes = [{path = "/**"}]\n')
    assert flashcast(unpacked, "--version").startswith("flashcast ")
    public = flashcast(unpacked, "zombie", "keys", "new", "key.pem").strip()
    told = flashcast(unpacked, "zombie", "on", "-t", "site", "--app", "shop", "--key", "key.pem", "--json")
    assert json.loads(told)["level"] == "zombie"
    for server, part in (("nginx", "map $"), ("envoy", "local function bucket_of(salt, user)")):
        text = flashcast(
            unpacked, "zombie", server, "--document", "site", "--routing", "routing.toml", "--trust", public
        )
        assert part in text
