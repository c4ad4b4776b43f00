"""Object storage: what an address means, and what goes wrong there in our words. For places and for audiences.

Credentials are found as obstore finds them: the providers' usual environment variables, files and metadata services.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from flashcast.errors import EnvironmentFault, FlashcastError, InputError

SCHEMES: Final = ("s3", "s3a", "gs", "az", "abfs", "abfss", "https", "http")
_RETRIES: Final[dict[str, Any]] = {"max_retries": 6, "retry_timeout": timedelta(seconds=20)}
"""obstore's own 180 s would hold up a take-over; whoever calls repeats what is worth repeating."""
_REMEDY: Final = "Check the network, the credentials in the environment and the region."


class MissingFileError(EnvironmentFault):
    """There is no file of this name at a place."""


def split_url(url: str) -> tuple[str, str]:
    """``s3://bucket/a/b-*.parquet`` is the root ``s3://bucket`` and the path ``a/b-*.parquet``."""
    root, slashes, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{root}{slashes}{host}", path


def open_store(url: str) -> tuple[Any, str, str]:
    """obstore's store for an address, the address's root, and the path in it. Nothing is reached yet.

    Raises InputError for a scheme we do not know, where obstore is not installed, and for an address it refuses.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise InputError(f"{url}: unknown scheme {scheme}://", remedy=f"Known: {known}.")
    try:
        from obstore.store import from_url
    except ImportError:
        raise InputError(
            f"{url} is on object storage, and obstore is not installed",
            remedy='pip install "flashcast[objectstore]", or copy the files yourself.',
        ) from None
    root, path = split_url(url)
    try:
        return from_url(root, retry_config=_RETRIES), root, path
    except Exception as error:  # noqa: BLE001 - obstore's errors share no documented root
        raise InputError(f"{url} cannot be opened: {told(error)}") from None


@contextmanager
def translated(doing: str, what: str) -> Iterator[None]:
    """Turns what obstore, or a disk beside it, raises while ``doing`` something with ``what`` into our errors.

    Raises MissingFileError where there is no such object, else EnvironmentFault.
    """
    try:
        yield
    except FlashcastError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{what} is missing") from None
    except OSError as error:
        if error.errno is not None:
            raise EnvironmentFault(
                f"cannot {doing} {what}: {error.filename or 'disk'}: {error.strerror}", remedy="Free some disk space."
            ) from error
        raise EnvironmentFault(f"cannot {doing} {what}: {told(error)}", remedy=_REMEDY, retryable=True) from None
    except Exception as error:  # noqa: BLE001 - obstore's errors share no documented root
        raise EnvironmentFault(f"cannot {doing} {what}: {told(error)}", remedy=_REMEDY, retryable=True) from None


def told(error: Exception) -> str:
    """The first line of a foreign error, without URLs' query strings, which may carry signatures."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\?[^\s\"']+", "", text)[:300]
