"""Outcome files and how they are merged: no order, no repetition and no guess changes what is known of a row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashcast import latency
from flashcast.audience.manifest import Counts, FileFacts, Manifest, Options, ShardFacts
from flashcast.audience.places import LocalPlace, Place, StorePlace, place
from flashcast.deliver.journal import Journal, RowArrays
from flashcast.errors import InputError, SnapshotError
from flashcast.model import Provider, UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.report.facts import TakeOver, WorkerFacts, sparse
from flashcast.report.ledger import NO_REPLY
from flashcast.report.settled import (
    MergedRows,
    Part,
    file_name,
    merge,
    read_all,
    read_settled,
    write_facts,
    write_settled,
)

ACCEPTED = (Outcome.ACCEPTED, Reason.NONE)
REJECTED = (Outcome.REJECTED, Reason.UNREGISTERED)
SILENT = (Outcome.UNKNOWN, Reason.SILENCE)
LOST = (Outcome.UNKNOWN, Reason.WORKER_LOST)
FAILED = (Outcome.FAILED, Reason.TOO_MANY_REQUESTS)
EXPIRED = (Outcome.EXPIRED, Reason.WINDOW_CLOSED)
STOPPED = (Outcome.UNSENT, Reason.STOPPED)
UNSENT = (Outcome.UNSENT, Reason.NONE)
IN_ORDER = (ACCEPTED, REJECTED, SILENT, FAILED, EXPIRED, STOPPED, LOST, UNSENT)
"""From what is known best to what is not known at all."""
SHARD_ROWS = 4


def manifest(shards: int = 3, rows: int = SHARD_ROWS) -> Manifest:
    """A snapshot of APNs shards; nothing of it is on any disk."""
    one = ShardFacts(file="apns.shard", rows=rows, bytes=1, sha256="0" * 64, provider=Provider.APNS, base=0)
    facts = tuple(one.model_copy(update={"file": f"apns-{i:05d}.shard", "base": i * rows}) for i in range(shards))
    return Manifest(
        name="n", window_s=60, unknown_policy=UnknownPolicy.DROP, pace={}, fields=(), templates={}, options=Options(),
        counts=Counts(read=1, kept={}, dropped={}), shards=facts,
        dropped=FileFacts(file="dropped.parquet", rows=0, bytes=0, sha256="0" * 64),
    ).sealed()  # fmt: skip


def part(base: int, ends: Sequence[tuple[Outcome, Reason]], *, owned: bool = True, reply_ms: int = 7) -> Part:
    """What a source says of the rows from ``base`` on."""
    rows = len(ends)
    return Part(
        base,
        rows,
        np.array([outcome for outcome, _ in ends], np.uint8),
        np.array([reason.code for _, reason in ends], np.uint8),
        np.ones(rows, np.uint8),
        np.full(rows, reply_ms, np.uint32),
        owned,
    )


def ends(merged: MergedRows) -> list[tuple[Outcome, Reason]]:
    pairs = zip(merged.outcome.tolist(), merged.reason.tolist(), strict=True)
    return [(Outcome(outcome), Reason.from_code(reason)) for outcome, reason in pairs]


def arrays(merged: MergedRows) -> list[list[int]]:
    return [getattr(merged, name).tolist() for name in ("outcome", "reason", "attempts", "reply_ms")]


def snapshot_rows(of: Manifest) -> RowArrays:
    """Rows that are all different."""
    total = sum(facts.rows for facts in of.shards)
    numbers = np.arange(total)
    return RowArrays(
        (numbers % 6).astype(np.uint8), (numbers % 5).astype(np.uint8), (numbers % 3).astype(np.uint8),
        (numbers * 11).astype(np.uint32),
    )  # fmt: skip


def put(there: Place, of: Manifest, rows: RowArrays, shard: int, *, epoch: int = 1, launch: str = "l-1",
        worker: str = "w-1", snapshot: str | None = None, owned: bool = True) -> str:  # fmt: skip
    return write_settled(
        there, rows, launch=launch, snapshot=snapshot or of.digest, shard=shard, facts=of.shards[shard], epoch=epoch,
        worker=worker, owned=owned,
    )  # fmt: skip


@pytest.fixture(params=["disk", "store"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for outcomes, of either kind."""
    if request.param == "disk":
        return place(tmp_path / "snap").beside(".outcomes").child("l-1")
    pytest.importorskip("obstore", reason="obstore is an extra: flashcast[objectstore]")
    from obstore.store import MemoryStore

    return StorePlace(MemoryStore(), "memory://", "snap.outcomes/l-1")


