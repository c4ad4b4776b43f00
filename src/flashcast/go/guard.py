"""The misfire guard: when a live launch should pause itself, and when its next stage may open. Pure.

The problem: a wrong key, host or topic is refused a million times before a person has read the first line. What was
chosen: every worker adds up what all workers count (arm/readiness.py), judges it several times a second, and whoever
first sees a bound passed pauses the launch by compare-and-swap, for all of them. A pause sends nothing new and takes
nothing back; a person then aborts, or goes on without the guard.

The bounds, and why these numbers:

- `GuardTerms.replies` (200): an audience with 20 % bad tokens shows more than 30 % of them among 200 replies once in
  3,600 launches, among 50 once in 32. More replies would let a misfire run on for nothing: at 400,000/s, 200 of
  them are half a millisecond.
- `GuardTerms.stop_share` (5 %): a reason that stops a launch is the same for every row (a credential, a topic), so an
  intact launch has none. The margin is for the few that are a row's own, such as tokens of an older Firebase project:
  with 2 % of them, more than 5 % of 200 replies are stops once in 400 launches.
- `GuardTerms.bad_token_share` (30 %): old audiences lose some 20 % to devices that are gone, but those are
  `Unregistered`; BadDeviceToken means a token of another environment or none at all.
- `ALONE_MIN` (4): where nothing but stops has come back, 200 replies may never come, because a lane stops by itself
  at the first of them. A worker opens at least four connections, and APNs allows each one request until it has been
  authenticated, so its first volley brings four replies. Were only 5 % of all replies stops, four of four would be so
  once in 160,000 launches.

Left out: judging a share against its confidence interval. The bounds are far from what an intact launch shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from flashcast.arm.readiness import Beat, ProviderReadiness
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import GuardTerms, LaunchRecord
from flashcast.model import Provider
from flashcast.outcomes import Reason, reason_of
from flashcast.report.meanings import MEANINGS

ALONE_MIN: Final = 4
"""So many replies that are all stops trip the guard at once; see above."""
_BAD_TOKENS_NAMED: Final = {Provider.APNS: "BadDeviceToken or its like", Provider.FCM: "INVALID_ARGUMENT"}
_BAD_TOKENS_CAUSE: Final = {
    # Inferred from what developers report; Apple does not document it.
    Provider.APNS: (
        "Usually these are production tokens at the development host or the reverse, or another app's topic: compare "
        "[apns] endpoint in flashcast.toml and topic in the campaign with where the tokens come from."
    ),
    Provider.FCM: (
        "FCM could not read the tokens or the message: compare a token of the audience with one from the app, and the "
        "message with what `flashcast check` shows."
    ),
}
_WHAT_NOW: Final = "`flashcast abort` calls the launch off, `flashcast resume` lets it go on without the guard."


@dataclass(frozen=True, slots=True)
class Counts:
    """What one provider has answered so far, all workers together. ``replied`` counts the rows it has settled."""

    replied: int
    accepted: int = 0
    stops: int = 0
    stop_reason: str = ""
    """The provider's word that came with a stop."""
    bad_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trip:
    """The guard's verdict: pause. ``text`` says what happened; ``remedy`` what is probably wrong and what to do."""

    provider: Provider
    why: Literal["stops", "bad tokens"]
    count: int
    replied: int
    bound: float
    """The share that was passed."""
    text: str
    remedy: str

    @property
    def share(self) -> float:
        """The share of the replies that tripped it."""
        return self.count / self.replied


def counted(providers: Mapping[Provider, ProviderReadiness]) -> dict[Provider, Counts]:
    """The counts in a fleet's total (`arm.readiness.total`)."""
    return {
        provider: Counts(
            replied=part.accepted + part.rejected + part.failed, accepted=part.accepted, stops=part.stops,
            stop_reason=part.stop_reason, bad_tokens=part.bad_tokens,
        )
        for provider, part in providers.items()
    }  # fmt: skip


