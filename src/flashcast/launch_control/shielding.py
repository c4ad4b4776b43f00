"""A launch's shield over the product: raised when it is armed or goes, lowered when it is called off.

Here launch control and zombie mode meet. What is decided is in `zombie.shield`; here it is published, with the bucket's
credentials and a key of whoever gives the order (the variables of `zombie.place`). Publishing follows the order and
never holds it up: a GO whose shield cannot be raised is a GO, and the fault is told.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from flashcast.arm.facts import Check, Level
from flashcast.campaign.records import LaunchRecord
from flashcast.clock import Clock
from flashcast.errors import EnvironmentFault, FlashcastError
from flashcast.zombie.document import new_salt
from flashcast.zombie.orders import Act, in_force
from flashcast.zombie.place import Place
from flashcast.zombie.publish import OvertakenError, Published
from flashcast.zombie.shield import Shield, ShieldAct, lowered, raised, raised_by

ATTEMPTS: Final = 5
"""Others publish between our look and our word a few times in a row, not for ever: a controller looks every 10 s."""


def raise_shield(record: LaunchRecord, clock: Clock) -> str:
    """Publishes the shield of a launch that has one; returns what to tell the operator.

    Repeatable: it is up from now for its minutes. Raises InputError where a setting is missing, and what publishing
    raises; then it is not up.
    """
    shield = _shield(record)

    def decide(found: Published) -> ShieldAct:
        document, version = found.document, found.version
        return raised(shield, record.launch, document, clock.time(), salt=new_salt(), expect=version)

    return _published(_place(shield), decide, clock)


def lower_shield(record: LaunchRecord, clock: Clock) -> str:
    """Takes the shield of a launch back before its time, where it is up; returns what to tell. Raises as above."""

    def decide(found: Published) -> ShieldAct:
        return lowered(record.launch, found.document, clock.time(), expect=found.version)

    return _published(_place(_shield(record)), decide, clock)


class Shielding:
    """The shield of one launch, raised and lowered in a thread of its own: whoever orders goes on at once.

    ``told`` and ``faults`` are complete after `wait` or `close`.
    """

    def __init__(self, clock: Clock) -> None:
        self.told: list[str] = []
        self.faults: list[FlashcastError] = []
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shield")

    def raise_at(self, moment: Literal["arm", "go"], record: LaunchRecord) -> None:
        """Raises the shield if the launch has one whose moment this is."""
        if record.shield is not None and record.shield.at == moment:
            self._thread.submit(self._do, raise_shield, record)

    def lower(self, record: LaunchRecord) -> None:
        """Lowers it if the launch has one that may be up."""
        if may_be_up(record):
            self._thread.submit(self._do, lower_shield, record)

    def wait(self) -> None:
        """Waits until what was ordered is done, or has failed."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """The same, for the last time."""
        self._thread.shutdown()

    def _do(self, publish: Callable[[LaunchRecord, Clock], str], record: LaunchRecord) -> None:
        try:
            self.told.append(publish(record, self._clock))
        except FlashcastError as error:
            self.faults.append(not_published(record, error))


def may_be_up(record: LaunchRecord) -> bool:
    """Whether the launch has a shield whose moment has come."""
    return record.shield is not None and (record.shield.at == "arm" or record.go is not None)


def not_published(record: LaunchRecord, error: FlashcastError) -> EnvironmentFault:
    """What to tell where the shield could not be raised or lowered."""
    again = f"Then `flashcast shield {record.campaign}` raises it, and with --down takes it back."
    return EnvironmentFault(
        f"the shield of {record.launch} could not be published: {error.message}",
        remedy=f"{error.remedy} {again}".strip(),
    )


def shield_check(record: LaunchRecord, clock: Clock) -> Check | None:
    """Preflight's question: could whoever asks raise the shield, and is it up where it should be? None without one."""
    shield = record.shield
    if shield is None:
        return None
    try:
        place = _place(shield)
        found, _ = place.published(), place.keys
    except FlashcastError as error:
        return Check("shield", Level.FAIL, f"cannot be raised from here: {error.message}", error.remedy)
    except Exception as error:  # noqa: BLE001 - preflight answers, whatever is wrong with the place
        return Check("shield", Level.FAIL, f"cannot be raised from here: {type(error).__name__}: {error}")
    now = clock.time()
    if raised_by(found.document, now) == record.launch:
        held = in_force(found.document, now)
        assert held is not None and held.manual is not None
        left_min = (held.manual.until - now) / 60
        return Check("shield", Level.OK, f"up for {left_min:.0f} min more: {', '.join(held.off)} off")
    act = raised(shield, record.launch, found.document, now, salt="0", expect=found.version)
    if act.terms is None:
        return Check("shield", Level.WARN, act.told)
    if shield.at == "arm":
        remedy = f"`flashcast shield {record.campaign}` raises it."
        return Check("shield", Level.FAIL, "should be up since the launch was armed, and is not", remedy)
    return Check("shield", Level.OK, f"to be raised at GO by whoever presses it: {act.told}")


def _shield(record: LaunchRecord) -> Shield:
    assert record.shield is not None, "only of a launch that has one"
    return record.shield


def _place(shield: Shield) -> Place:
    return Place(app_name=shield.app)


def _published(place: Place, decide: Callable[[Published], ShieldAct], clock: Clock) -> str:
    """What was published, in words. Raises FlashcastError alone: the launch goes on whatever happens here."""
    try:
        return _tried(place, decide, clock)
    except FlashcastError:
        raise
    except Exception as error:
        raise EnvironmentFault(f"{type(error).__name__}: {error}") from error


def _tried(place: Place, decide: Callable[[Published], ShieldAct], clock: Clock) -> str:
    for attempt in range(ATTEMPTS):
        act = decide(place.published())
        if act.terms is None:
            return act.told
        try:
            done = place.publish(Act(act.terms, act.lasts_s, act.expect, act.told))
        except OvertakenError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return f"{act.told} (version {done.document.version})"
    raise AssertionError("the last attempt returns or raises")
