"""The report of a launch as one document: the keys that scripts rely on, and what people ask next.

`report_document` is the only place where the document is made; the text, the page and every ``--json``
show the same one. docs/reference/report.md describes each key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flashcast.errors import ExitCode
from flashcast.latency import percentile
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.report.facts import LaunchFacts as LaunchFacts
from flashcast.report.facts import TakeOver, WorkerFacts
from flashcast.report.ledger import (
    Comparison,
    ProviderLedger,
    Rows,
    SnapshotView,
    Tally,
    compare,
    imbalances,
    tally,
)

FORMAT: Final = 1
"""Rises when a key of the document changes its meaning."""
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
ENVIRONMENT_SHARE: Final = 0.3
"""A share of BadDeviceToken among APNs rows beyond which the host, not the devices, is the likely fault."""


def report_document(
    snapshot: SnapshotView, rows: Rows, facts: LaunchFacts, simulator: ProviderLedger | None = None
) -> dict[str, Any]:
    """The report of a launch, ready for JSON: see docs/reference/report.md.

    ``simulator`` is the ledger of the simulator that stood in for the providers; with it the books are
    compared, and ``balanced`` means that both agree.
    """
    counted = tally(snapshot, rows)
    comparison = None if simulator is None else compare(snapshot, rows, simulator)
    faults = imbalances(counted, rows)
    if comparison is not None:
        faults += comparison.differences(snapshot.unknown_policy)
    accepted = counted.outcomes()[Outcome.ACCEPTED]
    return {
        "format": FORMAT,
        "launch": facts.launch,
        "name": snapshot.name,
        "destination": facts.destination,
        "started_at": iso(facts.started_at),
        "devices": sum(counted.devices.values()),
        "outcomes": _by_outcome(counted),
        "reasons": _by_reason(counted),
        "actions": {action.value: rows_ for action, rows_ in counted.actions().items()},
        "providers": {p.value: _provider(p, counted, facts) for p in counted.devices},
        "go_to_first_request_ms": _rounded(facts.go_to_first_request_ms, 3),
        "go_to_last_reply_s": _rounded(facts.go_to_last_reply_s, 4),
        "reply_latency_ms": _latency(facts.latency_us_histogram),
        "accepted_per_s": _rate(accepted, facts.go_to_last_reply_s),
        "sender_cpu_us_per_notification": _rounded(facts.sender_cpu_us_per_notification, 4),
        "peak_rss_mib": _rounded(facts.peak_rss_mib, 1),
        "seal_s": _rounded(facts.seal_s, 3),
        "arm_s": _rounded(facts.arm_s, 3),
        "prune": counted.prune,
        "aborted": facts.aborted,
        "overshoot": facts.overshoot,
        "resumed": facts.resumed,
        "window_s": snapshot.window_s,
        "unknown_policy": snapshot.unknown_policy.value,
        "snapshot": snapshot.digest,
        "balanced": not faults,
        "imbalances": list(faults),
        "warnings": list(_warnings(counted, facts)),
        "workers": [_worker(worker) for worker in facts.workers],
        "first_request_spread_ms": _spread(facts.workers),
        "take_overs": [_take_over(worker.worker, t) for worker in facts.workers for t in worker.take_overs],
        "shards_missing": list(facts.shards_missing),
        "shards_partial": list(facts.shards_partial),
        "audit": None if facts.audit is None else dict(facts.audit),
        "sources": facts.sources,
        "simulator": None if simulator is None or comparison is None else _simulator(simulator, comparison),
    }


def exit_code(document: Mapping[str, Any]) -> ExitCode:
    """What a launch that ended with ``document`` leaves with."""
    if document["aborted"]:
        return ExitCode.ABORTED
    stopped = any(provider["stopped"] for provider in document["providers"].values())
    return ExitCode.OK if document["balanced"] and not stopped else ExitCode.UNBALANCED


def _provider(provider: Provider, counted: Tally, facts: LaunchFacts) -> dict[str, Any]:
    stopped = facts.stopped.get(provider)
    return {
        "devices": counted.devices[provider],
        "outcomes": _by_outcome(counted, provider),
        "reasons": _by_reason(counted, provider),
        "connections": facts.connections.get(provider),
        "stopped": None if stopped is None else stopped.value,
    }


def _worker(facts: WorkerFacts) -> dict[str, Any]:
    return {
        "worker": facts.worker,
        "host": facts.host,
        "version": facts.version,
        "devices": sum(facts.rows.values()),
        "sent": facts.sent,
        "claims": facts.claims,
        "connections": {provider.value: count for provider, count in facts.connections.items()},
        "go_to_first_request_ms": _rounded(facts.first_request_ms, 3),
        "go_to_last_reply_s": _rounded(facts.go_to_last_reply_s, 4),
        "clock_offset_ms": _rounded(facts.clock_offset_ms, 3),
        "sender_cpu_us_per_notification": _rounded(facts.cpu_us_per_notification, 4),
        "peak_rss_mib": _rounded(facts.peak_rss_mib, 1),
        "arm_s": _rounded(facts.arm_s, 3),
        "overshoot": facts.overshoot,
        "take_overs": len(facts.take_overs),
    }


def _take_over(worker: str, taken: TakeOver) -> dict[str, Any]:
    return {
        "shard": taken.shard,
        "from_worker": taken.from_worker,
        "worker": worker,
        "epoch": taken.epoch,
        "at": iso(taken.at),
        "inherited": taken.inherited,
        "rows": taken.rows,
    }


def _spread(workers: Sequence[WorkerFacts]) -> float | None:
    """Between the first worker's first request and the last one's."""
    first = [worker.first_request_ms for worker in workers if worker.first_request_ms is not None]
    return _rounded(max(first) - min(first), 3) if len(first) > 1 else None


def _by_outcome(counted: Tally, provider: Provider | None = None) -> dict[str, int]:
    outcomes = counted.outcomes(provider)
    order = sorted(outcomes, key=lambda outcome: outcome is Outcome.UNSENT)  # accepted first, unsent last
    return {outcome.name.lower(): outcomes[outcome] for outcome in order}


def _by_reason(counted: Tally, provider: Provider | None = None) -> dict[str, int]:
    return {reason.value: rows for reason, rows in counted.reasons(provider).items()}


def _latency(histogram: NDArray[np.int64]) -> dict[str, float | None]:
    return {f"p{p:g}": _rounded(percentile(histogram, p) / 1_000, 3) for p in PERCENTILES}


def _simulator(ledger: ProviderLedger, comparison: Comparison) -> dict[str, int]:
    return {
        "received": ledger.received,
        "distinct": ledger.distinct,
        "duplicates": ledger.duplicates,
        "malformed": ledger.malformed,
        "accepted_not_taken": comparison.accepted_not_taken,
        "settled_but_taken": comparison.settled_but_taken,
        "received_twice": comparison.received_twice,
        "taken_twice": comparison.taken_twice,
        "strangers": comparison.strangers,
        "unknown_taken": comparison.unknown_taken,
        "unknown_not_taken": comparison.unknown_not_taken,
    }


def _warnings(counted: Tally, facts: LaunchFacts) -> list[str]:
    """What a person should know before acting on the figures."""
    told = list(facts.warnings)
    for provider, reason in facts.stopped.items():
        told.append(
            f"{provider} was stopped: it answered {reason.value}, which every other row would have met. "
            "docs/reference/reasons.md says what to change."
        )
    devices = counted.devices.get(Provider.APNS, 0)
    bad = counted.reasons(Provider.APNS).get(Reason.BAD_DEVICE_TOKEN, 0) if devices else 0
    if bad > ENVIRONMENT_SHARE * devices:
        told.append(
            f"{bad:,} of {devices:,} APNs tokens are BadDeviceToken. So many usually mean "
            "production tokens on the sandbox host, or the reverse: check the endpoint before pruning."
        )
    return told


def iso(unix_s: float) -> str:
    """A Unix time as the document has it: UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rate(rows: int, seconds: float | None) -> float | None:
    return round(rows / seconds) if seconds else None


def _rounded(value: float | None, digits: int) -> float | None:
    """JSON has no NaN: what was not measured is null."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
