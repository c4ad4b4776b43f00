"""`flashcast.Sender`: APNs and FCM from Python, for arrays of tokens, without files or campaigns.

    async with Sender(apns=ApnsConfig(key_file=..., key_id=..., team_id=...)) as sender:
        outcomes = await sender.send(tokens, Message(apns={"topic": "com.example.app", "alert": {"title": "Hi"}}))

The same engine as a launch: warm connections, volleys, typed outcomes, retries by the unknown policy. A message takes
the same keys as a campaign file's ``[apns]`` and ``[fcm]`` tables (docs/reference/campaign.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from flashcast.arm.target import target_for
from flashcast.arm.warm import Crew, warm_up_crew
from flashcast.audience.arrays import column_bytes
from flashcast.audience.drops import KEPT
from flashcast.audience.kernels import screen_tokens
from flashcast.campaign.columns import escape_column
from flashcast.campaign.compile import CompiledMessages, compile_messages
from flashcast.campaign.file import Campaign
from flashcast.campaign.template import payload_bytes_max, too_long
from flashcast.clock import Clock, SystemClock
from flashcast.config import ApnsConfig, Config, FcmConfig
from flashcast.deliver.books import settle
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.deliver.job import Job, RowArrays, Terms
from flashcast.errors import CampaignError, FlashcastError, InputError
from flashcast.limits import WINDOW_S_DEFAULT
from flashcast.model import Hole, Provider, UnknownPolicy
from flashcast.outcomes import ACTIONS, REPORTED, Action, Outcome, Reason
from flashcast.wire.template import columns_of
from flashcast.wire.warm import compile_kernels

_CODES: Final = {Provider.APNS: 0, Provider.FCM: 1}
_BAD_TOKEN: Final = {Provider.APNS: Reason.BAD_DEVICE_TOKEN, Provider.FCM: Reason.FCM_INVALID_ARGUMENT}
_KEEP_FRESH_S: Final = 1.0

Strings = Sequence[str] | Sequence[bytes] | NDArray[Any] | Any
"""A list of strings, a numpy array of dtype S, U or object, or an Arrow array."""


class Message:
    """What to say, checked when it is made. Keys are those of a campaign file's ``[apns]`` and ``[fcm]`` tables."""

    def __init__(self, *, apns: Mapping[str, Any] | None = None, fcm: Mapping[str, Any] | None = None) -> None:
        """Raises CampaignError naming every key at fault."""
        given = {"apns": apns, "fcm": fcm}
        raw = {"name": "message", **{key: dict(table) for key, table in given.items() if table is not None}}
        try:
            self.compiled: CompiledMessages = compile_messages(Campaign.model_validate(raw))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(str(p) for p in fault['loc'])}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            )
            raise CampaignError(f"the message is wrong: {faults}", remedy="docs/reference/campaign.md") from None
        if any(len(templates) > 1 for templates in self.compiled.templates.values()):
            raise CampaignError("a message has no variants", remedy="Send one message for each.")

    def __repr__(self) -> str:
        return f"<Message for {', '.join(self.compiled.templates)}>"


