"""`flashcast worker`: a process that holds shards, keeps connections warm, and sends when somebody presses GO."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_line
from flashcast.cli.fleet_options import EngineOption, StateOption
from flashcast.errors import ExitCode, InputError

if TYPE_CHECKING:
    from flashcast.worker.worker import Worker


def worker(
    engine: EngineOption = None,
    max_devices: Annotated[
        int | None, typer.Option("--max-devices", min=1, help="Most rows to hold; by default what memory allows.")
    ] = None,
    lanes: Annotated[
        int | None, typer.Option("--lanes", min=1, max=32, help="Sending threads per provider; by default the plan's.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="The flashcast.toml with this worker's credentials; by default as for `launch --to`."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called; by default the machine's name and some letters.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve launches: take shards, keep connections warm for hours, send at GO, settle.

    Runs until Ctrl-C or SIGTERM; what was claimed is then finished, and the shards are handed to other workers. A
    second signal ends it at once, as a crash would.
    """
    with failures(as_json=as_json):
        import asyncio

        if config is not None:
            if not config.is_file():
                raise InputError(f"--config {config}: there is no such file")
            # Read where the words production and sandbox are turned into settings.
            os.environ["FLASHCAST_CONFIG"] = str(config.resolve())
        asyncio.run(_serve(engine, max_devices, lanes, name, state, as_json=as_json))


async def _serve(
    address: str | None,
    max_devices: int | None,
    lanes: int | None,
    name: str | None,
    state: Path | None,
    *,
    as_json: bool,
) -> None:
    from flashcast.engine.open import open_engine
    from flashcast.state import StateFolder
    from flashcast.wire.warm import compile_kernels
    from flashcast.worker.hands import RealHands
    from flashcast.worker.worker import Worker, WorkerOptions

    folder = StateFolder(state).path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hands = RealHands(folder / "cache")
    compile_kernels()
    try:
        async with open_engine(address, state=folder) as engine:
            for warning in engine.warnings:
                err.print(f"warning: {warning}", markup=False, soft_wrap=True)
            options = WorkerOptions(
                name=worker_name(name), host=host_name(), state=folder, devices_max=max_devices or devices_by_memory()
            )
            serving = Worker(engine, hands, options)
            told = _Teller(serving, engine.address, as_json=as_json)
            told.say("ready", engine=engine.address, devices_max=options.devices_max)
            await _until_told_to_end(serving, told)
    finally:
        hands.close()


async def _until_told_to_end(serving: Worker, told: _Teller) -> None:
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    signals = 0

    def end() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(int(ExitCode.ABORTED))
        told.say("ending")
        serving.end()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    watching = asyncio.create_task(told.watch())
    try:
        await serving.run()
    finally:
        watching.cancel()
    told.say("ended")


class _Teller:
    """Tells what a worker does, a line for each change."""

    def __init__(self, serving: Worker, address: str, *, as_json: bool) -> None:
        self._worker = serving
        self._address = address
        self._as_json = as_json
        self._last: dict[str, Any] = {}
        self._fault = ""
        self._away_s: float | None = None
        """For how long the engine was away when last looked; None where it answers."""
        self._looked_s = 0.0

    async def watch(self) -> None:
        """Looks five times a second."""
        import asyncio

        while True:
            await asyncio.sleep(0.2)
            self._look_for_engine()
            for launch, work in list(self._worker.works.items()):
                holding = work.holding()
                rows = sum(part.rows for part in holding.providers.values())
                now = {
                    "launch": launch, "state": work.record.state.value, "shards": len(holding.shards), "rows": rows,
                    "ready": holding.ready, "fault": holding.fault,
                    "connections": sum(part.connections for part in holding.providers.values()),
                }  # fmt: skip
                if self._last.get(launch) != now:
                    self._last[launch] = now
                    self.say("holding", **now)
            if self._worker.fault != self._fault:
                self._fault = self._worker.fault
                self.say("fault", fault=self._fault)

    def _look_for_engine(self) -> None:
        """Says once that the engine is out of reach, and once that it is back."""
        import time

        before_s, now_s = self._away_s, time.monotonic()
        self._away_s = self._worker.engine_away_s
        if self._away_s is not None and before_s is None:
            meanwhile = "nothing is sent until it answers; connections stay open, and whoever reaches it may take over"
            self.say("engine_lost", f"lost the engine at {self._address}: {meanwhile}", engine=self._address)
        elif self._away_s is None and before_s is not None:
            away_s = round(before_s + now_s - self._looked_s, 1)
            told = f"reached the engine at {self._address} again, after {away_s:g} s"
            self.say("engine_back", told, engine=self._address, away_s=away_s)
        self._looked_s = now_s

    def say(self, what: str, text: str = "", /, **facts: Any) -> None:
        """One line; for people ``text``, where there is one."""
        if self._as_json:
            print_line({"event": what, "worker": self._worker.name, **facts})
        elif text:
            err.print(f"worker {self._worker.name} {text}", markup=False, soft_wrap=True)
        elif interactive() or what != "holding":
            words = ", ".join(f"{key} {value}" for key, value in facts.items() if value not in ("", None))
            err.print(f"worker {self._worker.name} {what}{': ' if words else ''}{words}", markup=False, soft_wrap=True)


def host_name() -> str:
    """This machine's name, as launch control shows it."""
    import socket

    return socket.gethostname() or "unknown"


def worker_name(given: str | None) -> str:
    """A worker's id: letters, digits and dashes, unique to the process."""
    import random
    import re

    if given is not None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given):
            raise InputError(f"--name {given!r}: only letters, digits, _ and - (at most 64) are possible")
        return f"{given}-{os.getpid()}"
    host = re.sub(r"[^A-Za-z0-9-]+", "-", host_name()).strip("-")[:32] or "worker"
    letters = "".join(random.SystemRandom().choices("23456789abcdefghjkmnpqrstvwxyz", k=4))
    return f"{host}-{os.getpid()}-{letters}"


def devices_by_memory() -> int:
    """Half of this machine's memory, at 250 bytes a row."""
    from flashcast.limits import WORKER_DEVICES_DEFAULT

    try:
        return max(100_000, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // 250)
    except (OSError, ValueError):
        return WORKER_DEVICES_DEFAULT
