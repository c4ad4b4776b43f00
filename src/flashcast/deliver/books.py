"""The last entries: every row that no reply settled gets its outcome when its shard is closed.

| the row                           | the shard is still ours                              | another worker's          |
| --------------------------------- | ---------------------------------------------------- | ------------------------- |
| in flight                         | unknown (ConnectionLost)                             | the same                  |
| unsent, in a chunk we had claimed | expired (WindowClosed), or unsent (Aborted, Stopped) | unsent (Aborted, Stopped) |
| unsent, in any other chunk        | the same                                             | left: not ours            |

A row that was tried and refused for now keeps the reason of its last refusal. Under `resend` another worker may send
what we had claimed: such a row is unknown (WorkerLost) to who has lost the shard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashcast.deliver.job import Job
from flashcast.deliver.journal import RowArrays
from flashcast.outcomes import Outcome, Reason


def settle(job: Job, *, crashed: bool) -> None:
    """Closes every shard of a job that has finished; ``crashed`` where a lane of it has died."""
    for shard in job.shards:
        settle_owned(job.rows.part(shard.base, shard.rows), ending(job, crashed=crashed))


def ending(job: Job | None, *, crashed: bool, aborted: bool = False) -> Reason:
    """Why rows that were never sent were not: WINDOW_CLOSED, ABORTED or STOPPED.

    ``crashed`` where a lane has died; without a job there was never a connection to the provider.
    """
    if aborted or (job is not None and job.aborted.is_set()):
        return Reason.ABORTED
    return Reason.STOPPED if crashed or (job is not None and job.stopped is not None) else Reason.WINDOW_CLOSED


def settle_owned(rows: RowArrays, ended: Reason) -> None:
    """Closes rows that are ours to the end; ``ended`` is what `ending` tells."""
    _lose_in_flight(rows)
    unsent = rows.outcome == Outcome.UNSENT
    rows.reason[unsent & (rows.reason == Reason.NONE.code)] = ended.code
    if ended is Reason.WINDOW_CLOSED:
        rows.outcome[unsent] = Outcome.EXPIRED


def settle_lost(rows: RowArrays, claimed: NDArray[np.bool_], *, resend: bool = False, aborted: bool = False) -> None:
    """Closes what we know of rows that are another worker's now; ``claimed`` bool[rows] are those we had claimed.

    That the launch was ``aborted`` is why they were not sent, as it is to who has the shard: the two tell the same.
    Under ``resend`` the other may send what we had claimed without asking, so that we did not send it tells nothing.
    """
    _lose_in_flight(rows)
    unsent = rows.outcome == Outcome.UNSENT
    if resend:
        rows.reason[unsent & claimed] = Reason.WORKER_LOST.code
        rows.outcome[unsent & claimed] = Outcome.UNKNOWN
        return
    ended = Reason.ABORTED if aborted else Reason.STOPPED
    rows.reason[unsent & claimed & (rows.reason == Reason.NONE.code)] = ended.code


def _lose_in_flight(rows: RowArrays) -> None:
    in_flight = rows.outcome == Outcome.IN_FLIGHT
    rows.reason[in_flight] = Reason.CONNECTION_LOST.code
    rows.outcome[in_flight] = Outcome.UNKNOWN
