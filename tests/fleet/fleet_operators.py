"""Operators: commands that have ended, and fingers on ENTER at terminals of their own."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet_view import DEADLINE_S
from fleet_worker import COMMAND, end_with_parent


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
        return f"exit code {self.code}\n{self.out}\n{self.err}"


class Pressing:
    """Operators at terminals of their own who have looked at the launch and have a finger on ENTER."""

    def __init__(self, engine: str, state: Path, launch: str, operators: Sequence[str]) -> None:
        self._words = ["go", launch, "--no-watch", "--engine", engine, "--state", str(state), "--json"]
        self._operators = operators
        self._running: dict[str, tuple[subprocess.Popen[str], int]] = {}
        self._asked: dict[str, threading.Event] = {}
        self._readers: list[threading.Thread] = []
        self._said: dict[str, list[str]] = {}

    def __enter__(self) -> Pressing:
        for operator in self._operators:
            terminal, theirs = os.openpty()
            process = subprocess.Popen(
                [*COMMAND, *self._words, "--operator", operator], text=True, encoding="utf-8", stdin=theirs,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip
            os.close(theirs)
            self._running[operator] = process, terminal
            self._asked[operator], self._said[operator] = threading.Event(), []
            reader = threading.Thread(target=self._read, args=(operator, process), daemon=True)
            reader.start()
            self._readers.append(reader)
        for operator, asked in self._asked.items():
            assert asked.wait(DEADLINE_S), f"{operator} was never asked:\n{''.join(self._said[operator])}"
            assert self._running[operator][0].poll() is None, f"{operator}:\n{''.join(self._said[operator])}"
        return self

    def _read(self, operator: str, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        while letter := process.stderr.read(1):  # a question has no line's end
            self._said[operator].append(letter)
            if "".join(self._said[operator][-12:]) == "(Ctrl-C: no)":
                self._asked[operator].set()
        self._asked[operator].set()

    def press_together(self) -> None:
        """ENTER, at every terminal."""
        for _, terminal in self._running.values():
            os.write(terminal, b"\n")

    def wait(self) -> dict[str, Finished]:
        """Waits for their ends."""
        ended = {}
        for operator, (process, _) in self._running.items():
            assert process.stdout is not None
            out = process.stdout.read()
            ended[operator] = Finished(process.wait(DEADLINE_S), out, "".join(self._said[operator]))
        return ended

    def __exit__(self, *_: object) -> None:
        for process, terminal in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE_S)
            os.close(terminal)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for ended, _ in self._running.values():
            for stream in (ended.stdout, ended.stderr):
                if stream is not None:
                    stream.close()
