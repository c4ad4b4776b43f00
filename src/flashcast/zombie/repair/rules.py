"""The rules of repair: TOML; every key is described here, and docs/reference/zombie-repair.md is made from it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flashcast.zombie.bounds import CLOCK_SKEW_S
from flashcast.zombie.document import App, Feature, tidy_schema
from flashcast.zombie.rule_parts import Address, Name, Part, Whole, whole_of
from flashcast.zombie.toml_file import read_toml

RULES_BYTES_MAX: Final = 1 << 20
LOGS_MAX: Final = 32
"""Sources of one run: each is a bit of a number."""
GRANTS_MAX: Final = 64
PAYLOAD_MAX: Final = 50
BATCH_MAX: Final = 500
CONCURRENCY_MAX: Final = 64
"""Calls under way at one time, each in a thread of its own."""
ATTEMPTS_MAX: Final = 20
REMEDY: Final = "docs/reference/zombie-repair.md tells every key."
_FIELD: Final = r"[A-Za-z0-9_.()-]{1,64}"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

_MACHINE_ZONES: Final = ("localtime", "posixrules")
_MACHINE_FOLDERS: Final = ("posix/", "right/")

Ref = Annotated[str, Field(pattern=rf"^(address|(query|header|cookie|field):{_FIELD})$")]
FieldName = Annotated[str, Field(pattern=rf"^{_FIELD}$")]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]


def is_zone(name: str) -> bool:
    """Whether it is a time zone that Python and DuckDB both know: not one that only names this machine's files."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return name not in _MACHINE_ZONES and not name.startswith(_MACHINE_FOLDERS)


def _is_zone(name: str) -> str:
    if not is_zone(name):
        raise ValueError("is no time zone; write it as Europe/Berlin")
    return name


def _is_date(text: str) -> str:
    date.fromisoformat(text)
    return text


Zone = Annotated[str, Field(max_length=64), AfterValidator(_is_zone)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_is_date)]


class SpanRules(Part):
    """`[spans]`: how evidence becomes time."""

    cache_s: int = Field(
        20, ge=0, le=3_600,
        description="Seconds for which caches, and servers that shed, may go by the document before. In them a user "
        "counts as in it if either document says so.",
    )  # fmt: skip
    grace_s: int = Field(
        30, ge=0, le=3_600,
        description="Added to poll_s and poll_jitter_s: by then an app that is open has polled again.",
    )  # fmt: skip
    join_s: int = Field(
        0, ge=0, le=86_400, description="Two spans of one user in one state that are no further apart become one."
    )
    skew_s: int = Field(
        CLOCK_SKEW_S,
        ge=0,
        le=86_400,
        description="How far the clocks of devices, which stamp queued writes, may be off.",
    )


class Columns(Part):
    """`[logs.NAME.columns]`: what fields are called in a log of format `json` or `csv`."""

    time: FieldName = Field("time", description="When: Unix seconds, or ISO 8601; without a zone it is UTC.")
    status: FieldName = Field("status", description="The reply's status.")
    method: FieldName = Field("method", description="The request's method.")
    uri: FieldName = Field("uri", description="Path and query.")


