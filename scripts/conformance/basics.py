"""Buckets, signatures, Retry-After: what every client computes first."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from conformance.said import NEW, NOW, OLD, malleable


def buckets() -> dict[str, Any]:
    """Computed here a second time, from the specification's words."""

    def of(salt: str, user: str) -> int:
        digest = sha256(salt.encode("utf-8") + bytes([0]) + user.encode("utf-8")).hexdigest()
        return int(digest[:12], 16) % 1000

    users = ["", "1", "42", "user-1", "user-2", "0b9f3c2e-6a55-4a52-9f0a-6b2f3f1f0c11", "J\u00f6rg", "\u732b",
             "\U0001f9df", "a\x00b", "x" * 300, "e\u0301", "\u00e9"]  # fmt: skip
    salts = ["0", "s1", "superbowl-2027", "~.-_"]
    rows = [{"salt": salt, "user": user, "bucket": of(salt, user)} for salt in salts for user in users]
    cohorts = [
        {"app": "shop", "user": user, "of": n, "cohort": of("cohort:shop", user) * n // 1000}
        for n in (2, 3, 8, 100)
        for user in users
    ]
    return {"buckets": rows, "cohorts": cohorts}


def ed25519() -> dict[str, Any]:
    """RFC 8032 section 7.1, and what must not pass."""
    first = (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        ("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
         "d25bf5f0595bbe24655141438e7a100b"),
    )  # fmt: skip
    second = (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        ("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
         "387b2eaeb4302aeeb00d291612bb0c00"),
    )  # fmt: skip
    third = (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        ("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
         "4a7c15e9716ed28dc027beceea1ec40a"),
    )  # fmt: skip

    def row(name: str, public: str, message: str, sig: str, valid: bool) -> dict[str, Any]:
        return {"name": name, "public": public, "message": message, "signature": sig, "valid": valid}

    rows = [row(f"RFC 8032 test {i}", *each, True) for i, each in enumerate((first, second, third), start=1)]
    rows.append(row("another message", third[0], "af83", third[2], False))
    rows.append(row("another key", first[0], third[1], third[2], False))
    rows.append(row("one bit of R", third[0], third[1], "63" + third[2][2:], False))
    rows.append(row("one bit of S", third[0], third[1], third[2][:-2] + "0b", False))
    rows.append(row("S plus the group's order", third[0], third[1], malleable(bytes.fromhex(third[2])).hex(), False))
    rows.append(row("all zero", third[0], third[1], "00" * 64, False))
    return {"signatures": rows, "key_ids": [{"public": each.public.text, "id": each.id} for each in (OLD, NEW)]}


def retry_after() -> dict[str, Any]:
    rows: list[tuple[str, float | None]] = [
        ("0", 0), ("120", 120), ("  7 ", 7), ("", None), ("-5", None), ("1.5", None), ("soon", None), ("0x10", None),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120), ("Fri, 15 Jan 2027 07:59:00 GMT", 0), ("15 Jan", None),
    ]  # fmt: skip
    return {"now": NOW, "cases": [{"value": value, "seconds": seconds} for value, seconds in rows]}
