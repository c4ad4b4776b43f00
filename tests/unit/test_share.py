"""Which worker should hold which shard: fair, sticky, within capacity, and the same wherever it is worked out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast.arm.share import ShardView, assign, pace_share

AMPLE = 10**9
FULL = 262_144
NAMES = ("anna", "bert", "cara", "dirk", "emil")


def fresh(rows: Sequence[int], owners: Mapping[int, str] | None = None) -> list[ShardView]:
    return [ShardView(index, each, (owners or {}).get(index)) for index, each in enumerate(rows)]


def loads(shards: Sequence[ShardView], found: Mapping[int, str], workers: Mapping[str, int]) -> dict[str, int]:
    rows = {shard.index: shard.rows for shard in shards}
    return {name: sum(rows[index] for index, owner in found.items() if owner == name) for name in workers}


def owned(shards: Sequence[ShardView], found: Mapping[int, str]) -> list[ShardView]:
    return [replace(shard, owner=found.get(shard.index)) for shard in shards]


def moves(shards: Sequence[ShardView], found: Mapping[int, str], workers: Mapping[str, int]) -> list[int]:
    """The shards that a live worker held and no longer does."""
    return [shard.index for shard in shards if shard.owner in workers and found.get(shard.index) != shard.owner]


@st.composite
def fleets(draw: st.DrawFn, *, ample: bool = False) -> tuple[list[ShardView], dict[str, int]]:
    """Shards of any sizes with any owners, dead ones among them, and live workers with any room."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    room = st.just(AMPLE) if ample else st.integers(0, 60)
    rows = draw(st.lists(st.sampled_from([0, 1, 3, 7, 10, 10, 10]), max_size=12))
    owner = st.none() | st.sampled_from(NAMES)
    group = st.sampled_from(["apns", "fcm"])
    shards = [ShardView(index, each, draw(owner), draw(group)) for index, each in enumerate(rows)]
    return shards, {name: draw(room) for name in names}


# --- what always holds ---------------------------------------------------------------------------------------------


@given(fleets())
def test_no_worker_gets_more_rows_than_it_can_hold(fleet: tuple[list[ShardView], dict[str, int]]) -> None:
    shards, workers = fleet
    found = assign(shards, workers)
    assert set(found.values()) <= set(workers)
    for name, load in loads(shards, found, workers).items():
        assert load <= workers[name]


@given(fleets())
def test_a_shard_is_left_over_only_where_no_worker_has_room(fleet: tuple[list[ShardView], dict[str, int]]) -> None:
    shards, workers = fleet
    found = assign(shards, workers)
    load = loads(shards, found, workers)
    for shard in shards:
        if shard.index not in found:
            assert all(load[name] + shard.rows > workers[name] for name in workers)


