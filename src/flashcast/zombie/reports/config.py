"""The file of complaints, TOML: where they come from, which feature they are about, when there are too many.

Secrets are not in it: FLASHCAST_ZOMBIE_REPORTS_TOKEN is what trusted senders and readers show, and
FLASHCAST_ZOMBIE_REPORTS_USER_KEY the key by which users are hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flashcast.errors import EnvironmentFault, InputError
from flashcast.zombie.document import App, Feature
from flashcast.zombie.reports import bounds
from flashcast.zombie.rule_parts import Name, told
from flashcast.zombie.toml_file import read_toml

OTHER: Final = "other"
"""The feature of complaints that name none."""
REMEDY: Final = "docs/guides/zombie-reports.md tells every key."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name. Raises ValueError where it is not known here."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError("is no time zone, such as Europe/Berlin") from None
    except KeyError:
        raise ValueError("is no time zone that is known here; on a slim system install tzdata") from None


def _is_zone(name: str) -> str:
    zone_of(name)
    return name


def _is_pattern(pattern: str) -> str:
    from flashcast.zombie.reports.sorting import check_pattern

    check_pattern(pattern)
    return pattern


def _has_letters(word: str) -> str:
    if not word.strip():
        raise ValueError("is empty")
    return word


def _is_origin(origin: str) -> str:
    if origin != "*" and not (origin.startswith(("https://", "http://")) and origin.count("/") == 2):
        raise ValueError('is no origin, such as https://www.example.com, nor "*"')
    return origin


Zone = Annotated[str, Field(max_length=64), AfterValidator(_is_zone)]
Word = Annotated[str, Field(max_length=64), AfterValidator(_has_letters)]
Pattern = Annotated[str, Field(min_length=1, max_length=bounds.PATTERN_CHARS_MAX), AfterValidator(_is_pattern)]
Origin = Annotated[str, Field(max_length=256), AfterValidator(_is_origin)]


class SourceOf(_Part):
    """`[sources.NAME]`: where complaints come from."""

    via: Literal["endpoint", "import"] = Field(
        "endpoint", description="How they come. While the endpoint runs, its sources count as heard."
    )
    open: bool = Field(False, description="Whether apps may send without a token, within `[endpoint]`'s rates.")
    alarm: bool | None = Field(
        None, description="Whether the alarm counts them; by default those that come by the endpoint."
    )
    late_s: float = Field(
        120.0, gt=0, le=86_400, description="Seconds after which a source of the alarm that is not heard is missing."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.open and self.via != "endpoint":
            raise ValueError("only sources of the endpoint can be open")
        return self

    @property
    def counts(self) -> bool:
        """`alarm`, or what it is by default."""
        return self.via == "endpoint" if self.alarm is None else self.alarm


class FeatureOf(_Part):
    """`[features.NAME]`: which complaints are about it. The first feature of the file that fits has the complaint."""

    names: tuple[Word, ...] = Field(
        (), max_length=bounds.WORDS_MAX, description="What else the feature is called where a complaint names it."
    )
    words: tuple[Word, ...] = Field(
        (), max_length=bounds.WORDS_MAX, description="Whole words or phrases of the text, in any case."
    )
    patterns: tuple[Pattern, ...] = Field(
        (), max_length=bounds.PATTERNS_MAX, description="Regular expressions (RE2) found anywhere, in any case."
    )

    def fault(self) -> str:
        """What is wrong with the patterns together, which are asked as one: RE2 bounds its size. Empty for nothing."""
        from flashcast.zombie.reports.sorting import check_pattern, joined

        try:
            check_pattern(joined(self.patterns))
        except ValueError:
            return "together are too large for RE2; use `words`, or fewer of them"
        return ""


class AlarmOf(_Part):
    """`[alarm]`: when there are too many."""

    windows_m: tuple[Annotated[int, Field(ge=5, le=720)], ...] = Field(
        (10, 30, 60), min_length=1, max_length=bounds.WINDOWS_MAX,
        description="Minutes that are counted, up to now. Short ones find large spikes quickly, long ones small ones.",
    )  # fmt: skip
    days: int = Field(14, ge=3, le=bounds.DAYS_MAX, description="Earlier days to compare with.")
    same_weekday: bool = Field(False, description="Compare with the same day of earlier weeks; `days` counts them.")
    days_min: int = Field(
        3, ge=2, le=bounds.DAYS_MAX, description="With fewer days on which all was heard there is no alarm."
    )
    factor: float = Field(3.0, ge=1, le=1_000, description="An alarm needs so many times what is expected.")
    minimum: int = Field(10, ge=1, le=1_000_000, description="An alarm needs so many complaints.")
    chance_max: float = Field(
        1e-6, gt=0, le=0.05, description="An alarm needs that chance alone brings as many no more often than this."
    )

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.days_min > self.days:
            raise ValueError(f"days_min {self.days_min} is more than days {self.days}")
        return self


class EndpointOf(_Part):
    """`[endpoint]`: what apps without a token may do."""

    origins: tuple[Origin, ...] = Field(
        (), max_length=bounds.ORIGINS_MAX, description='Web pages that may send to open sources (CORS); `"*"`: any.'
    )
    client_per_minute: float = Field(
        6.0, gt=0, le=1e6, description="Complaints without a token from one address (IPv6: one /64)."
    )
    client_burst: int = Field(20, ge=1, le=100_000, description="As many at once.")
    all_per_minute: float = Field(3_000.0, gt=0, le=1e7, description="Complaints without a token from all together.")
    all_burst: int = Field(6_000, ge=1, le=1_000_000, description="As many at once.")


class Profile(_Part):
    """`[profiles.NAME]`: what the columns of an export are called."""

    columns: dict[
        Literal["id", "time", "feature", "text", "platform", "version", "locale", "user", "rating"],
        Annotated[str, Field(max_length=200)] | tuple[Annotated[str, Field(max_length=200)], ...],
    ] = Field(
        min_length=1,
        description="From our names to the export's: `id`, `time`, `feature`, `text`, `platform`, `version`, `locale`, "
        "`user`, `rating`. Several columns are joined. In JSON a dot leads into an object.",
    )
    source: Name | None = Field(None, description="The source, where the command does not say.")
    time_unit: Literal["s", "ms"] = Field("s", description="What a time is that is a bare number.")
    zone: Zone | None = Field(None, description="The time zone of times that have none.")
    rating_max: float | None = Field(
        None, ge=0, le=100, description="Rows with a higher rating are praise, and passed over."
    )
    platform: str | None = Field(
        None, max_length=bounds.LABEL_CHARS_MAX, description="The platform of all rows, where no column says."
    )


class ReportsConfig(_Part):
    """A file of complaints."""

    app: App = Field(description="The app. One file, and one store, for each.")
    store: str = Field("reports.sqlite3", min_length=1, description="The SQLite file, beside this one.")
    zone: Zone = Field("UTC", description="Where your users are awake: the hours of days are compared in it.")
    keep_days: int = Field(60, ge=4, le=bounds.KEEP_DAYS_MAX, description="Days after which a complaint is deleted.")
    keep_text: bool = Field(False, description="Whether texts are kept. They are personal data; counts need none.")
    users: Literal["drop", "hash"] = Field(
        "drop", description="What is kept of users: nothing, or a keyed hash, so that each counts once in a window."
    )
    sources: dict[Name, SourceOf] = Field(
        min_length=1, max_length=bounds.SOURCES_MAX, description="Where complaints come from."
    )
    features: dict[Feature, FeatureOf] = Field(
        default_factory=dict, max_length=bounds.FEATURES_MAX, description="Which complaints are about what."
    )
    alarm: AlarmOf = Field(default_factory=AlarmOf, description="When there are too many.")
    endpoint: EndpointOf = Field(default_factory=EndpointOf, description="What apps without a token may do.")
    profiles: dict[Name, Profile] = Field(
        default_factory=dict, max_length=bounds.PROFILES_MAX, description="Exports whose columns have other names."
    )

    @property
    def watched(self) -> tuple[str, ...]:
        """The sources of the alarm."""
        return tuple(name for name, source in self.sources.items() if source.counts)

    @cached_property
    def time_zone(self) -> ZoneInfo:
        """`zone`, loaded."""
        return zone_of(self.zone)

    def faults(self) -> list[str]:
        """What cannot be meant though each key is possible by itself."""
        found = []
        back = self.alarm.days * (7 if self.alarm.same_weekday else 1) + 1
        if back > self.keep_days:
            found.append(f"keep_days: {self.keep_days} is less than the {back} that alarm.days needs")
        if OTHER in self.features:
            found.append(f"features.{OTHER}: is the name of what no feature fits")
        if sum(len(feature.patterns) for feature in self.features.values()) > bounds.PATTERNS_IN_ALL_MAX:
            found.append(f"features: have more than {bounds.PATTERNS_IN_ALL_MAX} patterns in all; `words` are cheaper")
        found += [f"features.{name}.patterns: {why}" for name, one in self.features.items() if (why := one.fault())]
        for name, profile in self.profiles.items():
            if profile.source is not None and profile.source not in self.sources:
                found.append(f"profiles.{name}.source: there is no source {profile.source!r}")
        return found


def load_config(path: Path) -> ReportsConfig:
    """The file at ``path``; its store is made relative to it. Raises InputError with everything that is wrong."""
    found = config_of(read_toml(path, bounds.CONFIG_BYTES_MAX, REMEDY), str(path))
    return found.model_copy(update={"store": str(path.parent / found.store)})


def config_of(raw: Mapping[str, Any], where: str = "the reports file") -> ReportsConfig:
    """The same from plain values."""
    try:
        # Lists stand for tuples; strict otherwise, so that "3" is no number.
        config = ReportsConfig.model_validate(_tuples(raw))
    except ValidationError as error:
        found = [told(fault) for fault in error.errors(include_url=False)]
    else:
        found = config.faults()
        if not found:
            return config
    raise InputError("\n".join([f"{where} is wrong:", *(f"  {fault}" for fault in found)]), remedy=REMEDY)


def secret(name: str, value: str | None) -> bytes | None:
    """A secret from the variable ``name``, which may be empty. Raises EnvironmentFault where it is too short."""
    if not value:
        return None
    if len(value) < bounds.SECRET_CHARS_MIN or not value.isascii() or not value.isprintable() or " " in value:
        raise EnvironmentFault(
            f"{name} is no secret: it needs at least {bounds.SECRET_CHARS_MIN} letters, without spaces",
            remedy="Make one with `openssl rand -hex 32`.",
        )
    return value.encode()


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
