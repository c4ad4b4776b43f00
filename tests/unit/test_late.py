"""What a dead worker's journal may still say of a launch that was closed without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_settled import ends, manifest

from flashcast.audience.places import LocalPlace
from flashcast.campaign.lifecycle import State
from flashcast.campaign.records import LaunchRecord, Stage
from flashcast.deliver import boot
from flashcast.deliver.journal import Journal
from flashcast.model import UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.report.settled import file_name, merge, read_all, write_settled
from flashcast.worker.late import Chunks, tell_journal

ROWS = 6
SNAPSHOT = manifest(shards=2, rows=ROWS)
ACCEPTED = (Outcome.ACCEPTED, Reason.NONE)
DIED = (Outcome.UNKNOWN, Reason.PROCESS_DIED)
STOPPED = (Outcome.UNSENT, Reason.STOPPED)
LOST = (Outcome.UNKNOWN, Reason.WORKER_LOST)
ABORTED = (Outcome.UNSENT, Reason.ABORTED)
NOTHING = (Outcome.UNSENT, Reason.NONE)
BUSY = (Outcome.UNSENT, Reason.TOO_MANY_REQUESTS)
ON_THE_WIRE = (Outcome.IN_FLIGHT, Reason.NONE)


@pytest.fixture(autouse=True)
def booted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that tells one start from another, whatever this one does."""
    monkeypatch.setattr(boot, "boot_id", lambda: "today")


def record(
    policy: UnknownPolicy = UnknownPolicy.DROP, stages: tuple[Stage, ...] = (), state: State = State.DONE
) -> LaunchRecord:
    return LaunchRecord(
        launch="l-1", campaign="l", state=state, created_at=0.0, chunk_rows=2, unknown_policy=policy, stages=stages
    )


def journal(folder: Path, *rows: tuple[Outcome, Reason], since: str = "today", snapshot: str = "") -> Path:
    """The journal of worker w1, which held the second shard, as it was when its process died."""
    made = Journal.create(
        folder / "journal-w1.bin", 2 * ROWS, launch="l-1", snapshot=snapshot or SNAPSHOT.digest, worker="w1", boot=since
    )
    made.hold(ROWS, ROWS)
    for number, (outcome, reason) in enumerate(rows):
        made.outcome[ROWS + number], made.reason[ROWS + number] = outcome, reason.code
    made.close()
    return made.path


def told(
    folder: Path, claims: dict[str, Chunks], policy: UnknownPolicy = UnknownPolicy.DROP, state: State = State.DONE
) -> list[tuple[Outcome, Reason]]:
    """What is known of the shard's rows once the journal has been read; nothing else is known of them."""
    place = LocalPlace(folder / "outcomes")
    written = tell_journal(folder / "journal-w1.bin", record(policy, state=state), SNAPSHOT, claims, place)
    assert written == [file_name(1, 3, "w1")]
    found = read_all(place, SNAPSHOT, "l-1")
    assert found.damaged == []
    assert [part.owned for part in found.parts] == [False]
    return ends(merge(SNAPSHOT, found.parts))[ROWS:]


ALL = {"w1": {1: {0: 3, 1: 3, 2: 3}}}
FIRST = {"w1": {1: {0: 3, 1: 1}}, "w2": {1: {2: 4}}}
"""The third chunk of two rows is another's."""


def test_answers_count_what_was_on_the_wire_is_unknown_and_what_was_not_sent_is_unsent(tmp_path: Path) -> None:
    path = journal(tmp_path, ACCEPTED, ON_THE_WIRE, NOTHING, BUSY, ACCEPTED, NOTHING)
    assert told(tmp_path, ALL) == [ACCEPTED, DIED, STOPPED, BUSY, ACCEPTED, STOPPED]
    assert not path.exists(), "all of it is told"


def test_in_a_launch_that_was_called_off_that_is_why_rows_were_not_sent(tmp_path: Path) -> None:
    journal(tmp_path, ACCEPTED, ON_THE_WIRE, NOTHING, BUSY, ACCEPTED, NOTHING)
    assert told(tmp_path, ALL, state=State.ABORTED) == [ACCEPTED, DIED, ABORTED, BUSY, ACCEPTED, ABORTED]


def test_of_chunks_that_are_anothers_by_now_only_what_was_accepted_counts(tmp_path: Path) -> None:
    journal(tmp_path, NOTHING, NOTHING, NOTHING, NOTHING, ACCEPTED, BUSY)
    assert told(tmp_path, FIRST) == [STOPPED, STOPPED, STOPPED, STOPPED, ACCEPTED, NOTHING]


@pytest.mark.parametrize("since", ["yesterday", ""])
def test_after_a_new_start_of_the_machine_nothing_is_called_unsent(tmp_path: Path, since: str) -> None:
    journal(tmp_path, ACCEPTED, ON_THE_WIRE, NOTHING, BUSY, ACCEPTED, NOTHING, since=since)
    assert told(tmp_path, ALL) == [ACCEPTED, DIED, LOST, LOST, ACCEPTED, LOST]


def test_under_resend_others_may_have_sent_what_was_not_sent_here(tmp_path: Path) -> None:
    journal(tmp_path, ACCEPTED, ON_THE_WIRE, NOTHING, NOTHING, NOTHING, NOTHING)
    assert told(tmp_path, ALL, UnknownPolicy.RESEND) == [ACCEPTED, DIED, LOST, LOST, LOST, LOST]


def test_a_worker_that_lives_has_its_own_last_word(tmp_path: Path) -> None:
    path = journal(tmp_path, ACCEPTED)
    with_it = Journal.reopen(path)
    place = LocalPlace(tmp_path / "outcomes")
    assert tell_journal(path, record(), SNAPSHOT, ALL, place) == []
    assert path.exists() and place.list() == []
    with_it.close()
    assert tell_journal(path, record(), SNAPSHOT, ALL, place) == [file_name(1, 3, "w1")]


def test_what_the_worker_had_written_itself_stands(tmp_path: Path) -> None:
    path = journal(tmp_path, *[ACCEPTED] * ROWS)
    place = LocalPlace(tmp_path / "outcomes")
    own = Journal.reopen(path)
    write_settled(
        place, own, launch="l-1", snapshot=SNAPSHOT.digest, shard=1, facts=SNAPSHOT.shards[1], epoch=3, worker="w1",
        owned=True,
    )  # fmt: skip
    own.close()
    assert tell_journal(path, record(), SNAPSHOT, ALL, place) == []
    assert [part.owned for part in read_all(place, SNAPSHOT, "l-1").parts] == [True]
    assert not path.exists()


def test_a_journal_of_another_snapshot_is_left_alone(tmp_path: Path) -> None:
    path = journal(tmp_path, ACCEPTED, snapshot="e" * 64)
    assert tell_journal(path, record(), SNAPSHOT, ALL, LocalPlace(tmp_path / "outcomes")) == []
    assert path.exists()


def test_a_journal_of_a_worker_that_claimed_nothing_has_nothing_to_tell(tmp_path: Path) -> None:
    path = journal(tmp_path, NOTHING)
    assert tell_journal(path, record(), SNAPSHOT, {"w2": {1: {0: 1}}}, LocalPlace(tmp_path / "outcomes")) == []
    assert not path.exists()


def test_only_a_start_that_has_a_name_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [boot.same_boot(noted) for noted in ("today", "yesterday", "", None)] == [True, False, False, False]
    monkeypatch.setattr(boot, "boot_id", lambda: "")
    assert not boot.same_boot(""), "a system that gives no name"
