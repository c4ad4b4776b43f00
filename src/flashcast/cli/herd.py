"""`flashcast herd`: what comes back when a push has gone out, and the same curve as a load test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json, print_text

if TYPE_CHECKING:
    from flashcast.zombie.herd.fit import Fit
    from flashcast.zombie.herd.scenario import Scenario

app = typer.Typer(
    name="herd", help="Forecast the herd that a push brings, and shape load tests after it.", no_args_is_help=True
)

ScenarioArgument = Annotated[
    Path | None, typer.Argument(help="A TOML file with the scenario's keys (docs/reference/herd.md). Options win.")
]
AudienceOption = Annotated[int | None, typer.Option(help="Devices that get the push.")]
PushOption = Annotated[float | None, typer.Option("--push-s", help="How long sending takes, in seconds (default 5).")]
PaceOption = Annotated[float | None, typer.Option("--push-per-s", help="Instead: devices sent to per second.")]
CapacityOption = Annotated[float | None, typer.Option("--capacity", help="Requests a second your service sustains.")]
BackgroundOption = Annotated[float | None, typer.Option("--background", help="Requests a second it gets anyhow.")]
ShareOption = Annotated[float | None, typer.Option("--open-share", help="Share of devices that open (default 0.08).")]
OpensOption = Annotated[
    Path | None, typer.Option("--opens", help="Open times of past launches, CSV or Parquet, to fit the curve to.")
]
SentOption = Annotated[
    str | None, typer.Option("--sent-at", help="When that push went out, where the log has no column sent_at.")
]
WindowOption = Annotated[
    float | None, typer.Option("--opens-window-s", help="Seconds after the push at which that log ends.")
]
ReachedOption = Annotated[
    int | None, typer.Option("--opens-audience", help="Devices that push went to: gives the open share as well.")
]
AsSeenOption = Annotated[
    bool, typer.Option("--opens-as-seen", help="Take the curve as it was seen instead of a log-normal one.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE for any other key of the scenario; may be repeated.")
]


@app.command()
def forecast(
    scenario: ScenarioArgument = None,
    audience: AudienceOption = None,
    push_s: PushOption = None,
    push_per_s: PaceOption = None,
    capacity: CapacityOption = None,
    background: BackgroundOption = None,
    open_share: ShareOption = None,
    opens: OpensOption = None,
    sent_at: SentOption = None,
    opens_window_s: WindowOption = None,
    opens_audience: ReachedOption = None,
    opens_as_seen: AsSeenOption = False,
    settings: SetOption = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the forecast into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast requests per second after a push, hold them against the capacity, and say what to do.

    What to do: how slowly to send, which share of users to shield and for how long, and over which time to drain the
    writes that their apps queued meanwhile.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.herd import report
        from flashcast.zombie.herd.advice import advise
        from flashcast.zombie.herd.forecast import forecast as forecast_of

        given = _given(audience, push_s, push_per_s, capacity, background, open_share)
        past = _Past(opens, sent_at, opens_window_s, opens_audience, opens_as_seen)
        chosen, fit = _scenario(scenario, given, past, settings)
        curves = forecast_of(chosen)
        advice = advise(curves)
        if svg is not None:
            svg.write_text(report.picture(curves, advice), encoding="utf-8")
        if as_json:
            print_json(report.document(curves, advice) | {"fit": None if fit is None else fit.as_dict()})
        else:
            if fit is not None:
                _tell_fit(fit)
            print_text(report.text(curves, advice, unicode=takes_blocks()))
            if svg is not None:
                err.print(f"drawn: {svg}", markup=False, soft_wrap=True)


@app.command()
def shape(
    scenario: ScenarioArgument = None,
    locust: Annotated[Path | None, typer.Option("--locust", help="Write a locustfile that follows the curve.")] = None,
    k6: Annotated[Path | None, typer.Option("--k6", help="Write a k6 script that follows the curve.")] = None,
    scale: Annotated[float, typer.Option(min=1e-9, help="Multiplies the herd, for a smaller system.")] = 1.0,
    without_background: Annotated[
        bool, typer.Option("--without-background", help="The herd alone, where the everyday load is there anyhow.")
    ] = False,
    until_s: Annotated[float | None, typer.Option("--until-s", min=1, help="Stop so many seconds after GO.")] = None,
    audience: AudienceOption = None,
    push_s: PushOption = None,
    push_per_s: PaceOption = None,
    capacity: CapacityOption = None,
    background: BackgroundOption = None,
    open_share: ShareOption = None,
    opens: OpensOption = None,
    sent_at: SentOption = None,
    opens_window_s: WindowOption = None,
    opens_audience: ReachedOption = None,
    opens_as_seen: AsSeenOption = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the forecast's curve as a load test of your staging system.

    Without retries: those are up to the system under test. k6 starts requests whatever happens, as a herd does;
    Locust's users wait for replies.
    """
    with failures(as_json=as_json):
        from flashcast.errors import InputError
        from flashcast.zombie.herd.forecast import forecast as forecast_of
        from flashcast.zombie.herd.shapes import k6_file, locust_file, shape_of

        if locust is None and k6 is None:
            raise InputError("nothing to write", remedy="Give --locust FILE, --k6 FILE, or both.")
        # A load test needs no capacity; the scenario wants one all the same.
        given = _given(audience, push_s, push_per_s, capacity, background, open_share)
        past = _Past(opens, sent_at, opens_window_s, opens_audience, opens_as_seen)
        chosen, _ = _scenario(scenario, given, past, settings, capacity_rps=1.0)
        curve = shape_of(forecast_of(chosen), scale=scale, background=not without_background, until_s=until_s)
        told = (
            f"The herd after a push to {chosen.audience:,} devices in {chosen.push_s:g} s, times {scale:g}: "
            f"{curve.requests:,.0f} requests in {curve.t_s[-1]:,.0f} s, at most {max(curve.rps):,.1f} a second."
        )
        written = {}
        for tool, path, make in (("locust", locust, locust_file), ("k6", k6, k6_file)):
            if path is not None:
                path.write_text(make(curve, told), encoding="utf-8")
                written[tool] = str(path)
        if as_json:
            print_json(
                {"files": written, "stages": len(curve.t_s) - 1, "requests": round(curve.requests, 1),
                 "peak_rps": round(max(curve.rps), 3), "seconds": curve.t_s[-1]}
            )  # fmt: skip
        else:
            print_text("\n".join([told, *(f"{tool}: {path}" for tool, path in written.items())]) + "\n")


