"""Which stretches of time are compared: the same clock time on earlier days, in the users' time zone. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from flashcast.zombie.reports.bounds import SLOT_S


class Span(NamedTuple):
    """From ``since`` until before ``until``, in Unix seconds."""

    since: float
    until: float

    @property
    def slots(self) -> range:
        """The slots that it touches."""
        return range(int(self.since) // SLOT_S, -int(-self.until // SLOT_S))

    def is_in(self, heard: AbstractSet[int]) -> bool:
        """Whether each of its slots was heard."""
        return all(slot in heard for slot in self.slots)


def earlier(now: Span, zone: ZoneInfo, days: int, step_days: int = 1) -> Iterator[Span]:
    """The same clock time on the ``days`` days before, or on every seventh with ``step_days`` 7.

    A day on which the clocks were changed within the window, or whose clock never showed its end, is left out: it has
    no such hour. Where a time occurred twice, it is the one of the same half.
    """
    length_s = now.until - now.since
    end = datetime.fromtimestamp(now.until, UTC).astimezone(zone)
    for back in range(1, days + 1):
        wall = (end.replace(tzinfo=None) - timedelta(days=back * step_days)).replace(tzinfo=zone, fold=end.fold)
        until = wall.timestamp()
        seen = datetime.fromtimestamp(until, UTC).astimezone(zone)
        began = datetime.fromtimestamp(until - length_s, UTC).astimezone(zone)
        if seen.replace(tzinfo=None) == wall.replace(tzinfo=None) and began.utcoffset() == seen.utcoffset():
            yield Span(until - length_s, until)
