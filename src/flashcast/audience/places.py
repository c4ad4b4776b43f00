"""A place: a folder that many machines can reach, on a disk or on object storage.

Snapshots are fetched from one, and outcomes written beside them to another. The two kinds have little in common (a disk
has renames, a store has none and needs none), so a place promises only what both can do:

- `put` makes a whole file or none; a reader never sees a part of one, and what is there under the name is replaced.
- What `put` has returned from is there for whoever looks next, and outlives any process.
- A place is flat: names have no slashes; `child` and `beside` lead to other places.

Calls block: an event loop hands them to a thread. Credentials come from where obstore finds them (the providers'
usual environment variables, files and metadata services), never from an address: addresses are recorded and shown.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from flashcast.audience.folder import is_full, sync_folder
from flashcast.audience.stores import MissingFileError as MissingFileError
from flashcast.audience.stores import open_store, translated
from flashcast.errors import EnvironmentFault, InputError

_BLOCK_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""Beginning with no dot: such files are being written."""


class Found(NamedTuple):
    """A file at a place, and its size."""

    name: str
    bytes: int


class Place(Protocol):
    """See the module's docstring. Every method may raise EnvironmentFault; `get` and `fetch` MissingFileError."""

    @property
    def url(self) -> str:
        """The absolute path or the address, without a slash at its end."""
        ...

    @property
    def local(self) -> Path | None:
        """The folder, where files can be opened in place."""
        ...

    def put(self, name: str, data: bytes | Path) -> None:
        """Writes a file, whole or not at all, from bytes or from a local file."""
        ...

    def get(self, name: str) -> bytes:
        """A file's bytes."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Copies a file into the local file ``to``, which shows a part of it until this returns."""
        ...

    def list(self, prefix: str = "") -> Sequence[Found]:
        """The files whose names begin with ``prefix``, sorted by name; none where the place is not there."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def delete(self, name: str) -> None:
        """Removes a file; one that is not there is no error."""
        ...

    def child(self, name: str) -> Place:
        """The place in this one: ``s3://b/x`` and ``y`` make ``s3://b/x/y``."""
        ...

    def beside(self, suffix: str) -> Place:
        """The place next to this one: ``s3://b/x`` and ``.y`` make ``s3://b/x.y``."""
        ...


def place(url: str | Path) -> Place:
    """The place at a path or an address. Nothing is created or reached yet.

    Raises InputError for a scheme we do not know, for secrets in the address and where obstore is not installed.
    """
    if isinstance(url, Path) or "://" not in url:
        return LocalPlace(Path(url))
    if urlsplit(url).scheme == "file":
        return LocalPlace(Path(unquote(urlsplit(url).path)))
    _check_no_secrets(url)
    store, root, path = open_store(url)
    return StorePlace(store, root, path)


def _check_no_secrets(url: str) -> None:
    parts = urlsplit(url)
    # In abfss://container@account/ the part before the @ is no secret.
    if parts.query or parts.fragment or (parts.scheme in ("http", "https") and "@" in parts.netloc):
        shown = parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InputError(
            f"{shown}: an address of a place has no user, password, query or signature",
            remedy="Addresses are recorded and shown; give credentials in the environment of each machine.",
        )


