"""Who protects the service in a run: the controller of `flashcast zombie watch`, and the launch with its shield.

Nothing here decides. The controller is the one for production, on the run's clock: its rules are a file, its signals
real questions to real servers, its documents signed and published like any other. The shield is what a campaign may
name (`zombie/shield.py`), published at GO over whatever is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, urllib_transport
from flashcast.zombie.controller import Controller, Event
from flashcast.zombie.document import Document
from flashcast.zombie.experiment.clocks import FastClock
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.keys import SigningKey, trusted
from flashcast.zombie.memory import MemoryFile
from flashcast.zombie.post import Post
from flashcast.zombie.publish import OvertakenError, publish, read_published
from flashcast.zombie.rules import Rules
from flashcast.zombie.shield import raised, shield_of
from flashcast.zombie.signals import Signals
from flashcast.zombie.targets import open_target
from flashcast.zombie.trace import TraceWriter

RULES: Final = Path(__file__).with_name("rules.toml")
LAUNCH: Final = "herd-1"
OVERTAKEN_MAX: Final = 5
"""Attempts to publish the shield: the controller may publish at the same moment, though hardly twice in a row."""


@dataclass(frozen=True)
class Desk:
    """What whoever publishes in a run works with."""

    rules: Rules
    parameters: Parameters
    folder: Path
    """The documents'."""
    key: SigningKey
    clock: FastClock

    @property
    def salt(self) -> str:
        """Of every incident of the run: the same users are in it when it is run again."""
        return f"seed-{self.parameters.seed}"


def controller(
    desk: Desk, ports: Mapping[str, int], kept: Path, trace: Path, *, dry_run: bool, tell: Callable[[Event], None]
) -> Controller:
    """The controller of a run, put together as `flashcast zombie watch` does it. ``kept`` is the file it remembers in.

    ``ports`` has those of the processes that the rules' addresses name.
    """
    rules, clock = desk.rules, desk.clock
    return Controller(
        rules,
        Signals.of(rules, clock, transport_to(ports, desk.parameters.clock_factor)),
        Post(open_target(desk.folder), rules.app, [desk.key], clock),
        clock=clock,
        memory=None if dry_run else MemoryFile(kept),
        trace=TraceWriter(trace, rules.app, rules.table),
        dry_run=dry_run,
        salts=lambda: desk.salt,
        tell=tell,
    )


def transport_to(ports: Mapping[str, int], clock_factor: float) -> Transport:
    """The usual transport, to the processes of a run by their names, and with deadlines by the run's clock."""

    def transport(request: HttpRequest) -> HttpResponse:
        parts = urlsplit(request.url)
        port = ports.get(parts.hostname or "")
        url = request.url if port is None else urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        return urllib_transport(replace(request, url=url, timeout_s=request.timeout_s / clock_factor))

    return transport


def raise_shield(desk: Desk) -> Document | None:
    """What a launch does at GO whose campaign names a shield. Blocks. None where there is none, or more is up."""
    p, rules, clock = desk.parameters, desk.rules, desk.clock
    if not p.shield_share:
        return None
    normal = rules.levels.normal
    shield = shield_of(
        {
            "app": rules.app, "minutes": p.shield_minutes, "share": p.shield_share, "features": p.shield_features,
            "poll_s": normal.poll_s, "poll_jitter_s": normal.poll_jitter_s,
        }
    )  # fmt: skip
    target, believed = open_target(desk.folder), trusted([desk.key])
    for attempt in range(OVERTAKEN_MAX):
        found = read_published(target, rules.app, believed)
        act = raised(shield, LAUNCH, found.document, clock.time(), salt=desk.salt, expect=found.version)
        if act.terms is None:
            return None
        try:
            done = publish(target, act.terms, [desk.key], lasts_s=act.lasts_s, expect=act.expect, clock=clock)
        except OvertakenError:
            if attempt + 1 == OVERTAKEN_MAX:
                raise
        else:
            return done.document
    return None
