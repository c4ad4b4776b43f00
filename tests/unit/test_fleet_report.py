"""The report of a fleet: from files and an engine alone, the same keys as any, and what workers measured summed up."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from audience_data import campaign, device, devices, write
from report_data import accepted as plain_rows
from report_data import facts as plain_facts
from report_data import snapshot as plain_snapshot
from rich.console import Console
from s3_server import Bucket, bucket
from typer.testing import CliRunner

from flashcast import latency
from flashcast.audience.fetch import SnapshotSource
from flashcast.audience.places import Place
from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import open_snapshot
from flashcast.audience.upload import upload_snapshot
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import (
    Approval,
    AuditEntry,
    CampaignRecord,
    Go,
    LaunchRecord,
    SnapshotRef,
    campaign_key,
    launch_key,
)
from flashcast.cli.report import report
from flashcast.deliver.journal import Journal, RowArrays, journal_path
from flashcast.digest import fingerprints
from flashcast.engine.open import open_engine
from flashcast.errors import ExitCode, LifecycleError
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.report.charts import charts
from flashcast.report.facts import TakeOver, WorkerFacts, sparse
from flashcast.report.fleet import fleet_report, gather, journal_parts, outcomes_place, saved_report
from flashcast.report.ledger import NO_REPLY
from flashcast.report.page import render_page
from flashcast.report.settled import write_facts, write_settled
from flashcast.report.summary import report_document
from flashcast.report.text import render_text
from flashcast.report.write import CHARTS, OUTCOMES, PAGE, PRUNE, REPORT
from flashcast.simulator.ledger import G_ACCEPTED, G_DISTINCT, G_RECEIVED, Ledger

__all__ = ["bucket"]  # a fixture

GO = 1_790_000_000.25
ROWS = 60
app = typer.Typer()
app.command()(report)


def histogram(count: int) -> tuple[tuple[int, int], ...]:
    counts = latency.empty()
    counts[latency.bucket_of(40_000)] = count
    return sparse(counts)


BERLIN = WorkerFacts(
    launch="derby-1", worker="w-berlin", host="berlin", version="1", go_to_first_request_ms=4.0,
    go_to_last_reply_s=1.5, latency_us=histogram(30), sent=30, rows={Provider.APNS: 30}, cpu_us_per_notification=0.5,
    peak_rss_mib=100.0, connections={Provider.APNS: 8}, claims=3, arm_s=0.5, overshoot=1,
)  # fmt: skip
OSLO = WorkerFacts(
    launch="derby-1", worker="w-oslo", host="oslo", version="1", go_to_first_request_ms=9.5, clock_offset_ms=2.5,
    go_to_last_reply_s=2.25, latency_us=histogram(10), sent=10, rows={Provider.FCM: 30}, cpu_us_per_notification=1.5,
    peak_rss_mib=120.0, connections={Provider.APNS: 1, Provider.FCM: 4}, claims=3, arm_s=0.75, overshoot=2,
    take_overs=(TakeOver(shard=5, from_worker="w-rome", epoch=2, at=GO + 1, inherited=True, rows=7),),
)  # fmt: skip


class Fleet:
    """A launch that went live: its snapshot, its record, and what its workers wrote. Six shards of ten rows."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        audience = write(tmp_path / "a.parquet", devices(ROWS))
        seal(campaign(), audience, tmp_path / "snap", SealOptions(shard_rows=10)).close()
        with open_snapshot(tmp_path / "snap") as snapshot:
            self.manifest = snapshot.manifest
        self.rows = RowArrays(
            np.full(ROWS, Outcome.ACCEPTED, np.uint8), np.zeros(ROWS, np.uint8), np.ones(ROWS, np.uint8),
            np.arange(ROWS, dtype=np.uint32) * 30,
        )  # fmt: skip
        self.rows.outcome[50:54] = Outcome.REJECTED
        self.rows.reason[50:54] = Reason.FCM_UNREGISTERED.code
        self.ref = SnapshotRef(
            url=str(tmp_path / "snap"), digest=self.manifest.digest, sealed_at=GO - 60,
            rows={Provider.APNS: 30, Provider.FCM: 30}, shards=6,
        )  # fmt: skip
        self.record = LaunchRecord(
            launch="derby-1", campaign="derby", state=State.DONE, created_at=GO - 100, snapshot=self.ref,
            go=Go(at=GO, by="kim", host="desk"), closed_at=GO + 3, to="sandbox", window_s=30.0,
        )  # fmt: skip

    @property
    def outcomes(self) -> Place:
        return outcomes_place(self.ref, "derby-1")

    def settle(self, *shards: int, worker: str = "w-berlin", epoch: int = 1, owned: bool = True) -> None:
        for shard in shards:
            write_settled(
                self.outcomes, self.rows, launch="derby-1", snapshot=self.manifest.digest, shard=shard,
                facts=self.manifest.shards[shard], epoch=epoch, worker=worker, owned=owned,
            )  # fmt: skip

    def finish(self) -> None:
        """Everything that two workers write when all went well."""
        self.settle(0, 1, 2)
        self.settle(3, 4, 5, worker="w-oslo")
        for facts in (BERLIN, OSLO):
            write_facts(self.outcomes, facts)

    def source(self) -> SnapshotSource:
        return SnapshotSource(self.ref.url, self.ref.digest, self.path / "cache")

    def report(self, **more: Any) -> dict[str, Any]:
        with self.source() as source:
            return fleet_report(self.record, self.outcomes, source, **more)

    def amend(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)

    def ledger(self, taken: Callable[[int], int] = lambda row: 1) -> Path:
        """The books of a simulator that took row i ``taken(i)`` times, as it saves them."""
        books = Ledger()
        with open_snapshot(self.path / "snap") as snapshot:
            for shard in snapshot.shards:
                prints = np.empty(shard.rows, np.uint64)
                fingerprints(shard.tokens.data, shard.tokens.offsets, prints)
                for number, fingerprint in enumerate(prints.tolist()):
                    self._book(books, shard.provider, fingerprint, taken(shard.base + number))
        books.save(self.path / "ledger.npz")
        return self.path / "ledger.npz"

    def _book(self, books: Ledger, provider: Provider, fingerprint: int, times: int) -> None:
        slot = fingerprint % (books.table.size // 2)
        while books.table[2 * slot]:
            slot = (slot + 1) % (books.table.size // 2)
        if times:
            books.table[2 * slot] = fingerprint
            books.table[2 * slot + 1] = times | times << 16 | times << 32 | (1 + list(Provider).index(provider)) << 56
            for what, more in ((G_RECEIVED, times), (G_ACCEPTED, times), (G_DISTINCT, 1)):
                books.note(provider, what, more)

    # --- the command, in a state folder that knows nothing but where the engine is

    def put_into_engine(self) -> None:
        async def put() -> None:
            async with open_engine(self.engine, state=self.path) as engine:
                kept = CampaignRecord(campaign="derby", text="", digest="", at=GO, by="kim", launches=1)
                await engine.durable.put(campaign_key("derby"), kept.to_bytes())
                await engine.durable.put(launch_key("derby-1"), self.record.to_bytes())

        asyncio.run(put())

    @property
    def engine(self) -> str:
        return f"embedded:{self.path / 'engine-of-the-fleet'}"

    def run(self, *arguments: object) -> tuple[int, str]:
        state = self.path / "state elsewhere"
        result = CliRunner().invoke(app, ["--state", str(state), "--engine", self.engine, *map(str, arguments)])
        return result.exit_code, result.stdout

    def json(self, *arguments: object) -> dict[str, Any]:
        code, text = self.run("--json", *arguments)
        assert code == 0, text
        document: dict[str, Any] = json.loads(text)
        return document


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def text_of(document: dict[str, Any], width: int = 160) -> str:
    out = io.StringIO()
    render_text(document, Console(file=out, width=width))
    return out.getvalue()


# --- the document -------------------------------------------------------------------------------------------


def test_a_fleets_report_has_the_keys_of_every_report(fleet: Fleet) -> None:
    fleet.finish()
    assert list(fleet.report()) == list(report_document(plain_snapshot(), plain_rows(8), plain_facts()))


def test_rows_of_all_workers_are_in_one_set_of_books(fleet: Fleet) -> None:
    fleet.finish()
    document = fleet.report()
    assert document["outcomes"] == {
        "accepted": 56, "rejected": 4, "failed": 0, "unknown": 0, "expired": 0, "unsent": 0
    }  # fmt: skip
    assert document["reasons"] == {"UNREGISTERED": 4}
    assert document["devices"] == ROWS
    assert document["balanced"]
    assert document["prune"] == 4
    assert (document["shards_missing"], document["shards_partial"]) == ([], [])
    assert (document["launch"], document["name"], document["destination"]) == ("derby-1", "Derby day", "sandbox")
    assert document["started_at"] == "2026-09-21T14:13:20.250Z"
    assert not document["aborted"]


def test_what_workers_measured_is_summed(fleet: Fleet) -> None:
    fleet.finish()
    document = fleet.report()
    assert document["go_to_first_request_ms"] == 4.0
    assert document["go_to_last_reply_s"] == 2.25
    assert document["sender_cpu_us_per_notification"] == pytest.approx((30 * 0.5 + 10 * 1.5) / 40)
    assert document["peak_rss_mib"] == 120.0
    assert document["arm_s"] == 0.75
    assert document["overshoot"] == 3
    assert document["resumed"] == 7
    assert document["providers"]["apns"]["connections"] == 9
    assert document["reply_latency_ms"]["p50"] == pytest.approx(40, rel=0.02)


def test_first_requests_are_compared_on_one_clock(fleet: Fleet) -> None:
    fleet.finish()
    document = fleet.report()
    assert [worker["go_to_first_request_ms"] for worker in document["workers"]] == [4.0, 7.0]
    assert document["first_request_spread_ms"] == 3.0


def test_each_worker_and_each_take_over_is_told(fleet: Fleet) -> None:
    fleet.finish()
    document = fleet.report()
    assert [(w["worker"], w["host"], w["devices"], w["claims"]) for w in document["workers"]] == [
        ("w-berlin", "berlin", 30, 3), ("w-oslo", "oslo", 30, 3)
    ]  # fmt: skip
    assert document["take_overs"] == [
        {
            "shard": 5, "from_worker": "w-rome", "worker": "w-oslo", "epoch": 2, "at": "2026-09-21T14:13:21.250Z",
            "inherited": True, "rows": 7,
        }
    ]  # fmt: skip
    (warning,) = document["warnings"]
    assert "w-rome" in warning


def test_the_provider_that_one_worker_stopped_is_stopped(fleet: Fleet) -> None:
    fleet.finish()
    write_facts(fleet.outcomes, OSLO.model_copy(update={"stopped": {Provider.FCM: "SENDER_ID_MISMATCH"}}))
    document = fleet.report()
    assert document["providers"]["fcm"]["stopped"] == "SENDER_ID_MISMATCH"
    assert any("fcm was stopped" in warning for warning in document["warnings"])
    write_facts(fleet.outcomes, OSLO.model_copy(update={"stopped": {Provider.FCM: "A word of tomorrow"}}))
    assert fleet.report()["providers"]["fcm"]["stopped"] == "UnrecognisedReply"


def test_who_pressed_go_who_approved_and_what_was_paused_is_told(fleet: Fleet) -> None:
    fleet.finish()

    def entry(at: float, by: str, what: Input, note: str = "") -> AuditEntry:
        return AuditEntry(at=at, by=by, host="desk", what=what, before=State.LIVE, after=State.LIVE, note=note)

    fleet.amend(
        state=State.ABORTED,
        approval=Approval(by="sam", at=GO - 5, campaign_digest="c", snapshot_digest="s", to="production"),
        trail=(
            entry(GO + 1, "w-oslo", Input.PAUSE, "too many BadDeviceToken"),
            entry(GO + 2, "kim", Input.RESUME),
            entry(GO + 2.5, "sam", Input.PAUSE),
            entry(GO + 3, "kim", Input.ABORT),
        ),
    )
    document = fleet.report()
    assert document["aborted"]
    assert document["audit"] == {
        "campaign": "derby",
        "state": "aborted",
        "go": {"at": "2026-09-21T14:13:20.250Z", "by": "kim", "host": "desk"},
        "approval": {"at": "2026-09-21T14:13:15.250Z", "by": "sam", "to": "production"},
        "abort": {"at": "2026-09-21T14:13:23.250Z", "by": "kim", "host": "desk"},
        "pauses": [
            {
                "at": "2026-09-21T14:13:21.250Z", "by": "w-oslo", "why": "too many BadDeviceToken",
                "resumed_at": "2026-09-21T14:13:22.250Z", "resumed_by": "kim",
            },
            {"at": "2026-09-21T14:13:22.750Z", "by": "sam", "why": "", "resumed_at": None, "resumed_by": None},
        ],
        "closed_at": "2026-09-21T14:13:23.250Z",
    }  # fmt: skip
    told = text_of(document)
    assert "GO by kim on desk at 2026-09-21T14:13:20.250Z, approved by sam" in told
    assert "Paused by w-oslo at 2026-09-21T14:13:21.250Z: too many BadDeviceToken; resumed by kim" in told
    assert "no reason given; not resumed" in told
    assert "Aborted by kim on desk" in told


def test_a_launch_that_has_not_gone_live_has_no_report(fleet: Fleet) -> None:
    fleet.amend(go=None, state=State.ARMED, closed_at=None)
    with pytest.raises(LifecycleError, match="derby-1 has not gone live: it is armed"):
        fleet.report()


# --- before the end, and after accidents --------------------------------------------------------------------


def test_before_a_launch_has_closed_the_report_is_of_what_is_there(fleet: Fleet) -> None:
    fleet.settle(0, 1)
    fleet.settle(2, owned=False)
    fleet.amend(state=State.LIVE, closed_at=None)
    document = fleet.report()
    assert document["outcomes"]["accepted"] == 30
    assert document["outcomes"]["unsent"] == 30
    assert document["balanced"]
    assert document["shards_missing"] == [3, 4, 5]
    assert document["shards_partial"] == [2]
    assert document["warnings"] == [
        "This launch has not finished: the figures are of what its workers have written down so far.",
        "There are no outcomes of shards 3, 4, 5: their rows count as unsent.",
    ]
    assert document["workers"] == []
    assert document["go_to_last_reply_s"] == pytest.approx(0.87)


def test_many_missing_shards_are_not_all_named(fleet: Fleet) -> None:
    from flashcast.report.fleet import _shards

    assert _shards([7]) == "shard 7"
    assert _shards(list(range(20))) == "shards 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    fleet.amend(closed_at=None, state=State.LIVE)
    assert "shards 0, 1, 2, 3, 4, 5" in fleet.report()["warnings"][1]


def test_journals_of_this_machine_tell_what_is_not_settled_yet(fleet: Fleet) -> None:
    fleet.settle(0)
    fleet.amend(state=State.LIVE, closed_at=None)
    path = journal_path(fleet.path, "derby-1", "w-berlin")
    journal = Journal.create(path, ROWS, launch="derby-1", snapshot=fleet.manifest.digest, worker="w-berlin")
    for base in (0, 10, 30):
        journal.hold(base, 10)
    journal.outcome[10:15] = Outcome.ACCEPTED
    journal.outcome[15:17] = Outcome.IN_FLIGHT
    foreign = Journal.create(journal_path(fleet.path, "derby-1", "other"), ROWS, launch="derby-0", snapshot="0" * 64)
    foreign.hold(0, ROWS)
    (path.parent / "journal-cut.bin").write_bytes(b"FLASHJNL2\n")
    more = journal_parts(path.parent, fleet.manifest, "derby-1")
    assert [part.base for part in more] == [0, 10, 30]
    document = fleet.report(more=more)
    assert document["outcomes"]["accepted"] == 15
    assert document["outcomes"]["unknown"] == 2
    assert document["shards_missing"] == [2, 4, 5]
    assert document["shards_partial"] == [1, 3]


def test_a_damaged_file_is_told_and_does_not_stop_the_report(fleet: Fleet) -> None:
    fleet.finish()
    (found,) = fleet.outcomes.list("shard-00004")
    fleet.outcomes.put(found.name, fleet.outcomes.get(found.name)[:-1])
    document = fleet.report()
    assert document["shards_missing"] == [4]
    assert document["outcomes"]["unsent"] == 10
    assert any("shard-00004" in warning and "cut short" in warning for warning in document["warnings"])


def test_a_worker_that_was_lost_and_comes_back_adds_what_it_knows(fleet: Fleet) -> None:
    fleet.finish()
    guess = RowArrays(*(np.array(a) for a in (fleet.rows.outcome, fleet.rows.reason, fleet.rows.attempts)),
                      np.full(ROWS, NO_REPLY, np.uint32))  # fmt: skip
    guess.outcome[40:50], guess.reason[40:50] = Outcome.UNKNOWN, Reason.WORKER_LOST.code
    knows, fleet.rows = fleet.rows, guess
    fleet.settle(4, worker="w-oslo")
    assert fleet.report()["reasons"] == {"WorkerLost": 10, "UNREGISTERED": 4}
    fleet.rows = knows
    fleet.settle(4, worker="w-rome", epoch=1, owned=False)
    assert fleet.report()["reasons"] == {"UNREGISTERED": 4}


# --- the other side's count ---------------------------------------------------------------------------------


def test_the_simulators_ledger_agrees_or_the_books_do_not_balance(fleet: Fleet) -> None:
    fleet.finish()
    fleet.put_into_engine()
    document = fleet.json("derby", "--ledger", fleet.ledger(lambda row: 0 if 50 <= row < 54 else 1))
    assert document["balanced"], document["imbalances"]
    assert document["simulator"]["received"] == 56
    document = fleet.json("derby", "--ledger", fleet.ledger(lambda row: 2 if row == 7 else 0 if 50 <= row < 54 else 1))
    assert not document["balanced"]
    assert document["simulator"]["duplicates"] == document["simulator"]["taken_twice"] == 1


# --- text and page ------------------------------------------------------------------------------------------


def test_text_and_page_show_a_line_per_worker(fleet: Fleet) -> None:
    fleet.finish()
    write_facts(fleet.outcomes, BERLIN.model_copy(update={"worker": "w-madrid", "host": "<b>madrid</b>"}))
    with fleet.source() as source:
        made = gather(fleet.record, fleet.outcomes, source)
        page = render_page(made.document, charts(source, made.rows, made.facts.latency_us_histogram))
    told = text_of(made.document)
    for shown in ("w-berlin", "w-oslo", "w-madrid", "2.25", "120"):
        assert shown in told
        assert shown in page
    assert "3 workers, first requests within 3.0 ms of each other" in told
    assert "first requests within 3.0 ms of each other" in page
    assert "w-oslo took shard 5 over from w-rome, with its journal." in told
    assert "w-oslo took shard 5 over from w-rome, with its journal." in page
    assert "<b>madrid" not in page
    assert "&lt;b&gt;madrid" in page


def test_a_line_per_worker_fits_a_terminal_of_80_columns(fleet: Fleet) -> None:
    fleet.finish()
    lines = text_of(fleet.report(), width=80).splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("worker")) :]
    line = next(line for line in table if line.startswith("w-oslo"))
    assert line.split() == ["w-oslo", "30", "7.0", "2.25", "5", "1.50", "120", "1"]


