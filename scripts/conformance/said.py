"""What the vectors are made of: a plain document, keys that anybody can make, files signed with them."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any, Final

from flashcast.zombie.envelope import SIGNED_PREFIX, envelope
from flashcast.zombie.keys import SigningKey

NOW: Final = 1_800_000_000
"""15 January 2027; every vector's time is near it."""
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of Ed25519's base point (RFC 8032 section 5.1)."""


def key(name: str) -> SigningKey:
    """A key for vectors alone: everybody can make it from its name."""
    return SigningKey(sha256(f"flashcast conformance {name}".encode()).digest())


OLD, NEW, STRANGER = key("old"), key("new"), key("stranger")
TRUSTED: Final = [OLD.public.text]

PLAIN: Final[dict[str, Any]] = {
    "format": 1, "app": "shop", "version": 7, "issued_at": NOW - 60, "not_before": NOW - 60,
    "expires_at": NOW + 3_540, "level": "zombie", "buckets": 350, "salt": "s1", "off": ["*"], "keep": ["payments"],
    "writes": "queue", "drain_s": 600, "wait_s": 45, "poll_s": 60, "poll_jitter_s": 30,
    "message": {"*": "Back soon", "de": "Gleich wieder da", "pt-BR": "J\u00e1 voltamos"}, "incident": "inc-1",
    "cohorts": [],
}  # fmt: skip


def said(**changes: Any) -> dict[str, Any]:
    """The plain document with changes; a value of None takes a field out."""
    return {name: value for name, value in (PLAIN | changes).items() if value is not None}


def dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def signed(payload: dict[str, Any] | bytes, *keys: SigningKey) -> bytes:
    """A file of these bytes, signed by ``keys`` (default: the old key)."""
    data = payload if isinstance(payload, bytes) else dumped(payload)
    return envelope(data, [(each.id, each.sign(SIGNED_PREFIX + data)) for each in keys or (OLD,)])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def malleable(sig: bytes) -> bytes:
    """The same signature with S + L in place of S, which a careless reader accepts as well (RFC 8032 section 8.4)."""
    return sig[:32] + (int.from_bytes(sig[32:], "little") + ORDER).to_bytes(32, "little")
