"""The operators' use cases, on an engine in memory and, but for sealing, on virtual time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from control_data import OTHER_TEXT, SNAPSHOT, TEXT, Control, armed, beat, beating, ready, sealed, simulated

from flashcast.audience.seal import SealOptions
from flashcast.audience.snapshot import open_snapshot
from flashcast.audience.source import AudienceSource
from flashcast.audience.synthetic import write_synthetic
from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import LaunchRecord, Pause, ShardRecord, launch_key, shard_key, worker_key
from flashcast.campaign.store import Operator, Store
from flashcast.engine.base import Entry
from flashcast.errors import EnvironmentFault, InputError, LifecycleError
from flashcast.go.abort import abort, drained
from flashcast.go.follow import following, hear
from flashcast.go.release import approve, press_go
from flashcast.launch_control import advice, arming, campaigns, orders, status
from flashcast.limits import CHUNK_ROWS
from flashcast.model import Provider, UnknownPolicy
from flashcast.testing.memory_engine import Faults, MemoryEngine, MemorySpace

# --- arming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pace", "rows"),
    [({}, CHUNK_ROWS), ({"apns": 10_000.0}, 1_024), ({"apns": 1e6}, CHUNK_ROWS), ({"fcm": 1.0}, 256),
     ({"apns": 1e6, "fcm": 10_000.0}, 1_024), ({"fcm": 23_000.0}, 2_048)],
)  # fmt: skip
def test_a_chunk_is_about_what_the_slowest_pace_sends_in_a_tenth_of_a_second(pace: dict[str, float], rows: int) -> None:
    assert arming.chunk_rows_for({Provider(name): rate for name, rate in pace.items()}) == rows


def test_a_destination_is_a_word_or_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert arming.destination_of("sandbox", one_machine=True) == "sandbox"
    assert arming.destination_of("there.toml", one_machine=False) == str(tmp_path / "there.toml")
    with pytest.raises(InputError, match="there is no such file"):
        arming.destination_of("there.toml", one_machine=True)
    with pytest.raises(InputError, match="flashcast simulate"):
        arming.destination_of("simulator", one_machine=True)


def test_arming_says_where_to_and_how_much_is_claimed_at_once() -> None:
    async def run(control: Control) -> None:
        await sealed(control.store(), pace={Provider.APNS: 10_000.0})
        record = await arming.arm(control.store("ada@home"), "superbowl", "sandbox")
        assert (record.state, record.to, record.chunk_rows) == (State.ARMING, "sandbox", 1_024)
        assert record.trail[-1].note == "to sandbox"

    simulated(run)


def test_after_an_end_arming_sends_the_same_snapshot_in_the_next_launch() -> None:
    async def run(control: Control) -> None:
        store = control.store()
        before = await armed(store, window_s=7.0, unknown_policy=UnknownPolicy.RESEND, require_approval=True)
        await abort(store, "superbowl")
        record = await arming.arm(store, "superbowl", "production")
        assert (record.launch, record.state) == ("superbowl-2", State.ARMING)
        assert (record.snapshot, record.window_s, record.unknown_policy) == (SNAPSHOT, 7.0, UnknownPolicy.RESEND)
        assert record.require_approval
        assert record.approval is None
        assert record.campaign_digest == before.campaign_digest
        assert [entry.note for entry in record.trail] == ["the snapshot of superbowl-1", "to production"]

    simulated(run)


def test_an_operator_who_died_between_opening_and_arming_left_nothing_to_mend() -> None:
    async def run(control: Control) -> None:
        store = control.store()
        await armed(store)
        await abort(store, "superbowl")
        await store.open_launch("superbowl")
        assert (await arming.arm(store, "superbowl", "production")).launch == "superbowl-2"

    simulated(run)


def test_after_an_edit_the_old_snapshot_is_not_armed_again() -> None:
    async def run(control: Control) -> None:
        store = control.store()
        await armed(store)
        await abort(store, "superbowl")
        await store.edit_campaign("superbowl", OTHER_TEXT)
        with pytest.raises(LifecycleError, match="was edited after superbowl-1"):
            await arming.arm(store, "superbowl", "production")

    simulated(run)


def test_an_edit_back_to_the_old_words_asks_for_a_new_audience_all_the_same() -> None:
    async def run(control: Control) -> None:
        store = control.store()
        await armed(store)
        for text in (OTHER_TEXT, TEXT):
            await store.edit_campaign("superbowl", text)
        with pytest.raises(LifecycleError, match="can be armed only when sealed"):
            await arming.arm(store, "superbowl", "production")

    simulated(run)


def test_disarming_keeps_an_approval_and_what_was_sealed() -> None:
    async def run(control: Control) -> None:
        await armed(control.store(), require_approval=True)
        await approve(control.store("ada@home"), "superbowl")
        record = await arming.disarm(control.store(), "superbowl")
        assert (record.state, record.snapshot) == (State.SEALED, SNAPSHOT)
        assert record.approval is not None

    simulated(run)


def test_whoever_waits_for_arming_sees_it_until_it_is_over() -> None:
    async def run(control: Control) -> list[State]:
        await sealed(control.store())
        await arming.arm(control.store(), "superbowl", "production")

        async def worker() -> None:
            await asyncio.sleep(1.0)
            await control.store("worker-1").transition("superbowl-1", Input.READY)

        task = asyncio.create_task(worker())
        states = [seen.record.state async for seen in arming.until_armed(control.store(), "superbowl-1")]
        await task
        return states

    states = simulated(run)
    assert set(states[:-1]) == {State.ARMING}
    assert states[-1] is State.ARMED


# --- orders ----------------------------------------------------------------------------------------------


def test_a_live_launch_is_paused_once_and_goes_on_once() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        await press_go(control.store(), "superbowl")
        record = await orders.pause(control.store("ada@home"), "superbowl", "wrong second")
        assert record.paused == Pause(at=control.clock.time(), by="ada@home", why="wrong second")
        with pytest.raises(LifecycleError, match="is paused already, by ada@home"):
            await orders.pause(control.store(), "superbowl")
        record = await orders.resume(control.store(), "superbowl")
        assert record.paused is None
        assert not record.guard_off
        with pytest.raises(LifecycleError, match="is not paused"):
            await orders.resume(control.store(), "superbowl")

    simulated(run)


def test_going_on_after_the_misfire_guard_turns_it_off() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        await press_go(control.store(), "superbowl")
        pause = Pause(at=control.clock.time(), by="worker-1", why="40 % bad tokens", guard=True)
        worker = control.store("worker-1")
        await worker.transition("superbowl", Input.PAUSE, lambda record: record.model_copy(update={"paused": pause}))
        assert (await orders.resume(control.store(), "superbowl")).guard_off

    simulated(run)


@pytest.mark.parametrize("order", [orders.pause, orders.resume, approve, abort, arming.disarm, press_go])
def test_an_order_to_a_draft_is_refused(order: Any) -> None:
    async def run(control: Control) -> None:
        await control.store().create_campaign("superbowl", TEXT)
        with pytest.raises(LifecycleError, match="launch superbowl-1 is draft"):
            await order(control.store(), "superbowl")

    simulated(run)


# --- what is seen ----------------------------------------------------------------------------------------


def test_a_sighting_adds_up_the_workers_that_are_alive() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        workers = [asyncio.create_task(beating(control, f"worker-{i}", ready())) for i in (1, 2)]
        async with following(control.engine(), "superbowl-1", control.clock) as sightings:
            await asyncio.sleep(0.5)
            sighting = await anext(sightings)
            assert (sighting.total.workers, sighting.total.providers[Provider.APNS].rows) == (2, 1_000)
            workers[0].cancel()
            while sighting.total.workers == 2:
                sighting = await anext(sightings)
            assert [one.alive for one in sighting.heard] == [False, True]
            assert sighting.total.providers[Provider.APNS].rows == 500

    simulated(run)


def test_sightings_come_at_most_five_times_a_second_however_much_happens() -> None:
    async def run(control: Control) -> int:
        await armed(control.store())
        for i in range(20):
            task = asyncio.create_task(beating(control, f"worker-{i}", ready()))
            task.add_done_callback(lambda done: None)
            await asyncio.sleep(0.007)
        seen = 0
        async with following(control.engine(), "superbowl-1", control.clock) as sightings:
            try:
                async with asyncio.timeout(2.0):
                    async for _ in sightings:
                        seen += 1
            except TimeoutError:
                pass
        return seen

    assert 8 <= simulated(run) <= 11


class _Deaf:
    """A space whose watches tell what there is, and of no later change; everything else is as it is."""

    def __init__(self, space: Any) -> None:
        self._space = space

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[AsyncIterator[Entry | None]]:
        async def until_caught_up() -> AsyncIterator[Entry | None]:
            async with self._space.watch(prefix) as watch:
                async for entry in watch:
                    yield entry
                    if entry is None:
                        await asyncio.Event().wait()

        yield until_caught_up()


async def _close(control: Control) -> None:
    close = {"closed_at": control.clock.time()}
    worker = control.store("worker-1")
    await worker.transition("superbowl-1", Input.CLOSE, lambda record: record.model_copy(update=close))


async def _go_and_let_go(control: Control, *, closed: bool) -> list[tuple[State, int]]:
    """State and rows of each sighting: GO, then a worker tells no more of the launch, which has ended or not.

    The one who looks has not heard of the end from its watch of the launch.
    """
    await armed(control.store())
    await press_go(control.store(), "superbowl-1")
    engine = control.engine()
    worker = asyncio.create_task(beating(control, "worker-1", ready()))
    await asyncio.sleep(0.5)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "durable", _Deaf(engine.durable))
        async with following(engine, "superbowl-1", control.clock) as sightings:
            for cycle in range(4):
                sighting = await anext(sightings)
                part = sighting.total.providers.get(Provider.APNS)
                seen.append((sighting.record.state, part.rows if part is not None else 0))
                if cycle == 1:
                    worker.cancel()
                    if closed:
                        await _close(control)
                    gone = beat("worker-1", control.clock.time(), 1_000)
                    await control.engine().volatile.put(worker_key("worker-1"), gone.to_bytes())
    return seen


def test_a_worker_that_drops_a_launch_which_has_ended_is_counted_as_it_was() -> None:
    live, done = (State.LIVE, 500), (State.DONE, 500)
    assert simulated(lambda control: _go_and_let_go(control, closed=True)) == [live, live, done, done]


def test_a_worker_that_lost_its_shards_is_counted_no_more() -> None:
    live, lost = (State.LIVE, 500), (State.LIVE, 0)
    assert simulated(lambda control: _go_and_let_go(control, closed=False)) == [live, live, lost, lost]


def test_who_follows_a_launch_that_is_none_is_told() -> None:
    async def run(control: Control) -> None:
        async with following(control.engine(), "superbowl-1", control.clock) as sightings:
            with pytest.raises(InputError, match="there is no launch superbowl-1 in memory"):
                await anext(sightings)

    simulated(run)


def test_a_record_that_is_damaged_while_it_is_followed_is_told() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        engine = control.engine()
        async with following(engine, "superbowl-1", control.clock) as sightings:
            await anext(sightings)
            await engine.durable.put(launch_key("superbowl-1"), b"{}")
            with pytest.raises(EnvironmentFault, match="cannot be read"):
                while True:
                    await anext(sightings)

    simulated(run)


def test_a_worker_that_died_with_its_clock_ahead_is_not_taken_for_alive() -> None:
    async def run(control: Control) -> None:
        engine = control.engine()
        await engine.volatile.put(worker_key("ahead"), beat("ahead", control.clock.time() + 3_600).to_bytes())
        await engine.volatile.put(worker_key("odd"), b"not a beat")
        living = asyncio.create_task(beating(control, "living", ready()))
        await asyncio.sleep(0.5)
        heard = {one.beat.worker: one for one in await hear(engine, control.clock)}
        living.cancel()
        assert {worker: one.alive for worker, one in heard.items()} == {"ahead": False, "living": True}
        assert heard["living"].skew_s == pytest.approx(0.0, abs=0.001)

    simulated(run)


def test_listening_where_nobody_is_takes_no_time() -> None:
    async def run(control: Control) -> float:
        began = control.loop.time()
        assert await hear(control.engine(), control.clock) == ()
        return control.loop.time() - began

    assert simulated(run) == 0.0


def test_status_counts_shards_and_tells_each_workers_age() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        engine = control.engine()
        await engine.durable.put(shard_key("superbowl-1", 0), ShardRecord(owner="worker-1", epoch=1).to_bytes())
        living = asyncio.create_task(beating(control, "worker-1", ready()))
        await asyncio.sleep(0.5)
        found = await status.status(control.store(), "superbowl")
        living.cancel()
        document = found.document()
        assert document["shards"] == {"all": 2, "held": 1, "settled": 0}
        assert document["total"]["ready_workers"] == 1
        assert [(one["worker"], one["alive"]) for one in document["workers"]] == [("worker-1", True)]
        assert document["workers"][0]["age_s"] <= 0.2
        assert "trail" not in document

    simulated(run)


def test_a_stream_of_status_ends_with_the_launch() -> None:
    async def run(control: Control) -> list[State]:
        await armed(control.store())

        async def course() -> None:
            await asyncio.sleep(1.0)
            await press_go(control.store(), "superbowl-1")
            await asyncio.sleep(1.0)
            await _close(control)

        task = asyncio.create_task(course())
        states = [told.sighting.record.state async for told in status.status_stream(control.store(), "superbowl-1")]
        await task
        return list(dict.fromkeys(states))

    assert simulated(run) == [State.ARMED, State.LIVE, State.DONE]


def test_the_overview_has_the_latest_launch_of_every_campaign() -> None:
    async def run(control: Control) -> list[str]:
        store = control.store()
        await armed(store)
        await abort(store, "superbowl")
        await store.open_launch("superbowl")
        await store.create_campaign("easter", TEXT)
        return [record.launch for record in await status.overview(store)]

    assert simulated(run) == ["easter-1", "superbowl-2"]


# --- abort -----------------------------------------------------------------------------------------------


def test_an_abort_before_go_is_over_at_once() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        record = await abort(control.store(), "superbowl", "not today")
        assert record.trail[-1].note == "not today"
        assert (await drained(control.store(), record)).complete

    simulated(run)


def test_an_abort_is_watched_until_every_worker_has_drained_and_overshoot_is_told() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        await press_go(control.store(), "superbowl")
        busy = [asyncio.create_task(beating(control, f"worker-{i}", ready())) for i in (1, 2)]
        await asyncio.sleep(0.5)
        record = await abort(control.store(), "superbowl")

        async def drain() -> None:
            for i, task in enumerate(busy, 1):
                await asyncio.sleep(0.5)
                task.cancel()
                quiet = ready(quiet=True, overshoot=70 * i)
                asyncio.create_task(beating(control, f"worker-{i}", quiet)).add_done_callback(lambda done: None)

        draining = asyncio.create_task(drain())
        began = control.loop.time()
        done = await drained(control.store(), record)
        await draining
        assert done.complete
        assert done.overshoot == 210
        assert 1.0 <= control.loop.time() - began <= 1.6

    simulated(run)


def test_an_abort_names_the_workers_that_did_not_say_to_have_stopped() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        await press_go(control.store(), "superbowl")
        deaf = asyncio.create_task(beating(control, "worker-1", ready()))
        await asyncio.sleep(0.5)
        done = await drained(control.store(), await abort(control.store(), "superbowl"))
        deaf.cancel()
        assert done.waiting_for == ("worker-1",)
        assert not done.complete

    simulated(run)


# --- preflight -------------------------------------------------------------------------------------------


def test_the_facts_of_preflight_are_the_fleets() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        engine = control.engine()
        for shard in (0, 1):
            record = ShardRecord(owner="worker-1", epoch=1)
            await engine.durable.put(shard_key("superbowl-1", shard), record.to_bytes())
        both = ready(rows=1_000, shards=(0, 1))
        living = asyncio.create_task(beating(control, "worker-1", both))
        await asyncio.sleep(0.5)
        facts = await advice.gather_facts(control.store("kim@desk"), "superbowl")
        record_, verdict = await advice.preflight(control.store("kim@desk"), "superbowl")
        living.cancel()
        assert facts.operator == "kim@desk"
        assert set(facts.holdings) == {"worker-1"}
        assert facts.missing == {}
        assert len(facts.heard[0].heartbeats) >= 5
        assert facts.transit_ms is not None
        assert (record_.launch, verdict.go, verdict.rows_covered) == ("superbowl-1", True, 1_000)

    simulated(run)


def test_preflight_of_a_fleet_without_workers_is_a_no_go() -> None:
    async def run(control: Control) -> None:
        await armed(control.store())
        _, verdict = await advice.preflight(control.store(), "superbowl")
        assert not verdict.go

    simulated(run)


# --- sealing: real threads and files ---------------------------------------------------------------------


def on_disk(work: Any) -> None:
    """Runs ``work`` with a store on an engine in memory, in real time."""

    async def run() -> None:
        store = Store(MemoryEngine(MemorySpace(), Faults.none()), Operator("kim@desk", "desk"))
        await work(store)

    asyncio.run(run())


@pytest.fixture
def devices(tmp_path: Path) -> AudienceSource:
    path = tmp_path / "devices.parquet"
    write_synthetic(path, 2_000, 1.0, 1)
    return AudienceSource(str(path))


def test_sealing_a_campaign_makes_its_launch_sealed_with_its_terms(tmp_path: Path, devices: AudienceSource) -> None:
    text = "window_s = 9\nrequire_approval = true\nguard = false\npace.apns = 5000\n" + TEXT

    async def work(store: Store) -> None:
        campaign = await campaigns.create(store, "superbowl", text, "c.toml")
        made = await campaigns.seal_campaign(store, "superbowl", devices, SealOptions(), folder=tmp_path)
        record = made.record
        assert (record.launch, record.state) == ("superbowl-1", State.SEALED)
        assert record.snapshot is not None
        assert record.snapshot.url == made.url == str(tmp_path / "snapshots" / "superbowl-1")
        assert (record.snapshot.rows, record.snapshot.shards) == ({Provider.APNS: 2_000}, 1)
        assert (record.window_s, record.require_approval, record.guard) == (9.0, True, None)
        assert record.pace == {Provider.APNS: 5_000.0}
        assert record.campaign_digest == campaign.digest
        with open_snapshot(Path(made.url)) as snapshot:
            assert snapshot.digest == record.snapshot.digest

    on_disk(work)


def test_sealing_again_replaces_what_was_sealed_and_takes_the_approval_away(
    tmp_path: Path, devices: AudienceSource
) -> None:
    async def work(store: Store) -> None:
        await campaigns.create(store, "superbowl", TEXT, "c.toml")
        first = await campaigns.seal_campaign(store, "superbowl", devices, SealOptions(), folder=tmp_path)
        await approve(store, "superbowl")
        few = SealOptions(limit=10)
        second = await campaigns.seal_campaign(store, "superbowl", devices, few, folder=tmp_path)
        assert second.url == first.url
        assert (second.record.rows, second.record.approval) == (10, None)

    on_disk(work)


def test_sealing_after_an_end_opens_the_next_launch(tmp_path: Path, devices: AudienceSource) -> None:
    async def work(store: Store) -> None:
        await armed(store)
        await abort(store, "superbowl")
        with pytest.raises(InputError):
            missing = AudienceSource(str(tmp_path / "nothing.parquet"))
            await campaigns.seal_campaign(store, "superbowl", missing, SealOptions(), folder=tmp_path)
        assert (await store.campaign("superbowl")).launches == 1
        made = await campaigns.seal_campaign(store, "superbowl", devices, SealOptions(), folder=tmp_path)
        assert (made.record.launch, Path(made.url).name) == ("superbowl-2", "superbowl-2")

    on_disk(work)


def test_an_armed_launch_is_not_sealed_and_no_work_is_begun(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await armed(store)
        missing = AudienceSource(str(tmp_path / "nothing.parquet"))
        with pytest.raises(LifecycleError, match="is armed"):
            await campaigns.seal_campaign(store, "superbowl", missing, SealOptions(), folder=tmp_path)

    on_disk(work)


def test_a_campaign_whose_edit_was_broken_off_is_not_sealed(tmp_path: Path, devices: AudienceSource) -> None:
    async def work(store: Store) -> None:
        await campaigns.create(store, "superbowl", TEXT, "c.toml")

        def half(record: LaunchRecord) -> LaunchRecord:
            return record.model_copy(update={"campaign_digest": "f" * 64})

        await store.transition("superbowl", Input.EDIT, half)
        with pytest.raises(InputError, match="an edit of it was broken off"):
            await campaigns.seal_campaign(store, "superbowl", devices, SealOptions(), folder=tmp_path)
        await campaigns.edit(store, "superbowl", TEXT, "c.toml")
        made = await campaigns.seal_campaign(store, "superbowl", devices, SealOptions(), folder=tmp_path)
        assert made.record.state is State.SEALED

    on_disk(work)


def test_a_campaign_that_is_edited_while_its_audience_is_sealed_is_not_sealed(
    tmp_path: Path, devices: AudienceSource
) -> None:
    async def work(store: Store) -> None:
        await campaigns.create(store, "superbowl", TEXT, "c.toml")
        sealing, edited = threading.Event(), threading.Event()

        def progress(done: int, total: int | None) -> None:
            sealing.set()
            edited.wait(60)

        task = asyncio.create_task(
            campaigns.seal_campaign(
                store, "superbowl", devices, SealOptions(), folder=tmp_path, progress=progress
            )
        )  # fmt: skip
        await asyncio.to_thread(sealing.wait, 60)
        await campaigns.edit(store, "superbowl", OTHER_TEXT, "c.toml")
        edited.set()
        with pytest.raises(LifecycleError, match="was edited while its audience was being sealed"):
            await task
        assert (await store.launch("superbowl"))[0].state is State.DRAFT

    on_disk(work)


def test_sealing_that_is_called_off_ends_soon_and_leaves_nothing(tmp_path: Path, devices: AudienceSource) -> None:
    async def work(store: Store) -> None:
        await campaigns.create(store, "superbowl", TEXT, "c.toml")
        sealing, cancelled = threading.Event(), threading.Event()

        def progress(done: int, total: int | None) -> None:
            sealing.set()
            cancelled.wait(60)

        task = asyncio.create_task(
            campaigns.seal_campaign(
                store, "superbowl", devices, SealOptions(), folder=tmp_path, progress=progress
            )
        )  # fmt: skip
        await asyncio.to_thread(sealing.wait, 60)
        task.cancel()
        await asyncio.sleep(0)  # the task hears of it
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list((tmp_path / "snapshots").iterdir()) == []
        assert (await store.launch("superbowl"))[0].state is State.DRAFT

    on_disk(work)


def test_a_snapshot_is_sealed_to_a_folder_of_ones_choice(tmp_path: Path, devices: AudienceSource) -> None:
    async def work(store: Store) -> None:
        await campaigns.create(store, "superbowl", TEXT, "c.toml")
        out = tmp_path / "chosen"
        made = await campaigns.seal_campaign(
            store, "superbowl", devices, SealOptions(), folder=tmp_path, out=str(out)
        )  # fmt: skip
        assert made.url == str(out)
        with pytest.raises(InputError, match="exists and is another snapshot"):
            few = SealOptions(limit=10)
            await campaigns.seal_campaign(store, "superbowl", devices, few, folder=tmp_path, out=str(out))

    on_disk(work)
