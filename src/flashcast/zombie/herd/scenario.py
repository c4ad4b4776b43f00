"""What a forecast starts from. Everything is stated by a person; what is not has a documented default."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flashcast.errors import InputError
from flashcast.zombie.toml_file import read_toml

PUSH_S_MAX: Final = 6 * 3_600.0
"""A push that takes longer is a campaign, not a moment; the advice looks no further either."""
BINS_MAX: Final = 200_000
"""Steps of a time axis: a day at half a second. Eight arrays of them are 13 MB."""
FILE_BYTES_MAX: Final = 1 << 20
POINTS_MAX: Final = 10_000
"""Points of an open curve given as a table."""
REMEDY: Final = "docs/reference/herd.md tells every key."


class Scenario(BaseModel):
    """One launch and the service that gets its echo. Rates are per second, times seconds, shares 0 to 1.

    ``open_points`` (seconds, share of those who open) replaces the log-normal curve; it begins at (0, 0), ends at share
    1 and never falls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # --- The push
    audience: int = Field(gt=0, le=10**10, description="Devices that get the push.")
    push_s: float = Field(5.0, ge=0, le=PUSH_S_MAX, description="How long sending takes, first to last device.")
    receipt_requests: float = Field(
        0.0, ge=0, le=1_000, description="Requests a device makes when the push arrives, whether opened or not."
    )
    receipt_spread_s: float = Field(1.0, ge=0, le=3_600, description="Over how long after arrival they are spread.")

    # --- The opens
    open_share: float = Field(0.08, ge=0, le=1, description="Share of the devices that open, sooner or later.")
    open_median_s: float = Field(
        120.0, gt=0, le=86_400, description="Log-normal: after so long half of those who open have done so."
    )
    open_sigma: float = Field(
        1.5, ge=0.05, le=5, description="Log-normal: standard deviation of the logarithm of the delay."
    )
    open_points: tuple[tuple[float, float], ...] | None = Field(
        None, max_length=POINTS_MAX, description="The open curve as (seconds, share) instead of the log-normal one."
    )

    # --- What an open costs
    first_requests: float = Field(12.0, ge=0, le=10_000, description="Requests of the first screen.")
    first_s: float = Field(2.0, ge=0, le=3_600, description="Over how long the first screen's requests are spread.")
    later_requests: float = Field(8.0, ge=0, le=10_000, description="Requests of the rest of the session.")
    session_s: float = Field(60.0, ge=0, le=86_400, description="Over how long the rest is spread.")
    cache_warmth: float = Field(
        0.0, ge=0, le=1, description="Share of all these requests that a warm cache or a CDN answers instead of you."
    )
    writes_per_open: float = Field(
        1.0, ge=0, le=1_000, description="Of an open's requests, those that must not be lost."
    )

    # --- The service
    capacity_rps: float = Field(gt=0, le=1e9, description="Requests a second your service sustains.")
    background_rps: float = Field(0.0, ge=0, le=1e9, description="What it gets anyhow at that hour.")
    background_app_share: float = Field(
        1.0, ge=0, le=1, description="Share of that which comes from apps that obey zombie mode."
    )
    headroom: float = Field(0.2, ge=0, lt=1, description="Share of the capacity that plans leave free.")
    retries: int = Field(3, ge=0, le=20, description="How often a failed request comes back.")
    retry_delay_s: float = Field(2.0, gt=0, le=3_600, description="Before the first comes back.")
    retry_growth: float = Field(2.0, ge=1, le=10, description="By how much each further delay is longer.")
    waste: float = Field(
        0.5, ge=0, le=4,
        description="What overload does to useful work: capacity * (capacity / offered) ** waste of it is left. "
        "0: refusing costs nothing. 1: each request too many costs as much as a good one.",
    )  # fmt: skip

    # --- Zombie mode
    shield_keeps: float = Field(
        0.05, ge=0, lt=1, description="Share of its requests an app still makes in zombie mode."
    )
    poll_s: float = Field(60.0, ge=0, le=3_600, description="How often apps in use ask for the document.")
    drain_share: float = Field(0.1, gt=0, le=1, description="Share of the capacity that replayed writes may take.")

    # --- The time axis
    step_s: float = Field(1.0, ge=0.01, le=60, description="Width of a step of the forecast.")
    horizon_s: float | None = Field(
        None, gt=0, le=86_400, description="How far it looks; by default until hardly anybody opens any more."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.open_points is not None:
            _check_points(self.open_points)
        if self.writes_per_open > self.first_requests + self.later_requests:
            raise ValueError("writes_per_open is more than first_requests and later_requests together")
        if self.horizon_s is not None and self.horizon_s / self.step_s > BINS_MAX:
            raise ValueError(f"horizon_s / step_s is more than {BINS_MAX:,} steps")
        return self

    def changed(self, **fields: Any) -> Scenario:
        """The scenario with some fields different, checked as a whole. Raises InputError."""
        return scenario_of({**self.model_dump(exclude_unset=True), **fields})


def _check_points(points: tuple[tuple[float, float], ...]) -> None:
    if len(points) < 2 or points[0] != (0.0, 0.0) or points[-1][1] != 1.0:
        raise ValueError("open_points must begin with [0, 0] and end with share 1")
    for (t0, share0), (t1, share1) in pairwise(points):
        if t1 <= t0 or share1 < share0:
            raise ValueError(f"open_points: [{t1:g}, {share1:g}] does not come after [{t0:g}, {share0:g}]")


def scenario_of(fields: Mapping[str, Any], where: str = "the scenario") -> Scenario:
    """A scenario from plain values, ``push_per_s`` instead of ``push_s`` too. Raises InputError naming the fields."""
    values = dict(fields)
    per_s = values.pop("push_per_s", None)
    if per_s is not None:
        if "push_s" in values:
            raise InputError(f"{where} has push_s and push_per_s; give one of them", remedy=REMEDY)
        if isinstance(per_s, bool) or not isinstance(per_s, int | float) or not per_s > 0:
            raise InputError(f"{where}: push_per_s is {per_s!r}; it must be above 0", remedy=REMEDY)
        audience = values.get("audience")
        values["push_s"] = audience / per_s if isinstance(audience, int | float) else 0.0
    try:
        return Scenario(**values)
    except ValidationError as error:
        faults = "\n".join(f"  {_told(fault)}" for fault in error.errors(include_url=False))
        raise InputError(f"{where} is wrong:\n{faults}", remedy=REMEDY) from None


def _told(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{name}: it has no default; state it"
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such key"
    return f"{name}: {message}; {fault['input']!r} was given" if name else message


def read_fields(path: Path) -> dict[str, Any]:
    """The keys of a TOML file, flat: tables only group them. Raises InputError where it cannot be read."""
    document = read_toml(path, FILE_BYTES_MAX, "docs/reference/herd.md lists the keys of a scenario.")
    flat: dict[str, Any] = {}
    for name, value in document.items():
        for key, inner in value.items() if isinstance(value, dict) else [(name, value)]:
            if key in flat:
                raise InputError(f"{path}: {key} stands there twice")
            flat[key] = inner
    return flat
