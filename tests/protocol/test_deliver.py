"""A lane against a server that does what it is told: lost connections, GOAWAY, refusals, silence, proxies.

In each test all rows are accounted for, and the server's own count says what was really sent.
"""

from __future__ import annotations

import selectors
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from delivery_support import NO_REPLY, PATIENCE_S, LeapingClock, Secret, finish, job_for, lanes_to, run, start, told
from scripted_server import Peer, Request, Script, ScriptedServer

from certificates import Certificates
from flashcast.clock import FixedClock
from flashcast.deliver.job import Terms
from flashcast.deliver.lane import Lane
from flashcast.model import Provider, UnknownPolicy
from flashcast.outcomes import Outcome, Reason

APNS, FCM = Provider.APNS, Provider.FCM


class Scripted(Script):
    """A script from a function."""

    def __init__(self, act: Callable[[Peer, int, Request], None]) -> None:
        self._act = act

    def request(self, peer: Peer, stream: int, request: Request) -> None:
        self._act(peer, stream, request)


def paths(server: ScriptedServer) -> Counter[str]:
    return Counter(request.path for request in server.seen)


# --- the plain way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [APNS, FCM])
@pytest.mark.parametrize(("connections", "lanes", "streams"), [(1, 1, 1), (3, 2, 100)])
def test_every_row_arrives_once(
    certificates: Certificates, provider: Provider, connections: int, lanes: int, streams: int
) -> None:
    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Script(), streams=streams) as server,
        lanes_to(server.address, server.context, clock, connections=connections, lanes=lanes) as crew,
    ):
        job = job_for(provider, 300, clock, lanes=lanes)
        assert run(job, crew) == {"accepted": 300}
        assert sum(lane.statistics().accepted for lane in crew) == 300
        assert sum(lane.histogram.sum() for lane in crew) == 300
    assert len({bytes(request.body) + request.path.encode() for request in server.seen}) == len(server.seen) == 300
    assert (job.rows.attempts == 1).all()
    assert (job.rows.reply_ms != NO_REPLY).all()
    assert {request.headers["authorization"] for request in server.seen} == {"bearer first"}


def test_the_limit_of_streams_is_obeyed_as_it_changes(certificates: Certificates) -> None:
    def act(peer: Peer, stream: int, request: Request) -> None:
        if stream % 40 == 1:
            peer.settings(streams=1 + stream % 7)  # h2 raises where it is exceeded after our acknowledgement
        peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act), streams=1) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        assert run(job_for(APNS, 400, clock), crew) == {"accepted": 400}


# --- lost connections ---------------------------------------------------------------------------------


class HangUp(Script):
    """The first connection takes 50 requests, answers 20 and is cut."""

    def __init__(self) -> None:
        self.taken = 0

    def request(self, peer: Peer, stream: int, request: Request) -> None:
        if peer.number > 1:
            peer.reply(stream)
            return
        self.taken += 1
        if self.taken <= 20:
            peer.reply(stream)
        if self.taken == 50:
            peer.close()


def test_a_lost_connection_leaves_rows_unknown_and_never_repeats_them_under_drop(certificates: Certificates) -> None:
    clock = LeapingClock()
    with (
        ScriptedServer(certificates, HangUp(), streams=50) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 200, clock)
        books = run(job, crew)
        lost = books["unknown ConnectionLost"]
        assert 30 <= lost <= 50, "those unanswered, and those on their way when it was cut"
        assert books["accepted"] == 200 - lost
        assert crew[0].statistics().unknown == lost
    assert max(paths(server).values()) == 1
    assert (job.rows.reply_ms[job.rows.outcome == Outcome.UNKNOWN] == NO_REPLY).all()


def test_a_lost_connection_repeats_its_rows_under_resend(certificates: Certificates) -> None:
    clock = LeapingClock()
    with (
        ScriptedServer(certificates, HangUp(), streams=50) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 200, clock, terms=Terms(policy=UnknownPolicy.RESEND))
        assert run(job, crew) == {"accepted": 200}
        assert 30 <= Counter(job.rows.attempts.tolist())[2] <= 50
    times = paths(server)
    assert len(times) == 200
    assert 30 <= Counter(times.values())[2] <= 50


def test_goaway_costs_no_row_and_a_new_connection_takes_over(certificates: Certificates) -> None:
    def act(peer: Peer, stream: int, request: Request) -> None:
        if peer.number < 4 and stream == 41:
            peer.goaway(21)
        if not (peer.number < 4 and stream > 21):
            peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act), streams=50) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        assert run(job_for(APNS, 300, clock), crew) == {"accepted": 300}
        assert len(server.peers) == 4


