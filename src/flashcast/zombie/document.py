"""The zombie document: what one small static file tells every app.

Two classes: `Terms` is what an operator or a controller decides, `Document` what is published: terms with a version and
the times between which they hold. A document's bytes are JSON (`Document.payload`); how they are signed is in
`envelope.py`. The format is described field by field in docs/reference/zombie-document.md, and its JSON Schema is made
from these classes.

Compatibility: a reader ignores fields that it does not know and refuses a `format` that it does not know. So a field
may be added when clients that ignore it still do something sensible; anything else needs a new format.

How a reader decides (`client/core.py` is the reference):
    nothing is off           where there is no document, it has expired, its level is `normal`, or the user's bucket is
                             not below `buckets`
    a feature is off         where `off` names it, or `off` has "*" and `keep` does not name it
    a write is queued        where its feature is off and `writes` is "queue"
"""

from __future__ import annotations

import json
import re
import secrets
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json, to_json

from flashcast.errors import InputError
from flashcast.zombie.bounds import (
    COHORTS_MAX,
    DRAIN_S_MAX,
    FEATURE_CHARS_MAX,
    FEATURES_MAX,
    JSON_DEPTH_MAX,
    LABEL_CHARS_MAX,
    LIFETIME_S_MAX,
    LOCALES_MAX,
    MESSAGE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    POLL_JITTER_S_DEFAULT,
    POLL_S_DEFAULT,
    POLL_S_MAX,
    POLL_S_MIN,
    SPLITS_MAX,
    TIME_S_MAX,
    VERSION_MAX,
    WAIT_S_MAX,
)
from flashcast.zombie.buckets import BUCKETS, cohorts_in

FORMAT: Final = 1
"""The only one there is."""
EVERYTHING: Final = "*"
"""In `off`: every feature that `keep` does not name. In `message`: the text for every locale that has none."""


class Refusal(StrEnum):
    """Why a document is refused, in the order in which a reader asks."""

    OVERSIZED = "oversized"
    """The file or the payload is larger than any document."""
    MALFORMED = "malformed"
    """The file is no envelope: garbage, cut off, or another kind of file."""
    UNKNOWN_KEY = "unknown_key"
    """No signature is by a key that the reader trusts."""
    BAD_SIGNATURE = "bad_signature"
    """A trusted key is named, and its signature does not fit the payload."""
    UNSUPPORTED = "unsupported"
    """Genuine, in a format that this reader does not know."""
    INVALID = "invalid"
    """Genuine, and a field is missing, of the wrong type or out of its bounds."""
    WRONG_APP = "wrong_app"
    """Genuine, and meant for another app."""
    WRONG_COHORT = "wrong_cohort"
    """Genuine, and meant for another cohort, or for all where one was expected."""
    REPLAYED = "replayed"
    """Genuine, and older than one the reader has had."""
    CONFLICT = "conflict"
    """Genuine, of the version the reader has, and it says something else."""
    EXPIRED = "expired"
    """Genuine, and its time is over."""
    TOO_EARLY = "too_early"
    """Genuine, and its time has not come; asked for again at the next poll."""


class RefusedError(InputError):
    """A document is refused; ``reason`` says why. All that reading a document ever raises."""

    def __init__(self, reason: Refusal, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class Level(StrEnum):
    """How far it has come. Readers act on the other fields; of levels they know that `normal` means nothing is off."""

    NORMAL = "normal"
    """Everything works."""
    SHIELDED = "shielded"
    """Chosen features are off, the rest works."""
    ZOMBIE = "zombie"
    """Apps run on what they have, and queue what users write."""
    RECOVERING = "recovering"
    """Users are let back in, step by step."""


class Writes(StrEnum):
    """What becomes of writes of a feature that is off."""

    SEND = "send"
    """They are sent: only reading is off."""
    QUEUE = "queue"
    """They wait on the device, and are sent within the drain period once the user is back in."""


def _is_no_longer_than(bytes_max: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text.encode()) > bytes_max:
            raise ValueError(f"has more than {bytes_max} bytes of UTF-8")
        return text

    return AfterValidator(check)


Feature = Annotated[str, Field(pattern=rf"^[a-z0-9][a-z0-9._-]{{0,{FEATURE_CHARS_MAX - 1}}}$")]
FeatureOrAll = Annotated[str, Field(pattern=rf"^(\*|[a-z0-9][a-z0-9._-]{{0,{FEATURE_CHARS_MAX - 1}}})$")]
App = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Locale = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8}){0,4})$")]
Text = Annotated[str, _is_no_longer_than(MESSAGE_BYTES_MAX)]
Label = Annotated[str, Field(pattern=rf"^[A-Za-z0-9._:@+-]{{0,{LABEL_CHARS_MAX}}}$")]
Salt = Annotated[str, Field(pattern=rf"^[A-Za-z0-9._~-]{{1,{LABEL_CHARS_MAX}}}$")]
Time = Annotated[int, Field(ge=0, le=TIME_S_MAX)]


