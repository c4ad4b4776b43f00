"""The state folder: where launches are kept, and the lock that lets one process launch at a time.

<state>/                      mode 0700: snapshots hold device tokens
  lock                        held with flock while a launch runs; says who holds it
  launches/<id>/              launch.json snapshot/ journal-local.bin facts.json
                              report.json report.html outcomes.parquet prune.csv
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import platformdirs

from flashcast.clock import Clock
from flashcast.errors import BusyError, EnvironmentFault, InputError

HOME_VARIABLE: Final = "FLASHCAST_HOME"
_ALPHABET: Final = "23456789abcdefghjkmnpqrstvwxyz"
"""Without 0, o, 1, i, l and u: an id is read aloud in an emergency and spells no word."""
_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,79}")
_ID_TRIES_MAX: Final = 100
"""Ids tried for a new launch. 30^4 = 810,000 suffixes per second: a second try is already rare."""


def default_state_path() -> Path:
    """FLASHCAST_HOME where it is set and not empty, else the platform's folder for a user's data."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir("flashcast", appauthor=False))


class StateFolder:
    """One state folder. Nothing is created before the first launch or lock."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_state_path() if path is None else path

    def __repr__(self) -> str:
        return f"<StateFolder {self.path} launches={len(self.launches())}>"

    @property
    def launches_path(self) -> Path:
        return self.path / "launches"

    def launches(self) -> list[str]:
        """The ids of all launches, oldest first (an id begins with its time)."""
        try:
            folders = (entry.name for entry in self.launches_path.iterdir() if entry.is_dir())
            return sorted(name for name in folders if _ID.fullmatch(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _fault(self.launches_path, error) from error

    def launch_folder(self, launch: str) -> Path:
        """The folder of a launch, whether or not it exists. Raises InputError for what cannot be an id."""
        if not _ID.fullmatch(launch):
            raise InputError(
                f"launch {launch!r} is not a launch id",
                remedy="An id looks like 20261122-161530-k3f9; `flashcast report --list` shows them.",
            )
        return self.launches_path / launch

    def find(self, launch: str | None = None) -> Path:
        """The folder of ``launch``, or of the latest. Raises InputError where there is none."""
        known = self.launches()
        if launch is None:
            if not known:
                raise InputError(
                    f"there is no launch in {self.path}",
                    remedy="Run `flashcast demo` or `flashcast launch`, or name another folder "
                    f"with --state or {HOME_VARIABLE}.",
                )
            return self.launch_folder(known[-1])
        folder = self.launch_folder(launch)
        if launch not in known:
            raise InputError(
                f"there is no launch {launch} in {self.path}",
                remedy="`flashcast report --list` shows which there are.",
            )
        return folder

    def create_launch(self, clock: Clock, rng: random.Random) -> Path:
        """Makes the folder of a new launch; its name is the id.

        Raises EnvironmentFault where it cannot be made.
        """
        self._make()
        for _ in range(_ID_TRIES_MAX):
            folder = self.launches_path / new_launch_id(clock, rng)
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                continue
            except OSError as error:
                raise _fault(folder, error) from error
            return folder
        raise EnvironmentFault(
            f"{_ID_TRIES_MAX} new launch ids in {self.launches_path} were all taken", retryable=True
        )

    @contextmanager
    def lock(self, purpose: str = "") -> Iterator[None]:
        """Holds the folder for one launch; ``purpose`` is its id, told to whoever finds the folder held.

        The kernel drops the lock when the process ends, however it ends. Raises BusyError where another
        process holds it.
        """
        self._make()
        path = self.path / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _fault(path, error) from error
        try:
            self._acquire(descriptor, path)
            holder = json.dumps({"pid": os.getpid(), "launch": purpose}).encode()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)
            try:
                yield
            finally:
                # Emptied before it is let go: a later holder that has not written yet must not show our name.
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise _fault(path, error) from error
            pid, launch = _holder(descriptor)
            who = f"process {pid}" if pid else "another process"
            what = f" with launch {launch}" if launch else ""
            raise BusyError(
                f"the state folder {self.path} is held by {who}{what}",
                remedy=f"Wait for it to end, press Ctrl-C in it{f' (or: kill {pid})' if pid else ''}, "
                "or use another folder with --state.",
                retryable=True,
            ) from None

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.launches_path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _fault(self.launches_path, error) from error


def new_launch_id(clock: Clock, rng: random.Random) -> str:
    """An id that sorts by time and can be typed: ``20261122-161530-k3f9``, in UTC."""
    moment = datetime.fromtimestamp(clock.time(), UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{''.join(rng.choices(_ALPHABET, k=4))}"


def _holder(descriptor: int) -> tuple[int | None, str]:
    """Who wrote the lock file. The holder may not have written yet, so anything may be missing."""
    try:
        told = json.loads(os.pread(descriptor, 4_096, 0))
        return int(told["pid"]), str(told["launch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, ""


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"cannot use the state folder: {path}: {error.strerror or error}",
        remedy=f"Free the disk or the permission, or name another folder with --state or {HOME_VARIABLE}.",
    )