def test_one_worker_alone_needs_no_table(fleet: Fleet) -> None:
    fleet.settle(*range(6))
    write_facts(fleet.outcomes, BERLIN)
    document = fleet.report()
    assert document["first_request_spread_ms"] is None
    assert "w-berlin" not in text_of(document)


def test_a_report_that_knows_of_no_workers_is_shown_as_ever() -> None:
    document = report_document(plain_snapshot(), plain_rows(8), plain_facts())
    earlier = {key: value for key, value in document.items() if key not in ("workers", "take_overs", "audit")}
    assert text_of(earlier) == text_of(document)
    assert (document["workers"], document["audit"], document["sources"]) == ([], None, None)


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [("derby",), ("derby-1",), ()], ids=["campaign", "launch", "latest"])
def test_report_needs_the_engine_and_the_place_alone(fleet: Fleet, name: tuple[str, ...]) -> None:
    fleet.finish()
    fleet.put_into_engine()
    assert fleet.json(*name) == fleet.report()
    assert not (fleet.path / "state elsewhere").exists()


def test_report_from_object_storage_fetches_shards_only_for_files_of_rows(fleet: Fleet, bucket: Bucket) -> None:
    pytest.importorskip("obstore", reason="obstore is an extra: flashcast[objectstore]")
    upload_snapshot(fleet.path / "snap", "s3://bucket/derby")
    fleet.ref = fleet.ref.model_copy(update={"url": "s3://bucket/derby"})
    fleet.amend(snapshot=fleet.ref)
    fleet.finish()
    fleet.put_into_engine()
    bucket.gets.clear()
    assert fleet.json("derby")["outcomes"]["accepted"] == 56
    assert not [key for key in bucket.gets if key.endswith(".shard")]
    table, prune, page = fleet.path / "o.parquet", fleet.path / "p.csv", fleet.path / "r.html"
    fleet.json("derby", "--parquet", table, "--prune", prune, "--html", page)
    assert len([key for key in bucket.gets if key.endswith(".shard")]) == 6
    rejected = [row["user_id"] for row in pq.read_table(table).to_pylist() if row["outcome"] == "rejected"]
    assert rejected == [device(number)["user_id"] for number in (41, 43, 45, 47)]
    assert len(prune.read_text().splitlines()) == 5
    assert "w-oslo" in page.read_text()


