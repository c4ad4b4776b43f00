"""What each reason means and what a person can do about it, one sentence each.

The page shows them beside the counts; docs/reference/reasons.md is the same list, and a test holds the two
together. Sources: Apple, "Handling notification responses from APNs"; Google, "ErrorCode" of the FCM HTTP v1
reference; RFC 9113 sections 5.4, 6.8 and 8.7.
"""

from __future__ import annotations

from typing import Final

from flashcast.outcomes import ACTIONS, Action, Outcome, Reason

MEANINGS: Final[dict[Reason, str]] = {
    Reason.NONE: "Nothing to explain: the row was accepted, or was never looked at.",
    Reason.BAD_COLLAPSE_ID: "The collapse id is longer than 64 bytes; shorten it in the campaign.",
    Reason.BAD_DEVICE_TOKEN: "The token is not one of this environment; a mass of them means the wrong host.",
    Reason.BAD_EXPIRATION_DATE: "The expiration is not a time APNs accepts; correct it in the campaign.",
    Reason.BAD_MESSAGE_ID: "The apns-id header is not a UUID.",
    Reason.BAD_PRIORITY: "The priority is not 1, 5 or 10; correct it in the campaign.",
    Reason.BAD_TOPIC: "The topic is not valid; it is normally the app's bundle id.",
    Reason.DEVICE_TOKEN_NOT_FOR_TOPIC: "The token belongs to another app than the topic names.",
    Reason.DUPLICATE_HEADERS: "A header was sent twice.",
    Reason.IDLE_TIMEOUT: "APNs closed the connection for idleness before it looked at the request.",
    Reason.INVALID_PUSH_TYPE: "The push type is not valid; correct it in the campaign.",
    Reason.MISSING_DEVICE_TOKEN: "The request path held no token.",
    Reason.MISSING_TOPIC: "The topic is missing, and the certificate has several; set it in the campaign.",
    Reason.PAYLOAD_EMPTY: "The payload was empty.",
    Reason.TOPIC_DISALLOWED: "The credentials may not send to this topic.",
    Reason.BAD_CERTIFICATE: "The client certificate is not valid.",
    Reason.BAD_CERTIFICATE_ENVIRONMENT: "The client certificate is for the other environment.",
    Reason.EXPIRED_PROVIDER_TOKEN: "The signed token is over an hour old, also after a refresh; check the clock.",
    Reason.FORBIDDEN: "APNs does not allow the action with these credentials.",
    Reason.INVALID_PROVIDER_TOKEN: "The signed token is not valid; check key_file, key_id and team_id.",
    Reason.MISSING_PROVIDER_TOKEN: "No certificate was shown and no authorization header sent.",
    Reason.UNRELATED_KEY_ID_IN_TOKEN: "The key id is not the one this connection began with.",
    Reason.BAD_ENVIRONMENT_KEY_ID_IN_TOKEN: "The signing key is for the other environment.",
    Reason.BAD_PATH: "The request path was not valid.",
    Reason.METHOD_NOT_ALLOWED: "The request was not a POST.",
    Reason.EXPIRED_TOKEN: "The device token has expired.",
    Reason.UNREGISTERED: "The app is no longer on the device, or its token was replaced.",
    Reason.PAYLOAD_TOO_LARGE: "The payload is over the limit; sealing should have told.",
    Reason.TOO_MANY_PROVIDER_TOKEN_UPDATES: "The team's signed token changed more than once in 20 minutes.",
    Reason.TOO_MANY_REQUESTS: "Too many requests in a row for this one device.",
    Reason.INTERNAL_SERVER_ERROR: "APNs failed before it took the notification.",
    Reason.SERVICE_UNAVAILABLE: "APNs was not available and took nothing.",
    Reason.SHUTDOWN: "The APNs server was shutting down and took nothing.",
    Reason.FCM_INVALID_ARGUMENT: "The token or the message is malformed; the other rows may be well.",
    Reason.FCM_UNREGISTERED: "The app instance is gone, or its token was replaced.",
    Reason.FCM_SENDER_ID_MISMATCH: "The token belongs to another Firebase project.",
    Reason.FCM_THIRD_PARTY_AUTH_ERROR: "The APNs or web push credentials in Firebase are missing or wrong.",
    Reason.FCM_UNAUTHENTICATED: "The access token was refused, refreshed as well; check the service account.",
    Reason.FCM_PERMISSION_DENIED: "The service account may not send for this project.",
    Reason.FCM_NOT_FOUND: "The address was not found; check project_id.",
    Reason.FCM_QUOTA_EXCEEDED: "The project's message quota was used up; ask Google for more beforehand.",
    Reason.FCM_RESOURCE_EXHAUSTED: "A quota was used up, of the project or of this one device.",
    Reason.FCM_INTERNAL: "FCM failed; the message may have been taken all the same.",
    Reason.FCM_UNAVAILABLE: "FCM was overloaded; the message may have been taken all the same.",
    Reason.REFUSED_STREAM: "The server refused the stream before it did anything.",
    Reason.GOING_AWAY: "The server closed the connection and said that it had not begun this request.",
    Reason.STREAM_RESET: "The server ended the stream without an answer.",
    Reason.CONNECTION_LOST: "The connection ended with the request unanswered.",
    Reason.SILENCE: "No answer came within reply_deadline_s.",
    Reason.PROCESS_DIED: "The sender died with the request on its way.",
    Reason.WINDOW_CLOSED: "The launch's window ended first: late is worse than never.",
    Reason.ABORTED: "The operator aborted the launch.",
    Reason.STOPPED: "The provider's part of the launch was stopped.",
    Reason.UNRECOGNISED_REPLY: "The provider answered with something its documentation does not know.",
    Reason.WORKER_LOST: "The worker that had claimed the row was lost, and its journal with it; it may have been sent.",
    Reason.WORKER_LOST: "The worker that was to send it was lost, and with it what it had sent.",
}

ADVICE: Final[dict[Action, str]] = {
    Action.ACCEPT: "done",
    Action.REJECT: "mend the row",
    Action.PRUNE: "remove the device",
    Action.RETRY_SAFE: "repeated safely",
    Action.RETRY_DOUBTFUL: "repeated only under resend",
    Action.REFRESH: "new credentials, then repeated",
    Action.STOP: "stops the provider",
}

OUTCOME_MEANINGS: Final[dict[Outcome, str]] = {
    Outcome.ACCEPTED: "the provider took it",
    Outcome.REJECTED: "the provider refused it and would again",
    Outcome.FAILED: "surely not taken, and given up",
    Outcome.UNKNOWN: "perhaps taken, perhaps not",
    Outcome.EXPIRED: "the window closed first",
    Outcome.UNSENT: "never sent",
}


def advice(reason: Reason) -> str:
    """What happens to a row with this reason; a dash where no reply caused it."""
    action = ACTIONS.get(reason)
    return "—" if action is None else ADVICE[action]
