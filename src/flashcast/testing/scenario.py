"""What a seed stands for: the launch, the fleet, and what will be done to it. Drawn before anything runs.

A draw that depends on nothing but the seed can be printed, replayed and told about; what happens then follows from it
and from the code. Times are virtual seconds; those of faults count from the start or from GO.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from flashcast.campaign.records import GuardTerms, Stage
from flashcast.model import Provider, UnknownPolicy
from flashcast.testing.memory_engine import Faults
from flashcast.testing.network import Weather
from flashcast.testing.simulated_engine import Lag
from flashcast.testing.simulated_hands import Settings
from flashcast.testing.simulated_provider import Mood

WORKERS_MAX: Final = 4
EVENTS_MAX: Final = 7
DEVICES_MAX: Final = 10_000
"""More than all launches have."""
PAUSE_S: Final = (0.02, 4.0)
"""Around the lease of one second: some pauses cost it, some nearly do."""


class Kind(StrEnum):
    """What can be done to the fleet."""

    KILL = "kill"
    KILL_SENDING = "kill while sending"
    KILL_ALL = "kill all"
    STOP = "stop"
    STOP_SENDING = "stop while sending"
    JOIN = "join"
    LEAVE = "leave"
    PARTITION = "partition"
    """Of one worker from the engine."""
    ENGINE_DOWN = "engine down"
    ISLAND = "island"
    """One worker reaches no provider."""
    CUT = "cut"
    """Every connection of one worker."""
    GOAWAY = "goaway"
    SETTINGS = "settings"
    """A provider changes its mind about streams, windows and header tables."""
    PROVIDER_DOWN = "provider down"
    VOLATILE_LOST = "volatile lost"
    DISK_FULL = "disk full"
    OUTCOMES_FULL = "outcomes full"
    SLOW_DISK = "slow disk"
    PAUSE = "pause"
    """By an operator, as are the rest."""
    ABORT = "abort"
    DISARM = "disarm"
    EDIT = "edit"


_WEIGHTS: Final = {
    Kind.KILL: 5, Kind.KILL_SENDING: 4, Kind.KILL_ALL: 1, Kind.STOP: 5, Kind.STOP_SENDING: 5, Kind.JOIN: 3,
    Kind.LEAVE: 3,
    Kind.PARTITION: 5, Kind.ENGINE_DOWN: 2, Kind.ISLAND: 2, Kind.CUT: 2, Kind.GOAWAY: 2,
    Kind.SETTINGS: 2, Kind.PROVIDER_DOWN: 2, Kind.VOLATILE_LOST: 2,
    Kind.DISK_FULL: 1, Kind.OUTCOMES_FULL: 1, Kind.SLOW_DISK: 2, Kind.PAUSE: 2, Kind.ABORT: 2, Kind.DISARM: 1,
    Kind.EDIT: 1,
}  # fmt: skip
_PAIRS: Final = (
    (Kind.PARTITION, Kind.ABORT), (Kind.PARTITION, Kind.PAUSE), (Kind.PARTITION, Kind.ABORT),
    (Kind.STOP_SENDING, Kind.ABORT), (Kind.STOP, Kind.ABORT), (Kind.STOP, Kind.KILL),
    (Kind.KILL_SENDING, Kind.KILL_SENDING),
    (Kind.PARTITION, Kind.STOP), (Kind.KILL, Kind.VOLATILE_LOST), (Kind.STOP, Kind.ENGINE_DOWN),
    (Kind.LEAVE, Kind.KILL), (Kind.KILL_ALL, Kind.JOIN), (Kind.STOP_SENDING, Kind.KILL_SENDING),
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One thing done to the fleet, ``at_s`` after the start or GO; ``pick`` chooses whom among those there are."""

    kind: Kind
    after_go: bool
    at_s: float
    lasts_s: float
    pick: float

    def __str__(self) -> str:
        since = "GO" if self.after_go else "start"
        return f"{self.kind.value} at {since}+{self.at_s:.3f} s for {self.lasts_s:.3f} s ({self.pick:.2f})"


@dataclass(frozen=True)
class Launch:
    """A campaign's launch and its terms."""

    campaign: str
    starts_s: float
    """When its operators begin."""
    shapes: tuple[int, ...]
    """The snapshots that are sealed for it: another after each edit, in turn."""
    policy: UnknownPolicy
    window_s: float
    chunk_rows: int
    stages: tuple[Stage, ...] = ()
    pace: dict[Provider, float] = field(default_factory=dict)
    guard: GuardTerms | None = None
    require_approval: bool = False
    pressers: int = 1
    """Operators who press GO at the same instant."""


