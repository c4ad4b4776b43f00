"""A message's JSON with holes: fields, escaping, bytes.

A field is written ``{{column}}`` or ``{{column|fallback}}`` inside a string; the fallback stands in where a row's
value is null or empty. ``{{{{`` writes a literal ``{{``, and a single brace is just a brace, also right before a field.
Spaces around the column and around the fallback are dropped. A body is compact JSON in UTF-8; a hole sits inside a JSON
string, so what fills it must be escaped and carries no quotes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flashcast.limits import (
    APNS_PAYLOAD_BYTES_MAX,
    APNS_VOIP_PAYLOAD_BYTES_MAX,
    BODY_BYTES_MAX,
    FCM_PAYLOAD_BYTES_MAX,
)
from flashcast.model import TOKEN_COLUMN, Field, Hole, Provider, RequestTemplate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Part = str | Field
Body = tuple[bytes | Hole, ...]

_FCM_HEAD: Final = b'{"message":{"token":"'
_FCM_UNCOUNTED: Final = len(b'{"message":') + len(b'"token":"",') + len(b"}")
"""What surrounds the FCM message content: the envelope, and the token member without the token."""


class FieldSyntaxError(ValueError):
    """A string's ``{{...}}`` cannot be read; the message says why and what to write instead."""


def parse_text(text: str) -> tuple[Part, ...]:
    """Splits ``text`` into literal strings and fields. Raises FieldSyntaxError."""
    parts: list[Part] = []
    literal = ""
    at = 0
    while (start := text.find("{{", at)) >= 0:
        literal += text[at:start]
        if text.startswith("{{", start + 2):
            literal += "{{"
            at = start + 4
            continue
        if text.startswith("{", start + 2):
            # Three braces: no column begins with one, so the first is the message's own.
            literal += "{"
            start += 1
        end = text.find("}}", start + 2)
        if end < 0:
            raise FieldSyntaxError(
                f"{text[start : start + 20]!r} is not closed by '}}}}'; write '{{{{{{{{' for a literal '{{{{'"
            )
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(_field(text[start + 2 : end]))
        at = end + 2
    literal += text[at:]
    if literal:
        parts.append(literal)
    return tuple(parts)


def _field(inside: str) -> Field:
    column, _, fallback = inside.partition("|")
    column, fallback = column.strip(), fallback.strip()
    if not column:
        raise FieldSyntaxError(
            f"'{{{{{inside}}}}}' names no column; write '{{{{column}}}}' or '{{{{column|fallback}}}}'"
        )
    if "{" in inside or "}" in inside:
        raise FieldSyntaxError(f"'{{{{{inside}}}}}' has a brace inside; neither a column nor a fallback may have one")
    return Field(column, fallback)


def has_field(text: str) -> bool:
    """Whether ``text`` opens a field, well-formed or not."""
    return "{{" in text


def json_escape(text: str) -> bytes:
    """What a hole is filled with: ``text`` as the inside of a JSON string (RFC 8259 section 7), in UTF-8.

    Quote, backslash and U+0000 to U+001F are escaped; every other character stands as itself.
    Raises ValueError for a lone surrogate, which UTF-8 cannot express.
    """
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


class BodyWriter:
    """Writes JSON values with holes. ``fields`` numbers each distinct field in the order first seen."""

    def __init__(self, fields: dict[Field, int]) -> None:
        self._fields = fields
        self._parts: list[bytes | Hole] = [b""]

    def body(self) -> Body:
        """Constant bytes and holes in strict alternation, bytes (possibly empty) first and last."""
        return tuple(self._parts)

    def constant(self, data: bytes) -> None:
        """Appends bytes that every row shares."""
        last = self._parts[-1]
        assert isinstance(last, bytes)
        self._parts[-1] = last + data

    def hole(self, field: int) -> None:
        """Appends a hole."""
        self._parts += [Hole(field), b""]

    def value(self, value: Any) -> None:
        """Appends ``value`` as compact JSON; strings may hold fields, keys may not."""
        if isinstance(value, str):
            self._string(value)
        elif isinstance(value, Mapping):
            self._members(value, opening=b"{")
            self.constant(b"}")
        elif isinstance(value, list | tuple):
            self.constant(b"[")
            for index, item in enumerate(value):
                self.constant(b"," if index else b"")
                self.value(item)
            self.constant(b"]")
        else:
            self.constant(json.dumps(value, allow_nan=False).encode())

    def members(self, value: Mapping[str, Any]) -> None:
        """Appends members to an object that already has some."""
        self._members(value, opening=b",")

    def _members(self, value: Mapping[str, Any], *, opening: bytes) -> None:
        if not value and opening == b"{":
            self.constant(opening)
        for index, (key, item) in enumerate(value.items()):
            self.constant((b"," if index else opening) + b'"' + json_escape(key) + b'":')
            self.value(item)

    def _string(self, text: str) -> None:
        self.constant(b'"')
        for part in parse_text(text):
            if isinstance(part, str):
                self.constant(json_escape(part))
            else:
                self.hole(self._fields.setdefault(part, len(self._fields)))
        self.constant(b'"')


