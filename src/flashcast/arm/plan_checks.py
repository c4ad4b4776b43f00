"""Preflight's questions about what is planned: connections, time, quotas, credentials, the hour, the guard.

Sources: Google, "FCM throttling and quotas" (600,000 messages a minute and project in a bucket that is refilled whole;
event quotas to be asked for 15 days ahead, 30 above 18 million a minute) and "best practices when sending at scale"
(traffic doubles for 30 s to 2 min at the full hour, with smaller spikes at the quarters). Apple publishes no quota.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from flashcast.arm.facts import Check, Facts, Level
from flashcast.arm.forecast import MINUTE_S, Load, Part, forecast, quota_s, reached
from flashcast.arm.plan import ASSUMED_LATENCY_MS
from flashcast.limits import FCM_QUOTA_PER_MINUTE
from flashcast.model import Provider

MOMENT_S: Final = 5.0
"""How long an advertisement is on screen: information, not a bound."""
CREDENTIAL_SPARE_S: Final = 3_600.0
"""A launch may stay armed for a while before GO; what ends within an hour after the window is worth a word."""
HOUR_BEFORE_S: Final = 60
"""Preflight comes before GO, and GO before the last reply: so close to the full hour a launch would run into it."""
HOUR_AFTER_S: Final = 120
"""The spike of the full hour lasts up to two minutes."""
EVENT_QUOTA_DAYS: Final = 15
EVENT_QUOTA_DAYS_LARGE: Final = 30
EVENT_QUOTA_LARGE: Final = 18_000_000
"""Messages a minute above which Google asks for the longer notice."""


def loads(facts: Facts) -> dict[Provider, Load]:
    """What the live workers are about to send to each provider of the snapshot."""
    found = {}
    for provider in facts.rows:
        told = [holding.providers[provider] for holding in facts.holdings.values() if provider in holding.providers]
        trips = [part.round_trip_us for part in told if part.round_trip_us is not None]
        latency_ms = max(ASSUMED_LATENCY_MS[provider], max(trips, default=0) / 1e3)
        parts = tuple(Part(part.rows, part.rate_per_s) for part in told)
        quota = quota_of(facts, provider)
        found[provider] = Load(parts, latency_ms / 1e3, facts.record.pace.get(provider), quota or None)
    return found


def quota_of(facts: Facts, provider: Provider) -> int | None:
    """Messages a minute that the provider takes from the project: 0 for no quota, None where it publishes none.

    What workers say goes before the listener's own settings, and the least of it counts; FCM's default comes last.
    """
    default = FCM_QUOTA_PER_MINUTE if provider is Provider.FCM else None
    summed = facts.total.providers.get(provider)
    if summed is not None and summed.quota_per_minute is not None:
        return summed.quota_per_minute
    return facts.quotas.get(provider, default)


def connections(facts: Facts) -> Iterator[Check]:
    for provider in facts.rows:
        part = facts.total.providers.get(provider)
        ready, wanted = (part.connections, part.connections_wanted) if part is not None else (0, 0)
        if part is None or not ready:
            yield Check(
                "connections", Level.FAIL, f"{provider}: none of {wanted:,} connections is open",
                f"Check [{provider}] endpoint, proxy and credentials of the workers; `flashcast workers` tells faults.",
            )  # fmt: skip
            continue
        trip = f", round trip {part.round_trip_us / 1e3:.1f} ms" if part.round_trip_us is not None else ""
        told = f"{provider}: {ready:,} of {wanted:,} connections open, {part.streams:,} streams each{trip}"
        if ready < wanted:
            remedy = "Those that were closed are opened again by themselves; until then the rate is lower."
            yield Check("connections", Level.WARN, told, remedy)
        else:
            yield Check("connections", Level.OK, told)


def window(facts: Facts) -> Iterator[Check]:
    planned, window_s = loads(facts), facts.record.window_s
    found = forecast(planned, facts.record.stages)
    for provider, seconds in found.items():
        load = planned[provider]
        if not load.rows:
            continue  # nobody holds any: told elsewhere
        told = f"{provider}: {load.rows:,} rows at {load.rate_per_s:,.0f}/s"
        if not math.isfinite(seconds):
            remedy = "A worker that holds rows expects to send none: see its connections."
            yield Check("window", Level.FAIL, f"{told}: the last reply never comes", remedy)
        elif seconds > window_s:
            told += (
                f"{_held_back(facts, load)}: the last reply after {seconds:,.1f} s, beyond the window of {window_s:g} s"
            )
            remedy = (
                "What is not sent by then expires: lengthen window_s, raise pace or quota, or hold the stages less."
            )
            yield Check("window", Level.FAIL, told, remedy)
        else:
            told += (
                f"{_held_back(facts, load)}: the last reply after {seconds:,.1f} s, within the window of {window_s:g} s"
            )
            yield Check("window", Level.OK, told)
    finite = [seconds for seconds in found.values() if math.isfinite(seconds) and seconds]
    if finite and len(finite) == len(found):
        slowest = max(finite)
        how = "within" if slowest <= MOMENT_S else "longer than"
        told = f"all is answered {slowest:,.1f} s after GO, {how} the {MOMENT_S:g} s of an advertisement"
        yield Check("five seconds", Level.OK, told)


def _held_back(facts: Facts, load: Load) -> str:
    """What makes a launch slower than its connections are."""
    why = []
    if load.pace_per_s is not None and load.rate_per_s >= load.pace_per_s:
        why.append("the pace")
    if quota_s(load.rows, load.send_s(), load.quota_per_minute) > load.send_s():
        why.append("the quota")
    if facts.record.stages:
        why.append(f"{sum(stage.hold_s for stage in facts.record.stages):g} s of stages' holds")
    return f" with {' and '.join(why)}" if why else ""


def quota(facts: Facts) -> Iterator[Check]:
    for provider, load in loads(facts).items():
        rows = facts.rows[provider]
        if provider is Provider.APNS and load.quota_per_minute is None:
            told = "apns: Apple publishes no quota; it limits streams, which are obeyed, and requests to one device"
            yield Check("quota", Level.OK, told)
        elif load.quota_per_minute is None:
            yield Check("quota", Level.OK, f"{provider}: by its settings without a quota")
        else:
            yield _quota(facts, provider, load, rows, load.quota_per_minute)


def _quota(facts: Facts, provider: Provider, load: Load, rows: int, quota: int) -> Check:
    agreed = "Google's default" if quota == FCM_QUOTA_PER_MINUTE else "agreed, by [fcm] quota_per_minute"
    bound = f"{quota:,} messages a minute ({agreed})"
    if rows <= quota:
        told = f"{provider}: {rows:,} rows are within {bound}, if nothing else is sent from the project"
        return Check("quota", Level.OK, told)
    per_minute = load.rate_per_s * MINUTE_S
    if load.rows and per_minute <= quota:
        told = f"{provider}: {rows:,} rows at {load.rate_per_s:,.0f}/s are {per_minute:,.0f} a minute, within {bound}"
        return Check("quota", Level.OK, told)
    window_s = facts.record.window_s
    got = reached(rows, window_s, load.send_s() if load.rows else 0.0, quota)
    told = f"{provider}: {rows:,} rows are {rows / quota:.1f} times the {bound}"
    days = EVENT_QUOTA_DAYS_LARGE if rows > EVENT_QUOTA_LARGE else EVENT_QUOTA_DAYS
    remedy = (
        f"The agreement with Google, not Flashcast, decides how many Android devices are reached in {window_s:g} s. An "
        f"event quota of {rows:,} a minute must have been asked for {days} days ahead; what was agreed goes into [fcm] "
        f"quota_per_minute. Until then set [pace] fcm = {quota // 60:,}, so that nothing is refused and sent again."
    )
    if got < rows:
        told += f": at most {got:,} are taken within the window of {window_s:g} s, {rows - got:,} are not"
        return Check("quota", Level.FAIL, told, remedy)
    needed = quota_s(rows, load.send_s(), quota) if load.rows else 0.0
    told += f": it takes {needed:,.0f} s, within the window of {window_s:g} s, and many are refused on the way"
    return Check("quota", Level.WARN, told, remedy)


def credentials(facts: Facts) -> Iterator[Check]:
    end_s = facts.now_s + facts.record.window_s
    for provider in facts.rows:
        part = facts.total.providers.get(provider)
        until = part.credential_until if part is not None else None
        if until is None:
            if part is not None:
                yield Check("credentials", Level.OK, f"{provider}: the credential renews itself or does not end")
            continue
        told = f"{provider}: the credential ends at {_clock(until)}"
        remedy = f"Renew it and restart the workers: [{provider}] in their flashcast.toml."
        if until < end_s:
            told += f", before the window closes at {_clock(end_s)} if GO is pressed now"
            yield Check("credentials", Level.FAIL, told, remedy)
        elif until < end_s + CREDENTIAL_SPARE_S:
            yield Check("credentials", Level.WARN, f"{told}, {(until - end_s) / 60:.0f} min after the window", remedy)
        else:
            yield Check("credentials", Level.OK, f"{told}, after the window")


def hour(facts: Facts) -> Iterator[Check]:
    if Provider.FCM not in facts.rows:
        return
    # Time zones are whole hours and quarters from UTC; the full hour of one is at least a quarter in another.
    second = facts.now_s % 3_600
    told = f"it is {_clock(facts.now_s)}"
    if second < HOUR_AFTER_S or second > 3_600 - HOUR_BEFORE_S:
        remedy = "At the full hour FCM's traffic doubles for up to two minutes: wait, if the moment can."
        yield Check("hour", Level.WARN, f"{told}, close to the full hour", remedy)
    elif second % 900 < HOUR_BEFORE_S or second % 900 > 900 - HOUR_BEFORE_S:
        yield Check("hour", Level.OK, f"{told}, close to a quarter, where FCM's traffic has a small spike")
    else:
        yield Check("hour", Level.OK, f"{told}, away from the full hour")


def shield(facts: Facts) -> Iterator[Check]:
    if facts.shield is not None:
        yield facts.shield


def guard(facts: Facts) -> Iterator[Check]:
    record, terms = facts.record, facts.record.guard
    if terms is None or record.guard_off:
        told = "the misfire guard is off: a wrong key, host or topic is refused until somebody presses abort"
        yield Check("guard", Level.WARN, told, "Remove `guard = false` from the campaign, or watch the first replies.")
        return
    first = record.stages[0].share if record.stages else 1.0
    blind = [p for p, count in facts.rows.items() if record.stages and count * first < terms.replies]
    if blind:
        listed = ", ".join(f"{provider} {facts.rows[provider] * first:,.0f}" for provider in blind)
        told = f"the first stage is smaller than the {terms.replies:,} replies that the misfire guard needs: {listed}"
        yield Check("guard", Level.WARN, told, "Enlarge stages[0].share, or lower guard.replies.")
        return
    told = (
        f"the misfire guard pauses above {terms.stop_share:.0%} stops or {terms.bad_token_share:.0%} bad tokens among "
        f"{terms.replies:,} replies or more"
    )
    yield Check("guard", Level.OK, told)


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