@dataclass(frozen=True)
class MachineFacts:
    """A machine: how wrong its clocks are."""

    offset_s: float
    drift: float


@dataclass(frozen=True)
class Scenario:
    """Everything that a seed draws."""

    seed: int
    calm: bool
    launches: tuple[Launch, ...]
    machines: tuple[MachineFacts, ...]
    workers: tuple[tuple[int, float], ...]
    """Of each worker at first: its machine, and when it starts (s)."""
    devices_max: tuple[int, ...]
    """Of each of them: how many rows it holds at most."""
    settings: Settings
    weather: Weather
    moods: dict[Provider, Mood]
    engine: Faults
    lag: Lag
    events: tuple[Event, ...]
    heal_s: float
    """From then on nothing new goes wrong."""

    def describe(self) -> list[str]:
        """The scenario for people, a line for each part."""
        return [
            f"seed {self.seed}{', calm' if self.calm else ''}, heals at {self.heal_s:.1f} s",
            *(f"  {launch}" for launch in self.launches),
            f"  machines {self.machines}, workers {self.workers} for {self.devices_max} rows, {self.settings}",
            f"  {self.weather}",
            *(f"  {provider}: {mood}" for provider, mood in self.moods.items()),
            f"  {self.engine}, {self.lag}",
            *(f"  {event}" for event in self.events),
        ]


def draw(seed: int, shapes: int) -> Scenario:
    """The scenario of a seed; ``shapes`` is how many snapshots there are to choose from."""
    rng = random.Random(f"scenario {seed}")
    calm = rng.random() < 0.06
    machines = tuple(MachineFacts(rng.uniform(-0.3, 0.3), rng.uniform(-1e-4, 1e-4)) for _ in range(rng.randint(1, 3)))
    workers = tuple(
        (rng.randrange(len(machines)), rng.choice((0.0, 0.0, rng.uniform(0, 2)))) for _ in range(_workers(rng))
    )
    scenario = Scenario(
        seed=seed,
        calm=calm,
        launches=_launches(rng, shapes),
        machines=machines,
        workers=workers,
        devices_max=tuple(rng.choice((DEVICES_MAX, DEVICES_MAX, DEVICES_MAX, 100)) for _ in workers),
        settings=Settings(rng.choice((1, 2, 3)), rng.choice((1, 1, 2)), rng.choice((0.6, 1.0, 1.5))),
        weather=_weather(rng),
        moods={provider: _mood(rng) for provider in Provider},
        engine=_engine(rng),
        lag=Lag(rng.choice((0.0, 0.0, 0.3, 0.8))),
        events=_events(rng),
        heal_s=rng.uniform(5, 11),
    )
    return _calmed(scenario) if calm else scenario


def _workers(rng: random.Random) -> int:
    return rng.choice((1, 2, 2, 3, 3, WORKERS_MAX))


def _calmed(scenario: Scenario) -> Scenario:
    """The same with nothing that goes wrong: then every row is accepted or its device is gone."""
    return replace(
        scenario,
        launches=tuple(replace(launch, window_s=30.0, pace={}, guard=None) for launch in scenario.launches),
        devices_max=tuple(DEVICES_MAX for _ in scenario.workers),
        weather=Weather(),
        moods={provider: Mood(bad_token=mood.bad_token / 4) for provider, mood in scenario.moods.items()},
        engine=Faults(request_s=(0.0001, 0.002), reply_s=(0.0001, 0.002), event_s=(0.0001, 0.002)),
        lag=Lag(),
        events=(),
        heal_s=0.0,
    )


def _launches(rng: random.Random, shapes: int) -> tuple[Launch, ...]:
    """One campaign, or two whose audiences have nobody in common."""
    order = rng.sample(range(shapes), shapes)
    first = _launch(rng, "match", 0.0, tuple(order[:2]))
    if rng.random() < 0.75:
        return (first,)
    return first, _launch(rng, "recap", rng.uniform(0, 3), tuple(order[2:4]))


