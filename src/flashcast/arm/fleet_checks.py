"""Preflight's questions about the launch and its workers. Each yields the checks it has something to say about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from flashcast.arm.clocks import LISTENER, least_ms, spread
from flashcast.arm.facts import Check, Facts, Level
from flashcast.arm.spare import machine_losses, spare_rows, worker_losses
from flashcast.campaign.lifecycle import State

SKEW_MS_WARN: Final = 50.0
"""Beyond this the times in a report no longer tell which worker was first."""
SKEW_MS_FAIL: Final = 1_000.0
"""The window is counted from the presser's clock: a second too many or too few is a fifth of an advertisement."""
SNAPSHOT_AGE_S_WARN: Final = 86_400.0
"""Tokens change as apps are installed and removed: a day-old audience is the oldest to send to without thought."""
ROW_DISK_BYTES: Final = 16
"""A row takes 7 bytes in the journal and as many in the outcome file; two for what lies around them."""
_NAMED_MAX: Final = 5
"""Workers or shards that a sentence names; more are counted."""
_NEXT: Final = {
    State.DRAFT: "Seal an audience, then arm.",
    State.SEALED: "Arm it.",
    State.ARMING: "Wait until every shard is held and ready; `flashcast status` shows what is missing.",
    State.LIVE: "It is on its way.",
    State.DONE: "Arm again for another launch.",
    State.ABORTED: "Arm again for another launch.",
}


def state(facts: Facts) -> Iterator[Check]:
    record = facts.record
    if record.state is State.ARMED:
        yield Check("state", Level.OK, f"{record.launch} is armed")
    else:
        yield Check("state", Level.FAIL, f"{record.launch} is {record.state}, not armed", _NEXT[record.state])
    if record.paused is not None:
        told = f"paused by {record.paused.by}: {record.paused.why}"
        yield Check("state", Level.FAIL, told, "While it is paused nothing would be sent.")


def approval(facts: Facts) -> Iterator[Check]:
    record, given = facts.record, facts.record.approval
    if not record.require_approval:
        yield Check("approval", Level.OK, "no approval needed")
        return
    remedy = "Another operator than the one who presses GO approves this launch."
    snapshot = record.snapshot.digest if record.snapshot is not None else ""
    if given is None:
        yield Check("approval", Level.FAIL, "the campaign asks for an approval, and there is none", remedy)
    elif (given.campaign_digest, given.snapshot_digest) != (record.campaign_digest, snapshot):
        told = f"{given.by} approved another campaign or snapshot than this launch has now"
        yield Check("approval", Level.FAIL, told, remedy)
    elif given.to != record.to:
        told = f"{given.by} approved it for {given.to or 'no destination'}, and it goes to {record.to}"
        yield Check("approval", Level.FAIL, told, remedy)
    elif given.by.casefold() == facts.operator.casefold():
        yield Check("approval", Level.FAIL, f"{given.by} approved it and would press GO alone", remedy)
    else:
        yield Check("approval", Level.OK, f"approved by {given.by}, to {given.to}")


def rows(facts: Facts) -> Iterator[Check]:
    shards = facts.record.snapshot.shards if facts.record.snapshot is not None else 0
    all_rows = sum(facts.rows.values())
    if not shards or not all_rows:
        yield Check("rows", Level.FAIL, "there is no snapshot with rows", "Seal an audience.")
    elif not facts.missing:
        told = f"all {all_rows:,} rows in {shards:,} shards are held by {_workers(len(facts.holdings))} and ready"
        yield Check("rows", Level.OK, told)
    else:
        missing = all_rows - facts.rows_covered
        told = f"{missing:,} of {all_rows:,} rows are not covered, in {len(facts.missing):,} of {shards:,} shards: "
        reasons = Counter(facts.missing.values())
        listed = [f"{why} ({count:,})" for why, count in reasons.most_common(_NAMED_MAX)]
        yield Check("rows", Level.FAIL, told + "; ".join(listed), _room(facts, all_rows))


def _room(facts: Facts, all_rows: int) -> str:
    """What helps where rows are not covered."""
    room = sum(heard.beat.devices_max for heard in facts.live.values() if not heard.beat.draining)
    if not facts.live:
        return "No worker is heard: start `flashcast worker` with the same --engine."
    if room < all_rows:
        return f"The workers take {room:,} rows at most: start more, or raise --max-devices."
    return "Wait for the workers, or see `flashcast workers` for what keeps them from being ready."


def workers(facts: Facts) -> Iterator[Check]:
    told = []
    for name, heard in sorted(facts.live.items()):
        holding = facts.holdings.get(name)
        # What is wrong with the worker and what keeps this launch from being ready are often the same.
        faults = dict.fromkeys((heard.beat.fault, holding.fault if holding is not None else ""))
        told += [f"{name}: {fault}" for fault in faults if fault]
        if heard.beat.draining and holding is not None:
            told.append(f"{name} is ending and will hand over {len(holding.shards):,} shards")
    if told:
        remedy = "Rows of a worker with a fault may be late or not be sent at all."
        yield Check("workers", Level.WARN, "; ".join(_few(told)), remedy)
    else:
        yield Check("workers", Level.OK, f"{_workers(len(facts.live))} heard, none reports a fault")