# --- merging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("better", "worse"), list(itertools.combinations(IN_ORDER, 2)))
def test_what_is_known_better_counts(better: tuple[Outcome, Reason], worse: tuple[Outcome, Reason]) -> None:
    one, other = part(0, [better]), part(0, [worse])
    for order in ([one, other], [other, one]):
        assert ends(merge(manifest(1, 1), order)) == [better]


def test_the_word_of_a_worker_replaces_the_guess_that_it_is_lost() -> None:
    guesses = part(0, [LOST] * 4)
    word = part(0, [ACCEPTED, SILENT, STOPPED, UNSENT], owned=False)
    assert ends(merge(manifest(1), [guesses, word])) == [ACCEPTED, SILENT, STOPPED, LOST]


def test_a_row_that_a_journal_shows_in_flight_is_unknown() -> None:
    merged = merge(manifest(1, 1), [part(0, [(Outcome.IN_FLIGHT, Reason.NONE)]), part(0, [UNSENT])])
    assert ends(merged) == [(Outcome.UNKNOWN, Reason.PROCESS_DIED)]


def test_of_two_replies_the_first_one_counts() -> None:
    merged = merge(manifest(1, 1), [part(0, [ACCEPTED], reply_ms=900), part(0, [ACCEPTED], reply_ms=30)])
    assert merged.reply_ms.tolist() == [30]


def test_bytes_that_mean_nothing_stay_to_be_seen_unless_something_is_known() -> None:
    strange = Part(0, 2, np.array([77, 77], np.uint8), *(np.zeros(2, np.uint8),) * 2, np.zeros(2, np.uint32))
    merged = merge(manifest(1, 2), [strange, part(0, [UNSENT, ACCEPTED])])
    assert merged.outcome.tolist() == [77, Outcome.ACCEPTED]


def test_rows_of_a_shard_without_any_source_are_unsent_and_it_is_told() -> None:
    merged = merge(manifest(3), [part(SHARD_ROWS, [ACCEPTED] * SHARD_ROWS)])
    assert ends(merged) == [UNSENT] * 4 + [ACCEPTED] * 4 + [UNSENT] * 4
    assert merged.missing == (0, 2)
    assert merged.reply_ms.tolist() == [NO_REPLY] * 4 + [7] * 4 + [NO_REPLY] * 4


def test_a_shard_whose_owner_has_not_spoken_last_is_partial() -> None:
    merged = merge(manifest(2), [part(0, [ACCEPTED] * 4, owned=False), part(4, [ACCEPTED] * 4)])
    assert (merged.missing, merged.partial) == ((), (0,))


@pytest.mark.parametrize("base", [-1, 2, 12, 100])
def test_a_source_that_is_not_of_one_shard_is_a_mistake(base: int) -> None:
    with pytest.raises(ValueError, match="are not of one shard"):
        merge(manifest(3), [part(base, [ACCEPTED] * 4)])


an_end = st.one_of(
    st.sampled_from(IN_ORDER),
    st.tuples(st.sampled_from(list(Outcome)), st.sampled_from(list(Reason))),
)


@st.composite
def some_parts(draw: st.DrawFn) -> list[Part]:
    """Up to eight sources over three shards, with any bytes."""
    made = []
    for _ in range(draw(st.integers(0, 8))):
        rows = draw(st.lists(an_end, min_size=SHARD_ROWS, max_size=SHARD_ROWS))
        made.append(part(draw(st.integers(0, 2)) * SHARD_ROWS, rows, owned=draw(st.booleans())))
        numbers = st.lists(st.integers(0, 5) | st.just(NO_REPLY), min_size=SHARD_ROWS, max_size=SHARD_ROWS)
        made[-1] = made[-1]._replace(reply_ms=np.array(draw(numbers), np.uint32))
    return made


@given(some_parts(), st.randoms(use_true_random=False))
def test_the_order_of_the_sources_does_not_matter(parts: list[Part], rng: object) -> None:
    shuffled = list(parts)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = merge(manifest(), parts), merge(manifest(), shuffled)
    assert arrays(one) == arrays(other)
    assert (one.missing, one.partial) == (other.missing, other.partial)