class LogRules(Part):
    """`[logs.NAME]`: one kind of log, and what its lines are evidence of."""

    format: Literal["s3", "cloudfront", "nginx", "json", "csv"] = Field(description="How its lines are written.")
    evidence: Literal["poll", "shed", "queue"] = Field(
        "poll",
        description="`poll`: requests for the document. `shed`: requests that a server turned away. `queue`: writes "
        "that waited on a device.",
    )
    user: Ref = Field(
        description="Where the user's id is: `query:NAME`, `header:NAME`, `cookie:NAME`, `field:NAME`, `address`."
    )
    device: Ref | None = Field(
        None, description="What tells one device of a user from another; by default a user has one."
    )
    log_format: str | None = Field(
        None, max_length=4_096, description="nginx: the `log_format` as it is configured; by default `combined`."
    )
    columns: Columns = Field(default_factory=Columns, description="`json` and `csv`: what fields are called.")
    decodings: int | None = Field(
        None, ge=0, le=3,
        description="How often a value from a query, a cookie or CloudFront is percent-decoded; by default twice for "
        "`cloudfront`, once for others; fields of `json` and `csv` never.",
    )  # fmt: skip
    offset_s: float = Field(
        0.0, ge=-86_400, le=86_400, description="Seconds to add to its times: for a log server whose clock was wrong."
    )
    under: str | None = Field(
        None, max_length=1_024, description="`poll`: what the path must have before the document's name, `/zombie/`."
    )
    status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = Field(
        (503,), max_length=20, description="`shed`: the statuses that mean turned away."
    )
    version: Ref | None = Field(
        None, description="`shed`: where the version is that the server told (`field:sent_http_zombie_version`); lines "
        "without one are no evidence. By default the status suffices.",
    )  # fmt: skip
    queued_at: Ref | None = Field(None, description="`queue`: where the time is at which it was queued.")
    incident: Ref | None = Field(None, description="`queue`: where the incident is.")
    replayed_at: Ref | None = Field(
        None, description="`queue`: when it was replayed; by default the time of the line where it has one."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.log_format is not None and self.format != "nginx":
            raise ValueError(f"log_format is for nginx, not for {self.format}")
        if self.evidence == "queue" and (self.queued_at is None or self.incident is None):
            raise ValueError("evidence queue needs queued_at and incident")
        return self


class UsersRules(Part):
    """`[users]`: a table of users, where logs have another id than buckets, or users have time zones."""

    file: str = Field(max_length=4_096, description="Parquet, CSV or JSON lines.")
    id: str = Field("user", max_length=200, description="The column with the id that logs have.")
    user: str | None = Field(None, max_length=200, description="The column with the user's id; by default the same.")
    zone: str | None = Field(None, max_length=200, description="The column with the user's time zone (Europe/Berlin).")


class GrantRules(Part):
    """`[grants.NAME]`: whom to grant something, and what."""

    levels: tuple[Literal["shielded", "zombie", "recovering"], ...] = Field(
        (), description="Only time at these levels counts; by default at any."
    )
    off: tuple[Feature, ...] = Field(
        (), max_length=100, description="Only time counts in which one of these features was off; by default any."
    )
    incidents: tuple[str, ...] = Field((), max_length=1_000, description="Only these incidents; by default all.")
    minutes: float = Field(
        0.0, ge=0, le=1e6, description="How many minutes must come together at least, within one incident."
    )
    dates: tuple[Day, ...] = Field((), max_length=366, description="Only time on these local days counts.")
    between: tuple[Clock, Clock] = Field(
        ("00:00", "24:00"), description="Only time between these local times counts; the second may be on the next day."
    )
    zone: Zone = Field("UTC", description="The time zone of days and times, for users without one of their own.")
    payload: dict[Annotated[str, Field(min_length=1, max_length=100)], str | int | float | bool] = Field(
        default_factory=dict, max_length=PAYLOAD_MAX, description="What the receiver is told beside the grant."
    )

    @property
    def crosses_midnight(self) -> bool:
        """Whether `between` ends on the next day."""
        return self.between[1] <= self.between[0]


def _is_bare(url: object) -> object:
    if isinstance(url, str) and "@" in urlsplit(url).netloc:
        raise ValueError("has a user name or password; put the secret into the environment and name it in secret_env")
    return url


def _is_safe(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("is not https://, and user ids would pass in the clear")
    return url


class WebhookRules(Part):
    """`[webhook]`: who is called."""

    url: Annotated[Address, BeforeValidator(_is_bare), AfterValidator(_is_safe)] = Field(
        description="An https:// address that takes POST."
    )
    secret_env: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]{0,99}$", description="The environment variable with the secret."
    )
    header: str = Field(
        "Authorization",
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="The header that carries the secret, whole.",
    )
    batch: int = Field(1, ge=1, le=BATCH_MAX, description="Grants in one call.")
    concurrency: int = Field(4, ge=1, le=CONCURRENCY_MAX, description="Calls under way at one time.")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Seconds after which no answer has come.")
    attempts: int = Field(6, ge=1, le=ATTEMPTS_MAX, description="Attempts of one call within a run.")
    backoff_s: float = Field(1.0, ge=0, le=300, description="Seconds before the second attempt; doubled each time.")


class RepairRules(Whole):
    """A rules file of repair."""

    app: App = Field(description="The app whose document it is.")
    spans: SpanRules = Field(default_factory=SpanRules, description="How evidence becomes time.")
    logs: dict[Name, LogRules] = Field(min_length=1, max_length=LOGS_MAX, description="What logs there are.")
    users: UsersRules | None = Field(None, description="A table of users.")
    grants: dict[Name, GrantRules] = Field(default_factory=dict, max_length=GRANTS_MAX, description="Who gets what.")
    webhook: WebhookRules | None = Field(None, description="Who is called.")

    def faults(self) -> Iterator[str]:
        """What cannot be read though each key is possible by itself."""
        from flashcast.zombie.repair.formats import format_fault

        for name, log in self.logs.items():
            if fault := format_fault(log):
                yield f"logs.{name}.{fault}"


def load_repair_rules(path: Path) -> RepairRules:
    """The rules in a TOML file. Raises InputError with everything that is wrong."""
    return repair_rules_of(read_toml(path, RULES_BYTES_MAX, REMEDY), str(path))


def repair_rules_of(raw: dict[str, Any], where: str = "the rules of repair") -> RepairRules:
    """The rules from plain values. Raises InputError with everything that is wrong."""
    return whole_of(RepairRules, raw, where, REMEDY)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a rules file of repair."""
    schema = RepairRules.model_json_schema()
    tidy_schema(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Rules of repair"}
