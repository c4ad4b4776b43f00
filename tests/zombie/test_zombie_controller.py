"""The controller: what is published is what was decided, people are obeyed, and nothing that fails costs protection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watch_data import Watch, rules
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, sealed

from flashcast.clock import FixedClock
from flashcast.errors import BusyError, EnvironmentFault, InputError
from flashcast.zombie import orders
from flashcast.zombie.controller import CONFLICTS_MAX
from flashcast.zombie.document import Level, Writes
from flashcast.zombie.envelope import seal
from flashcast.zombie.levels import Why
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.shield import raised, shield_of
from flashcast.zombie.targets import Stored, Target, open_target
from flashcast.zombie.trace import replay_file

N, S, Z, R = Level.NORMAL, Level.SHIELDED, Level.ZOMBIE, Level.RECOVERING
T = TypeVar("T")


def run(story: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await story()

    return asyncio.run(whole())


# --- Signals become documents -------------------------------------------------------------------------


def test_a_bad_signal_is_published_as_the_rules_say_and_an_incident_has_a_name(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(2)
        assert (watch.published.level, watch.published.buckets) == (N, 0)
        await watch.until(Z, errors=50)
        said = watch.published
        assert (said.buckets, said.off, said.keep, said.writes) == (1000, ("*",), ("payments",), Writes.QUEUE)
        assert (said.manual, said.poll_s) == (None, 20)
        assert said.salt.startswith("salt-")
        assert said.incident.startswith("auto-20")
        assert "normal -> zombie, 100 % of users in it: down: errors is 50, above 10 for 5 s" in watch.told("changed")
        assert [event.document for event in watch.events if event.kind == "published"][-1] == said

    run(story)


def test_users_are_let_back_in_by_the_same_salt_until_all_is_normal(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.until(Z, errors=50)
        salt, steps = watch.published.salt, []
        while await watch.goes_on(errors=0) is not N:
            said = watch.published
            if said.level is R and said.buckets not in steps:
                steps.append(said.buckets)
                assert (said.salt, said.off, said.keep) == (salt, ("*",), ("payments",))
        assert steps == [900, 500, 0]
        await watch.goes_on()
        assert (watch.published.level, watch.published.buckets, watch.published.off) == (N, 0, ())
        drain_s = watch.rules.levels.zombie.drain_s
        assert watch.published.drain_s == drain_s, "who hears of it only now drains by the same period"
        await watch.until(S, latency=50)
        assert watch.published.salt != salt
        assert watch.published.off == ("feed",)

    run(story)


def test_a_document_is_published_anew_before_it_expires(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path, said=rules(lasts_s=600)).begins()
        await watch.goes_on(2)
        first = watch.published
        left = []
        for _ in range(200):
            await watch.goes_on(10, every_s=10)
            left.append(watch.published.expires_at - watch.clock.time())
        assert min(left) > 250
        assert watch.published.version > first.version
        assert watch.published.terms == first.terms

    run(story)


def test_what_is_published_already_is_not_published_again(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(300, every_s=5)
        assert len(watch.told("published")) == 1

    run(story)


def test_a_dry_run_decides_and_publishes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path, dry_run=True).begins()
        assert await watch.goes_on(10, errors=50) is Z
        assert read_published(watch.target, "shop", TRUSTED).document is None

    run(story)


# --- People and launches ------------------------------------------------------------------------------


def on(watch: Watch, for_s: float = 600, **changes: object) -> orders.Act:
    found = read_published(watch.target, "shop", TRUSTED)
    return orders.switch_on(
        found.document, watch.clock.time(), app="shop", level=Z, look=watch.rules.levels.zombie, for_s=for_s, by="kim",
        salt="by-hand", expect=found.version, **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_person_switches_on_from_anywhere_and_the_controller_neither_lowers_nor_raises_it(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(2)
        theirs = watch.somebody_publishes(on(watch, off=["feed"], share=0.2))
        await watch.goes_on(300, errors=0)
        await watch.goes_on(280, errors=50)
        assert watch.published == theirs
        assert "kim has published zombie for 20 % of users for " in watch.told("changed")[0]

    run(story)


def test_when_a_persons_time_is_over_the_controller_goes_on_before_the_document_expires(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        theirs = watch.somebody_publishes(on(watch, off=["feed", "ads"], share=0.6))
        await watch.goes_on(600, errors=None, latency=0)
        await watch.goes_on(20)
        said = watch.published
        assert watch.clock.time() < theirs.expires_at < said.expires_at
        # A signal is missing, so it holds; and what is off stays what the person chose.
        assert (said.level, said.buckets, said.off, said.manual, said.salt) == (
            Z,
            600,
            ("feed", "ads"),
            None,
            "by-hand",
        )
        await watch.until(R, errors=0)
        assert (watch.published.buckets, watch.published.off) == (500, ("feed", "ads"))

    run(story)


def test_a_person_who_switches_off_is_obeyed_while_signals_are_bad(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.until(Z, errors=50)
        found = watch.published
        now = watch.clock.time()
        watch.somebody_publishes(orders.switch_off(found, now, app="shop", for_s=300, by="kim", expect=found.version))
        await watch.goes_on(290)
        assert watch.published.level is N
        await watch.until(Z)
        assert watch.clock.time() >= now + 300

    run(story)


def test_a_person_who_begins_recovery_hands_it_to_the_controller(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.until(Z, errors=50)
        await watch.goes_on(5, errors=None)
        found = watch.published
        watch.somebody_publishes(
            orders.recover(found, watch.clock.time(), by="kim", expect=found.version, steps=(0.5, 1.0))
        )
        await watch.goes_on(60)
        assert (watch.published.level, watch.published.buckets) == (R, 500)
        await watch.until(N, errors=0)

    run(story)


def test_a_launchs_shield_lasts_its_time_and_zombie_may_come_above_it(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(2)
        shield = shield_of({"app": "shop", "minutes": 10, "features": ["feed"]})
        found, begun = watch.published, watch.clock.time()
        act = raised(shield, "superbowl-1", found, begun, salt="s9", expect=found.version)
        assert act.terms is not None
        publish(watch.target, act.terms, [KEY], lasts_s=act.lasts_s, expect=act.expect, clock=watch.clock)
        await watch.goes_on(200)
        assert (watch.published.level, watch.published.off) == (S, ("feed",))
        await watch.until(Z, errors=50)
        assert watch.published.manual is not None
        assert watch.published.manual.by == "launch:superbowl-1"
        await watch.until(R, errors=0)
        assert watch.clock.time() >= begun + 600
        assert watch.published.manual is None

    run(story)


class Meddled:
    """A target where something happens before a write."""

    def __init__(self, inner: Target) -> None:
        self.inner, self.parallel, self.before_write = inner, inner.parallel, lambda: None

    @property
    def url(self) -> str:
        return self.inner.url

    def exclusive(self) -> AbstractContextManager[None]:
        before, self.before_write = self.before_write, lambda: None
        before()
        return self.inner.exclusive()

    def read(self, name: str) -> Stored | None:
        return self.inner.read(name)

    def write(self, name: str, data: bytes, over: Stored | None) -> bool:
        return self.inner.write(name, data, over)


def test_a_decision_of_somebody_elses_is_never_overwritten_unseen(tmp_path: Path) -> None:
    async def story() -> None:
        target = Meddled(open_target(tmp_path / "site"))
        watch = await Watch(tmp_path, target=target).begins()
        await watch.goes_on(2)
        # At the very moment at which the controller publishes zombie, a person publishes normal.
        found = watch.published
        act = orders.switch_off(found, watch.clock.time(), app="shop", for_s=300, by="kim", expect=found.version)
        target.before_write = lambda: publish(
            target.inner, act.terms, [KEY], lasts_s=act.lasts_s, expect=act.expect, clock=watch.clock
        )
        await watch.goes_on(250, errors=50)
        assert watch.published.level is N
        assert watch.published.manual is not None
        assert watch.told("fault") == []

    run(story)


def test_a_second_controller_of_one_mind_follows_and_one_that_contradicts_is_noticed(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FixedClock(NOW)
        site = open_target(tmp_path / "site")
        quick = {"levels": {"zombie": {"off": ["*"], "min_s": 0, "poll_s": 5, "poll_jitter_s": 0}}, "look_s": 0.5}
        said = rules(**quick, recovery={"step_min_s": 5, "back_min_s": 0, "steps": [1.0]}, rules={
            "down": {"signal": "errors", "level": "zombie", "above": 10, "clear": 4, "for_s": 0, "clear_for_s": 0}
        })  # fmt: skip
        one = await Watch(tmp_path, said=said, clock=clock, target=site, name="one").begins()
        two = await Watch(tmp_path, said=said, clock=clock, target=site, name="two").begins()

        async def both(seconds: int, one_sees: float, two_sees: float) -> None:
            one.dials.values["errors"], two.dials.values["errors"] = one_sees, two_sees
            for _ in range(seconds):
                clock.advance(1)
                for watch in (one, two):
                    watch.controller.tick()
                    await watch.controller.settle()

        await both(60, 50, 50)
        assert len(one.told("published")) + len(two.told("published")) <= 3
        with pytest.raises(BusyError, match="another controller is at work"):
            await both(60 * CONFLICTS_MAX, 50, 0)

    run(story)


def test_two_controllers_whose_rules_differ_do_not_correct_each_other_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        clock, site = FixedClock(NOW), open_target(tmp_path / "site")
        both = []
        for name, poll_s in (("one", 60), ("two", 90)):
            levels = {"normal": {"poll_s": poll_s}, "zombie": {"off": ["*"], "poll_s": poll_s, "poll_jitter_s": 0}}
            down = {"signal": "errors", "level": "zombie", "above": 10, "clear": 4}
            said = rules(levels=levels, rules={"down": down})
            both.append(await Watch(tmp_path, said=said, clock=clock, target=site, name=name).begins())
        for errors in (0.0, 50.0):
            for watch in both:
                watch.dials.values["errors"] = errors
            for _ in range(200):
                clock.advance(1)
                for watch in both:
                    watch.controller.tick()
                    await watch.controller.settle()
        assert sum(len(watch.told("published")) for watch in both) <= 5

    run(story)


# --- Restarts -----------------------------------------------------------------------------------------


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Watch(tmp_path).begins()
        await before.until(Z, errors=50)
        await before.controller.close()
        said = before.published
        after = await Watch(tmp_path, clock=before.clock).begins()
        await after.goes_on(100, errors=None, latency=None)
        assert after.published == said
        assert after.controller.state.level is Z
        await after.until(R, errors=0, latency=0)
        assert after.published.salt == said.salt

    run(story)


def test_a_controller_that_was_killed_before_it_published_does_so_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Watch(tmp_path).begins()
        await before.goes_on(2)
        before.dials.values["errors"] = 50.0
        while before.controller.state.level is N:
            before.clock.advance(1)
            before.controller.tick()
        # Killed here: the decision is kept, and may or may not be published.
        await before.controller.settle()
        after = await Watch(tmp_path, clock=before.clock).begins()
        await after.goes_on(3, errors=None)
        assert after.published.level is Z

    run(story)


def test_a_new_controller_without_memory_goes_on_from_what_is_published(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Watch(tmp_path).begins()
        await before.until(Z, errors=50)
        await before.until(R, errors=0)
        said = before.published
        after = await Watch(tmp_path, clock=before.clock, name="another").begins()
        await after.goes_on(60, errors=None)
        assert after.published == said
        assert (after.controller.state.level, after.controller.state.buckets) == (R, 900)

    run(story)


def test_after_a_document_has_lapsed_nobody_is_pulled_out_again_for_an_old_incident(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Watch(tmp_path).begins()
        await before.until(Z, errors=50)
        await before.controller.close()
        before.clock.advance(3_700)
        after = await Watch(tmp_path, clock=before.clock).begins()
        await after.goes_on(3, errors=0)
        assert after.published.level is N
        (told,) = after.told("changed")
        assert told.endswith("the document expired while nobody looked: apps are on their own")

    run(story)


def test_two_controllers_on_one_machine_are_one_too_many(tmp_path: Path) -> None:
    first, second = Watch(tmp_path), Watch(tmp_path)
    with first.memory, pytest.raises(BusyError, match="another controller works with"), second.memory:
        pass
    with second.memory:
        pass


def test_rules_that_no_longer_know_the_level_that_was_kept_are_told_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        before = await Watch(tmp_path).begins()
        await before.until(S, latency=50)
        await before.controller.close()
        said = rules(levels={"zombie": {"off": ["*"], "poll_s": 20}}, rules={})
        with pytest.raises(InputError, match=r"levels.shielded: is missing"):
            await Watch(tmp_path, said=said, clock=before.clock).begins()

    run(story)


@pytest.mark.parametrize("data", [b"", b"{}", b"garbage", b'{"format": 2}'])
def test_a_damaged_memory_is_told_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    watch = Watch(tmp_path)
    watch.memory.path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        run(watch.controller.start)


# --- What fails ---------------------------------------------------------------------------------------


class Broken:
    """A target that can be out of order, or hang."""

    def __init__(self, inner: Target) -> None:
        self.inner, self.parallel = inner, inner.parallel
        self.fault = ""
        self.hang: threading.Event | None = None

    @property
    def url(self) -> str:
        return self.inner.url

    def exclusive(self) -> AbstractContextManager[None]:
        return self.inner.exclusive()

    def read(self, name: str) -> Stored | None:
        self._fail()
        return self.inner.read(name)

    def write(self, name: str, data: bytes, over: Stored | None) -> bool:
        self._fail()
        return self.inner.write(name, data, over)

    def _fail(self) -> None:
        if self.hang is not None:
            self.hang.wait(30)
        if self.fault:
            raise EnvironmentFault(self.fault)


def test_a_bucket_out_of_order_is_told_once_and_written_to_when_it_is_back(tmp_path: Path) -> None:
    async def story() -> None:
        target = Broken(open_target(tmp_path / "site"))
        watch = await Watch(tmp_path, target=target).begins()
        await watch.goes_on(2)
        target.fault = "the bucket is on fire"
        assert await watch.goes_on(120, errors=50) is Z
        assert watch.told("fault").count("the bucket is on fire") <= 2
        target.fault = ""
        assert watch.published.level is N
        await watch.goes_on(32)
        assert watch.published.level is Z
        assert "it works again" in watch.told("over")

    run(story)


def test_a_bucket_that_says_nothing_holds_up_no_decision(tmp_path: Path) -> None:
    async def story() -> None:
        target = Broken(open_target(tmp_path / "site"))
        watch = await Watch(tmp_path, target=target).begins()
        await watch.goes_on(2)
        target.hang = threading.Event()
        watch.dials.values["errors"] = 50.0
        for _ in range(30):
            watch.clock.advance(1)
            watch.controller.tick()
        assert watch.controller.state.level is Z
        hang, target.hang = target.hang, None
        hang.set()
        await watch.controller.settle()
        await watch.goes_on(2)
        assert watch.published.level is Z

    run(story)


def test_a_controller_that_cannot_read_what_is_published_does_not_begin(tmp_path: Path) -> None:
    target = Broken(open_target(tmp_path / "site"))
    target.fault = "the bucket is on fire"
    with pytest.raises(EnvironmentFault, match="on fire"):
        run(Watch(tmp_path, target=target).controller.start)


def test_a_file_that_is_not_genuine_is_told_and_not_overwritten(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(2)
        forged = seal(document(), [OTHER])
        (tmp_path / "site" / "shop.json").write_bytes(forged)
        assert await watch.goes_on(60, errors=50) is Z
        assert any("not genuine" in text for text in watch.told("fault"))
        assert (tmp_path / "site" / "shop.json").read_bytes() == forged
        (tmp_path / "site" / "shop.json").write_bytes(sealed(version=NOW))
        await watch.goes_on(60)
        assert watch.published.level is Z

    run(story)


def test_an_old_document_that_was_put_back_is_replaced_by_what_holds(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        await watch.goes_on(2)
        old = (tmp_path / "site" / "shop.json").read_bytes()
        await watch.until(Z, errors=50)
        version = watch.published.version
        (tmp_path / "site" / "shop.json").write_bytes(old)
        await watch.goes_on(15)
        assert watch.published.level is Z
        assert watch.published.version > version

    run(story)


def test_a_trace_or_memory_that_cannot_be_written_is_told_and_costs_no_protection(tmp_path: Path) -> None:
    async def story() -> None:
        watch = await Watch(tmp_path).begins()
        watch.trace.mkdir()
        watch.memory.path.mkdir()
        await watch.until(Z, errors=50)
        assert sorted(event.about for event in watch.events if event.kind == "fault") == ["memory", "trace"]

    run(story)


def test_run_ends_when_it_is_told_to_and_keeps_what_it_knows(tmp_path: Path) -> None:
    async def story() -> None:
        watch = Watch(tmp_path)
        ticks = 0

        async def pass_time(seconds: float) -> None:
            nonlocal ticks
            ticks += 1
            watch.clock.advance(seconds)
            watch.dials.values["errors"] = 50.0
            await watch.controller.settle()
            if ticks == 20:
                watch.controller.end()

        await watch.controller.run(pass_time)
        assert watch.published.level is Z
        kept = watch.memory.load("shop")
        assert kept is not None
        assert (kept.state.level, kept.version) == (Z, watch.published.version)

    run(story)


# --- Replay -------------------------------------------------------------------------------------------

acts = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["errors", "latency"]), st.sampled_from([None, 0.0, 7.0, 50.0])),
    st.tuples(st.sampled_from(["on", "off", "recover", "restart"]), st.integers(30, 200)),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(acts, min_size=3, max_size=12))
def test_a_recorded_trace_replays_to_the_decisions_that_were_made(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("replay")

    async def story() -> list[tuple[str, int, Why]]:
        watch = await Watch(folder, said=rules(look_s=2.0)).begins()
        live = []
        for what, how in [*script, ("wait", 20)]:
            found = read_published(watch.target, "shop", TRUSTED)
            now = watch.clock.time()
            if what == "wait":
                for _ in range(int(str(how))):
                    await watch.goes_on()
                    last = watch.controller._last
                    assert last is not None
                    live.append((last.state.level.value, last.state.buckets, last.why))
                continue
            if what == "restart":
                await watch.controller.close()
                values = watch.dials.values
                watch = await Watch(folder, said=rules(look_s=2.0), clock=watch.clock).begins()
                watch.dials.values = values
            elif what == "on":
                watch.somebody_publishes(on(watch, float(str(how))))
            elif what == "off":
                watch.somebody_publishes(
                    orders.switch_off(
                        found.document, now, app="shop", for_s=float(str(how)), by="kim", expect=found.version
                    )
                )
            elif what == "recover" and found.document is not None and found.document.level is not N:
                if found.document.expires_at > now:
                    watch.somebody_publishes(
                        orders.recover(found.document, now, by="kim", expect=found.version, for_s=float(str(how)))
                    )
            elif what in watch.dials.values:
                watch.dials.values[what] = how  # type: ignore[assignment]
        return live

    live = run(story)
    replayed = replay_file(folder / "kept.trace.jsonl")
    assert replayed.ticks == replayed.compared == len(live)
    assert replayed.differences == ()
    assert replayed.same_rules
    assert (replayed.state.level.value, replayed.state.buckets) == live[-1][:2]