@given(some_parts())
def test_reading_a_source_again_changes_nothing(parts: list[Part]) -> None:
    merged = merge(manifest(), parts)
    assert arrays(merge(manifest(), parts + parts)) == arrays(merged)
    whole = [
        Part(facts.base, facts.rows, *(getattr(merged, n)[facts.base : facts.base + facts.rows] for n in _NAMES))
        for facts in manifest().shards
    ]
    assert arrays(merge(manifest(), [*parts, *whole])) == arrays(merged)


_NAMES = ("outcome", "reason", "attempts", "reply_ms")


@given(some_parts(), some_parts())
def test_merging_in_two_steps_is_merging_at_once(some: list[Part], more: list[Part]) -> None:
    first = merge(manifest(), some)
    step = Part(0, SHARD_ROWS, *(getattr(first, n)[:SHARD_ROWS] for n in _NAMES))
    of_first_shard = [p for p in more if p.base == 0]
    at_once = merge(manifest(), [p for p in some if p.base == 0] + of_first_shard)
    assert arrays(merge(manifest(), [step, *of_first_shard])) == arrays(at_once)


@given(some_parts())
def test_no_answer_is_lost_and_none_is_invented(parts: list[Part]) -> None:
    merged = merge(manifest(), parts)
    for row, end in enumerate(zip(merged.outcome.tolist(), merged.reason.tolist(), strict=True)):
        of_row = [p for p in parts if p.base <= row < p.base + p.rows]
        known = [_settled((int(p.outcome[row - p.base]), int(p.reason[row - p.base]))) for p in of_row]
        assert end in [*known, (Outcome.UNSENT, 0)]
        for outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
            if any(pair[0] == outcome for pair in known):
                assert end[0] in (Outcome.ACCEPTED, outcome)
        if known and all(pair[0] != Outcome.UNSENT for pair in known):
            assert end[0] != Outcome.UNSENT


def _settled(pair: tuple[int, int]) -> tuple[int, int]:
    return (Outcome.UNKNOWN, Reason.PROCESS_DIED.code) if pair[0] == Outcome.IN_FLIGHT else pair


# --- files --------------------------------------------------------------------------------------------------


def test_what_was_settled_comes_back(there: Place) -> None:
    of = manifest()
    rows = snapshot_rows(of)
    names = [put(there, of, rows, shard) for shard in range(3)]
    assert names[1] == "shard-00001.e1.w-1.outcomes" == file_name(1, 1, "w-1")
    header, read = read_settled(there, names[1])
    assert (header.launch, header.snapshot, header.worker, header.epoch) == ("l-1", of.digest, "w-1", 1)
    assert (read.base, read.rows, read.owned) == (4, 4, True)
    found = read_all(there, of, "l-1")
    assert found.damaged == []
    merged = merge(of, found.parts)
    assert arrays(merged) == [getattr(rows, name).tolist() for name in _NAMES]
    assert (merged.missing, merged.partial) == ((), ())


def test_a_journal_is_settled_shard_by_shard(tmp_path: Path) -> None:
    of = manifest()
    journal = Journal.create(tmp_path / "journal.bin", 12, launch="l-1", snapshot=of.digest)
    for facts in of.shards:
        journal.hold(facts.base, facts.rows)
    journal.outcome[4:8] = Outcome.ACCEPTED
    there = place(tmp_path / "outcomes")
    write_settled(
        there, journal, launch="l-1", snapshot=of.digest, shard=1, facts=of.shards[1], epoch=3, worker="w", owned=True
    )
    assert read_settled(there, "shard-00001.e3.w.outcomes")[1].outcome.tolist() == [Outcome.ACCEPTED] * 4


def test_files_of_two_epochs_lie_side_by_side(there: Place) -> None:
    of = manifest(1)
    rows = snapshot_rows(of)
    put(there, of, rows, 0, epoch=1, worker="old", owned=False)
    put(there, of, rows, 0, epoch=2, worker="new")
    found = read_all(there, of, "l-1")
    assert len(found.parts) == 2
    assert merge(of, found.parts).partial == ()


