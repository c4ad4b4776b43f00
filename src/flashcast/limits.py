"""Every named maximum, with the arithmetic that justifies it."""

from __future__ import annotations

from typing import Final

# --- What the providers allow (their documentation) ---------------------------------------------
APNS_PAYLOAD_BYTES_MAX: Final = 4_096
APNS_VOIP_PAYLOAD_BYTES_MAX: Final = 5_120
FCM_PAYLOAD_BYTES_MAX: Final = 4_096
COLLAPSE_ID_BYTES_MAX: Final = 64
APNS_TOKEN_HEX_MIN: Final = 64
"""Today's tokens have 32 bytes; Apple says not to rely on it, so longer ones are taken."""
APNS_TOKEN_HEX_MAX: Final = 200
"""Apple reserves the right to up to 100 bytes."""
FCM_TOKEN_CHARS_MIN: Final = 32
FCM_TOKEN_CHARS_MAX: Final = 4_096
FCM_STREAMS: Final = 100
"""FCM's documented concurrent streams per connection."""
FCM_QUOTA_PER_MINUTE: Final = 600_000
"""Default messages a minute and project."""
JWT_AGE_S_MAX: Final = 3_600
JWT_ROUND_S: Final = 1_800
"""`iat` is rounded down to the half hour: refreshed every 30 min, between Apple's 20 and 60."""

# --- A snapshot -----------------------------------------------------------------------------------
SHARD_ROWS_MAX: Final = 65_536
"""A shard of 64-byte tokens takes about 6 MB: hashed and mapped in 5 ms, so that it changes hands quickly. A million
rows are 16 shards, and what workers hold differs by at most one: 7 % of them."""
CHUNK_ROWS: Final = 8_192
"""Rows claimed at once: 500 claims for 4M rows, and at most 8,192 rows unknown per lost claim."""
VARIANTS_MAX: Final = 250
"""A row's variant is one byte."""
FIELDS_MAX: Final = 32
"""Personalised columns per snapshot: kernels hold one offset array for each."""
BODY_BYTES_MAX: Final = 16_000
"""A request body goes in one DATA frame, and 16,384 bytes is the smallest SETTINGS_MAX_FRAME_SIZE."""

# --- A connection -----------------------------------------------------------------------------------
STREAMS_USED_MAX: Final = 2_000
"""Streams we keep open on one connection, whatever the peer allows: enough for 50,000/s at 40 ms."""
FRAME_BYTES_MAX: Final = 16_384
"""Our SETTINGS_MAX_FRAME_SIZE, the default: a larger frame from the peer is FRAME_SIZE_ERROR."""
HEADER_LIST_BYTES_MAX: Final = 65_536
"""A reply's header block with its CONTINUATIONs; more is a header bomb."""
REPLY_BODY_BYTES_MAX: Final = 8_192
"""Kept of an error reply; real ones have under 1 KiB."""
HEADER_TABLE_BYTES_MAX: Final = 4_096
"""Our encoder's dynamic table, also where the peer would allow more."""
STREAM_ID_LAST: Final = 2**31 - 1 - 2 * 65_536
"""A connection is replaced before its stream ids run out (RFC 9113 section 5.1.1)."""
STALLED_STREAMS_MAX: Final = 64
"""Requests whose body waits for the peer's window, per connection: the rest stay unsent instead."""
LAYOUTS_MAX: Final = 64
"""Layouts one launch keeps for a provider: one for each size of header table met, and one while teaching."""
CONTROL_BYTES_MAX: Final = 1 << 20
"""Answers owed to a peer at one time: 60,000 PINGs. A peer that asks for more is flooding us."""
UNWRITTEN_BYTES_MAX: Final = 4 << 20
"""Bytes a socket has not taken yet: a volley, the stalled bodies, and what was owed before a peer stopped reading."""
RECEIVE_WINDOW_BYTES: Final = 1 << 30
"""Our connection window: replies never wait for us."""
VOLLEY_BYTES_MAX: Final = 262_144
"""One buffer handed to TLS: 16 records, some 1,000 APNs requests."""
RECEIVE_BUFFER_BYTES: Final = 262_144

# --- A launch ---------------------------------------------------------------------------------------
CONNECTIONS_MAX: Final = 1_000
"""Connections of one process to one provider; each costs a descriptor and some 150 KiB."""
LANES_MAX: Final = 32
ATTEMPTS_MAX: Final = 8
"""Tries for one row: with back-off from 50 ms doubling, the last comes after some 6 s."""
BACKOFF_S_FIRST: Final = 0.05
BACKOFF_S_MAX: Final = 10.0
RETRY_AFTER_S_MAX: Final = 600.0
"""A longer Retry-After is cut to this; the window ends the launch before it anyway."""
RECONNECT_BACKOFF_S_MAX: Final = 5.0
REPLY_DEADLINE_S: Final = 10.0
"""Silence after which a stream's outcome is unknown; Google asks for at least 10 s."""
WINDOW_S_DEFAULT: Final = 60.0
HANDSHAKE_DEADLINE_S: Final = 10.0
HANDSHAKES_AT_ONCE_MAX: Final = 64
PING_INTERVAL_S: Final = 20.0
"""Idle connections are seen to close after 10 to 60 s; APNs asks for no more than one PING in a while."""
DISPLAY_HZ: Final = 5

# --- Launch control -----------------------------------------------------------------------------------
CAMPAIGN_NAME_CHARS_MAX: Final = 40
"""A name is typed in a hurry; with a launch's number, shard and chunk it stays far below an engine key's 200."""
LAUNCHES_MAX: Final = 999
"""Launches of one campaign: one a day for years. So ``superbowl-2027`` is a campaign's name and no launch's id."""
CAMPAIGN_TEXT_BYTES_MAX: Final = 200_000
"""JSON doubles a text of nothing but quotes and line ends: 400 KB, below the engine's 512 KiB for a value."""
OPERATOR_CHARS_MAX: Final = 100
"""An operator's or worker's name, and likewise a host's; at most 4 bytes per character."""
NOTE_CHARS_MAX: Final = 200
"""What an audit entry says in words; at most 4 bytes per character."""
TRAIL_MAX: Final = 160
"""Audit entries in a launch's record, 2,200 bytes each at most: 350 KB of 512 KiB. Older ones move to pages."""
TRAIL_PAGE: Final = 80
"""Entries moved at once: half, so that it happens seldom."""

# --- A worker -----------------------------------------------------------------------------------------
WORKER_DEVICES_DEFAULT: Final = 10_000_000
"""Rows a worker takes where nobody says otherwise: some 200 bytes each mapped and sent from, 2 GB."""
