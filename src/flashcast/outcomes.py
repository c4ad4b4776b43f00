"""What can become of a row, why, and what to do about it: three closed sets.

Sender, simulator and report share these; nothing else about a reply travels as a bare string.

Sources: Apple, "Handling notification responses from APNs"; Google, "FCM error codes"
(firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode).
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

from flashcast.model import Provider


class Outcome(IntEnum):
    """One byte per row in the journal. The first six are the outcomes a report knows."""

    UNSENT = 0
    ACCEPTED = 1
    """The provider took it. That is not delivery to the phone."""
    REJECTED = 2
    """The provider refused this row and would refuse it again."""
    FAILED = 3
    """It was surely not taken, and Flashcast gave up on it."""
    UNKNOWN = 4
    """It may or may not have been taken."""
    EXPIRED = 5
    """The window closed before it was sent."""
    IN_FLIGHT = 6
    """Journal only: written before the request leaves; read after a crash, it means `UNKNOWN`."""


REPORTED: Final = tuple(o for o in Outcome if o is not Outcome.IN_FLIGHT)
"""The closed set of a report, in its order of codes."""


class Action(Enum):
    """What to do with a row whose request was answered, or was not."""

    ACCEPT = "accept"
    REJECT = "reject"
    """Settle as rejected; the device is not to blame."""
    PRUNE = "prune"
    """Settle as rejected; the device is gone and belongs on the prune list."""
    RETRY_SAFE = "retry safe"
    """Surely not processed: may be sent again under either policy."""
    RETRY_DOUBTFUL = "retry doubtful"
    """May have been processed: sent again only under `resend`."""
    REFRESH = "refresh"
    """Surely not processed; fetch new credentials once, then send again."""
    STOP = "stop"
    """Every other row would meet the same answer: stop the provider's part of the launch."""


