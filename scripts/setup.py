"""Makes .venv ready for the other scripts: `python3 scripts/setup.py run|dev`.

Standard library only, since it runs before anything is installed. It does nothing, in milliseconds, when
the environment is as pyproject.toml asks; it may be run by several processes at once.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
EXTRAS = {"run": "", "dev": "[dev]"}


def wanted() -> str:
    """What an installation depends on: the requirements, the place (it is editable) and the interpreter."""
    return f"{ROOT}\n{(ROOT / 'pyproject.toml').read_text(encoding='utf-8')}"


def stamp(kind: str) -> Path:
    return VENV / f".installed-{kind}"


def is_ready(kind: str) -> bool:
    # What tests need includes what runs.
    kinds = ("run", "dev") if kind == "run" else ("dev",)
    return runs() and any(stamp(k).exists() and stamp(k).read_text(encoding="utf-8") == wanted() for k in kinds)


def runs() -> bool:
    """Whether the environment's Python starts: not after its base was removed or the folder was copied."""
    try:
        return subprocess.run([PYTHON, "-c", ""], check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def install(kind: str) -> None:
    if not runs():
        print(f"Making {VENV} with Python {platform.python_version()}", file=sys.stderr)
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True, symlinks=True)
    print(f"Installing flashcast{EXTRAS[kind]} into {VENV}; this happens once", file=sys.stderr)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--editable"]
    subprocess.run([*pip, f"{ROOT}{EXTRAS[kind]}"], check=True, stdout=sys.stderr)
    stamp(kind).write_text(wanted(), encoding="utf-8")


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in EXTRAS:
        print("usage: setup.py run|dev", file=sys.stderr)
        return 2
    if is_ready(kind):
        return 0
    # Two scripts started at once: the second waits, then finds everything done. The kernel drops the lock
    # when its holder ends, however it ends.
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(kind):
            try:
                install(kind)
            except subprocess.CalledProcessError as error:
                print("Installing failed; see above. Is the network there?", file=sys.stderr)
                return error.returncode or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