def test_a_graceful_goaway_lets_the_streams_in_flight_end_on_the_old_connection(certificates: Certificates) -> None:
    held: list[tuple[Peer, int]] = []

    def act(peer: Peer, stream: int, request: Request) -> None:
        if peer.number == 1:
            held.append((peer, stream))
            if len(held) == 10:
                peer.goaway(2**31 - 1)
            return
        while held:
            old, waiting = held.pop()
            old.reply(waiting)
        peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act), streams=10) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        assert run(job_for(APNS, 100, clock), crew) == {"accepted": 100}
    assert max(paths(server).values()) == 1


@contextmanager
def by_hand(
    server: ScriptedServer, clock: FixedClock, connections: int
) -> Iterator[tuple[Lane, selectors.BaseSelector]]:
    """A lane without a thread: the test takes each step itself."""
    selector = selectors.DefaultSelector()
    lane = Lane(
        server.address, server.context, connections, clock, "by hand", selector=selector, stepped=lambda: None
    )  # fmt: skip
    try:
        yield lane, selector
    finally:
        lane.close()


def step(by_hand: tuple[Lane, selectors.BaseSelector], until: Callable[[], bool]) -> None:
    """Steps a lane until ``until`` holds; waits for its sockets, while its clock stands still."""
    lane, selector = by_hand
    lane.turn(False)
    while not until():
        assert selector.select(PATIENCE_S), f"nothing happens to {lane!r}"
        lane.turn(False)


def test_what_the_peer_said_before_it_hung_up_is_heard(certificates: Certificates) -> None:
    """Writing fails first; the GOAWAY that makes the rows safe to repeat is still unread."""
    closed = threading.Event()

    def act(peer: Peer, stream: int, request: Request) -> None:
        if stream == 99:
            for answered in range(1, 51, 2):
                peer.reply(answered)
            peer.goaway(51)
            peer.close()
            closed.set()

    clock = FixedClock()
    with ScriptedServer(certificates, Scripted(act)) as server, by_hand(server, clock, 1) as (lane, selector):
        step((lane, selector), lambda: lane.statistics().ready == 1)
        (link,) = lane._links
        job = job_for(APNS, 50, clock)
        start(job, [lane])
        lane.turn(False)
        assert closed.wait(PATIENCE_S)
        lane._links.drop(link, ConnectionError("Broken pipe"))
        assert told(job) == {"accepted": 25, "unknown ConnectionLost": 1, "unsent GoingAway": 24}


def test_a_peer_that_hangs_up_at_once_is_not_dialled_without_a_pause(certificates: Certificates) -> None:
    class Shut(Script):
        def connected(self, peer: Peer) -> None:
            peer.goaway(0)

    clock = FixedClock()
    with ScriptedServer(certificates, Shut()) as server, by_hand(server, clock, 8) as (lane, selector):
        lane.turn(False)
        assert lane.statistics().connections == 8
        step((lane, selector), lambda: lane.statistics().connections == 0)
        lane.wake()
        lane.turn(False)
        assert lane.statistics().connections == 0
        clock.advance(30)
        lane.turn(False)
        assert lane.statistics().connections == 1, "one finds out whether the peer is well again"


def test_doubt_that_waits_for_another_try_is_in_the_journal_already(certificates: Certificates) -> None:
    """A crash or an abort before the second try must not make it look as if the row had never been sent."""
    clock = LeapingClock()
    body = b'{"error":{"code":%d,"status":"%s"}}'

    def act(peer: Peer, stream: int, request: Request) -> None:
        doubtful = b"token-7:" in request.body
        status, word = (503, b"UNAVAILABLE") if doubtful else (429, b"RESOURCE_EXHAUSTED")
        peer.reply(stream, status, body % (status, word), retry_after="30")

    with (
        ScriptedServer(certificates, Scripted(act)) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(FCM, 10, clock, terms=Terms(policy=UnknownPolicy.RESEND))
        start(job, crew)
        while len(crew[0]._retries) < 10:
            crew[0].finished.wait(0.005)
        job.abort()
        crew[0].wake()
        assert finish(job, crew) == {"unknown UNAVAILABLE": 1, "unsent RESOURCE_EXHAUSTED": 9}


# --- refusals -----------------------------------------------------------------------------------------


def test_a_throttled_row_is_sent_again(certificates: Certificates) -> None:
    refused: set[str] = set()

    def act(peer: Peer, stream: int, request: Request) -> None:
        if request.path.endswith("7") and request.path not in refused:
            refused.add(request.path)
            peer.reply(stream, 429, b'{"reason":"TooManyRequests"}', retry_after="0")
        else:
            peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act)) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 160, clock)
        assert run(job, crew) == {"accepted": 160}
        assert Counter(job.rows.attempts.tolist()) == {1: 150, 2: 10}