def apns_body(payload: Mapping[str, Any], fields: dict[Field, int]) -> Body:
    """The APNs request body: the payload itself."""
    writer = BodyWriter(fields)
    writer.value(payload)
    return writer.body()


def fcm_body(message: Mapping[str, Any], fields: dict[Field, int]) -> Body:
    """The FCM request body: ``message``, which must have members, with the row's token before them."""
    writer = BodyWriter(fields)
    writer.constant(_FCM_HEAD)
    writer.hole(TOKEN_COLUMN)
    writer.constant(b'"')
    writer.members(message)
    writer.constant(b"}}")
    return writer.body()


def render(template: RequestTemplate, fields: Sequence[bytes], token: bytes) -> bytes:
    """One row's body. ``fields[i]`` is the escaped value of field ``i``; see `json_escape`."""
    return b"".join(
        part if isinstance(part, bytes) else (token if part.field == TOKEN_COLUMN else fields[part.field])
        for part in template.body
    )


# --- Size -------------------------------------------------------------------------------------------


def payload_bytes_max(template: RequestTemplate) -> int:
    """The provider's bound on what `payload_lengths` counts: APNs 4,096, its VoIP pushes 5,120, FCM 4,096."""
    if template.provider is Provider.FCM:
        return FCM_PAYLOAD_BYTES_MAX
    voip = ("apns-push-type", "voip") in template.headers
    return APNS_VOIP_PAYLOAD_BYTES_MAX if voip else APNS_PAYLOAD_BYTES_MAX


def uncounted_bytes(template: RequestTemplate) -> int:
    """Bytes of the body that the provider's bound leaves out, the FCM token itself aside.

    APNs: none, the body is the payload. FCM: the bound is held against the compact JSON of the message
    object without its ``token`` member. Google does not publish how it counts; what is counted here
    includes every key, quote, escape and platform override, so it is never less than the content.
    """
    return _FCM_UNCOUNTED if template.provider is Provider.FCM else 0


def longest_body_bytes(template: RequestTemplate, max_field_bytes: Sequence[int], max_token_bytes: int = 0) -> int:
    """An upper bound of the body, in bytes: every field at its longest escaped value at once."""
    return sum(
        len(part)
        if isinstance(part, bytes)
        else (max_token_bytes if part.field == TOKEN_COLUMN else max_field_bytes[part.field])
        for part in template.body
    )


def body_lengths(
    template: RequestTemplate,
    field_lengths: Sequence[NDArray[np.integer[Any]]],
    token_lengths: NDArray[np.integer[Any]],
) -> NDArray[np.int64]:
    """The body of every row, in bytes: int64[rows].

    ``field_lengths[i]`` is integer[rows], the escaped bytes of field ``i``; only the fields that the
    template uses are looked at. ``token_lengths`` is integer[rows].
    """
    import numpy as np

    constant = sum(len(part) for part in template.body if isinstance(part, bytes))
    lengths = np.full(token_lengths.size, constant, dtype=np.int64)
    for part in template.body:
        if isinstance(part, Hole):
            lengths += token_lengths if part.field == TOKEN_COLUMN else field_lengths[part.field]
    return lengths


def payload_lengths(
    template: RequestTemplate,
    field_lengths: Sequence[NDArray[np.integer[Any]]],
    token_lengths: NDArray[np.integer[Any]],
) -> NDArray[np.int64]:
    """What the provider's bound counts of every row: int64[rows], to compare with `payload_bytes_max`."""
    lengths = body_lengths(template, field_lengths, token_lengths) - uncounted_bytes(template)
    return lengths - token_lengths if template.provider is Provider.FCM else lengths


def too_long(
    template: RequestTemplate,
    field_lengths: Sequence[NDArray[np.integer[Any]]],
    token_lengths: NDArray[np.integer[Any]],
) -> NDArray[np.bool_]:
    """Rows whose message breaks the provider's bound or `limits.BODY_BYTES_MAX`: bool[rows]."""
    body = body_lengths(template, field_lengths, token_lengths)
    counted = payload_lengths(template, field_lengths, token_lengths)
    return (counted > payload_bytes_max(template)) | (body > BODY_BYTES_MAX)


# --- In a manifest ----------------------------------------------------------------------------------


def template_to_json(template: RequestTemplate) -> dict[str, Any]:
    """A JSON document from which `template_from_json` makes an equal template.

    ``body`` alternates strings and field numbers; -1 is the token. Raises ValueError for a body whose
    constant parts are not UTF-8, which no compiled campaign has.
    """
    return {
        "provider": template.provider.value,
        "variant": template.variant,
        "headers": [[name, value] for name, value in template.headers],
        "body": [part.decode() if isinstance(part, bytes) else part.field for part in template.body],
    }


def template_from_json(document: Mapping[str, Any]) -> RequestTemplate:
    """Undoes `template_to_json`. Raises KeyError, ValueError or TypeError for anything else."""
    return RequestTemplate(
        provider=Provider(document["provider"]),
        variant=str(document["variant"]),
        headers=tuple((str(name), str(value)) for name, value in document["headers"]),
        body=tuple(part.encode() if isinstance(part, str) else Hole(int(part)) for part in document["body"]),
    )