class Reason(Enum):
    """Why a row ended as it did. The value is the provider's own word; `code` fits one byte."""

    NONE = ""

    # APNs, by HTTP status
    BAD_COLLAPSE_ID = "BadCollapseId"
    BAD_DEVICE_TOKEN = "BadDeviceToken"
    BAD_EXPIRATION_DATE = "BadExpirationDate"
    BAD_MESSAGE_ID = "BadMessageId"
    BAD_PRIORITY = "BadPriority"
    BAD_TOPIC = "BadTopic"
    DEVICE_TOKEN_NOT_FOR_TOPIC = "DeviceTokenNotForTopic"
    DUPLICATE_HEADERS = "DuplicateHeaders"
    IDLE_TIMEOUT = "IdleTimeout"
    INVALID_PUSH_TYPE = "InvalidPushType"
    MISSING_DEVICE_TOKEN = "MissingDeviceToken"
    MISSING_TOPIC = "MissingTopic"
    PAYLOAD_EMPTY = "PayloadEmpty"
    TOPIC_DISALLOWED = "TopicDisallowed"
    BAD_CERTIFICATE = "BadCertificate"
    BAD_CERTIFICATE_ENVIRONMENT = "BadCertificateEnvironment"
    EXPIRED_PROVIDER_TOKEN = "ExpiredProviderToken"
    FORBIDDEN = "Forbidden"
    INVALID_PROVIDER_TOKEN = "InvalidProviderToken"
    MISSING_PROVIDER_TOKEN = "MissingProviderToken"
    UNRELATED_KEY_ID_IN_TOKEN = "UnrelatedKeyIdInToken"
    BAD_ENVIRONMENT_KEY_ID_IN_TOKEN = "BadEnvironmentKeyIdInToken"
    BAD_PATH = "BadPath"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    EXPIRED_TOKEN = "ExpiredToken"
    UNREGISTERED = "Unregistered"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    TOO_MANY_PROVIDER_TOKEN_UPDATES = "TooManyProviderTokenUpdates"
    TOO_MANY_REQUESTS = "TooManyRequests"
    INTERNAL_SERVER_ERROR = "InternalServerError"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"
    SHUTDOWN = "Shutdown"

    # FCM
    FCM_INVALID_ARGUMENT = "INVALID_ARGUMENT"
    FCM_UNREGISTERED = "UNREGISTERED"
    FCM_SENDER_ID_MISMATCH = "SENDER_ID_MISMATCH"
    FCM_THIRD_PARTY_AUTH_ERROR = "THIRD_PARTY_AUTH_ERROR"
    FCM_UNAUTHENTICATED = "UNAUTHENTICATED"
    FCM_PERMISSION_DENIED = "PERMISSION_DENIED"
    FCM_NOT_FOUND = "NOT_FOUND"
    FCM_QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    FCM_RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FCM_INTERNAL = "INTERNAL"
    FCM_UNAVAILABLE = "UNAVAILABLE"

    # What no provider said: the wire, the clock, the operator
    REFUSED_STREAM = "RefusedStream"
    GOING_AWAY = "GoingAway"
    STREAM_RESET = "StreamReset"
    CONNECTION_LOST = "ConnectionLost"
    SILENCE = "Silence"
    PROCESS_DIED = "ProcessDied"
    WINDOW_CLOSED = "WindowClosed"
    ABORTED = "Aborted"
    STOPPED = "Stopped"
    UNRECOGNISED_REPLY = "UnrecognisedReply"
    WORKER_LOST = "WorkerLost"

    @property
    def code(self) -> int:
        """The reason's byte in the journal: its place in this enum, so the order is part of the format."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> Reason:
        """The reason a journal byte stands for. Raises IndexError for a byte no reason has."""
        return _REASONS[code]


_REASONS: Final = tuple(Reason)
_CODES: Final = {reason: code for code, reason in enumerate(_REASONS)}

_R = Reason
APNS_STATUS: Final[dict[Reason, int]] = {
    **dict.fromkeys(
        (
            _R.BAD_COLLAPSE_ID, _R.BAD_DEVICE_TOKEN, _R.BAD_EXPIRATION_DATE, _R.BAD_MESSAGE_ID,
            _R.BAD_PRIORITY, _R.BAD_TOPIC, _R.DEVICE_TOKEN_NOT_FOR_TOPIC, _R.DUPLICATE_HEADERS,
            _R.IDLE_TIMEOUT, _R.INVALID_PUSH_TYPE, _R.MISSING_DEVICE_TOKEN, _R.MISSING_TOPIC,
            _R.PAYLOAD_EMPTY, _R.TOPIC_DISALLOWED,
        ),
        400,
    ),
    **dict.fromkeys(
        (
            _R.BAD_CERTIFICATE, _R.BAD_CERTIFICATE_ENVIRONMENT, _R.EXPIRED_PROVIDER_TOKEN, _R.FORBIDDEN,
            _R.INVALID_PROVIDER_TOKEN, _R.MISSING_PROVIDER_TOKEN, _R.UNRELATED_KEY_ID_IN_TOKEN,
            _R.BAD_ENVIRONMENT_KEY_ID_IN_TOKEN,
        ),
        403,
    ),
    _R.BAD_PATH: 404,
    _R.METHOD_NOT_ALLOWED: 405,
    _R.EXPIRED_TOKEN: 410,
    _R.UNREGISTERED: 410,
    _R.PAYLOAD_TOO_LARGE: 413,
    _R.TOO_MANY_PROVIDER_TOKEN_UPDATES: 429,
    _R.TOO_MANY_REQUESTS: 429,
    _R.INTERNAL_SERVER_ERROR: 500,
    _R.SERVICE_UNAVAILABLE: 503,
    _R.SHUTDOWN: 503,
}  # fmt: skip
"""The HTTP status each APNs reason comes with."""

FCM_STATUS: Final[dict[Reason, int]] = {
    _R.FCM_INVALID_ARGUMENT: 400,
    _R.FCM_UNAUTHENTICATED: 401,
    _R.FCM_THIRD_PARTY_AUTH_ERROR: 401,
    _R.FCM_SENDER_ID_MISMATCH: 403,
    _R.FCM_PERMISSION_DENIED: 403,
    _R.FCM_UNREGISTERED: 404,
    _R.FCM_NOT_FOUND: 404,
    _R.FCM_QUOTA_EXCEEDED: 429,
    _R.FCM_RESOURCE_EXHAUSTED: 429,
    _R.FCM_INTERNAL: 500,
    _R.FCM_UNAVAILABLE: 503,
}
"""The HTTP status each FCM error code comes with."""

ACTIONS: Final[dict[Reason, Action]] = {
    **dict.fromkeys(APNS_STATUS, Action.STOP),
    # The device is gone; the next campaign should not address it.
    **dict.fromkeys(
        (_R.BAD_DEVICE_TOKEN, _R.DEVICE_TOKEN_NOT_FOR_TOPIC, _R.EXPIRED_TOKEN, _R.UNREGISTERED),
        Action.PRUNE,
    ),
    # APNs answers 5xx before it takes a notification, so repeating is safe.
    **dict.fromkeys(
        (_R.TOO_MANY_REQUESTS, _R.INTERNAL_SERVER_ERROR, _R.SERVICE_UNAVAILABLE, _R.SHUTDOWN, _R.IDLE_TIMEOUT),
        Action.RETRY_SAFE,
    ),
    _R.EXPIRED_PROVIDER_TOKEN: Action.REFRESH,
    # FCM
    _R.FCM_INVALID_ARGUMENT: Action.REJECT,
    _R.FCM_UNAUTHENTICATED: Action.REFRESH,
    _R.FCM_THIRD_PARTY_AUTH_ERROR: Action.STOP,
    _R.FCM_SENDER_ID_MISMATCH: Action.STOP,
    _R.FCM_PERMISSION_DENIED: Action.STOP,
    _R.FCM_UNREGISTERED: Action.PRUNE,
    _R.FCM_NOT_FOUND: Action.REJECT,
    _R.FCM_QUOTA_EXCEEDED: Action.RETRY_SAFE,
    _R.FCM_RESOURCE_EXHAUSTED: Action.RETRY_SAFE,
    # A 500 or 503 from FCM can come for a message that was taken.
    _R.FCM_INTERNAL: Action.RETRY_DOUBTFUL,
    _R.FCM_UNAVAILABLE: Action.RETRY_DOUBTFUL,
    # RFC 9113 section 8.7: neither was processed.
    _R.REFUSED_STREAM: Action.RETRY_SAFE,
    _R.GOING_AWAY: Action.RETRY_SAFE,
    _R.STREAM_RESET: Action.RETRY_DOUBTFUL,
    _R.CONNECTION_LOST: Action.RETRY_DOUBTFUL,
    _R.SILENCE: Action.RETRY_DOUBTFUL,
    _R.UNRECOGNISED_REPLY: Action.REJECT,
}  # fmt: skip
"""What to do for each reason that can end a request. A row that ends for another reason was never sent."""


BAD_TOKENS: Final[dict[Provider, frozenset[Reason]]] = {
    Provider.APNS: frozenset({Reason.BAD_DEVICE_TOKEN, Reason.DEVICE_TOKEN_NOT_FOR_TOPIC}),
    # What FCM says of a token that it cannot read; of one of another project it says SENDER_ID_MISMATCH, a stop.
    Provider.FCM: frozenset({Reason.FCM_INVALID_ARGUMENT}),
}
"""Reasons that call a token wrong rather than gone: many of them are a misfire, which the guard looks for."""


def reason_of(provider: Provider, name: str) -> Reason:
    """The typed reason for a provider's own word; `Reason.UNRECOGNISED_REPLY` for one it never documented."""
    try:
        reason = Reason(name)
    except ValueError:
        return Reason.UNRECOGNISED_REPLY
    known = APNS_STATUS if provider is Provider.APNS else FCM_STATUS
    return reason if reason in known else Reason.UNRECOGNISED_REPLY
