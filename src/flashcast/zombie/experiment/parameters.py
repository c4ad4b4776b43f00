"""Every number of the experiment, and why it is what it is. Rates are per second, times seconds of this machine.

The capacity is set by sleeping, not by computing: ``slots`` requests are in work at a time, each for ``service_s``. So
a slow or busy machine gives the same capacity as a fast one, as long as Python keeps up with some hundred small
requests a second.

Time is compressed, not simulated: the clocks of apps and controller (and so the times in documents and rules) run
``clock_factor`` times as fast as this machine's. A poll interval of 10 s passes in one.

What the controller does is not here: its rules are a file (`rules.toml`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from flashcast.zombie.herd.scenario import Scenario
from flashcast.zombie.rule_parts import Look


@dataclass(frozen=True)
class Parameters:
    """One experiment. Both of its runs have the same."""

    seed: int = 1

    # --- The service. Its queue is first come, first served, and nobody looks whether the client still waits.
    slots: int = 6
    service_s: float = 0.1
    queue_max: int = 480
    """Requests that wait; more get a 503. Eight seconds of work: many a thread pool, proxy or kernel holds as much."""

    lost_answers: float = 0.03
    """Share of writes that are applied and whose answer gets lost on the way, as in a tunnel. Their apps try again."""

    # --- Everyday load: users who happen to open the app, evenly.
    everyday_rps: float = 36.0
    """60 % of the capacity: a service that is neither idle nor in trouble."""

    # --- The push
    go_s: float = 3.0
    push_s: float = 2.0
    opens: int = 320
    forecast_opens: int = 270
    """What the forecast was told: forecasts are wrong, this one by a sixth on the bad side."""
    open_median_s: float = 4.0
    open_sigma: float = 0.8

    # --- A session: three reads at once, then reads and one write, at fixed times after the open.
    reads_at_s: tuple[float, ...] = (0.0, 0.1, 0.2, 1.5, 3.0)
    writes_at_s: tuple[float, ...] = (2.0,)

    # --- The apps' patience, in both runs
    timeout_s: float = 4.0
    retries: int = 3
    retry_first_s: float = 0.5
    """Doubled for each further try, and drawn from half of it to one and a half times."""

    # --- Zombie mode
    clock_factor: float = 10.0
    shield_share: float = 0.15
    """Share of users that the launch's shield takes in at GO; 0: no shield. More of them would be held back for nothing
    in the second before the herd is there."""
    shield_minutes: float = 0.8
    """By the run's clock: until the load is past its peak."""
    shield_features: tuple[str, ...] = ("feed",)

    # --- The run
    length_s: float = 47.0
    window_s: float = 3.0
    """Over which goodput is judged: 180 requests at capacity."""
    monitoring_down_s: tuple[float, ...] = ()
    """From when to when monitoring takes questions and answers none; empty: it always does."""

    @property
    def capacity_rps(self) -> float:
        return self.slots / self.service_s

    @property
    def requests_per_open(self) -> int:
        return len(self.reads_at_s) + len(self.writes_at_s)

    @property
    def session_s(self) -> float:
        return max(*self.reads_at_s, *self.writes_at_s)

    def drain_period_s(self, look: Look) -> float:
        """From letting the last users back to the last queued write, where zombie mode means ``look``.

        The last app hears of it after a whole poll interval, draws the end of the drain, and is answered just in time.
        """
        return (look.poll_s + look.poll_jitter_s + look.drain_s) / self.clock_factor + self.timeout_s

    def scenario(self, look: Look) -> Scenario:
        """The same as a scenario for the forecast: what an operator would have stated beforehand."""
        first = [at for at in self.reads_at_s if at < 0.5]
        return Scenario(
            audience=self.forecast_opens * 20, open_share=0.05, push_s=self.push_s, open_median_s=self.open_median_s,
            open_sigma=self.open_sigma, first_requests=len(first), first_s=0.25,
            later_requests=self.requests_per_open - len(first), session_s=self.session_s,
            writes_per_open=len(self.writes_at_s), capacity_rps=self.capacity_rps, background_rps=self.everyday_rps,
            headroom=0.0, retries=self.retries, retry_delay_s=self.retry_first_s, shield_keeps=0.0,
            poll_s=look.poll_s / self.clock_factor, drain_share=0.25, step_s=0.1, horizon_s=self.length_s,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def changed(self, **fields: Any) -> Parameters:
        return replace(self, **fields)

    def faster(self, factor: float) -> Parameters:
        """The same at the same rates with every time divided by ``factor``, and as many fewer users: for tests."""
        names = (
            "go_s", "push_s", "open_median_s", "timeout_s", "retry_first_s", "length_s", "window_s",
        )  # fmt: skip
        return replace(
            self,
            opens=round(self.opens / factor),
            forecast_opens=round(self.forecast_opens / factor),
            queue_max=round(self.queue_max / factor),
            clock_factor=self.clock_factor * factor,
            reads_at_s=tuple(at / factor for at in self.reads_at_s),
            writes_at_s=tuple(at / factor for at in self.writes_at_s),
            monitoring_down_s=tuple(at / factor for at in self.monitoring_down_s),
            **{name: getattr(self, name) / factor for name in names},
        )


def parameters_of(document: dict[str, Any]) -> Parameters:
    """What `Parameters.as_dict` made, also after a way through JSON."""
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document.items()}
    return Parameters(**given)


DEFAULT: Final = Parameters()
