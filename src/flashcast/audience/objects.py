"""Objects on S3, Google Cloud Storage and Azure, fetched into a local cache.

Sealing reads an audience more than once (schemas, footers, joins), so objects are brought here whole. The cache key is
the address and the object's ETag: what has not changed is not fetched again, and what has replaces what it was.
Credentials are found as obstore finds them: the providers' usual environment variables, files and metadata services.
The files hold device tokens, so the cache can be read by its owner only.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from flashcast.audience.files import MAGIC
from flashcast.errors import AudienceError, EnvironmentFault

SCHEMES: Final = ("s3", "s3a", "gs", "az", "abfs", "abfss", "https", "http")
_CHUNK_BYTES: Final = 8 << 20


def fetch_url(url: str, cache: Path | None = None) -> Sequence[Path]:
    """The objects that ``url`` names, as local files sorted by name.

    The URL may end in a glob or in ``/``, which takes everything below. Raises AudienceError for a scheme we do not
    know, for nothing found and where obstore is not installed; EnvironmentFault where the store does not answer.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise AudienceError(
            f"{url}: unknown scheme {scheme}://", remedy=f"Known: {', '.join(f'{s}://' for s in SCHEMES)}."
        )
    try:
        from obstore.store import from_url
    except ImportError:
        raise AudienceError(
            f"{url} is on object storage, and obstore is not installed",
            remedy='pip install "flashcast[objectstore]", or fetch the file yourself.',
        ) from None
    root, pattern = split_url(url)
    try:
        store = from_url(root)
    except Exception as error:  # noqa: BLE001 - obstore's errors share no documented root
        raise AudienceError(f"{url} cannot be opened: {_told(error)}") from None
    return fetch(store, root, pattern, cache or default_cache())


def default_cache() -> Path:
    """Where fetched objects are kept: the user's cache folder for flashcast."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flashcast")) / "audience"


def split_url(url: str) -> tuple[str, str]:
    """``s3://bucket/a/b-*.parquet`` is the root ``s3://bucket`` and the pattern ``a/b-*.parquet``."""
    root, slashes, rest = url.partition("://")
    host, _, pattern = rest.partition("/")
    return f"{root}{slashes}{host}", pattern


def fetch(store: Any, root: str, pattern: str, cache: Path) -> Sequence[Path]:
    """Fetches the store's objects that match ``pattern`` into ``cache``; see `fetch_url`."""
    url = f"{root}/{pattern}"
    try:
        found = _matching(store, pattern)
        if not found:
            raise AudienceError(f"no object at {url}", remedy="Check the bucket, the path and the pattern.")
        return [_fetch_one(store, root, meta, cache) for meta in found]
    except (AudienceError, EnvironmentFault):
        raise
    except FileNotFoundError:
        raise AudienceError(f"no object at {url}", remedy="Check the bucket, the path and the pattern.") from None
    except OSError as error:
        if error.errno is not None:
            raise EnvironmentFault(
                f"cannot keep {url} in {cache}: {error.strerror}", remedy="Free some disk space."
            ) from error
        raise EnvironmentFault(f"cannot fetch {url}: {_told(error)}", remedy=_REMEDY, retryable=True) from error
    except Exception as error:
        # obstore's errors share no documented root.
        raise EnvironmentFault(f"cannot fetch {url}: {_told(error)}", remedy=_REMEDY, retryable=True) from error


_REMEDY: Final = "Check the network, the credentials in the environment and the region."


def _matching(store: Any, pattern: str) -> list[Any]:
    if not MAGIC.search(pattern) and pattern and not pattern.endswith("/"):
        return [store.head(pattern)]
    fixed = MAGIC.split(pattern, maxsplit=1)[0]
    folder = fixed.rpartition("/")[0]
    wanted = pattern if MAGIC.search(pattern) else f"{pattern}*"
    listed = [meta for batch in store.list(folder or None) for meta in batch]
    return sorted(
        (m for m in listed if fnmatch.fnmatchcase(m["path"], wanted) and m["size"]), key=lambda m: m["path"]
    )


def _fetch_one(store: Any, root: str, meta: Any, cache: Path) -> Path:
    address = hashlib.sha256(f"{root}/{meta['path']}".encode()).hexdigest()[:24]
    version = hashlib.sha256(f"{meta.get('e_tag')} {meta['last_modified']} {meta['size']}".encode()).hexdigest()[:16]
    folder = cache / address
    target = folder / version / Path(meta["path"]).name
    if target.exists() and target.stat().st_size == meta["size"]:
        return target
    shutil.rmtree(folder, ignore_errors=True)
    target.parent.mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in store.get(meta["path"]).stream(min_chunk_size=_CHUNK_BYTES):
            file.write(memoryview(chunk))
    Path(name).replace(target)
    return target


def _told(error: Exception) -> str:
    """The first line of a foreign error, without URLs' query strings, which may carry signatures."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\?[^\s\"']+", "", text)[:300]
