"""What to tell somebody who asked for what the lifecycle does not allow. Pure: records in, errors out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from flashcast.campaign.lifecycle import Input, possible, sources
from flashcast.campaign.records import LaunchRecord
from flashcast.errors import LifecycleError, Lost

_BY_WORKERS: Final = frozenset({Input.READY, Input.STAGE, Input.CLOSE})
"""Inputs that no operator gives: they are not offered."""
_DONE: Final = {
    Input.EDIT: "edited", Input.SEAL: "sealed", Input.ARM: "armed", Input.READY: "called ready",
    Input.APPROVE: "approved", Input.DISARM: "disarmed", Input.GO: "launched", Input.STAGE: "taken to its next stage",
    Input.PAUSE: "paused", Input.RESUME: "resumed", Input.ABORT: "aborted", Input.CLOSE: "closed",
}  # fmt: skip


def refusal(record: LaunchRecord, what: Input) -> LifecycleError:
    """Names the launch, its state and since when, what was asked, when that is possible and what is possible now."""
    last = record.trail[-1] if record.trail else None
    since = f" (since {moment(last.at)}, by {last.by})" if last is not None else ""
    states = _listed([state.value for state in sources(what)])
    now = [possibility.value for possibility in possible(record.state) if possibility not in _BY_WORKERS]
    remedy = f"Possible now: {', '.join(now)}." if now else _after(record)
    return LifecycleError(
        f"launch {record.launch} is {record.state.value}{since}; it can be {_DONE[what]} only when {states}",
        remedy=remedy,
    )


def _after(record: LaunchRecord) -> str:
    return (
        f"It has ended. `flashcast seal {record.campaign}` or `flashcast arm {record.campaign}` opens the next launch."
    )


def lost(record: LaunchRecord, pressed_at: float, *, pressed: bool = True) -> Lost:
    """For somebody whose GO came second: who was first, when, from where, and by how much.

    Without ``pressed`` they have not pressed yet, and ``pressed_at`` is now.
    """
    assert record.go is not None
    go = record.go
    earlier_ms = (pressed_at - go.at) * 1e3
    if not pressed:
        by_how_much = f"{max(0.0, earlier_ms):,.1f} ms ago"
    elif earlier_ms >= 0:
        by_how_much = f"{earlier_ms:,.1f} ms before this press"
    else:
        by_how_much = f"{-earlier_ms:,.1f} ms after this press by the clocks, but sooner at the engine"
    return Lost(
        f"launch {record.launch} is {record.state.value} already: GO was pressed by {go.by} at {moment(go.at)} "
        f"from {go.host}, {by_how_much}",
        by=go.by, host=go.host, at=go.at, earlier_ms=earlier_ms,
        remedy=f"There is one launch, and it is theirs; `flashcast status {record.campaign} --watch` follows it.",
    )  # fmt: skip


def moment(at: float) -> str:
    """A Unix time to the millisecond, in UTC: ``2026-11-22 16:15:30.123Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + "Z"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
