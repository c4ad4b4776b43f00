"""What the tests of zombie mode are made of."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from flashcast.zombie.document import Document, Terms, terms
from flashcast.zombie.envelope import seal
from flashcast.zombie.keys import SigningKey, trusted

NOW = 1_800_000_000


def key(name: str) -> SigningKey:
    """A key for tests alone."""
    return SigningKey(sha256(f"flashcast test {name}".encode()).digest())


KEY, OTHER = key("ours"), key("theirs")
TRUSTED = trusted([KEY])


def zombie(**changes: Any) -> Terms:
    """Everybody in it, everything off but payments, writes queued; with changes."""
    said: dict[str, Any] = {
        "app": "shop", "level": "zombie", "buckets": 1_000, "salt": "s1", "off": ["*"], "keep": ["payments"],
        "writes": "queue", "drain_s": 600, "wait_s": 45, "poll_s": 60, "poll_jitter_s": 30, "incident": "inc-1",
    }  # fmt: skip
    return terms(**(said | changes))


def normal(**changes: Any) -> Terms:
    """Everything on."""
    return zombie(**({"level": "normal", "buckets": 0, "off": [], "keep": []} | changes))


def document(said: Terms | None = None, *, version: int = 7, now: float = NOW, lasts_s: int = 3_600) -> Document:
    return (said or zombie()).document(version=version, now=now, lasts_s=lasts_s)


def sealed(said: Terms | None = None, *, version: int = 7, now: float = NOW, lasts_s: int = 3_600) -> bytes:
    return seal(document(said, version=version, now=now, lasts_s=lasts_s), [KEY])
