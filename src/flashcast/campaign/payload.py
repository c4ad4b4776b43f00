"""From a merged message to what the provider reads: headers and JSON.

Sources: Apple, "Generating a remote notification" and "Sending notification requests to APNs"; Google,
"FCM HTTP v1 API: projects.messages".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from flashcast.campaign.file import ApnsMessage, FcmMessage
from flashcast.campaign.variants import laid_over

APS_KEYS: Final = {
    "badge": "badge",
    "category": "category",
    "thread_id": "thread-id",
    "target_content_id": "target-content-id",
    "interruption_level": "interruption-level",
    "relevance_score": "relevance-score",
    "filter_criteria": "filter-criteria",
}
"""Campaign key -> key of the ``aps`` dictionary, where the value is taken as it is."""


def push_type(message: ApnsMessage) -> str:
    """The push type, `alert` where none is given."""
    return message.push_type or "alert"


def apns_headers(message: ApnsMessage) -> tuple[tuple[str, str], ...]:
    """The request's own headers.

    ``apns-expiration`` is ``0`` (deliver now or never), absolute Unix seconds, or, for seconds after GO,
    ``+`` and the seconds: a sealed template must not depend on when it was sealed, so the provider layer
    turns ``+3600`` into absolute seconds when it learns the time.
    """
    background = push_type(message) == "background"
    headers = [
        ("apns-topic", message.topic or ""),
        ("apns-push-type", push_type(message)),
        ("apns-priority", str(message.priority or (5 if background else 10))),
        ("apns-expiration", _expiration(message.expiration)),
    ]
    if message.collapse_id is not None:
        headers.append(("apns-collapse-id", message.collapse_id))
    return tuple(headers)


def _expiration(value: datetime | int | None) -> str:
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    return f"+{value}" if value else "0"


def apns_payload(message: ApnsMessage) -> dict[str, Any]:
    """The payload, with fields still in its strings."""
    return {"aps": aps_dictionary(message), **(message.custom or {})}


def aps_dictionary(message: ApnsMessage) -> dict[str, Any]:
    """Apple's own part of the payload."""
    aps: dict[str, Any] = {}
    if message.alert is not None:
        aps["alert"] = {
            key.replace("_", "-"): value for key, value in message.alert.model_dump(exclude_none=True).items()
        }
    sound = _sound(message)
    if sound is not None:
        aps["sound"] = sound
    for key, apple_key in APS_KEYS.items():
        value = getattr(message, key)
        if value is not None:
            aps[apple_key] = value
    if message.mutable_content:
        aps["mutable-content"] = 1
    if message.content_available or push_type(message) == "background":
        aps["content-available"] = 1
    return aps | (message.aps or {})


def _sound(message: ApnsMessage) -> str | dict[str, Any] | None:
    if not message.critical:
        return message.sound
    sound: dict[str, Any] = {"critical": 1, "name": message.sound or "default"}
    return sound if message.volume is None else {**sound, "volume": message.volume}


def fcm_message(message: FcmMessage) -> dict[str, Any]:
    """The message object without its token, with fields still in its strings."""
    notification = message.notification.model_dump(exclude_none=True) if message.notification else {}
    android_notification = _without_none({"channel_id": message.channel, "tag": message.tag})
    android = _without_none(
        {
            "priority": message.priority,
            "ttl": f"{message.ttl_s or 0}s",
            "collapse_key": message.collapse_key,
            "restricted_package_name": message.restricted_package_name,
            "notification": android_notification or None,
        }
    )
    options = {"analytics_label": message.analytics_label} if message.analytics_label is not None else None
    return _without_none(
        {
            "notification": _without_none({**notification, "image": message.image}) or None,
            "data": message.data or None,
            "android": laid_over(android, message.android or {}),
            "webpush": message.webpush,
            "apns": message.apns,
            "fcm_options": options,
        }
    )


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
