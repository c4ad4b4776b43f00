"""When a launch pauses itself, and when its next stage opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.arm.readiness import Beat, Holding, ProviderReadiness, total
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import AuditEntry, Go, GuardTerms, LaunchRecord, Pause, SnapshotRef, Stage
from flashcast.go.guard import ALONE_MIN, Counts, counted, judge, stage_open
from flashcast.model import Provider
from flashcast.outcomes import ACTIONS, BAD_TOKENS, Action

APNS, FCM = Provider.APNS, Provider.FCM
TERMS = GuardTerms()


# --- the guard -------------------------------------------------------------------------------------------------------


def test_a_launch_without_replies_or_with_good_ones_goes_on() -> None:
    assert judge({}, TERMS) is None
    assert judge({APNS: Counts(0), FCM: Counts(0)}, TERMS) is None
    assert judge({APNS: Counts(1_000_000, accepted=980_000)}, TERMS) is None


def test_a_mass_of_bad_tokens_pauses_and_says_what_is_probably_wrong() -> None:
    trip = judge({APNS: Counts(1_000, accepted=600, bad_tokens=400)}, TERMS)
    assert trip is not None
    assert (trip.provider, trip.why, trip.count, trip.replied, trip.share) == (APNS, "bad tokens", 400, 1_000, 0.4)
    assert "400 of the first 1,000" in trip.text
    assert "BadDeviceToken" in trip.text
    assert "40.0%" in trip.text
    assert "30%" in trip.text
    assert "600 were accepted" in trip.text
    assert "production tokens at the development host or the reverse" in trip.remedy
    assert "[apns] endpoint" in trip.remedy


def test_bad_tokens_within_the_bound_are_an_old_audience_and_no_misfire() -> None:
    assert judge({APNS: Counts(1_000, accepted=700, bad_tokens=300)}, TERMS) is None


def test_a_share_of_few_replies_means_nothing() -> None:
    assert judge({APNS: Counts(TERMS.replies - 1, bad_tokens=TERMS.replies - 1)}, TERMS) is None
    assert judge({APNS: Counts(TERMS.replies, bad_tokens=TERMS.replies)}, TERMS) is not None
    assert judge({FCM: Counts(199, accepted=150, stops=49, stop_reason="SENDER_ID_MISMATCH")}, TERMS) is None


def test_a_share_of_stops_pauses_and_says_what_the_reason_means() -> None:
    trip = judge({FCM: Counts(500, accepted=470, stops=30, stop_reason="SENDER_ID_MISMATCH")}, TERMS)
    assert trip is not None
    assert trip.why == "stops"
    assert "30 of the first 500 messages with SENDER_ID_MISMATCH: 6.0%" in trip.text
    assert "another Firebase project" in trip.remedy


def test_a_few_stops_among_many_replies_are_the_rows_own() -> None:
    assert judge({FCM: Counts(500, accepted=475, stops=25, stop_reason="SENDER_ID_MISMATCH")}, TERMS) is None


def test_where_nothing_but_stops_comes_back_it_does_not_wait_for_more() -> None:
    def refused(count: int, accepted: int = 0) -> Counts:
        return Counts(count + accepted, accepted=accepted, stops=count, stop_reason="InvalidProviderToken")

    assert judge({APNS: refused(ALONE_MIN - 1)}, TERMS) is None
    trip = judge({APNS: refused(ALONE_MIN)}, TERMS)
    assert trip is not None
    assert "key_file, key_id and team_id" in trip.remedy
    assert judge({APNS: refused(ALONE_MIN, accepted=1)}, TERMS) is None, "then it is not the same for every row"


def test_one_provider_may_trip_it_for_both_and_stops_are_told_first() -> None:
    bad = Counts(1_000, bad_tokens=900)
    trip = judge({APNS: bad, FCM: Counts(1_000, stops=900, stop_reason="PERMISSION_DENIED")}, TERMS)
    assert trip is not None
    assert (trip.provider, trip.why) == (FCM, "stops")
    trip = judge({FCM: Counts(1_000, accepted=1_000), APNS: bad}, TERMS)
    assert trip is not None
    assert trip.provider is APNS


def test_a_word_no_provider_documents_is_told_as_it_came() -> None:
    trip = judge({APNS: Counts(300, stops=300, stop_reason="BadMood")}, TERMS)
    assert trip is not None
    assert "BadMood" in trip.text
    trip = judge({APNS: Counts(300, stops=300)}, TERMS)
    assert trip is not None
    assert "a reason that stops a launch" in trip.text


def test_what_it_says_fits_a_note_in_the_audit_trail() -> None:
    most = 10**9
    for provider, reason in ((APNS, "BadEnvironmentKeyIdInToken"), (FCM, "THIRD_PARTY_AUTH_ERROR")):
        for counts in (Counts(most, most, most, reason), Counts(most, most, bad_tokens=most)):
            trip = judge({provider: counts}, TERMS)
            assert trip is not None
            assert len(trip.text) <= 200


@st.composite
def counts_of(draw: st.DrawFn) -> Counts:
    replied = draw(st.integers(0, 2_000))
    stops = draw(st.integers(0, replied))
    bad = draw(st.integers(0, replied - stops))
    return Counts(replied, replied - stops - bad, stops, "TopicDisallowed" if stops else "", bad)


@st.composite
def terms_of(draw: st.DrawFn) -> GuardTerms:
    share = st.floats(0.001, 1.0)
    return GuardTerms(replies=draw(st.integers(1, 500)), stop_share=draw(share), bad_token_share=draw(share))


@given(st.dictionaries(st.sampled_from(Provider), counts_of()), terms_of())
def test_it_trips_for_a_passed_bound_and_for_nothing_else(replies: dict[Provider, Counts], terms: GuardTerms) -> None:
    def passed(counts: Counts) -> bool:
        alone = counts.stops == counts.replied and counts.replied >= 4
        enough = counts.replied >= terms.replies
        stops = counts.stops > terms.stop_share * counts.replied
        return alone or (enough and (stops or counts.bad_tokens > terms.bad_token_share * counts.replied))

    trip = judge(replies, terms)
    assert (trip is not None) == any(passed(counts) for counts in replies.values())
    if trip is not None:
        assert f"{trip.count:,} of the first {trip.replied:,}" in trip.text
        assert passed(replies[trip.provider])
        assert trip.text and trip.remedy


@given(counts_of(), terms_of(), st.integers(0, 100))
def test_more_stops_never_calm_it(counts: Counts, terms: GuardTerms, more: int) -> None:
    trip = judge({APNS: counts}, terms)
    if trip is None or trip.why != "stops":
        return
    worse = Counts(counts.replied + more, counts.accepted, counts.stops + more, counts.stop_reason, counts.bad_tokens)
    assert judge({APNS: worse}, terms) is not None


def test_the_counts_are_those_of_the_whole_fleet() -> None:
    part = ProviderReadiness(
        accepted=10, rejected=5, failed=1, unknown=7, bad_tokens=3, stops=2, stop_reason="BadTopic"
    )
    beats = [beat("anna", Holding(providers={APNS: part})), beat("bert", Holding(providers={APNS: part}))]
    assert counted(total("x-1", beats).providers) == {APNS: Counts(32, 20, 4, "BadTopic", 6)}


def test_bad_tokens_are_reasons_that_do_not_stop_a_launch_by_themselves() -> None:
    for reasons in BAD_TOKENS.values():
        assert all(ACTIONS[reason] is not Action.STOP for reason in reasons)


# --- stages ----------------------------------------------------------------------------------------------------------

STAGES = (Stage(share=0.01, hold_s=10), Stage(share=0.1, hold_s=0))
SNAPSHOT = SnapshotRef(url="/s", digest="d", sealed_at=0.0, rows={APNS: 100}, shards=4)


def launch(**changes: object) -> LaunchRecord:
    fields: dict[str, object] = {
        "launch": "x-1", "campaign": "x", "state": State.LIVE, "created_at": 0.0, "snapshot": SNAPSHOT,
        "stages": STAGES, "go": Go(at=1_000.0, by="ann", host="h"),
        "trail": (entry(1_000.0, Input.GO),),
    }  # fmt: skip
    return LaunchRecord.model_validate({**fields, **changes})


def entry(at: float, what: Input) -> AuditEntry:
    return AuditEntry(at=at, by="ann", host="h", what=what, before=State.ARMED, after=State.LIVE)


def beat(worker: str, holding: Holding) -> Beat:
    return Beat(
        worker=worker, host="h", pid=1, version="1", at=0.0, sequence=1, devices_max=10, launches={"x-1": holding}
    )


def done(worker: str, *shards: int, stage: int = 0, at: float | None = 1_003.0) -> tuple[str, Beat]:
    return worker, beat(worker, Holding(shards=shards, stage_sent=stage, stage_sent_at=at))


def test_a_stage_opens_when_all_is_settled_and_the_hold_is_over() -> None:
    beats = dict([done("anna", 0, 1, at=1_003.0), done("bert", 2, 3, at=1_004.0)])
    assert not stage_open(launch(), beats, 1_013.9)
    assert stage_open(launch(), beats, 1_014.0)


def test_a_worker_that_has_not_settled_the_stage_holds_it_back() -> None:
    beats = dict([done("anna", 0, 1), done("bert", 2, 3, stage=-1)])
    assert not stage_open(launch(), beats, 9_999.0)


def test_a_worker_without_shards_of_the_launch_is_not_asked() -> None:
    spare = {"bert": beat("bert", Holding()), "cara": beat("cara", Holding()).model_copy(update={"launches": {}})}
    assert stage_open(launch(), {**dict([done("anna", 0, 1, 2, 3)]), **spare}, 9_999.0)
    assert not stage_open(launch(), spare, 9_999.0)


def test_shards_that_nobody_alive_holds_hold_it_back_unless_they_are_settled() -> None:
    beats = dict([done("anna", 0, 1)])
    assert not stage_open(launch(), beats, 9_999.0, settled=())
    assert not stage_open(launch(), beats, 9_999.0, settled={2})
    assert stage_open(launch(), beats, 9_999.0, settled={2, 3})


@pytest.mark.parametrize(
    "changes",
    [
        {"state": State.ARMED},
        {"state": State.ABORTED},
        {"paused": Pause(at=1.0, by="anna", why="misfire", guard=True)},
        {"stage": 2},
        {"stages": ()},
    ],
)
def test_nothing_opens_where_there_is_nothing_to_open(changes: dict[str, object]) -> None:
    beats = dict([done("anna", 0, 1, 2, 3, stage=2)])
    assert not stage_open(launch(**changes), beats, 9_999.0)


def test_each_stage_has_its_own_hold() -> None:
    beats = dict([done("anna", 0, 1, 2, 3, stage=1, at=1_050.0)])
    assert stage_open(launch(stage=1), beats, 1_050.0), "its hold is 0 s"


def test_a_worker_that_tells_no_time_is_held_from_the_stages_opening() -> None:
    beats = dict([done("anna", 0, 1, 2, 3, at=None)])
    assert not stage_open(launch(), beats, 1_009.9)
    assert stage_open(launch(), beats, 1_010.0)
    reopened = launch(trail=(entry(1_000.0, Input.GO), entry(1_100.0, Input.STAGE), entry(1_200.0, Input.PAUSE)))
    assert not stage_open(reopened, beats, 1_109.0)
    assert stage_open(launch(trail=()), beats, 1_010.0), "the trail may have moved to pages: GO itself is the oldest"


holdings = st.builds(
    Holding,
    shards=st.lists(st.integers(0, 3), unique=True).map(tuple),
    stage_sent=st.integers(-1, 2),
    stage_sent_at=st.none() | st.floats(900, 1_100),
)


@given(
    st.dictionaries(st.sampled_from(["anna", "bert", "cara"]), holdings),
    st.integers(0, 2),
    st.floats(1_000, 1_200),
    st.none() | st.sets(st.integers(0, 3)),
    st.floats(0, 1_000),
)
def test_an_open_stage_has_every_live_holder_done_and_waited_for(
    held: dict[str, Holding], stage: int, now_s: float, settled: set[int] | None, later_s: float
) -> None:
    record = launch(stage=stage)
    beats = {worker: beat(worker, holding) for worker, holding in held.items()}
    if not stage_open(record, beats, now_s, settled=settled):
        return
    holders = [holding for holding in held.values() if holding.shards]
    assert stage < record.last_stage
    assert holders
    assert all(holding.stage_sent >= stage for holding in holders)
    hold_s = STAGES[stage].hold_s
    assert all(now_s - (h.stage_sent_at or 0) >= hold_s for h in holders)
    assert now_s - 1_000.0 >= hold_s
    if settled is not None:
        assert {shard for h in holders for shard in h.shards} | settled == set(range(4))
    assert stage_open(record, beats, now_s + later_s, settled=settled), "time alone never closes it"