def test_report_is_saved_beside_the_outcomes_and_used_until_there_is_more(fleet: Fleet) -> None:
    fleet.finish()
    fleet.put_into_engine()
    first = fleet.json("derby", "--save")
    names = {found.name for found in fleet.outcomes.list()}
    assert names >= {REPORT, PAGE, CHARTS, OUTCOMES, PRUNE}
    assert json.loads(fleet.outcomes.get(REPORT)) == first
    assert saved_report(fleet.record, fleet.outcomes) == first
    marked = {**first, "warnings": ["read back"]}
    fleet.outcomes.put(REPORT, json.dumps(marked).encode())
    assert fleet.json("derby") == marked
    fleet.settle(0, worker="w-late", epoch=1, owned=False)
    assert fleet.json("derby")["warnings"] != ["read back"]
    fleet.outcomes.put(REPORT, b"{")
    assert fleet.json("derby")["devices"] == ROWS


def test_a_launch_that_is_still_going_is_never_read_from_what_was_saved(fleet: Fleet) -> None:
    fleet.finish()
    fleet.put_into_engine()
    fleet.json("derby", "--save")
    fleet.amend(closed_at=None, state=State.LIVE)
    assert saved_report(fleet.record, fleet.outcomes) is None


def test_a_name_that_the_engine_does_not_know_is_told(fleet: Fleet) -> None:
    fleet.put_into_engine()
    code, text = fleet.run("--json", "derbi")
    assert code == ExitCode.USAGE
    error = json.loads(text)["error"]
    assert "there is no campaign or launch 'derbi'" in error["message"]
    assert "derby" in error["remedy"]


