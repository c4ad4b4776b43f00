"""Campaigns and launches in the engine: who may do what when, and the trail of what was done.

Every transition of a launch is one compare-and-swap of its record, checked against the lifecycle's table and carrying
its audit entry with it. An answer that never came is found out about by the entry's id, so nothing is done twice.

Two keys cannot be written at once, so where a use case needs both a campaign and a launch the order makes it safe:

    a new launch    the campaign counts it first; whoever meets a launch that is counted and not there makes it
    an edit         the launch goes back to draft, with the new digest, before the campaign gets its new text: between
                    the two (and after a crash there) the digests differ, and nothing is sealed until they are the same

All times are Unix times from the clock that is given.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flashcast.campaign.lifecycle import Input, State, following
from flashcast.campaign.lookup import Lookup
from flashcast.campaign.names import checked_name
from flashcast.campaign.records import (
    AuditEntry,
    AuditPage,
    CampaignRecord,
    LaunchRecord,
    audit_key,
    campaign_key,
    launch_key,
)
from flashcast.campaign.refusal import lost, refusal
from flashcast.campaign.swap import first_come, swap
from flashcast.clock import Clock
from flashcast.engine.base import Engine, Entry
from flashcast.errors import InputError, LifecycleError
from flashcast.limits import (
    CAMPAIGN_TEXT_BYTES_MAX,
    LAUNCHES_MAX,
    NOTE_CHARS_MAX,
    OPERATOR_CHARS_MAX,
    TRAIL_MAX,
    TRAIL_PAGE,
)

Amend = Callable[[LaunchRecord], LaunchRecord]
"""The record as it was read -> the record with what the transition adds to it. May raise what refuses it."""

_RACING: Final = frozenset({State.ARMED, State.LIVE})


@dataclass(frozen=True, slots=True)
class Operator:
    """On whose behalf the engine is written to: a person, or a worker by its id; and from which machine."""

    name: str
    host: str

    def __post_init__(self) -> None:
        name = self.name
        if not (0 < len(name) <= OPERATOR_CHARS_MAX and name.isprintable() and name == name.strip()):
            raise InputError(f"operator {name!r}: not 1 to {OPERATOR_CHARS_MAX} characters that can be printed")
        # A machine's name is nothing an operator could mend here.
        object.__setattr__(self, "host", self.host[:OPERATOR_CHARS_MAX] or "unknown")


class Store(Lookup):
    """What launch control knows, and every change of it. Holds nothing but the engine, so tasks may share it.

    ``rng`` makes the ids of audit entries: 64 bits, by default from the operating system.
    """

    def __init__(
        self, engine: Engine, operator: Operator, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        super().__init__(engine, clock)
        self.operator = operator
        self._rng = rng or random.SystemRandom()

    def __repr__(self) -> str:
        return f"<Store {self.engine.address} for {self.operator.name}>"

    async def create_campaign(self, name: str, text: str, file: str = "campaign.toml") -> CampaignRecord:
        """A new campaign with its first launch in draft; under the name of one that was deleted it counts on.

        Raises CampaignError for what is wrong with the text of ``file``, InputError for a name that is taken.
        """
        await self.check_free(checked_name(name))
        record = CampaignRecord(
            campaign=name, text=text, digest=checked_digest(text, file), at=self.clock.time(), by=self.operator.name,
            launches=await self.launches_had(name) + 1,
        )  # fmt: skip
        if record.launches > LAUNCHES_MAX:
            raise InputError(f"campaigns called {name} have had {LAUNCHES_MAX} launches", remedy="Take another name.")
        there = await first_come(self.engine.durable, campaign_key(name), record.to_bytes())
        if there.value != record.to_bytes():
            raise InputError(
                f"there is a campaign {name} already, by {self.read(CampaignRecord, there).by}",
                remedy=f"Change it with `flashcast campaign edit {name} FILE`, or take another name.",
            )
        await self.counted_launch(record)
        return record

    async def edit_campaign(self, name: str, text: str, file: str = "campaign.toml") -> CampaignRecord:
        """Gives a campaign another text. Its open launch goes back to draft first: sealed is only what was said then.

        Raises CampaignError, LifecycleError while a launch is live, InputError where another edit came in between.
        """
        digest = checked_digest(text, file)
        mine: set[str] = set()

        async def change(entry: Entry) -> bytes | None:
            # The launch is read after the campaign. So of two who edit at once, the one whose digest stands in the
            # launch writes the text; the other finds the campaign's revision or the launch's digest changed.
            campaign = self.read(CampaignRecord, entry)
            launch, _ = await self.launch(campaign.latest)
            if launch.launch in mine and launch.campaign_digest != digest:
                raise InputError(
                    f"campaign {name} was edited by {launch.trail[-1].by} at the same time, and theirs is what stands",
                    remedy=f"See it with `flashcast campaign show {name}`, and edit again.",
                )
            if not launch.ended and launch.launch not in mine:
                await self._redraft(launch, digest)
                mine.add(launch.launch)
            if campaign.digest == digest:
                return None
            edited = {"text": text, "digest": digest, "at": self.clock.time(), "by": self.operator.name}
            return campaign.model_copy(update=edited).to_bytes()

        entry = await self.campaign_entry(name)
        return self.read(CampaignRecord, await swap(self.engine.durable, entry, change))

    async def _redraft(self, launch: LaunchRecord, digest: str) -> None:
        """The launch goes back to draft under the new digest. A text that is no other one changes nothing."""
        if launch.campaign_digest == digest and following(launch.state, Input.EDIT) is not None:
            return
        fresh = {"campaign_digest": digest, "snapshot": None, "approval": None}
        await self.transition(launch.launch, Input.EDIT, lambda record: record.model_copy(update=fresh))

    async def open_launch(self, name: str) -> tuple[LaunchRecord, int]:
        """As `launch`; where a campaign's latest has ended, the next is opened, in draft."""
        record, revision = await self.launch(name)
        if not record.ended:
            return record, revision
        entry = await self.campaign_entry(record.campaign)
        campaign = self.read(CampaignRecord, entry)
        if record.launch != campaign.latest:
            if name != record.launch:
                return await self.launch(campaign.latest)  # somebody has opened it just now
            raise LifecycleError(
                f"launch {record.launch} has ended, and the latest of its campaign is {campaign.latest}",
                remedy=f"Name the campaign: {campaign.campaign}.",
            )
        number = campaign.launches + 1
        if number > LAUNCHES_MAX:
            raise LifecycleError(
                f"campaign {campaign.campaign} has had {LAUNCHES_MAX} launches", remedy="Create another campaign."
            )

        async def change(entry: Entry) -> bytes | None:
            there = self.read(CampaignRecord, entry)
            return None if there.launches >= number else there.model_copy(update={"launches": number}).to_bytes()

        counted = self.read(CampaignRecord, await swap(self.engine.durable, entry, change))
        return await self.launch(counted.latest)

    async def transition(
        self,
        launch: str,
        what: Input,
        change: Amend | None = None,
        note: str = "",
        *,
        at: float | None = None,
        seen: LaunchRecord | None = None,
    ) -> LaunchRecord:
        """Does ``what`` to the launch, with what ``change`` adds to its record; returns the record as it stands then.

        ``change`` may be called more than once: when somebody else writes first, the new record is judged anew. ``at``
        is the entry's Unix time, by default now. ``seen`` is the launch as the operator last saw it: a GO for what was
        armed then is told who was quicker, also where all is over by now. Raises LifecycleError where the table does
        not allow it, Lost for a GO that came second, whatever ``change`` raises, and EngineUnavailable where it is
        unknown in the end whether it was done.
        """
        pressed_at = self.clock.time() if at is None else at
        entry_id = f"{self._rng.getrandbits(64):016x}"
        first, revision = await self.launch(launch)
        racing = _RACING & {first.state, (seen or first).state}

        async def amended(entry: Entry) -> bytes | None:
            before = self.read(LaunchRecord, entry)
            if any(made.id == entry_id for made in before.trail):
                return None
            after = following(before.state, what)
            if after is None:
                if what is Input.GO and before.go is not None and racing:
                    raise lost(before, pressed_at)
                raise refusal(before, what)
            turned = {"state": after, "arming": before.arming + (what is Input.ARM)}
            record = (before if change is None else change(before)).model_copy(update=turned)
            made = AuditEntry(
                id=entry_id, at=pressed_at, by=self.operator.name, host=self.operator.host, what=what,
                before=before.state, after=after, campaign_digest=record.campaign_digest,
                snapshot_digest=record.snapshot.digest if record.snapshot is not None else "",
                note=note[:NOTE_CHARS_MAX],
            )  # fmt: skip
            return (await self._with_entry(record, made)).to_bytes()

        entry = Entry(launch_key(first.launch), first.to_bytes(), revision)
        return self.read(LaunchRecord, await swap(self.engine.durable, entry, amended))

    async def _with_entry(self, record: LaunchRecord, made: AuditEntry) -> LaunchRecord:
        """The record with one more entry; where it is full, its oldest are kept on a page of their own first."""
        if len(record.trail) < TRAIL_MAX:
            return record.model_copy(update={"trail": (*record.trail, made)})
        # Entries never change, so everybody who gets here writes the same page: it does not matter who is first.
        page = AuditPage(entries=record.trail[:TRAIL_PAGE])
        await first_come(self.engine.durable, audit_key(record.launch, record.trail_pages), page.to_bytes())
        kept = (*record.trail[TRAIL_PAGE:], made)
        return record.model_copy(update={"trail": kept, "trail_pages": record.trail_pages + 1})


def checked_digest(text: str, file: str) -> str:
    """The SHA-256 of a campaign's text. Raises CampaignError for a text that is no campaign."""
    from flashcast.campaign.load import parse_campaign

    data = text.encode()
    if len(data) > CAMPAIGN_TEXT_BYTES_MAX:
        raise InputError(f"{file}: {len(data):,} bytes; a campaign has at most {CAMPAIGN_TEXT_BYTES_MAX:,}")
    parse_campaign(data, file)
    return hashlib.sha256(data).hexdigest()
