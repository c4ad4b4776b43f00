"""What a merged message must fulfil, beyond the types of its keys.

Each rule yields faults whose key is relative to the message, such as ``("alert", "title")``; the caller
knows whether that key was written in the variant or in the base message.

Sources: Apple, "Sending notification requests to APNs" (push types, priorities, topic suffixes, the
collapse id's 64 bytes), "Pushing background updates to your app", "Starting and updating Live Activities
with ActivityKit push notifications"; Google, "FCM HTTP v1 API: projects.messages" (data keys and values).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, Final

from flashcast.campaign.faults import Fault, Key
from flashcast.campaign.file import ApnsMessage, FcmMessage
from flashcast.campaign.payload import APS_KEYS, aps_dictionary, fcm_message, push_type
from flashcast.campaign.template import FieldSyntaxError, has_field, parse_text
from flashcast.campaign.variants import Message, strings_of
from flashcast.limits import COLLAPSE_ID_BYTES_MAX
from flashcast.model import UnknownPolicy

TOPIC_SUFFIX: Final = {
    "location": ".location-query",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
}
FCM_DATA_RESERVED: Final = ("from", "message_type")
FCM_DATA_RESERVED_PREFIXES: Final = ("google.", "gcm.")
CONSTANT_KEYS: Final = ("topic", "push_type", "collapse_id", "analytics_label")
"""Strings that take no field: the headers every row shares, and FCM's label of the whole campaign."""
CONTENT_KEYS: Final = {
    "alert": frozenset({"alert", "sound", "badge", "critical", "aps"}),
    "notification": frozenset({"notification", "data", "android", "webpush", "apns"}),
}
"""A key that is missed where a message says nothing -> the keys any of which would say something."""
_ALERT_TEXTS: Final = ("title", "subtitle", "body", "title_loc_key", "subtitle_loc_key", "loc_key")


def message_faults(message: Message, policy: UnknownPolicy) -> Iterator[Fault]:
    """Everything wrong with one merged message. Its keys are relative to the message."""
    yield from _json_faults(message)
    yield from _field_faults(message)
    if isinstance(message, ApnsMessage):
        yield from _apns_faults(message)
        yield from _background_faults(message)
        yield from _apns_payload_faults(message)
    else:
        yield from _fcm_faults(message)
    yield from _resend_faults(message, policy)


def _json_faults(message: Message) -> Iterator[Fault]:
    for table in ("aps", "custom", "android", "webpush", "apns"):
        yield from _not_json(getattr(message, table, None), (table,))


