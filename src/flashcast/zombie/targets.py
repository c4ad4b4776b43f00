"""Where documents are published: a directory behind a web server, or a prefix of a bucket behind a CDN.

Both promise what publishing needs:

- `write` shows the whole file or none; readers see the old or the new one, whenever the writer is killed.
- `write` is a compare-and-swap against what `read` returned: a directory by a lock on it, object storage by If-Match
  and If-None-Match. A store that knows neither is written to all the same, and `write` says so.

Credentials come from where obstore finds them (the providers' usual environment variables, files and metadata
services), never from an address: addresses are shown.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from flashcast.errors import BusyError, EnvironmentFault, FlashcastError, InputError
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX

CONTENT_TYPE: Final = "application/json"
CACHE_CONTROL: Final = "public, max-age=10, stale-while-revalidate=10, stale-if-error=86400, no-transform"
"""What caches are told.

max-age=10                  With 10 million apps polling once a minute a CDN gets 170,000 requests a second, and its
                            hundred edges ask the bucket ten times a second together. It delays a change by 10 s, which
                            is less than the poll interval does.
stale-while-revalidate=10   For 10 s more an edge answers at once while it asks behind the reader's back: nobody waits
                            for a slow bucket. After that it asks first: an edge nobody used tells no old tales.
stale-if-error=86400        A bucket that is down leaves the last document in force. It cannot prolong an incident: the
                            document carries its own end, under the signature.
no-transform                Nothing between us and the app rewrites it. (It would do no harm: see envelope.py.)

A web server in front of a directory must be told itself; docs/reference/zombie-document.md has the lines.
"""
SCHEMES: Final = ("s3", "s3a", "gs", "az", "abfs", "abfss")
LOCK_NAME: Final = ".flashcast-zombie.lock"
_TEMPORARY: Final = re.compile(r"\.[a-z0-9.-]+\.json\.[A-Za-z0-9_]+\.tmp")
_RETRIES: Final[dict[str, Any]] = {"max_retries": 4, "retry_timeout": timedelta(seconds=15)}
"""An operator in a hurry is better told after 15 s that the bucket does not answer than after obstore's 180."""
_REMEDY: Final = "Check the network, the credentials in the environment, and the region."


class SwappedError(BusyError):
    """What is there is not what was read: somebody else has written since."""


class Stored(NamedTuple):
    """A file's bytes, and the tag by which `Target.write` knows them again."""

    data: bytes
    tag: Any


class Target(Protocol):
    """See the module's docstring. Methods raise EnvironmentFault where disk, network or permissions fail."""

    parallel: int
    """How many files may be written at one time."""

    @property
    def url(self) -> str:
        """The absolute path or the address, without a slash at its end."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keeps other publishers out where the target can. Raises BusyError where another is at work."""
        ...

    def read(self, name: str) -> Stored | None:
        """A file, or None where there is none. A file larger than any document is cut one byte above."""
        ...

    def write(self, name: str, data: bytes, over: Stored | None) -> bool:
        """Puts ``data`` in the place of ``over`` (None: where no file was).

        Returns whether the target made sure of it. Raises SwappedError where something else is there.
        """
        ...


def open_target(url: str | Path) -> Target:
    """The target at a path or an address. Nothing is created or reached yet.

    Raises InputError for a scheme that is not known, for secrets in an address, and where obstore is not installed.
    """
    if isinstance(url, Path) or "://" not in url:
        return DirectoryTarget(Path(url))
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DirectoryTarget(Path(unquote(parts.path)))
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{parts.scheme}:// is no place to publish to", remedy=f"Known: a directory, {known}.")
    if parts.query or parts.fragment:
        raise InputError(
            f"{parts._replace(query='', fragment='').geturl()}: an address to publish to has no query or signature",
            remedy="Give credentials in the environment.",
        )
    try:
        from obstore.store import from_url
    except ImportError:
        raise InputError(
            f"{url} is on object storage, and obstore is not installed", remedy='pip install "flashcast[objectstore]"'
        ) from None
    root = f"{parts.scheme}://{parts.netloc}"
    try:
        store = from_url(root, retry_config=_RETRIES)
    except Exception as error:  # noqa: BLE001 - obstore's errors share no documented root
        raise InputError(f"{root} cannot be opened: {_told(error)}") from None
    return StoreTarget(store, root, unquote(parts.path).strip("/"))