class LocalPlace:
    """A folder on a disk, or on a network share that several machines mount."""

    def __init__(self, path: Path) -> None:
        self.local: Path = path.expanduser().absolute()

    def __repr__(self) -> str:
        return f"<LocalPlace {self.local}>"

    @property
    def url(self) -> str:
        """See `Place`."""
        return str(self.local)

    def put(self, name: str, data: bytes | Path) -> None:
        """See `Place`. The file has mode 0600, a folder that is made 0700; both are flushed to the disk."""
        with self._told("write", name):
            self.local.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=self.local)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    _write(file, data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.local / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_folder(self.local)

    def get(self, name: str) -> bytes:
        """See `Place`."""
        with self._told("read", name):
            return (self.local / name).read_bytes()

    def fetch(self, name: str, to: Path) -> None:
        """See `Place`."""
        with self._told("copy", name), (self.local / name).open("rb") as source, to.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)

    def list(self, prefix: str = "") -> Sequence[Found]:
        """See `Place`."""
        try:
            entries = [e for e in os.scandir(self.local) if e.name.startswith(prefix) and e.name[0] != "."]
            return sorted(Found(e.name, e.stat().st_size) for e in entries if e.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise EnvironmentFault(f"cannot list {self.local}: {error.strerror}") from error

    def exists(self, name: str) -> bool:
        """See `Place`."""
        with self._told("look for", name):
            return (self.local / name).is_file()

    def delete(self, name: str) -> None:
        """See `Place`."""
        with self._told("delete", name):
            (self.local / name).unlink(missing_ok=True)

    def child(self, name: str) -> LocalPlace:
        """See `Place`."""
        return LocalPlace(self.local / checked_name(name))

    def beside(self, suffix: str) -> LocalPlace:
        """See `Place`."""
        return LocalPlace(self.local.with_name(f"{self.local.name}{_checked_suffix(suffix)}"))

    @contextmanager
    def _told(self, doing: str, name: str) -> Iterator[None]:
        path = self.local / checked_name(name)
        try:
            yield
        except FileNotFoundError:
            raise MissingFileError(f"{path} is missing") from None
        except OSError as error:
            full = is_full(error)
            raise EnvironmentFault(
                f"cannot {doing} {path}: {error.strerror}",
                remedy="Free disk space." if full else "Check the folder's permissions, and that it is mounted.",
                retryable=full,
            ) from error


class StorePlace:
    """A prefix of a bucket. ``store`` is one of obstore's stores, ``root`` what it is in an address."""

    local: None = None

    def __init__(self, store: Any, root: str, path: str) -> None:
        self._store = store
        self._root = root
        self._path = path.strip("/")

    def __repr__(self) -> str:
        return f"<StorePlace {self.url}>"

    @property
    def url(self) -> str:
        """See `Place`."""
        return f"{self._root}/{self._path}".rstrip("/")

    def put(self, name: str, data: bytes | Path) -> None:
        """See `Place`. Stores show an object when the whole of it is there, a large one likewise."""
        with self._told("write", name) as at:
            self._store.put(at, data)

    def get(self, name: str) -> bytes:
        """See `Place`."""
        with self._told("read", name) as at:
            return bytes(self._store.get(at).bytes())

    def fetch(self, name: str, to: Path) -> None:
        """See `Place`."""
        with self._told("fetch", name) as at, to.open("wb") as target:
            for chunk in self._store.get(at).stream(min_chunk_size=_BLOCK_BYTES):
                target.write(memoryview(chunk))

    def list(self, prefix: str = "") -> Sequence[Found]:
        """See `Place`."""
        with translated("list", self.url):
            listed = self._store.list_with_delimiter(self._path or None)["objects"]
        found = (Found(str(meta["path"]).rpartition("/")[2], int(meta["size"])) for meta in listed)
        return sorted(one for one in found if one.name.startswith(prefix) and _NAME.fullmatch(one.name))

    def exists(self, name: str) -> bool:
        """See `Place`."""
        try:
            with self._told("look for", name) as at:
                self._store.head(at)
        except MissingFileError:
            return False
        return True

    def delete(self, name: str) -> None:
        """See `Place`."""
        try:
            with self._told("delete", name) as at:
                self._store.delete(at)
        except MissingFileError:
            pass

    def child(self, name: str) -> StorePlace:
        """See `Place`."""
        return StorePlace(self._store, self._root, self._at(name))

    def beside(self, suffix: str) -> StorePlace:
        """See `Place`."""
        return StorePlace(self._store, self._root, f"{self._path}{_checked_suffix(suffix)}")

    def _at(self, name: str) -> str:
        return f"{self._path}/{checked_name(name)}".lstrip("/")

    @contextmanager
    def _told(self, doing: str, name: str) -> Iterator[str]:
        at = self._at(name)
        with translated(doing, f"{self._root}/{at}"):
            yield at


def checked_name(name: str) -> str:
    """``name``, or InputError where it could lead out of a place."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a file: letters, digits, _, - and dots, the first no - or dot")
    return name


def _checked_suffix(suffix: str) -> str:
    if not _NAME.fullmatch(f"_{suffix}"):
        raise InputError(f"{suffix!r} is no ending for a name: letters, digits, _, - and dots")
    return suffix


def _write(file: Any, data: bytes | Path) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            shutil.copyfileobj(source, file, _BLOCK_BYTES)
    else:
        file.write(data)
