"""How a campaign is launched, apart from what it says: window, policy, pace, stages, guard, approval, shield."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flashcast.campaign.faults import Fault
from flashcast.campaign.file import Campaign
from flashcast.campaign.records import GuardTerms, Stage
from flashcast.zombie.document import EVERYTHING


def launch_terms(campaign: Campaign) -> dict[str, Any]:
    """The fields of a `LaunchRecord` that a campaign decides, by name. ``campaign`` must be without fault."""
    guard = campaign.guard
    return {
        "window_s": campaign.window_s,
        "unknown_policy": campaign.policy,
        "require_approval": campaign.require_approval,
        "pace": campaign.pace.by_provider(),
        "stages": tuple(
            Stage(share=stage.share, hold_s=stage.hold_s) for stage in campaign.stages if stage.share is not None
        ),
        "guard": None if guard is None else GuardTerms(**guard.model_dump()),
        "shield": campaign.shield,
    }


def terms_faults(campaign: Campaign) -> Iterator[Fault]:
    """What is wrong with stages and shield, beyond the types of their keys."""
    before = 0.0
    for number, stage in enumerate(campaign.stages):
        if stage.share is None:
            yield Fault(("stages", number, "share"), "missing; 0.01 is the first hundredth of the audience")
            continue
        if stage.share <= before:
            told = f"{stage.share:g} is not more than {before:g}, where the stage before it ends; shares add up"
            yield Fault(("stages", number, "share"), told)
        before = max(before, stage.share)
    holds_s = sum(stage.hold_s for stage in campaign.stages)
    if campaign.stages and holds_s >= campaign.window_s:
        told = f"hold for {holds_s:g} s together, and window_s ends the launch after {campaign.window_s:g} s"
        yield Fault(("stages",), told)
    if campaign.shield is not None and campaign.shield.keep and EVERYTHING not in campaign.shield.features:
        yield Fault(("shield", "keep"), 'has no meaning unless features has "*", which is every one not in keep')
