"""The checker itself: good evidence passes, and each way in which a run can be wrong is found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from flashcast.outcomes import Outcome, Reason
from flashcast.testing.checker import judge
from flashcast.testing.evidence import Evidence, LaunchFacts, ShardFacts, Span, WorkerHistory, Write
from flashcast.testing.simulated_provider import Receipt
from flashcast.testing.virtual_time import EPOCH_S, START_NS

TOKENS = ["a", "b", "c", "d"]
URL = "/snapshot"
SECOND = 1_000_000_000


def at(seconds: float) -> int:
    return START_NS + int(seconds * SECOND)


class Story:
    """A launch of one shard of four rows by one worker, in which all went well; a test changes what it is about."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.trail: list[dict[str, str]] = []
        self.record: dict[str, Any] = {
            "state": "draft", "window_s": 10.0, "chunk_rows": 2, "unknown_policy": "drop", "snapshot": {"url": URL},
        }  # fmt: skip
        self.receipts = {token: [self.receipt(1.1)] for token in TOKENS}
        self.outcome = [Outcome.ACCEPTED] * 4
        self.reason = [Reason.NONE] * 4
        self.workers = {"w1": WorkerHistory(), "w2": WorkerHistory()}
        self.winners = ["anna"]
        self.calm = False
        self.write(0.0, "launches.m-1", dict(self.record))

    def receipt(self, sent_s: float, verdict: str = "accepted", worker: str = "w1", **more: bool) -> Receipt:
        marks = {"final": True, "taken": verdict == "accepted", **more}
        return Receipt(worker, at(sent_s), at(sent_s + 0.01), verdict, **marks)

    def write(self, seconds: float, key: str, value: dict[str, Any] | None) -> None:
        self.writes.append(Write(at(seconds), key, value, len(self.writes) + 1))

    def turn(self, seconds: float, what: str, state: str, **changes: Any) -> None:
        self.trail = [*self.trail, {"what": what, "before": self.record["state"], "after": state, "by": "anna"}]
        self.record = {**self.record, **changes, "state": state, "trail": self.trail}
        self.write(seconds, "launches.m-1", self.record)

    def shard(self, seconds: float, owner: str | None, epoch: int, **more: bool) -> None:
        self.write(seconds, "shards.m-1.0", {"owner": owner, "epoch": epoch, **more})

    def claim(self, seconds: float, chunk: int, worker: str = "w1", epoch: int = 1) -> None:
        self.write(seconds, f"claims.m-1.0.{chunk}", {"worker": worker, "epoch": epoch})

    def until_live(self) -> Story:
        self.turn(0.1, "seal", "sealed")
        self.turn(0.2, "arm", "arming")
        self.shard(0.3, "w1", 1)
        self.turn(0.4, "ready", "armed")
        self.turn(1.0, "go", "live", go={"by": "anna", "at": EPOCH_S + 1.0})
        return self

    def until_done(self) -> Story:
        self.until_live()
        self.claim(1.05, 0)
        self.claim(1.05, 1)
        self.shard(2.0, "w1", 1, settled=True)
        self.turn(2.1, "close", "done", closed_at=EPOCH_S + 2.1)
        return self

    def file(self, worker: str = "w1", epoch: int = 1) -> bytes:
        header = {"launch": "m-1", "shard": 0, "epoch": epoch, "worker": worker}
        body = (b"FLASHSTL1\n" + json.dumps(header).encode()).ljust(4_096) + bytes(16)
        body += bytes(self.outcome) + bytes(reason.code for reason in self.reason) + bytes(4)
        return body + hashlib.sha256(body).digest()

    def violations(self, files: dict[str, bytes] | None = None, written_s: float = 1.9) -> list[str]:
        files = files if files is not None else {"shard-00000.e1.w1.outcomes": self.file()}
        facts = LaunchFacts(
            "m-1", {URL: [ShardFacts("apns", TOKENS)]}, {URL: files}, {URL: {name: at(written_s) for name in files}}
        )
        evidence = Evidence(
            launches=[facts], writes=self.writes, receipts={"apns": self.receipts, "fcm": {}}, workers=self.workers,
            malformed=[], faults=[], winners={"m-1": self.winners}, calm=self.calm,
        )  # fmt: skip
        return judge(evidence).violations


