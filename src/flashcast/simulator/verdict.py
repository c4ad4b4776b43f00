"""What a request is answered, decided by its token and the seed alone.

A row of the verdict table says how to answer and what the ledger notes. Row 0 is success; then one row for
each of the provider's reasons, for requests that are at fault themselves; then the rows of the profile's
replies, chosen by where the token's hash falls among their shares. A reply that strikes only the first
requests of a token counts them per token, so that the order among tokens does not matter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flashcast.model import Provider
from flashcast.outcomes import ACTIONS, APNS_STATUS, FCM_STATUS, Action, Reason
from flashcast.simulator.profile import ProviderProfile, Reply
from flashcast.simulator.replies import Template, pack, reply, reset

V_TEMPLATE, V_STYLES, V_ATTEMPTS, V_RECEIVED, V_ACCEPTED, V_KIND, V_REASON = range(7)
ROW_COLUMNS: Final = 7
KIND_REPLY, KIND_SILENCE, KIND_CUT = 0, 1, 2

_RESET_INTERNAL_ERROR: Final = 0x2
_RESET_REFUSED_STREAM: Final = 0x7
_WIRE: Final = {
    "silence": Reason.SILENCE,
    "reset": Reason.STREAM_RESET,
    "refused": Reason.REFUSED_STREAM,
    "cut": Reason.CONNECTION_LOST,
}
_NOT_TAKEN: Final = {Action.RETRY_SAFE, Action.REFRESH}
_AT_THE_DOOR: Final = {
    Reason.MISSING_PROVIDER_TOKEN,
    Reason.INVALID_PROVIDER_TOKEN,
    Reason.TOO_MANY_PROVIDER_TOKEN_UPDATES,
    Reason.FCM_PERMISSION_DENIED,
}
"""Refused before the message was looked at: the same request may come again with a better credential."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The compiled table of one provider.

    ``bounds`` uint64[k] rising: a token whose hash is below bounds[i] and not below bounds[i - 1] gets row
    bound_rows[i]. ``rows`` int64[n, ROW_COLUMNS]. ``row_of`` the row of each of the provider's reasons.
    ``quota_row`` answers a request beyond the quota.
    """

    bounds: NDArray[np.uint64]
    bound_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    row_of: dict[Reason, int]
    quota_row: int
    templates: NDArray[np.uint8]
    meta: NDArray[np.int64]


def taken_by_default(provider: Provider, reason: Reason) -> bool:
    """Whether a message answered so was taken: FCM's 500 and 503 can come for one that was (FACTS: FCM error codes)."""
    return provider is Provider.FCM and ACTIONS.get(reason) is Action.RETRY_DOUBTFUL


def _row(
    provider: Provider, reason: Reason, template: int, styles: int, attempts: int, taken: bool
) -> list[int]:
    settled = (
        taken
        or reason is Reason.NONE
        or not (
            ACTIONS.get(reason) in _NOT_TAKEN or reason in _AT_THE_DOOR or taken_by_default(provider, reason)
        )
    )
    accepted = taken or reason is Reason.NONE
    return [template, styles, attempts, int(settled), int(accepted), KIND_REPLY, reason.code]


class _Compiler:
    def __init__(self, provider: Provider, profile: ProviderProfile, project: str, now_s: float) -> None:
        self.provider, self.profile, self.project, self.now_s = provider, profile, project, now_s
        self.styles = ("plain", *profile.reply_styles)
        self.templates: list[Template] = []
        self.rows: list[list[int]] = []

    def reply_row(self, reason: Reason, attempts: int, taken: bool, retry_after_s: int | None) -> int:
        first = len(self.templates)
        self.templates += [
            reply(self.provider, reason, style, self.project, self.now_s, retry_after_s)
            for style in self.styles
        ]
        self.rows.append(_row(self.provider, reason, first, len(self.styles), attempts, taken))
        return len(self.rows) - 1

    def profile_row(self, r: Reply) -> int:
        if r.reason not in _WIRE:
            reason = Reason(r.reason)
            taken = r.taken if r.taken is not None else taken_by_default(self.provider, reason)
            return self.reply_row(reason, r.attempts, taken, r.retry_after_s)
        taken = r.reason != "refused" if r.taken is None else r.taken
        code = _RESET_REFUSED_STREAM if r.reason == "refused" else _RESET_INTERNAL_ERROR
        kind = {"silence": KIND_SILENCE, "cut": KIND_CUT}.get(r.reason, KIND_REPLY)
        self.templates.append(reset(code))
        self.rows.append(
            [len(self.templates) - 1, 1, r.attempts, int(taken), int(taken), kind, _WIRE[r.reason].code]
        )
        return len(self.rows) - 1


def compile_verdicts(provider: Provider, profile: ProviderProfile, project: str, now_s: float) -> Verdicts:
    """The verdict table of ``profile``. ``now_s`` is the time stamp of replies that carry one."""
    c = _Compiler(provider, profile, project, now_s)
    c.reply_row(Reason.NONE, 0, True, None)
    reasons = APNS_STATUS if provider is Provider.APNS else FCM_STATUS
    row_of = {reason: c.reply_row(reason, 0, False, None) for reason in reasons}
    quota = Reason.TOO_MANY_REQUESTS if provider is Provider.APNS else Reason.FCM_QUOTA_EXCEEDED
    quota_row = c.reply_row(quota, 0, False, int(profile.quota_window_s) or 1)
    bound_rows = [c.profile_row(r) for r in profile.replies]
    shares = itertools.accumulate(r.share for r in profile.replies)
    bounds = [min(int(share * 2**64), 2**64 - 1) for share in shares]
    templates, meta = pack(c.templates)
    return Verdicts(
        np.array(bounds, np.uint64),
        np.array(bound_rows, np.int64),
        np.array(c.rows, np.int64),
        row_of,
        quota_row,
        templates,
        meta,
    )
