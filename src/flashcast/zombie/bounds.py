"""Every maximum of the zombie document and its clients, with the arithmetic. Part of the published format.

A client written in another language takes these from docs/reference/zombie-document.md and zombie-client.md.
"""

from __future__ import annotations

from typing import Final

# --- The document --------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 16_384
"""A real document has under 1 KiB. 16 KiB leaves room for a message in 50 languages of 300 bytes, and fetched once a
minute by 10 million apps it is still 2.7 GB/s that a CDN compresses to a third."""
ENVELOPE_BYTES_MAX: Final = 24_576
"""A payload of 16,384 bytes is 21,846 in base64url; eight signatures of 130 bytes and some room."""
JSON_DEPTH_MAX: Final = 100
"""Lists and objects within each other. A document has 3 levels; parsers differ in how many they bear."""
SIGNATURES_MAX: Final = 8
"""Two are the rule while a key rotates. A verification costs a phone 0.1 ms: eight are nothing, a thousand would be."""
VERSION_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""
TIME_S_MAX: Final = 253_402_300_799
"""The end of the year 9999, in Unix seconds."""
LIFETIME_S_MAX: Final = 7 * 86_400
"""From `not_before` to `expires_at`. However careless an operator, a forgotten document ends within a week."""
CLOCK_SKEW_S: Final = 300
"""How far a device's clock may lag behind `not_before`. Expiry knows no such mercy: it errs to the open side."""
FEATURES_MAX: Final = 100
"""Names in `off` and in `keep`: 65 bytes each at most, 6.5 KB."""
FEATURE_CHARS_MAX: Final = 64
LOCALES_MAX: Final = 50
MESSAGE_BYTES_MAX: Final = 2_000
"""UTF-8 bytes of one text: bytes, because languages disagree about what a character is."""
LABEL_CHARS_MAX: Final = 64
"""An incident's, an operator's or a salt's name."""
COHORTS_MAX: Final = 100
"""Files of one split: steps of one per cent."""
SPLITS_MAX: Final = 4
"""Splits published at one time: an app's old releases keep asking for the files they know."""
DRAIN_S_MAX: Final = 86_400
WAIT_S_MAX: Final = 3_600
POLL_S_MIN: Final = 5
"""10 million apps that ask every 5 s are 2 million requests a second: more often is no CDN's idea of polling."""
POLL_S_MAX: Final = 3_600

# --- A client ------------------------------------------------------------------------------------
POLL_S_DEFAULT: Final = 60
POLL_JITTER_S_DEFAULT: Final = 30
"""What holds until the first document is there, and again when the last has expired."""
POLL_BACKOFF_S_MAX: Final = 900
"""After failures the wait doubles up to this: a client that is back on the network hears of an incident in 15 min."""
RETRY_AFTER_S_MAX: Final = 3_600
"""A longer Retry-After is cut to this: a wrong date must not silence a client for a year."""
CLIENT_WAIT_S_MAX: Final = 7_200
"""No wait of a client is longer: Retry-After with half as much again, or the longest poll interval with its jitter. A
time that lies further ahead means that the clock was set back, and is not waited for."""
ETAG_BYTES_MAX: Final = 256
FEATURES_HELD_MAX: Final = 256
"""Features a client remembers a server's Retry-After for; the ones that end first are forgotten first."""
REPLAY_BACKOFF_S_FIRST: Final = 2.0
REPLAY_BACKOFF_S_MAX: Final = 300.0
REPLAY_CONFLICTS_MAX: Final = 8
"""Answers 409 in a row to one write: the first of them mean that the server is still at it, so many that it refuses."""
QUEUE_WRITES_MAX: Final = 1_000
"""Default bounds of a write queue: a user who taps once a second for a quarter of an hour."""
QUEUE_BYTES_MAX: Final = 4 << 20
WRITE_BYTES_MAX: Final = 256 << 10
"""One write with its URL, headers and body."""
