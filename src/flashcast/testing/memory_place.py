"""A place in memory (audience/places.py), for the outcome files of a simulation, which the checker reads afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flashcast.audience.places import Found, MissingFileError
from flashcast.errors import EnvironmentFault


class MemoryFiles:
    """Every file of a simulation by its address, and when it was last written."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.now_ns = now_ns
        self.files: dict[str, bytes] = {}
        self.written_ns: dict[str, int] = {}
        self.full = False
        """Whether nothing can be written for now."""


class MemoryPlace:
    """A folder of `MemoryFiles`."""

    def __init__(self, store: MemoryFiles, url: str) -> None:
        self._store = store
        self.url = url

    def __repr__(self) -> str:
        return f"<MemoryPlace {self.url}>"

    @property
    def local(self) -> Path | None:
        """None: nothing here can be opened in place."""
        return None

    def put(self, name: str, data: bytes | Path) -> None:
        """See `Place`."""
        if self._store.full:
            raise EnvironmentFault(f"cannot write {self.url}/{name}: simulated", retryable=True)
        address = f"{self.url}/{name}"
        self._store.files[address] = data.read_bytes() if isinstance(data, Path) else bytes(data)
        self._store.written_ns[address] = self._store.now_ns()

    def get(self, name: str) -> bytes:
        """See `Place`."""
        try:
            return self._store.files[f"{self.url}/{name}"]
        except KeyError:
            raise MissingFileError(f"there is no {self.url}/{name}") from None

    def fetch(self, name: str, to: Path) -> None:
        """See `Place`."""
        to.write_bytes(self.get(name))

    def list(self, prefix: str = "") -> Sequence[Found]:
        """See `Place`."""
        start = f"{self.url}/"
        names = sorted(address.removeprefix(start) for address in self._store.files if address.startswith(start))
        return [
            Found(name, len(self._store.files[start + name]))
            for name in names
            if name.startswith(prefix) and "/" not in name
        ]

    def exists(self, name: str) -> bool:
        """See `Place`."""
        return f"{self.url}/{name}" in self._store.files

    def delete(self, name: str) -> None:
        """See `Place`."""
        self._store.files.pop(f"{self.url}/{name}", None)

    def child(self, name: str) -> MemoryPlace:
        """See `Place`."""
        return MemoryPlace(self._store, f"{self.url}/{name}")

    def beside(self, suffix: str) -> MemoryPlace:
        """See `Place`."""
        return MemoryPlace(self._store, f"{self.url}{suffix}")
