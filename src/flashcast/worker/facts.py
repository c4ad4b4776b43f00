"""What this worker measured of a launch, for its report."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

from flashcast import __version__
from flashcast.report.facts import TakeOver, WorkerFacts, sparse

if TYPE_CHECKING:
    from flashcast.worker.launch_work import LaunchWork


def worker_facts(work: LaunchWork) -> WorkerFacts:
    """The facts as they are now. Times count from the moment at which GO was pressed, by its presser's clock."""
    run, record = work.holder.run, work.record
    went = run is not None and work.went
    if run is None or not went:
        return WorkerFacts(
            launch=work.launch, worker=work.worker.name, host=work.worker.options.host, version=__version__,
            rows=work.holder.rows_settled(), claims=work.claimer.claims, take_overs=tuple(work.claimer.take_overs),
            arm_s=work.holder.arm_s,
        )  # fmt: skip
    first_ms = run.go_to_first_request_ms()
    if first_ms is not None:
        # A worker that came after GO took over: how long that was ago is not how fast GO is.
        first_ms = first_ms + run.noticed_go_ms() if work.seen_armed else None
    last_s = run.go_to_last_reply_s()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert record.go is not None
    return WorkerFacts(
        launch=work.launch,
        worker=work.worker.name,
        host=work.worker.options.host,
        version=__version__,
        go_to_first_request_ms=first_ms,
        first_request_at=None if first_ms is None else record.go.at + first_ms / 1e3,
        go_to_last_reply_s=None if last_s is None else last_s + run.noticed_go_ms() / 1e3,
        latency_us=sparse(run.histogram()),
        sent=sum(progress.sent for progress in run.progress().values()),
        rows=work.holder.rows_settled(),
        cpu_us_per_notification=run.cpu_us_per_notification(),
        peak_rss_mib=peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        connections={provider: crew.wanted for provider, crew in work.holder.crews.items()},
        overshoot=run.overshoot(),
        claims=work.claimer.claims,
        arm_s=work.holder.arm_s,
        stopped={provider: job.stopped.value for provider, job in run.jobs.items() if job.stopped is not None},
        paused=tuple(work.paused_for),
        take_overs=tuple(work.claimer.take_overs),
    )


def take_over(work: LaunchWork, *, shard: int, epoch: int, from_worker: str, inherited: bool, rows: int) -> TakeOver:
    """The entry for a shard that was another worker's."""
    return TakeOver(
        shard=shard, from_worker=from_worker, epoch=epoch, at=work.hands.clock.time(), inherited=inherited, rows=rows
    )
