"""manifest.json: what a snapshot is, in one file whose digest stands for all of it.

The digest is SHA-256 over the manifest without the digest, as canonical JSON (sorted keys, no spaces, UTF-8). The
manifest names the SHA-256 of every file beside it, so the digest covers every byte of the snapshot. It holds no path
and no time: sealing the same audience twice gives the same digest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flashcast.errors import EnvironmentFault, SnapshotError
from flashcast.model import Provider, UnknownPolicy

MANIFEST: Final = "manifest.json"
FORMAT: Final = "flashcast snapshot 1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFacts(_Part):
    """A file of the snapshot: its name in the folder, rows, bytes and SHA-256."""

    file: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardFacts(FileFacts):
    """A shard: whose rows, and the number of its first row in the snapshot."""

    provider: Provider
    base: int = Field(ge=0)


class FieldFacts(_Part):
    """A personalised column and what stood in where it was empty."""

    column: str
    fallback: str


class Counts(_Part):
    """read = kept + everything dropped. ``dropped`` is by reason, reasons that dropped no row left out."""

    read: int = Field(ge=0)
    kept: dict[Provider, int]
    dropped: dict[str, int]


class Options(_Part):
    """What was asked of sealing and cannot be seen from the rows."""

    holdout: float = 0.0
    one_device_per_user: bool = False
    prefer: str | None = None
    limit: int | None = None


class Manifest(_Part):
    """The whole of manifest.json. ``templates`` are what `template_to_json` made: what was sealed is sent."""

    format: Literal["flashcast snapshot 1"] = FORMAT
    digest: str = Field("", pattern="^([0-9a-f]{64})?$")
    name: str
    window_s: float
    unknown_policy: UnknownPolicy
    pace: dict[Provider, float]
    fields: tuple[FieldFacts, ...]
    templates: dict[Provider, tuple[dict[str, Any], ...]]
    options: Options
    counts: Counts
    shards: tuple[ShardFacts, ...]
    dropped: FileFacts

    def computed_digest(self) -> str:
        """What `digest` must be."""
        document = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def sealed(self) -> Manifest:
        """This manifest with its digest filled in."""
        return self.model_copy(update={"digest": self.computed_digest()})

    def to_bytes(self) -> bytes:
        """The file's bytes: JSON for people to read, keys sorted, one trailing newline."""
        document = self.model_dump(mode="json")
        return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def summary(self) -> dict[str, Any]:
        """What `flashcast seal --json` prints: everything but the templates and the list of shards."""
        document = self.model_dump(mode="json", exclude={"templates", "shards"})
        document["devices"] = sum(self.counts.kept.values())
        document["shards"] = len(self.shards)
        document["bytes"] = sum(shard.bytes for shard in self.shards)
        return document


def read_manifest(folder: Path) -> Manifest:
    """Reads manifest.json and checks it against its own digest. Raises SnapshotError."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotError(
            f"{folder} is not a snapshot: it has no {MANIFEST}", remedy="Give the folder that flashcast seal wrote."
        ) from None
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error
    return parse_manifest(raw, str(path))


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """The manifest in ``raw``, checked against its own digest. Raises SnapshotError, which names it ``where``."""
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the document"
        raise SnapshotError(f"{where} cannot be read: {field}: {fault['msg']}", remedy=_REMEDY) from None
    # Comparing the bytes too refuses an edit that parsing forgives: a space, a key given twice.
    if manifest.digest != manifest.computed_digest() or manifest.to_bytes() != raw:
        raise SnapshotError(f"{where} does not match its digest: it was changed after sealing", remedy=_REMEDY)
    return manifest


_REMEDY: Final = "Seal the audience again, or restore the folder from where it was copied."