class DirectoryTarget:
    """A directory that a web server serves. Its files get mode 0644, so that the server can read them."""

    parallel = 1

    def __init__(self, path: Path) -> None:
        try:
            self._path = path.expanduser().absolute()
        except RuntimeError as error:  # ~user, where there is no such user
            raise InputError(f"{path}: {error}", remedy="Name a directory.") from None

    def __repr__(self) -> str:
        return f"<DirectoryTarget {self._path}>"

    @property
    def url(self) -> str:
        """See `Target`."""
        return str(self._path)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Target`. The lock is the kernel's: it ends with its process, however that ends."""
        with self._told("lock"):
            self._path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"somebody else is publishing to {self._path}", remedy="Look what they did, then try again."
                ) from None
            with self._told("clean"):
                self._sweep()
            yield
        finally:
            os.close(descriptor)

    def read(self, name: str) -> Stored | None:
        """See `Target`."""
        with self._told(f"read {name} in"):
            try:
                with (self._path / name).open("rb") as file:
                    data = file.read(ENVELOPE_BYTES_MAX + 1)
            except FileNotFoundError:
                return None
        return Stored(data, None)

    def write(self, name: str, data: bytes, over: Stored | None) -> bool:
        """See `Target`. Only within `exclusive`; the bytes are compared all the same, for those who do not lock."""
        found = self.read(name)
        if (found and found.data) != (over and over.data):
            raise SwappedError(f"{self._path / name} has changed under our hands")
        path = self._path / name
        with self._told(f"write {name} in"):
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=self._path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.utime(file.fileno(), (when := _later_than(path), when))
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _sync(self._path)
        return True

    def names(self) -> list[str]:
        """The names of the files here, in order; none where there is no directory. For repair."""
        with self._told("list"):
            try:
                return sorted(entry.name for entry in os.scandir(self._path) if entry.is_file())
            except FileNotFoundError:
                return []

    def _sweep(self) -> None:
        # Of publishers that were killed: nobody else is at work while we hold the lock.
        for entry in os.scandir(self._path):
            if _TEMPORARY.fullmatch(entry.name):
                Path(entry.path).unlink(missing_ok=True)

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentFault(
                f"cannot {doing} {self._path}: {error.strerror}",
                remedy="Check the directory's permissions and the room on its disk.",
            ) from error


def _later_than(path: Path) -> float:
    """A time of modification in another second than the file's that is replaced.

    nginx makes an ETag of the second and the size: two documents of one size within one second would have the same, and
    a client that asks with it would be told 304 and keep the older.
    """
    try:
        return max(float(int(time.time())), float(int(path.stat().st_mtime) + 1))
    except FileNotFoundError:
        return float(int(time.time()))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StoreTarget:
    """A prefix of a bucket. An object is there as a whole or not at all, by the stores' own promise."""

    parallel = 16

    def __init__(self, store: Any, root: str, path: str) -> None:
        self._store = store
        self._root = root
        self._path = path

    def __repr__(self) -> str:
        return f"<StoreTarget {self.url}>"

    @property
    def url(self) -> str:
        """See `Target`."""
        return f"{self._root}/{self._path}".rstrip("/")

    def exclusive(self) -> AbstractContextManager[None]:
        """See `Target`. Buckets have no locks; `write` compares."""
        return nullcontext()

    def read(self, name: str) -> Stored | None:
        """See `Target`."""
        with self._told("read", name) as at:
            try:
                got = self._store.get(at)
                if got.meta["size"] > ENVELOPE_BYTES_MAX:
                    data = bytes(self._store.get_range(at, start=0, length=ENVELOPE_BYTES_MAX + 1))
                else:
                    data = bytes(got.bytes())
            except FileNotFoundError:
                return None
        # Of the two S3 and Azure compare the one, Google the other.
        return Stored(data, {name: got.meta[name] for name in ("e_tag", "version") if got.meta[name] is not None})

    def write(self, name: str, data: bytes, over: Stored | None) -> bool:
        """See `Target`. One put, so one request: there is nothing to be half done."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        attributes = {"Content-Type": CONTENT_TYPE, "Cache-Control": CACHE_CONTROL}
        mode = "create" if over is None else over.tag or "overwrite"
        with self._told("write", name) as at:
            try:
                self._store.put(at, data, attributes=attributes, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                # A put that was repeated after a lost answer meets its own first half.
                if (found := self.read(name)) is not None and found.data == data:
                    return True
                raise SwappedError(f"{self.url}/{name} was written by somebody else meanwhile") from None
            except Exception as error:
                if not isinstance(error, NotSupportedError | NotImplementedError) and "NotImplemented" not in str(
                    error
                ):
                    raise
                self._store.put(at, data, attributes=attributes)
                return False
        return mode != "overwrite"

    def names(self) -> list[str]:
        """As a directory's: the objects directly below the prefix."""
        prefix = f"{self._path}/" if self._path else ""
        with self._told("list", ""):
            listed = self._store.list_with_delimiter(self._path or None)["objects"]
            return sorted(one["path"].removeprefix(prefix) for one in listed)

    @contextmanager
    def _told(self, doing: str, name: str) -> Iterator[str]:
        at = f"{self._path}/{name}".lstrip("/")
        try:
            yield at
        except FlashcastError:
            raise
        except Exception as error:  # noqa: BLE001 - obstore's errors share no documented root
            raise EnvironmentFault(
                f"cannot {doing} {self._root}/{at}: {_told(error)}", remedy=_REMEDY, retryable=True
            ) from None


def _told(error: Exception) -> str:
    """The first line of a foreign error, without query strings, which may carry signatures."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\?[^\s\"']+", "", text)[:300]