class _Part(BaseModel):
    # Strict: "5" and 5.0 are no integers. What another language's reader would refuse must not pass here by kindness.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Cohort(_Part):
    """One of ``of`` files of a split, 0..of-1. Its document's `buckets` is 0 or 1,000: none or all of the cohort."""

    index: int = Field(ge=0, lt=COHORTS_MAX, description="Which cohort, from 0.")
    of: int = Field(ge=2, le=COHORTS_MAX, description="How many cohorts there are.")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"index {self.index} is not below of {self.of}")
        return self


class Manual(_Part):
    """A person has decided: until then no controller changes the document. Apps ignore it; everybody can read it."""

    by: Label = Field(description="Who, as they wish to be named in a public file.")
    until: Time = Field(description="Unix seconds at which the controller may decide again.")


class Terms(_Part):
    """What is decided: everything in a document but its version, its times and its cohort."""

    app: App = Field(description="The app it is for: a client refuses another app's.")
    level: Level = Field(Level.NORMAL, description="How far it has come. Where it is `normal`, nothing is off.")
    buckets: int = Field(
        0, ge=0, le=BUCKETS, description="Users whose bucket is below this are in it: 10 is one per cent."
    )
    salt: Salt = Field("0", description="Sorts users into buckets. The same through an incident, another in the next.")
    off: tuple[FeatureOrAll, ...] = Field(
        (),
        max_length=FEATURES_MAX,
        description='Features that are off for users in it; `"*"` is every one not in `keep`.',
    )
    keep: tuple[Feature, ...] = Field(
        (), max_length=FEATURES_MAX, description='Features that stay on where `off` has `"*"`.'
    )
    writes: Writes = Field(Writes.SEND, description="What becomes of writes of features that are off.")
    drain_s: int = Field(
        600,
        ge=0,
        le=DRAIN_S_MAX,
        description="Seconds over which a client spreads its queued writes once it is let back in.",
    )
    wait_s: int = Field(
        30, ge=1, le=WAIT_S_MAX, description="Seconds before an app tries again what was off or failed."
    )
    poll_s: int = Field(POLL_S_DEFAULT, ge=POLL_S_MIN, le=POLL_S_MAX, description="Seconds from one poll to the next.")
    poll_jitter_s: int = Field(
        POLL_JITTER_S_DEFAULT, ge=0, le=POLL_S_MAX, description="A random share of these seconds is added each time."
    )
    message: dict[Locale, Text] = Field(
        default_factory=dict,
        max_length=LOCALES_MAX,
        description='What to show users in it, by locale; `"*"` for the others.',
    )
    incident: Label = Field("", description="What this belongs to. Replayed writes carry it; repair groups by it.")
    manual: Manual | None = Field(None, description="Set where a person has decided. For controllers; apps ignore it.")
    cohorts: tuple[Annotated[int, Field(ge=2, le=COHORTS_MAX)], ...] = Field(
        (),
        max_length=SPLITS_MAX,
        description="The splits that are published beside the app's document. For publishers.",
    )

    @field_validator("cohorts")
    @classmethod
    def _once_each(cls, cohorts: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(cohorts)) != len(cohorts):
            raise ValueError("names a split twice")
        return cohorts

    def problems(self) -> list[str]:
        """What no operator can have meant. Readers do not ask: they would decide the same in every language anyway."""
        found = []
        if self.level is Level.NORMAL and (self.buckets or self.off):
            found.append("level is normal, and yet somebody or something is off: it would not be")
        if self.level is not Level.NORMAL and self.buckets and not self.off:
            found.append('off is empty, so nothing changes for anybody; "*" is everything')
        if self.keep and EVERYTHING not in self.off:
            found.append('keep has no meaning unless off has "*"')
        if self.message and EVERYTHING not in self.message:
            found.append('message has no text under "*" for the other locales')
        return found

    def changed(self, **changes: Any) -> Terms:
        """These terms with some of them changed, and checked anew. Raises InputError."""
        return terms(**{name: getattr(self, name) for name in Terms.model_fields} | changes)

    def document(
        self, *, version: int, now: float, lasts_s: int, not_before: int | None = None, cohort: Cohort | None = None
    ) -> Document:
        """The document that says this from ``not_before`` (default: ``now``, Unix seconds) for ``lasts_s`` seconds.

        With ``cohort`` it is that cohort's: `buckets` becomes 0 or 1,000. Raises InputError.
        """
        begins = int(now) if not_before is None else not_before
        said = {name: getattr(self, name) for name in Terms.model_fields}
        if cohort is not None:
            said["buckets"] = BUCKETS * (cohort.index in cohorts_in(self.salt, cohort.of, self.buckets))
        said |= {"version": version, "issued_at": int(now), "not_before": begins, "expires_at": begins + lasts_s}
        try:
            return Document(**said, cohort=cohort)
        except ValidationError as error:
            raise InputError(_told(error)) from None