class _Past:
    """Which log of opens to fit, and what is known about it."""

    def __init__(
        self, path: Path | None, sent_at: str | None, window_s: float | None, audience: int | None, as_seen: bool
    ) -> None:
        self.path = path
        self.sent_at = sent_at
        self.window_s = window_s
        self.audience = audience
        self.as_seen = as_seen

    def fields(self) -> tuple[dict[str, Any], Fit | None]:
        """The scenario's keys that the log decides."""
        from flashcast.errors import InputError
        from flashcast.zombie.herd.fit import fit_lognormal, table_of
        from flashcast.zombie.herd.opens import read_delays

        if self.path is None:
            for value, option in (
                (self.sent_at, "--sent-at"), (self.window_s, "--opens-window-s"), (self.audience, "--opens-audience"),
                (self.as_seen or None, "--opens-as-seen"),
            ):  # fmt: skip
                if value is not None:
                    raise InputError(f"{option} says something about a log of opens; give --opens as well")
            return {}, None
        for number, option in ((self.window_s, "--opens-window-s"), (self.audience, "--opens-audience")):
            if number is not None and number <= 0:
                raise InputError(f"{option} is {number:g}; it must be above 0")
        delays = read_delays(self.path, self.sent_at)
        fit = fit_lognormal(delays, self.window_s)
        found: dict[str, Any] = {"open_median_s": fit.median_s, "open_sigma": fit.sigma}
        if self.as_seen:
            found["open_points"] = table_of(delays)
        if self.audience is not None:
            found["open_share"] = fit.open_share(self.audience)
        return found, fit


def _given(
    audience: int | None, push_s: float | None, push_per_s: float | None, capacity: float | None,
    background: float | None, open_share: float | None,
) -> dict[str, Any]:  # fmt: skip
    named = {
        "audience": audience, "push_s": push_s, "push_per_s": push_per_s, "capacity_rps": capacity,
        "background_rps": background, "open_share": open_share,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def _scenario(
    path: Path | None, given: dict[str, Any], past: _Past, settings: list[str] | None, **defaults: Any
) -> tuple[Scenario, Fit | None]:
    """File, then log, then `--set`, then options: each wins over those before it."""
    from flashcast.zombie.herd.scenario import read_fields, scenario_of

    fields: dict[str, Any] = {} if path is None else read_fields(path)
    fitted, fit = past.fields()
    later = fitted | _parsed(settings or []) | given
    if "push_s" in later or "push_per_s" in later:
        fields.pop("push_s", None)
        fields.pop("push_per_s", None)
    return scenario_of(defaults | fields | later, "the scenario" if path is None else str(path)), fit


def _parsed(settings: list[str]) -> dict[str, Any]:
    import tomllib

    from flashcast.errors import InputError

    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        try:
            if not equals:
                raise ValueError
            found[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except ValueError:  # TOMLDecodeError is one
            raise InputError(f"--set {setting!r} is not KEY=VALUE with a number as value") from None
    return found


def _tell_fit(fit: Fit) -> None:
    err.print(
        f"fitted to {fit.opens:,} opens: median {fit.median_s:,.1f} s, sigma {fit.sigma:.2f}; "
        f"{fit.seen_share:.0%} of those who open are in the log; off by at most {fit.distance:.1%}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if fit.distance > 0.1:
        err.print("that is no log-normal curve: --opens-as-seen takes it as it is", markup=False, soft_wrap=True)


def takes_blocks() -> bool:
    """Whether standard output can show block characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "█─░▁✓".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
