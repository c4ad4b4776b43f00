/**
 * Every maximum of the zombie document and its clients. The arithmetic behind each stands in
 * docs/reference/zombie-document.md#bounds; a test holds the two together.
 */

// --- The document -----------------------------------------------------------------------------
export const PAYLOAD_BYTES_MAX = 16_384;
export const ENVELOPE_BYTES_MAX = 24_576;
export const JSON_DEPTH_MAX = 100;
export const SIGNATURES_MAX = 8;
export const VERSION_MAX = Number.MAX_SAFE_INTEGER;
export const TIME_S_MAX = 253_402_300_799;
export const LIFETIME_S_MAX = 7 * 86_400;
export const CLOCK_SKEW_S = 300;
export const FEATURES_MAX = 100;
export const FEATURE_CHARS_MAX = 64;
export const LOCALES_MAX = 50;
export const MESSAGE_BYTES_MAX = 2_000;
export const LABEL_CHARS_MAX = 64;
export const COHORTS_MAX = 100;
export const SPLITS_MAX = 4;
export const DRAIN_S_MAX = 86_400;
export const WAIT_S_MAX = 3_600;
export const POLL_S_MIN = 5;
export const POLL_S_MAX = 3_600;

// --- A client ---------------------------------------------------------------------------------
export const POLL_S_DEFAULT = 60;
export const POLL_JITTER_S_DEFAULT = 30;
export const POLL_BACKOFF_S_MAX = 900;
export const RETRY_AFTER_S_MAX = 3_600;
export const CLIENT_WAIT_S_MAX = 7_200;
export const ETAG_BYTES_MAX = 256;
export const FEATURES_HELD_MAX = 256;
export const REPLAY_BACKOFF_S_FIRST = 2;
export const REPLAY_BACKOFF_S_MAX = 300;
export const REPLAY_CONFLICTS_MAX = 8;
export const QUEUE_WRITES_MAX = 1_000;
export const QUEUE_BYTES_MAX = 4 << 20;
export const WRITE_BYTES_MAX = 256 << 10;