def test_launches_of_an_engine_are_listed(fleet: Fleet) -> None:
    fleet.put_into_engine()
    assert [each["launch"] for each in fleet.json("--list")["launches"]] == ["derby-1"]
    assert "derby-1" in fleet.run("--list")[1]


@pytest.mark.parametrize(("own", "shown"), [("20260921-141319-aaaa", "derby-1"), ("20260921-141321-aaaa", "other")])
def test_without_a_name_the_launch_that_went_live_last_is_shown(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, own: str, shown: str
) -> None:
    fleet.finish()
    fleet.put_into_engine()
    monkeypatch.setenv("FLASHCAST_ENGINE", fleet.engine)
    state = fleet.path / "state"
    first = CliRunner().invoke(app, ["--state", str(state), "--json"])
    assert json.loads(first.stdout)["launch"] == "derby-1"
    folder = state / "launches" / own
    folder.mkdir(parents=True)
    document = report_document(plain_snapshot(), plain_rows(8), plain_facts(launch="other"))
    (folder / REPORT).write_text(json.dumps(document))
    (folder / PAGE).touch()
    found = CliRunner().invoke(app, ["--state", str(state), "--json"])
    assert json.loads(found.stdout)["launch"] == shown


def test_what_is_for_fleets_alone_is_refused_for_a_launch_of_one_process(fleet: Fleet) -> None:
    for option in (["--save"], ["--ledger", "x.npz"]):
        result = CliRunner().invoke(app, ["--state", str(fleet.path / "state"), "--json", *option])
        assert result.exit_code == ExitCode.USAGE
        assert f"{option[0]} is for a launch of workers" in json.loads(result.stdout)["error"]["message"]


def test_a_workers_journals_in_the_state_folder_are_no_launch_of_their_own(fleet: Fleet) -> None:
    Journal.create(journal_path(fleet.path, "derby-1", "w-berlin"), ROWS, launch="derby-1", snapshot="0" * 64)
    result = CliRunner().invoke(app, ["--state", str(fleet.path), "--json", "--list"])
    assert json.loads(result.stdout)["launches"] == []


def test_without_an_option_the_engine_in_the_state_folder_is_asked(fleet: Fleet) -> None:
    fleet.finish()
    missing = CliRunner().invoke(app, ["--state", str(fleet.path), "--json", "derby"])
    assert "there is no launch derby" in json.loads(missing.stdout)["error"]["message"]
    assert not (fleet.path / "engine").exists()
    (fleet.path / "engine").mkdir()

    async def put() -> None:
        async with open_engine("embedded", state=fleet.path) as engine:
            await engine.durable.put(launch_key("derby-1"), fleet.record.to_bytes())

    asyncio.run(put())
    found = CliRunner().invoke(app, ["--state", str(fleet.path), "--json", "derby-1"])
    assert json.loads(found.stdout)["launch"] == "derby-1"
