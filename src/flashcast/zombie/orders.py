"""What a person orders, as terms to publish: zombie mode on, off, a step back to normal. Pure; every door calls these.

An order with a time is a hold: until then no controller changes it. Its document lasts a little longer, so that a
controller has time to take over before apps are on their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from flashcast.errors import InputError
from flashcast.zombie.bounds import LABEL_CHARS_MAX, LIFETIME_S_MAX
from flashcast.zombie.buckets import BUCKETS
from flashcast.zombie.document import Document, Level, Manual, Terms, terms
from flashcast.zombie.rule_parts import Look, Recovery

TAKE_OVER_S: Final = 60
"""Beside a poll interval: a controller looks every 10 s, and caches keep a document for 20."""
LAUNCH: Final = "launch:"
"""Before a launch's id in `manual.by`: what a launch decides is a floor, what a person decides is obeyed."""
LASTS_S: Final = 3_600
"""An order without a time of its own, which a controller is to go on from."""
STEPS: Final = Recovery().steps


class Act(NamedTuple):
    """What to publish, for how long, and over which version. ``told`` says it to a person."""

    terms: Terms
    lasts_s: int
    expect: int
    told: str


def in_force(published: Document | None, now: float) -> Document | None:
    """The document that apps obey at ``now``: one that has expired says nothing any more."""
    return published if published is not None and now < published.expires_at else None


def switch_on(
    published: Document | None,
    now: float,
    *,
    app: str,
    level: Level,
    look: Look,
    for_s: float,
    by: str,
    salt: str,
    expect: int,
    incident: str = "",
    share: float | None = None,
    off: Sequence[str] = (),
    keep: Sequence[str] = (),
    message: Mapping[str, str] | None = None,
) -> Act:
    """Shielded or zombie for ``for_s`` seconds, whatever holds now.

    What is given wins over ``look``. Where something is off already, the incident and its salt go on: the same users
    stay in it. Raises InputError.
    """
    held = in_force(published, now)
    going_on = held is not None and held.level is not Level.NORMAL
    if share is not None and not 0 < share <= 1:
        raise InputError(f"share {share:g} is not between 0 and 1", remedy="1 is every user; 0.1 is one of ten.")
    buckets = look.buckets if share is None else max(1, round(BUCKETS * share))
    features = tuple(off) or look.off
    said = terms(
        app=app, level=level, buckets=buckets, salt=held.salt if held and going_on else salt,
        off=features, keep=tuple(keep) or (look.keep if "*" in features else ()), writes=look.writes,
        drain_s=look.drain_s, wait_s=look.wait_s, poll_s=look.poll_s, poll_jitter_s=look.poll_jitter_s,
        message=dict(message or look.message), manual=_manual(by, now, for_s),
        incident=incident or (held.incident if held and going_on else ""),
    )  # fmt: skip
    named = "everything" if "*" in said.off else ", ".join(said.off)
    return _act(said, for_s, expect, f"{level.value} for {_percent(buckets)} of users: {named} is off")


def switch_off(published: Document | None, now: float, *, app: str, for_s: float, by: str, expect: int) -> Act:
    """Normal, for everybody at once. For ``for_s`` seconds no controller raises it; 0 leaves that to the rules."""
    salt = published.salt if published is not None else "0"
    manual = _manual(by, now, for_s) if for_s else None
    said = terms(app=app, level=Level.NORMAL, salt=salt, manual=manual, **_draining(published))
    return _act(said, for_s or LASTS_S, expect, "normal for every user")


def recover(
    published: Document | None,
    now: float,
    *,
    by: str,
    expect: int,
    steps: Sequence[float] = STEPS,
    share: float | None = None,
    for_s: float | None = None,
) -> Act:
    """The next step back to normal: ``share`` of all users are back, by default the next of ``steps``.

    With ``for_s`` the step is held; without, a controller goes on from it by its rules, further or back. Raises
    InputError where nothing is off.
    """
    held = in_force(published, now)
    if held is None or held.level is Level.NORMAL:
        raise InputError("there is nothing to recover from: no user is in it")
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"share {share:g} is not between 0 and 1", remedy="0.25 lets a quarter of the users back in.")
    rungs = [_still_in(step) for step in steps]
    buckets = max((rung for rung in rungs if rung < held.buckets), default=0) if share is None else _still_in(share)
    manual = _manual(by, now, for_s) if for_s else None
    if buckets == 0:
        said = terms(app=held.app, level=Level.NORMAL, salt=held.salt, manual=manual, **_draining(held))
        return _act(said, for_s or LASTS_S, expect, "every user is back: normal")
    said = held.terms.changed(level=Level.RECOVERING, buckets=buckets, manual=manual)
    return _act(said, for_s or LASTS_S, expect, f"recovering: {_percent(BUCKETS - buckets)} of users are back")


def _draining(published: Document | None) -> dict[str, int]:
    """The drain period goes on: apps that hear of the end only now still have writes from before it."""
    return {"drain_s": published.drain_s} if published is not None else {}


def _still_in(back: float) -> int:
    return BUCKETS - math.floor(round(BUCKETS * back, 6))


def _manual(by: str, now: float, for_s: float) -> Manual:
    if not re.fullmatch(rf"[A-Za-z0-9._:@+-]{{1,{LABEL_CHARS_MAX}}}", by) or by.startswith(LAUNCH):
        raise InputError(
            f"operator {by!r} cannot stand in a document",
            remedy=f"Letters, digits and . _ : @ + -, at most {LABEL_CHARS_MAX}; {LAUNCH} at its head is for launches.",
        )
    return Manual(by=by, until=int(now + for_s))


def _act(said: Terms, for_s: float, expect: int, told: str) -> Act:
    lasts_s = math.ceil(for_s) + said.poll_s + said.poll_jitter_s + TAKE_OVER_S
    if for_s <= 0 or lasts_s > LIFETIME_S_MAX:
        most_h = (LIFETIME_S_MAX - said.poll_s - said.poll_jitter_s - TAKE_OVER_S) // 3_600
        raise InputError(
            f"{for_s:g} s is no time for an order to hold",
            remedy=f"More than 0, at most {most_h} h; repeat it for longer.",
        )
    if problems := said.problems():
        raise InputError(f"the order says nothing sensible: {'; '.join(problems)}")
    return Act(said, lasts_s, expect, told)


def _percent(buckets: int) -> str:
    return f"{buckets * 100 / BUCKETS:g} %"
