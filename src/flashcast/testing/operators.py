"""The people of a simulation: they create, seal, arm, approve, press GO, and change their minds, by the real code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from flashcast.campaign.lifecycle import Input, State
from flashcast.campaign.records import LaunchRecord
from flashcast.campaign.store import Operator, Store
from flashcast.engine.base import EngineUnavailable
from flashcast.errors import BusyError, InputError, Lost
from flashcast.go.abort import abort
from flashcast.go.release import approve, press_go
from flashcast.launch_control.orders import pause, resume
from flashcast.testing.scenario import Launch
from flashcast.testing.sealed import CAMPAIGN

if TYPE_CHECKING:
    from flashcast.testing.fleet import World

T = TypeVar("T")
LOOK_S: Final = 0.1
"""How often somebody looks at the launch."""
GUARD_LOOK_S: Final = 0.5


class Operators:
    """The people of one campaign. Each has an engine client of their own."""

    def __init__(self, world: World, terms: Launch) -> None:
        self._world = world
        self._edits = 0
        self._stores = 0
        self.terms = terms
        self.campaign = terms.campaign
        self.launch = f"{terms.campaign}-1"
        self.snapshots = [world.snapshots[shape] for shape in terms.shapes]
        """What is sealed, another after each edit."""
        self.won: list[str] = []
        """Whose GO was said to have made the launch live."""

    def _store(self, name: str) -> Store:
        world = self._world
        self._stores += 1
        # Ids of audit entries come from it: two stores with the same would take each other's writes for their own.
        rng = world.random_for(f"store {self.campaign} {self._stores}")
        return Store(world.client(name), Operator(name, "office"), world.office_clock, rng)

    # --- towards GO ----------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Brings the launch to GO, whatever others do to it meanwhile; ends when it is live or aborted."""
        await asyncio.sleep(self.terms.starts_s)
        store = self._store("anna")
        await self._create(store)
        while True:
            record, _ = await self._insist(lambda: store.launch(self.launch))
            if record.go is not None or record.ended:
                return
            try:
                await self._next_step(store, record)
            except (EngineUnavailable, BusyError, InputError):
                pass  # somebody else was faster, or nobody answers: look again
            await asyncio.sleep(LOOK_S)

    async def _create(self, store: Store) -> None:
        """Creates the campaign; that there is one by that name is what an answer that was lost comes to."""
        while True:
            try:
                await store.create_campaign(self.campaign, CAMPAIGN)
                return
            except InputError:
                return
            except EngineUnavailable:
                await asyncio.sleep(LOOK_S)

    async def _next_step(self, store: Store, record: LaunchRecord) -> None:
        if record.state is State.DRAFT:
            # The campaign's text comes last in an edit: what was edited half is edited again.
            if (await store.campaign(self.campaign)).digest != record.campaign_digest:
                await self.edit(store)
            else:
                await store.transition(self.launch, Input.SEAL, self._sealed)
        elif record.state is State.SEALED:
            await store.transition(
                self.launch, Input.ARM, lambda record: record.model_copy(update={"chunk_rows": self.terms.chunk_rows})
            )
        elif record.state is State.ARMED:
            if record.require_approval and record.approval is None:
                await approve(self._store("bob"), self.launch)
            await self._press()

    def _sealed(self, record: LaunchRecord) -> LaunchRecord:
        terms, sealed = self.terms, self.snapshots[self._edits % len(self.snapshots)]
        return record.model_copy(
            update={
                "snapshot": sealed.ref, "window_s": terms.window_s, "unknown_policy": terms.policy,
                "pace": dict(terms.pace), "stages": terms.stages, "guard": terms.guard,
                "require_approval": terms.require_approval, "approval": None,
            }
        )  # fmt: skip

    async def _press(self) -> None:
        """Several press GO at the same instant."""
        names = ["anna", "carol", "dave", "erin", "frank"][: self.terms.pressers]
        await asyncio.gather(*(self._press_one(name) for name in names))

    async def _press_one(self, name: str) -> None:
        store = self._store(name)
        try:
            await press_go(store, self.launch)
            self.won.append(name)
            self._world.trace.note(f"{name} pressed GO for {self.launch} and won")
        except Lost as error:
            self._world.trace.note(f"{name} pressed GO for {self.launch} and lost to {error.by}")
        except (EngineUnavailable, BusyError, InputError) as error:
            self._world.trace.note(f"{name} pressed GO for {self.launch}: {error.message}")

    # --- second thoughts -----------------------------------------------------------------------------------

    async def attend(self) -> None:
        """Looks at a live launch now and then; where the misfire guard has paused it, half the time lets it go on."""
        store, rng = self._store("guardian"), self._world.random_for(f"guardian {self.campaign}")
        while True:
            await asyncio.sleep(GUARD_LOOK_S)
            try:
                record, _ = await store.launch(self.launch)
                if record.ended:
                    return
                if record.paused is not None and record.paused.guard and rng.random() < 0.5:
                    await resume(store, self.launch)
            except (EngineUnavailable, BusyError, InputError):
                pass

    async def hold(self, until: Callable[[], Awaitable[object]]) -> None:
        """Pauses the launch, and resumes it when ``until`` returns."""
        store = self._store("gina")
        if await self._try(lambda: pause(store, self.launch, "a second thought")):
            await until()
            while not await self._try(lambda: resume(store, self.launch)):
                record, _ = await self._insist(lambda: store.launch(self.launch))
                if record.paused is None or record.ended:
                    return
                await asyncio.sleep(LOOK_S)

    async def call_off(self) -> None:
        """Aborts."""
        await self._try(lambda: abort(self._store("henry"), self.launch))

    async def disarm(self) -> None:
        """Disarms."""
        await self._try(lambda: self._store("ivan").transition(self.launch, Input.DISARM))

    async def edit(self, store: Store | None = None) -> None:
        """Edits the campaign."""
        self._edits += 1
        text = CAMPAIGN.replace("one to nil", f"{self._edits + 1} to nil")
        await self._try(lambda: (store or self._store("judy")).edit_campaign(self.campaign, text))

    # --- patience ------------------------------------------------------------------------------------------

    async def _try(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was done; a refusal is noted."""
        try:
            await work()
        except (EngineUnavailable, BusyError, InputError) as error:
            self._world.trace.note(f"refused: {error.message}")
            return False
        return True

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Until there is an answer; what is there is found in the end, however far reads lag behind."""
        while True:
            try:
                return await work()
            except (EngineUnavailable, InputError):
                await asyncio.sleep(LOOK_S)
