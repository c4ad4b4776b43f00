"""Writes clients/conformance/*.json, to which every zombie client is held.

    .venv/bin/python scripts/zombie_vectors.py

What is expected stands here in figures, worked out by hand from docs/reference/zombie-client.md. Nothing is asked of
the Python client but to be held to it like any other; signing alone is borrowed. Seeds are fixed, and Ed25519 has no
randomness: the files come out the same each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from conformance.basics import buckets, ed25519, retry_after
from conformance.decisions import decisions
from conformance.documents import documents
from conformance.polls import polls
from conformance.queue import queue
from conformance.said import NOW as NOW

OUT: Final = Path(__file__).resolve().parent.parent / "clients" / "conformance"

FILES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "buckets.json": buckets,
    "decisions.json": decisions,
    "documents.json": documents,
    "ed25519.json": ed25519,
    "polls.json": polls,
    "queue.json": queue,
    "retry_after.json": retry_after,
}


def text(name: str) -> str:
    """What the file ``name`` holds."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=True) + "\n"


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        path, new = OUT / name, text(name)
        if not path.exists() or path.read_text(encoding="ascii") != new:
            path.write_text(new, encoding="ascii")
            sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
