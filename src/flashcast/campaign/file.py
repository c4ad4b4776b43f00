"""The campaign file: every key it may have.

These models say which keys exist and of which type. What a message needs to be whole, and which values
go together, is judged after its variants are merged: see rules.py. So every key is optional here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from flashcast.campaign.records import GuardTerms
from flashcast.limits import WINDOW_S_DEFAULT
from flashcast.model import Provider, UnknownPolicy
from flashcast.zombie.shield import Shield

APNS_STORED_S_MAX = 30 * 86_400
"""APNs stores a notification for at most 30 days."""
FCM_TTL_S_MAX = 28 * 86_400
"""FCM stores a message for at most four weeks."""
NAME_CHARS_MAX = 100
STAGES_MAX = 10
"""Each stage is a look at the replies; ten that double reach from a thousandth of the audience to half of it."""
HOLD_S_DEFAULT = 5.0
"""Replies take some 0.1 s and an answer from a person a few seconds: long enough to see a trend and press abort."""
_BOUNDS = GuardTerms()

PushType = Literal[
    "alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity",
    "pushtotalk", "widgets", "controls",
]  # fmt: skip


def _expiration(value: object) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat(sep='T')} has no offset; write {value.isoformat(sep='T')}Z for UTC")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{_shown(value)} is neither a number of whole seconds nor a date-time")
    if not 0 <= value <= APNS_STORED_S_MAX:
        raise ValueError(f"{value} is not within 0 and {APNS_STORED_S_MAX} seconds (30 days)")
    return value


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Expiration = Annotated[
    Any,
    BeforeValidator(_expiration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": APNS_STORED_S_MAX},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]
_When = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Pace(_Table):
    """`[pace]`: how fast to send, over all workers together. An absent provider is not slowed down."""

    apns: float | None = Field(None, gt=0, description="Messages per second to APNs at most.")
    fcm: float | None = Field(None, gt=0, description="Messages per second to FCM at most.")

    def by_provider(self) -> dict[Provider, float]:
        """Messages per second, of the providers that are slowed down."""
        both = {Provider.APNS: self.apns, Provider.FCM: self.fcm}
        return {provider: rate for provider, rate in both.items() if rate is not None}


class StagePart(_Table):
    """`[[stages]]`: a part of the audience that goes first."""

    share: float | None = Field(
        None, gt=0, lt=1, description="Share of the audience that has been sent to when this stage ends; needed."
    )
    hold_s: float = Field(
        HOLD_S_DEFAULT, ge=0, description="Seconds to look at the replies before the next stage opens by itself."
    )


class Guard(_Table):
    """`[guard]`: what makes a launch pause itself. `guard = false` turns it off."""

    replies: int = Field(
        _BOUNDS.replies, ge=1, description="Replies of one provider before a share of them means anything."
    )
    stop_share: float = Field(
        _BOUNDS.stop_share, gt=0, le=1, description="Pause above this share of replies whose reason stops a launch."
    )
    bad_token_share: float = Field(
        _BOUNDS.bad_token_share, gt=0, le=1, description="Pause above this share of replies that know no such device."
    )


def _guard_or_off(value: object) -> object:
    if value is False:
        return None
    if not isinstance(value, Mapping | Guard):
        shown = "true" if value is True else _shown(value)
        raise ValueError(f"{shown} is neither false nor a table; without the key the guard is on")
    return value


def _false_is_off(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": False})


_GuardOrOff = Annotated[Guard | None, BeforeValidator(_guard_or_off), Field(json_schema_extra=_false_is_off)]
"""None is `guard = false`; TOML has no null that could mean it too."""


class ApnsAlert(_Table):
    """`[apns.alert]`: what the phone shows. Each key is Apple's, with underscores for hyphens."""

    title: str | None = Field(None, description="First line of the alert.")
    subtitle: str | None = Field(None, description="Second line of the alert.")
    body: str | None = Field(None, description="Text of the alert.")
    launch_image: str | None = Field(None, description="Launch image to show when the alert is opened.")
    title_loc_key: str | None = Field(None, description="Key of the title in the app's Localizable.strings.")
    title_loc_args: list[str] | None = Field(None, description="Values for the title's placeholders.")
    subtitle_loc_key: str | None = Field(None, description="Key of the subtitle in the app's Localizable.strings.")
    subtitle_loc_args: list[str] | None = Field(None, description="Values for the subtitle's placeholders.")
    loc_key: str | None = Field(None, description="Key of the text in the app's Localizable.strings.")
    loc_args: list[str] | None = Field(None, description="Values for the text's placeholders.")


