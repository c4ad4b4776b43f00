"""Finding campaigns and launches in the engine by what an operator calls them. Errors say what there is instead."""

from __future__ import annotations

import difflib
from typing import TypeVar

from pydantic import ValidationError

from flashcast.campaign.lifecycle import State
from flashcast.campaign.names import is_name, split_launch
from flashcast.campaign.records import (
    CAMPAIGNS,
    LAUNCHES,
    AuditEntry,
    AuditPage,
    CampaignRecord,
    DeletedCampaign,
    LaunchRecord,
    Record,
    audit_key,
    campaign_key,
    deleted_key,
    launch_key,
    read_record,
)
from flashcast.campaign.swap import first_come
from flashcast.clock import Clock, SystemClock
from flashcast.engine.base import Engine, Entry
from flashcast.errors import EnvironmentFault, InputError

R = TypeVar("R", bound=Record)


class Lookup:
    """What can be read of campaigns and launches."""

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self.engine = engine
        self.clock = clock or SystemClock()

    async def campaigns(self) -> list[CampaignRecord]:
        """Every campaign, by name."""
        return [self.read(CampaignRecord, entry) for entry in await self.engine.durable.entries(CAMPAIGNS)]

    async def campaign(self, name: str) -> CampaignRecord:
        """The campaign. Raises InputError where there is none of that name."""
        return self.read(CampaignRecord, await self.campaign_entry(name))

    async def campaign_entry(self, name: str) -> Entry:
        """As `campaign`, with its revision."""
        entry = await self._present(campaign_key(name)) if is_name(name) else None
        if entry is None:
            raise await self._unknown("campaign", name)
        return entry

    async def launches(self) -> list[LaunchRecord]:
        """Every launch, by id."""
        return [self.read(LaunchRecord, entry) for entry in await self.engine.durable.entries(LAUNCHES)]

    async def launch(self, name: str) -> tuple[LaunchRecord, int]:
        """The launch of that id, or the latest of the campaign of that name; and its revision.

        Raises InputError where there is neither.
        """
        entry = await self._launch_entry(name)
        return self.read(LaunchRecord, entry), entry.revision

    async def trail(self, record: LaunchRecord) -> tuple[AuditEntry, ...]:
        """Every audit entry of a launch, the oldest first, with those that its record has no room for."""
        entries: list[AuditEntry] = []
        for page in range(record.trail_pages):
            entry = await self._present(audit_key(record.launch, page))
            if entry is None:
                raise EnvironmentFault(f"page {page} of the audit trail of {record.launch} is missing")
            entries += self.read(AuditPage, entry).entries
        return (*entries, *record.trail)

    def read(self, kind: type[R], entry: Entry) -> R:
        """The record in an entry. Raises EnvironmentFault for one that is damaged or of a later format."""
        return read_sound(kind, entry, self.engine)

    async def counted_launch(self, campaign: CampaignRecord) -> Entry:
        """The campaign's latest launch; made here where its maker was interrupted after it had been counted."""
        key = launch_key(campaign.latest)
        found = await self._present(key)
        if found is not None:
            return found
        made = LaunchRecord(
            launch=campaign.latest, campaign=campaign.campaign, state=State.DRAFT, created_at=self.clock.time(),
            campaign_digest=campaign.digest,
        )  # fmt: skip
        return await first_come(self.engine.durable, key, made.to_bytes())

    async def launches_had(self, name: str) -> int:
        """How many launches a campaign of that name had which was deleted, 0 where none was."""
        entry = await self._present(deleted_key(name))
        return 0 if entry is None else self.read(DeletedCampaign, entry).launches

    async def check_free(self, name: str) -> None:
        """Raises InputError where a campaign of that name would be called like a launch, or have one called like it."""
        split = split_launch(name)
        if split is not None and await self._present(campaign_key(split[0])) is not None:
            raise InputError(
                f"campaign name {name}: launches of campaign {split[0]} are called so", remedy="Take another name."
            )
        for other in await self.campaigns():
            parts = split_launch(other.campaign)
            if parts is not None and parts[0] == name:
                raise InputError(
                    f"campaign name {name}: one of its launches would be called like campaign {other.campaign}",
                    remedy="Take another name.",
                )

    async def _launch_entry(self, name: str) -> Entry:
        if not is_name(name):
            raise await self._unknown("campaign or launch", name)
        called, split = await self._present(campaign_key(name)), split_launch(name)
        by_id = await self._present(launch_key(name))
        if called is not None:
            campaign = self.read(CampaignRecord, called)
            if by_id is not None:  # two people made the names at the same moment; see check_free
                raise InputError(
                    f"{name} is a campaign, and a launch of another",
                    remedy=f"Name the campaign's launch by its id: {campaign.latest}.",
                )
            return await self.counted_launch(campaign)
        if by_id is not None:
            return by_id
        of = await self._present(campaign_key(split[0])) if split is not None else None
        if of is not None and (campaign := self.read(CampaignRecord, of)).latest == name:
            return await self.counted_launch(campaign)
        raise await self._unknown("campaign or launch", name)

    async def _present(self, key: str) -> Entry | None:
        entry = await self.engine.durable.get(key)
        return entry if entry is not None and entry.value is not None else None

    async def _unknown(self, kind: str, name: str) -> InputError:
        names = [record.campaign for record in await self.campaigns()]
        if "launch" in kind:
            names += [record.launch for record in await self.launches()]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        remedy = "`flashcast campaign list` shows which there are."
        if not names:
            remedy = "There are none at all: make one with `flashcast campaign create`, or name another --engine."
        elif close:
            remedy = f"Did you mean {close[0]}?"
        return InputError(f"there is no {kind} {name!r} in {self.engine.address}", remedy=remedy)


def read_sound(kind: type[R], entry: Entry, engine: Engine) -> R:
    """As `read_record`. Raises EnvironmentFault, which names the engine, for a record that cannot be read."""
    try:
        return read_record(kind, entry)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the document"
        raise EnvironmentFault(
            f"{entry.key} in {engine.address} cannot be read: {where}: {fault['msg']}",
            remedy="A newer Flashcast may have written it: use that one, or restore the engine's backup.",
        ) from None
