"""Every maximum of complaints, with the arithmetic."""

from __future__ import annotations

from typing import Final

# --- One complaint -------------------------------------------------------------------------------
ID_CHARS_MAX: Final = 512
"""A UUID has 36; the link of a Google Play review, which serves as its id, some 250."""
LABEL_CHARS_MAX: Final = 64
"""A platform, a version, a locale."""
USER_CHARS_MAX: Final = 256
TEXT_CHARS_MAX: Final = 4_000
"""What is looked at, and kept where texts are kept. What comes after is cut off: people name the feature early."""
TEXT_CHARS_TAKEN_MAX: Final = 100_000
"""A longer text is a log or an attack, and refused."""
AHEAD_S_MAX: Final = 300
"""How far a complaint's time may be ahead of our clock."""
LATE_S_MAX: Final = 86_400
"""How old a complaint from an open source may be: an app may have been offline for a day. Beyond, and where its clock
is ahead, the time of receipt counts, so that nobody can rewrite last week from outside."""
FAULTS_TOLD_MAX: Final = 20
"""Of one complaint; an answer must not be many times as long as what was sent."""

# --- The file ------------------------------------------------------------------------------------
CONFIG_BYTES_MAX: Final = 1 << 20
FEATURES_MAX: Final = 100
WORDS_MAX: Final = 500
PATTERNS_MAX: Final = 50
PATTERNS_IN_ALL_MAX: Final = 200
"""A pattern costs a batch about 1 ms."""
PATTERN_CHARS_MAX: Final = 500
SOURCES_MAX: Final = 32
PROFILES_MAX: Final = 50
ORIGINS_MAX: Final = 50
KEEP_DAYS_MAX: Final = 400
DAYS_MAX: Final = 28
WINDOWS_MAX: Final = 4
SECRET_CHARS_MIN: Final = 16

# --- The store -----------------------------------------------------------------------------------
SLOT_S: Final = 300
"""It is kept by slots of this length when a source was heard: 105,120 rows a year and source."""
LOCK_WAIT_S_MAX: Final = 15.0
"""An import writes batches of some 0.2 s each; who waits longer waits for a disk that fails."""
PURGE_ROWS_MAX: Final = 5_000
"""Deleted in one transaction, so that nobody waits for more than some 50 ms."""

# --- Import --------------------------------------------------------------------------------------
BATCH_ROWS: Final = 2_000
"""Read, checked and sorted at once."""
ADD_ROWS: Final = 10_000
"""Added in one transaction: 0.2 s in which an endpoint waits. Smaller ones are paid for by syncing the disk."""
LINE_CHARS_MAX: Final = 1 << 20
ROWS_MAX: Final = 5_000_000
"""Of one file: 5 million rows need some 1 GB of temporary disk."""
COLUMNS_MAX: Final = 500
MALFORMED_TOLD_MAX: Final = 20
"""Malformed lines that are named; the others are counted."""

# --- The endpoint --------------------------------------------------------------------------------
BODY_BYTES_MAX: Final = 1 << 20
OPEN_BODY_BYTES_MAX: Final = 64 << 10
"""Without a token."""
BODY_S_MAX: Final = 10.0
BATCH_COMPLAINTS_MAX: Final = 1_000
PENDING_MAX: Final = 20_000
"""Complaints that wait for the disk; beyond, requests are answered with 503. At 1 KB each they are 20 MB."""
GROUP_MAX: Final = 2_000
"""Complaints that are written in one transaction."""
HEARTBEAT_S: Final = 10.0
PURGE_EVERY_S: Final = 3_600.0
CLIENTS_MAX: Final = 20_000
"""Addresses whose rate is remembered; the one unseen for longest is forgotten first."""
CONNECTIONS_MAX: Final = 500
FINDINGS_S: Final = 5.0
"""How long an answer about spikes is used again: however many ask, it is made once in that time."""

# --- Counts over time ----------------------------------------------------------------------------
STEPS_MAX: Final = 2_000
TEXTS_SHOWN_MAX: Final = 200
