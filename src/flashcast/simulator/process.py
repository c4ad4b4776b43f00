"""A simulator beside the caller: as a process of its own, or in a thread of this one.

A process for everything that is measured, so that sender and simulator have a core each; a thread for tests
that want to look inside.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from flashcast.errors import ConfigError, EnvironmentFault, ExitCode, FlashcastError
from flashcast.model import Provider
from flashcast.simulator.configuration import write_config
from flashcast.simulator.ledger import LedgerCounts, load_ledger
from flashcast.simulator.profile import Profile, load_profile
from flashcast.simulator.server import Options, Simulator, compile_kernels

READY_DEADLINE_S: Final = 120.0
"""Kernels are compiled before the ready line: some 10 s on a quiet machine, once."""
STOP_DEADLINE_S: Final = 30.0
STDERR_KEPT: Final = 100
"""Lines of the process's stderr kept for an error message."""


class SimulatorProcess:
    """`flashcast simulate` as a child process; a context manager.

    ``folder`` takes its credentials, flashcast.toml and ledger. ``profile`` is a built-in's name or a TOML file.
    ``expected`` devices make room in the ledger beforehand. The child ends with its parent: it watches its
    standard input. Raises the error the child reported, or EnvironmentFault carrying its stderr.
    """

    def __init__(
        self,
        folder: Path,
        profile: str | Path = "ideal",
        seed: int = 0,
        providers: Sequence[Provider] = (Provider.APNS, Provider.FCM),
        *,
        expected: int = 0,
        quiet: bool = True,
    ) -> None:
        self.folder = folder
        self.ready: dict[str, Any] = {}
        """The ready line: addresses, paths, profile."""
        self._ledger = folder / "ledger.npz"
        self._quiet = quiet
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []
        self._threads: list[threading.Thread] = []
        self._command = [
            sys.executable, "-m", "flashcast", "simulate", "--json", "--end-with-stdin", "--profile", str(profile),
            "--seed", str(seed), "--dir", str(folder), "--ledger", str(self._ledger), "--expected", str(expected),
            *(option for provider in providers for option in ("--only", provider.value)),
        ]  # fmt: skip

    def __repr__(self) -> str:
        state = "not started" if self._process is None else f"pid {self._process.pid}"
        return f"<SimulatorProcess {state}, {self.folder}>"

    @property
    def config_path(self) -> Path:
        """The sender's flashcast.toml."""
        return Path(str(self.ready["config"]))

    def start(self) -> SimulatorProcess:
        """Starts the process and waits for its ready line."""
        try:
            # A session of its own: Ctrl-C at the terminal is for the sender, whose last replies come from here.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise EnvironmentFault(f"cannot start the simulator: {error.strerror}") from error
        for stream, target in (
            (self._process.stdout, self._read_stdout),
            (self._process.stderr, self._read_stderr),
        ):
            thread = threading.Thread(target=target, args=(stream,), daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            self.ready = self._next_line(READY_DEADLINE_S)
        except BaseException:
            self._kill()
            raise
        return self

    def counts(self) -> dict[str, Any]:
        """The books as they stand while it runs: what `LedgerCounts.as_dict` has."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write("counts\n")
        process.stdin.flush()
        return self._next_line(STOP_DEADLINE_S)

    def stop(self) -> LedgerCounts:
        """Ends the process in order and reads the ledger it wrote."""
        process = self._running()
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            raise EnvironmentFault(f"the simulator did not end within {STOP_DEADLINE_S:g} s") from None
        self._close()
        if process.returncode != 0:
            raise EnvironmentFault(
                f"the simulator ended with exit code {process.returncode}{self._last_words()}"
            )
        return load_ledger(self._ledger)

    def __enter__(self) -> SimulatorProcess:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_DEADLINE_S)
        self._kill()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise EnvironmentFault("the simulator was not started")
        return self._process

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def _read_stdout(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self, stream: IO[str]) -> None:
        for line in stream:
            self._stderr.append(line)
            del self._stderr[:-STDERR_KEPT]
            if not self._quiet:
                sys.stderr.write(line)

    def _last_words(self) -> str:
        text = "".join(self._stderr).strip()
        return f":\n{text}" if text else ""

    def _next_line(self, deadline_s: float) -> dict[str, Any]:
        text = ""
        while True:
            try:
                line = self._lines.get(timeout=deadline_s)
            except queue.Empty:
                raise EnvironmentFault(
                    f"the simulator said nothing for {deadline_s:g} s{self._last_words()}"
                ) from None
            if line is None:
                code = self._running().wait()
                for thread in self._threads:
                    thread.join()
                raise EnvironmentFault(f"the simulator ended with exit code {code}{self._last_words()}")
            text += line
            try:
                document: dict[str, Any] = json.loads(text)
                break
            except ValueError:
                continue  # an error comes as a document of several lines
        if "error" in document:
            raise _told(document["error"], self._running().wait())
        return document


def _told(error: dict[str, str], code: int) -> FlashcastError:
    kind = ConfigError if code == ExitCode.USAGE else EnvironmentFault
    return kind(f"simulator: {error['message']}", remedy=error.get("remedy", ""))


@contextmanager
def serve_in_thread(
    folder: Path,
    profile: str | Path | Profile = "ideal",
    seed: int = 0,
    providers: Sequence[Provider] = (Provider.APNS, Provider.FCM),
) -> Iterator[InProcessSimulator]:
    """A running simulator on free ports, in a thread of this process, until the block ends."""
    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    compile_kernels()
    simulator = Simulator(Options(chosen, folder, seed, providers=tuple(providers)))
    running = InProcessSimulator(simulator)
    try:
        yield running
    finally:
        running.close()


class InProcessSimulator:
    """A simulator in a thread. `counts` may be read while it runs; the figures are exact once clients are done."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        try:
            self.addresses = simulator.open()
            assert simulator.credentials is not None
            self.credentials = simulator.credentials
            self.config_path = write_config(simulator.options, self.addresses, self.credentials)
        except BaseException:
            simulator.close()
            raise
        self._thread = threading.Thread(target=simulator.run, name="simulator", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<InProcessSimulator {self.simulator!r}>"

    def counts(self) -> LedgerCounts:
        """The books as they stand."""
        return self.simulator.counts()

    def close(self) -> None:
        """Stops the thread and frees the sockets."""
        self.simulator.stop()
        self._thread.join()
        self.simulator.close()
