"""What one journal takes over from another: a dead worker's word, and several workers' words together."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashcast.deliver.journal import NO_REPLY, Journal, JournalReader, combined, inherit
from flashcast.outcomes import Outcome, Reason

ROWS = 1_000
BASE, COUNT = 100, 50
"""The shard they share."""


def journal(tmp_path: Path, worker: str, base: int = BASE, count: int = COUNT, **facts: str) -> Journal:
    made = Journal.create(tmp_path / f"journal-{worker}.bin", ROWS, **{"launch": "l-1", "snapshot": "s", **facts})
    made.hold(base, count)
    return made


def write(
    into: Journal, row: int, outcome: Outcome, reason: Reason = Reason.NONE, attempts: int = 1, ms: int = 7
) -> None:
    at = BASE + row
    into.reason[at], into.attempts[at], into.reply_ms[at] = reason.code, attempts, ms
    into.outcome[at] = outcome


def row(rows: Journal, number: int) -> tuple[Outcome, Reason, int, int]:
    at = BASE + number
    return Outcome(rows.outcome[at]), Reason.from_code(rows.reason[at]), int(rows.attempts[at]), int(rows.reply_ms[at])


def test_what_the_dead_had_settled_is_copied_and_what_it_had_on_the_wire_is_unknown(tmp_path: Path) -> None:
    dead, heir = journal(tmp_path, "dead"), journal(tmp_path, "heir")
    write(dead, 0, Outcome.ACCEPTED)
    write(dead, 1, Outcome.REJECTED, Reason.UNREGISTERED, ms=9)
    write(dead, 2, Outcome.FAILED, Reason.TOO_MANY_REQUESTS, attempts=8)
    write(dead, 3, Outcome.IN_FLIGHT, ms=NO_REPLY)
    write(dead, 4, Outcome.UNSENT, Reason.TOO_MANY_REQUESTS, attempts=2, ms=NO_REPLY)
    unsent = inherit(heir, dead, BASE, COUNT)
    assert unsent is not None
    assert unsent.tolist() == [False] * 4 + [True] * 46
    assert row(heir, 0) == (Outcome.ACCEPTED, Reason.NONE, 1, 7)
    assert row(heir, 1) == (Outcome.REJECTED, Reason.UNREGISTERED, 1, 9)
    assert row(heir, 2) == (Outcome.FAILED, Reason.TOO_MANY_REQUESTS, 8, 7)
    assert row(heir, 3) == (Outcome.UNKNOWN, Reason.PROCESS_DIED, 1, NO_REPLY)
    assert row(heir, 4) == (Outcome.UNSENT, Reason.TOO_MANY_REQUESTS, 2, NO_REPLY)
    assert row(heir, 5) == (Outcome.UNSENT, Reason.NONE, 0, NO_REPLY)


def test_a_part_of_a_shard_can_be_taken_over_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    dead, heir = journal(tmp_path, "dead"), journal(tmp_path, "heir")
    dead.outcome[BASE : BASE + COUNT] = Outcome.ACCEPTED
    assert inherit(heir, dead, BASE + 10, 5) is not None
    assert heir.outcome[BASE : BASE + COUNT].tolist() == [0] * 10 + [1] * 5 + [0] * 35


def test_what_the_heir_knows_better_stays(tmp_path: Path) -> None:
    dead, heir = journal(tmp_path, "dead"), journal(tmp_path, "heir")
    write(heir, 0, Outcome.ACCEPTED)
    write(heir, 1, Outcome.UNKNOWN, Reason.CONNECTION_LOST)
    write(dead, 1, Outcome.UNKNOWN, Reason.WORKER_LOST)
    write(heir, 2, Outcome.UNSENT, Reason.STOPPED, attempts=0)
    write(dead, 2, Outcome.UNKNOWN, Reason.WORKER_LOST)
    inherit(heir, dead, BASE, COUNT)
    assert row(heir, 0)[:2] == (Outcome.ACCEPTED, Reason.NONE)
    assert row(heir, 1)[:2] == (Outcome.UNKNOWN, Reason.CONNECTION_LOST)
    assert row(heir, 2)[:2] == (Outcome.UNSENT, Reason.STOPPED)


def test_a_guess_about_the_dead_is_replaced_by_its_own_word(tmp_path: Path) -> None:
    dead, heir = journal(tmp_path, "dead"), journal(tmp_path, "heir")
    for number in range(3):
        write(heir, number, Outcome.UNKNOWN, Reason.WORKER_LOST, attempts=0, ms=NO_REPLY)
    write(dead, 0, Outcome.ACCEPTED)
    write(dead, 1, Outcome.IN_FLIGHT)
    unsent = inherit(heir, dead, BASE, COUNT)
    assert unsent is not None
    assert unsent[:4].tolist() == [False, False, True, True]
    assert row(heir, 0)[:2] == (Outcome.ACCEPTED, Reason.NONE)
    assert row(heir, 1)[:2] == (Outcome.UNKNOWN, Reason.PROCESS_DIED)
    assert row(heir, 2) == (Outcome.UNSENT, Reason.NONE, 0, NO_REPLY)


def test_that_the_dead_was_stopped_before_a_row_is_no_reason_any_more(tmp_path: Path) -> None:
    dead, heir = journal(tmp_path, "dead"), journal(tmp_path, "heir")
    write(dead, 0, Outcome.UNSENT, Reason.STOPPED, attempts=0, ms=NO_REPLY)
    unsent = inherit(heir, dead, BASE, COUNT)
    assert unsent is not None and unsent[0]
    assert row(heir, 0) == (Outcome.UNSENT, Reason.NONE, 0, NO_REPLY)


def test_a_journal_that_never_held_the_rows_says_nothing(tmp_path: Path) -> None:
    heir = journal(tmp_path, "heir")
    assert inherit(heir, journal(tmp_path, "elsewhere", 500, 50), BASE, COUNT) is None
    assert inherit(heir, journal(tmp_path, "half", BASE, COUNT - 1), BASE, COUNT) is None


@pytest.mark.parametrize("facts", [{"launch": "l-2"}, {"snapshot": "other"}])
def test_a_journal_of_something_else_says_nothing(tmp_path: Path, facts: dict[str, str]) -> None:
    assert inherit(journal(tmp_path, "heir"), journal(tmp_path, "dead", **facts), BASE, COUNT) is None


def test_rows_can_only_be_inherited_where_there_is_room_for_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not held by"):
        inherit(journal(tmp_path, "heir", 500), journal(tmp_path, "dead"), BASE, COUNT)


# --- several together ---------------------------------------------------------------------------------


def test_one_journal_that_holds_everything_is_taken_as_it_is(tmp_path: Path) -> None:
    journal(tmp_path, "all", 0, ROWS)
    reader = JournalReader.open(tmp_path / "journal-all.bin")
    assert combined([reader]).outcome is reader.outcome


def test_rows_that_nobody_held_are_unsent_and_without_a_reply(tmp_path: Path) -> None:
    held = journal(tmp_path, "one")
    held.outcome[BASE : BASE + COUNT] = Outcome.ACCEPTED
    held.reply_ms[BASE : BASE + COUNT] = 3
    known = combined([held])
    assert known.outcome.size == ROWS
    assert int(known.outcome.sum()) == COUNT
    assert int((known.reply_ms == NO_REPLY).sum()) == ROWS - COUNT


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_a_row_that_several_held_the_surest_word_counts(tmp_path: Path, order: tuple[int, int]) -> None:
    words = [
        ((Outcome.ACCEPTED, Reason.NONE), (Outcome.UNKNOWN, Reason.WORKER_LOST)),
        ((Outcome.ACCEPTED, Reason.NONE), (Outcome.UNSENT, Reason.NONE)),
        ((Outcome.UNKNOWN, Reason.PROCESS_DIED), (Outcome.EXPIRED, Reason.WINDOW_CLOSED)),
        ((Outcome.IN_FLIGHT, Reason.NONE), (Outcome.UNSENT, Reason.STOPPED)),
        ((Outcome.UNSENT, Reason.STOPPED), (Outcome.UNKNOWN, Reason.WORKER_LOST)),
        ((Outcome.EXPIRED, Reason.WINDOW_CLOSED), (Outcome.UNSENT, Reason.NONE)),
        ((Outcome.UNKNOWN, Reason.WORKER_LOST), (Outcome.UNSENT, Reason.NONE)),
    ]
    both = journal(tmp_path, "a"), journal(tmp_path, "b")
    for number, (surer, other) in enumerate(words):
        write(both[0], number, *surer)
        write(both[1], number, *other)
    known = combined([both[which] for which in order])
    for number, (surer, _) in enumerate(words):
        at = BASE + number
        assert (Outcome(known.outcome[at]), Reason.from_code(known.reason[at])) == surer
