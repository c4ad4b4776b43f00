"""A worker's hands in a simulation (worker/hands.py): virtual time, lanes that are stepped, an in-memory network.

Nothing of the worker is replaced but what reaches outside: its control code, `Run`, `Lane`, the wire and the journal
are the real ones. Files are real too, below a scratch folder; outcome files go to memory.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from flashcast.arm.target import Target
from flashcast.arm.warm import Crew, build_crew
from flashcast.audience.fetch import SnapshotSource
from flashcast.audience.places import Place
from flashcast.campaign.records import SnapshotRef
from flashcast.clock import Clock
from flashcast.config import ApnsConfig, FcmConfig
from flashcast.deliver.lane import Lane
from flashcast.model import Provider, RequestTemplate
from flashcast.providers import apns, fcm
from flashcast.testing.memory_place import MemoryFiles, MemoryPlace
from flashcast.testing.network import Network, Selector
from flashcast.transport.tls import Address
from flashcast.worker.hands import Source

T = TypeVar("T")
PORT: Final = 443
HANDSHAKE_DEADLINE_S: Final = 1.0


@dataclass(frozen=True)
class Settings:
    """What a worker's flashcast.toml would say."""

    connections: int = 2
    lanes: int = 1
    reply_deadline_s: float = 1.0


class SimulatedCredential:
    """An authorization that is renewed when the provider calls it expired, as often as that happens."""

    def __init__(self) -> None:
        self._number = 1

    def authorization(self) -> str:
        """See `providers.credentials.Credential`."""
        return f"bearer simulated-{self._number}"

    def keep_fresh(self) -> None:
        """See `providers.credentials.Credential`."""

    def refused(self, authorization: str | None) -> bool:
        """See `providers.credentials.Credential`."""
        if authorization == self.authorization():
            self._number += 1
        return True


class SimulatedHands:
    """See the module's docstring. Used by the code of one process only."""

    def __init__(
        self, network: Network, clock: Clock, files: MemoryFiles, rng: random.Random, settings: Settings, cache: Path
    ) -> None:
        self._network = network
        self._clock = clock
        self._files = files
        self._random = rng
        self._settings = settings
        self._cache = cache
        self.call_s = (0.0001, 0.003)
        """How long blocking work takes."""

    @property
    def clock(self) -> Clock:
        """See `Hands`."""
        return self._clock

    @property
    def keeps_fresh(self) -> bool:
        """See `Hands`: there are no threads."""
        return False

    async def sleep(self, seconds: float) -> None:
        """See `Hands`."""
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[[], T]) -> T:
        """See `Hands`: the work is done in one step, after some time, and its end is noticed after some more."""
        await asyncio.sleep(self._random.uniform(*self.call_s))
        try:
            return function()
        finally:
            await asyncio.sleep(self._random.uniform(*self.call_s))

    async def wait_for(self, event: asyncio.Event, timeout_s: float) -> None:
        """See `Hands`."""
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def from_thread(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Hands`: there is one thread, and lanes run in the worker's own process."""
        loop = asyncio.get_running_loop()
        return lambda: None if loop.is_closed() else (loop.call_soon(callback), None)[1]

    def source(self, ref: SnapshotRef) -> Source:
        """See `Hands`."""
        return SnapshotSource(ref.url, ref.digest, self._cache)

    def outcomes(self, ref: SnapshotRef, launch: str) -> Place:
        """See `Hands`."""
        return MemoryPlace(self._files, ref.url).beside(".outcomes").child(launch)

    def templates(self, source: Source, to: str) -> Mapping[Provider, Sequence[RequestTemplate]]:
        """See `Hands`."""
        return source.templates

    def crew(self, provider: Provider, to: str, rows: int, pace_per_s: float | None) -> Crew:
        """See `Hands`."""
        target = _target(provider, self._settings)
        return build_crew(
            target, rows, self._clock, pace_per_s=pace_per_s, lanes=self._settings.lanes,
            make_lane=lambda name, connections: self._lane(target, name, connections),
        )  # fmt: skip

    def _lane(self, target: Target, name: str, connections: int) -> Lane:
        bell = asyncio.Event()
        selector = Selector(bell.set)
        lane = Lane(
            target.address, target.context, connections, self._clock, name,
            handshake_deadline_s=HANDSHAKE_DEADLINE_S, dial=self._network.dial, selector=selector, stepped=bell.set,
        )  # fmt: skip
        asyncio.get_running_loop().create_task(step(lane, selector, bell, self._clock), name=f"lane {name}")
        return lane


async def step(lane: Lane, selector: Selector, bell: asyncio.Event, clock: Clock) -> None:
    """Steps a lane until it is closed: when its bell rings, and when it wants to be."""
    loop = asyncio.get_running_loop()
    while not selector.closed:
        bell.clear()
        lane.turn(False)
        if bell.is_set() or selector.closed or selector.select():
            await asyncio.sleep(0)
            continue
        timer = loop.call_later(max(0, lane.next_turn_ns - clock.monotonic_ns()) / 1e9, bell.set)
        await bell.wait()
        timer.cancel()


@cache
def _tls() -> ssl.SSLContext:
    """A context nobody uses: loading certificates for each would take longer than the rest of a run."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _target(provider: Provider, settings: Settings) -> Target:
    common: dict[str, Any] = {
        "connections": settings.connections, "reply_deadline_s": settings.reply_deadline_s,
        "handshake_deadline_s": HANDSHAKE_DEADLINE_S,
    }  # fmt: skip
    address = Address(provider.value, PORT)
    if provider is Provider.APNS:
        config = ApnsConfig.model_construct(**common)
        head = apns.request_head(address.authority)
        return Target(provider, address, _tls(), SimulatedCredential(), head, apns.PATH_PREFIX, config)
    head = fcm.request_head(address.authority, "simulated")
    return Target(provider, address, _tls(), SimulatedCredential(), head, None, FcmConfig.model_construct(**common))
