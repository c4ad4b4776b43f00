"""`flashcast simulate`: APNs and FCM on this machine, for trying out, testing and measuring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, failures
from flashcast.cli.common import err as console
from flashcast.model import Provider

if TYPE_CHECKING:
    from flashcast.simulator.server import Simulator


def simulate(
    profile: Annotated[str, typer.Option(help="ideal, realistic, hostile, or a TOML file.")] = "ideal",
    seed: Annotated[int, typer.Option(help="Decides which tokens meet which fault.", min=0)] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    apns_port: Annotated[int, typer.Option(help="Port of APNs; 0 takes a free one.", min=0, max=65_535)] = 0,
    fcm_port: Annotated[int, typer.Option(help="Port of FCM; 0 takes a free one.", min=0, max=65_535)] = 0,
    folder: Annotated[
        Path, typer.Option("--dir", help="Where credentials and flashcast.toml are kept.")
    ] = Path("flashcast-simulator"),
    ledger: Annotated[
        Path | None, typer.Option(help="Write what each token got to this .npz file at the end.")
    ] = None,
    only: Annotated[list[Provider] | None, typer.Option(help="Only this provider; may be repeated.")] = None,
    expected: Annotated[int, typer.Option(help="Tokens to make room for beforehand.", min=0)] = 0,
    end_with_stdin: Annotated[
        bool,
        typer.Option(
            "--end-with-stdin",
            help="Also end when standard input ends; a line `counts` there prints the counts.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Runs APNs and FCM on this machine, with every fault a profile asks for, until Ctrl-C."""
    with failures(as_json=as_json):
        from flashcast.simulator.configuration import write_config
        from flashcast.simulator.profile import load_profile
        from flashcast.simulator.server import Options, Simulator, compile_kernels, is_loopback

        providers = tuple(dict.fromkeys(only or Provider))
        options = Options(
            load_profile(profile),
            folder.resolve(),
            seed,
            host,
            {Provider.APNS: apns_port, Provider.FCM: fcm_port},
            providers,
            expected,
        )
        if not is_loopback(host):
            console.print(
                f"warning: {host} can be reached from other machines; "
                "the simulator takes anything its own credentials sign"
            )
        simulator = Simulator(options)
        try:
            addresses = simulator.open()
            assert simulator.credentials is not None
            config = write_config(options, addresses, simulator.credentials)
            took_s = compile_kernels()
            if took_s > 1:
                console.print(f"compiled the simulator's kernels in {took_s:.1f} s; they are cached")
            ready = {
                "ready": True,
                "profile": options.profile.name,
                "seed": seed,
                "config": str(config),
                "dir": str(options.folder),
                "apns": addresses.url(addresses.apns),
                "fcm": addresses.url(addresses.fcm),
                "oauth": addresses.url(addresses.oauth),
            }
            _serve(simulator, ready, as_json=as_json, end_with_stdin=end_with_stdin)
            # The books first: whoever started us may be gone, and with it the reader of our standard output.
            if ledger is not None:
                simulator.ledger.save(ledger)
            _print(simulator.ledger.summary(), as_json=as_json)
        finally:
            simulator.close()


def _serve(simulator: Simulator, ready: dict[str, Any], *, as_json: bool, end_with_stdin: bool) -> None:
    import signal
    import sys

    def stop(number: int, frame: object) -> None:
        simulator.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if end_with_stdin:

        def on_stdin() -> None:
            data = _read_some(sys.stdin.fileno())
            if not data:
                simulator.unwatch(sys.stdin)
                simulator.stop()
            for _ in range(data.count(b"counts\n")):
                _print(simulator.ledger.summary(), as_json=True)

        simulator.watch(sys.stdin, on_stdin)
    if as_json:
        _print(ready, as_json=True)
    else:
        for key in ("apns", "fcm", "oauth", "config"):
            if ready[key] is not None:
                typer.echo(f"{key:7}{ready[key]}")
        typer.echo(f"profile {ready['profile']}, seed {ready['seed']}; Ctrl-C ends it")
    sys.stdout.flush()
    simulator.run()


def _read_some(descriptor: int) -> bytes:
    """What standard input has, without waiting for a whole line."""
    import os

    return os.read(descriptor, 4_096)


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    import json

    if as_json:
        # One line for each document: the reader takes them as they come.
        typer.echo(json.dumps(document))
        return
    for key in ("received", "distinct", "duplicates", "accepted", "malformed", "requests"):
        typer.echo(f"{key:12}{document[key]:>14,}")
    for reason, count in sorted(document["by_reason"].items(), key=lambda item: -item[1]):
        typer.echo(f"  {reason:32}{count:>14,}")
