"""Go or no-go, with each reason, from what is known of a launch and its fleet. Pure: the caller collects the facts.

A no-go is what would send nothing, send it wrongly, or not in time; everything else that a person should know before
pressing GO is a warning. Preflight decides nothing by itself: GO can be pressed against its advice, and what must hold
(state, approval, digests) is checked again in GO's own compare-and-swap.
"""

from __future__ import annotations

import math
from typing import Final

from flashcast.arm import fleet_checks as fleet
from flashcast.arm import plan_checks as planned
from flashcast.arm.facts import Check as Check
from flashcast.arm.facts import Facts as Facts
from flashcast.arm.facts import Heard as Heard
from flashcast.arm.facts import Level as Level
from flashcast.arm.facts import Verdict as Verdict
from flashcast.arm.forecast import forecast

QUESTIONS: Final = (
    fleet.state, fleet.approval, fleet.rows, planned.connections, planned.window, planned.quota, planned.credentials,
    fleet.workers, fleet.survivors, fleet.endpoints, fleet.disk, fleet.clocks, fleet.snapshot, planned.hour,
    planned.guard, planned.shield, fleet.engine,
)  # fmt: skip
"""In the order in which a person should read the answers."""


def preflight(facts: Facts) -> Verdict:
    """Every check, and the verdict: one that fails is a no-go."""
    checks = tuple(check for question in QUESTIONS for check in question(facts))
    seconds = forecast(planned.loads(facts), facts.record.stages)
    sendable = bool(facts.holdings) and all(math.isfinite(each) for each in seconds.values())
    return Verdict(
        go=all(check.level is not Level.FAIL for check in checks),
        checks=checks,
        predicted_s=max(seconds.values(), default=None) if sendable else None,
        rows_covered=facts.rows_covered,
        rows=sum(facts.rows.values()),
    )
