"""A real lane against simulated providers, over an in-memory network that loses, delays and breaks what it can."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import numpy as np
import pytest

from flashcast.deliver.books import settle
from flashcast.deliver.claims import Chunks, ShardRows
from flashcast.deliver.job import Job, Terms
from flashcast.deliver.journal import NO_REPLY, RowArrays
from flashcast.deliver.lane import Lane
from flashcast.model import Hole, Provider, RequestTemplate, UnknownPolicy
from flashcast.outcomes import Outcome
from flashcast.providers import apns, fcm
from flashcast.testing.network import Network, Selector, Weather
from flashcast.testing.simulated_hands import SimulatedCredential, step
from flashcast.testing.simulated_provider import Mood, SimulatedProvider
from flashcast.testing.trace import Trace
from flashcast.testing.virtual_time import Process, VirtualClock, VirtualLoop
from flashcast.transport.tls import Address
from flashcast.wire.template import columns_of

ROWS = 120
STORM = Weather(refused=0.1, ignored=0.05, cut=0.4, cut_bytes_max=8_000, send_buffer=4_000)
TEMPER = Mood(
    slow=0.05, throttle=0.05, unavailable=0.03, broken=0.03, refuse=0.05, reset=0.03, silence=0.02, goaway=0.02,
    hang_up=0.02, bad_token=0.1, credential=0.01, streams_first=1,
)  # fmt: skip


@dataclass
class Run:
    """One launch of one lane, and the provider's books of it."""

    outcomes: dict[str, Outcome]
    provider: SimulatedProvider
    digest: str


def run(seed: int, provider: Provider, weather: Weather, mood: Mood, policy: UnknownPolicy = UnknownPolicy.DROP) -> Run:
    """Sends `ROWS` rows by one stepped lane; every row has its outcome in the end."""
    loop = VirtualLoop()
    trace = Trace(loop)
    network = Network(loop, random.Random(seed), trace, weather)
    simulated = SimulatedProvider(provider.value, network, random.Random(-seed), mood)
    network.listen(provider.value, 443, simulated.accept)
    clock, process = VirtualClock(loop), Process("w")
    tokens = _tokens(provider)
    job = _job(provider, tokens, clock, policy)

    async def main() -> None:
        bell = asyncio.Event()
        selector = Selector(bell.set)
        address = Address(provider.value, 443)
        with loop.inside(process):
            lane = Lane(
                address, None, 3, clock, f"lane {seed}", handshake_deadline_s=1.0, dial=network.dial,  # type: ignore[arg-type]
                selector=selector, stepped=bell.set,
            )  # fmt: skip
        stepping = loop.spawn(process, step(lane, selector, bell, clock))
        await asyncio.sleep(1)
        job.set_go(clock.monotonic_ns(), clock.monotonic_ns())
        with loop.inside(process):
            lane.start(job)
        while not lane.finished.is_set():
            assert not stepping.done(), stepping.exception()
            await asyncio.sleep(0.05)
        with loop.inside(process):
            lane.close()
        await stepping

    loop.run_until_complete(main())
    settle(job, crashed=False)
    assert loop.faults == []
    assert loop.unheard() == []
    loop.close()
    outcomes = {token: Outcome(code) for token, code in zip(tokens, job.rows.outcome.tolist(), strict=True)}
    return Run(outcomes, simulated, trace.digest)


def _tokens(provider: Provider) -> list[str]:
    return [f"{i:064x}" if provider is Provider.APNS else f"fcm-token_{i}:{'x' * 120}" for i in range(ROWS)]


def _job(provider: Provider, tokens: list[str], clock: VirtualClock, policy: UnknownPolicy) -> Job:
    offsets = np.cumsum([0, *(len(token) for token in tokens)]).astype(np.uint32)
    data = np.frombuffer("".join(tokens).encode(), np.uint8)
    shard = ShardRows(columns_of((data, offsets), [], np.zeros(0, np.uint8)), 0, ROWS)
    is_apns = provider is Provider.APNS
    body: tuple[bytes | Hole, ...] = (b'{"aps":{"alert":"kick-off"}}',)
    if not is_apns:
        body = (b'{"message":{"token":"', Hole(-1), b'"}}')
    return Job(
        provider=provider,
        shards=[shard],
        chunks=Chunks([shard]),
        rows=RowArrays(
            np.zeros(ROWS, np.uint8), np.zeros(ROWS, np.uint8), np.zeros(ROWS, np.uint8),
            np.full(ROWS, NO_REPLY, np.uint32),
        ),
        templates=[RequestTemplate(provider, "", (("content-type", "application/json"),), body)],
        head=apns.request_head("apns") if is_apns else fcm.request_head("fcm", "project"),
        path_prefix=apns.PATH_PREFIX if is_apns else None,
        credential=SimulatedCredential(),
        clock=clock,
        terms=Terms(policy=policy, window_s=20, reply_deadline_s=1.0),
    )  # fmt: skip


