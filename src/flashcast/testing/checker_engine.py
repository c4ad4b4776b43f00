"""The checker's view of the engine: what the records may say, one after the other. Shares nothing with the code.

The lifecycle's table stands here a second time, on purpose: copied from the design, not imported.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from flashcast.testing.evidence import Evidence, Write

TABLE: Final = {
    "draft": {"edit": "draft", "seal": "sealed"},
    "sealed": {"edit": "draft", "seal": "sealed", "approve": "sealed", "arm": "arming"},
    "arming": {"edit": "draft", "approve": "arming", "ready": "armed", "disarm": "sealed", "abort": "aborted"},
    "armed": {"edit": "draft", "approve": "armed", "disarm": "sealed", "go": "live", "abort": "aborted"},
    "live": {"stage": "live", "pause": "live", "resume": "live", "abort": "aborted", "close": "done"},
    "done": {},
    "aborted": {"close": "aborted"},
}


@dataclass
class Claims:
    """Who may send which chunk from when on: (from ns, worker) in order of time, by shard and chunk."""

    holders: dict[tuple[int, int], list[tuple[int, str]]] = field(default_factory=dict)


@dataclass
class History:
    """One launch's records, taken apart."""

    launch: str
    states: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Every version of the launch's record and when it was written."""
    shards: dict[int, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    claims: dict[tuple[int, int], list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        """The record at the end."""
        return self.states[-1][1] if self.states else {}

    @property
    def snapshot(self) -> str | None:
        """The address of the snapshot that went live; None where none did."""
        return str(self.last["snapshot"]["url"]) if self.last.get("go") else None

    @property
    def state(self) -> str:
        """The state at the end."""
        return str(self.last.get("state", "absent"))

    def when(self, what: str) -> int | None:
        """When the first transition of that name was written (ns)."""
        for at_ns, record in self.states:
            trail = record.get("trail", [])
            if trail and trail[-1]["what"] == what:
                return at_ns
        return None

    def record_at(self, at_ns: int) -> dict[str, Any]:
        """The record in force at a time; an empty one before the first."""
        index = bisect_right([when for when, _ in self.states], at_ns)
        return self.states[index - 1][1] if index else {}

    def claimed_by(self, shard: int, chunk: int, worker: str, at_ns: int) -> bool:
        """Whether ``worker`` held the claim of a chunk at some time up to ``at_ns``."""
        return any(when <= at_ns and claim["worker"] == worker for when, claim in self.claims.get((shard, chunk), []))

    def say(self, what: str) -> None:
        """Adds a violation."""
        self.violations.append(f"{self.launch}: {what}")


def histories(evidence: Evidence) -> dict[str, History]:
    """The history of each launch, with the violations in it."""
    found = {facts.launch: History(facts.launch) for facts in evidence.launches}
    for write in evidence.writes:
        kind, _, rest = write.key.partition(".")
        launch = rest.split(".")[0]
        history = found.get(launch)
        if history is None or kind not in ("launches", "shards", "claims"):
            continue
        if write.value is None:
            history.say(f"{write.key} was deleted")
        elif kind == "launches":
            _launch_written(history, write)
        elif kind == "shards":
            _shard_written(history, int(rest.split(".")[1]), write)
        else:
            _, shard, chunk = rest.split(".")
            _claim_written(history, int(shard), int(chunk), write)
    return found


def _launch_written(history: History, write: Write) -> None:
    """One more version: exactly one more entry in the trail, along the table."""
    record = write.value
    assert record is not None
    trail = record.get("trail", [])
    before = history.states[-1][1] if history.states else None
    history.states.append((write.at_ns, record))
    if before is None:
        if record["state"] != "draft" or trail:
            history.say(f"began as {record['state']} with {len(trail)} entries")
        return
    known = before.get("trail", [])
    if not trail or (trail[:-1] != known and record.get("trail_pages", 0) == before.get("trail_pages", 0)):
        history.say(f"revision {write.revision} does not add one entry to the trail")
        return
    entry = trail[-1]
    following = TABLE.get(before["state"], {}).get(entry["what"])
    if entry["before"] != before["state"] or entry["after"] != record["state"] or following != record["state"]:
        history.say(f"{before['state']} --{entry['what']}--> {record['state']} (the trail says {entry})")
    if entry["what"] == "go":
        _check_go(history, before, record)
    if before.get("go") not in (None, record.get("go")):
        history.say(f"revision {write.revision} changes who pressed GO")
    if before.get("closed_at") is not None and entry["what"] != "go":
        history.say(f"{entry['what']} after the books were closed")


def _check_go(history: History, before: dict[str, Any], record: dict[str, Any]) -> None:
    go = record.get("go")
    if not go or go.get("by") != record["trail"][-1]["by"]:
        history.say(f"live by {record['trail'][-1]['by']}, but the record's GO is {go}")
        return
    if not before.get("require_approval"):
        return
    word, snapshot = before.get("approval"), before.get("snapshot") or {}
    fits = word is not None and (word["campaign_digest"], word["snapshot_digest"], word.get("to")) == (
        before.get("campaign_digest", ""), snapshot.get("digest", ""), before.get("to", "production"),
    )  # fmt: skip
    if word is None or not fits or word["by"] == go["by"]:
        history.say(f"GO by {go['by']} with the approval {word}")


def _shard_written(history: History, shard: int, write: Write) -> None:
    record = write.value
    assert record is not None
    versions = history.shards.setdefault(shard, [])
    before = versions[-1][1] if versions else {}
    versions.append((write.at_ns, record))
    owner, epoch = record.get("owner"), record.get("epoch", 0)
    was, old = before.get("owner"), before.get("epoch", 0)
    if before.get("settled") and record != before:  # to say it twice is no harm
        history.say(f"shard {shard} was changed after it was settled: {before} -> {record}")
    if owner is not None and owner != was and epoch <= old:
        history.say(f"shard {shard} went from {was} to {owner} without a new epoch ({old} -> {epoch})")
    if epoch < old:
        history.say(f"shard {shard}: epoch {old} -> {epoch}")
    if record.get("settled") and (owner, epoch) != (was, old):
        history.say(f"shard {shard} was settled by {owner} in epoch {epoch}, held by {was} in {old}")


def _claim_written(history: History, shard: int, chunk: int, write: Write) -> None:
    """A claim is made by an owner of the shard, and passes only to owners of later epochs."""
    claim = write.value
    assert claim is not None
    versions = history.claims.setdefault((shard, chunk), [])
    worker, epoch = claim["worker"], claim.get("epoch", 0)
    if versions and epoch <= versions[-1][1].get("epoch", 0):
        history.say(f"chunk {shard}.{chunk} was claimed twice in epoch {epoch}: {versions[-1][1]}, then {claim}")
    owned = any(
        record.get("owner") == worker and record.get("epoch", 0) == epoch
        for _, record in history.shards.get(shard, [])
    )  # fmt: skip
    if not owned:
        history.say(f"chunk {shard}.{chunk} was claimed by {worker} in epoch {epoch}, which never held the shard so")
    if not any(record.get("go") for _, record in history.states):
        history.say(f"chunk {shard}.{chunk} was claimed before GO")
    versions.append((write.at_ns, claim))


def check_end(history: History, shards: int) -> Iterator[str]:
    """Every launch that went live ends: done, or aborted and closed; and `done` means that every shard is settled."""
    last = history.last
    if not last.get("go"):
        return
    if last["state"] not in ("done", "aborted") or last.get("closed_at") is None:
        told = {shard: versions[-1][1] for shard, versions in sorted(history.shards.items())}
        yield f"{history.launch} has not ended: {last['state']}, paused {last.get('paused')}, shards {told}"
        return
    for shard in range(shards):
        versions = history.shards.get(shard, [])
        if not versions or not versions[-1][1].get("settled"):
            yield f"{history.launch} is closed, but shard {shard} is not settled: {versions[-1:]}"
