"""The engine contract, without watches: who wins, who is told what, and what is where."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from flashcast.engine.base import (
    KEY_CHARS_MAX,
    VALUE_BYTES_MAX,
    EngineUnavailable,
    KeyExistsError,
    KeyValue,
    RevisionConflictError,
)
from flashcast.errors import FlashcastError, InputError
from flashcast.testing.contract_base import ContractBase, contract, of, on_both_spaces, told

CLIENTS = 4
RACED_KEYS = 40
BAD_KEYS = ("", ".", "a.", ".a", "a..b", "a b", "a*", "a>", "a/b", "ä", "a\n", "a" * (KEY_CHARS_MAX + 1))


async def _try_create(kv: KeyValue, key: str, value: bytes) -> int | KeyExistsError:
    try:
        return await kv.create(key, value)
    except KeyExistsError as error:
        return error


async def _try_update(kv: KeyValue, key: str, value: bytes, revision: int) -> int | RevisionConflictError:
    try:
        return await kv.update(key, value, revision)
    except RevisionConflictError as error:
        return error


async def _add(kv: KeyValue, key: str, word: str) -> None:
    """Adds a word to a list in a key by compare-and-swap, once, also where an attempt got no answer."""
    while True:
        entry = await kv.get(key)
        assert entry is not None and entry.value is not None
        words = json.loads(entry.value)
        if word in words:
            return
        if isinstance(await _try_update(kv, key, json.dumps([*words, word]).encode(), entry.revision), int):
            return


class WriteContract(ContractBase):
    """Creating, updating, deleting and reading."""

    # --- who wins ------------------------------------------------------------------------------------------

    @on_both_spaces
    @contract
    async def test_of_concurrent_creates_exactly_one_wins_each_key(self, space: str) -> None:
        async with self.open(CLIENTS) as engines:
            keys = [f"raced.{number}" for number in range(RACED_KEYS)]
            kvs = {f"client-{number}".encode(): of(engine, space) for number, engine in enumerate(engines)}
            attempts = [(key, name) for key in keys for name in kvs]
            results = await asyncio.gather(*(_try_create(kvs[name], key, name) for key, name in attempts))
            winners: dict[str, list[tuple[bytes, int]]] = {key: [] for key in keys}
            for (key, name), result in zip(attempts, results, strict=True):
                if isinstance(result, int):
                    winners[key].append((name, result))
            assert [len(winners[key]) for key in keys] == [1] * len(keys)
            for (key, _), result in zip(attempts, results, strict=True):
                if isinstance(result, KeyExistsError):
                    # Nobody deletes here, so what was there is known.
                    assert result.key == key and result.entry is not None
                    assert (result.entry.value, result.entry.revision) == winners[key][0]
            for kv in kvs.values():
                there = {entry.key: (entry.value, entry.revision) for entry in await kv.entries("raced")}
                assert there == {key: winners[key][0] for key in keys}

    @on_both_spaces
    @contract
    async def test_of_concurrent_updates_of_one_revision_exactly_one_wins(self, space: str) -> None:
        async with self.open(CLIENTS) as engines:
            kvs = [of(engine, space) for engine in engines]
            revision = await kvs[0].create("contended", b"first")
            for turn in range(10):
                values = [f"turn-{turn}-client-{number}".encode() for number in range(CLIENTS)]
                results = await asyncio.gather(
                    *(_try_update(kv, "contended", value, revision) for kv, value in zip(kvs, values, strict=True))
                )
                won = [
                    (value, result) for value, result in zip(values, results, strict=True) if isinstance(result, int)
                ]
                assert len(won) == 1
                entry = await kvs[turn % CLIENTS].get("contended")
                assert entry is not None and (entry.value, entry.revision) == won[0]
                assert entry.revision > revision
                revision = entry.revision

    @on_both_spaces
    @contract
    async def test_no_update_by_compare_and_swap_is_lost(self, space: str) -> None:
        async with self.open(CLIENTS) as engines:
            await of(engines[0], space).create("words", b"[]")
            words = {f"{client}-{number}": client for client in range(CLIENTS) for number in range(5)}
            await asyncio.gather(*(_add(of(engines[client], space), "words", word) for word, client in words.items()))
            entry = await of(engines[-1], space).get("words")
            assert entry is not None and entry.value is not None
            assert sorted(json.loads(entry.value)) == sorted(words)

    @on_both_spaces
    @contract
    async def test_what_one_client_wrote_stands_in_the_way_of_another(self, space: str) -> None:
        async with self.open(2) as (one, two):
            revision = await of(one, space).create("go", b"pressed")
            exists = await told(of(two, space).create("go", b"pressed as well"), KeyExistsError)
            assert isinstance(exists, KeyExistsError) and exists.entry is not None
            assert (exists.entry.key, exists.entry.value, exists.entry.revision) == ("go", b"pressed", revision)
            again = await of(two, space).update("go", b"swapped", revision)
            conflict = await told(of(one, space).update("go", b"too late", revision), RevisionConflictError)
            assert isinstance(conflict, RevisionConflictError)
            assert (conflict.key, conflict.revision) == ("go", revision)
            entry = await of(one, space).get("go")
            assert entry is not None and (entry.value, entry.revision) == (b"swapped", again)

    # --- one client's writes -------------------------------------------------------------------------------

    @on_both_spaces
    @contract
    async def test_a_deleted_key_can_be_created_again(self, space: str) -> None:
        async with self.open() as (engine,):
            kv = of(engine, space)
            first = await kv.create("phoenix", b"one")
            await kv.delete("phoenix")
            assert await kv.get("phoenix") is None
            second = await kv.create("phoenix", b"two")
            assert second > first
            entry = await kv.get("phoenix")
            assert entry is not None and (entry.value, entry.revision) == (b"two", second)
            exists = await told(kv.create("phoenix", b"three"), KeyExistsError)
            assert isinstance(exists, KeyExistsError) and exists.entry == entry

    @contract
    async def test_what_is_absent_cannot_be_updated(self) -> None:
        async with self.open() as (engine,):
            kv = engine.durable
            await told(kv.update("never", b"", 1), RevisionConflictError)
            revision = await kv.create("gone", b"")
            await kv.delete("gone")
            await told(kv.update("gone", b"", revision), RevisionConflictError)
            assert await kv.entries() == []

    @contract
    async def test_put_writes_whatever_was_there(self) -> None:
        async with self.open() as (engine,):
            kv = engine.volatile
            revisions = [await kv.put("beat", b"1"), await kv.put("beat", b"2")]
            await kv.delete("beat")
            revisions.append(await kv.put("beat", b"3"))
            assert revisions == sorted(set(revisions))
            entry = await kv.get("beat")
            assert entry is not None and (entry.value, entry.revision) == (b"3", revisions[-1])

    @on_both_spaces
    @contract
    async def test_a_deletion_may_ask_for_the_revision(self, space: str) -> None:
        async with self.open() as (engine,):
            kv = of(engine, space)
            old = await kv.create("held", b"old")
            new = await kv.update("held", b"new", old)
            conflict = await told(kv.delete("held", old), RevisionConflictError)
            assert isinstance(conflict, RevisionConflictError)
            assert (conflict.key, conflict.revision) == ("held", old)
            entry = await kv.get("held")
            assert entry is not None and entry.value == b"new"
            await kv.delete("held", new)
            assert await kv.get("held") is None

    @contract
    async def test_to_delete_what_is_absent_is_no_error(self) -> None:
        async with self.open() as (engine,):
            await engine.durable.delete("never")
            await engine.durable.create("once", b"")
            await engine.durable.delete("once")
            await engine.durable.delete("once")
            assert await engine.durable.get("once") is None

    @on_both_spaces
    @contract
    async def test_revisions_grow_over_all_keys_and_clients(self, space: str) -> None:
        async with self.open(3) as engines:
            kvs = itertools.cycle(of(engine, space) for engine in engines)
            revisions: list[int] = []
            for number in range(8):
                revisions.append(await next(kvs).create(f"key.{number}", b"created"))
                revisions.append(await next(kvs).put("common", str(number).encode()))
                revisions.append(await next(kvs).update(f"key.{number}", b"updated", revisions[-2]))
                await next(kvs).delete(f"key.{number}")
            assert revisions == sorted(set(revisions))
            assert revisions[0] > 0

    # --- reading -------------------------------------------------------------------------------------------

    @contract
    async def test_what_is_absent_is_none(self) -> None:
        async with self.open() as (engine,):
            assert await engine.durable.get("never") is None
            assert await engine.durable.entries() == []
            assert await engine.volatile.entries("never") == []

    @on_both_spaces
    @contract
    async def test_a_prefix_is_a_whole_number_of_words(self, space: str) -> None:
        async with self.open() as (engine,):
            kv = of(engine, space)
            keys = ["a", "a.b", "a.b.c", "a.b.d", "a.b-c", "a.b0", "a.bc", "a-b", "aa", "a_b.c", "A.b", "b.a"]
            for key in keys:
                await kv.create(key, key.encode())
            await kv.create("a.b.gone", b"")
            await kv.delete("a.b.gone")

            async def found(prefix: str) -> list[str]:
                entries = await kv.entries(prefix)
                assert [entry.value for entry in entries] == [entry.key.encode() for entry in entries]
                return [entry.key for entry in entries]

            assert await found("") == sorted(keys)
            assert await found("a.b") == ["a.b", "a.b.c", "a.b.d"]
            assert await found("a.b.c") == ["a.b.c"]
            assert await found("a") == sorted(key for key in keys if key == "a" or key.startswith("a."))
            assert await found("c") == []

    @contract
    async def test_the_two_spaces_are_separate(self) -> None:
        async with self.open() as (engine,):
            await engine.durable.create("key", b"durable")
            await engine.volatile.create("key", b"volatile")
            await engine.durable.delete("key")
            entry = await engine.volatile.get("key")
            assert entry is not None and entry.value == b"volatile"

    # --- bounds --------------------------------------------------------------------------------------------

    @on_both_spaces
    @contract
    async def test_values_may_be_any_bytes(self, space: str) -> None:
        async with self.open() as (engine,):
            kv = of(engine, space)
            values = {
                "empty": b"",
                "zero": b"\0",
                "all": bytes(range(256)),
                "text": "héllo \N{ROCKET}".encode(),
                "lines": b"a\r\nb\n",
            }
            for key, value in values.items():
                await kv.create(key, value)
            assert {entry.key: entry.value for entry in await kv.entries()} == values
            for key, value in values.items():
                entry = await kv.get(key)
                assert entry is not None and entry.value == value

    @on_both_spaces
    @contract
    async def test_a_value_of_the_greatest_size_is_kept_and_a_greater_one_refused(self, space: str) -> None:
        async with self.open(2) as (one, two):
            value = (bytes(range(256)) * (VALUE_BYTES_MAX // 256 + 1))[:VALUE_BYTES_MAX]
            revision = await of(one, space).create("large", value)
            entry = await of(two, space).get("large")
            assert entry is not None and entry.value == value
            await of(one, space).update("large", value[::-1], revision)
            for attempt in (
                of(one, space).create("larger", value + b"!"),
                of(one, space).update("large", value + b"!", revision),
                of(one, space).put("large", value + b"!"),
            ):
                assert "large" in str(await told(attempt, InputError))
            entries = await of(two, space).entries()
            assert [(entry.key, entry.value) for entry in entries] == [("large", value[::-1])]

    @contract
    async def test_a_key_of_the_greatest_length_is_a_key(self) -> None:
        async with self.open() as (engine,):
            key = ("word_-9." * KEY_CHARS_MAX)[: KEY_CHARS_MAX - 1] + "Z"
            await engine.durable.create(key, b"here")
            assert [entry.key for entry in await engine.durable.entries("word_-9")] == [key]

    @pytest.mark.parametrize("key", BAD_KEYS)
    @contract
    async def test_what_is_no_key_is_refused(self, key: str) -> None:
        async with self.open() as (engine,):
            kv = engine.durable
            attempts = (kv.get(key), kv.create(key, b""), kv.update(key, b"", 1), kv.put(key, b""), kv.delete(key))
            for attempt in attempts:
                assert repr(key) in str(await told(attempt, InputError))
            if key:
                await told(kv.entries(key), InputError)

    # --- many at once, and endings -------------------------------------------------------------------------

    @on_both_spaces
    @contract
    async def test_hundreds_of_creates_can_be_under_way_at_once(self, space: str) -> None:
        async with self.open(2) as (one, two):
            keys = [f"claims.launch.{number}" for number in range(500)]
            revisions = await asyncio.gather(*(of(one, space).create(key, key.encode()) for key in keys))
            assert len(set(revisions)) == len(keys)
            there = {entry.key: (entry.value, entry.revision) for entry in await of(two, space).entries("claims")}
            assert there == {key: (key.encode(), revision) for key, revision in zip(keys, revisions, strict=True)}

    @contract
    async def test_of_a_group_each_write_fails_by_itself(self) -> None:
        async with self.open() as (engine,):
            kv = engine.durable
            stale = await kv.create("b", b"")
            await kv.put("b", b"")
            results = await asyncio.gather(
                kv.create("a", b"new"),
                kv.create("b", b"taken"),
                kv.update("b", b"stale", stale),
                kv.put("c", b"new"),
                kv.update("never", b"", stale),
                kv.create("d", b"new"),
                return_exceptions=True,
            )
            kinds = [type(result) for result in results]
            assert kinds == [int, KeyExistsError, RevisionConflictError, int, RevisionConflictError, int]
            there = {entry.key: entry.value for entry in await kv.entries()}
            assert there == {"a": b"new", "b": b"", "c": b"new", "d": b"new"}

    @contract
    async def test_a_caller_that_gives_up_disturbs_nobody(self) -> None:
        async with self.open() as (engine,):
            kv = engine.durable
            calls = [asyncio.ensure_future(kv.create(f"key.{number}", b"")) for number in range(50)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, int) for result in results[1::2])
            there = {entry.key for entry in await kv.entries("key")}
            assert {f"key.{number}" for number in range(1, 50, 2)} <= there

    @contract
    async def test_a_closed_engine_says_so_and_leaves_the_others_open(self) -> None:
        async with self.open(2) as (one, two):
            await one.durable.create("key", b"kept")
            await one.close()
            await one.close()
            await told(one.durable.get("key"), EngineUnavailable)
            await told(one.volatile.put("key", b""), EngineUnavailable)
            entry = await two.durable.get("key")
            assert entry is not None and entry.value == b"kept"

    @contract
    async def test_calls_under_way_are_answered_when_the_engine_closes(self) -> None:
        async with self.open(2) as (one, two):
            calls = [asyncio.ensure_future(one.durable.create(f"key.{number}", b"")) for number in range(20)]
            await asyncio.sleep(0)
            await one.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, int | EngineUnavailable) for result in results)
            there = {entry.key for entry in await two.durable.entries("key")}
            assert {f"key.{number}" for number, result in enumerate(results) if isinstance(result, int)} <= there

    @contract
    async def test_an_engine_tells_where_it_is_and_what_it_lacks(self) -> None:
        async with self.open() as (engine,):
            assert engine.address
            assert all(isinstance(warning, str) and warning for warning in engine.warnings)
            assert isinstance(await told(engine.durable.update("x", b"", 1), FlashcastError), RevisionConflictError)
