"""Flashcast sends a push notification to millions of phones within seconds of a person pressing GO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashcast.sender import ApnsConfig, FcmConfig, Message, Outcomes, Sender

__version__ = "0.1.0"

__all__ = ["ApnsConfig", "FcmConfig", "Message", "Outcomes", "Sender", "__version__"]


def __getattr__(name: str) -> Any:
    # The compiled kernels take half a second to load; `flashcast --help` must not pay for them.
    if name in __all__:
        from flashcast import sender

        return getattr(sender, name)
    raise AttributeError(f"module 'flashcast' has no attribute {name!r}")


def _find_room_for_kernels() -> None:
    """Names a folder for compiled kernels where numba would find none, and so not even start.

    Its own choices are beside the source and in the user's cache; a container may have neither. Machine code is
    loaded from there, so the folder must be ours alone.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache"), "numba")  # noqa: PTH111
    if "NUMBA_CACHE_DIR" in os.environ or any(map(_can_be_written, (Path(__file__).parent, home))):
        return
    import tempfile

    folder = Path(tempfile.gettempdir(), f"flashcast-kernels-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        told = folder.lstat()
        private = told.st_uid == os.getuid() and not told.st_mode & 0o077 and folder.is_dir()
        os.environ["NUMBA_CACHE_DIR"] = str(folder) if private else tempfile.mkdtemp(prefix="flashcast-kernels-")
    except OSError:
        pass  # nothing can be written anywhere; numba will say so


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


_find_room_for_kernels()
