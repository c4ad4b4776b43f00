"""The checker's view of the rows: what the providers got against what the outcome files say. Its own parser of them.

Only the closed sets of outcomes and reasons are shared with the code under test, as the simulator shares them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.outcomes import Outcome, Reason
from flashcast.testing.checker_engine import History
from flashcast.testing.evidence import Evidence, LaunchFacts, ShardFacts, Span, WorkerHistory
from flashcast.testing.simulated_provider import Receipt
from flashcast.testing.virtual_time import EPOCH_S, START_NS

_NAME: Final = re.compile(r"shard-(\d+)\.e(\d+)\.(.+)\.outcomes")
_MAGIC: Final = b"FLASHSTL1\n"
_PAGE: Final = 4_096
_LOST: Final = Reason.WORKER_LOST.code
EFFECT_S: Final = 0.25
"""An abort or a pause stops new requests within so long."""
LEASE_S: Final = 1.0
"""And so long where a worker could not be told: then its lease runs out."""
REFUSALS: Final = frozenset({"gone", "stop", "credential expired"})
"""Verdicts that refuse a row for good."""
TOLD_MAX: Final = 8
"""Violations of one kind that are spelled out."""


class _Case:
    """A launch that went live, with its outcome files."""

    def __init__(self, evidence: Evidence, facts: LaunchFacts, history: History) -> None:
        assert history.snapshot is not None
        self.evidence = evidence
        self.history = history
        self.launch = facts.launch
        self.shards = facts.snapshots[history.snapshot]
        self.written_ns = facts.written_ns.get(history.snapshot, {})
        go_ns = history.when("go")
        assert go_ns is not None
        self.go_ns = go_ns
        self.window_ns = go_ns + int(history.last.get("window_s", 60.0) * 1e9)
        # Who came late counts from the moment at which GO was pressed, on a clock of its own; the office's is right.
        pressed_ns = START_NS + int((history.last["go"]["at"] - EPOCH_S) * 1e9)
        self.soonest_ns = min(go_ns, pressed_ns) + self.window_ns - go_ns - int(LEASE_S * 1e9)
        self.files = list(_read(self, facts.files.get(history.snapshot, {})))

    def receipts(self, shard: ShardFacts, token: str) -> list[Receipt]:
        """What the provider got for a token, in the order in which it was sent."""
        return sorted(self.evidence.receipts[shard.provider].get(token, []), key=lambda receipt: receipt.sent_ns)


@dataclass
class _File:
    shard: int
    epoch: int
    worker: str
    written_ns: int
    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]


def check_rows(evidence: Evidence, facts: LaunchFacts, history: History) -> Iterator[str]:
    """Every violation to do with rows of one launch."""
    for url, shards in facts.snapshots.items():
        if url != history.snapshot:
            for shard in shards:
                yield from _nothing_sent(evidence, shard, facts.launch)
    if history.snapshot is None:
        yield from history.violations
        return
    case = _Case(evidence, facts, history)
    yield from history.violations
    for index in range(len(case.shards)):
        yield from _bounded(_check_shard(case, index))
    yield from _bounded(_check_times(case))


def tally(evidence: Evidence, facts: LaunchFacts, history: History) -> Counter[str]:
    """Rows by what became of them, as ``accepted`` or ``unknown (WorkerLost)``; nothing for a launch that is open."""
    if history.snapshot is None or history.last.get("closed_at") is None:
        return Counter()
    case = _Case(evidence, facts, history)
    counts: Counter[str] = Counter()
    for index, shard in enumerate(case.shards):
        mine = [file for file in case.files if file.shard == index]
        for row in range(len(shard.tokens) if mine else 0):
            best = max(mine, key=lambda file: _rank(int(file.outcome[row]), int(file.reason[row])))
            counts[_words(int(best.outcome[row]), int(best.reason[row]))] += 1
    return counts


def _bounded(found: Iterator[str]) -> Iterator[str]:
    told = 0
    for violation in found:
        told += 1
        if told <= TOLD_MAX:
            yield violation
    if told > TOLD_MAX:
        yield f"and {told - TOLD_MAX} more of that kind"


def _nothing_sent(evidence: Evidence, shard: ShardFacts, launch: str) -> Iterator[str]:
    for token in shard.tokens:
        if evidence.receipts[shard.provider].get(token):
            yield f"{launch}: {token[-12:]} was sent without GO"
            return


# --- outcome files -------------------------------------------------------------------------------------------


def _read(case: _Case, files: dict[str, bytes]) -> Iterator[_File]:
    """Parses the outcome files as docs describe them; what is not as described is a violation."""
    history = case.history
    for name, data in sorted(files.items()):
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        shard, epoch, worker = int(found[1]), int(found[2]), found[3]
        if shard >= len(case.shards):
            history.say(f"{name}: the snapshot that went live has {len(case.shards)} shards")
            continue
        rows = len(case.shards[shard].tokens)
        if data[: len(_MAGIC)] != _MAGIC or len(data) != _PAGE + 7 * rows + 32:
            history.say(f"{name}: {len(data)} bytes, not those of {rows} rows")
            continue
        if hashlib.sha256(data[:-32]).digest() != data[-32:]:
            history.say(f"{name} does not match its checksum")
            continue
        header = json.loads(data[len(_MAGIC) : _PAGE])
        if (header["launch"], header["shard"], header["epoch"], header["worker"]) != (
            case.launch, shard, epoch, worker,
        ):  # fmt: skip
            history.say(f"{name} has the header {header}")
            continue
        at = _PAGE + 4 * rows
        yield _File(
            shard,
            epoch,
            worker,
            case.written_ns[name],
            np.frombuffer(data, np.uint8, rows, at),
            np.frombuffer(data, np.uint8, rows, at + rows),
        )


def _rank(outcome: int, reason: int) -> int:
    """How good a piece of knowledge is; the greatest counts."""
    if outcome == Outcome.UNKNOWN:
        return 2 if reason == _LOST else 6
    if outcome == Outcome.UNSENT:
        return 3 if reason else 0
    return {Outcome.ACCEPTED: 8, Outcome.REJECTED: 7, Outcome.FAILED: 5, Outcome.EXPIRED: 4}.get(Outcome(outcome), 1)


# --- a shard -------------------------------------------------------------------------------------------------


def _check_shard(case: _Case, index: int) -> Iterator[str]:
    shard, history = case.shards[index], case.history
    mine = [file for file in case.files if file.shard == index]
    policy = history.last.get("unknown_policy", "drop")
    aborted = history.state == "aborted"
    closed = history.last.get("closed_at") is not None
    if closed:
        yield from _last_word(case, index, mine)
    spans = _grid(len(shard.tokens), history.last)
    for row, token in enumerate(shard.tokens):
        receipts = case.receipts(shard, token)
        name = f"{case.launch} shard {index} row {row} ({shard.provider} {token[-12:]})"
        if policy == "drop":
            yield from _sent_once(name, receipts)
        chunk = _chunk(spans, row)
        for receipt in receipts:
            if not history.claimed_by(index, chunk, receipt.worker, receipt.sent_ns):
                yield f"{name} was sent by {receipt.worker}, which had not claimed chunk {index}.{chunk}"
        if closed and mine:
            known = [(int(file.outcome[row]), int(file.reason[row]), file) for file in mine]
            yield from _agree(name, known, policy)
            outcome, reason, file = max(known, key=lambda one: _rank(one[0], one[1]))
            if outcome == Outcome.EXPIRED and file.written_ns < case.soonest_ns:
                yield f"{name} was called expired at {_at(file.written_ns)}, the window ends at {_at(case.window_ns)}"
            yield from _true(name, outcome, reason, receipts, policy, aborted=aborted)
            if case.evidence.calm and outcome not in (Outcome.ACCEPTED, Outcome.REJECTED) and not aborted:
                yield f"{name} ended {_words(outcome, reason)} although nothing went wrong"


def _last_word(case: _Case, index: int, files: list[_File]) -> Iterator[str]:
    """A shard is called settled only when the file that says so is there."""
    for at_ns, record in case.history.shards.get(index, []):
        if record.get("settled"):
            name = f"shard-{index:05d}.e{record['epoch']}.{record['owner']}.outcomes"
            written_ns = case.written_ns.get(name)
            if written_ns is None or not any(file.epoch == record["epoch"] for file in files):
                yield f"{case.launch}: shard {index} is settled, but {name} is not there"
            elif written_ns > at_ns:
                yield f"{case.launch}: {name} was written after the shard was called settled"


def _sent_once(name: str, receipts: Sequence[Receipt]) -> Iterator[str]:
    """After a request that was, or may have been, processed to an end none is sent."""
    for receipt in receipts[:-1]:
        if receipt.final:
            told = "; ".join(f"{r.worker} at {_at(r.sent_ns)}: {r.verdict}" for r in receipts)
            yield f"{name} was sent again after {receipt.verdict}: {told}"
            return


def _agree(name: str, known: list[tuple[int, int, _File]], policy: str) -> Iterator[str]:
    """Two workers do not both know for sure what became of a row, unless it may be sent again."""
    sure = {outcome for outcome, reason, _ in known if _rank(outcome, reason) >= 5}
    if policy == "drop" and len(sure) > 1:
        told = ", ".join(f"{_words(o, r)} by {f.worker} in epoch {f.epoch}" for o, r, f in known)
        yield f"{name}: {told}"


def _true(
    name: str, outcome: int, reason: int, receipts: Sequence[Receipt], policy: str, *, aborted: bool
) -> Iterator[str]:
    """Whether an outcome is what the provider's books say."""
    taken = any(receipt.taken for receipt in receipts)
    final = any(receipt.final for receipt in receipts)
    told = f"{name} is {_words(outcome, reason)}, but the provider's books say {[r.verdict for r in receipts]}"
    if outcome == Outcome.ACCEPTED:
        if not taken:
            yield told
    elif outcome == Outcome.REJECTED:
        # Under `resend` an earlier try may have been taken without our knowing.
        refused = any(receipt.verdict in REFUSALS for receipt in receipts)
        if not refused or (taken and policy == "drop"):
            yield told
    elif outcome in (Outcome.FAILED, Outcome.EXPIRED, Outcome.UNSENT):
        if taken or final:
            yield told
        if outcome == Outcome.UNSENT and not reason:
            yield f"{name} has no outcome"
        if outcome == Outcome.UNSENT and reason == Reason.ABORTED.code and not aborted:
            yield f"{name} is called aborted in a launch that was not"
    elif outcome != Outcome.UNKNOWN:
        yield f"{name} has the outcome byte {outcome}"


