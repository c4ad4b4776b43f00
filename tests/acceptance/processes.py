"""Real processes for the acceptance tests: commands, terminals, and conditions to wait for."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flashcast.audience.synthetic import write_synthetic
from flashcast.deliver.journal import JournalReader, combined, journals

DEADLINE_S = 120.0
"""For any one command: the first on a machine compiles kernels for some 30 s, and other tests may be running."""
COMMAND = (sys.executable, "-m", "flashcast")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which must be one JSON document."""
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed

    @property
    def told(self) -> str:
        """Everything it said."""
        return self.out + self.err


def flashcast(
    *args: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Finished:
    """Runs one command to its end, without a terminal or input."""
    return Running(*args, cwd=cwd, env=env, before=before).wait()


class Running:
    """A command that goes on; a session of its own, so that a signal to it is for it alone."""

    def __init__(
        self,
        *args: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, args)], cwd=cwd, env={**os.environ, **(env or {})}, text=True, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=before,
        )  # fmt: skip
        self.err_lines: list[str] = []
        self._out = ""
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        self._out = self.process.stdout.read()

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self.err_lines.extend(self.process.stderr)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> Finished:
        """Waits for its end."""
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for reader in self._readers:
                reader.join(DEADLINE_S)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        return Finished(self.process.returncode, self._out, "".join(self.err_lines))


class OnTerminal:
    """A command at a terminal: what it writes is read, and keys can be pressed."""

    def __init__(self, *args: object, cwd: Path | None = None) -> None:
        self.text = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            if cwd is not None:
                os.chdir(cwd)
            os.execv(COMMAND[0], [*COMMAND, *map(str, args)])

    def read_until(self, text: str) -> None:
        """Reads until ``text`` has appeared."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} never came:\n{self.text}"
            assert self._read(), f"it ended without {text!r}:\n{self.text}"

    def press(self, keys: bytes) -> None:
        """Types ``keys``."""
        os.write(self._terminal, keys)

    def wait(self) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read():
            assert time.monotonic() < deadline, f"it did not end:\n{self.text}"
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 1.0)[0]:
            return True
        try:
            piece = os.read(self._terminal, 65_536)
        except OSError:  # Linux: the other end is closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)


def eventually(condition: Callable[[], Any], running: Running | None = None) -> Any:
    """Waits until ``condition`` holds and returns what it gave; fails when ``running`` ends before."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never came true"
        if running is not None and running.process.poll() is not None:
            raise AssertionError(f"it ended too early: {running.wait()}")
        pause.wait(0.01)
    return value


def devices(path: Path, rows: int, apns_share: float = 0.5, seed: int = 1) -> list[str]:
    """Writes a table of devices and returns their tokens in order."""
    write_synthetic(path, rows, apns_share, seed)
    return [str(token) for token in pq.read_table(path, columns=["token"]).column("token").to_pylist()]


CAMPAIGN = """\
name = "acceptance"
{top}
[apns]
topic = "com.example.app"
alert.title = "Kick-off"
alert.body = "The match begins now."
{apns}

[fcm]
notification.title = "Kick-off"
notification.body = "The match begins now."
{fcm}
"""


def campaign(path: Path, *, pace: int | None = None, top: str = "", apns: str = "", fcm: str = "") -> Path:
    """Writes a campaign for both providers, each held to ``pace`` messages a second."""
    if pace is not None:
        top += f"\npace.apns = {pace}\npace.fcm = {pace}"
    path.write_text(CAMPAIGN.format(top=top, apns=apns, fcm=fcm), encoding="utf-8")
    return path


def launches(state: Path) -> list[Path]:
    """The folders of all launches in a state folder."""
    folder = state / "launches"
    return sorted(folder.iterdir()) if folder.exists() else []


def outcomes_in_journal(state: Path) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """The outcome bytes of the only launch's journals as they are now; None while there is none."""
    found = [path for folder in launches(state) for path in journals(folder)]
    if not found or (found[0].parent / "launch.json").read_text().find('"live"') < 0:
        return None
    known = combined([JournalReader.open(path) for path in found])
    outcomes: np.ndarray[Any, np.dtype[np.uint8]] = known.outcome.copy()
    return outcomes


def balanced(document: Mapping[str, Any]) -> bool:
    """Whether every device is in exactly one outcome, and whatever was compared agreed."""
    return sum(document["outcomes"].values()) == document["devices"] and bool(document["balanced"])