def test_a_good_run_passes() -> None:
    assert Story().until_done().violations() == []


def test_a_row_that_is_sent_again_after_a_final_verdict() -> None:
    story = Story().until_done()
    story.receipts["b"].append(story.receipt(1.3))
    assert any("was sent again after accepted" in found for found in story.violations())


def test_a_row_may_be_sent_again_after_a_refusal_for_now() -> None:
    story = Story().until_done()
    story.receipts["b"].insert(0, story.receipt(1.06, "429", final=False))
    assert story.violations() == []


def test_under_resend_a_doubtful_row_may_be_sent_again() -> None:
    story = Story()
    story.record["unknown_policy"] = "resend"
    story.until_done()
    story.receipts["b"].insert(0, story.receipt(1.06, "silence", taken=True))
    assert story.violations() == []


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.FAILED, Outcome.EXPIRED, Outcome.UNSENT])
def test_a_row_that_was_taken_and_is_called_something_else(outcome: Outcome) -> None:
    story = Story().until_done()
    story.outcome[2] = outcome
    story.reason[2] = Reason.STOPPED
    assert any("row 2" in found and "the provider's books say" in found for found in story.violations())


def test_a_row_that_is_called_accepted_and_was_not_taken() -> None:
    story = Story().until_done()
    story.receipts["c"] = [story.receipt(1.1, "gone")]
    assert any("is accepted, but" in found for found in story.violations())


def test_a_row_of_unknown_outcome_may_be_anything_but_not_when_nothing_went_wrong() -> None:
    story = Story().until_done()
    story.outcome[0], story.reason[0] = Outcome.UNKNOWN, Reason.SILENCE
    assert story.violations() == []
    story.calm = True
    assert any("although nothing went wrong" in found for found in story.violations())


def test_a_row_without_an_outcome() -> None:
    story = Story().until_done()
    story.outcome[3], story.receipts["d"] = Outcome.UNSENT, []
    assert any("has no outcome" in found for found in story.violations())


def test_a_row_that_is_called_expired_before_the_window_ends() -> None:
    story = Story().until_done()
    story.outcome[3], story.reason[3], story.receipts["d"] = Outcome.EXPIRED, Reason.WINDOW_CLOSED, []
    assert any("was called expired" in found for found in story.violations())


def test_better_knowledge_of_a_row_counts() -> None:
    story = Story().until_done()
    good = story.file()
    story.outcome, story.reason = [Outcome.UNKNOWN] * 4, [Reason.WORKER_LOST] * 4
    assert (
        story.violations({"shard-00000.e1.w1.outcomes": good, "shard-00000.e2.w2.outcomes": story.file("w2", 2)}) == []
    )


def test_two_workers_who_both_know_for_sure() -> None:
    story = Story().until_done()
    good = story.file()
    story.outcome, story.reason = [Outcome.FAILED] * 4, [Reason.TOO_MANY_REQUESTS] * 4
    found = story.violations({"shard-00000.e1.w1.outcomes": good, "shard-00000.e2.w2.outcomes": story.file("w2", 2)})
    assert any("accepted by w1 in epoch 1, failed" in violation for violation in found)


def test_a_row_that_is_sent_without_a_claim() -> None:
    story = Story().until_done()
    story.receipts["a"] = [story.receipt(1.1, worker="w2")]
    assert any("was sent by w2, which had not claimed chunk 0.0" in found for found in story.violations())


def test_a_row_that_is_sent_before_its_claim() -> None:
    story = Story().until_done()
    story.receipts["a"] = [story.receipt(1.04)]
    assert any("which had not claimed" in found for found in story.violations())


def test_a_shard_that_is_called_settled_without_its_file() -> None:
    story = Story().until_done()
    assert any("is not there" in found for found in story.violations({}))
    assert any("after the shard was called settled" in found for found in story.violations(written_s=2.05))


def test_a_damaged_file() -> None:
    story = Story().until_done()
    file = bytearray(story.file())
    file[5_000 - 890] ^= 1
    assert any("checksum" in found for found in story.violations({"shard-00000.e1.w1.outcomes": bytes(file)}))