class Document(Terms):
    """What is published. See docs/reference/zombie-document.md."""

    # These have defaults for people who write terms; in a file they must stand, or a typo would mean `nobody`.
    level: Level = Field(description=Terms.model_fields["level"].description)
    buckets: int = Field(ge=0, le=BUCKETS, description=Terms.model_fields["buckets"].description)
    salt: Salt = Field(description=Terms.model_fields["salt"].description)
    format: int = Field(FORMAT, ge=FORMAT, le=FORMAT, description="The format's major version: 1. Others are refused.")
    version: int = Field(ge=1, le=VERSION_MAX, description="Grows with every publication. Older ones are refused.")
    issued_at: Time = Field(0, description="When it was signed, in Unix seconds. For people.")
    not_before: Time = Field(description="Unix seconds from which it holds.")
    expires_at: Time = Field(description="Unix seconds from which it no longer holds, and everything is on again.")
    cohort: Cohort | None = Field(None, description="The cohort it is for; absent in the document for everybody.")

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if not self.not_before < self.expires_at <= self.not_before + LIFETIME_S_MAX:
            raise ValueError(f"expires_at is not within {LIFETIME_S_MAX} s after not_before")
        return self

    @property
    def payload(self) -> bytes:
        """Its bytes: JSON in ASCII without blanks, fields in a fixed order, what is absent left out.

        Nobody needs to make the same bytes from the same document: the signature covers the bytes that are sent.
        """
        said = self.model_dump(mode="json", exclude_none=True)
        first = ("format", "app", "version", "issued_at", "not_before", "expires_at")
        ordered = {name: said[name] for name in first} | said
        return json.dumps(ordered, separators=(",", ":")).encode()

    @property
    def terms(self) -> Terms:
        """What it says, to be changed and published again. A cohort's document knows only of its own cohort."""
        return terms(**{name: getattr(self, name) for name in Terms.model_fields})

    @classmethod
    def parse(cls, payload: bytes) -> Document:
        """The document whose `payload` these bytes are. Nothing is said about whether it is genuine.

        Raises RefusedError (OVERSIZED, UNSUPPORTED, INVALID) and nothing else.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise RefusedError(
                Refusal.OVERSIZED, f"the payload has {len(payload)} bytes; {PAYLOAD_BYTES_MAX} is the most"
            )
        said = parsed_object(payload)
        if said is None:
            raise RefusedError(Refusal.INVALID, "the payload is no JSON object")
        number = said.get("format")
        if type(number) is not int:
            raise RefusedError(Refusal.INVALID, "format: is no integer")
        if number != FORMAT:
            raise RefusedError(Refusal.UNSUPPORTED, "its format is not known here", remedy="Update this client.")
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            raise RefusedError(Refusal.INVALID, _told(error)) from None


def terms(**said: Any) -> Terms:
    """`Terms`, or InputError that names the field and what is wrong. Lists and plain text do for tuples and enums."""
    if unknown := sorted(said.keys() - Terms.model_fields.keys()):
        raise InputError(f"{unknown[0]}: there is no such field", remedy=f"Known: {', '.join(Terms.model_fields)}.")
    try:
        return Terms.model_validate_json(to_json(said))
    except ValidationError as error:
        raise InputError(_told(error)) from None
    except ValueError:
        raise InputError("the terms hold something that JSON has not: text that is no Unicode, or an object") from None


def new_salt() -> str:
    """A salt for a new incident: 64 random bits as 16 hexadecimal digits."""
    return secrets.token_hex(8)


def file_name(app: str, cohort: Cohort | None = None) -> str:
    """The name a document is published under: ``shop.json``, or ``shop.3-of-8.json`` for a cohort."""
    return f"{app}.json" if cohort is None else f"{app}.{cohort.index}-of-{cohort.of}.json"


def parsed_object(data: bytes) -> dict[str, Any] | None:
    """The object that ``data`` is in JSON (RFC 8259, UTF-8, no byte order mark), or None where it is none.

    Stricter than json.loads, so that all clients judge alike: no lone surrogates, no key twice in one object,
    `JSON_DEPTH_MAX` levels, integers of 4,300 digits at most.
    """
    try:
        # json.loads lets surrogates pass, pydantic's parser equal keys: what both take is what is meant.
        from_json(data, allow_inf_nan=False)
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_equal_keys)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _nests_within(value, JSON_DEPTH_MAX) else None


def _without_equal_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


def _nests_within(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_within(part, levels - 1) for part in parts)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the payload; `$defs/Envelope` is that of the file around it."""
    schema = Document.model_json_schema()
    tidy_schema(schema)
    schema["properties"]["format"] = {"const": FORMAT, "description": Document.model_fields["format"].description}
    schema["required"] = ["format", *schema["required"]]
    schema["$defs"]["Envelope"] = _ENVELOPE_SCHEMA
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Zombie document"}