@pytest.mark.parametrize("cut", [0, 3, 100, 4_096, 4_100, -1])
def test_a_file_that_is_cut_short_is_left_out_and_told(there: Place, cut: int) -> None:
    of = manifest()
    name = put(there, of, snapshot_rows(of), 1)
    put(there, of, snapshot_rows(of), 2)
    there.put(name, there.get(name)[:cut])
    found = read_all(there, of, "l-1")
    assert len(found.parts) == 1
    assert [name in told for told in found.damaged] == [True]
    assert merge(of, found.parts).missing == (0, 1)


@pytest.mark.parametrize("at", [0, 40, 4_100, 4_115, -1])
def test_a_flipped_byte_is_found(there: Place, at: int) -> None:
    of = manifest()
    name = put(there, of, snapshot_rows(of), 1)
    whole = bytearray(there.get(name))
    whole[at] ^= 1
    there.put(name, bytes(whole))
    with pytest.raises(SnapshotError, match=name):
        read_settled(there, name)


def test_files_of_another_launch_snapshot_or_shard_are_left_out_and_told(there: Place) -> None:
    of, larger = manifest(), manifest(5)
    put(there, of, snapshot_rows(of), 0, launch="l-2")
    put(there, of, snapshot_rows(of), 1, snapshot="f" * 64)
    put(there, larger, snapshot_rows(larger), 4, snapshot=of.digest)
    found = read_all(there, of, "l-1")
    assert found.parts == []
    assert sorted(told.rpartition(" is of ")[2] for told in found.damaged) == [
        "a shard that the snapshot does not have", "another launch or snapshot", "another launch or snapshot",
    ]  # fmt: skip


def test_files_that_are_none_of_ours_are_passed_over(there: Place) -> None:
    there.put("report.json", b"{}")
    there.put("shard-00000.outcomes", b"")
    found = read_all(there, manifest(), "l-1")
    assert (found.parts, found.facts, found.damaged) == ([], [], [])


def test_what_there_is_to_read_has_a_digest(there: Place) -> None:
    of = manifest()
    empty = read_all(there, of, "l-1").sources
    put(there, of, snapshot_rows(of), 0)
    one = read_all(there, of, "l-1").sources
    there.put("report.json", b"{}")
    assert read_all(there, of, "l-1").sources == one != empty


@pytest.mark.parametrize("worker", ["", "a.b", "../x", "a/b", "é"])
def test_a_worker_whose_name_is_no_word_writes_nothing(tmp_path: Path, worker: str) -> None:
    there = LocalPlace(tmp_path / "outcomes")
    with pytest.raises(InputError, match="a worker's name is made of"):
        put(there, manifest(), snapshot_rows(manifest()), 0, worker=worker)
    with pytest.raises(InputError, match="a worker's name is made of"):
        write_facts(there, WorkerFacts(launch="l-1", worker=worker))
    assert there.list() == []


# --- facts --------------------------------------------------------------------------------------------------


def test_a_workers_facts_come_back_and_the_last_word_counts(there: Place) -> None:
    histogram = latency.empty()
    histogram[latency.bucket_of(40_000)] = 90
    facts = WorkerFacts(
        launch="l-1", worker="w-1", host="berlin", sent=90, latency_us=sparse(histogram),
        rows={Provider.APNS: 90}, stopped={Provider.FCM: "SENDER_ID_MISMATCH"},
        take_overs=(TakeOver(shard=3, from_worker="w-2", epoch=2, at=1.5, inherited=True),),
    )  # fmt: skip
    write_facts(there, facts.model_copy(update={"sent": 1}))
    assert write_facts(there, facts) == "facts.w-1.json"
    (read,) = read_all(there, manifest(), "l-1").facts
    assert read == facts
    assert (read.histogram() == histogram).all()


def test_facts_that_cannot_be_read_or_are_of_another_launch_are_left_out_and_told(there: Place) -> None:
    write_facts(there, WorkerFacts(launch="l-2", worker="w-1"))
    there.put("facts.w-2.json", b"{")
    found = read_all(there, manifest(), "l-1")
    assert found.facts == []
    assert len(found.damaged) == 2


def test_facts_of_a_newer_version_are_understood_as_far_as_they_are_known(there: Place) -> None:
    told = b'{"launch": "l-1", "worker": "w-1", "sent": 3, "mood": "fine", "latency_us": [[9999, 2]]}'
    there.put("facts.w-1.json", told)
    (read,) = read_all(there, manifest(), "l-1").facts
    assert (read.sent, int(read.histogram().sum())) == (3, 2)
