"""Which worker should hold which shard, and how fast each may send. Pure: no IO, no clock, no hash order.

The problem: workers come and go while a launch is armed, and nobody leads. Obvious is a hash of the shard's number
(rendezvous hashing): it needs no agreement, but it leaves workers with twice the rows of others, and the slowest
decides when the launch ends. So every worker computes the same plan from what all can see (owners and live workers),
takes what the plan gives it, by compare-and-swap, and lets go of what it does not.

The plan keeps what is held, gives shards without an owner to whoever has the fewest rows, and moves a shard only
from a worker that has more than one whole shard more than another. A shard that moves is fetched and mapped again,
so a smaller difference is not worth it. Its own answer it leaves alone: asked again with it, `assign` moves nothing.

Left out: how fast each worker is. A fleet for one moment is made of equal machines; `--max-devices` bounds a small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard as all workers see it: ``rows`` in it, and the worker that holds it, None where nobody does.

    ``group`` is what should be spread beside rows, the provider: of equal choices the one is taken that spreads it.
    """

    index: int
    rows: int
    owner: str | None
    group: str = ""


def assign(shards: Sequence[ShardView], workers: Mapping[str, int], *, rebalance: bool = True) -> dict[int, str]:
    """The worker that should hold each shard, by the shard's index.

    ``workers`` are those that are alive and not asked to end, with the rows each can hold of this launch. A shard is
    missing from the answer only where no worker has room for it. With ``rebalance`` off nothing that a live worker
    holds moves: once a launch is live, rows are sent from where they lie, and only the dead leave anything behind.
    """
    # The largest first, as a large shard is the harder to place; the index decides between equals.
    views = sorted(shards, key=lambda view: (-view.rows, view.index))
    plan = _Plan(workers)
    plan.keep(views)
    plan.settle(views, rebalance=rebalance)
    while rebalance and len(plan.owners) < len(views):
        # Small shards may sit where a large one would fit. Each turn places more rows, so this ends.
        packed = _packed(views, plan.owners, workers)
        packed.settle(views, rebalance=True)
        if packed.rows <= plan.rows:
            break
        plan = packed
    return {view.index: plan.owners[view.index] for view in shards if view.index in plan.owners}


def pace_share(pace_per_s: float, rows_own: int, rows_all: int) -> float:
    """What one worker may send per second of a pace that is the fleet's, by the rows it still holds unsettled.

    The shares of workers that see the same figures add up to ``pace_per_s``. Whoever has nothing left gets 0; who
    sees less of the others than of itself (their beats are late) gets the whole and no more.
    """
    if rows_own <= 0:
        return 0.0
    return pace_per_s * min(1.0, rows_own / max(rows_own, rows_all))


class _Plan:
    """Shards at workers while the plan is made."""

    def __init__(self, workers: Mapping[str, int]) -> None:
        self._room = {name: workers[name] for name in sorted(workers)}
        self._load = dict.fromkeys(self._room, 0)
        self._held: dict[str, dict[int, ShardView]] = {name: {} for name in self._room}
        self._groups: dict[str, dict[str, int]] = {name: {} for name in self._room}
        self.owners: dict[int, str] = {}

    @property
    def rows(self) -> int:
        """Rows that are placed."""
        return sum(self._load.values())

    def fits(self, view: ShardView, worker: str | None) -> bool:
        """Whether ``worker`` is one and has room for the shard."""
        return worker in self._room and view.rows <= self._room[worker]

    def put(self, view: ShardView, worker: str) -> None:
        self._change(view, worker, view.rows)
        self._held[worker][view.index] = view
        self.owners[view.index] = worker

    def _change(self, view: ShardView, worker: str, rows: int) -> None:
        self._room[worker] -= rows
        self._load[worker] += rows
        self._groups[worker][view.group] = self._groups[worker].get(view.group, 0) + rows

    def _move(self, view: ShardView, worker: str) -> None:
        before = self.owners[view.index]
        del self._held[before][view.index]
        self._change(view, before, -view.rows)
        self.put(view, worker)

    def keep(self, views: Iterable[ShardView]) -> None:
        """Leaves each shard with its owner, as far as that one is alive and has room."""
        for view in views:
            if view.owner is not None and self.fits(view, view.owner):
                self.put(view, view.owner)

    def settle(self, views: Sequence[ShardView], *, rebalance: bool) -> None:
        """Places what is free and evens out, until neither changes anything: a move may make room for a shard."""
        largest = views[0].rows if views else 0
        while True:
            placed = self._place(views)
            moved = rebalance and self._even_out(largest)
            if not moved and not placed:
                return

    def _place(self, views: Iterable[ShardView]) -> bool:
        placed = False
        for view in views:
            if view.index not in self.owners and (worker := self.emptiest(view)) is not None:
                self.put(view, worker)
                placed = True
        return placed

    def emptiest(self, view: ShardView) -> str | None:
        """Of the workers with room for the shard the one with the fewest rows."""
        with_room = [name for name in self._room if self.fits(view, name)]
        return min(with_room, key=lambda name: (self._load[name], self._group(view, name), name), default=None)

    def _group(self, view: ShardView, worker: str) -> int:
        return self._groups[worker].get(view.group, 0)

    def _even_out(self, largest: int) -> bool:
        """Moves shards while a worker has more than ``largest`` rows more than another that has room for one.

        A shard is smaller than the difference, so every move makes the loads' sum of squares less: it ends.
        """
        moved = False
        while (step := self._step(largest)) is not None:
            self._move(*step)
            moved = True
        return moved

    def _step(self, largest: int) -> tuple[ShardView, str] | None:
        by_load = sorted(self._load, key=lambda name: (self._load[name], name))
        for full in reversed(by_load):
            for empty in by_load:
                difference = self._load[full] - self._load[empty]
                if difference <= largest:
                    break
                # An empty shard would go to and fro and even out nothing.
                movable = [view for view in self._held[full].values() if view.rows and self.fits(view, empty)]
                if movable:
                    return max(movable, key=lambda view: self._gain(view, full, empty, difference)), empty
        return None

    def _gain(self, view: ShardView, full: str, empty: str, difference: int) -> tuple[int, int, int, int]:
        """How much a move evens out; of equal ones the smaller shard, which is sooner fetched, and what spreads."""
        spread = self._group(view, full) - self._group(view, empty)
        return view.rows * (difference - view.rows), -view.rows, spread, -view.index


def _packed(views: Iterable[ShardView], owners: Mapping[int, str], workers: Mapping[str, int]) -> _Plan:
    """A plan made anew, the largest shards first, each where it is if it still fits there."""
    plan = _Plan(workers)
    for view in views:
        owner = owners.get(view.index)
        if owner is not None and plan.fits(view, owner):
            plan.put(view, owner)
        elif (worker := plan.emptiest(view)) is not None:
            plan.put(view, worker)
    return plan
