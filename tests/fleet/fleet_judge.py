"""Whether a launch kept its promises: its report, its outcome files, and the simulator's ledger, row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet_processes import NAME, Fleet
from fleet_view import View
from fleet_worker import Worker

from flashcast.audience.places import place
from flashcast.audience.snapshot import open_snapshot
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import LaunchRecord
from flashcast.report.ledger import Comparison, compare
from flashcast.report.merging import merge
from flashcast.report.settled import read_all
from flashcast.simulator.ledger import LedgerCounts

Note = Callable[[str, object], None]
"""pytest's record_property."""


@dataclass(frozen=True)
class Verdict:
    """What was found, for what a test wants to say besides."""

    record: LaunchRecord
    report: dict[str, Any]
    ledger: LedgerCounts
    comparison: Comparison

    @property
    def outcomes(self) -> dict[str, int]:
        """Rows per outcome, by the report."""
        return dict(self.report["outcomes"])

    @property
    def reasons(self) -> dict[str, int]:
        """Rows that were not accepted, by reason."""
        return dict(self.report["reasons"])


def judge(
    fleet: Fleet,
    *,
    unknown_at_most: int,
    left_at_most: int = 0,
    ended: State = State.DONE,
    resend: bool = False,
    told: str = "",
) -> Verdict:  # fmt: skip
    """Waits for the end of the launch, ends the simulator, and holds everything that was said against its ledger.

    ``unknown_at_most`` is what was claimed and not settled at the fault, which the test has counted. After ``done`` no
    row may be left unsent or late, but for ``left_at_most`` that a worker had claimed, was late with, and knows not to
    have sent. ``told`` goes into the messages.
    """
    record = fleet.until_closed()
    assert record.state is ended, told
    report = fleet.said("report", NAME)
    ledger = fleet.simulator.stop()
    comparison = _compared(record, ledger)
    about = f"{told}\noutcomes {report['outcomes']}, reasons {report['reasons']}\n{comparison}\n{ledger.as_dict()}"
    outcomes = report["outcomes"]

    assert report["balanced"] is True, about
    assert report["devices"] == record.rows == sum(outcomes.values()), f"every row in one outcome: {about}"
    assert comparison.strangers == 0, f"nobody else got anything: {about}"
    assert comparison.malformed == 0, about
    if not resend:
        assert ledger.duplicates == comparison.received_twice == comparison.taken_twice == 0, f"never twice: {about}"
    assert comparison.accepted_not_taken == 0, f"accepted means taken: {about}"
    assert comparison.settled_but_taken == 0, f"what is neither accepted nor unknown was not taken: {about}"
    assert ledger.accepted == outcomes["accepted"] + comparison.unknown_taken or resend, about
    assert outcomes["unknown"] <= unknown_at_most, f"unknown is bounded by {unknown_at_most:,}: {about}"
    if ended is State.DONE:
        assert outcomes["expired"] == 0, about
        assert outcomes["unsent"] <= left_at_most, f"whoever is left sends everything: {about}"
    return Verdict(record, report, ledger, comparison)


def _compared(record: LaunchRecord, ledger: LedgerCounts) -> Comparison:
    assert record.snapshot is not None
    with open_snapshot(Path(record.snapshot.url)) as snapshot:
        settled = read_all(place(record.snapshot.url).beside(".outcomes").child(record.launch), snapshot.manifest,
                           record.launch)  # fmt: skip
        assert not settled.damaged, settled.damaged
        return compare(snapshot, merge(snapshot.manifest, settled.parts), ledger)


def taken_over(fleet: Fleet, victim: Worker, at: float, note: Note) -> float:
    """Waits until every shard that ``victim`` held at ``at`` is another's; returns how long the last one took, in s.

    The figures are kept with the test's result, and printed; how fast it must be is not for a test on a shared machine
    to say.
    """

    def others(view: View) -> dict[int, float] | None:
        held: dict[int, str | None] = {}
        settled: set[int] = set()
        found: dict[int, float] = {}
        for owned in view.owned:
            before = held.get(owned.shard)
            if owned.at > at and before == victim.name and owned.record.owner not in (None, victim.name):
                found.setdefault(owned.shard, owned.at - at)
            held[owned.shard] = owned.record.owner
            if owned.record.settled:
                settled.add(owned.shard)
        left = {shard for shard, owner in held.items() if owner == victim.name and shard not in settled}
        return found if not left else None

    def claims(view: View) -> list[float]:
        return [
            seen - at for seen, shard, _, worker in view.claimed
            if seen > at and shard in found and worker != victim.name
        ]  # fmt: skip

    found: dict[int, float] = fleet.until(lambda view: others(view), "taken over")
    assert found, f"{victim.name} held nothing when it was killed: the test proves nothing"
    fleet.until(lambda view: claims(view) or fleet.record(view).closed_at is not None, "claimed by another")
    claimed = claims(fleet.observer.view)
    figures = {
        "shards": len(found), "first_s": round(min(found.values()), 3), "last_s": round(max(found.values()), 3),
        "first_claim_s": round(min(claimed), 3) if claimed else None,
    }  # fmt: skip
    note("take_over", json.dumps(figures))
    print(f"take-over after the fault: {figures}")
    return max(found.values())
