"""The lifecycle of a launch, as a table: state and input give the next state; what is not in it is refused.

The same table draws the diagram in docs/reference/lifecycle.md. Every transition is one compare-and-swap of the
launch's record, which carries its audit entry with it (campaign/store.py), so no transition is ever without one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a launch stands."""

    DRAFT = "draft"
    """There is a campaign; nobody is chosen yet."""
    SEALED = "sealed"
    """A snapshot says who gets what."""
    ARMING = "arming"
    """Workers take shards and open connections."""
    ARMED = "armed"
    """Every shard is held by a worker that is ready."""
    LIVE = "live"
    """GO was pressed: workers send."""
    DONE = "done"
    """Every row has its outcome."""
    ABORTED = "aborted"
    """An operator called it off; rows on the wire at that moment are settled like any other."""


class Input(StrEnum):
    """What can happen to a launch."""

    EDIT = "edit"
    SEAL = "seal"
    ARM = "arm"
    READY = "ready"
    APPROVE = "approve"
    DISARM = "disarm"
    GO = "go"
    STAGE = "stage"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    CLOSE = "close"


_S, _I = State, Input
TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (_S.DRAFT, _I.EDIT): _S.DRAFT,
    (_S.DRAFT, _I.SEAL): _S.SEALED,
    (_S.SEALED, _I.EDIT): _S.DRAFT,
    (_S.SEALED, _I.SEAL): _S.SEALED,
    (_S.SEALED, _I.APPROVE): _S.SEALED,
    (_S.SEALED, _I.ARM): _S.ARMING,
    (_S.ARMING, _I.EDIT): _S.DRAFT,
    (_S.ARMING, _I.APPROVE): _S.ARMING,
    (_S.ARMING, _I.READY): _S.ARMED,
    (_S.ARMING, _I.DISARM): _S.SEALED,
    (_S.ARMING, _I.ABORT): _S.ABORTED,
    (_S.ARMED, _I.EDIT): _S.DRAFT,
    (_S.ARMED, _I.APPROVE): _S.ARMED,
    (_S.ARMED, _I.DISARM): _S.SEALED,
    (_S.ARMED, _I.GO): _S.LIVE,
    (_S.ARMED, _I.ABORT): _S.ABORTED,
    (_S.LIVE, _I.STAGE): _S.LIVE,
    (_S.LIVE, _I.PAUSE): _S.LIVE,
    (_S.LIVE, _I.RESUME): _S.LIVE,
    (_S.LIVE, _I.ABORT): _S.ABORTED,
    (_S.LIVE, _I.CLOSE): _S.DONE,
    (_S.ABORTED, _I.CLOSE): _S.ABORTED,
}
ENDED: Final = frozenset({State.DONE, State.ABORTED})
HELD: Final = frozenset({State.ARMING, State.ARMED, State.LIVE})
"""States in which workers hold shards; after an abort from one of them they let go when their rows are settled."""


def following(state: State, what: Input) -> State | None:
    """The state after ``what``, None where the table has no such transition."""
    return TRANSITIONS.get((state, what))


def possible(state: State) -> list[Input]:
    """What can happen in ``state``."""
    return [what for before, what in TRANSITIONS if before is state]


def sources(what: Input) -> list[State]:
    """The states in which ``what`` can happen."""
    return [before for before, happening in TRANSITIONS if happening is what]
