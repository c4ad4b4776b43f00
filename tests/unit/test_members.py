"""Who is alive, by one listener's own clock."""

from __future__ import annotations

from flashcast.arm.readiness import LEASE_S, Beat
from flashcast.worker.members import ECHO_S_MAX, Members


def beat(worker: str, sequence: int) -> Beat:
    return Beat(worker=worker, host="h", pid=1, version="0", at=0.0, sequence=sequence, devices_max=1)


class Listener:
    """Hears heartbeats every 0.2 s of a clock that only this class moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.members = Members("me", self.now)
        self.sequences: dict[str, int] = {}

    @property
    def now(self) -> int:
        return int(self.now_s * 1e9)

    def hear(self, *workers: str) -> None:
        for worker in workers:
            self.sequences[worker] = self.sequences.get(worker, 0) + 1
            self.members.heard(beat(worker, self.sequences[worker]), self.now)

    def live(self, seconds: float, *workers: str) -> None:
        """Time passes, and the named workers and this one beat."""
        for _ in range(round(seconds / 0.2)):
            self.now_s += 0.2
            self.hear("me", *workers)


def test_a_worker_that_falls_silent_is_dead_after_its_lease_and_not_before() -> None:
    listener = Listener()
    listener.live(2.0, "other")
    assert not listener.members.dead("other", listener.now)
    listener.live(LEASE_S)
    assert not listener.members.dead("other", listener.now)
    listener.live(0.2)
    assert listener.members.dead("other", listener.now)
    assert set(listener.members.alive(listener.now)) == {"me"}


def test_a_listener_that_hears_nothing_judges_nobody() -> None:
    listener = Listener()
    listener.live(2.0, "other")
    listener.now_s += 60
    assert not listener.members.hears(listener.now)
    assert not listener.members.dead("other", listener.now)


def test_after_a_pause_of_its_own_everybody_has_a_fresh_lease() -> None:
    listener = Listener()
    listener.live(2.0, "other")
    listener.now_s += 60
    listener.hear("me")
    assert listener.members.hears(listener.now)
    assert not listener.members.dead("other", listener.now), "its beats are on their way"
    listener.live(LEASE_S + 0.4)
    assert listener.members.dead("other", listener.now)


def test_a_worker_never_heard_of_is_dead_a_lease_after_the_listener_began_to_hear() -> None:
    listener = Listener()
    assert not listener.members.dead("ghost", listener.now)
    listener.live(LEASE_S)
    assert not listener.members.dead("ghost", listener.now)
    listener.live(0.4)
    assert listener.members.dead("ghost", listener.now)


def test_a_heartbeat_that_a_watch_repeats_keeps_nobody_alive() -> None:
    listener = Listener()
    listener.live(1.0, "other")
    last = beat("other", listener.sequences["other"])
    for _ in range(10):
        listener.live(0.2)
        listener.members.heard(last, listener.now)
    assert listener.members.dead("other", listener.now)


def test_a_worker_that_took_its_leave_is_gone_at_once_and_may_come_back() -> None:
    listener = Listener()
    listener.live(1.0, "other")
    listener.members.left("other")
    assert listener.members.dead("other", listener.now)
    listener.hear("other")
    assert not listener.members.dead("other", listener.now)


def test_nobody_calls_itself_dead() -> None:
    listener = Listener()
    listener.live(1.0)
    listener.now_s += ECHO_S_MAX * 10
    assert not listener.members.dead("me", listener.now)
