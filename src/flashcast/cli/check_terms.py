"""What `flashcast check` says of how a campaign is launched: stages, guard, approval, shield."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flashcast.campaign.terms import launch_terms

if TYPE_CHECKING:
    from flashcast.campaign.file import Campaign
    from flashcast.campaign.records import GuardTerms, Stage
    from flashcast.zombie.shield import Shield


def terms_document(campaign: Campaign) -> dict[str, Any]:
    """For `--json`: ``stages``, ``guard`` and ``shield`` (null where there is none), ``require_approval``."""
    terms = launch_terms(campaign)
    guard: GuardTerms | None = terms["guard"]
    shield: Shield | None = terms["shield"]
    return {
        "stages": [stage.model_dump(mode="json") for stage in terms["stages"]],
        "guard": None if guard is None else guard.model_dump(mode="json"),
        "require_approval": terms["require_approval"],
        "shield": None if shield is None else shield.model_dump(mode="json"),
    }


def terms_lines(campaign: Campaign) -> Iterator[str]:
    """The same for people, a line for each."""
    terms = launch_terms(campaign)
    stages: tuple[Stage, ...] = terms["stages"]
    guard: GuardTerms | None = terms["guard"]
    shield: Shield | None = terms["shield"]
    parts = [f"to {stage.share:.4g} of the audience, hold {stage.hold_s:g} s" for stage in stages]
    yield f"stages: {'; '.join([*parts, 'then the rest']) if parts else 'none, everybody at once'}"
    if guard is None:
        yield "guard: off, nothing pauses a launch that goes wrong"
    else:
        yield (
            f"guard: after {guard.replies:,} replies of a provider, pauses above {guard.stop_share:.4g} that stop a "
            f"launch or {guard.bad_token_share:.4g} that know no such device"
        )
    if terms["require_approval"]:
        yield "approval: GO needs the approval of another operator"
    else:
        yield "approval: none needed, one operator launches"
    if shield is not None:
        yield (
            f"shield: at {shield.at} for {shield.minutes:g} min, {', '.join(shield.features)} off in app {shield.app} "
            f"for {shield.share:.4g} of its users"
        )
