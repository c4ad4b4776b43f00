"""GO: one compare-and-swap of the launch's record from armed to live.

Everything that must hold is checked on the very record that is replaced, so nothing can change in between: that it is
armed, that it is what the operator was shown, and that another operator has approved exactly it, and where it goes,
where the campaign asks for that. An edited campaign needs no check here: the edit put the launch back to draft before
it changed a word.
"""

from __future__ import annotations

from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import Approval, Go, LaunchRecord
from flashcast.campaign.store import Store
from flashcast.errors import InputError, LifecycleError


async def press_go(
    store: Store, launch: str, *, at: float | None = None, seen: LaunchRecord | None = None
) -> LaunchRecord:
    """Makes the launch live; returns its record.

    ``at`` is the Unix time at which the operator pressed, by default now. With ``seen``, exactly that is launched or
    nothing. Raises Lost where somebody was quicker, LifecycleError where it is not armed, not approved, or another
    than was seen.
    """
    pressed_at = store.clock.time() if at is None else at

    def go(record: LaunchRecord) -> LaunchRecord:
        check_same(record, seen)
        _check_approved(record, store)
        going = Go(at=pressed_at, by=store.operator.name, host=store.operator.host)
        fresh = {"go": going, "stage": 0, "paused": None, "guard_off": False, "closed_at": None}
        return record.model_copy(update=fresh)

    return await store.transition(launch, Input.GO, go, at=pressed_at, seen=seen)


async def approve(store: Store, launch: str, *, seen: LaunchRecord | None = None) -> LaunchRecord:
    """Another operator's word for exactly the campaign, the snapshot and the destination that the launch has now."""
    at = store.clock.time()

    def approved(record: LaunchRecord) -> LaunchRecord:
        check_same(record, seen)
        assert record.snapshot is not None  # the table allows an approval only of what is sealed
        digests = {"campaign_digest": record.campaign_digest, "snapshot_digest": record.snapshot.digest}
        word = Approval(by=store.operator.name, at=at, to=record.to, **digests)
        return record.model_copy(update={"approval": word})

    return await store.transition(launch, Input.APPROVE, approved, at=at)


def approval_fault(record: LaunchRecord, presser: str) -> InputError | None:
    """Why ``presser`` may not press GO for want of an approval; None where they may."""
    if not record.require_approval:
        return None
    word, launch = record.approval, record.launch
    ask = f"Ask another operator to run `flashcast approve {record.campaign}`."
    if word is None:
        return LifecycleError(f"launch {launch} needs another operator's approval, and has none", remedy=ask)
    digests = (record.campaign_digest, record.snapshot.digest if record.snapshot is not None else "")
    if (word.campaign_digest, word.snapshot_digest) != digests:
        return LifecycleError(f"launch {launch} has changed since {word.by} approved it", remedy=ask)
    if word.to != record.to:
        told = f"launch {launch} goes to {record.to}, and {word.by} approved it for {word.to or 'no destination'}"
        return LifecycleError(told, remedy=ask)
    if word.by.casefold() == presser.casefold():
        return LifecycleError(
            f"launch {launch} was approved by {word.by}, who may therefore not press GO",
            remedy="Two people are needed: let another operator press GO, or another approve it.",
        )
    return None


def _check_approved(record: LaunchRecord, store: Store) -> None:
    fault = approval_fault(record, store.operator.name)
    if fault is not None:
        raise fault


def check_same(record: LaunchRecord, seen: LaunchRecord | None) -> None:
    """Raises LifecycleError where the record is about another campaign text or snapshot than was ``seen``."""
    if seen is None:
        return
    if (record.campaign_digest, record.snapshot, record.to) != (seen.campaign_digest, seen.snapshot, seen.to):
        raise LifecycleError(
            f"launch {record.launch} was changed after you looked at it",
            remedy=f"Look again: `flashcast status {record.campaign}`.",
        )