def _not_json(value: Any, key: Key) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _not_json(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_json(item, (*key, index))
    elif isinstance(value, datetime | date | time):
        yield Fault(key, f'JSON has no dates; write it as a text, "{value.isoformat()}", or as a number')
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(key, f"JSON has no {value}")


def _field_faults(message: Message) -> Iterator[Fault]:
    values = message.model_dump(exclude_none=True)
    for key, text in strings_of(values):
        if key[0] in CONSTANT_KEYS:
            if has_field(text):
                yield Fault(key, f"{text!r} has a field, but this value is the same for every row")
            continue
        try:
            parse_text(text)
        except FieldSyntaxError as error:
            yield Fault(key, str(error))
    yield from _key_faults(values, ())


def _key_faults(value: Any, key: Key) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if has_field(name):
                yield Fault((*key, name), "a field can stand in a value, not in a key")
            yield from _key_faults(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _key_faults(item, (*key, index))


def _apns_faults(message: ApnsMessage) -> Iterator[Fault]:
    kind = push_type(message)
    if message.topic is None:
        yield Fault(("topic",), "missing; it is the app's bundle id")
    else:
        yield from _header_faults("topic", message.topic)
        suffix = TOPIC_SUFFIX.get(kind, "")
        if not message.topic.endswith(suffix):
            yield Fault(("topic",), f"{message.topic!r} must end in {suffix!r} for push_type {kind!r}")
    if message.collapse_id is not None:
        yield from _header_faults("collapse_id", message.collapse_id)
        length = len(message.collapse_id.encode(errors="replace"))
        if length > COLLAPSE_ID_BYTES_MAX:
            yield Fault(("collapse_id",), f"has {length} bytes; APNs allows {COLLAPSE_ID_BYTES_MAX}")
    if message.volume is not None and not message.critical:
        yield Fault(("volume",), "is for a critical alert's sound; set critical = true or remove it")
    if kind == "liveactivity":
        if message.priority == 1:
            yield Fault(("priority",), "1 is not one of 10, 5 for push_type 'liveactivity'")
        for name in ("timestamp", "event"):
            if name not in (message.aps or {}):
                yield Fault(("aps", name), "missing; a Live Activity needs it")


def _header_faults(key: str, value: str) -> Iterator[Fault]:
    if not value:
        yield Fault((key,), "is empty")
    elif not (value.isascii() and value.isprintable()) or value != value.strip():
        # RFC 9110 section 5.5; APNs documents no other encoding.
        yield Fault((key,), f"{value!r} travels as a header: printable ASCII, no space at either end")


def _background_faults(message: ApnsMessage) -> Iterator[Fault]:
    kind = push_type(message)
    if kind == "background":
        if message.priority not in (None, 5):
            yield Fault(("priority",), f"{message.priority} is an error for push_type 'background', which needs 5")
        if message.content_available is False:
            yield Fault(("content_available",), "must be true for push_type 'background'")
        for name in ("alert", "sound", "badge", "critical"):
            if getattr(message, name) is not None:
                yield Fault((name,), 'a background push shows nothing; remove it, or set push_type = "alert"')
    elif kind == "alert" and not aps_dictionary(message).keys() & {"alert", "sound", "badge"}:
        yield Fault(("alert",), "missing; push_type 'alert' needs an alert, a sound or a badge")


def _apns_payload_faults(message: ApnsMessage) -> Iterator[Fault]:
    if message.alert is not None and all(getattr(message.alert, name) is None for name in _ALERT_TEXTS):
        yield Fault(("alert",), f"says nothing; set one of {', '.join(_ALERT_TEXTS)}")
    if "aps" in (message.custom or {}):
        yield Fault(("custom", "aps"), "is Apple's own dictionary; its further keys go under 'aps' beside 'custom'")
    own = {
        "alert": "alert",
        "sound": "sound",
        "mutable-content": "mutable_content",
        "content-available": "content_available",
        **{apple: key for key, apple in APS_KEYS.items()},
    }
    for name in message.aps or {}:
        key = own.get(name)
        if key is not None and getattr(message, key) is not None:
            yield Fault(("aps", name), f"is also set by {key}; keep one of them")


def _fcm_faults(message: FcmMessage) -> Iterator[Fault]:
    content = fcm_message(message)
    android = content["android"]
    shown = ("notification", "data", "webpush", "apns")
    has_content = any(content.get(key) for key in shown) or android.keys() & {"notification", "data"}
    if message.notification is None and not has_content:
        yield Fault(("notification",), "missing; a message needs a notification, data, or a platform's own")
    if message.notification is not None and not message.notification.model_fields_set:
        yield Fault(("notification",), "says nothing; set title or body")
    tables: tuple[tuple[Key, Any], ...] = (
        (("data",), message.data),
        (("android", "data"), (message.android or {}).get("data")),
        (("webpush", "data"), (message.webpush or {}).get("data")),
    )
    for key, table in tables:
        for name, value in table.items() if isinstance(table, Mapping) else ():
            if name in FCM_DATA_RESERVED or name.startswith(FCM_DATA_RESERVED_PREFIXES):
                yield Fault((*key, name), "is a key that FCM reserves; choose another name")
            if not isinstance(value, str):
                yield Fault((*key, name), f'{value} is not a text, and FCM takes nothing else here; write "{value}"')
    for table_name in ("android", "webpush", "apns"):
        if "token" in (getattr(message, table_name) or {}):
            yield Fault((table_name, "token"), "the device token comes from the audience; remove it")


def _resend_faults(message: Message, policy: UnknownPolicy) -> Iterator[Fault]:
    if policy is not UnknownPolicy.RESEND:
        return
    why = 'unknown_policy "resend" may send twice, and only this lets the phone show one'
    if isinstance(message, ApnsMessage):
        if message.collapse_id is None:
            yield Fault(("collapse_id",), f"missing; {why}")
        return
    android = fcm_message(message)["android"]
    notification = android.get("notification")
    tagged = isinstance(notification, Mapping) and notification.get("tag")
    if not android.get("collapse_key") and not tagged:
        yield Fault(("collapse_key",), f"missing, and so is tag; {why}")
