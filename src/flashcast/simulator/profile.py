"""How a simulated provider behaves: a TOML file, or one of the built-in `ideal`, `realistic` and `hostile`.

What happens to a device is decided by its token and the seed alone (`verdict`), never by the order in which
requests arrive, so that a run repeats. What happens to a connection is decided by how many requests it has
carried.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flashcast.errors import ConfigError
from flashcast.limits import FCM_STREAMS, REPLY_DEADLINE_S
from flashcast.model import Provider
from flashcast.outcomes import APNS_STATUS, FCM_STATUS, Reason

STREAMS_MAX: Final = 4_000
"""Streams a profile may allow: a connection keeps room for this many unanswered requests."""
WIRE_FAULTS: Final = ("silence", "reset", "refused", "cut")
REPLY_STYLES: Final = (
    "padded",
    "continuation",
    "informational",
    "unknown-frames",
    "split-data",
    "literal",
    "trailers",
)
LATENCY_STEPS: Final = 4_096
"""A latency distribution is drawn from this many quantiles."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Table):
    """How long after a request its reply is written."""

    kind: Literal["constant", "uniform", "lognormal"] = Field(
        "constant",
        description="`constant` (ms), `uniform` (min_ms to max_ms), `lognormal` (median_ms, sigma).",
    )
    ms: float = Field(0.0, ge=0, description="The delay of `constant`, in milliseconds.")
    min_ms: float = Field(0.0, ge=0, description="The least delay of `uniform`.")
    max_ms: float = Field(
        0.0, ge=0, description="The greatest delay of `uniform`; caps `lognormal` where set."
    )
    median_ms: float = Field(0.0, ge=0, description="The median of `lognormal`.")
    sigma: float = Field(
        0.5, gt=0, le=3, description="The spread of `lognormal`: the deviation of the logarithm."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Latency:
        if self.kind == "uniform" and self.max_ms < self.min_ms:
            raise ValueError(f"max_ms {self.max_ms:g} is less than min_ms {self.min_ms:g}")
        return self

    def quantiles_ms(self) -> list[float]:
        """One value for a constant, else `LATENCY_STEPS` equally likely ones."""
        if self.kind == "constant":
            return [self.ms]
        middles = [(step + 0.5) / LATENCY_STEPS for step in range(LATENCY_STEPS)]
        if self.kind == "uniform":
            return [self.min_ms + p * (self.max_ms - self.min_ms) for p in middles]
        normal = NormalDist(0.0, self.sigma)
        drawn = [self.median_ms * 2.718281828459045 ** normal.inv_cdf(p) for p in middles]
        return [min(value, self.max_ms) for value in drawn] if self.max_ms else drawn

    @property
    def mean_ms(self) -> float:
        values = self.quantiles_ms()
        return sum(values) / len(values)


class Reply(_Table):
    """One way, other than success, in which some devices' requests are answered."""

    reason: str = Field(
        description="A reason of the provider, or `silence` (taken, never answered), `reset` (taken, RST_STREAM "
        "INTERNAL_ERROR), `refused` (not taken, RST_STREAM REFUSED_STREAM), `cut` (taken, the connection ends inside "
        "the reply)."
    )
    share: Share = Field(description="The share of tokens it happens to.")
    attempts: int = Field(
        0,
        ge=0,
        le=100,
        description="How many of a token's first requests are answered so: 1 to this many, by token; 0 all of them.",
    )
    taken: bool | None = Field(
        None,
        description="Whether the message was taken all the same. By default as the provider means the reason.",
    )
    retry_after_s: int | None = Field(
        None, ge=0, le=3600, description="Adds a Retry-After header to the reply."
    )


class StreamChange(_Table):
    """A new SETTINGS_MAX_CONCURRENT_STREAMS in mid-flight."""

    after: int = Field(ge=1, description="Requests on the connection since the last change (or its opening).")
    streams: int = Field(ge=1, le=STREAMS_MAX, description="The new limit.")


class TableChange(_Table):
    """A new SETTINGS_HEADER_TABLE_SIZE in mid-flight."""

    after: int = Field(ge=1, description="Requests on the connection since the last change (or its opening).")
    bytes: int = Field(ge=0, le=65_536, description="The new size.")


class IdleClose(_Table):
    """When connections that carry no requests are closed."""

    min_s: float = Field(
        gt=0, description="The least time without a request after which a connection is closed, in seconds."
    )
    max_s: float = Field(
        gt=0, description="The greatest such time; each connection draws its own between the two, by the seed."
    )
    abrupt_share: Share = Field(
        0.0,
        description="The share of these closes that just end the connection, as middleboxes do; the others say GOAWAY "
        "(NO_ERROR) first.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> IdleClose:
        if self.max_s < self.min_s:
            raise ValueError(f"max_s {self.max_s:g} is less than min_s {self.min_s:g}")
        return self


class ProviderProfile(_Table):
    """`[apns]` and `[fcm]`: one provider's behaviour."""

    latency: Latency = Field(
        default_factory=lambda: Latency(), description="Delay from a request's last byte to its reply."
    )
    replies: tuple[Reply, ...] = Field(
        (), description="What happens to some devices; the other requests are accepted."
    )
    streams: int = Field(1_000, ge=1, le=STREAMS_MAX, description="SETTINGS_MAX_CONCURRENT_STREAMS.")
    streams_before_auth: int | None = Field(
        None,
        ge=1,
        le=STREAMS_MAX,
        description="The limit until the connection's first request with valid credentials.",
    )
    stream_changes: tuple[StreamChange, ...] = Field(
        (), description="Later limits, one after the other, then again from the first."
    )
    goaway_every: int = Field(
        0, ge=0, description="GOAWAY after about this many requests on a connection; 0 never."
    )
    goaway_reason: str = Field("Shutdown", description="The reason in GOAWAY's debug data.")
    idle_close: IdleClose | None = Field(
        None, description="Closes connections that carry nothing, or nothing but PINGs; see below. None: never."
    )
    silence_then_goaway: bool = Field(
        False,
        description="After a silent stream the connection takes no new ones (GOAWAY), so that a later `cut` cannot "
        "end the silence early.",
    )
    quota: int = Field(
        0, ge=0, description="Requests per quota window over all connections, then 429; 0 no quota."
    )
    quota_window_s: float = Field(60.0, gt=0, description="The quota's bucket is refilled whole this often.")
    connection_window_bytes: int = Field(
        1 << 24, ge=65_535, le=2**31 - 1, description="Our connection flow-control window."
    )
    stream_window_bytes: int = Field(65_535, ge=1, le=2**31 - 1, description="SETTINGS_INITIAL_WINDOW_SIZE.")
    small_window_share: Share = Field(
        1.0,
        description="The share of connections that get the two windows above; the others get ample ones "
        "(16 MiB, 65,535 bytes).",
    )
    window_update_bytes: int = Field(
        0, ge=0, description="Bytes taken before the connection window is given back; 0 for half the window."
    )
    header_table_bytes: int = Field(4_096, ge=0, le=65_536, description="SETTINGS_HEADER_TABLE_SIZE.")
    header_table_changes: tuple[TableChange, ...] = Field(
        (), description="Later sizes, one after the other, then again from the first."
    )
    slow_read_share: Share = Field(0.0, description="The share of connections that are read slowly.")
    slow_read_bytes_per_ms: int = Field(64, ge=1, description="How fast those are read.")
    ping_every: int = Field(0, ge=0, description="PING after this many requests on a connection; 0 never.")
    reply_styles: tuple[
        Literal[
            "padded", "continuation", "informational", "unknown-frames", "split-data", "literal", "trailers"
        ],
        ...,
    ] = Field((), description="Unusual but legal ways to frame a reply.")
    odd_reply_share: Share = Field(0.0, description="The share of replies framed in one of `reply_styles`.")
    interleave: bool = Field(
        False, description="DATA frames of up to eight delayed replies come after all their HEADERS."
    )
    split_every: int = Field(
        0, ge=0, description="Every so many writes go out one byte per TLS record; 0 never."
    )
    split_bytes: int = Field(2_000, ge=1, le=65_536, description="How much of such a write is split.")
    token_updates_max: int = Field(
        10,
        ge=1,
        description="Different provider JWTs a team may show within `token_update_window_s`; then 429 "
        "TooManyProviderTokenUpdates.",
    )
    token_update_window_s: float = Field(1_200.0, gt=0, description="The span of that count.")
    topics: tuple[str, ...] = Field(
        (), description="The topics of this team; any other is TopicDisallowed. Empty: all are known."
    )


class Profile(_Table):
    """The whole of a profile file."""

    name: str = Field("custom", description="What the ready line calls it.")
    reply_deadline_s: float = Field(
        REPLY_DEADLINE_S, gt=0, description="Written to the sender's flashcast.toml."
    )
    access_token_lifetime_s: int = Field(
        3_600, ge=1, description="`expires_in` of the OAuth tokens, and how long FCM takes them."
    )
    tick_ms: float = Field(1.0, gt=0, le=100, description="Delayed replies are written at multiples of this.")
    apns: ProviderProfile = Field(default_factory=lambda: ProviderProfile(), description="How APNs behaves.")
    fcm: ProviderProfile = Field(
        default_factory=lambda: ProviderProfile(streams=FCM_STREAMS),
        description="How FCM behaves; `streams` is 100 by default.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fcm_streams(cls, raw: object) -> object:
        if isinstance(raw, dict) and isinstance(raw.get("fcm"), dict):
            return {**raw, "fcm": {"streams": FCM_STREAMS, **raw["fcm"]}}
        return raw

    @model_validator(mode="after")
    def _replies_fit(self) -> Profile:
        for provider in Provider:
            known = APNS_STATUS if provider is Provider.APNS else FCM_STATUS
            words = {reason.value for reason in known} | set(WIRE_FAULTS)
            replies = self.of(provider).replies
            for reply in replies:
                if reply.reason not in words:
                    raise ValueError(
                        f"{provider}.replies: {provider} has no reason {reply.reason!r}; "
                        f"known: {', '.join(sorted(words))}"
                    )
            if sum(reply.share for reply in replies) > 1.0 + 1e-9:
                raise ValueError(f"{provider}.replies: the shares sum to more than 1")
        return self

    def of(self, provider: Provider) -> ProviderProfile:
        return self.apns if provider is Provider.APNS else self.fcm


_GONE = 0.02
"""The share of devices that are gone in `realistic` and `hostile`."""


def _ideal() -> Profile:
    return Profile(name="ideal", fcm=ProviderProfile(streams=1_000))


def _realistic() -> Profile:
    return Profile(
        name="realistic",
        apns=ProviderProfile(
            latency=Latency(ms=40.0),
            streams_before_auth=1,
            replies=(Reply(reason=Reason.UNREGISTERED.value, share=_GONE),),
        ),
        fcm=ProviderProfile(
            latency=Latency(ms=100.0),
            streams=FCM_STREAMS,
            replies=(Reply(reason=Reason.FCM_UNREGISTERED.value, share=_GONE),),
        ),
    )


def _wire_faults() -> tuple[Reply, ...]:
    # Rare enough that a run of 200,000 devices waits for some dozens of silences and replaces as many connections.
    return (
        Reply(reason="refused", share=0.002, attempts=2),
        Reply(reason="reset", share=0.001, attempts=1),
        Reply(reason="silence", share=1 / 5_000, attempts=1),
        Reply(reason="cut", share=1 / 20_000, attempts=1),
    )


def _misbehaviour(**overrides: object) -> ProviderProfile:
    settings: dict[str, object] = {
        "goaway_every": 6_000,
        "idle_close": IdleClose(min_s=20.0, max_s=60.0),
        "silence_then_goaway": True,
        "connection_window_bytes": 400_000,
        "small_window_share": 0.1,
        "window_update_bytes": 50_000,
        "header_table_changes": (
            TableChange(after=1_500, bytes=0),
            TableChange(after=500, bytes=128),
            TableChange(after=500, bytes=4_096),
        ),
        "slow_read_share": 0.05,
        "slow_read_bytes_per_ms": 2_000,
        "ping_every": 1_000,
        "reply_styles": REPLY_STYLES,
        "odd_reply_share": 0.2,
        "interleave": True,
        "split_every": 40,
        "split_bytes": 500,
    }
    return ProviderProfile.model_validate({**settings, **overrides})


def _hostile() -> Profile:
    return Profile(
        name="hostile",
        reply_deadline_s=2.0,
        apns=_misbehaviour(
            latency=Latency(kind="lognormal", median_ms=8.0, sigma=0.6, max_ms=80.0),
            streams_before_auth=1,
            stream_changes=(
                StreamChange(after=2_000, streams=100),
                StreamChange(after=1_000, streams=1_000),
                StreamChange(after=1_500, streams=1),
                StreamChange(after=10, streams=500),
            ),
            stream_window_bytes=80,
            replies=(
                Reply(reason=Reason.UNREGISTERED.value, share=_GONE),
                Reply(reason=Reason.BAD_DEVICE_TOKEN.value, share=0.002),
                Reply(reason=Reason.TOO_MANY_REQUESTS.value, share=0.001, attempts=2),
                Reply(reason=Reason.TOO_MANY_REQUESTS.value, share=1 / 20_000, attempts=1, retry_after_s=1),
                Reply(reason=Reason.INTERNAL_SERVER_ERROR.value, share=0.001, attempts=2),
                Reply(reason=Reason.SERVICE_UNAVAILABLE.value, share=0.001, attempts=2),
                *_wire_faults(),
            ),
        ),
        fcm=_misbehaviour(
            latency=Latency(kind="uniform", min_ms=2.0, max_ms=30.0),
            streams=FCM_STREAMS,
            stream_changes=(
                StreamChange(after=2_000, streams=20),
                StreamChange(after=500, streams=FCM_STREAMS),
                StreamChange(after=1_500, streams=1),
                StreamChange(after=10, streams=FCM_STREAMS),
            ),
            stream_window_bytes=200,
            quota=60_000,
            quota_window_s=2.0,
            replies=(
                Reply(reason=Reason.FCM_UNREGISTERED.value, share=_GONE),
                Reply(reason=Reason.FCM_INVALID_ARGUMENT.value, share=0.001),
                Reply(reason=Reason.FCM_QUOTA_EXCEEDED.value, share=0.001, attempts=2),
                Reply(reason=Reason.FCM_QUOTA_EXCEEDED.value, share=1 / 20_000, attempts=1, retry_after_s=1),
                Reply(reason=Reason.FCM_UNAVAILABLE.value, share=0.001, attempts=1, taken=True),
                Reply(reason=Reason.FCM_INTERNAL.value, share=0.0005, attempts=1, taken=True),
                *_wire_faults(),
            ),
        ),
    )


BUILT_IN: Final = {"ideal": _ideal, "realistic": _realistic, "hostile": _hostile}


def load_profile(name: str | Path) -> Profile:
    """A built-in profile by name, or one from a TOML file. Raises ConfigError naming the key and its fault."""
    if str(name) in BUILT_IN:
        return BUILT_IN[str(name)]()
    path = Path(name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"profile {str(name)!r} is neither built in nor a file that can be read: {error.strerror}",
            remedy=f"Built in: {', '.join(BUILT_IN)}; docs/reference/simulator.md lists what a file may say.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return Profile.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError(
            f"{path} is wrong:\n{faults}", remedy="docs/reference/simulator.md lists every key."
        ) from None