def survivors(facts: Facts) -> Iterator[Check]:
    if not facts.holdings:
        return
    # Who holds nothing stands by: it takes over what it has room for.
    able = facts.holdings.keys() | spare_rows(facts).keys()
    hosts = {facts.live[name].beat.host for name in able}
    short = [loss for loss in worker_losses(facts) if loss.homeless]
    short = short or [loss for loss in machine_losses(facts) if loss.homeless]
    if len(able) == 1:
        yield Check(
            "survivors", Level.WARN, f"{next(iter(able))} is the only worker: if it dies, nobody sends what is left",
            "Start a second worker, on another machine.",
        )  # fmt: skip
        return
    if len(hosts) == 1:
        yield Check(
            "survivors", Level.WARN, f"{_workers(len(able))}, all on {hosts.pop()}: if it fails, all do",
            "Start a worker on another machine.",
        )  # fmt: skip
    elif not short:
        told = f"{_workers(len(able))} on {len(hosts)} machines can take over from each other"
        yield Check("survivors", Level.OK, told)
    if short:
        homeless = [f"if {s.name} is lost, nobody has room for {s.homeless:,} of its {s.rows:,} rows" for s in short]
        remedy = "Start another worker, or raise --max-devices: rows that nobody has room for are not sent."
        yield Check("survivors", Level.WARN, "; ".join(_few(homeless)), remedy)


def endpoints(facts: Facts) -> Iterator[Check]:
    for provider in facts.rows:
        parts = [h.providers[provider] for h in facts.holdings.values() if provider in h.providers]
        found = Counter(part.endpoint for part in parts if part.rows and part.endpoint)
        if len(found) > 1:
            listed = ", ".join(f"{endpoint} ({_workers(count)})" for endpoint, count in sorted(found.items()))
            yield Check(
                "endpoints", Level.WARN, f"{provider}: workers send to different servers: {listed}",
                f"Compare [{provider}] endpoint in the flashcast.toml of each worker.",
            )  # fmt: skip


def disk(facts: Facts) -> Iterator[Check]:
    short, tight = [], []
    all_rows = sum(facts.rows.values())
    for name, holding in sorted(facts.holdings.items()):
        free = facts.live[name].beat.disk_free_bytes
        own = sum(part.rows for part in holding.providers.values())
        if free is None:
            continue
        if free < own * ROW_DISK_BYTES:
            short.append(f"{name} has {_mib(free)} free and needs {_mib(own * ROW_DISK_BYTES)} for {own:,} rows")
        elif free < all_rows * ROW_DISK_BYTES:
            tight.append(f"{name} has {_mib(free)} free, enough for its own rows and not for all {all_rows:,}")
    if short:
        yield Check(
            "disk", Level.FAIL, "; ".join(_few(short)), "Make room: journal and outcome files are written there."
        )
    if tight:
        yield Check("disk", Level.WARN, "; ".join(_few(tight)), "It may have to take over what another worker holds.")
    if not (short or tight) and facts.holdings:
        yield Check("disk", Level.OK, "room for the journals and outcome files on every worker")


def clocks(facts: Facts) -> Iterator[Check]:
    leasts: dict[str, float] = {}
    for name in facts.holdings:
        least = least_ms(facts.live[name].heartbeats)
        host = facts.live[name].beat.host
        if least is not None:
            # Workers of one machine have one clock: the fastest way to it tells most.
            leasts[host] = min(least, leasts.get(host, least))
    if not leasts:
        if facts.holdings:
            yield Check(
                "clocks", Level.WARN, "too few heartbeats were heard to compare the clocks", "Ask again in a second."
            )
        return
    found = spread(leasts, facts.transit_ms)
    way = (
        f", of which the heartbeats' way may be {found.error_ms:,.0f} ms" if found.error_ms else ", their way included"
    )
    told = f"the clocks of {_machines(found.machines)} and of this one are at most {found.ms:,.0f} ms apart{way}"
    if found.certain_ms <= SKEW_MS_WARN:
        yield Check("clocks", Level.OK, told)
        return
    level = Level.FAIL if found.certain_ms > SKEW_MS_FAIL else Level.WARN
    told += f": {_machine(found.behind)} is behind {_machine(found.ahead)}"
    yield Check("clocks", level, told, "Synchronise them (chrony, systemd-timesyncd): the window is counted by them.")


def snapshot(facts: Facts) -> Iterator[Check]:
    ref = facts.record.snapshot
    if ref is None:
        return
    age_s = max(0.0, facts.now_s - ref.sealed_at)
    told = f"the snapshot was sealed {_ago(age_s)} ago"
    if age_s > SNAPSHOT_AGE_S_WARN:
        remedy = "Devices have come and gone since then: seal the audience anew if you can."
        yield Check("snapshot", Level.WARN, told, remedy)
    else:
        yield Check("snapshot", Level.OK, told)


def engine(facts: Facts) -> Iterator[Check]:
    for warning in facts.engine_warnings:
        yield Check(
            "engine", Level.WARN, warning, "The operating guide says what each setting of the engine protects from."
        )
    if not facts.engine_warnings:
        yield Check("engine", Level.OK, "the engine reports no weakness in what it keeps")


def _few(told: list[str]) -> list[str]:
    more = len(told) - _NAMED_MAX
    return [*told[:_NAMED_MAX], f"and {more:,} more"] if more > 0 else told


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count:,} workers"


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count:,} machines"


def _machine(name: str) -> str:
    return "this machine" if name == LISTENER else name


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _ago(seconds: float) -> str:
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"
