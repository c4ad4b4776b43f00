"""The engine of one machine: SQLite in a folder that any number of processes open at once.

    <folder>/            mode 0700
      durable.db         WAL, synchronous=FULL: a write has returned when it is on the disk
      volatile.db        WAL, synchronous=OFF: emptied by whoever opens the folder while nobody else has it open
      open.lock          held with flock, shared, by every open engine
      watchers/          a Unix datagram socket for each engine and space that watches (doorbell.py)

A space is a file (sqlite_file.py) and the thread that alone touches it (sqlite_space.py). Two threads and not one: a
commit that waits for the disk, or for another process, must not hold up heartbeats.

What is left out: `fork` after opening, which SQLite does not survive; and calls from any event loop but the one that
opened the engine.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from flashcast.engine.base import EngineUnavailable
from flashcast.engine.sqlite_file import LOCK_PAUSE_S, LOCK_WAIT_S_MAX
from flashcast.engine.sqlite_space import Space
from flashcast.errors import EnvironmentFault

_MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
_NETWORK_FILE_SYSTEMS: Final = ("9p", "afs", "ceph", "cifs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3", "smbfs")


class EmbeddedEngine:
    """See the module's docstring. An Engine on ``folder``, which is made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.warnings: tuple[str, ...] = ()
        self._lock: int | None = None
        self._spaces: tuple[Space, Space] | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedEngine {self.folder} {'open' if self._lock is not None else 'closed'}>"

    @property
    def address(self) -> str:
        return f"embedded:{self.folder}"

    @property
    def durable(self) -> Space:
        return self._space(0)

    @property
    def volatile(self) -> Space:
        return self._space(1)

    def _space(self, index: int) -> Space:
        if self._spaces is None:
            raise EngineUnavailable("the engine is not open")
        return self._spaces[index]

    async def __aenter__(self) -> EmbeddedEngine:
        """Opens the folder. Raises EnvironmentFault, with what to do about it."""
        if self._spaces is not None:
            raise RuntimeError("an engine is opened once")
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._enter)
            self._spaces = Space(self.folder, "durable", synced=True), Space(self.folder, "volatile", synced=False)
            await asyncio.gather(*(space.open() for space in self._spaces))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.close()

    async def close(self) -> None:
        for space in self._spaces or ():
            await space.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _enter(self) -> None:
        """Makes the folder and takes its lock; empties the volatile space where nobody else has it open."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "watchers").mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.folder / "open.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                # With synchronous=OFF a power cut may have damaged it, and its writers write it again.
                for name in ("volatile.db", "volatile.db-wal", "volatile.db-shm"):
                    (self.folder / name).unlink(missing_ok=True)
            self._share()
        except OSError as error:
            raise EnvironmentFault(
                f"cannot use the engine's folder {self.folder}: {error.strerror or error}",
                remedy="Free the disk or the permission, or name another folder with --engine embedded:DIR.",
            ) from error
        self.warnings = _warnings(self.folder)

    def _share(self) -> None:
        """Waits for the shared lock: another process holds it alone only while it empties the volatile space."""
        assert self._lock is not None
        until = time.monotonic() + LOCK_WAIT_S_MAX
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EngineUnavailable(
                        f"another process has held {self.folder / 'open.lock'} for {LOCK_WAIT_S_MAX:g} s",
                        remedy="Look for a Flashcast process that is stopped (state T in ps), and continue or kill it.",
                    ) from None
            time.sleep(LOCK_PAUSE_S[1])


def _warnings(folder: Path) -> tuple[str, ...]:
    """Where the folder's file system keeps less than a disk would. Linux only: elsewhere nothing is known."""
    kind = _file_system(folder) if sys.platform == "linux" else ""
    if kind in _MEMORY_FILE_SYSTEMS:
        return (f"{folder} lies in memory ({kind}): campaigns and launches are lost with power. Use a disk.",)
    if kind in _NETWORK_FILE_SYSTEMS:
        told = "whose locks do not hold between machines and which may lose what it said it had written"
        return (f"{folder} lies on a network file system ({kind}), {told}. Use a local disk, or NATS for a fleet.",)
    return ()


def _file_system(folder: Path) -> str:
    """The type of the file system with the longest mount point above ``folder``; see proc_pid_mountinfo(5)."""
    best, kind = "", ""
    with suppress(OSError):
        real = f"{folder.resolve()}/"
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            # Spaces in a mount point stand as \040; such a one is not found, which costs a warning.
            point = f"{before.split()[4].rstrip('/')}/"
            if real.startswith(point) and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return kind
