"""Deliberate breaks, to see that the simulation finds them: a checker that has never failed has proved nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from flashcast.campaign.records import CLAIMS
from flashcast.deliver import lane
from flashcast.deliver.job import Job
from flashcast.deliver.journal import JournalReader, RowArrays
from flashcast.deliver.retry import Decision, decide
from flashcast.engine.base import Entry, KeyExistsError, is_below
from flashcast.outcomes import Outcome, Reason
from flashcast.testing.simulated_engine import SimulatedEngine
from flashcast.worker import late
from flashcast.worker.claimer import Claimer
from flashcast.worker.mine import Mine


@dataclass(frozen=True)
class Sabotage:
    """One break: what it is, how it is done, and the engine it needs."""

    name: str
    what: str
    apply: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    engine: type[SimulatedEngine] = SimulatedEngine

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The break is in force within the body."""
        with self.apply():
            yield


class _EverybodyClaims(SimulatedEngine):
    """An engine whose `create` of a claim never fails."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        create = self.durable.create

        async def careless(key: str, value: bytes) -> int:
            try:
                return await create(key, value)
            except KeyExistsError as error:
                if not is_below(key, CLAIMS) or error.entry is None:
                    raise
                return error.entry.revision

        self.durable.create = careless  # type: ignore[method-assign]


def _no_lease() -> contextlib.AbstractContextManager[Any]:
    def may_send(job: Job, now_ns: int) -> bool:
        return not job.held and now_ns < job.window_ends_ns and not job.halted

    return mock.patch.object(Job, "may_send", may_send)


def _doubt_is_no_reason() -> contextlib.AbstractContextManager[Any]:
    def careless(*args: Any, **kwargs: Any) -> Decision:
        made = decide(*args, **kwargs)
        return Decision(None, 0.05) if made.outcome is Outcome.UNKNOWN else made

    return mock.patch.object(lane, "decide", careless)


def _claims_of_others_are_nothing() -> contextlib.AbstractContextManager[Any]:
    async def careless(claimer: Claimer, mine: Mine, chunk: int, entry: Entry) -> int:
        claimer._own(mine, chunk, None)
        return 0

    return mock.patch.object(Claimer, "_take_claim", careless)


def _journals_of_the_living() -> contextlib.AbstractContextManager[Any]:
    def careless(path: Any) -> JournalReader | None:
        try:
            return JournalReader.open(path)
        except (Exception,):  # noqa: B013, BLE001 - whatever is wrong with it, it is not there
            return None

    return mock.patch.object(JournalReader, "read", staticmethod(careless))


def _in_flight_is_unsent() -> contextlib.AbstractContextManager[Any]:
    last_word = late.last_word

    def careless(*args: Any) -> RowArrays:
        whole = last_word(*args)
        died = (whole.outcome == Outcome.UNKNOWN) & (whole.reason == Reason.PROCESS_DIED.code)
        whole.outcome[died], whole.reason[died] = Outcome.UNSENT, Reason.STOPPED.code
        return whole

    return mock.patch.object(late, "last_word", careless)


SABOTAGE: Final = {
    made.name: made
    for made in (
        Sabotage("claims", "every claim succeeds", engine=_EverybodyClaims),
        Sabotage("lease", "lanes send without a lease", _no_lease),
        Sabotage("doubt", "rows of unknown outcome are sent again under `drop`", _doubt_is_no_reason),
        Sabotage("take-over", "a new owner sends what the old one had claimed", _claims_of_others_are_nothing),
        Sabotage("journal", "the journal of a worker that lives is taken for its last word", _journals_of_the_living),
        Sabotage("late-word", "rows in flight when a worker died are called unsent in the end", _in_flight_is_unsent),
    )
}
