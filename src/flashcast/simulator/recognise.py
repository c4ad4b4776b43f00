"""Whether a request seen whole is like one judged before: its header block, its token, its body."""

# mypy: disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from flashcast.simulator.arrays import (
    B_CONTENT_LENGTH,
    B_PATH,
    B_PAYLOAD_MAX,
    B_PREFIX,
    B_SUFFIX,
    BODIES,
    BODY_BYTES_MAX,
    K_BODY_NEXT,
    K_PROVIDER,
    K_SKELETONS,
    S_MEMOS,
    Office,
    Wire,
)
from flashcast.simulator.intrinsics import all_hex, all_token, fingerprint, load64, memcpy, same_bytes, token_byte
from flashcast.simulator.json_kernel import skeleton

_PATH_PREFIX = np.frombuffer(b"/3/device/" + bytes(8), np.uint8)
_FCM_PREFIX = np.frombuffer(b'{"message":{"token":"' + bytes(8), np.uint8)
_APNS_TOKEN_MIN, _APNS_TOKEN_MAX = 64, 200
_FCM_TOKEN_MIN, _FCM_TOKEN_MAX = 32, 4_096


@njit(nogil=True, _nrt=False, error_model="numpy")
def _known_body(buf: NDArray[np.uint8], start: int, at: int, stop: int, office: Office) -> bool:
    """Whether the body ``buf[start:stop]`` was judged before, in what follows ``at`` (after an FCM token)."""
    size = stop - at
    for k in range(BODIES):
        if office.body_bytes[k] == size and same_bytes(buf, at, office.bodies[k], 0, size):
            return True
    shape = skeleton(buf, start, stop)
    for k in range(office.knobs[K_SKELETONS]):
        if office.skeletons[k] == shape and shape != np.uint64(0):
            ring = office.knobs[K_BODY_NEXT]
            if size <= BODY_BYTES_MAX:
                memcpy(office.bodies[ring], 0, buf, at, size)
                office.body_bytes[ring] = size
                office.knobs[K_BODY_NEXT] = (ring + 1) % BODIES
            return True
    return False


@njit(nogil=True, _nrt=False, error_model="numpy")
def _hex_token(buf: NDArray[np.uint8], start: int, stop: int) -> bool:
    size = stop - start
    if size < _APNS_TOKEN_MIN or size > _APNS_TOKEN_MAX or size & 7:
        return False
    good = True
    for i in range(start, stop, 8):
        good &= all_hex(load64(buf, i))
    return good


@njit(nogil=True, _nrt=False, error_model="numpy")
def _fcm_token_end(buf: NDArray[np.uint8], start: int, stop: int) -> int:
    """The index of the quote after the token that begins at ``start``; -1 where it is no plain token."""
    i = start
    while i + 8 <= stop and all_token(load64(buf, i)):
        i += 8
    while i < stop and token_byte(buf[i]):
        i += 1
    if i >= stop or buf[i] != 34 or i - start < _FCM_TOKEN_MIN or i - start > _FCM_TOKEN_MAX:
        return -1
    return i


@njit(nogil=True, _nrt=False, error_model="numpy")
def _path_token(buf: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """The bounds of the device token in the `:path` literal ``buf[at:stop]``; (0, 0) for any other shape.

    Name index 4, without indexing or never indexed, not Huffman-coded (RFC 7541 section 6.2.2): the length's
    prefix has 7 bits, and a path of 127 bytes and more has a second octet.
    """
    if stop - at < 2 + 10 or (buf[at] != 0x04 and buf[at] != 0x14):
        return 0, 0
    size = np.int64(buf[at + 1])
    start = at + 2
    if size == 127:
        if buf[at + 2] >= 0x80:
            return 0, 0
        size += np.int64(buf[at + 2])
        start += 1
    if size > 127 + 127 or start + size != stop or not same_bytes(buf, start, _PATH_PREFIX, 0, 10):
        return 0, 0
    return start + 10, stop


@njit(nogil=True, _nrt=False, error_model="numpy")
def recognise(
    buf: NDArray[np.uint8], h: int, h_end: int, body_at: int, body_end: int, wire: Wire, office: Office
) -> np.uint64:
    """The fingerprint of the token of a request seen whole, if all of it was judged before; else 0."""
    size = h_end - h
    body = body_end - body_at
    s = wire.state
    for k in range(s[S_MEMOS]):
        prefix, suffix = wire.memo[k, B_PREFIX], wire.memo[k, B_SUFFIX]
        has_path = wire.memo[k, B_PATH] != 0
        if size < prefix + suffix or (not has_path and size != prefix):
            continue
        if not same_bytes(buf, h, wire.memo_bytes[k], 0, prefix):
            continue
        if has_path and not same_bytes(buf, h_end - suffix, wire.memo_bytes[k], prefix, suffix):
            continue
        expected = wire.memo[k, B_CONTENT_LENGTH]
        if body > wire.memo[k, B_PAYLOAD_MAX] or (expected >= 0 and expected != body):
            return np.uint64(0)
        if office.knobs[K_PROVIDER] == 0:
            start, stop = _path_token(buf, h + prefix, h_end - suffix)
            if stop == 0 or not _hex_token(buf, start, stop):
                return np.uint64(0)
            body_rest = body_at
        else:
            start = body_at + 21
            if body < 21 + _FCM_TOKEN_MIN or not same_bytes(buf, body_at, _FCM_PREFIX, 0, 21):
                return np.uint64(0)
            stop = _fcm_token_end(buf, start, body_end)
            if stop < 0:
                return np.uint64(0)
            body_rest = stop
        if not _known_body(buf, body_at, body_rest, body_end, office):
            return np.uint64(0)
        fp = fingerprint(buf, start, stop)
        return fp if fp != np.uint64(0) else np.uint64(1)
    return np.uint64(0)
