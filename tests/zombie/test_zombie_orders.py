"""What people and launches order: terms that say it, for as long as they said, and nobody's protection taken away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zombie_data import NOW, document, normal, zombie

from flashcast.errors import InputError
from flashcast.zombie import orders, shield
from flashcast.zombie.bounds import LIFETIME_S_MAX
from flashcast.zombie.document import Document, Level, Manual, Terms, Writes
from flashcast.zombie.rule_parts import ZOMBIE_LOOK

SHIELD = {"app": "shop", "minutes": 10, "features": ["feed", "ads"], "share": 0.5}


def on(published: Document | None = None, **changes: Any) -> orders.Act:
    said = {
        "app": "shop", "level": Level.ZOMBIE, "look": ZOMBIE_LOOK, "for_s": 1_800, "by": "kim", "salt": "new",
        "expect": 3,
    }  # fmt: skip
    return orders.switch_on(published, NOW, **(said | changes))


# --- On ---------------------------------------------------------------------------------------------------


def test_an_order_holds_for_its_time_and_the_document_a_little_longer() -> None:
    act = on()
    assert act.terms.manual == Manual(by="kim", until=NOW + 1_800)
    # Apps poll every 30 to 45 s; a controller has a minute beside that to take over.
    assert act.lasts_s == 1_800 + 45 + 60
    assert act.expect == 3
    assert act.told == "zombie for 100 % of users: everything is off"


def test_a_new_incident_has_a_new_salt_and_one_that_goes_on_keeps_it() -> None:
    assert on(None).terms.salt == "new"
    assert on(document(normal())).terms.salt == "new"
    assert on(document(zombie(), lasts_s=60, now=NOW - 60)).terms.salt == "new"
    going_on = on(document(zombie()), share=0.3)
    assert (going_on.terms.salt, going_on.terms.incident, going_on.terms.buckets) == ("s1", "inc-1", 300)
    assert on(document(zombie()), incident="inc-2").terms.incident == "inc-2"


def test_what_is_given_wins_over_the_rules() -> None:
    act = on(level=Level.SHIELDED, share=0.001, off=["feed", "ads"], message={"*": "soon"})
    assert (act.terms.off, act.terms.keep, act.terms.buckets) == (("feed", "ads"), (), 1)
    assert act.terms.message == {"*": "soon"}
    assert on(keep=["payments"]).terms.keep == ("payments",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"share": 0.0}, "share 0 is not between 0 and 1"), ({"share": 1.5}, "share 1.5"),
        ({"for_s": 0}, "0 s is no time"), ({"for_s": LIFETIME_S_MAX}, "604800 s is no time"),
        ({"off": ["Feed"]}, "off"), ({"by": "a b"}, "operator 'a b'"), ({"by": "launch:x"}, "operator 'launch:x'"),
        ({"off": ["feed"], "keep": ["x"]}, "keep has no meaning"), ({"message": {"de": "x"}}, 'under "*"'),
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_meant_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        on(**changes)
    assert told in caught.value.message


# --- Off and back -------------------------------------------------------------------------------------------


def test_off_is_for_everybody_and_no_controller_raises_it_for_a_time() -> None:
    act = orders.switch_off(document(zombie()), NOW, app="shop", for_s=600, by="kim", expect=7)
    assert (act.terms.level, act.terms.buckets, act.terms.off) == (Level.NORMAL, 0, ())
    assert act.terms.manual == Manual(by="kim", until=NOW + 600)
    handed_over = orders.switch_off(document(zombie()), NOW, app="shop", for_s=0, by="kim", expect=7)
    assert handed_over.terms.manual is None


def test_the_end_keeps_the_drain_period_for_apps_that_hear_of_it_only_then() -> None:
    published = document(zombie(drain_s=900))
    assert orders.switch_off(published, NOW, app="shop", for_s=0, by="kim", expect=7).terms.drain_s == 900
    assert recover(published, share=1).terms.drain_s == 900
    assert orders.switch_off(None, NOW, app="shop", for_s=0, by="kim", expect=0).terms.drain_s == 600


def recover(published: Document | None, **changes: Any) -> orders.Act:
    return orders.recover(published, NOW, **({"by": "kim", "expect": 7} | changes))


def test_recovery_by_hand_takes_step_after_step() -> None:
    published, seen = document(zombie()), []
    while published.level is not Level.NORMAL:
        act = recover(published)
        assert act.terms.manual is None
        seen.append((act.terms.level, act.terms.buckets))
        published = document(act.terms)
    assert seen[:-1] == [(Level.RECOVERING, buckets) for buckets in (990, 950, 750, 500)]
    assert seen[-1] == (Level.NORMAL, 0)


def test_a_step_keeps_what_is_off_for_those_still_in_it() -> None:
    act = recover(document(zombie()))
    assert (act.terms.off, act.terms.keep, act.terms.salt, act.terms.writes) == (
        ("*",),
        ("payments",),
        "s1",
        Writes.QUEUE,
    )


def test_a_share_may_be_named_also_to_go_back() -> None:
    assert recover(document(zombie()), share=0.4).terms.buckets == 600
    assert recover(document(zombie(level="recovering", buckets=100)), share=0.1).terms.buckets == 900
    assert recover(document(zombie()), share=1.0).terms.level is Level.NORMAL


def test_a_step_may_be_held() -> None:
    assert recover(document(zombie()), for_s=300).terms.manual == Manual(by="kim", until=NOW + 300)


@pytest.mark.parametrize("published", [None, document(normal()), document(zombie(), now=NOW - 60, lasts_s=60)])
def test_where_nothing_is_off_there_is_nothing_to_recover_from(published: Document | None) -> None:
    with pytest.raises(InputError, match="nothing to recover from"):
        recover(published)


# --- A launch's shield -----------------------------------------------------------------------------------------


def raised(published: Document | None = None, **changes: Any) -> shield.ShieldAct:
    return shield.raised(shield.shield_of(SHIELD | changes), "superbowl-1", published, NOW, salt="new", expect=7)


def test_a_shield_is_the_launchs_decision_for_its_minutes() -> None:
    act = raised()
    assert act.terms is not None
    assert (act.terms.level, act.terms.buckets, act.terms.off) == (Level.SHIELDED, 500, ("feed", "ads"))
    assert act.terms.manual == Manual(by="launch:superbowl-1", until=NOW + 600)
    assert act.terms.incident == "superbowl-1"
    assert act.lasts_s == 600 + 45 + 60
    assert shield.is_launch(act.terms.manual)
    assert not shield.is_launch(Manual(by="kim", until=NOW))


@pytest.mark.parametrize(
    "published",
    [
        document(zombie()), document(zombie(level="recovering", buckets=10)),
        document(normal(manual=Manual(by="kim", until=NOW + 60))),
        document(zombie(level="shielded", off=["x"], keep=[], manual=Manual(by="kim", until=NOW + 60))),
    ],
)  # fmt: skip
def test_a_shield_gives_way_to_more_protection_and_to_people(published: Document) -> None:
    act = raised(published)
    assert act.terms is None
    assert act.told.startswith("no shield: ")


def test_a_second_shield_adds_to_the_first_and_ends_with_the_later() -> None:
    first = raised()
    assert first.terms is not None
    second = shield.raised(
        shield.shield_of({**SHIELD, "minutes": 1, "features": ["search"], "share": 0.1}), "other-1",
        document(first.terms), NOW + 10, salt="another", expect=8,
    )  # fmt: skip
    assert second.terms is not None
    assert second.terms.off == ("search", "feed", "ads")
    assert (second.terms.buckets, second.terms.salt) == (500, "new")
    assert second.terms.manual == Manual(by="launch:other-1", until=NOW + 600)


features = st.sampled_from(["feed", "ads", "search", "login", "*"])
plain = st.sampled_from(["feed", "ads", "search", "login"])


def is_off(said: Terms, feature: str) -> bool:
    return feature in said.off or ("*" in said.off and feature not in said.keep)


@given(
    st.lists(features, min_size=1, max_size=3, unique=True), st.lists(plain, max_size=3, unique=True),
    st.lists(features, min_size=1, max_size=3, unique=True), st.lists(plain, max_size=3, unique=True),
    st.integers(1, 1000), st.sampled_from(Writes),
)  # fmt: skip
def test_no_shield_switches_anything_on_for_anybody(
    theirs: list[str], keep: list[str], ours: list[str], our_keep: list[str], buckets: int, writes: Writes
) -> None:
    before = zombie(level="shielded", off=theirs, keep=keep if "*" in theirs else [], buckets=buckets, writes=writes)
    act = raised(document(before), features=ours, keep=our_keep if "*" in ours else [])
    assert act.terms is not None
    assert act.terms.problems() == []
    assert act.terms.buckets >= before.buckets
    assert (act.terms.writes is Writes.QUEUE) >= (writes is Writes.QUEUE)
    alone = raised(None, features=ours, keep=our_keep if "*" in ours else []).terms
    assert alone is not None
    for feature in ("feed", "ads", "search", "login", "unheard-of"):
        assert is_off(act.terms, feature) == (is_off(before, feature) or is_off(alone, feature))


def test_a_shield_is_lowered_by_its_own_launch_alone() -> None:
    up = raised().terms
    assert up is not None
    down = shield.lowered("superbowl-1", document(up), NOW + 5, expect=8)
    assert down.terms is not None
    assert (down.terms.level, down.terms.manual) == (Level.NORMAL, None)
    assert shield.lowered("other-1", document(up), NOW + 5, expect=8).terms is None
    assert shield.lowered("superbowl-1", None, NOW + 5, expect=0).terms is None


def test_what_rules_have_raised_above_a_shield_stays_when_the_launch_is_called_off() -> None:
    above = zombie(manual=Manual(by="launch:superbowl-1", until=NOW + 600))
    act = shield.lowered("superbowl-1", document(above), NOW + 5, expect=8)
    assert act.terms == above.changed(manual=None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"minutes": 0}, "shield.minutes: must be greater than 0; 0 was given"),
        ({"features": []}, "shield.features: "),
        ({"at": "noon"}, "shield.at: "), ({"colour": 1}, "shield.colour: there is no such key"),
    ],
)  # fmt: skip
def test_a_shield_that_cannot_be_meant_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        shield.shield_of(SHIELD | changes)
    assert told in caught.value.message
