"""What the text and the page both say of a fleet: a line per worker, and what happened to it on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

COLUMNS: Final = ("devices", "first request ms", "last reply s", "conns", "CPU µs", "RSS MiB", "taken over")
"""Columns of numbers, after the worker's name. Each heading is one or two lines in a terminal of 80 columns."""


def is_fleet(document: Mapping[str, Any]) -> bool:
    """Whether there is more to say than the totals do. A report of an earlier version knows of no workers."""
    return len(document.get("workers") or ()) > 1 or bool(document.get("take_overs"))


def cells(worker: Mapping[str, Any]) -> list[str]:
    """One worker's numbers, one for each of `COLUMNS`; empty where nothing was measured or happened."""
    connections = sum(worker["connections"].values())
    return [
        f"{worker['devices']:,}",
        _number(worker["go_to_first_request_ms"], ",.1f"),
        _number(worker["go_to_last_reply_s"], ",.2f"),
        f"{connections:,}" if connections else "",
        _number(worker["sender_cpu_us_per_notification"], ",.2f"),
        _number(worker["peak_rss_mib"], ",.0f"),
        f"{worker['take_overs']:,}" if worker["take_overs"] else "",
    ]


def spread(document: Mapping[str, Any]) -> str:
    """How far apart the workers' first requests were, in words; empty where there were not two."""
    told = document.get("first_request_spread_ms")
    return "" if told is None else f"first requests within {told:,.1f} ms of each other"


def events(document: Mapping[str, Any]) -> Iterator[str]:
    """What happened, in sentences: who pressed GO, pauses, an abort, take-overs."""
    audit = document.get("audit") or {}
    go, approval, abort = audit.get("go"), audit.get("approval"), audit.get("abort")
    if go is not None:
        approved = "" if approval is None else f", approved by {approval['by']} at {approval['at']}"
        yield f"GO by {go['by']} on {go['host']} at {go['at']}{approved}."
    for pause in audit.get("pauses", ()):
        resumed = f"resumed by {pause['resumed_by']} at {pause['resumed_at']}" if pause["resumed_at"] else "not resumed"
        yield f"Paused by {pause['by']} at {pause['at']}: {pause['why'] or 'no reason given'}; {resumed}."
    if abort is not None:
        yield f"Aborted by {abort['by']} on {abort['host']} at {abort['at']}."
    taken: dict[tuple[str, str, bool], list[int]] = {}
    for one in document.get("take_overs", ()):
        taken.setdefault((one["worker"], one["from_worker"], one["inherited"]), []).append(one["shard"])
    for (worker, before, inherited), shards in taken.items():
        how = "with its journal" if inherited else "without its journal"
        which = f"shard{'s' if len(shards) > 1 else ''} {', '.join(str(shard) for shard in sorted(shards))}"
        yield f"{worker} took {which} over from {before or 'a worker that had let go'}, {how}."


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
