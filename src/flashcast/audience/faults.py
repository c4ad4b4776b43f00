"""What is said when sealing cannot end well."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flashcast.audience.drops import DropReason
from flashcast.audience.folder import is_full
from flashcast.errors import AudienceError, EnvironmentFault


def nothing_left(rows: int, counts: Mapping[DropReason, int]) -> AudienceError:
    """No row is in the snapshot: how many fell, to what, and where to look first."""
    if rows == 0:
        return AudienceError(
            "the audience has no rows", remedy="Check the file, and --where or --sql if you gave one."
        )
    told = ", ".join(f"{reason.value} {number:,}" for reason, number in counts.items() if number)
    hint = "Look at the greatest count first: "
    worst = max(counts, key=lambda reason: counts[reason])
    return AudienceError(f"no row is left of {rows:,}: {told}", remedy=hint + _HINTS[worst])


_HINTS: Final = {
    DropReason.UNKNOWN_PLATFORM: "the platform column must say ios or apns, android or fcm.",
    DropReason.NO_MESSAGE: "the campaign has no message for these devices' provider.",
    DropReason.BAD_TOKEN: "APNs tokens are hexadecimal, FCM tokens letters, digits and _:.-; check --map token=COLUMN.",
    DropReason.SUPPRESSED: "the suppression list names them.",
    DropReason.HOLDOUT: "the hold-out share is large for so few rows.",
    DropReason.PAYLOAD_TOO_LARGE: "shorten the message.",
    DropReason.DUPLICATE_TOKEN: "check --map token=COLUMN.",
    DropReason.SECOND_DEVICE: "check --map user_id=COLUMN.",
}


def cannot_write(error: OSError, out: Path, *, rows: int, needed: int) -> EnvironmentFault:
    """The snapshot could not be written; for a full disk, with an estimate of the bytes ``needed``."""
    if not is_full(error):
        return EnvironmentFault(f"cannot write {out}: {error.strerror or error}", remedy="Choose another --out.")
    try:
        free = f"{shutil.disk_usage(out.parent).free:,} are free"
    except OSError:
        free = "too few are free"
    told = f"about {needed:,} bytes are needed" if needed else "more bytes are needed"
    return EnvironmentFault(
        f"cannot write {out}: {error.strerror or 'no space left'} after {rows:,} rows; {told}, {free}",
        remedy="Free some space or choose another --out. Nothing was left behind.",
    )
