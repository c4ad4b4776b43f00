"""The tables of a rules file, one class each. What they are together, and how a file is read: `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_json

from flashcast.errors import InputError
from flashcast.zombie.bounds import (
    DRAIN_S_MAX,
    FEATURES_MAX,
    LOCALES_MAX,
    POLL_S_MAX,
    POLL_S_MIN,
    WAIT_S_MAX,
)
from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.document import Feature, FeatureOrAll, Level, Locale, Text, Writes
from flashcast.zombie.judging import Rule

SIGNALS_MAX: Final = 32
"""Each asks at most one question at a time, in a thread of its own: 32 threads at worst."""
RULES_MAX: Final = 64
STEPS_MAX: Final = 20
SAMPLES_MAX: Final = 3_600
"""Answers of one probe that a window keeps: an hour at one a second."""
QUERY_CHARS_MAX: Final = 4_096
MEASURES: Final = ("failures", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
"""What a probe measures, each over its window."""


def _is_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("is no http:// or https:// address")
    if parts.username or parts.password:
        raise ValueError("has a user name or password; put a token into a file and name it in token_file")
    return url


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Address = Annotated[str, Field(max_length=2_048), AfterValidator(_is_address)]
CaFile = Annotated[
    str | None,
    Field(description="A PEM file of the certificate authorities to trust instead of the system's, for `https://`."),
]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Part(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_authorities(url: str | None, ca_file: str | None) -> None:
    if ca_file is not None and not (url or "").startswith("https://"):
        raise ValueError("ca_file is for https://, and nothing is asked by that")


class HttpSignal(Part):
    """`kind = "http"`: asks an address, and measures over a window how often it fails and how long it takes."""

    kind: Literal["http"] = Field(description="An address that is asked.")
    url: Address = Field(description="What to ask with GET. Redirects are not followed.")
    every_s: float = Field(5.0, ge=0.1, le=300, description="Seconds from one question to the next.")
    timeout_s: float = Field(
        2.0, gt=0, le=30, description="Seconds after which no answer is a failure; it counts with this latency."
    )
    window_s: float = Field(60.0, gt=0, le=3_600, description="Seconds over which it is measured.")
    expect: tuple[Annotated[int, Field(ge=100, le=599)], ...] = Field(
        (), max_length=50, description="Statuses that are no failure; by default 200 to 399."
    )
    token_file: str | None = Field(None, description="A file whose text is sent as bearer token.")
    ca_file: CaFile = None
    fresh_s: float | None = Field(
        None,
        gt=0,
        le=86_400,
        description="Seconds after which it is missing; by default three questions and a timeout.",
    )

    @model_validator(mode="after")
    def _window_is_kept(self) -> Self:
        if not self.every_s <= self.window_s <= SAMPLES_MAX * self.every_s:
            raise ValueError(f"window_s {self.window_s:g} is not between every_s and {SAMPLES_MAX} times every_s")
        _check_authorities(self.url, self.ca_file)
        return self

    @property
    def stale_s(self) -> float:
        """`fresh_s`, or what it is by default."""
        return 3 * self.every_s + self.timeout_s if self.fresh_s is None else self.fresh_s


class PrometheusSignal(Part):
    """`kind = "prometheus"`: an instant query of Prometheus, or of anything with its HTTP API."""

    kind: Literal["prometheus"] = Field(description="A query's value.")
    url: Address = Field(description="Where Prometheus is; `/api/v1/query` is added.")
    query: str = Field(min_length=1, max_length=QUERY_CHARS_MAX, description="An instant query (PromQL).")
    every_s: float = Field(10.0, ge=0.1, le=300, description="Seconds from one query to the next.")
    timeout_s: float = Field(5.0, gt=0, le=30, description="Seconds after which there is no answer.")
    many: Literal["max", "min", "sum", "mean"] | None = Field(
        None, description="What to make of several values; by default the signal is then missing."
    )
    empty: float | None = Field(
        None, description="The value where the query has none (no series, NaN); by default the signal is then missing."
    )
    token_file: str | None = Field(None, description="A file whose text is sent as bearer token.")
    ca_file: CaFile = None
    fresh_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds after which it is missing; by default three queries and a timeout."
    )

    @model_validator(mode="after")
    def _authorities_are_asked(self) -> Self:
        _check_authorities(self.url, self.ca_file)
        return self

    @property
    def stale_s(self) -> float:
        """`fresh_s`, or what it is by default."""
        return 3 * self.every_s + self.timeout_s if self.fresh_s is None else self.fresh_s


class PushedSignal(Part):
    """`kind = "pushed"`: a value that something else brings: a line in a file, or a call of the library."""

    kind: Literal["pushed"] = Field(description="A value that is brought.")
    file: str | None = Field(
        None, description='A file of JSON lines, `{"signal": ..., "value": ..., "at": ...}`; the last one counts.'
    )
    every_s: float = Field(2.0, ge=0.1, le=300, description="Seconds from one look at the file to the next.")
    fresh_s: float = Field(120.0, gt=0, le=86_400, description="Seconds after which it is missing.")

    @property
    def stale_s(self) -> float:
        """`fresh_s`."""
        return self.fresh_s


class ReportsSignal(Part):
    """`kind = "reports"`: whether users complain about a feature more than at this hour of earlier days."""

    kind: Literal["reports"] = Field(description="The alarm of complaints.")
    config: str | None = Field(None, description="The file of complaints, on this machine. Either this or `url`.")
    url: Address | None = Field(None, description="Where `flashcast zombie reports serve` listens; `/alarm` is added.")
    feature: FeatureOrAll = Field("*", description='Of which feature; `"*"` is the worst of all.')
    every_s: float = Field(15.0, ge=1, le=300, description="Seconds from one question to the next.")
    timeout_s: float = Field(5.0, gt=0, le=30, description="Seconds after which there is no answer.")
    token_file: str | None = Field(None, description="A file whose text is sent as bearer token.")
    ca_file: CaFile = None
    fresh_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds after which it is missing; by default 120 and three questions."
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.config is None) is (self.url is None):
            raise ValueError("needs either config or url")
        _check_authorities(self.url, self.ca_file)
        return self

    @property
    def stale_s(self) -> float:
        """`fresh_s`, or what it is by default."""
        return 120 + 3 * self.every_s + self.timeout_s if self.fresh_s is None else self.fresh_s


Signal = Annotated[HttpSignal | PrometheusSignal | PushedSignal | ReportsSignal, Field(discriminator="kind")]
KINDS: Final = ("http", "prometheus", "pushed", "reports")


class RuleOf(Part):
    """`[rules.NAME]`: when a signal is bad, when it is good again, and which level follows."""

    signal: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}(\.[a-z0-9_]+)?$",
        description="A signal's name; a probe's with what it measures, such as `api.p95_ms`.",
    )
    level: Literal["shielded", "zombie"] = Field(description="The level that follows.")
    above: float | None = Field(None, description="It is bad above this. Either this or `below`.")
    below: float | None = Field(None, description="It is bad below this.")
    for_s: Seconds = Field(15.0, description="Seconds for which it must be bad before the level follows.")
    clear: float = Field(description="It is good again at this value; not at the threshold, or it would flap.")
    clear_for_s: Seconds = Field(120.0, description="Seconds for which it must be good before anything is lowered.")
    missing_raises_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None, description="Seconds after which a missing signal counts as bad; by default it only holds what is."
    )
    in_recovery: Literal["step", "level"] | None = Field(
        None,
        description="While users are let back in: `step` takes the last step back, `level` goes to `level` at once. "
        "By default `level` for `zombie`; `shielded` knows only `step`.",
    )

    @model_validator(mode="after")
    def _has_two_thresholds(self) -> Self:
        if (self.above is None) is (self.below is None):
            raise ValueError("needs either above or below")
        if self.above is not None and self.clear >= self.above:
            raise ValueError(f"clear {self.clear:g} is not less than above {self.above:g}")
        if self.below is not None and self.clear <= self.below:
            raise ValueError(f"clear {self.clear:g} is not more than below {self.below:g}")
        if self.level == "shielded" and self.in_recovery == "level":
            raise ValueError('in_recovery "level" is for rules whose level is zombie')
        return self

    def compiled(self, name: str, fresh_s: float) -> Rule:
        """The rule as decisions see it."""
        high = self.above is not None
        limit = self.above if self.above is not None else self.below
        assert limit is not None
        step_back = self.in_recovery == "step" or self.level == "shielded"
        return Rule(
            name=name, signal=self.signal, level=Level(self.level), high=high, limit=limit, for_s=self.for_s,
            clear=self.clear, clear_for_s=self.clear_for_s, fresh_s=fresh_s, missing_raises_s=self.missing_raises_s,
            step_back=step_back,
        )  # fmt: skip


class _Polled(Part):
    poll_s: int = Field(60, ge=POLL_S_MIN, le=POLL_S_MAX, description="Seconds from one poll of an app to the next.")
    poll_jitter_s: int = Field(
        30, ge=0, le=POLL_S_MAX, description="A random share of these seconds is added each time."
    )


class NormalLook(_Polled):
    """`[levels.normal]`: nothing is off; only how often apps ask."""


class Look(_Polled):
    """`[levels.shielded]` and `[levels.zombie]`: what the document says, and how long the level lasts at least."""

    share: float = Field(1.0, gt=0, le=1, description="Share of the users that are in it.")
    off: tuple[FeatureOrAll, ...] = Field(
        min_length=1, max_length=FEATURES_MAX, description='Features that are off; `"*"` is every one not in `keep`.'
    )
    keep: tuple[Feature, ...] = Field(
        (), max_length=FEATURES_MAX, description='Features that stay on where `off` has `"*"`.'
    )
    writes: Writes = Field(
        Writes.SEND, description="`send` or `queue`: what becomes of writes of features that are off."
    )
    drain_s: int = Field(
        600, ge=0, le=DRAIN_S_MAX, description="Seconds over which an app spreads its queued writes when it is back."
    )
    wait_s: int = Field(
        30, ge=1, le=WAIT_S_MAX, description="Seconds before an app tries again what was off or failed."
    )
    message: dict[Locale, Text] = Field(
        default_factory=dict, max_length=LOCALES_MAX, description='What to show, by locale; `"*"` for the others.'
    )
    min_s: Seconds = Field(120.0, description="Seconds the level lasts at least before it is lowered.")

    @property
    def buckets(self) -> int:
        """The buckets that are in it: never none."""
        return max(1, round(BUCKETS * self.share))


ZOMBIE_LOOK: Final = Look(off=("*",), writes=Writes.QUEUE, poll_s=30, poll_jitter_s=15)
"""Where a file says nothing: everything off for everybody, writes wait."""


class Levels(Part):
    """`[levels]`."""

    normal: NormalLook = Field(default_factory=NormalLook, description="How often apps ask when all is well.")
    shielded: Look | None = Field(None, description="Needed where a rule leads there.")
    zombie: Look = Field(
        ZOMBIE_LOOK, description='By default everything is off (`off = ["*"]`, `writes = "queue"`, `poll_s = 30`).'
    )


class Recovery(Part):
    """`[recovery]`: how users are let back in."""

    steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.05, 0.25, 0.5, 1.0),
        min_length=1,
        max_length=STEPS_MAX,
        description="Shares of all users that are back, rising to 1.",
    )
    step_min_s: Seconds = Field(120.0, description="Seconds a step lasts at least before the next.")
    back_min_s: Seconds = Field(60.0, description="Seconds a step lasts at least before it is taken back.")

    @model_validator(mode="after")
    def _rise_to_one(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 1:
            raise ValueError(f"steps {', '.join(f'{step:g}' for step in self.steps)} do not rise to 1")
        return self


class Whole(Part):
    """What a whole file says."""

    def faults(self) -> Iterator[str]:
        """What cannot be meant though each key is possible by itself."""
        raise NotImplementedError


WholeT = TypeVar("WholeT", bound=Whole)


def whole_of(model: type[WholeT], raw: Mapping[str, Any], where: str, remedy: str) -> WholeT:
    """The file called ``where`` from plain values. Raises InputError with everything that is wrong."""
    try:
        said = model.model_validate_json(to_json(raw, inf_nan_mode="strings"))
    except ValidationError as error:
        found = [told(fault) for fault in error.errors(include_url=False)]
    except ValueError:
        found = ["it has a text that is no Unicode"]
    else:
        found = list(said.faults())
        if not found:
            return said
    raise InputError("\n".join([f"{where} is wrong:", *(f"  {fault}" for fault in found)]), remedy=remedy)


def told(fault: Any) -> str:
    """A fault as ``key: what; value was given``."""
    parts = [str(part) for part in fault["loc"]]
    if parts[:1] == ["signals"] and len(parts) > 2 and parts[2] in KINDS:
        del parts[2]  # pydantic names the kind it has chosen
    if parts[-1:] == ["[key]"]:
        parts.pop()
    key = ".".join(parts)
    message = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if fault["type"] == "missing":
        return f"{key}: is missing"
    if fault["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.kind: is missing; it is {_one_of(KINDS)}"
    if fault["type"] == "union_tag_invalid":
        return f"{key}.kind: {fault['ctx']['tag']!r} is not {_one_of(KINDS)}"
    given = fault["input"]
    if fault["type"] == "string_pattern_mismatch":
        return f"{key}: {given!r} does not match {fault['ctx']['pattern']}"
    if parts[-1:] == ["url"] or isinstance(given, dict | list):
        return f"{key}: {message}"  # an address may carry a password
    return f"{key}: {message[0].lower()}{message[1:]}; {given!r} was given"


def _one_of(names: tuple[str, ...]) -> str:
    quoted = [f'"{name}"' for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