def test_a_row_that_is_refused_every_time_fails_after_the_last_try(certificates: Certificates) -> None:
    def act(peer: Peer, stream: int, request: Request) -> None:
        if request.path.endswith("0"):
            peer.reply(stream, 503, b'{"reason":"ServiceUnavailable"}', retry_after="0")
        else:
            peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act)) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 16, clock)
        assert run(job, crew) == {"accepted": 15, "failed ServiceUnavailable": 1}
        assert crew[0].statistics().failed == 1
    assert Counter(paths(server).values()) == {1: 15, 8: 1}


def test_a_device_that_is_gone_is_rejected_and_told_by_its_reason(certificates: Certificates) -> None:
    def act(peer: Peer, stream: int, request: Request) -> None:
        if request.path.endswith("3"):
            peer.reply(stream, 410, b'{"reason":"Unregistered","timestamp":1700000000000}')
        else:
            peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act)) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 160, clock)
        assert run(job, crew) == {"accepted": 150, "rejected Unregistered": 10}
        assert (job.rows.reply_ms != NO_REPLY).all()


def test_doubt_under_fcm_is_unknown_or_repeated_as_the_policy_says(certificates: Certificates) -> None:
    body = b'{"error":{"code":503,"status":"UNAVAILABLE"}}'

    def act(peer: Peer, stream: int, request: Request) -> None:
        first = bytes(request.body) not in seen
        seen.add(bytes(request.body))
        peer.reply(stream, 503 if first and b"token-7:" in request.body else 200, body if first else b"{}")

    clock = LeapingClock()
    for policy, books in ((UnknownPolicy.DROP, "unknown UNAVAILABLE"), (UnknownPolicy.RESEND, "accepted")):
        seen: set[bytes] = set()
        with (
            ScriptedServer(certificates, Scripted(act)) as server,
            lanes_to(server.address, server.context, clock) as crew,
        ):
            job = job_for(FCM, 20, clock, terms=Terms(policy=policy))
            run(job, crew)
            assert Outcome(job.rows.outcome[7]).name.lower() == books.split()[0]
            assert len(server.seen) == (20 if policy is UnknownPolicy.DROP else 21)