_ENVELOPE_SCHEMA: Final[dict[str, Any]] = {
    "description": "The file that is published: a payload and who signed it.",
    "type": "object",
    "required": ["payload", "signatures"],
    "properties": {
        "payload": {
            "description": "The document's bytes in base64url without padding.",
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]+$",
        },
        "signatures": {
            "type": "array",
            "minItems": 1,
            "maxItems": 8,
            "items": {
                "type": "object",
                "required": ["key", "sig"],
                "properties": {
                    "key": {"description": "The key's id.", "type": "string", "pattern": "^[0-9a-f]{16}$"},
                    "sig": {"description": "Ed25519, base64url.", "type": "string", "pattern": "^[A-Za-z0-9_-]{86}$"},
                },
            },
        },
    },
}


def tidy_schema(node: Any) -> None:
    """Takes out pydantic's titles, which repeat the keys, and `null`: an optional field is absent."""
    if isinstance(node, list):
        for item in node:
            tidy_schema(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str):
        del node["title"]
    if "default" in node and node["default"] is None:
        del node["default"]
    kept = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if "anyOf" in node and len(kept) == 1:
        del node["anyOf"]
        node.update({key: value for key, value in kept[0].items() if key not in node})
    for value in list(node.values()):
        tidy_schema(value)


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, as ``field: what``. Values are not repeated: they come from strangers."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = re.sub(r"^Value error, ", "", first["msg"])
    return f"{where}: {what}" if where else what