def test_a_launch_that_does_not_end() -> None:
    story = Story().until_live()
    story.receipts = {}
    assert any("has not ended: live" in found for found in story.violations({}))


def test_a_launch_that_is_closed_before_its_shards_are_settled() -> None:
    story = Story().until_live()
    story.claim(1.05, 0)
    story.claim(1.05, 1)
    story.turn(2.1, "close", "done", closed_at=EPOCH_S + 2.1)
    assert any("shard 0 is not settled" in found for found in story.violations())


def test_a_chunk_that_is_claimed_twice_in_an_epoch() -> None:
    story = Story().until_done()
    story.claim(2.2, 0, "w2", 1)
    assert any("was claimed twice in epoch 1" in found for found in story.violations())


def test_a_chunk_that_is_claimed_by_who_does_not_hold_the_shard() -> None:
    story = Story().until_live()
    story.claim(1.05, 0, "w2", 1)
    assert any("which never held the shard so" in found for found in story.violations({}))


def test_a_shard_that_changes_hands_without_a_new_epoch() -> None:
    story = Story().until_live()
    story.shard(1.5, "w2", 1)
    assert any("without a new epoch" in found for found in story.violations({}))


def test_a_transition_that_is_not_in_the_table() -> None:
    story = Story()
    story.turn(0.1, "go", "live", go={"by": "anna", "at": EPOCH_S})
    assert any("draft --go--> live" in found for found in story.violations({}))


def test_a_change_without_an_entry_in_the_trail() -> None:
    story = Story().until_done()
    story.write(3.0, "launches.m-1", {**story.record, "window_s": 99.0})
    assert any("does not add one entry" in found for found in story.violations())


def test_a_go_without_the_approval_of_somebody_else() -> None:
    story = Story()
    story.record["require_approval"] = True
    story.until_done()
    assert any("GO by anna with the approval None" in found for found in story.violations())


def test_a_go_with_an_approval_for_another_destination() -> None:
    for to, fits in (("production", True), ("sandbox", False)):
        story = Story()
        word = {"by": "bert", "at": EPOCH_S, "campaign_digest": "c", "snapshot_digest": "s", "to": to}
        sealed = {"campaign_digest": "c", "snapshot": {"url": URL, "digest": "s"}}
        story.record.update(require_approval=True, approval=word, **sealed)
        story.until_done()
        assert fits is not any("GO by anna with the approval" in found for found in story.violations())


def test_two_who_were_both_told_that_they_made_it_live() -> None:
    story = Story().until_done()
    story.winners = ["anna", "bob"]
    assert any("was won by" in found for found in story.violations())


def test_a_request_that_leaves_after_an_abort_took_effect() -> None:
    story = Story().until_live()
    story.claim(1.05, 0)
    story.claim(1.05, 1)
    story.turn(1.2, "abort", "aborted")
    story.shard(2.0, "w1", 1, settled=True)
    story.turn(2.1, "close", "aborted", closed_at=EPOCH_S + 2.1)
    story.receipts["a"] = [story.receipt(1.4)]
    assert story.violations() == []
    story.receipts["a"] = [story.receipt(1.5)]
    assert any("but sending was called off at 1.200 s" in found for found in story.violations())
    story.workers["w1"].cut_off.append(Span(at(1.1), at(3.0)))
    assert story.violations() == [], "a worker that could not be told has until its lease runs out"


def test_a_request_that_leaves_while_the_launch_is_paused() -> None:
    story = Story().until_live()
    story.claim(1.05, 0)
    story.claim(1.05, 1)
    story.turn(1.06, "pause", "live", paused={"by": "anna"})
    story.turn(1.8, "resume", "live", paused=None)
    story.shard(2.0, "w1", 1, settled=True)
    story.turn(2.1, "close", "done", closed_at=EPOCH_S + 2.1)
    story.receipts["b"] = [story.receipt(1.5)]
    assert any("but sending was called off" in found for found in story.violations())


def test_a_request_that_leaves_after_the_window() -> None:
    story = Story().until_done()
    story.receipts["a"] = [story.receipt(12.5)]
    assert any("after the window's end" in found for found in story.violations())


def test_a_launch_without_go_that_sends() -> None:
    assert any("was sent without GO" in found for found in Story().violations({}))