def judge(replies: Mapping[Provider, Counts], terms: GuardTerms) -> Trip | None:
    """Why the launch should pause now, None where nothing speaks for it. Stops are told before bad tokens."""
    for question in (_stops, _bad_tokens):
        for provider in sorted(replies):
            trip = question(provider, replies[provider], terms)
            if trip is not None:
                return trip
    return None


def _stops(provider: Provider, counts: Counts, terms: GuardTerms) -> Trip | None:
    alone = counts.stops == counts.replied >= ALONE_MIN
    if not alone and not _passed(counts.stops, counts.replied, terms.stop_share, terms.replies):
        return None
    reason = reason_of(provider, counts.stop_reason)
    meaning = "" if reason is Reason.UNRECOGNISED_REPLY else f" {MEANINGS[reason]}"
    named = counts.stop_reason or "a reason that stops a launch"
    return Trip(
        provider, "stops", counts.stops, counts.replied, terms.stop_share,
        text=_told(provider, counts.stops, counts, named, terms.stop_share),
        remedy=f"Every further row would meet the same answer.{meaning} {_WHAT_NOW}",
    )  # fmt: skip


def _bad_tokens(provider: Provider, counts: Counts, terms: GuardTerms) -> Trip | None:
    if not _passed(counts.bad_tokens, counts.replied, terms.bad_token_share, terms.replies):
        return None
    named = _BAD_TOKENS_NAMED[provider]
    return Trip(
        provider, "bad tokens", counts.bad_tokens, counts.replied, terms.bad_token_share,
        text=_told(provider, counts.bad_tokens, counts, named, terms.bad_token_share),
        remedy=f"{_BAD_TOKENS_CAUSE[provider]} {_WHAT_NOW}",
    )  # fmt: skip


def _passed(count: int, replied: int, bound: float, replies_min: int) -> bool:
    return replied >= replies_min and count > bound * replied


def _told(provider: Provider, count: int, counts: Counts, named: str, bound: float) -> str:
    share = count / counts.replied
    return (
        f"{provider} answered {count:,} of the first {counts.replied:,} messages with {named}: {share:.1%}, where the "
        f"guard allows {bound:.0%}; {counts.accepted:,} were accepted"
    )


def stage_open(
    record: LaunchRecord, beats: Mapping[str, Beat], now_s: float, *, settled: Collection[int] | None = None
) -> bool:
    """Whether the stage after ``record.stage`` may open now (``now_s``, Unix time).

    It may when every worker that holds a shard has settled all rows of the open stage, and the stage's ``hold_s`` have
    passed since the last of them had. ``beats`` are those of the live workers, by worker. ``settled`` are the shards
    that have an outcome for every row; where it is given, a live worker must hold each of the others, because rows of
    one that has just died may be of this stage. Where a launch is paused, nothing opens.
    """
    if record.state is not State.LIVE or record.paused is not None or record.stage >= record.last_stage:
        return False
    holdings = [beat.launches[record.launch] for beat in beats.values() if record.launch in beat.launches]
    holdings = [holding for holding in holdings if holding.shards]
    if not holdings or any(holding.stage_sent < record.stage for holding in holdings):
        return False
    if settled is not None and record.snapshot is not None:
        held = {shard for holding in holdings for shard in holding.shards}
        if not held.union(settled).issuperset(range(record.snapshot.shards)):
            return False
    opened_s = _opened_s(record)
    since_s = max(opened_s if at is None else max(opened_s, at) for at in (h.stage_sent_at for h in holdings))
    return now_s - since_s >= record.stages[record.stage].hold_s


def _opened_s(record: LaunchRecord) -> float:
    """When the stage that is open was opened, Unix time."""
    opened = [entry.at for entry in record.trail if entry.what in (Input.GO, Input.STAGE)]
    if opened:
        return opened[-1]
    return record.go.at if record.go is not None else 0.0