class ApnsMessage(_Table):
    """What one APNs message is made of."""

    topic: str | None = Field(
        None,
        description="`apns-topic`: the app's bundle id, with the push type's suffix where it has one. No fields.",
    )
    push_type: PushType | None = Field(None, description="`apns-push-type`; default `alert`.")
    priority: Literal[10, 5, 1] | None = Field(
        None, description="`apns-priority`; default 10, for a background push 5."
    )
    expiration: _Expiration | None = Field(
        None,
        description="`apns-expiration`: seconds after GO, a date-time with an offset, or 0 (default): "
        "deliver now or never.",
    )
    collapse_id: str | None = Field(
        None,
        description="`apns-collapse-id`, at most 64 bytes: a later message with the same id "
        "replaces this one. No fields.",
    )
    alert: ApnsAlert | None = Field(None, description="What the phone shows.")
    sound: str | None = Field(None, description="`sound`: name of a sound in the app, or `default`.")
    critical: bool | None = Field(
        None, description="Whether the sound is a critical alert's; needs Apple's entitlement."
    )
    volume: float | None = Field(None, ge=0, le=1, description="Volume of a critical alert's sound.")
    badge: int | None = Field(None, ge=0, description="`badge`: number on the app's icon; 0 removes it.")
    category: str | None = Field(None, description="`category`: which actions the notification offers.")
    thread_id: str | None = Field(None, description="`thread-id`: groups notifications.")
    mutable_content: bool | None = Field(
        None, description="`mutable-content`: lets the app's service extension change the notification first."
    )
    content_available: bool | None = Field(
        None,
        description="`content-available`: wakes the app in the background; always set for a background push.",
    )
    target_content_id: str | None = Field(None, description="`target-content-id`: the window to bring forward.")
    interruption_level: Literal["passive", "active", "time-sensitive", "critical"] | None = Field(
        None, description="`interruption-level`: how much the notification may disturb."
    )
    relevance_score: float | None = Field(
        None, ge=0, le=1, description="`relevance-score`: rank in the notification summary."
    )
    filter_criteria: str | None = Field(None, description="`filter-criteria`: what a Focus filters by.")
    aps: dict[str, Any] | None = Field(
        None, description="Further keys of the `aps` dictionary as raw JSON, for example a Live Activity's."
    )
    custom: dict[str, Any] | None = Field(None, description="The app's own data, beside `aps`; must not contain `aps`.")


class FcmNotification(_Table):
    """`[fcm.notification]`: what the phone shows on every platform."""

    title: str | None = Field(None, description="Title of the notification.")
    body: str | None = Field(None, description="Text of the notification.")


class FcmMessage(_Table):
    """What one FCM message is made of."""

    notification: FcmNotification | None = Field(None, description="What the phone shows.")
    image: str | None = Field(None, description="`notification.image`: address of a picture.")
    data: dict[str, str] | None = Field(
        None,
        description="The app's own data; every value is a string. `from`, `message_type`, `google.*` and "
        "`gcm.*` are reserved.",
    )
    priority: Literal["high", "normal"] | None = Field(None, description="`android.priority`; without it FCM decides.")
    ttl_s: int | None = Field(
        None,
        ge=0,
        le=FCM_TTL_S_MAX,
        description="`android.ttl` in seconds: how long FCM keeps trying. Default 0: deliver now or never.",
    )
    collapse_key: str | None = Field(
        None,
        description="`android.collapse_key`: a later message with the same key replaces this one "
        "while it is undelivered.",
    )
    channel: str | None = Field(None, description="`android.notification.channel_id`: the app's notification channel.")
    tag: str | None = Field(
        None,
        description="`android.notification.tag`: a later notification with the same tag "
        "replaces this one on the phone.",
    )
    restricted_package_name: str | None = Field(
        None, description="`android.restricted_package_name`: the only app that may receive it."
    )
    analytics_label: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9\-_.~%]{1,50}$",
        description="`fcm_options.analytics_label`: groups messages in Firebase's figures. No fields.",
    )
    android: dict[str, Any] | None = Field(None, description="Raw JSON laid over the message's `android` object.")
    webpush: dict[str, Any] | None = Field(None, description="Raw JSON of the message's `webpush` object.")
    apns: dict[str, Any] | None = Field(
        None, description="Raw JSON of the message's `apns` object, for Apple devices addressed through FCM."
    )


