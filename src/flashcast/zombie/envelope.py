"""The envelope: a document's exact bytes, and signatures over them.

    {"payload": "<base64url of the document's bytes>", "signatures": [{"key": "<key id>", "sig": "<base64url>"}, ...]}

    signature = Ed25519(private key, "flashcast.zombie" || 0x00 || document's bytes)

The problem: JSON has no bytes of its own. The obvious answer, a signature field inside the document, makes every reader
write the rest again exactly as the signer did (key order, escapes, numbers), and every language has its own idea of
that. Here the bytes travel as they were signed and are looked at only after the signature has been checked, so a reader
needs base64url, Ed25519 and any JSON parser, and a proxy that re-formats JSON does no harm. Base64 costs a third in
size, of less than a kilobyte. JWS would do as well and brings a header in which the sender chooses the algorithm, which
has been the hole of many a reader: here there is one algorithm and one format, and the bytes before the document keep
a signature made for anything else from passing for one of these.

Several signatures, so that a key can be replaced: while old and new apps are about, both keys sign. One signature by a
trusted key is enough.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from flashcast.errors import InputError
from flashcast.zombie.bounds import CLOCK_SKEW_S, ENVELOPE_BYTES_MAX, PAYLOAD_BYTES_MAX, SIGNATURES_MAX
from flashcast.zombie.document import Cohort, Document, Refusal, RefusedError, parsed_object
from flashcast.zombie.keys import KEY_ID_CHARS, SIGNATURE_BYTES, PublicKey, SigningKey, Trusted

SIGNED_PREFIX: Final = b"flashcast.zombie\x00"
"""Before the document's bytes in what is signed."""
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_KEY_ID: Final = re.compile(f"[0-9a-f]{{{KEY_ID_CHARS}}}")


class Opened(NamedTuple):
    """A document that is genuine. ``payload`` are its exact bytes, ``key`` the id of the key that vouches for it."""

    document: Document
    payload: bytes
    key: str


def seal(document: Document, keys: Sequence[SigningKey]) -> bytes:
    """The file to publish: the document, signed with every one of ``keys``.

    Raises InputError where there is no key or too many, where the document is too large, or says what nobody can have
    meant (`Terms.problems`).
    """
    if not 1 <= len({key.id for key in keys}) == len(keys) <= SIGNATURES_MAX:
        raise InputError(f"a document is signed with 1 to {SIGNATURES_MAX} different keys, not {len(keys)}")
    if problems := document.problems():
        raise InputError(f"the document says nothing sensible: {'; '.join(problems)}")
    payload = document.payload
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise InputError(
            f"the document has {len(payload)} bytes; {PAYLOAD_BYTES_MAX} is the most",
            remedy="Shorten the messages or name fewer features.",
        )
    return envelope(payload, [(key.id, key.sign(SIGNED_PREFIX + payload)) for key in keys])


def envelope(payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    """The file for bytes and signatures (key id, 64 bytes), unchecked."""
    signed = [{"key": key, "sig": _encoded(sig)} for key, sig in signatures]
    return json.dumps({"payload": _encoded(payload), "signatures": signed}, separators=(",", ":")).encode()


def open_sealed(data: bytes, trusted: Trusted) -> Opened:
    """The document in a file, where a trusted key vouches for it. Says nothing of app, version and time: see `admit`.

    Raises RefusedError and nothing else, whatever the bytes: OVERSIZED, MALFORMED, UNKNOWN_KEY, BAD_SIGNATURE, then
    what `Document.parse` raises.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise RefusedError(Refusal.OVERSIZED, f"the file has {len(data)} bytes; {ENVELOPE_BYTES_MAX} is the most")
    outer = parsed_object(data)
    if outer is None:
        raise RefusedError(Refusal.MALFORMED, "the file is no JSON object")
    payload = _decoded(outer.get("payload"))
    if payload is None:
        raise RefusedError(Refusal.MALFORMED, "payload: is no base64url without padding")
    signatures = outer.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= SIGNATURES_MAX:
        raise RefusedError(Refusal.MALFORMED, f"signatures: is no list of 1 to {SIGNATURES_MAX}")
    key = _vouching(payload, list(_known(signatures, trusted)))
    return Opened(Document.parse(payload), payload, key)


def admit(opened: Opened, *, app: str, cohort: Cohort | None, last: Opened | None, now: float) -> None:
    """Whether a genuine document may take the place of ``last``, for a reader of ``app`` and ``cohort`` at ``now``.

    ``now`` in Unix seconds by the reader's clock. The same document again is welcome. Raises RefusedError: WRONG_APP,
    WRONG_COHORT, REPLAYED, CONFLICT, EXPIRED, TOO_EARLY, asked in this order.
    """
    document = opened.document
    if document.app != app:
        raise RefusedError(Refusal.WRONG_APP, f"the document is for {document.app}, not for {app}")
    if document.cohort != cohort:
        raise RefusedError(Refusal.WRONG_COHORT, "the document is for another cohort")
    if last is not None and document.version < last.document.version:
        raise RefusedError(Refusal.REPLAYED, f"version {document.version} after {last.document.version}")
    if last is not None and document.version == last.document.version and opened.payload != last.payload:
        raise RefusedError(Refusal.CONFLICT, f"there are two documents of version {document.version}")
    if now >= document.expires_at:
        raise RefusedError(Refusal.EXPIRED, f"the document ended {now - document.expires_at:.0f} s ago")
    if now < document.not_before - CLOCK_SKEW_S:
        raise RefusedError(Refusal.TOO_EARLY, f"the document begins in {document.not_before - now:.0f} s")


def _known(signatures: list[Any], trusted: Trusted) -> Iterator[tuple[PublicKey, bytes]]:
    """The signatures by trusted keys. Others may be by keys to come, or of a kind to come: they are passed over."""
    for one in signatures:
        key_id, encoded = (one.get("key"), one.get("sig")) if isinstance(one, dict) else (None, None)
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            continue
        key = trusted.get(key_id)
        if key is not None:
            yield key, _decoded(encoded) or b""


def _vouching(payload: bytes, known: list[tuple[PublicKey, bytes]]) -> str:
    if not known:
        raise RefusedError(Refusal.UNKNOWN_KEY, "no signature is by a trusted key")
    for key, signature in known:
        if len(signature) == SIGNATURE_BYTES and key.verifies(signature, SIGNED_PREFIX + payload):
            return key.id
    raise RefusedError(Refusal.BAD_SIGNATURE, "no trusted key's signature fits the payload")


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: object) -> bytes | None:
    """What base64url without padding stands for; None for anything else. Python's own decoder skips strange letters."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        return None
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
