"""A launch's shield: chosen features off from arm or GO on, for some minutes. Pure: values in, terms to publish out.

Launch control calls `raised` when the moment comes, publishes what it gets, and calls `lowered` when the launch is
called off. In the document the shield is a decision of the launch's (`manual.by` is "launch:<id>"), which to a
controller is a floor: until its end it is not lowered, and rules may raise above it. Without a controller it ends by
itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, ValidationError
from pydantic_core import to_json

from flashcast.errors import InputError
from flashcast.zombie.bounds import LABEL_CHARS_MAX
from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.document import (
    EVERYTHING,
    App,
    Document,
    Feature,
    FeatureOrAll,
    Level,
    Manual,
    Terms,
    Writes,
    terms,
)
from flashcast.zombie.orders import LAUNCH, TAKE_OVER_S, in_force
from flashcast.zombie.rule_parts import Part, told

MINUTES_MAX: Final = 24 * 60
"""A shield is for a herd, which is over within hours."""


class Shield(Part):
    """`[shield]` of a campaign."""

    app: App = Field(description="The app whose document says so.")
    at: Literal["arm", "go"] = Field("go", description="When it begins: when the launch is armed, or at GO.")
    minutes: float = Field(gt=0, le=MINUTES_MAX, description="How long it lasts.")
    share: float = Field(1.0, gt=0, le=1, description="Share of the users that are in it.")
    features: tuple[FeatureOrAll, ...] = Field(
        min_length=1, strict=False, description='Features that are off; `"*"` is every one not in `keep`.'
    )
    keep: tuple[Feature, ...] = Field((), strict=False, description='Features that stay on where `features` has `"*"`.')
    writes: Writes = Field(
        Writes.SEND, strict=False, description="`send` or `queue`: what becomes of writes of features that are off."
    )
    poll_s: int = Field(30, ge=5, le=3_600, description="Seconds from one poll of an app to the next.")
    poll_jitter_s: int = Field(15, ge=0, le=3_600, description="A random share of these seconds is added each time.")


def shield_of(values: Mapping[str, Any]) -> Shield:
    """A shield from plain values, as a campaign's file has them. Raises InputError naming the field."""
    try:
        return Shield.model_validate_json(to_json(dict(values), inf_nan_mode="strings"))
    except ValidationError as error:
        raise InputError("\n".join(f"shield.{told(fault)}" for fault in error.errors(include_url=False))) from None


class ShieldAct(NamedTuple):
    """What to publish (``terms`` None: nothing), for how long, over which version, and what to tell the operator."""

    terms: Terms | None
    lasts_s: int
    expect: int
    told: str


def is_launch(manual: Manual) -> bool:
    """Whether a decision is a launch's, and so a floor."""
    return manual.by.startswith(LAUNCH)


def raised_by(published: Document | None, now: float) -> str | None:
    """The launch whose shield is up at ``now``; None where none is. A label holds the head of a very long id."""
    held = in_force(published, now)
    if held is None or held.manual is None or not is_launch(held.manual) or now >= held.manual.until:
        return None
    return held.manual.by.removeprefix(LAUNCH)


def raised(shield: Shield, launch: str, published: Document | None, now: float, *, salt: str, expect: int) -> ShieldAct:
    """The shield of ``launch`` from ``now`` (Unix seconds) on, given what is published, which it never weakens.

    ``salt`` is for a new incident (`document.new_salt`), ``expect`` the version that was read (`Published.version`).
    """
    held = in_force(published, now)
    if held is not None:
        if _is_held_by_person(held, now):
            assert held.manual is not None
            return ShieldAct(None, 0, expect, f"no shield: {held.manual.by} has decided {held.level.value} by hand")
        if held.level in (Level.ZOMBIE, Level.RECOVERING):
            return ShieldAct(None, 0, expect, f"no shield: {held.level.value} protects more")
    other = held if held is not None and held.level is Level.SHIELDED else None
    seconds = round(shield.minutes * 60)
    off, keep = _merged([(shield.features, shield.keep), *([(other.off, other.keep)] if other else [])])
    until = max(int(now) + seconds, other.manual.until if other and other.manual else 0)
    said = terms(
        app=shield.app, level=Level.SHIELDED, off=off, keep=keep,
        buckets=max(1, round(BUCKETS * shield.share), other.buckets if other else 0),
        writes=Writes.QUEUE if other and other.writes is Writes.QUEUE else shield.writes,
        salt=other.salt if other else salt, incident=launch[:LABEL_CHARS_MAX],
        poll_s=shield.poll_s, poll_jitter_s=shield.poll_jitter_s, manual=Manual(by=_named(launch), until=until),
    )  # fmt: skip
    lasts_s = until - int(now) + shield.poll_s + shield.poll_jitter_s + TAKE_OVER_S
    share = f"{said.buckets * 100 / BUCKETS:g} % of users"
    return ShieldAct(
        said, lasts_s, expect, f"shield of {launch} for {seconds / 60:g} min: {', '.join(off)} off, {share}"
    )


def lowered(launch: str, published: Document | None, now: float, *, expect: int) -> ShieldAct:
    """The end of the shield of ``launch`` before its time; nothing where the document is not its own any more.

    Where rules have raised above it, only the launch's hold is taken away: the controller lowers it when all is clear.
    """
    held = in_force(published, now)
    if held is None or held.manual is None or held.manual.by != _named(launch):
        return ShieldAct(None, 0, expect, "no shield of this launch is up")
    lasts_s = max(held.expires_at - int(now), TAKE_OVER_S)
    if held.level is Level.SHIELDED:
        return ShieldAct(terms(app=held.app, salt=held.salt), lasts_s, expect, f"the shield of {launch} is down")
    return ShieldAct(held.terms.changed(manual=None), lasts_s, expect, f"{held.level.value} is left to the rules")


def _is_held_by_person(document: Document, now: float) -> bool:
    return document.manual is not None and now < document.manual.until and not is_launch(document.manual)


def _named(launch: str) -> str:
    return f"{LAUNCH}{launch}"[:LABEL_CHARS_MAX]


def _merged(sides: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`off` and `keep` under which every feature is off that is off on any side."""
    off = tuple(dict.fromkeys(name for side, _ in sides for name in side))
    kept = dict.fromkeys(name for side, keep in sides if EVERYTHING in side for name in keep)
    stays = [n for n in kept if all(n not in side and (EVERYTHING not in side or n in keep) for side, keep in sides)]
    return off, tuple(stays)
