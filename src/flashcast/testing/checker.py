"""What must hold after every simulated run, whatever was done to the fleet. Shares nothing with the code it judges.

a  under `drop` no row is sent again once a request for it was, or may have been, processed to an end
b  every row has one outcome, and it is what the provider's books say; no row is sent without a claim
c  every launch that went live ends
d  a chunk is claimed once in each epoch of its shard, by who holds the shard then
e  nothing leaves before GO, while paused, after the window, or after an abort took effect
f  every change of a launch adds one entry to its audit trail, which follows the lifecycle's table
g  a launch's state goes along the table; a shard's epoch rises with every owner, and `settled` is the last word
h  clients speak proper HTTP/2, and no exception goes unheard
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flashcast.testing.checker_engine import check_end, histories
from flashcast.testing.checker_rows import check_rows, tally
from flashcast.testing.evidence import Evidence


@dataclass
class Judgement:
    """``violations`` are sentences, none for a good run; ``rows`` counts what became of them, by outcome and reason."""

    violations: list[str]
    rows: Counter[str]


def judge(evidence: Evidence) -> Judgement:
    """Looks for everything in a run that must not be."""
    rows: Counter[str] = Counter()
    found = [f"malformed: {what}" for what in evidence.malformed]
    found += [f"unheard: {what}" for what in evidence.faults]
    told = histories(evidence)
    for facts in evidence.launches:
        history = told[facts.launch]
        shards = facts.snapshots[history.snapshot] if history.snapshot is not None else []
        found += check_end(history, len(shards))
        found += check_rows(evidence, facts, history)
        rows.update(tally(evidence, facts, history))
        winners = evidence.winners.get(facts.launch, [])
        if len(winners) > (1 if history.snapshot is not None else 0):
            found.append(f"GO for {facts.launch} was won by {winners}")
    return Judgement(found, rows)
