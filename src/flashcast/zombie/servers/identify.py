"""Whose request it is: the text that goes into the bucket, found in an ASGI scope.

To decide as the clients do it must be the very text they give as their user. It is not checked in any way: a token's
signature is not, and whoever forges an id chooses only the bucket of his own requests. Shedding guards the servers
against a herd, not against people who mean harm.

Other keys than a user's id (a device's, an address) are as stable; only their buckets are not the user's, so the share
that is shed is right, and who is in it differs from what a client would decide.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from flashcast.errors import InputError

Scope = Mapping[str, Any]
Identify = Callable[[Scope], str | None]
"""From an ASGI scope to a text, or None where there is none. Must not block; an exception counts as None."""

TOKEN_BYTES_MAX: Final = 8_192
"""A longer token is not looked at: common servers take no longer header anyhow."""
_BEARER: Final = b"bearer "


def identifiers(named: Iterable[Identify | str]) -> tuple[Identify, ...]:
    """Functions as they are, and names as in `Routing.identify`. Raises InputError for a name that is not known."""
    return tuple(_named(one) if isinstance(one, str) else one for one in named)


def by_header(name: str) -> Identify:
    """The value of a request header. Of several of the same name the first."""
    wanted = name.lower().encode("ascii")

    def find(scope: Scope) -> str | None:
        for key, value in scope["headers"]:
            if key == wanted:
                return _text(value)
        return None

    return find


def by_cookie(name: str) -> Identify:
    """The value of a cookie, as it was sent: percent signs and quotes stay."""
    wanted = name.encode("ascii") + b"="

    def find(scope: Scope) -> str | None:
        for key, value in scope["headers"]:
            # HTTP/2 may split cookies over several headers (RFC 9113 section 8.2.3).
            if key == b"cookie":
                for pair in value.split(b";"):
                    if (pair := pair.strip()).startswith(wanted):
                        return _text(pair[len(wanted) :])
        return None

    return find


def by_claim(name: str, header: str = "authorization") -> Identify:
    """A claim of the JWT in a header, with or without `Bearer`: text, or an integer in decimal. Not verified."""
    wanted = header.lower().encode("ascii")

    def find(scope: Scope) -> str | None:
        for key, value in scope["headers"]:
            if key == wanted:
                return _claim(value, name)
        return None

    return find


def by_address(scope: Scope) -> str | None:
    """The address of whoever holds the connection: behind a proxy its own, unless the server has put it right."""
    client = scope.get("client")
    return client[0] or None if client else None


def _named(name: str) -> Identify:
    kind, _, key = name.partition(":")
    if name == "address":
        return by_address
    kinds = {"header": by_header, "cookie": by_cookie, "claim": by_claim}
    if kind not in kinds or not key or not key.isascii():
        raise InputError(f"identify: {name!r} is none of header:NAME, cookie:NAME, claim:NAME and address")
    return kinds[kind](key)


def _claim(value: bytes, name: str) -> str | None:
    token = value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else value.strip()
    parts = token.split(b".")
    if len(token) > TOKEN_BYTES_MAX or len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    found = claims.get(name) if isinstance(claims, dict) else None
    if type(found) is int:
        return str(found)
    return found if isinstance(found, str) and found else None


def _text(value: bytes) -> str | None:
    try:
        return value.decode() or None
    except UnicodeDecodeError:
        return None
