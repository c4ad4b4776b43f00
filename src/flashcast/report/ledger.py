"""The books of a launch: every row in exactly one outcome, and the same story at the provider.

All counts come from one matrix per provider, outcome by reason, filled shard by shard from the journal's
bytes, so that four million rows cost a second and a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from flashcast.digest import fingerprints
from flashcast.model import Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import ACTIONS, REPORTED, Action, Outcome, Reason

_OUTCOMES: Final = len(Outcome)
_CODES: Final = 256
NO_REPLY: Final = 0xFFFFFFFF
"""`reply_ms` of a row that no reply settled."""
ROWS_AT_ONCE: Final = 262_144
"""Rows looked at together: the temporary arrays stay within a few megabytes."""


class VarBytesView(Protocol):
    """Strings laid end to end: ``data`` uint8[bytes], ``offsets`` uint32[rows + 1]."""

    @property
    def data(self) -> NDArray[np.uint8]: ...
    @property
    def offsets(self) -> NDArray[np.uint32]: ...


class ShardView(Protocol):
    """What a report reads of a shard."""

    @property
    def provider(self) -> Provider: ...
    @property
    def rows(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def tokens(self) -> VarBytesView: ...
    @property
    def user_ids(self) -> VarBytesView: ...
    @property
    def variants(self) -> NDArray[np.uint8]: ...


class SnapshotView(Protocol):
    """What a report reads of a snapshot; `flashcast.audience.snapshot.Snapshot` is one."""

    @property
    def digest(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def shards(self) -> Sequence[ShardView]: ...
    @property
    def templates(self) -> Mapping[Provider, Sequence[RequestTemplate]]: ...
    @property
    def window_s(self) -> float: ...
    @property
    def unknown_policy(self) -> UnknownPolicy: ...


class Rows(Protocol):
    """What the journal says of every row of a snapshot, in its order; all arrays have ``rows`` entries.

    ``outcome`` uint8 (`Outcome`), ``reason`` uint8 (`Reason.code`), ``reply_ms`` uint32 (milliseconds from
    GO to the reply that settled the row, `NO_REPLY` where none did). `flashcast.deliver.journal.Journal` is one.
    """

    @property
    def outcome(self) -> NDArray[np.uint8]: ...
    @property
    def reason(self) -> NDArray[np.uint8]: ...
    @property
    def reply_ms(self) -> NDArray[np.uint32]: ...


def settled(rows: Rows, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Outcome and reason of rows ``start`` to ``stop``; what was in flight at a crash is unknown."""
    outcome, reason = rows.outcome[start:stop], rows.reason[start:stop]
    lost = outcome == Outcome.IN_FLIGHT
    if lost.any():
        outcome = np.where(lost, np.uint8(Outcome.UNKNOWN), outcome)
        reason = np.where(lost, np.uint8(Reason.PROCESS_DIED.code), reason)
    return outcome, reason


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows ended how and why: per provider int64[outcomes, 256 reason codes].

    ``devices`` are the snapshot's rows per provider; ``strange`` counts rows whose bytes mean nothing.
    """

    matrix: Mapping[Provider, NDArray[np.int64]]
    devices: Mapping[Provider, int]
    strange: int

    def __repr__(self) -> str:
        shown = ", ".join(f"{outcome.name.lower()}={n:,}" for outcome, n in self.outcomes().items() if n)
        return f"<Tally {sum(self.devices.values()):,} devices: {shown}>"

    def _sum(self, provider: Provider | None) -> NDArray[np.int64]:
        chosen = [m for p, m in self.matrix.items() if provider in (None, p)]
        return np.sum(chosen, axis=0, dtype=np.int64) if chosen else np.zeros((_OUTCOMES, _CODES), np.int64)

    def outcomes(self, provider: Provider | None = None) -> dict[Outcome, int]:
        """Rows per outcome, all six, of one provider or of all."""
        counts = self._sum(provider).sum(axis=1)
        return {outcome: int(counts[outcome]) for outcome in REPORTED}

    def reasons(self, provider: Provider | None = None) -> dict[Reason, int]:
        """Rows that were not accepted per reason, the most frequent first."""
        matrix = self._sum(provider)
        counts = matrix.sum(axis=0) - matrix[Outcome.ACCEPTED]
        found = {Reason.from_code(int(code)): int(counts[code]) for code in np.flatnonzero(counts)}
        found.pop(Reason.NONE, None)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0].value)))

    def actions(self) -> dict[Action, int]:
        """Rows that were not accepted per `Action` of their reason; what no reply can cause has none."""
        counts: dict[Action, int] = {}
        for reason, rows in self.reasons().items():
            action = ACTIONS.get(reason)
            if action is not None:
                counts[action] = counts.get(action, 0) + rows
        return counts

    @property
    def prune(self) -> int:
        """Rows refused for a reason that says the device is gone."""
        row = self._sum(None)[Outcome.REJECTED]
        return int(row[PRUNED].sum())


PRUNED: Final[NDArray[np.bool_]] = np.zeros(_CODES, np.bool_)
"""Whether a reason code means that the device is gone: bool[256]."""
PRUNED[[reason.code for reason, action in ACTIONS.items() if action is Action.PRUNE]] = True


def tally(snapshot: SnapshotView, rows: Rows) -> Tally:
    """Counts every row of ``snapshot``. Bytes that are no outcome or no reason are counted as strange."""
    matrix: dict[Provider, NDArray[np.int64]] = {}
    devices: dict[Provider, int] = {}
    strange = 0
    for shard in snapshot.shards:
        provider = Provider(shard.provider)
        counts = matrix.setdefault(provider, np.zeros((_OUTCOMES, _CODES), np.int64))
        devices[provider] = devices.get(provider, 0) + shard.rows
        outcome, reason = settled(rows, shard.base, shard.base + shard.rows)
        known = (outcome < _OUTCOMES) & (reason < len(Reason))
        if not known.all():
            strange += int(np.count_nonzero(~known))
            outcome, reason = outcome[known], reason[known]
        both = np.bincount(outcome.astype(np.intp) * _CODES + reason, minlength=_OUTCOMES * _CODES)
        counts += both.reshape(_OUTCOMES, _CODES)
    return Tally(matrix, devices, strange)


def imbalances(counted: Tally, rows: Rows) -> tuple[str, ...]:
    """What is wrong with the books themselves, in sentences; empty where they balance."""
    faults = []
    devices = sum(counted.devices.values())
    total = sum(counted.outcomes().values())
    if total != devices:
        faults.append(f"the six outcomes add up to {total:,}, the audience has {devices:,} devices")
    if counted.strange:
        faults.append(f"{counted.strange:,} rows of the journal hold a byte that is no outcome or no reason")
    for name in ("outcome", "reason", "reply_ms"):
        size = getattr(rows, name).size
        if size != devices:
            faults.append(f"the journal's {name} has {size:,} entries, the audience {devices:,} devices")
    return tuple(faults)


class ProviderLedger(Protocol):
    """What a simulator says it got; `flashcast.simulator.ledger.LedgerCounts` is one.

    Counts: ``received`` requests processed to a final verdict, ``distinct`` tokens among them, ``duplicates``
    their difference, ``malformed`` requests. Per token: ``fingerprint`` uint64 (`flashcast.digest`), and how
    often a request for it got a final verdict and how often it was taken, both uint32.
    """

    @property
    def received(self) -> int: ...
    @property
    def distinct(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def malformed(self) -> int: ...
    @property
    def fingerprint(self) -> NDArray[np.uint64]: ...
    @property
    def received_by_token(self) -> NDArray[np.uint32]: ...
    @property
    def accepted_by_token(self) -> NDArray[np.uint32]: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where our ledger and the provider's tell different stories, in rows unless it says tokens."""

    accepted_not_taken: int = 0
    """Accepted here; the provider never took it."""
    settled_but_taken: int = 0
    """Rejected, failed, expired or unsent here; the provider took it."""
    received_twice: int = 0
    """Tokens for which the provider gave more than one final verdict: they were sent again without need."""
    taken_twice: int = 0
    """Tokens the provider took more than once: a phone shows the notification twice."""
    strangers: int = 0
    """Tokens the provider got that are not in the snapshot."""
    malformed: int = 0
    """Requests the provider could not read."""
    unknown_taken: int = 0
    """Unknown here, taken there: no difference, and what `unknown` is for."""
    unknown_not_taken: int = 0
    """Unknown here, not taken there; likewise no difference."""

    def differences(self, policy: UnknownPolicy) -> tuple[str, ...]:
        """The differences in sentences. Under `resend`, tokens received twice are its price."""
        told = [
            (self.accepted_not_taken, "accepted rows were never taken by the provider"),
            (self.settled_but_taken, "rows that are not accepted here were taken by the provider"),
            (
                self.received_twice if policy is UnknownPolicy.DROP else 0,
                "tokens were received more than once",
            ),
            (self.strangers, "tokens reached the provider that are not in the snapshot"),
            (self.malformed, "requests were malformed"),
        ]
        return tuple(f"{count:,} {what}" for count, what in told if count)


