"""The forecast as a load test of your staging system: a Locust load shape and a k6 scenario.

The problem: a forecast has thousands of steps, load tools take stages. So the curve becomes a few straight pieces:
knots are set where the curve bends (Douglas and Peucker's way), then their heights are chosen by least squares, so that
the pieces send as many requests as the forecast has. ``scale`` makes a smaller herd for a smaller system.

k6's ramping-arrival-rate is an open model: requests start whatever the service does, as a herd's do. Locust has users:
each makes one request per ``PAUSE_S`` and waits for the reply, so a service that takes longer than that is spared. For
a storm, take k6.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from flashcast.errors import InputError
from flashcast.zombie.herd.curves import Floats
from flashcast.zombie.herd.forecast import Forecast

TOLERANCE: Final = 0.01
"""How far a piece may be from the curve, as a share of the peak."""
AREA_TOLERANCE: Final = 0.002
"""And how far its requests may be from the curve's, as a share of all."""
JUMP: Final = 0.1
"""A larger change from one step to the next, as a share of the peak, is a jump and no slope: a push that arrives at
once."""
JUMP_S_SHARE: Final = 0.1
"""A jump takes a fifth of a step: a tenth before the edge, a tenth behind."""
STAGES_MAX: Final = 400
"""More is no help to a reader; both tolerances are doubled until it is enough."""
PAUSE_S: Final = 1.0
REPLY_S: Final = 1.0
"""What k6's virtual users are set aside for: a reply within a second; up to ten times as many are made when needed."""
USERS_MAX: Final = 1_000_000
RATE_UNIT_S: Final = 60
"""k6 takes whole numbers of requests per unit: per minute, so that small rates stay what they are."""


@dataclass(frozen=True)
class Shape:
    """Straight pieces: at ``t_s[i]`` the rate is ``rps[i]``. Begins at GO."""

    t_s: tuple[float, ...]
    rps: tuple[float, ...]

    @property
    def requests(self) -> float:
        """The area under it."""
        widths = np.diff(self.t_s)
        return float((widths * (np.array(self.rps[1:]) + np.array(self.rps[:-1])) / 2).sum())


def shape_of(f: Forecast, *, scale: float = 1.0, background: bool = True, until_s: float | None = None) -> Shape:
    """The forecast's load (or its herd alone) as straight pieces, with exactly as many requests.

    Raises InputError where nothing would be sent.
    """
    amounts = (f.load if background else f.herd) * scale
    if until_s is not None:
        amounts = amounts[: max(math.ceil(until_s / f.step_s), 2)]
    rates = amounts / f.step_s
    if rates.max() <= 0:
        raise InputError("the forecast has no requests at all; there is nothing to shape")
    x, y = _line(rates, f.step_s)
    slack = 1.0
    while (knots := _knots(x, y, slack)).size > STAGES_MAX:
        slack *= 2
    heights = _heights(x[knots], x, y)
    bent = Shape(tuple(float(t) for t in x[knots]), tuple(float(h) for h in heights))
    # What straight lines cut off is put back in: a load test that sends fewer requests proves too little.
    missing = float(amounts.sum()) / bent.requests
    return Shape(bent.t_s, tuple(h * missing for h in bent.rps))


def _line(rates: Floats, step_s: float) -> tuple[Floats, Floats]:
    """The steps as one line through their middles; where the rate jumps, it stays until just before the edge."""
    jumps = np.flatnonzero(np.abs(np.diff(rates)) > JUMP * rates.max())
    edges, near = (jumps + 1) * step_s, JUMP_S_SHARE * step_s
    x = np.concatenate(
        [[0.0], (np.arange(rates.size) + 0.5) * step_s, [rates.size * step_s], edges - near, edges + near]
    )
    y = np.concatenate([rates[:1], rates, rates[-1:], rates[jumps], rates[jumps + 1]])
    order = np.argsort(x, kind="stable")
    return np.asarray(x[order], dtype=np.float64), np.asarray(y[order], dtype=np.float64)