@pytest.mark.parametrize("provider", list(Provider))
def test_in_fair_weather_every_row_is_accepted_at_its_first_try(provider: Provider) -> None:
    made = run(1, provider, Weather(), Mood())
    assert set(made.outcomes.values()) == {Outcome.ACCEPTED}
    assert all(len(receipts) == 1 for receipts in made.provider.receipts.values())
    assert made.provider.malformed == []


@pytest.mark.parametrize("provider", list(Provider))
@pytest.mark.parametrize("seed", range(12))
def test_in_a_storm_the_journal_and_the_providers_books_agree(seed: int, provider: Provider) -> None:
    made = run(seed, provider, STORM, TEMPER)
    assert made.provider.malformed == []
    for token, outcome in made.outcomes.items():
        receipts = made.provider.receipts.get(token, [])
        told = f"{token}: {outcome.name}, {[receipt.verdict for receipt in receipts]}"
        assert sum(receipt.final for receipt in receipts) <= 1, told
        taken = any(receipt.taken for receipt in receipts)
        assert outcome is Outcome.UNKNOWN or taken == (outcome is Outcome.ACCEPTED), told


def test_under_resend_nothing_that_may_have_been_taken_is_called_unsent() -> None:
    for seed in range(12):
        made = run(seed, Provider.FCM, STORM, TEMPER, UnknownPolicy.RESEND)
        for token, outcome in made.outcomes.items():
            if outcome in (Outcome.UNSENT, Outcome.EXPIRED, Outcome.FAILED):
                assert not any(receipt.taken for receipt in made.provider.receipts.get(token, []))


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(5, Provider.APNS, STORM, TEMPER).digest == run(5, Provider.APNS, STORM, TEMPER).digest
    assert run(5, Provider.APNS, STORM, TEMPER).digest != run(6, Provider.APNS, STORM, TEMPER).digest


def test_a_process_that_is_stopped_while_it_sends_is_not_heard_until_it_goes_on() -> None:
    loop = VirtualLoop()
    network = Network(loop, random.Random(0), Trace(loop))
    process, heard = Process("w"), []

    def accept(end: object) -> None:
        end.on_bytes = lambda data, sent_ns: heard.append((loop.elapsed_s, data))  # type: ignore[attr-defined]

    network.listen("p", 443, accept)

    async def send() -> None:
        channel = network.dial(Address("p", 443))
        while not channel.advance():
            await asyncio.sleep(0.01)
        network.freeze = loop.stop_process
        channel.send(b"hello")

    async def main() -> None:
        task = loop.spawn(process, send())
        await asyncio.sleep(5)
        assert heard == []
        network.freeze = lambda process: None
        loop.continue_process(process)
        network.thaw(process)
        await asyncio.sleep(1)
        await task

    loop.run_until_complete(main())
    assert b"".join(data for _, data in heard) == b"hello"
    assert heard[0][0] > 5


def test_what_a_killed_process_had_written_arrives_and_then_its_connections_close() -> None:
    loop = VirtualLoop()
    network = Network(loop, random.Random(0), Trace(loop))
    process, seen = Process("w"), []

    def accept(end: object) -> None:
        end.on_bytes = lambda data, sent_ns: seen.append(data)  # type: ignore[attr-defined]
        end.on_closed = lambda: seen.append(b"closed")  # type: ignore[attr-defined]

    network.listen("p", 443, accept)

    async def send() -> None:
        channel = network.dial(Address("p", 443))
        while not channel.advance():
            await asyncio.sleep(0.01)
        channel.send(b"x" * 100)
        await asyncio.Event().wait()

    async def main() -> None:
        loop.spawn(process, send())
        await asyncio.sleep(0.2)
        loop.kill_process(process)
        network.kill(process)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    assert b"".join(seen) == b"x" * 100 + b"closed"
    loop.close()