class _Variant(_Table):
    when: _When | None = Field(
        None,
        description="Values of the `variant_by` column that get this variant, one or a list; "
        "without it: every other row.",
    )
    arm: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description="Name among the variants with the same `when`: an A/B arm.",
    )
    weight: float | None = Field(
        None, ge=0, description="Share of the rows among the arms with the same `when`; default 1."
    )


class ApnsVariant(ApnsMessage, _Variant):
    """`[[apns.variants]]`: the keys it sets are laid over those of `[apns]`."""


class FcmVariant(FcmMessage, _Variant):
    """`[[fcm.variants]]`: the keys it sets are laid over those of `[fcm]`."""


class _Section(_Table):
    variant_by: str | None = Field(
        None,
        min_length=1,
        description="The audience's column that chooses the variant, for example `locale`.",
    )
    variant_match: Literal["locale", "exact"] | None = Field(
        None,
        description="`locale`: `de-AT` falls back to `de`, in any case, with `-` or `_`; "
        "`exact`: the very value. Default `locale` for a column named locale, language or lang, else `exact`.",
    )


class ApnsSection(ApnsMessage, _Section):
    """`[apns]`: the message for Apple devices, and its variants."""

    variants: list[ApnsVariant] = Field(default=[], description="Messages for some of the rows.")


class FcmSection(FcmMessage, _Section):
    """`[fcm]`: the message for devices that Firebase reaches, and its variants."""

    variants: list[FcmVariant] = Field(default=[], description="Messages for some of the rows.")


class Campaign(_Table):
    """A campaign: what to say, to which devices in which words, and how to send it."""

    name: str = Field(
        min_length=1,
        max_length=NAME_CHARS_MAX,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="What people call it; A/B arms depend on it.",
    )
    window_s: float = Field(
        WINDOW_S_DEFAULT, gt=0, description="Seconds after GO in which to send; what is left then expires."
    )
    unknown_policy: Literal["drop", "resend"] = Field(
        "drop",
        description="What to do when it is unknown whether a message was taken: `drop` never repeats it, "
        "`resend` repeats it and needs an APNs collapse id and an FCM collapse key or tag.",
    )
    require_approval: bool = Field(
        False,
        description="Whether GO needs the word of a second operator for exactly this campaign, snapshot and "
        "destination.",
    )
    pace: Pace = Field(default=Pace(), description="How fast to send.")
    stages: list[StagePart] = Field(
        default=[], max_length=STAGES_MAX, description="Parts of the audience that go first; after them all the rest."
    )
    guard: _GuardOrOff = Field(
        default=Guard(), description="The misfire guard's bounds, or `false`: it pauses a launch that goes wrong."
    )
    shield: Shield | None = Field(
        None, description="Features of the app that are off while the herd comes; see the guide to zombie mode."
    )
    apns: ApnsSection | None = Field(None, description="The message for Apple devices.")
    fcm: FcmSection | None = Field(None, description="The message for devices that Firebase reaches.")

    def __repr__(self) -> str:
        told = ", ".join(f"{p}: {len(s.variants)} variants" for p, s in self.sections().items())
        return f"<Campaign {self.name!r}, {told}>"

    @property
    def policy(self) -> UnknownPolicy:
        """``unknown_policy``, typed."""
        return UnknownPolicy(self.unknown_policy)

    def sections(self) -> dict[Provider, ApnsSection | FcmSection]:
        """The providers this campaign has a message for."""
        both: dict[Provider, ApnsSection | FcmSection | None] = {
            Provider.APNS: self.apns,
            Provider.FCM: self.fcm,
        }
        return {provider: section for provider, section in both.items() if section is not None}

    def columns_needed(self, provider: Provider | None = None) -> set[str]:
        """The audience's columns that must exist: those of fields and of ``variant_by``.

        A field's fallback stands in for a null or empty value, never for a missing column.
        ``provider`` limits the answer to that provider's message.
        """
        from flashcast.campaign.variants import column_uses

        return {
            column
            for candidate, section in self.sections().items()
            if provider in (None, candidate)
            for _, column in column_uses(candidate, section)
        }