def _knots(x: Floats, y: Floats, slack: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of the points to keep: between two of them no point is far from the straight line.

    Nor do the straight lines' areas differ from the curve's by much: a long tail may be low and still half the herd.
    """
    keep = {0, x.size - 1}
    areas = np.append(0.0, np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    away_max, area_off_max = slack * TOLERANCE * float(y.max()), slack * AREA_TOLERANCE * float(areas[-1])
    spans = [(0, x.size - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        inner = slice(first + 1, last)
        line = y[first] + (y[last] - y[first]) * (x[inner] - x[first]) / (x[last] - x[first])
        away = np.abs(y[inner] - line)
        worst = int(away.argmax())
        area_off = abs((y[first] + y[last]) / 2 * (x[last] - x[first]) - (areas[last] - areas[first]))
        if away[worst] > away_max or area_off > area_off_max:
            middle = first + 1 + worst
            keep.add(middle)
            spans += [(first, middle), (middle, last)]
    return np.array(sorted(keep), dtype=np.int64)


def _heights(knots: Floats, x: Floats, y: Floats) -> Floats:
    """Heights at the knots whose straight pieces are closest to ``y`` by least squares; none below 0."""
    at = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
    right = (x - knots[at]) / (knots[at + 1] - knots[at])
    # The normal equations of hat functions are tridiagonal; a few hundred knots need no better solver than a dense one.
    normal = np.zeros((knots.size, knots.size))
    wanted = np.zeros(knots.size)
    for side_a, weight_a in ((0, 1 - right), (1, right)):
        np.add.at(wanted, at + side_a, weight_a * y)
        for side_b, weight_b in ((0, 1 - right), (1, right)):
            np.add.at(normal, (at + side_a, at + side_b), weight_a * weight_b)
    normal += np.eye(knots.size) * 1e-9
    return np.asarray(np.maximum(np.linalg.solve(normal, wanted), 0.0), dtype=np.float64)


def locust_file(shape: Shape, told: str) -> str:
    """A locustfile: run it with `locust -f FILE --host URL --headless`. ``told`` goes into its docstring."""
    users = max(shape.rps) * PAUSE_S
    if users > USERS_MAX:
        raise InputError(
            f"the peak of {max(shape.rps):,.0f}/s needs {users:,.0f} Locust users, more than {USERS_MAX:,}",
            remedy="Give --scale for a smaller herd.",
        )
    stages = ",\n".join(f"    ({t:.2f}, {rps:.3f})" for t, rps in zip(shape.t_s, shape.rps, strict=True))
    return _LOCUST.format(told=_safe(told), stages=stages, pause=PAUSE_S)


def k6_file(shape: Shape, told: str) -> str:
    """A k6 script: run it with `k6 run -e BASE_URL=URL FILE`. ``told`` goes into its first comment."""
    users = math.ceil(max(shape.rps) * REPLY_S)
    if users > USERS_MAX:
        raise InputError(
            f"the peak of {max(shape.rps):,.0f}/s needs {users:,.0f} virtual users, more than {USERS_MAX:,}",
            remedy="Give --scale for a smaller herd.",
        )
    stages = []
    done_ms = round(shape.t_s[0] * 1000)
    for t, rps in zip(shape.t_s[1:], shape.rps[1:], strict=True):
        # Each duration is rounded against the sum so far: rounding errors do not add up.
        ends_ms = round(t * 1000)
        stages.append({"duration": f"{ends_ms - done_ms}ms", "target": round(rps * RATE_UNIT_S)})
        done_ms = ends_ms
    options = {
        "discardResponseBodies": True,
        "scenarios": {
            "herd": {
                "executor": "ramping-arrival-rate",
                "startRate": round(shape.rps[0] * RATE_UNIT_S),
                "timeUnit": f"{RATE_UNIT_S}s",
                "preAllocatedVUs": max(users, 1),
                "maxVUs": min(max(10 * users, 10), USERS_MAX),
                "stages": stages,
            }
        },
    }
    return _K6.format(told=_safe(told), options=json.dumps(options, indent=2))


def _safe(told: str) -> str:
    """Text that ends neither a comment nor a docstring, and is no escape."""
    return told.replace("\\", "/").replace('"""', "'''").replace("*/", "* /")


_LOCUST: Final = '''"""{told}

    locust -f THIS_FILE --headless --host https://staging.example.com

Paths are taken from HERD_PATHS (comma-separated; default: /). Locust's users wait for replies: if those take longer
than PAUSE_S, fewer requests are sent than the forecast has.
"""

import itertools
import os
import random
import time

from locust import FastHttpUser, LoadTestShape, task

PAUSE_S = {pause}
"""Each user makes one request in so many seconds."""

STAGES = [
{stages},
]
"""(seconds since GO, requests a second); straight lines between them."""

PATHS = os.environ.get("HERD_PATHS", "/").split(",")


def rate_at(seconds):
    """Requests a second, or None when the herd has gone."""
    for (t0, rps0), (t1, rps1) in itertools.pairwise(STAGES):
        if t0 <= seconds < t1:
            return rps0 + (rps1 - rps0) * (seconds - t0) / (t1 - t0)
    return None


class HerdUser(FastHttpUser):
    def on_start(self):
        # Users that start together would ask together, again and again.
        import gevent

        gevent.sleep(random.uniform(0, PAUSE_S))
        self.due = time.monotonic()

    def wait_time(self):
        # Locust's constant_pacing lets a user's second request follow its first at once: a herd of twice as many.
        now = time.monotonic()
        self.due = max(self.due + PAUSE_S, now)
        return self.due - now

    @task
    def ask(self):
        self.client.get(random.choice(PATHS))


class Herd(LoadTestShape):
    def tick(self):
        now = self.get_run_time()
        rate = rate_at(now)
        if rate is None:
            return None
        # Locust asks about once a second: what it starts now shall be there in a second.
        ahead = rate_at(now + 1)
        users = round((rate if ahead is None else ahead) * PAUSE_S)
        return users, max(abs(users - self.get_current_user_count()), 1)
'''

_K6: Final = """/* {told}

   k6 run -e BASE_URL=https://staging.example.com THIS_FILE

   Paths are taken from HERD_PATHS (comma-separated; default: /). Targets are requests per minute. */
import http from "k6/http";

export const options = {options};

const base = (__ENV.BASE_URL || "http://localhost:8080").replace(/\\/$/, "");
const paths = (__ENV.HERD_PATHS || "/").split(",");

export default function () {{
  http.get(base + paths[Math.floor(Math.random() * paths.length)]);
}}
"""
