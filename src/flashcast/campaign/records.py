"""The documents of launch control, as they lie in the engine. JSON, one per key; every change is a compare-and-swap.

durable
    campaigns.<campaign>             CampaignRecord   the text as it was given, and its digest
    launches.<launch>                LaunchRecord     one lifecycle; carries its own audit trail
    shards.<launch>.<shard>          ShardRecord      who holds a shard, in which epoch, and whether it is settled
    claims.<launch>.<shard>.<chunk>  ClaimRecord      who may send a chunk: created before any of its rows is sent
    audit.<launch>.<page>            AuditPage        entries that a launch's record has no more room for
    deleted.<campaign>               DeletedCampaign  how many launches a name has had that was deleted
volatile
    workers.<worker>                 Beat             heartbeat, readiness and progress in one (arm/readiness.py)

No secret is in any of them: credentials stay on the workers.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from flashcast.campaign.lifecycle import ENDED, Input, State
from flashcast.engine.base import Entry
from flashcast.limits import CHUNK_ROWS
from flashcast.model import Provider, UnknownPolicy
from flashcast.zombie.shield import Shield

CAMPAIGNS: Final = "campaigns"
LAUNCHES: Final = "launches"
SHARDS: Final = "shards"
CLAIMS: Final = "claims"
WORKERS: Final = "workers"
AUDIT: Final = "audit"
DELETED: Final = "deleted"


class Record(BaseModel):
    """A document in the engine. What a newer version added is ignored by an older one, so fleets upgrade in steps."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_bytes(self) -> bytes:
        """The value to write."""
        return self.model_dump_json(exclude_defaults=True).encode()


class CampaignRecord(Record):
    """A campaign under its name. ``digest`` is the SHA-256 of ``text``."""

    campaign: str
    text: str
    digest: str
    at: float
    by: str
    launches: int = 0
    """How many launches it has had: the latest is ``<campaign>-<launches>``."""

    @property
    def latest(self) -> str:
        """The id of its latest launch."""
        return f"{self.campaign}-{self.launches}"


class AuditEntry(Record):
    """One transition: who did what, when (Unix time) and from which machine, and to exactly what.

    ``id`` is its writer's random word: after a write without an answer it tells whether the write happened.
    """

    id: str = ""
    at: float
    by: str
    host: str
    what: Input
    before: State
    after: State
    campaign_digest: str = ""
    snapshot_digest: str = ""
    note: str = ""


class AuditPage(Record):
    """`limits.TRAIL_PAGE` entries, the oldest first. Written once: whoever moves them writes the same."""

    entries: tuple[AuditEntry, ...]


class Stage(Record):
    """A part of the audience that goes first: ``share`` of it, cumulative; then ``hold_s`` to look at the replies."""

    share: float = Field(gt=0, lt=1)
    hold_s: float = Field(5.0, ge=0)


class GuardTerms(Record):
    """The misfire guard's bounds; see go/guard.py."""

    replies: int = Field(200, ge=1)
    """Replies of one provider before a share means anything."""
    stop_share: float = Field(0.05, gt=0, le=1)
    bad_token_share: float = Field(0.3, gt=0, le=1)


class SnapshotRef(Record):
    """Which snapshot, where: ``url`` is an absolute path or an object storage URL of its folder."""

    url: str
    digest: str
    sealed_at: float
    rows: dict[Provider, int]
    shards: int


class Approval(Record):
    """Another operator's word for exactly these digests, bound for ``to`` as `LaunchRecord.to` says it."""

    by: str
    at: float
    campaign_digest: str
    snapshot_digest: str
    to: str = ""
    """Empty where an earlier version wrote it: such a word is for no destination."""


class Go(Record):
    """Who pressed GO, when (Unix time at the presser) and where."""

    at: float
    by: str
    host: str


class Pause(Record):
    """Why nothing is sent for now. ``by`` is an operator, or the worker whose misfire guard tripped."""

    at: float
    by: str
    why: str
    guard: bool = False


class LaunchRecord(Record):
    """A launch. See campaign/lifecycle.py for what may happen to it when."""

    format: Literal[1] = 1
    launch: str
    campaign: str
    state: State
    created_at: float
    campaign_digest: str = ""
    require_approval: bool = False
    snapshot: SnapshotRef | None = None
    window_s: float = 60.0
    unknown_policy: UnknownPolicy = UnknownPolicy.DROP
    pace: dict[Provider, float] = {}
    stages: tuple[Stage, ...] = ()
    guard: GuardTerms | None = None
    shield: Shield | None = None
    """What the app does without while the herd comes."""
    chunk_rows: int = CHUNK_ROWS
    to: str = "production"
    """``production`` or ``sandbox`` with each worker's own settings, or the absolute path of a flashcast.toml."""
    arming: int = 0
    """How many times it was armed. What a worker has made ready for an earlier time is not what is armed now."""
    approval: Approval | None = None
    go: Go | None = None
    stage: int = 0
    """The stage that is open: chunks of stages up to this one may be claimed."""
    paused: Pause | None = None
    guard_off: bool = False
    """An operator has seen the guard's reason and gone on."""
    closed_at: float | None = None
    """When the last shard was settled, after an end by itself or an abort that came after GO."""
    trail: tuple[AuditEntry, ...] = ()
    """The latest entries; `trail_pages` pages of `limits.TRAIL_PAGE` older ones lie beside the record."""
    trail_pages: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more can be sent."""
        return self.state in ENDED

    @property
    def settling(self) -> bool:
        """Whether workers still have books to close: live, or aborted after GO and not closed."""
        return self.go is not None and self.closed_at is None

    @property
    def rows(self) -> int:
        """Rows of the snapshot, 0 before there is one."""
        return sum(self.snapshot.rows.values()) if self.snapshot is not None else 0

    @property
    def last_stage(self) -> int:
        """The number of the stage that takes everybody."""
        return len(self.stages)


class Remains(Record):
    """Files of a launch that was deleted, which are to go too: its snapshot's place and digest."""

    launch: str
    url: str
    digest: str


class DeletedCampaign(Record):
    """What stays of a campaign that was deleted: a new one of the name goes on counting its launches.

    ``remains`` is empty but while files are being removed.
    """

    campaign: str
    launches: int
    at: float
    by: str
    remains: tuple[Remains, ...] = ()


class ShardRecord(Record):
    """Who holds a shard. ``epoch`` rises with every owner; ``settled`` when each of its rows has an outcome."""

    owner: str | None = None
    epoch: int = 0
    settled: bool = False


class ClaimRecord(Record):
    """Who may send a chunk's rows."""

    worker: str
    epoch: int


def launch_key(launch: str) -> str:
    return f"{LAUNCHES}.{launch}"


def campaign_key(campaign: str) -> str:
    return f"{CAMPAIGNS}.{campaign}"


def deleted_key(campaign: str) -> str:
    return f"{DELETED}.{campaign}"


def shard_key(launch: str, shard: int) -> str:
    return f"{SHARDS}.{launch}.{shard}"


def claim_key(launch: str, shard: int, chunk: int) -> str:
    return f"{CLAIMS}.{launch}.{shard}.{chunk}"


def audit_key(launch: str, page: int) -> str:
    return f"{AUDIT}.{launch}.{page}"


def worker_key(worker: str) -> str:
    return f"{WORKERS}.{worker}"


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], entry: Entry) -> R:
    """The record in an entry that has a value. Raises pydantic's ValidationError for one that is damaged."""
    assert entry.value is not None
    return kind.model_validate_json(entry.value)


def as_document(record: Record) -> dict[str, Any]:
    """The whole record for `--json`, defaults included."""
    return record.model_dump(mode="json")
