"""A fed run on real threads and sockets, and crews whose number of connections changes while they are warm."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from delivery_support import PATIENCE_S, LeapingClock, Secret, apns_template
from run_support import APNS, shard
from scripted_server import Peer, Request, Script, ScriptedServer

from certificates import Certificates, make_certificates
from flashcast.arm.target import Target
from flashcast.arm.warm import Crew, build_crew, plan_for, wait_until_ready, warm_up_crew
from flashcast.config import ApnsConfig
from flashcast.deliver.claims import grid
from flashcast.deliver.journal import Journal
from flashcast.deliver.run import Run, RunTerms
from flashcast.errors import EnvironmentFault
from flashcast.outcomes import Outcome
from flashcast.providers import apns
from flashcast.transport.tls import Address, client_context


def eventually(what: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if what():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to that")


def target_to(address: Address, ca_file: Path, connections: int | None = None) -> Target:
    settings = ApnsConfig.model_construct(
        reply_deadline_s=10.0, handshake_deadline_s=10.0, connections=connections, streams=None, reply_latency_ms=None
    )
    head = apns.request_head("localhost")
    return Target(APNS, address, client_context(ca_file), Secret(), head, apns.PATH_PREFIX, settings)


@contextmanager
def closing(crew: Crew) -> Iterator[Crew]:
    try:
        yield crew
    finally:
        crew.close()


# --- a run on threads -----------------------------------------------------------------------------------


class Moody(Script):
    """Throttles one request in ten, once."""

    def __init__(self) -> None:
        self._throttled: set[str] = set()

    def request(self, peer: Peer, stream: int, request: Request) -> None:
        if stream % 20 == 1 and request.path not in self._throttled:
            self._throttled.add(request.path)
            peer.reply(stream, 429, b'{"reason":"TooManyRequests"}', retry_after="0")
        else:
            peer.reply(stream)


def test_a_run_on_threads_is_never_called_quiet_too_soon_and_always_said_to_be(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Offers come in bursts. Each time the run is quiet, every row offered so far has its outcome."""
    rng, rows, clock = random.Random(3), 6_000, LeapingClock()
    looked = threading.Event()
    with ScriptedServer(certificates, Moody(), streams=30) as server:
        target = target_to(server.address, server.ca_file, connections=4)
        crew = warm_up_crew(target, rows, clock, lanes=2)
        journal = Journal.create(tmp_path / "journal-w.bin", rows)
        run = Run(journal, {APNS: crew}, {APNS: [apns_template()]}, clock, RunTerms(), looked.set)
        run.hold(shard(0, 0, rows))
        run.go()
        spans, offered = grid(rows, 37), 0
        while spans:
            for span in [spans.pop(0) for _ in range(min(len(spans), rng.choice([1, 1, 2, 5])))]:
                run.offer(0, None, span)
                offered = span.stop
            looked.clear()
            while not run.quiet():
                assert looked.wait(PATIENCE_S), f"nobody says that it is quiet: {[x.statistics() for x in crew.lanes]}"
                looked.clear()
            assert (journal.outcome[:offered] == Outcome.ACCEPTED).all()
            assert not journal.outcome[offered:].any()
        run.end_claims()
        assert run.wait(PATIENCE_S)
        assert run.faults == []
        run.close()
        journal.close()


# --- a crew ---------------------------------------------------------------------------------------------


def test_a_crew_is_built_without_waiting_and_tells_how_ready_it_is(certificates: Certificates) -> None:
    with ScriptedServer(certificates, Script(), streams=50) as server:
        target = target_to(server.address, server.ca_file, connections=3)
        with closing(build_crew(target, 1_000, LeapingClock())) as crew:
            wait_until_ready(crew, LeapingClock())
            assert crew.ready == crew.wanted == 3
            assert crew.fault is None
            eventually(lambda: crew.readiness().round_trip_us is not None)
            told = crew.readiness()
            assert (told.rows, told.connections, told.connections_wanted, told.streams) == (1_000, 3, 3, 50)
            assert told.endpoint == str(server.address)
            assert told.credential_until is None
            assert told.rate_per_s == crew.rate_per_s > 0


def test_a_warm_crew_grows_and_shrinks_with_what_is_wanted(certificates: Certificates) -> None:
    with ScriptedServer(certificates, Script()) as server:
        target = target_to(server.address, server.ca_file, connections=1)
        with closing(warm_up_crew(target, 1_000, LeapingClock(), lanes=1)) as crew:
            crew.want(5)
            eventually(lambda: crew.ready == 5)
            assert crew.wanted == 5
            crew.want(2)
            eventually(lambda: crew.ready == 2)
            assert sum(lane.statistics().connections for lane in crew.lanes) == 2
            crew.want(3)
            eventually(lambda: crew.ready == 3)  # at once: closing some of them was no failure
            assert crew.fault is None
        assert len(server.peers) == 6


def test_a_crew_is_planned_anew_for_the_rows_it_is_to_send(certificates: Certificates) -> None:
    with ScriptedServer(certificates, Script()) as server:
        target = target_to(server.address, server.ca_file)
        with closing(warm_up_crew(target, 100, LeapingClock(), lanes=2)) as crew:
            assert crew.wanted == 1
            crew.want_for(100_000)
            assert crew.rows == crew.readiness().rows == 100_000
            assert crew.wanted == plan_for(target, 100_000, lanes=2).connections > 1
            eventually(lambda: crew.ready == crew.wanted)
            crew.want_for(0)
            eventually(lambda: crew.ready == crew.wanted == 1)


def test_a_fault_that_no_retry_mends_is_told(certificates: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    with ScriptedServer(certificates, Script()) as server:
        target = target_to(server.address, other.ca_file, connections=2)
        with closing(build_crew(target, 100, LeapingClock())) as crew:
            eventually(lambda: crew.fault is not None)
            assert "is not trusted" in str(crew.fault)
        with pytest.raises(EnvironmentFault, match="is not trusted"):
            warm_up_crew(target, 100, LeapingClock())
