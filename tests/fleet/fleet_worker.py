"""A `flashcast worker` as a process that can be killed, stopped and asked to go; and what its journal says."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fleet_view import DEADLINE_S

from flashcast.deliver.journal import JournalReader, journal_path
from flashcast.outcomes import Outcome

COMMAND = (sys.executable, "-m", "flashcast")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Runs in a new process: it is killed when the tests are, however they end. Elsewhere than on Linux it is not."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class Journalled:
    """What a worker's journal said of the rows it held, at one moment."""

    accepted: int
    in_flight: int
    unsent: int
    settled: int
    """Neither unsent nor in flight."""


class Worker:
    """A `flashcast worker` process. ``name`` is its id in the engine."""

    def __init__(
        self, engine: str, state: Path, given: str, *options: object, before: Callable[[], None] = end_with_parent,
        for_people: bool = False,
    ) -> None:  # fmt: skip
        """``given`` is what it is called; ``before`` runs in the new process before it becomes a worker.

        ``for_people`` has it speak to people, on standard error, and leaves ``events`` empty.
        """
        self.state = state
        self.process = subprocess.Popen(
            [*COMMAND, "worker", "--engine", engine, "--state", str(state), "--name", given,
             *([] if for_people else ["--json"]), *map(str, options)],
            env={**os.environ, "FLASHCAST_HOME": str(state)}, text=True, encoding="utf-8", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=before,
        )  # fmt: skip
        self.name = f"{given}-{self.process.pid}"
        self.events: list[dict[str, Any]] = []
        self.err_lines: list[str] = []
        self._told = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __repr__(self) -> str:
        return f"<Worker {self.name}, {'running' if self.running else f'ended {self.process.returncode}'}>"

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._told:
                self.events.append(json.loads(line))
                self._told.notify_all()
        with self._told:
            self._told.notify_all()

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.err_lines.append(line)
                self._told.notify_all()

    @property
    def running(self) -> bool:
        """Whether the process is there, stopped or not."""
        return self.process.poll() is None

    def until_ready(self) -> Worker:
        """Waits until it says that it serves."""
        deadline = time.monotonic() + DEADLINE_S
        with self._told:
            while not any(event["event"] == "ready" for event in self.events):
                assert self.running, f"{self.name} ended: {self.process.returncode}\n{''.join(self.err_lines)}"
                assert time.monotonic() < deadline, f"{self.name} is not ready\n{''.join(self.err_lines)}"
                self._told.wait(0.1)
        return self

    def until_said(self, text: str) -> str:
        """Waits until a line on standard error has ``text`` in it; returns the line."""
        deadline = time.monotonic() + DEADLINE_S
        with self._told:
            while not (found := [line for line in self.err_lines if text in line]):
                assert self.running, f"{self.name} ended: {self.process.returncode}\n{''.join(self.err_lines)}"
                assert time.monotonic() < deadline, f"{self.name} never said {text!r}\n{''.join(self.err_lines)}"
                self._told.wait(0.1)
        return found[0]

    def kill(self) -> float:
        """kill -9, and the moment of it (monotonic seconds). When it returns the process is gone."""
        at = time.monotonic()
        self.process.kill()
        self.process.wait(DEADLINE_S)
        return at

    def stop(self) -> float:
        """SIGSTOP: it lives and does nothing. Returns the moment of it."""
        at = time.monotonic()
        os.kill(self.process.pid, signal.SIGSTOP)
        return at

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> int:
        """SIGTERM, and its exit code once it has left in order."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def journal(self, launch: str) -> Journalled:
        """What its journal says now, whether it lives or not."""
        path = journal_path(self.state, launch, self.name)
        reader = JournalReader.open(path)
        try:
            counts = np.zeros(len(Outcome), np.int64)
            for base, rows in reader.held:
                counts += np.bincount(reader.outcome[base : base + rows], minlength=len(Outcome))
        finally:
            reader.close()
        unsent, in_flight = int(counts[Outcome.UNSENT]), int(counts[Outcome.IN_FLIGHT])
        return Journalled(int(counts[Outcome.ACCEPTED]), in_flight, unsent, int(counts.sum()) - unsent - in_flight)

    def close(self) -> None:
        """Ends it however it stands."""
        if self.running:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
