"""Go or no-go: every check says yes where all is well, and no, with its figures, where it is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.arm.clocks import HEARTBEATS_MIN, least_ms, spread
from flashcast.arm.fleet_checks import ROW_DISK_BYTES
from flashcast.arm.forecast import Load, Part, forecast, quota_s, reached
from flashcast.arm.preflight import QUESTIONS, Check, Facts, Heard, Level, Verdict, preflight
from flashcast.arm.readiness import LEASE_S, Beat, Holding, ProviderReadiness, total
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import Approval, GuardTerms, LaunchRecord, Pause, ShardRecord, SnapshotRef, Stage
from flashcast.limits import FCM_QUOTA_PER_MINUTE
from flashcast.model import Provider

APNS, FCM = Provider.APNS, Provider.FCM
NOW_S = 1_770_593_400.0  # 2026-02-08 23:30:00 UTC
CALM_S = NOW_S + 300  # 23:35
APNS_ROWS, FCM_ROWS = 200_000, 100_000
OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


def part(rows: int = APNS_ROWS // 2, **changes: object) -> ProviderReadiness:
    fields = {
        "rows": rows, "connections": 8, "connections_wanted": 8, "streams": 1_000, "round_trip_us": 20_000,
        "rate_per_s": 100_000.0, "endpoint": "https://api.push.apple.com:443",
    }  # fmt: skip
    return ProviderReadiness.model_validate({**fields, **changes})


def parts(**changes: object) -> dict[Provider, ProviderReadiness]:
    fcm = part(FCM_ROWS // 2, endpoint="https://fcm.googleapis.com:443", rate_per_s=50_000.0, **changes)
    return {APNS: part(**changes), FCM: fcm}


def heartbeats(offset_s: float = 0.0, way_s: float = 0.002) -> tuple[tuple[float, float], ...]:
    """Ten heartbeats of a worker whose clock is behind by ``offset_s``."""
    return tuple((NOW_S + n / 5 - offset_s, NOW_S + n / 5 + way_s + n / 1_000) for n in range(10))


def heard(
    worker: str, shards: tuple[int, ...], *, age_s: float = 0.1, beats: tuple[tuple[float, float], ...] | None = None,
    holding: dict[str, object] | None = None, **changes: object,
) -> Heard:  # fmt: skip
    held = Holding.model_validate({"shards": shards, "ready": True, "providers": parts(), **(holding or {})})
    fields: dict[str, object] = {
        "worker": worker, "host": f"host-{worker}", "pid": 1, "version": "1", "at": NOW_S, "sequence": 1,
        "devices_max": 1_000_000, "disk_free_bytes": 10**10, "launches": {"cup-1": held},
    }  # fmt: skip
    beat = Beat.model_validate({**fields, **changes})
    return Heard(beat, age_s, heartbeats() if beats is None else beats)


def record(**changes: object) -> LaunchRecord:
    ref = SnapshotRef(
        url="/s", digest="snap", sealed_at=CALM_S - 3_600, rows={APNS: APNS_ROWS, FCM: FCM_ROWS}, shards=4
    )
    fields: dict[str, object] = {
        "launch": "cup-1", "campaign": "cup", "state": State.ARMED, "created_at": 0.0, "snapshot": ref,
        "campaign_digest": "camp", "guard": GuardTerms(),
    }  # fmt: skip
    return LaunchRecord.model_validate({**fields, **changes})


OWNERS = {0: "anna", 1: "anna", 2: "bert", 3: "bert"}
ANNA, BERT = heard("anna", (0, 1)), heard("bert", (2, 3))


def facts(
    *workers: Heard, owners: dict[int, str | None] | None = None, now_s: float = CALM_S, **changes: object
) -> Facts:
    held = {shard: ShardRecord(owner=owner, epoch=1) for shard, owner in (owners or OWNERS).items()}
    asked = record(**{name: changes.pop(name) for name in list(changes) if name in LaunchRecord.model_fields})
    made = Facts(asked, workers or (ANNA, BERT), held, now_s, "ann", transit_ms=2.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def only(verdict: Verdict, name: str, level: Level | None = None) -> Check:
    found = [check for check in verdict.checks if check.name == name and level in (None, check.level)]
    assert len(found) == 1, found
    return found[0]


def told(verdict: Verdict, name: str, level: Level, *words: str) -> None:
    """The check of that name says the level, every word, and, unless all is well, what to do."""
    checks = [check for check in verdict.checks if check.name == name and check.level is level]
    assert checks, [check for check in verdict.checks if check.name == name]
    text = "; ".join(check.text for check in checks)
    for word in words:
        assert word in text, text
    assert level is OK or all(check.remedy for check in checks)
    assert verdict.go is all(check.level is not FAIL for check in verdict.checks)


# --- the whole -------------------------------------------------------------------------------------------------------


def test_a_launch_with_nothing_against_it_is_a_go_without_warnings() -> None:
    verdict = preflight(facts())
    assert verdict.go
    assert [check for check in verdict.checks if check.level is not OK] == []
    assert (verdict.rows_covered, verdict.rows) == (300_000, 300_000)
    # 50,000 of 50,000/s or 100,000 of 100,000/s each, and a reply.
    assert verdict.predicted_s == pytest.approx(1.1, abs=0.05)


def test_nobody_and_nothing_is_a_no_go_and_no_crash() -> None:
    bare = LaunchRecord(launch="cup-1", campaign="cup", state=State.DRAFT, created_at=0.0)
    verdict = preflight(Facts(bare, (), {}, NOW_S, "ann"))
    assert not verdict.go
    assert (verdict.predicted_s, verdict.rows_covered, verdict.rows) == (None, 0, 0)
    told(verdict, "rows", FAIL, "no snapshot")


def test_a_warning_alone_does_not_stop_anybody() -> None:
    assert preflight(facts(engine_warnings=("the server flushes every two minutes",))).go


def test_every_question_is_answered_in_words() -> None:
    for check in preflight(facts()).checks:
        assert check.name
        assert check.text
    assert len({question.__name__ for question in QUESTIONS}) == len(QUESTIONS)


# --- the launch ------------------------------------------------------------------------------------------------------


def test_the_state_must_be_armed() -> None:
    told(preflight(facts()), "state", OK, "cup-1 is armed")
    for state in State:
        if state is not State.ARMED:
            told(preflight(facts(state=state)), "state", FAIL, f"is {state}, not armed")


def test_a_paused_launch_would_send_nothing() -> None:
    verdict = preflight(facts(paused=Pause(at=1.0, by="bert", why="misfire", guard=True)))
    told(verdict, "state", FAIL, "paused by bert: misfire")


def approved(by: str, campaign: str = "camp", snapshot: str = "snap", to: str = "production") -> Approval:
    return Approval(by=by, at=1.0, campaign_digest=campaign, snapshot_digest=snapshot, to=to)


def test_an_approval_is_needed_where_the_campaign_asks_for_one() -> None:
    told(preflight(facts()), "approval", OK, "no approval needed")
    told(preflight(facts(require_approval=True)), "approval", FAIL, "there is none")
    told(preflight(facts(require_approval=True, approval=approved("zoe"))), "approval", OK, "approved by zoe")


def test_an_approval_by_the_presser_alone_is_none() -> None:
    told(preflight(facts(require_approval=True, approval=approved("ann"))), "approval", FAIL, "ann", "alone")
    assert preflight(facts(require_approval=True, approval=approved("ann"), operator="zoe")).go


@pytest.mark.parametrize("approval", [approved("zoe", campaign="old"), approved("zoe", snapshot="old")])
def test_an_approval_of_something_else_is_none(approval: Approval) -> None:
    told(preflight(facts(require_approval=True, approval=approval)), "approval", FAIL, "zoe approved another")


@pytest.mark.parametrize(("to", "word"), [("sandbox", "for sandbox"), ("", "for no destination")])
def test_an_approval_for_another_destination_is_none(to: str, word: str) -> None:
    verdict = preflight(facts(require_approval=True, approval=approved("zoe", to=to)))
    told(verdict, "approval", FAIL, f"zoe approved it {word}, and it goes to production")


def test_a_snapshot_grows_old_in_a_day() -> None:
    told(preflight(facts()), "snapshot", OK, "sealed 1.0 h ago")
    told(preflight(facts(now_s=CALM_S + 25 * 3_600)), "snapshot", WARN, "26.0 h ago")


def test_the_guard_should_be_on_and_able_to_see() -> None:
    told(preflight(facts()), "guard", OK, "5% stops or 30% bad tokens among 200 replies")
    told(preflight(facts(guard=None)), "guard", WARN, "off")
    told(preflight(facts(guard_off=True)), "guard", WARN, "off")
    told(preflight(facts(stages=(Stage(share=0.001),))), "guard", WARN, "200 replies", "fcm 100")
    told(preflight(facts(stages=(Stage(share=0.01),))), "guard", OK)


# --- the fleet -------------------------------------------------------------------------------------------------------


def test_every_row_must_be_held_by_somebody_ready() -> None:
    told(preflight(facts()), "rows", OK, "all 300,000 rows in 4 shards", "2 workers")
    unready = heard("bert", (2, 3), holding={"ready": False})
    verdict = preflight(facts(ANNA, unready))
    told(verdict, "rows", FAIL, "150,000 of 300,000 rows", "2 of 4 shards", "bert is not ready (2)")
    assert verdict.rows_covered == 150_000


@pytest.mark.parametrize(
    ("owners", "why"),
    [
        ({**OWNERS, 3: None}, "held by nobody (1)"),
        ({0: "anna", 1: "anna", 2: "bert"}, "held by nobody (1)"),
        ({**OWNERS, 3: "carl"}, "held by carl, which is silent (1)"),
        ({**OWNERS, 3: "anna"}, "anna has just taken it (1)"),
    ],
)
def test_a_shard_that_nobody_alive_holds_is_told_with_the_reason(owners: dict[int, str | None], why: str) -> None:
    verdict = preflight(facts(owners=owners))
    told(verdict, "rows", FAIL, "1 of 4 shards", why)
    assert verdict.rows_covered < verdict.rows


def test_a_worker_whose_lease_is_over_covers_nothing() -> None:
    silent = replace(BERT, age_s=LEASE_S + 0.1)
    verdict = preflight(facts(ANNA, silent))
    told(verdict, "rows", FAIL, "150,000 of 300,000", "held by bert, which is silent (2)")
    assert preflight(facts(ANNA, replace(BERT, age_s=LEASE_S))).go


def test_what_helps_uncovered_rows_depends_on_the_room() -> None:
    none = facts(replace(ANNA, age_s=9.0), replace(BERT, age_s=9.0))
    assert "flashcast worker" in only(preflight(none), "rows").remedy
    small = facts(heard("anna", (0, 1), devices_max=100), owners={0: "anna", 1: "anna"})
    assert "100 rows at most" in only(preflight(small), "rows").remedy
    ample = facts(ANNA, heard("bert", (2, 3), holding={"ready": False}))
    assert "Wait for the workers" in only(preflight(ample), "rows").remedy


def test_faults_of_workers_are_told_by_name_each_once() -> None:
    told(preflight(facts()), "workers", OK, "2 workers heard")
    broken = heard("bert", (2, 3), fault="no route to host", holding={"fault": "no route to host"})
    check = only(preflight(facts(ANNA, broken)), "workers")
    assert (check.level, check.text) == (WARN, "bert: no route to host")


def test_a_worker_that_is_ending_is_told() -> None:
    told(preflight(facts(ANNA, heard("bert", (2, 3), draining=True))), "workers", WARN, "bert is ending", "2 shards")


def test_many_faults_are_counted() -> None:
    crowd = [heard(f"w{n}", (), fault="sick") for n in range(9)]
    told(preflight(facts(ANNA, BERT, *crowd)), "workers", WARN, "w4: sick", "and 4 more")


def test_somebody_must_be_left_when_one_dies() -> None:
    told(preflight(facts()), "survivors", OK, "2 workers on 2 machines")
    alone = facts(heard("anna", (0, 1, 2, 3)), owners=dict.fromkeys(range(4), "anna"))
    told(preflight(alone), "survivors", WARN, "anna is the only worker")
    together = facts(heard("anna", (0, 1), host="box"), heard("bert", (2, 3), host="box"))
    told(preflight(together), "survivors", WARN, "2 workers, all on box")


def test_who_is_left_must_have_room_for_what_a_lost_worker_held() -> None:
    # Each holds 150,000 rows: 100,000 for APNs and 50,000 for FCM.
    exactly = facts(heard("anna", (0, 1), devices_max=300_000), heard("bert", (2, 3), devices_max=300_000))
    told(preflight(exactly), "survivors", OK, "can take over from each other")
    tight = facts(heard("anna", (0, 1), devices_max=299_999), heard("bert", (2, 3), devices_max=300_000))
    check = only(preflight(tight), "survivors")
    assert (check.level, check.text) == (WARN, "if bert is lost, nobody has room for 1 of its 150,000 rows")
    assert "--max-devices" in check.remedy
    full = facts(heard("anna", (0, 1), devices_max=150_000), heard("bert", (2, 3), devices_max=150_000))
    told(preflight(full), "survivors", WARN, "if anna is lost", "if bert is lost", "150,000 of its 150,000 rows")
    assert preflight(full).go


def test_room_that_another_launch_takes_is_no_room() -> None:
    other = Holding(shards=(0,), ready=True, providers={APNS: part(200_000)})
    mine = heard("anna", (0, 1), devices_max=400_000)
    busy = mine.beat.model_copy(update={"launches": {**mine.beat.launches, "final-1": other}})
    told(
        preflight(facts(replace(mine, beat=busy), BERT)),
        "survivors",
        WARN,
        "if bert is lost, nobody has room for 100,000",
    )


def test_a_worker_that_holds_nothing_stands_by_with_all_its_room() -> None:
    tight = [heard(name, shards, devices_max=150_000) for name, shards in (("anna", (0, 1)), ("bert", (2, 3)))]
    carl = heard("carl", (), holding={"providers": {}}, devices_max=150_000)
    told(preflight(facts(*tight, carl)), "survivors", OK, "3 workers on 3 machines")
    alone = heard("anna", (0, 1, 2, 3))
    told(preflight(facts(alone, carl, owners=dict.fromkeys(range(4), "anna"))), "survivors", OK, "2 workers")


@pytest.mark.parametrize("ailing", [{"draining": True}, {"holding": {"providers": {}, "cooling": True}}])
def test_a_worker_that_takes_no_shards_is_no_survivor(ailing: dict[str, object]) -> None:
    tight = [heard(name, shards, devices_max=150_000) for name, shards in (("anna", (0, 1)), ("bert", (2, 3)))]
    carl = heard("carl", (), **{"holding": {"providers": {}}, **ailing})  # type: ignore[arg-type]
    told(preflight(facts(*tight, carl)), "survivors", WARN, "nobody has room")


def test_a_machine_with_several_workers_must_be_replaceable_too() -> None:
    three = [
        heard("anna", (0,), host="box", devices_max=300_000), heard("bert", (1,), host="box", devices_max=300_000),
        heard("carl", (2, 3), devices_max=300_000),
    ]  # fmt: skip
    verdict = preflight(facts(*three, owners={0: "anna", 1: "bert", 2: "carl", 3: "carl"}))
    told(verdict, "survivors", WARN, "if machine box is lost, nobody has room for 150,000 of its 300,000 rows")


def test_workers_that_send_to_different_servers_are_told() -> None:
    assert not [check for check in preflight(facts()).checks if check.name == "endpoints"]
    other = parts()
    other[APNS] = part(endpoint="https://api.sandbox.push.apple.com:443")
    verdict = preflight(facts(ANNA, heard("bert", (2, 3), holding={"providers": other})))
    told(verdict, "endpoints", WARN, "apns", "https://api.sandbox.push.apple.com:443 (1 worker)")


def test_the_journal_must_fit_on_the_disk() -> None:
    told(preflight(facts()), "disk", OK)
    own = 150_000 * ROW_DISK_BYTES
    told(preflight(facts(ANNA, heard("bert", (2, 3), disk_free_bytes=own - 1))), "disk", FAIL, "bert", "150,000 rows")
    told(preflight(facts(ANNA, heard("bert", (2, 3), disk_free_bytes=own))), "disk", WARN, "bert", "300,000")
    told(preflight(facts(ANNA, heard("bert", (2, 3), disk_free_bytes=None))), "disk", OK)


def test_what_the_engine_says_of_itself_is_handed_on() -> None:
    told(preflight(facts()), "engine", OK)
    told(preflight(facts(engine_warnings=("one replica",))), "engine", WARN, "one replica")


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset_s", "level"),
    [(0.0, OK), (0.049, OK), (-0.049, OK), (0.06, WARN), (-0.06, WARN), (0.99, WARN), (1.01, FAIL), (-1.01, FAIL)],
)
def test_clocks_apart_are_told_and_beyond_a_second_a_no_go(offset_s: float, level: Level) -> None:
    verdict = preflight(facts(ANNA, heard("bert", (2, 3), beats=heartbeats(offset_s))))
    # Every heartbeat is 2 ms on its way; anna's clock is right, and so is the listener's own.
    least_ms = offset_s * 1e3 + 2
    told(verdict, "clocks", level, f"at most {max(2.0, least_ms) - min(0.0, least_ms):,.0f} ms apart")
    text = only(verdict, "clocks").text
    if level is not OK:
        assert ("host-bert is behind this machine" in text) == (offset_s > 0)
        assert ("is behind host-bert" in text) == (offset_s < 0)


def test_two_workers_may_be_apart_with_the_listener_between_them() -> None:
    early, late = heard("anna", (0, 1), beats=heartbeats(-0.04)), heard("bert", (2, 3), beats=heartbeats(0.04))
    told(preflight(facts(early, late)), "clocks", WARN, "80 ms apart", "host-bert is behind host-anna")


def test_a_slow_way_is_no_skew() -> None:
    far = heard("bert", (2, 3), beats=heartbeats(way_s=0.08))
    told(preflight(facts(ANNA, far, transit_ms=40.0)), "clocks", OK, "may be 40 ms")
    told(preflight(facts(ANNA, far, transit_ms=None)), "clocks", WARN, "80 ms", "way included")


def test_workers_of_one_machine_have_one_clock() -> None:
    slow = heard("bert", (2, 3), host="host-anna", beats=heartbeats(way_s=0.5))
    told(preflight(facts(ANNA, slow)), "clocks", OK, "1 machine ")


def test_too_few_heartbeats_are_no_measurement() -> None:
    assert least_ms(heartbeats()[: HEARTBEATS_MIN - 1]) is None
    few = [replace(each, heartbeats=()) for each in (ANNA, BERT)]
    told(preflight(facts(*few)), "clocks", WARN, "too few heartbeats")


@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.floats(-5, 5), st.floats(0, 0.2)), min_size=1),
    st.lists(st.floats(0, 0.5), min_size=HEARTBEATS_MIN, max_size=20),
)
def test_the_clocks_are_never_further_apart_than_is_told(
    machines: dict[str, tuple[float, float]], delays: list[float]
) -> None:
    """``machines``: how far each clock is behind, and its shortest way."""
    leasts = {}
    for name, (behind_s, way_s) in machines.items():
        ways = [way_s, *(way_s + delay for delay in delays)]
        least = least_ms((100.0 + n - behind_s, 100.0 + n + way) for n, way in enumerate(ways))
        assert least is not None
        leasts[name] = least
    longest_ms = max(way for _, way in machines.values()) * 1e3
    found = spread(leasts, longest_ms)
    behind = [behind_s * 1e3 for behind_s, _ in machines.values()]
    true_ms = max(*behind, 0.0) - min(*behind, 0.0)
    assert found.certain_ms - 1e-3 <= true_ms <= found.ms + longest_ms + 1e-3


# --- connections and time --------------------------------------------------------------------------------------------


def test_connections_that_dip_are_a_warning_and_none_a_no_go() -> None:
    told(
        preflight(facts()), "connections", OK, "apns: 16 of 16", "1,000 streams", "round trip 20.0 ms", "fcm: 16 of 16"
    )
    dipped = heard("bert", (2, 3), holding={"providers": parts(connections=7)})
    told(preflight(facts(ANNA, dipped)), "connections", WARN, "apns: 15 of 16", "fcm: 15 of 16")
    none = [
        heard(name, held, holding={"providers": parts(connections=0)})
        for name, held in (("anna", (0, 1)), ("bert", (2, 3)))
    ]
    told(preflight(facts(*none)), "connections", FAIL, "apns: none of 16", "fcm: none of 16")


def test_the_last_reply_must_come_within_the_window() -> None:
    told(preflight(facts()), "window", OK, "apns: 200,000 rows at 200,000/s", "within the window of 60 s")
    verdict = preflight(facts(window_s=1.0))
    told(verdict, "window", FAIL, "fcm: 100,000 rows at 100,000/s", "after 1.1 s, beyond the window of 1 s")


def test_the_slowest_worker_decides_and_not_the_sum() -> None:
    slow = heard("bert", (2, 3), holding={"providers": {**parts(), APNS: part(rate_per_s=1_000.0)}})
    verdict = preflight(facts(ANNA, slow))
    told(verdict, "window", FAIL, "apns: 200,000 rows at 101,000/s", "after 100.0 s")
    assert verdict.predicted_s == pytest.approx(100.04)


def test_a_pace_and_stages_take_their_time() -> None:
    told(preflight(facts(pace={APNS: 10_000.0})), "window", OK, "with the pace: the last reply after 20.0 s")
    told(preflight(facts(pace={APNS: 1_000.0})), "window", FAIL, "with the pace: the last reply after 200.0 s")
    held = facts(stages=(Stage(share=0.01, hold_s=10), Stage(share=0.1, hold_s=20)))
    told(preflight(held), "window", OK, "with 30 s of stages' holds", "after 31.2 s")


def test_rows_that_cannot_be_sent_never_end() -> None:
    stuck = heard("bert", (2, 3), holding={"providers": {**parts(), APNS: part(rate_per_s=0.0)}})
    verdict = preflight(facts(ANNA, stuck))
    told(verdict, "window", FAIL, "apns", "never comes")
    assert verdict.predicted_s is None


def test_five_seconds_are_told_and_never_judged() -> None:
    told(preflight(facts()), "five seconds", OK, "within the 5 s")
    told(preflight(facts(pace={APNS: 10_000.0})), "five seconds", OK, "longer than the 5 s")


# --- quotas ----------------------------------------------------------------------------------------------------------


def of_fcm(rows: int, *, rate_per_s: float = 400_000.0, **changes: object) -> Facts:
    held = {FCM: part(rows // 2, rate_per_s=rate_per_s / 2, quota_per_minute=changes.pop("quota", None))}
    workers = [
        heard(name, shards, holding={"providers": held}) for name, shards in (("anna", (0, 1)), ("bert", (2, 3)))
    ]
    ref = SnapshotRef(url="/s", digest="snap", sealed_at=CALM_S, rows={FCM: rows}, shards=4)
    return facts(*workers, snapshot=ref, **changes)


def test_rows_within_the_quota_are_well() -> None:
    told(preflight(facts()), "quota", OK, "fcm: 100,000 rows are within 600,000 messages a minute (Google's default)")
    told(preflight(facts()), "quota", OK, "apns: Apple publishes no quota")


def test_beyond_the_quota_the_agreement_decides_and_the_text_says_so() -> None:
    verdict = preflight(of_fcm(2_000_000))
    told(verdict, "quota", FAIL, "2,000,000 rows are 3.3 times the 600,000", "at most 600,000", "1,400,000 are not")
    remedy = only(verdict, "quota").remedy
    for words in ("agreement with Google, not Flashcast", "2,000,000 a minute", "15 days", "[pace] fcm = 10,000"):
        assert words in remedy
    told(verdict, "window", FAIL, "with the quota", "after 180.6 s")


def test_a_very_large_event_quota_needs_a_month() -> None:
    assert "30 days" in only(preflight(of_fcm(18_000_002)), "quota").remedy
    assert "15 days" in only(preflight(of_fcm(18_000_000)), "quota").remedy


def test_a_longer_window_makes_of_a_no_go_a_warning() -> None:
    verdict = preflight(of_fcm(2_000_000, window_s=240.0))
    told(verdict, "quota", WARN, "it takes 180 s, within the window of 240 s", "refused on the way")
    assert verdict.go


def test_a_pace_within_the_quota_is_well() -> None:
    verdict = preflight(of_fcm(1_000_000, window_s=120.0, pace={FCM: 10_000.0}))
    told(verdict, "quota", OK, "at 10,000/s are 600,000 a minute, within")
    told(verdict, "window", OK, "with the pace", "after 100.1 s")


def test_an_agreed_quota_comes_from_the_workers_settings() -> None:
    told(preflight(of_fcm(2_000_000, quota=3_000_000)), "quota", OK, "within 3,000,000", "agreed")
    told(preflight(of_fcm(2_000_000, quota=0)), "quota", OK, "without a quota")
    told(preflight(of_fcm(2_000_000, quotas={FCM: 2_000_000})), "quota", OK, "within 2,000,000")
    # What workers say goes before what the listener's own settings say.
    told(preflight(of_fcm(2_000_000, quota=600_000, quotas={FCM: 10**9})), "quota", FAIL, "3.3 times")


def test_a_quota_is_a_projects_and_the_least_of_what_workers_are_told() -> None:
    def summed(*quotas: int | None) -> int | None:
        told_by = [
            heard(f"w{n}", (n,), holding={"providers": {FCM: part(quota_per_minute=q)}}) for n, q in enumerate(quotas)
        ]
        return total("cup-1", [each.beat for each in told_by]).providers[FCM].quota_per_minute

    assert summed(600_000, 600_000, 600_000) == 600_000
    assert summed(900_000, None, 600_000) == 600_000
    assert summed(0, 600_000) == 600_000
    assert summed(None, 0) == 0
    assert summed(None, None) is None


# --- credentials, and the hour ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_s", "level", "words"),
    [
        (59, FAIL, "before the window closes at 2026-02-08 23:36:00 UTC"),
        (60, WARN, "0 min after the window"),
        (60 + 3_599, WARN, "60 min after the window"),
        (60 + 3_600, OK, "after the window"),
        (None, OK, "renews itself"),
    ],
)
def test_credentials_must_last_until_after_the_window(left_s: float | None, level: Level, words: str) -> None:
    until = None if left_s is None else CALM_S + left_s
    workers = (ANNA, heard("bert", (2, 3), holding={"providers": parts(credential_until=until)}))
    told(preflight(facts(*workers)), "credentials", level, "apns", "fcm", words)


@pytest.mark.parametrize(
    ("minute", "second", "level", "words"),
    [
        (0, 0, WARN, "full hour"),
        (1, 59, WARN, "full hour"),
        (59, 1, WARN, "full hour"),
        (2, 0, OK, "away"),
        (15, 30, OK, "small spike"),
        (29, 30, OK, "small spike"),
        (35, 0, OK, "away"),
    ],
)
def test_the_full_hour_is_a_bad_time_for_fcm(minute: int, second: int, level: Level, words: str) -> None:
    hour_s = NOW_S - 1_800
    told(preflight(facts(now_s=hour_s + 60 * minute + second)), "hour", level, words, "UTC")


def test_the_hour_is_no_matter_without_fcm() -> None:
    ref = SnapshotRef(url="/s", digest="snap", sealed_at=NOW_S, rows={APNS: APNS_ROWS, FCM: 0}, shards=4)
    assert not [check for check in preflight(facts(snapshot=ref, now_s=NOW_S)).checks if check.name == "hour"]


# --- the arithmetic --------------------------------------------------------------------------------------------------

loads = st.builds(
    Load,
    parts=st.lists(st.builds(Part, st.integers(0, 10**7), st.floats(1, 1e6)), max_size=5).map(tuple),
    latency_s=st.floats(0.001, 1),
    pace_per_s=st.none() | st.floats(1, 1e6),
    quota_per_minute=st.none() | st.integers(1, 10**7),
)
stages = st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(
    lambda shares: tuple(Stage(share=share, hold_s=2) for share in sorted(shares))
)


@given(st.dictionaries(st.sampled_from(Provider), loads), stages)
def test_a_forecast_promises_nothing_faster_than_its_parts(
    planned: dict[Provider, Load], held: tuple[Stage, ...]
) -> None:
    for provider, seconds in forecast(planned, held).items():
        load = planned[provider]
        if not load.rows:
            assert seconds == 0
            continue
        slack = 1 - 1e-9
        assert seconds >= load.rows / load.rate_per_s * slack
        assert all(seconds >= each.rows / each.rate_per_s * slack for each in load.parts)
        assert seconds >= load.latency_s + 2 * len(held)
        if load.quota_per_minute is not None:
            # A full bucket, and one more each minute.
            assert load.rows <= load.quota_per_minute * (2 + seconds / 60)


@given(st.integers(1, 10**8), st.floats(0.01, 1e5), st.integers(1, 10**8))
def test_a_quota_never_makes_it_faster_and_a_larger_one_never_slower(rows: int, send_s: float, quota: int) -> None:
    limited = quota_s(rows, send_s, quota)
    assert limited >= send_s * (1 - 1e-9)
    assert quota_s(rows, send_s, quota * 2) <= limited * (1 + 1e-9)
    assert quota_s(rows, send_s, None) == send_s


@given(st.integers(1, 10**7), st.floats(1, 600), st.floats(0.01, 600), st.integers(1, 10**7))
def test_what_is_reached_in_time_is_all_of_it_where_the_time_is_enough(
    rows: int, window_s: float, send_s: float, quota: int
) -> None:
    got = reached(rows, window_s, send_s, quota)
    assert 0 <= got <= rows
    if quota_s(rows, send_s, quota) <= window_s * (1 - 1e-9):
        assert got == rows
    assert reached(rows, window_s, send_s, None) >= got


def test_two_million_android_devices_take_three_minutes_by_default() -> None:
    assert quota_s(2_000_000, 5.0, FCM_QUOTA_PER_MINUTE) == pytest.approx(180.5)
    assert reached(2_000_000, 60.0, 5.0, FCM_QUOTA_PER_MINUTE) == 600_000
    assert reached(2_000_000, 61.0, 5.0, FCM_QUOTA_PER_MINUTE) == 1_200_000


def test_rows_that_nobody_can_send_take_for_ever() -> None:
    load = Load((Part(10, 0.0), Part(0, 0.0)), 0.1)
    assert forecast({APNS: load}) == {APNS: math.inf}
    assert forecast({APNS: Load((Part(0, 0.0),), 0.1)}) == {APNS: 0.0}
