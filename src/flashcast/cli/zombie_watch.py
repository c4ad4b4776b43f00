"""`flashcast zombie watch`: the controller as a process, its events as lines."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashcast.cli.common import err, print_line
from flashcast.cli.zombie_options import moment
from flashcast.clock import SystemClock
from flashcast.errors import InputError
from flashcast.state import default_state_path
from flashcast.zombie.controller import Controller, Event, EventKind
from flashcast.zombie.memory import MemoryFile
from flashcast.zombie.place import VARIABLE, Place, variable
from flashcast.zombie.post import Post
from flashcast.zombie.signals import Signals
from flashcast.zombie.trace import TraceWriter

if TYPE_CHECKING:
    from flashcast.zombie.rules import Rules


async def watch_until_told(
    place: Place, trace: Path | None, state: Path | None, *, dry_run: bool, as_json: bool, listen: str | None = None
) -> None:
    """Runs the controller until SIGINT or SIGTERM; with ``listen`` beside a door for pushed values."""
    rules = place.rules
    if rules is None:
        raise InputError(
            "--rules is missing", remedy="Name a rules file; docs/reference/zombie-rules.md has an example."
        )
    if not rules.rules:
        raise InputError("the rules file has no [rules.NAME]: all would always be clear", remedy="Add a rule.")
    folder = (state or default_state_path()) / "zombie"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = SystemClock()
    tell = _Teller(rules, as_json=as_json)
    async with AsyncExitStack() as stack:
        # Trying things out must not touch what the controller in earnest remembers.
        memory = None if dry_run else stack.enter_context(MemoryFile(folder / f"{rules.app}.controller.json"))
        kind = "dry-run.trace" if dry_run else "trace"
        path = trace or folder / f"{rules.app}.{kind}.jsonl"
        controller = Controller(
            rules, Signals.of(rules, clock), Post(place.target, rules.app, place.keys, clock, place.trusted()),
            clock=clock, memory=memory, trace=TraceWriter(path, rules.app, rules.table), dry_run=dry_run,
            tell=tell.event,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, controller.end)
        door = await _door(listen, controller.signals, stack) if listen is not None else ""
        tell.say("watching", target=place.target.url, trace=str(path), dry_run=dry_run, listening=door)
        await controller.run()
        document = controller.document
        until = moment(document.expires_at) if document is not None else "nothing is published"
        tell.say("ended", version=document.version if document else 0, in_force_until=until)


async def _door(listen: str, signals: Signals, stack: AsyncExitStack) -> str:
    """Opens the door for pushed values as long as ``stack`` lasts, and tells its address."""
    from flashcast.zombie.push import CONNECTIONS_MAX, PushDoor
    from flashcast.zombie.reports.config import secret
    from flashcast.zombie.serving import address_of, require_uvicorn, serving
    from flashcast.zombie.serving import listen as listening

    require_uvicorn()
    token = secret(f"{VARIABLE}PUSH_TOKEN", variable("PUSH_TOKEN"))
    if token is None:
        raise InputError(
            f"--listen needs {VARIABLE}PUSH_TOKEN: whoever can push a value can switch apps off",
            remedy="Make one with `openssl rand -hex 32`.",
        )
    made = listening(listen)
    await stack.enter_async_context(serving(PushDoor(signals.push, token), made, connections=CONNECTIONS_MAX))
    return address_of(made)


class _Teller:
    """Tells what a controller does, a line for each event."""

    def __init__(self, rules: Rules, *, as_json: bool) -> None:
        self._app = rules.app
        self._as_json = as_json

    def event(self, event: Event) -> None:
        """One event."""
        facts: dict[str, Any] = {"text": event.text}
        if event.about:
            facts["about"] = event.about
        if event.decision is not None:
            after = event.decision.state
            facts |= {"level": after.level.value, "buckets": after.buckets, "why": event.decision.why.value}
        if self._as_json:
            print_line({"event": event.kind.value, "app": self._app, "at": event.at, **facts})
            return
        style = {EventKind.CHANGED: "bold", EventKind.FAULT: "red"}.get(event.kind, "")
        about = f" {event.about}:" if event.about else ""
        line = f"{moment(event.at)} {event.kind.value}:{about} {event.text}"
        err.print(line, style=style, markup=False, soft_wrap=True)

    def say(self, what: str, **facts: Any) -> None:
        """One line about the process itself."""
        if self._as_json:
            print_line({"event": what, "app": self._app, **facts})
        else:
            words = ", ".join(f"{key} {value}" for key, value in facts.items() if value not in ("", None, False))
            err.print(f"{self._app} {what}: {words}", markup=False, soft_wrap=True)
