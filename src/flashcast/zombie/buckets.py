"""Who is in it: a stable hash of the user id into 1,000 buckets.

    bucket(salt, user) = int.from_bytes(SHA-256(salt || 0x00 || user)[:6], "big") mod 1000

`salt` and `user` are UTF-8 bytes; a salt has no 0x00, so two pairs never hash the same bytes. A user is in zombie mode
iff bucket < the document's `buckets`: whoever is in at 100 is in at 200 too, and steps of recovery only let people out.

Six bytes, because 48 bits are exact in every language's numbers: a JavaScript or Lua double, a signed SQL BIGINT, a
JVM Long. The price is a bias: 2**48 mod 1000 = 656, so buckets 0..655 are hit by 281,474,976,711 of the 2**48 values
and the others by one less, a difference of 4 in 10**12. SHA-256 and not something faster, because it is on every
platform (a hash costs 1 us, once per user and document); and a salt per incident, so that it is not always the same
people who suffer first.

Cohorts are for clients that do not hash: each asks for the file of its own cohort, which says all or nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from flashcast.errors import InputError

BUCKETS: Final = 1_000
COHORT_SALT: Final = "cohort:"
"""Before the app's name it is the salt that sorts users into cohorts: they must know theirs before any document."""


def bucket(salt: str, user: str) -> int:
    """The bucket of a user, 0..999. See the module's docstring for the bytes.

    Raises InputError where an argument is no Unicode text (a lone surrogate).
    """
    return int.from_bytes(sha256(_bytes(salt) + b"\x00" + _bytes(user)).digest()[:6], "big") % BUCKETS


def cohort_of(app: str, user: str, of: int) -> int:
    """The cohort of a user, 0..of-1: buckets under a salt of the app's own, cut into ``of`` equal ranges."""
    return bucket(COHORT_SALT + app, user) * of // BUCKETS


def cohort_order(salt: str, of: int) -> list[int]:
    """The cohorts 0..of-1 in the order in which they enter zombie mode; they leave it in the reverse order.

    Sorted by `SHA-256(salt || 0x00 || decimal index)`: another salt, other cohorts first. Only publishers need it.
    """
    return sorted(range(of), key=lambda index: sha256(_bytes(salt) + b"\x00" + str(index).encode()).digest())


def cohorts_in(salt: str, of: int, buckets: int) -> frozenset[int]:
    """The cohorts that are in zombie mode when ``buckets`` of 1,000 are: rounded up, to the protective side."""
    return frozenset(cohort_order(salt, of)[: -(-buckets * of // BUCKETS)])


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError("a user id or salt is no Unicode text: it has a lone surrogate") from None