def _launch(rng: random.Random, campaign: str, starts_s: float, shapes: tuple[int, ...]) -> Launch:
    stages: tuple[Stage, ...] = ()
    if rng.random() < 0.3:
        shares = sorted({rng.choice((0.02, 0.1, 0.3, 0.5)) for _ in range(rng.randint(1, 2))})
        stages = tuple(Stage(share=share, hold_s=rng.choice((0.0, 0.3, 1.0))) for share in shares)
    pace: dict[Provider, float] = {}
    if rng.random() < 0.2:
        pace = {provider: rng.choice((40.0, 120.0, 400.0)) for provider in Provider if rng.random() < 0.7}
    return Launch(
        campaign=campaign,
        starts_s=starts_s,
        shapes=shapes,
        policy=UnknownPolicy.RESEND if rng.random() < 0.2 else UnknownPolicy.DROP,
        window_s=rng.choice((1.5, 3.0, 6.0, 6.0, 10.0)),
        chunk_rows=rng.choice((3, 7, 10, 20, 64)),
        stages=stages,
        pace=pace,
        guard=GuardTerms(replies=20) if rng.random() < 0.3 else None,
        require_approval=rng.random() < 0.15,
        pressers=rng.choice((1, 1, 1, 2, 5)),
    )


def _weather(rng: random.Random) -> Weather:
    fastest = rng.choice((0.0003, 0.001, 0.005))
    return Weather(
        delay_s=(fastest, fastest * rng.choice((2, 10))),
        connect_s=(0.001, rng.choice((0.005, 0.05))),
        refused=rng.choice((0.0, 0.0, 0.1, 0.3)),
        ignored=rng.choice((0.0, 0.0, 0.0, 0.1)),
        cut=rng.choice((0.0, 0.0, 0.2, 0.5)),
        cut_bytes_max=rng.choice((3_000, 10_000)),
        send_buffer=rng.choice((1_000, 8_000, 65_536)),
    )


def _mood(rng: random.Random) -> Mood:
    def share(most: float, often: float = 0.25) -> float:
        return rng.uniform(0, most) if rng.random() < often else 0.0

    return Mood(
        think_s=rng.choice(((0.001, 0.01), (0.005, 0.05), (0.03, 0.2), (0.2, 0.5))),
        slow=share(0.1),
        throttle=share(0.2),
        unavailable=share(0.1),
        broken=share(0.1),
        refuse=share(0.1),
        reset=share(0.05),
        silence=share(0.03),
        goaway=share(0.05),
        hang_up=share(0.03),
        bad_token=rng.choice((0.0, 0.0, 0.05, 0.15, 0.5)),
        credential=share(0.02, 0.1),
        stop=share(0.01, 0.1),
        streams=rng.choice((3, 10, 30, 100)),
        streams_first=rng.choice((1, 3)),
        window=rng.choice((60, 65_535, 65_535)),
    )


def _engine(rng: random.Random) -> Faults:
    if rng.random() < 0.4:
        return Faults(request_s=(0.0001, 0.002), reply_s=(0.0001, 0.002), event_s=(0.0001, 0.005))
    lost = rng.choice((0.0, 0.01, 0.05, 0.1))
    return Faults(
        request_s=(0.0001, rng.choice((0.002, 0.02))),
        reply_s=(0.0001, rng.choice((0.002, 0.02))),
        request_lost=lost,
        reply_lost=lost,
        late=rng.choice((0.0, 0.0, 0.02)),
        patience_s=(0.05, rng.choice((0.2, 1.0))),
        event_s=(0.0001, rng.choice((0.005, 0.05))),
        event_repeated=rng.choice((0.0, 0.1)),
        event_merged=rng.choice((0.0, 0.5)),
        marker_late=rng.choice((0.0, 0.3)),
    )


def _events(rng: random.Random) -> tuple[Event, ...]:
    """Any events at any time; and in some seeds two that go badly together, one soon after the other."""
    events = [_event(rng) for _ in range(rng.randint(0, EVENTS_MAX))]
    if rng.random() < 0.4:
        first, second = rng.choice(_PAIRS)
        at_s, lasts_s, pick = rng.uniform(0, 1.5), rng.uniform(1.0, 4.0), rng.random()
        events.append(Event(first, True, at_s, lasts_s, pick))
        events.append(Event(second, True, at_s + rng.uniform(0, 1.5), lasts_s, pick))
    return tuple(events)


def _event(rng: random.Random) -> Event:
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    after_go = rng.random() < 0.75 and kind not in (Kind.DISARM, Kind.EDIT)
    # Most of what matters happens in the first moments after GO.
    at_s = rng.choice((rng.uniform(0, 0.1), rng.uniform(0, 0.6), rng.uniform(0, 3))) if after_go else rng.uniform(0, 4)
    lasts_s = rng.choice((rng.uniform(*PAUSE_S), rng.uniform(0.8, 1.4), rng.uniform(0.02, 0.3)))
    return Event(kind, after_go, at_s, lasts_s, rng.random())