@dataclass(frozen=True)
class Outcomes:
    """What became of each token, in the order given.

    ``outcome`` uint8[n] (`Outcome`), ``reason`` uint8[n] (`Reason.code`), ``reply_ms`` uint32[n] (milliseconds from
    the call to the settling reply, 2**32 - 1 where there was none), ``attempts`` uint8[n].
    """

    outcome: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    reply_ms: NDArray[np.uint32]
    attempts: NDArray[np.uint8]
    duration_s: float = field(compare=False, default=0.0)

    def __len__(self) -> int:
        return int(self.outcome.size)

    def __repr__(self) -> str:
        return f"<Outcomes {self.counts()} in {self.duration_s:.3f} s>"

    def counts(self) -> dict[str, int]:
        """Rows by outcome; their sum is the number of tokens."""
        found = np.bincount(self.outcome, minlength=len(Outcome))
        return {outcome.name.lower(): int(found[outcome]) for outcome in REPORTED}

    def reasons(self) -> dict[str, int]:
        """Rows that were not accepted, by the provider's reason."""
        codes = self.reason[self.outcome != Outcome.ACCEPTED]
        return {Reason.from_code(c).value: int(n) for c, n in enumerate(np.bincount(codes)) if n and c}

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which tokens the provider accepted, bool[n]. That is not delivery to the phone."""
        accepted: NDArray[np.bool_] = self.outcome == Outcome.ACCEPTED
        return accepted

    @property
    def gone(self) -> NDArray[np.intp]:
        """Positions of the tokens to delete from your tables: the provider says the device is gone."""
        codes = [reason.code for reason, action in ACTIONS.items() if action is Action.PRUNE]
        return np.flatnonzero(np.isin(self.reason, codes) & (self.outcome == Outcome.REJECTED))


class Sender:
    """Warm connections to one or both providers; see the module's docstring.

    One provider serves one `send` at a time, further calls wait their turn; the two providers do not wait for each
    other. Cancelling a `send` stops it in order: nothing more leaves, replies are awaited for two seconds at most.
    """

    def __init__(
        self,
        *,
        apns: ApnsConfig | None = None,
        fcm: FcmConfig | None = None,
        connections: int = 8,
        lanes: int = 1,
        clock: Clock | None = None,
    ) -> None:
        """``connections`` to each provider, driven by ``lanes`` threads; nothing is opened before ``async with``."""
        if apns is None and fcm is None:
            raise InputError("Sender needs apns or fcm", remedy="Sender(apns=ApnsConfig(...)).")
        sections = {Provider.APNS: apns, Provider.FCM: fcm}
        self._settings = {
            provider: section.model_copy(update={"connections": section.connections or connections})
            for provider, section in sections.items()
            if section is not None
        }
        self._lanes = lanes
        self._clock = clock or SystemClock()
        self._crews: dict[Provider, Crew] = {}
        self._turns = {provider: asyncio.Lock() for provider in self._settings}
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        ready = ", ".join(f"{provider} {crew.ready}" for provider, crew in self._crews.items())
        return f"<Sender, connections ready: {ready or 'none'}>"

    async def __aenter__(self) -> Sender:
        """Compiles kernels, authenticates, opens the connections. Raises what is wrong with them, by name."""
        try:
            await asyncio.to_thread(compile_kernels)
            for provider in self._settings:
                self._crews[provider] = await asyncio.to_thread(self._open, provider)
        except BaseException:
            await self._close()
            raise
        self._keeper = asyncio.create_task(self._keep_fresh())
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._close()

    def _open(self, provider: Provider) -> Crew:
        sections: dict[str, Any] = {chosen.value: section for chosen, section in self._settings.items()}
        config = Config.model_construct(**sections)
        return warm_up_crew(target_for(provider, config, self._clock), 1 << 20, self._clock, lanes=self._lanes)

    async def _close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        for crew in self._crews.values():
            await asyncio.to_thread(crew.close)
        self._crews.clear()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_FRESH_S)
            for crew in self._crews.values():
                with contextlib.suppress(FlashcastError):  # the provider's refusal will say so
                    await asyncio.to_thread(crew.target.credential.keep_fresh)

    async def send(
        self,
        tokens: Strings,
        message: Message,
        *,
        provider: Provider | str | None = None,
        columns: Mapping[str, Strings] | None = None,
        policy: UnknownPolicy | str = UnknownPolicy.DROP,
        window_s: float = WINDOW_S_DEFAULT,
        pace_per_s: float | None = None,
    ) -> Outcomes:
        """Sends ``message`` to every token and returns what became of each.

        ``provider`` may be left out where the message is for one only. ``columns`` are as long as ``tokens`` and fill
        the message's ``{{fields}}``. A token with a wrong character is rejected without being sent. What is not sent
        within ``window_s`` is expired. Raises InputError for arguments that do not fit together.
        """
        terms = _terms(policy, window_s, pace_per_s)
        chosen = self._provider(message, provider)
        compiled = message.compiled
        shard, rows = await asyncio.to_thread(_prepare, chosen, tokens, compiled, columns or {})
        unsent = rows.outcome == Outcome.UNSENT
        async with self._turns[chosen]:
            crew = self._crews[chosen]
            target = crew.target
            job = Job(
                provider=chosen, shards=[shard], chunks=Chunks([shard], None if unsent.all() else unsent), rows=rows,
                templates=compiled.templates[chosen], head=target.head, path_prefix=target.path_prefix,
                credential=target.credential, clock=self._clock, lanes=len(crew.lanes),
                terms=replace(terms, reply_deadline_s=target.settings.reply_deadline_s),
            )  # fmt: skip
            began = time.perf_counter()
            await self._carry_out(job, crew)
        return Outcomes(rows.outcome, rows.reason, rows.reply_ms, rows.attempts, time.perf_counter() - began)

    def _provider(self, message: Message, provider: Provider | str | None) -> Provider:
        said = list(message.compiled.templates)
        try:
            chosen = Provider(provider) if provider is not None else said[0]
        except ValueError:
            raise InputError(f"provider {provider!r} is neither 'apns' nor 'fcm'") from None
        if provider is None and len(said) > 1:
            raise InputError("the message is for both providers", remedy="Say which: send(..., provider='apns').")
        if chosen not in said:
            raise InputError(f"the message has no {chosen} part", remedy=f"Message({chosen}={{...}}).")
        if chosen not in self._crews:
            raise InputError(
                f"the sender is not connected to {chosen}",
                remedy=f"Sender({chosen}=...), used in an async with statement.",
            )
        return chosen

    async def _carry_out(self, job: Job, crew: Crew) -> None:
        now_ns = self._clock.monotonic_ns()
        job.set_go(now_ns, now_ns)
        for lane in crew.lanes:
            lane.start(job)
        try:
            while not await asyncio.to_thread(_wait, crew, 0.5):
                pass
        except asyncio.CancelledError:
            job.abort()
            for lane in crew.lanes:
                lane.wake()
            # The arrays belong to the lanes until they are done with them.
            await asyncio.shield(asyncio.to_thread(_wait, crew, 10.0))
            raise
        finally:
            settle(job, crashed=any(lane.crashed for lane in crew.lanes))
        for lane in crew.lanes:
            if lane.crashed and lane.fault is not None:
                raise lane.fault


def _terms(policy: UnknownPolicy | str, window_s: float, pace_per_s: float | None) -> Terms:
    """The rules of one send. Raises InputError naming the argument at fault."""
    try:
        chosen = UnknownPolicy(policy)
    except ValueError:
        raise InputError(f"policy {policy!r} is neither 'drop' nor 'resend'") from None
    for name, value in (("window_s", window_s), ("pace_per_s", pace_per_s)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value!r}: must be a number above 0")
    return Terms(chosen, window_s, pace_per_s=pace_per_s)


def _wait(crew: Crew, timeout_s: float) -> bool:
    return all(lane.finished.wait(timeout_s) for lane in crew.lanes)


def _prepare(
    provider: Provider, tokens: Strings, compiled: CompiledMessages, columns: Mapping[str, Strings]
) -> tuple[ShardRows, RowArrays]:
    """Columns for the kernels, and the arrays that take the outcomes; rows with a bad token are settled here."""
    data, offsets = column_bytes(_strings(tokens, "tokens"))
    rows = offsets.size - 1
    data = data.copy()  # tokens are lower-cased in place
    verdicts = np.zeros(rows, np.uint8)
    codes = np.full(rows, _CODES[provider], np.uint8)
    screen_tokens(data, offsets, codes, verdicts, np.empty(rows, np.uint64))
    fields = []
    used = {part.field for part in compiled.templates[provider][0].body if isinstance(part, Hole)}
    for index, wanted in enumerate(compiled.fields):
        if index not in used:
            fields.append((np.zeros(0, np.uint8), np.zeros(rows + 1, np.uint32)))
            continue
        if wanted.column not in columns:
            raise InputError(f"the message has a field {{{{{wanted.column}}}}}, but columns has no {wanted.column!r}")
        values = _strings(columns[wanted.column], f"columns[{wanted.column!r}]")
        if len(values) != rows:
            raise InputError(f"columns[{wanted.column!r}] has {len(values)} values for {rows} tokens")
        fields.append(escape_column(values, wanted.fallback))
    _check_size(provider, compiled, fields, offsets)
    outcome = np.where(verdicts == KEPT, np.uint8(Outcome.UNSENT), np.uint8(Outcome.REJECTED))
    reason = np.where(verdicts == KEPT, np.uint8(0), np.uint8(_BAD_TOKEN[provider].code))
    shard = ShardRows(columns_of((data, np.ascontiguousarray(offsets)), fields, np.zeros(0, np.uint8)), 0, rows)
    return shard, RowArrays(outcome, reason, np.zeros(rows, np.uint8), np.full(rows, 0xFFFFFFFF, np.uint32))


def _check_size(provider: Provider, compiled: CompiledMessages, fields: list[Any], offsets: NDArray[np.uint32]) -> None:
    template = compiled.templates[provider][0]
    lengths = [_lengths(field_offsets) for _, field_offsets in fields]
    bad = np.flatnonzero(too_long(template, lengths, _lengths(offsets)))
    if bad.size:
        raise CampaignError(
            f"tokens[{bad[0]}]: the {provider} message is too long once its fields are filled; at most "
            f"{payload_bytes_max(template):,} bytes are allowed",
            remedy="Shorten the message or its fields.",
        )


def _lengths(offsets: NDArray[np.uint32]) -> NDArray[np.int64]:
    return offsets[1:].astype(np.int64) - offsets[:-1]


def _strings(values: Strings, name: str) -> Any:
    """Any sequence of strings as an Arrow string array."""
    if isinstance(values, str | bytes):
        raise InputError(f"{name}: one string, where an array of strings is wanted", remedy="Put it into a list.")
    try:
        if isinstance(values, np.ndarray) and values.dtype.kind == "S":
            values = pa.array(values, pa.binary()).cast(pa.string())
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, pa.string())
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = array.cast(pa.string())
    except (pa.ArrowException, TypeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: not an array of strings ({type(error).__name__})") from None
    # Arrays that start within their buffer would hand the kernels offsets of another's rows.
    return pa.concat_arrays([array]) if array.offset else array


__all__ = ["ApnsConfig", "FcmConfig", "Message", "Outcomes", "Sender"]