def _grid(rows: int, record: dict[str, Any]) -> list[tuple[int, int]]:
    """The chunks of a shard: stages end at ceil(share * rows), and no chunk crosses the end of a stage."""
    size = record.get("chunk_rows", 8_192)
    ends = [*(min(rows, math.ceil(stage["share"] * rows)) for stage in record.get("stages", [])), rows]
    spans, start = [], 0
    for end in ends:
        while start < end:
            spans.append((start, min(start + size, end)))
            start = spans[-1][1]
    return spans


def _chunk(spans: list[tuple[int, int]], row: int) -> int:
    return next(number for number, (start, stop) in enumerate(spans) if start <= row < stop)


# --- times ---------------------------------------------------------------------------------------------------


def _check_times(case: _Case) -> Iterator[str]:
    """Nothing leaves before GO, while paused, after an abort or after the window."""
    history = case.history
    abort_ns = history.when("abort")
    window_ns = case.window_ns + int(LEASE_S * 1e9)
    quiet = [Span(abort_ns, 1 << 62)] if abort_ns is not None else []
    quiet += _pauses(history)
    for shard in case.shards:
        for token in shard.tokens:
            for receipt in case.receipts(shard, token):
                name = f"{case.launch}: {token[-12:]} was sent by {receipt.worker} at {_at(receipt.sent_ns)}"
                if receipt.sent_ns < case.go_ns:
                    yield f"{name}, before GO at {_at(case.go_ns)}"
                if receipt.sent_ns > window_ns:
                    yield f"{name}, after the window's end at {_at(window_ns)}"
                for span in quiet:
                    limit_ns = span.start_ns + _effect_ns(case.evidence.workers[receipt.worker], span.start_ns)
                    if limit_ns < receipt.sent_ns < span.stop_ns:
                        yield f"{name}, but sending was called off at {_at(span.start_ns)}"


def _pauses(history: History) -> list[Span]:
    """When the launch was paused."""
    spans, since = [], None
    for at_ns, record in history.states:
        paused = record.get("paused") is not None and record["state"] == "live"
        if paused and since is None:
            since = at_ns
        elif not paused and since is not None:
            spans.append(Span(since, at_ns))
            since = None
    return [*spans, Span(since, 1 << 62)] if since is not None else spans


def _effect_ns(worker: WorkerHistory, at_ns: int) -> int:
    """How long a worker may go on sending after a word that was written at ``at_ns``."""
    around = Span(at_ns - int(LEASE_S * 1e9), at_ns + int(LEASE_S * 1e9))
    disturbed = any(
        span.start_ns < around.stop_ns and span.stop_ns > around.start_ns for span in (*worker.paused, *worker.cut_off)
    )
    return int((LEASE_S if disturbed else EFFECT_S) * 1e9)


def _at(ns: int) -> str:
    return f"{(ns - START_NS) / 1e9:.3f} s"


def _words(outcome: int, reason: int) -> str:
    why = Reason.from_code(reason).value
    return f"{Outcome(outcome).name.lower()}{f' ({why})' if why else ''}"
