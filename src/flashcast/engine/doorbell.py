"""Tells the other processes on a machine that something was written, so that none of them has to look again and again.

Every listener binds a Unix datagram socket in one folder; whoever has written sends a byte to each of them. A byte that
finds the receiver's queue full is not missed: that receiver has one to read already, and looks after reading it. A
byte may be lost all the same (a socket that could not be made), so listeners look by themselves now and then.

The name of a socket has at most 103 bytes (macOS; 107 on Linux), which folders exceed. Such a folder is addressed
through a short symbolic link that each process makes for itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

ADDRESS_BYTES_MAX: Final = 103
_DRAINED_MAX: Final = 1_024
"""Bytes read before looking: more than a receiver's queue holds."""


class Doorbell:
    """Rings at, and listens for, one ``space`` in ``folder``. For one thread."""

    def __init__(self, folder: Path, space: str) -> None:
        self._folder = folder
        self._space = space
        self._alias: Path | None = None
        self._name = f"{space}-{os.getpid()}-{secrets.token_hex(4)}"
        self._sender: socket.socket | None = None
        self._receiver: socket.socket | None = None

    def __repr__(self) -> str:
        return f"<Doorbell {self._name} {'listening' if self._receiver else 'silent'}>"

    def listen(self) -> socket.socket | None:
        """The socket that becomes readable when somebody rings; None where the folder's file system has no sockets."""
        if self._receiver is None:
            receiver = None
            try:
                receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                receiver.setblocking(False)
                receiver.bind(self._address(self._name))
            except OSError:
                if receiver is not None:
                    receiver.close()
                return None
            self._receiver = receiver
        return self._receiver

    def drain(self) -> None:
        """Reads what has been rung so far."""
        for _ in range(_DRAINED_MAX):
            try:
                if self._receiver is None or not self._receiver.recv(16):
                    return
            except OSError:
                return

    def ring(self) -> None:
        """Wakes every listener but this one."""
        try:
            names = [name for name in os.listdir(self._folder) if name.startswith(f"{self._space}-")]  # noqa: PTH208
        except OSError:
            return
        for name in names:
            if name != self._name:
                self._ring(name)

    def _ring(self, name: str) -> None:
        try:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            self._sender.sendto(b"!", self._address(name))
        except ConnectionRefusedError:
            # Its process is dead; names are never used twice.
            with suppress(OSError):
                (self._folder / name).unlink()
        except OSError:
            pass  # its queue is full, or it is gone

    def close(self) -> None:
        """Stops listening and leaves nothing behind."""
        for end in (self._sender, self._receiver):
            if end is not None:
                end.close()
        if self._receiver is not None:
            with suppress(OSError):
                (self._folder / self._name).unlink()
        self._sender = self._receiver = None
        if self._alias is not None:
            shutil.rmtree(self._alias, ignore_errors=True)
            self._alias = None

    def _address(self, name: str) -> str:
        direct = str(self._folder / name)
        if self._alias is None:
            if len(os.fsencode(direct)) <= ADDRESS_BYTES_MAX:
                return direct
            # TMPDIR may be long as well.
            short = tempfile.gettempdir() if len(tempfile.gettempdir()) < ADDRESS_BYTES_MAX // 2 else "/tmp"
            alias = Path(tempfile.mkdtemp(prefix="flashcast-", dir=short))
            (alias / "w").symlink_to(self._folder.absolute())
            self._alias = alias
        return str(self._alias / "w" / name)
