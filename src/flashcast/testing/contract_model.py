"""The engine contract against a model: any sequence of operations does what it would do to a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashcast.engine.base import Entry, KeyExistsError, KeyValue, RevisionConflictError, is_below
from flashcast.testing.contract_base import ContractBase, assert_in_order, contract, latest, of, until_seen

EXAMPLES = 25
"""Each opens engines of its own, which costs a fleet's engine some 100 ms."""
CLIENTS = 2

keys = st.sampled_from(("a", "a.b", "a.b.c", "a-b", "b"))
prefixes = st.sampled_from(("", "a", "a.b", "b", "c"))
clients = st.integers(0, CLIENTS - 1)
back = st.sampled_from((0, 0, 0, 1, 2))
"""How many revisions of a key to look back for the one to expect: mostly the present one."""
operations = st.one_of(
    st.tuples(st.just("create"), clients, keys),
    st.tuples(st.just("put"), clients, keys),
    st.tuples(st.just("update"), clients, keys, back),
    st.tuples(st.just("delete"), clients, keys),
    st.tuples(st.just("delete at"), clients, keys, back),
    st.tuples(st.just("get"), clients, keys),
    st.tuples(st.just("entries"), clients, prefixes),
)


@dataclass
class Model:
    """What should be there."""

    present: dict[str, Entry] = field(default_factory=dict)
    revisions: dict[str, list[int]] = field(default_factory=dict)
    last: int = 0

    def expected(self, key: str, back: int) -> int:
        """A revision that the key has or had; one that no key has where it never had so many."""
        had = self.revisions.get(key, [])
        return had[-1 - back] if len(had) > back else 1 << 40

    def wrote(self, key: str, value: bytes, revision: int) -> None:
        """A write that succeeded."""
        assert revision > self.last, f"revision {revision} of {key} after {self.last}"
        self.last = revision
        self.present[key] = Entry(key, value, revision)
        self.revisions.setdefault(key, []).append(revision)


async def _do(kv: KeyValue, model: Model, value: bytes, what: str, key: str, back: int = 0) -> None:
    """One operation on the engine and on the model; both must agree on how it ends."""
    present = model.present.get(key)
    if what == "create":
        refused: KeyExistsError | None = None
        try:
            model.wrote(key, value, await kv.create(key, value))
        except KeyExistsError as error:
            refused = error
        assert (refused is None) == (present is None)
        assert refused is None or refused.entry == present
    elif what == "put":
        model.wrote(key, value, await kv.put(key, value))
    elif what == "update":
        expected = model.expected(key, back)
        try:
            revision = await kv.update(key, value, expected)
        except RevisionConflictError:
            assert present is None or present.revision != expected
        else:
            assert present is not None and present.revision == expected
            model.wrote(key, value, revision)
    elif what == "get":
        assert await kv.get(key) == present
    elif what == "entries":
        assert await kv.entries(key) == [model.present[k] for k in sorted(model.present) if is_below(k, key)]
    else:
        await _delete(kv, model, key, None if what == "delete" else model.expected(key, back))


async def _delete(kv: KeyValue, model: Model, key: str, revision: int | None) -> None:
    present = model.present.get(key)
    if present is None and revision is not None:
        return  # whether that is a conflict is left to the engine
    try:
        await kv.delete(key, revision)
    except RevisionConflictError:
        assert present is not None and revision is not None and present.revision != revision
    else:
        assert present is None or revision in (None, present.revision)
        model.present.pop(key, None)


class ModelContract(ContractBase):
    """Random operations by clients that take turns, with watches beside them."""

    # Deadlines would be timed assertions; the fixtures of a subclass need not be made anew for each example.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow
        ],
    )  # fmt: skip
    @given(space=st.sampled_from(("durable", "volatile")), steps=st.lists(operations, min_size=1, max_size=40))
    @contract
    async def test_any_operations_do_what_they_would_do_to_a_dictionary(
        self, space: str, steps: Sequence[tuple[str, int, str] | tuple[str, int, str, int]]
    ) -> None:
        async with self.open(CLIENTS) as engines:
            kvs = [of(engine, space) for engine in engines]
            model = Model()
            middle = len(steps) // 2
            async with kvs[0].watch() as whole:
                for number, (what, client, *rest) in enumerate(steps[:middle]):
                    await _do(kvs[client], model, f"value {number}".encode(), what, *rest)
                async with kvs[1].watch("a") as part:
                    for number, (what, client, *rest) in enumerate(steps[middle:], middle):
                        await _do(kvs[client], model, f"value {number}".encode(), what, *rest)
                    await kvs[0].put("a.end", b"the end")
                    for prefix, watch in (("", whole), ("a", part)):
                        seen = await until_seen(watch, "a.end", b"the end")
                        assert_in_order(seen)
                        there = {key: entry.value for key, entry in model.present.items() if is_below(key, prefix)}
                        assert latest(seen) == {**there, "a.end": b"the end"}