def compare(snapshot: SnapshotView, rows: Rows, provider: ProviderLedger) -> Comparison:
    """Holds the journal against a simulator's ledger, `ROWS_AT_ONCE` rows at a time.

    Looking them up in fingerprint order walks the sorted ledger once, instead of jumping through it.
    """
    order = np.argsort(provider.fingerprint)
    keys = provider.fingerprint[order]
    taken_times = provider.accepted_by_token[order]
    seen = np.zeros(keys.size, np.bool_)
    counts = dict.fromkeys(
        ("accepted_not_taken", "settled_but_taken", "unknown_taken", "unknown_not_taken"),
        0,
    )
    for shards in _runs(snapshot.shards):
        start, stop = shards[0].base, shards[-1].base + shards[-1].rows
        prints = np.empty(stop - start, np.uint64)
        for shard in shards:
            own = prints[shard.base - start : shard.base - start + shard.rows]
            fingerprints(shard.tokens.data, shard.tokens.offsets, own)
        by_print = np.argsort(prints)
        taken = np.zeros(prints.size, np.bool_)
        taken[by_print] = _look_up(prints[by_print], keys, taken_times, seen)
        outcome, _ = settled(rows, start, stop)
        _count(counts, outcome, taken)
    return Comparison(
        **counts,
        received_twice=int(np.count_nonzero(provider.received_by_token > 1)),
        taken_twice=int(np.count_nonzero(taken_times > 1)),
        strangers=int(np.count_nonzero(~seen)),
        malformed=provider.malformed,
    )