@given(st.integers(0, 12), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 45)), st.data())
def test_equal_shards_fill_all_the_room_there_is(count: int, workers: dict[str, int], data: st.DataObject) -> None:
    owner = st.none() | st.sampled_from(NAMES)
    shards = [ShardView(index, 10, data.draw(owner)) for index in range(count)]
    assert len(assign(shards, workers)) == min(count, sum(room // 10 for room in workers.values()))


@given(fleets())
def test_workers_are_within_one_shard_of_each_other_unless_room_forbids(
    fleet: tuple[list[ShardView], dict[str, int]],
) -> None:
    shards, workers = fleet
    found = assign(shards, workers)
    load = loads(shards, found, workers)
    largest = max((shard.rows for shard in shards), default=0)
    for full, empty in itertools.permutations(workers, 2):
        if load[full] - load[empty] > largest:
            held = [shard.rows for shard in shards if found.get(shard.index) == full and shard.rows]
            assert all(load[empty] + rows > workers[empty] for rows in held)


@given(fleets())
def test_what_has_been_assigned_moves_no_more(fleet: tuple[list[ShardView], dict[str, int]]) -> None:
    shards, workers = fleet
    found = assign(shards, workers)
    assert assign(owned(shards, found), workers) == found


@given(fleets(), st.randoms())
def test_every_worker_comes_to_the_same_answer(fleet: tuple[list[ShardView], dict[str, int]], order: object) -> None:
    shards, workers = fleet
    shuffled, names = list(shards), list(workers)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    order.shuffle(names)  # type: ignore[attr-defined]
    assert assign(shuffled, {name: workers[name] for name in names}) == assign(shards, workers)


# --- how little moves ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.none() | st.sampled_from(NAMES[:4]), max_size=6),
    st.lists(st.sampled_from(NAMES[:3]), unique=True, min_size=1),
)
def test_of_equal_shards_no_fair_plan_moves_fewer(owners: list[str | None], names: list[str]) -> None:
    shards = [ShardView(index, 10, owner) for index, owner in enumerate(owners)]
    workers = dict.fromkeys(names, AMPLE)

    def fair(plan: Mapping[int, str]) -> bool:
        load = loads(shards, plan, workers).values()
        return max(load) - min(load) <= 10

    plans = (dict(enumerate(chosen)) for chosen in itertools.product(names, repeat=len(shards)))
    fewest = min(len(moves(shards, plan, workers)) for plan in plans if fair(plan))
    assert len(moves(shards, assign(shards, workers), workers)) == fewest


@given(fleets(ample=True), st.data())
def test_a_worker_that_leaves_moves_its_own_shards_alone(
    fleet: tuple[list[ShardView], dict[str, int]], data: st.DataObject
) -> None:
    shards, workers = fleet
    if len(workers) < 2:
        return
    held = owned(shards, assign(shards, workers))
    gone = data.draw(st.sampled_from(sorted(workers)))
    left = {name: room for name, room in workers.items() if name != gone}
    assert moves(held, assign(held, left), left) == []


@given(fleets(ample=True))
def test_a_worker_that_joins_gets_shards_and_nobody_else_does(
    fleet: tuple[list[ShardView], dict[str, int]],
) -> None:
    shards, workers = fleet
    if not workers:
        return
    held = owned(shards, assign(shards, workers))
    more = {**workers, "zoe": AMPLE}
    found = assign(held, more)
    assert all(found[index] == "zoe" for index in moves(held, found, more))
    others = [load for name, load in loads(shards, found, more).items() if name != "zoe"]
    largest = max((shard.rows for shard in shards), default=0)
    assert loads(shards, found, more)["zoe"] <= min(others) + largest


@given(fleets())
def test_nothing_that_is_held_moves_once_a_launch_is_live(fleet: tuple[list[ShardView], dict[str, int]]) -> None:
    shards, workers = fleet
    held = loads(shards, {shard.index: shard.owner for shard in shards if shard.owner}, workers)
    if any(held[name] > workers[name] for name in workers):
        return
    assert moves(shards, assign(shards, workers, rebalance=False), workers) == []


# --- by example ------------------------------------------------------------------------------------------------------


def test_without_workers_nobody_holds_anything() -> None:
    assert assign(fresh([FULL] * 3), {}) == {}


def test_the_first_worker_takes_all_and_the_second_half_of_it() -> None:
    shards = fresh([FULL] * 8)
    alone = assign(shards, {"anna": AMPLE})
    assert set(alone.values()) == {"anna"}
    two = assign(owned(shards, alone), {"anna": AMPLE, "bert": AMPLE})
    assert [two[index] for index in range(8)].count("bert") == 4


def test_a_fleet_that_starts_together_spreads_both_providers() -> None:
    shards = [ShardView(index, FULL, None, "apns" if index < 6 else "fcm") for index in range(12)]
    found = assign(shards, dict.fromkeys(NAMES[:3], AMPLE))
    for half in (range(6), range(6, 12)):
        assert sorted(found[index] for index in half) == ["anna", "anna", "bert", "bert", "cara", "cara"]


def test_a_worker_that_joins_gets_some_of_each_provider() -> None:
    shards = [ShardView(index, FULL, "anna", "apns" if index < 4 else "fcm") for index in range(8)]
    found = assign(shards, {"anna": AMPLE, "bert": AMPLE})
    taken = [shards[index].group for index, owner in found.items() if owner == "bert"]
    assert sorted(taken) == ["apns", "apns", "fcm", "fcm"]


def test_the_shards_of_the_dead_are_shared_by_those_who_hold_least() -> None:
    shards = fresh([FULL] * 6, {0: "anna", 1: "anna", 2: "bert", 3: "dead", 4: "dead", 5: "dead"})
    found = assign(shards, {"anna": AMPLE, "bert": AMPLE})
    assert (found[0], found[1], found[2]) == ("anna", "anna", "bert")
    assert sorted(found.values()) == ["anna"] * 3 + ["bert"] * 3


def test_a_difference_of_one_shard_is_not_worth_a_move() -> None:
    shards = fresh([FULL, FULL, FULL, 5_000], {0: "anna", 1: "anna", 2: "bert", 3: "bert"})
    assert moves(shards, assign(shards, {"anna": AMPLE, "bert": AMPLE}), {"anna": 0, "bert": 0}) == []


def test_a_worker_whose_room_shrank_lets_go_of_what_no_longer_fits() -> None:
    shards = fresh([10, 10, 4], dict.fromkeys(range(3), "anna"))
    assert assign(shards, {"anna": 15, "bert": 10}) == {0: "anna", 1: "bert", 2: "anna"}


def test_a_small_shard_makes_way_for_a_large_one_that_fits_nowhere_else() -> None:
    shards = fresh([10, 10, 3], {2: "anna"})
    found = assign(shards, {"anna": 10, "bert": 13})
    assert len(found) == 3
    assert found[2] == "bert"


def test_a_live_launch_keeps_its_places_and_hands_over_what_the_dead_left() -> None:
    shards = fresh([10] * 5, {0: "anna", 1: "anna", 2: "anna", 3: "anna", 4: "dead"})
    workers = {"anna": AMPLE, "bert": AMPLE}
    assert assign(shards, workers, rebalance=False) == {0: "anna", 1: "anna", 2: "anna", 3: "anna", 4: "bert"}
    assert sorted(assign(shards, workers).values()).count("bert") == 2


def test_a_large_launch_over_a_large_fleet_is_planned_evenly() -> None:
    shards = fresh([FULL] * 400)
    workers = {f"worker-{number}": AMPLE for number in range(40)}
    assert set(loads(shards, assign(shards, workers), workers).values()) == {10 * FULL}


# --- the pace -------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 1e7), st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_the_shares_of_a_fleet_are_its_pace(pace_per_s: float, rows: list[int]) -> None:
    shares = [pace_share(pace_per_s, each, sum(rows)) for each in rows]
    assert sum(shares) == pytest.approx(pace_per_s if sum(rows) else 0.0)
    assert all(0 <= share <= pace_per_s for share in shares)


def test_a_share_follows_the_rows_that_are_left() -> None:
    assert pace_share(10_000, 250, 1_000) == 2_500
    assert pace_share(10_000, 0, 1_000) == 0
    assert pace_share(10_000, 0, 0) == 0
    assert pace_share(10_000, 500, 100) == 10_000, "late beats of the others must not raise it above the whole"
