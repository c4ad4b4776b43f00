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
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from flashcast.audience.files import MAGIC
from flashcast.audience.stores import MissingFileError, open_store, translated
from flashcast.errors import AudienceError, InputError

_CHUNK_BYTES: Final = 8 << 20


def fetch_url(url: str, cache: Path | None = None) -> Sequence[Path]:
    """The objects that ``url`` names, as local files sorted by name.

    The URL may end in a glob or in ``/``, which takes everything below. Raises AudienceError for a scheme we do not
    know, for nothing found and where obstore is not installed; EnvironmentFault where the store does not answer.
    """
    try:
        store, root, pattern = open_store(url)
    except InputError as error:
        raise AudienceError(error.message, remedy=error.remedy) from None
    return fetch(store, root, pattern, cache or default_cache())


def default_cache() -> Path:
    """Where fetched objects are kept: the user's cache folder for flashcast."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flashcast")) / "audience"


def fetch(store: Any, root: str, pattern: str, cache: Path) -> Sequence[Path]:
    """Fetches the store's objects that match ``pattern`` into ``cache``; see `fetch_url`."""
    url = f"{root}/{pattern}"
    nothing = AudienceError(f"no object at {url}", remedy="Check the bucket, the path and the pattern.")
    try:
        with translated("fetch", url):
            found = _matching(store, pattern)
            if not found:
                raise nothing
            return [_fetch_one(store, root, meta, cache) for meta in found]
    except MissingFileError:
        raise nothing from None


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