def _runs(shards: Sequence[ShardView]) -> Iterator[list[ShardView]]:
    """Shards whose rows follow one another, so many together that they have at most `ROWS_AT_ONCE` rows, or one."""
    run: list[ShardView] = []
    for shard in shards:
        if run and (
            shard.base != run[-1].base + run[-1].rows or shard.base + shard.rows - run[0].base > ROWS_AT_ONCE
        ):
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _look_up(
    prints: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    taken_times: NDArray[np.uint32],
    seen: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether each of ``prints`` was taken; marks those known in ``seen``. Both inputs are sorted."""
    if keys.size == 0:
        return np.zeros(prints.size, np.bool_)
    place = np.minimum(np.searchsorted(keys, prints), keys.size - 1)
    known = keys[place] == prints
    seen[place[known]] = True
    return np.asarray(known & (taken_times[place] > 0), np.bool_)


def _count(counts: dict[str, int], outcome: NDArray[np.uint8], taken: NDArray[np.bool_]) -> None:
    accepted = outcome == Outcome.ACCEPTED
    unknown = outcome == Outcome.UNKNOWN
    counts["accepted_not_taken"] += int(np.count_nonzero(accepted & ~taken))
    counts["unknown_taken"] += int(np.count_nonzero(unknown & taken))
    counts["unknown_not_taken"] += int(np.count_nonzero(unknown & ~taken))
    counts["settled_but_taken"] += int(np.count_nonzero(taken & ~accepted & ~unknown))
