"""Where a server reads the document: from a web address as apps do, a directory, or a bucket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flashcast.errors import EnvironmentFault
from flashcast.zombie import keys
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, urllib_transport
from flashcast.zombie.document import Document, Refusal, RefusedError, file_name
from flashcast.zombie.envelope import open_sealed
from flashcast.zombie.keys import PublicKey
from flashcast.zombie.targets import Target, open_target


def transport_of(source: str | Path) -> tuple[str, Transport]:
    """The address below which documents lie, and what fetches them.

    Raises InputError for a scheme that is not known, and where a bucket is named and obstore is not installed.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return source.rstrip("/"), urllib_transport
    target = open_target(source)
    return target.url, _reading(target)


def read_document(source: str | Path, app: str, trusted: Sequence[PublicKey | str]) -> Document | None:
    """The app's document as it is at ``source``, None where there is none. Times are not looked at.

    ``source`` is a directory, an address or a bucket as publishers and clients name them, or a document's own file
    there (its name ends in `.json`). Raises RefusedError where it is not genuine or another app's, EnvironmentFault
    where it cannot be read, InputError where ``source`` or a key is wrong.
    """
    text = str(source)
    folder, _, name = text.rpartition("/") if text.endswith(".json") else (text, "", file_name(app))
    believed = keys.trusted(trusted)
    base, fetch = transport_of((folder or ".") if "://" in folder else Path(folder or ("/" if text[0] == "/" else ".")))
    answer = fetch(HttpRequest("GET", f"{base}/{name}", response_bytes_max=ENVELOPE_BYTES_MAX + 1))
    if answer.status in (404, 410):
        return None
    if answer.status != 200:
        raise EnvironmentFault(f"{base}/{name} answers {answer.status}", retryable=True)
    document = open_sealed(answer.body, believed).document
    if document.app != app:
        raise RefusedError(Refusal.WRONG_APP, f"{base}/{name} is for {document.app}, not for {app}")
    if document.cohort is not None:
        raise RefusedError(
            Refusal.WRONG_COHORT,
            f"{base}/{name} is for one cohort",
            remedy=f"Name the app's document, {file_name(app)}: it has what is needed for all of them.",
        )
    return document


def write_if_changed(path: Path, text: str) -> bool:
    """Writes a generated file as a whole, by renaming, and only where it differs. Returns whether it did.

    What watches the file (Envoy) or is told to read it again (nginx) is left in peace while nothing changes.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from None
    replace_file(path, text.encode())
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Puts ``data`` in the place of a file, whole or not at all. Raises EnvironmentFault."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror}") from None


def _reading(target: Target) -> Transport:
    def read(request: HttpRequest) -> HttpResponse:
        stored = target.read(request.url.rpartition("/")[2])
        return HttpResponse(404) if stored is None else HttpResponse(200, {}, stored.data)

    return read
