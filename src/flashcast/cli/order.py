"""What `flashcast disarm`, `approve` and `pause` have in common: one order, and a line about what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flashcast.cli.common import failures, print_json
from flashcast.cli.fleet_options import Reach, answer, controlled, document_of

if TYPE_CHECKING:
    from flashcast.campaign.records import LaunchRecord
    from flashcast.campaign.store import Store


def order(
    reach: Reach,
    work: Callable[[Store], Awaitable[LaunchRecord]],
    *,
    as_json: bool,
    told: Callable[[LaunchRecord], str],
) -> None:
    """Gives the order and tells: the record as JSON, or what ``told`` makes of it."""
    with failures(as_json=as_json):
        record = controlled(reach, work)
        if as_json:
            print_json(document_of(record))
        else:
            answer(told(record))
