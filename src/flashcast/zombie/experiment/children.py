"""The experiment's processes: started by the conductor, ready when they say so, ended with their standard input."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Final

from flashcast.errors import EnvironmentFault

FILES_WANTED: Final = 4_096
"""Without zombie mode some two thousand connections wait at a time; many systems allow 256 or 1,024 files."""
READY_S_MAX: Final = 60.0
END_S_MAX: Final = 15.0


class Child:
    """A module of this package as a process. A context manager; ``ready`` is the line it printed when it was up."""

    def __init__(self, module: str, config: dict[str, Any]) -> None:
        self._name = module
        self._command = [sys.executable, "-m", f"flashcast.zombie.experiment.{module}", json.dumps(config)]
        self._process: subprocess.Popen[str] | None = None
        self.ready: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Child {self._name} {self._process.pid if self._process else 'not started'}>"

    def __enter__(self) -> Child:
        # A session of its own: Ctrl-C at the terminal ends the conductor, and its end ends the children.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self.ready = self.next_line(READY_S_MAX)
        except BaseException:
            self._kill()
            raise
        return self

    def tell(self, document: dict[str, Any]) -> None:
        """Sends a line."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def next_line(self, within_s: float) -> dict[str, Any]:
        """The next line it prints. Raises EnvironmentFault where it ends or takes longer."""
        process = self._process
        assert process is not None and process.stdout is not None
        watch = threading.Timer(within_s, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise self._ended()
        document = json.loads(line)
        assert isinstance(document, dict)
        return document

    def _ended(self) -> EnvironmentFault:
        assert self._process is not None
        self._kill()
        return EnvironmentFault(
            f"the experiment's process {self._name} ended with exit code {self._process.returncode}",
            remedy="Its last words are above, if it had any.",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            pass
        self._kill()

    def _kill(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass


# --- On the child's side --------------------------------------------------------------------------


def begin(ready: dict[str, Any]) -> None:
    """Says that this process is up, and takes as many files as it may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    say(ready)


def say(document: dict[str, Any]) -> None:
    """Prints a line for the conductor."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


async def until_stdin_ends() -> None:
    """Waits until the conductor closes this process's standard input, or is gone."""
    reader = await stdin_reader()
    while await reader.readline():
        pass


async def stdin_reader() -> asyncio.StreamReader:
    """Standard input as a stream of lines."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader
