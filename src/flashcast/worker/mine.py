"""A shard that this worker holds, and how far its claims are."""

from __future__ import annotations

from dataclasses import dataclass, field

from flashcast.audience.manifest import ShardFacts
from flashcast.audience.shards import Shard
from flashcast.deliver.claims import Span


@dataclass
class Mine:
    """One shard in one epoch.

    free --take--> held --prepare--> ready --(claims of earlier owners looked at)--> resolved --> settled
                                                                          any of these --> lost
    """

    index: int
    epoch: int
    revision: int
    """Of its record, for the compare-and-swap that settles or releases it."""
    facts: ShardFacts
    from_worker: str = ""
    """Who held it before, where somebody did."""
    since_ns: int = 0
    shard: Shard | None = None
    spans: list[Span] = field(default_factory=list)
    following: int = 0
    """The span to claim next; those before it are claimed, by us or by somebody else."""
    dealt: set[int] = field(default_factory=set)
    """Chunks that earlier owners had claimed and that were dealt with when the shard was taken over."""
    asked: int = 0
    """Claims under way."""
    claimed: set[int] = field(default_factory=set)
    """Chunks whose claim is ours."""
    resolved: bool = False
    after_go: bool = False
    """Whether it was taken over in a live launch, as far as this worker knew then; for the report."""
    inherited: bool = False
    """Whether an earlier owner's journal could be read."""
    failed: bool = False
    """It could not be made ready here, and is to be given back."""
    settled: bool = False
    lost: bool = False
    written: bool = False
    """Whether an outcome file of ours, for a shard that was lost, has been written."""

    @property
    def ready(self) -> bool:
        """Whether it is mapped and checked."""
        return self.shard is not None

    @property
    def open(self) -> bool:
        """Whether there is still work on it for us."""
        return not (self.settled or self.lost)

    def next_chunk(self, stage: int) -> int | None:
        """The chunk to claim next in the stages up to ``stage``, None where there is none."""
        while self.following < len(self.spans) and self.following in self.dealt:
            self.following += 1
        if self.following >= len(self.spans) or self.spans[self.following].stage > stage:
            return None
        return self.following

    def exhausted(self, stage: int) -> bool:
        """Whether every chunk of the stages up to ``stage`` is claimed."""
        return self.resolved and not self.asked and self.next_chunk(stage) is None