def test_a_refused_stream_is_sent_again_and_another_reset_is_not(certificates: Certificates) -> None:
    def act(peer: Peer, stream: int, request: Request) -> None:
        times = paths(server)[request.path]
        if request.path.endswith("a") and times == 1:
            peer.reset(stream, 7)
        elif request.path.endswith("b"):
            peer.reset(stream, 2)
        else:
            peer.reply(stream)

    clock = LeapingClock()
    with (
        ScriptedServer(certificates, Scripted(act)) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        assert run(job_for(APNS, 160, clock), crew) == {"accepted": 150, "unknown StreamReset": 10}
    assert Counter(paths(server).values()) == {1: 150, 2: 10}


# --- credentials --------------------------------------------------------------------------------------


def test_an_expired_token_is_renewed_once_and_its_rows_are_sent_again(certificates: Certificates) -> None:
    """A hundred are in flight when the token ends; their refusals come before and after the renewal."""
    held: list[tuple[Peer, int]] = []
    expired = b'{"reason":"ExpiredProviderToken"}'

    def act(peer: Peer, stream: int, request: Request) -> None:
        if request.headers["authorization"] == "bearer first":
            held.append((peer, stream))
            if len(held) == 100:
                # Half at once; the other half when the renewed credential is in use already.
                for old, refused in held[:50]:
                    old.reply(refused, 403, expired)
        else:
            for old, refused in held[50:]:
                old.reply(refused, 403, expired)
            del held[:]
            peer.reply(stream)

    clock, secret = LeapingClock(), Secret(renewals=1)
    with (
        ScriptedServer(certificates, Scripted(act), streams=100) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 300, clock, credential=secret)
        assert run(job, crew) == {"accepted": 300}
    assert job.stopped is None
    assert Counter(r.headers["authorization"] for r in server.seen) == {"bearer first": 100, "bearer first+": 300}


def test_a_token_refused_again_after_renewal_stops_the_provider(certificates: Certificates) -> None:
    clock, secret = LeapingClock(), Secret(renewals=1)
    refuse = Scripted(lambda peer, stream, request: peer.reply(stream, 403, b'{"reason":"ExpiredProviderToken"}'))
    with (
        ScriptedServer(certificates, refuse, streams=20) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 1_000, clock, credential=secret)
        books = run(job, crew)
    assert job.stopped is Reason.EXPIRED_PROVIDER_TOKEN
    assert {o.split()[0] for o in books} == {"rejected", "unsent"}
    assert len(server.seen) < 100


def test_a_reason_that_holds_for_all_stops_the_provider(certificates: Certificates) -> None:
    clock = LeapingClock()
    refuse = Scripted(lambda peer, stream, request: peer.reply(stream, 400, b'{"reason":"TopicDisallowed"}'))
    with (
        ScriptedServer(certificates, refuse, streams=10) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 50_000, clock, shards=3)
        books = run(job, crew)
    assert job.stopped is Reason.TOPIC_DISALLOWED
    assert set(books) == {"rejected TopicDisallowed", "unsent Stopped"}
    assert books["rejected TopicDisallowed"] == len(server.seen) < 2_000


# --- time ---------------------------------------------------------------------------------------------


def test_rows_not_sent_when_the_window_closes_are_expired(certificates: Certificates) -> None:
    clock = LeapingClock()

    def act(peer: Peer, stream: int, request: Request) -> None:
        if len(server.seen) == 30:
            clock.leap(61)
        peer.reply(stream)

    with (
        ScriptedServer(certificates, Scripted(act), streams=10) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 20_000, clock, terms=Terms(window_s=60.0, reply_deadline_s=600.0))
        books = run(job, crew)
    assert set(books) == {"accepted", "expired WindowClosed"}
    assert books["accepted"] == len(server.seen)
    assert (job.rows.attempts[job.rows.outcome == Outcome.EXPIRED] == 0).all()


def test_silence_makes_rows_unknown_and_the_streams_are_closed_before_new_ones_open(certificates: Certificates) -> None:
    clock = LeapingClock()

    def act(peer: Peer, stream: int, request: Request) -> None:
        # h2 raises where a stream opens while the limit is still used up by those nobody answers.
        if len(server.seen) > 5:
            peer.reply(stream)
        elif len(server.seen) == 5:
            clock.leap(11)

    with (
        ScriptedServer(certificates, Scripted(act), streams=5) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 100, clock, terms=Terms(reply_deadline_s=10.0))
        assert run(job, crew) == {"accepted": 95, "unknown Silence": 5}
        assert server.peers[0].resets == [1, 3, 5, 7, 9]


def test_an_abort_sends_nothing_more_and_hears_what_is_in_flight(certificates: Certificates) -> None:
    clock = LeapingClock()
    all_in, release = threading.Event(), threading.Event()

    def act(peer: Peer, stream: int, request: Request) -> None:
        if len(server.seen) == 40:
            all_in.set()
            assert release.wait(PATIENCE_S)
            for waiting in peer.requests:
                peer.reply(waiting)

    with (
        ScriptedServer(certificates, Scripted(act), streams=40) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 10_000, clock)
        start(job, crew)
        assert all_in.wait(PATIENCE_S)
        job.abort()
        crew[0].wake()
        while crew[0].statistics().overshoot != 40:
            crew[0].finished.wait(0.005)
        release.set()
        assert finish(job, crew) == {"accepted": 40, "unsent Aborted": 9_960}
    assert len(server.seen) == 40


def test_an_abort_does_not_wait_for_a_peer_that_says_nothing(certificates: Certificates) -> None:
    clock = LeapingClock()
    all_in = threading.Event()

    def act(peer: Peer, stream: int, request: Request) -> None:
        if len(server.seen) == 40:
            all_in.set()

    with (
        ScriptedServer(certificates, Scripted(act), streams=40) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        job = job_for(APNS, 1_000, clock)
        start(job, crew)
        assert all_in.wait(PATIENCE_S)
        job.abort()
        crew[0].wake()
        while crew[0].statistics().overshoot != 40:
            crew[0].finished.wait(0.005)
        clock.leap(3)
        assert finish(job, crew) == {"unknown ConnectionLost": 40, "unsent Aborted": 960}


def test_bodies_larger_than_the_stream_window_arrive_whole(certificates: Certificates) -> None:
    clock = LeapingClock()

    class Widening(Script):
        def connected(self, peer: Peer) -> None:
            peer.settings(window=40)

    with (
        ScriptedServer(certificates, Widening(), window=10) as server,
        lanes_to(server.address, server.context, clock) as crew,
    ):
        assert run(job_for(APNS, 100, clock), crew) == {"accepted": 100}
    assert {bytes(request.body) for request in server.seen} == {b'{"aps":{"alert":"kick-off"}}'}


def test_what_is_still_in_flight_when_a_lane_is_closed_becomes_unknown(certificates: Certificates) -> None:
    clock = LeapingClock()
    arrived = threading.Event()
    silent = Scripted(lambda peer, stream, request: arrived.set())
    with ScriptedServer(certificates, silent) as server:
        with lanes_to(server.address, server.context, clock) as crew:
            job = job_for(APNS, 1, clock, shards=1)
            start(job, crew)
            assert arrived.wait(PATIENCE_S)
        assert Outcome(job.rows.outcome[0]) is Outcome.UNKNOWN
        assert Reason.from_code(job.rows.reason[0]) is Reason.CONNECTION_LOST
