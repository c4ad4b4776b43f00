"""The nouns that more than one part of Flashcast speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TOKEN_COLUMN: Final = -1
"""The hole that takes the row's device token (FCM carries it in the body)."""


class Provider(StrEnum):
    """Who accepts the notification on behalf of the phone."""

    APNS = "apns"
    FCM = "fcm"


class UnknownPolicy(StrEnum):
    """What to do with a row whose outcome cannot be known."""

    DROP = "drop"
    """At most once: a doubtful row is never sent again."""
    RESEND = "resend"
    """At least once: a doubtful row is sent again; a collapse id lets the phone show one."""


@dataclass(frozen=True, slots=True)
class Field:
    """One personalised column of a snapshot: a source column and what to say where it is empty."""

    column: str
    fallback: str


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a body that is filled per row.

    ``field`` indexes the snapshot's fields; `TOKEN_COLUMN` means the device token. What fills it is
    already JSON-escaped UTF-8, without the surrounding quotes.
    """

    field: int


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """One variant of one provider's message: everything about the request but the row's own bytes.

    ``headers`` are the regular headers in order (lower-case names, no pseudo-headers, no
    authorization: those belong to the provider). ``body`` alternates constant bytes and holes.
    """

    provider: Provider
    variant: str
    headers: tuple[tuple[str, str], ...]
    body: tuple[bytes | Hole, ...]
