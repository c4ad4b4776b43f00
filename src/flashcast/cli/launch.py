"""`flashcast launch`: seal, arm, wait for ENTER, send, report."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_json, show, tell
from flashcast.cli.interrupts import held_interrupts
from flashcast.cli.progress import progress_bar
from flashcast.cli.seal import (
    DropTooLargeOption,
    FormatOption,
    HoldoutOption,
    LimitOption,
    MapOption,
    OnePerUserOption,
    PreferOption,
    SqlOption,
    SuppressOption,
    TableOption,
    WhereOption,
    pairs,
)  # fmt: skip
from flashcast.errors import ExitCode, InputError

if TYPE_CHECKING:
    from flashcast.service import LaunchSession

AudienceOption = Annotated[
    str | None, typer.Option("--audience", "-a", help="The devices: a file, glob, folder or URL.", show_default=False)
]
ToOption = Annotated[
    str,
    typer.Option(
        "--to", help="simulator, sandbox, production, or the path of a flashcast.toml.", metavar="DESTINATION"
    ),
]
ProfileOption = Annotated[str, typer.Option(help="The simulator's profile: ideal, realistic, hostile, or a TOML file.")]
SeedOption = Annotated[int, typer.Option(help="The simulator's seed: the same one gives the same replies.", min=0)]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="State folder; by default FLASHCAST_HOME or the user's data folder.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="GO as soon as everything is armed, without asking.")]


def launch(
    campaign: Annotated[Path, typer.Argument(help="Campaign file, or a snapshot that `flashcast seal` wrote.")],
    audience: AudienceOption = None,
    to: ToOption = "simulator",
    profile: ProfileOption = "ideal",
    seed: SeedOption = 0,
    limit: LimitOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Seal and arm, tell the plan, send nothing.")] = False,
    yes: YesOption = False,
    sql: SqlOption = None,
    table: TableOption = None,
    where: WhereOption = None,
    map: MapOption = None,  # noqa: A002 - the option's name
    suppress: SuppressOption = None,
    holdout: HoldoutOption = 0.0,
    one_per_user: OnePerUserOption = False,
    prefer: PreferOption = None,
    drop_too_large: DropTooLargeOption = False,
    format: FormatOption = None,  # noqa: A002 - the option's name
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a campaign to an audience.

    Seals the audience, opens and authenticates every connection, waits for ENTER, sends, and reports. Ctrl-C aborts in
    order: nothing more is sent, replies to what is on the wire are awaited, and the report is written.
    """
    with failures(as_json=as_json):
        from flashcast import service

        if not (yes or dry_run or (sys.stdin is not None and sys.stdin.isatty())):
            raise InputError(
                "standard input is no terminal, so nobody can press ENTER", remedy="Add --yes, or --dry-run."
            )
        sealed = (campaign / "manifest.json").is_file()
        if sealed == (audience is not None):
            raise InputError(
                f"{campaign} is a snapshot, which has its audience" if sealed else "--audience is missing",
                remedy="Leave --audience out." if sealed else "Name the file of devices: --audience devices.parquet.",
            )
        message = None if sealed else service.load_campaign(campaign)
        with service.LaunchSession(service.StateFolder(state)) as session, discarded_unless_live(session):
            with service.saying_if_slow(_say, "starting (the first time, kernels are compiled; some 20 s) ..."):
                session.connect_to(to, profile=profile, seed=seed)
                service.compile_kernels()
            if message is None:
                session.adopt(campaign)
            else:
                source = service.AudienceSource(
                    audience or "", sql=sql, tables=pairs("--table", table), where=where, format=format
                )
                options = service.SealOptions(
                    columns=pairs("--map", map), suppress=suppress, holdout=holdout, one_device_per_user=one_per_user,
                    prefer=prefer, limit=limit, drop_too_large=drop_too_large,
                )  # fmt: skip
                seal_with_bar(session, message, source, options)
            arm_with_bar(session)
            if dry_run:
                tell_plan(session, as_json=as_json)
                raise typer.Exit(ExitCode.OK)
            if not yes and not _entered(session):
                raise typer.Exit(ExitCode.ABORTED)
            document = send_and_report(session)
        show(document, as_json=as_json)
        raise typer.Exit(exit_code(session, document))


def seal_with_bar(session: LaunchSession, message: Any, source: Any, options: Any) -> None:
    """Seals with a progress bar, and says what came of it."""
    with progress_bar("sealing") as progress:
        snapshot = session.seal(message, source, options, progress)
    if interactive():
        counts = snapshot.manifest.counts
        dropped = sum(counts.dropped.values())
        err.print(f"sealed {snapshot.rows:,} of {counts.read:,} rows, {dropped:,} dropped, in {session.seal_s:.1f} s")


def arm_with_bar(session: LaunchSession) -> None:
    """Arms, and says what is ready."""
    with progress_bar("connecting") as progress:
        run = session.arm(progress)
    if interactive():
        for provider, crew in run.crews.items():
            err.print(
                f"armed {provider}: {run.to_send[provider]:,} rows, {crew.ready} connections in {len(crew.lanes)} "
                f"lanes to {crew.target.address}, about {crew.plan.predicted_s:.1f} s after GO"
            )


def send_and_report(session: LaunchSession) -> dict[str, Any]:
    """GO, the live display, the report's files. From GO on, no interrupt keeps the report from being written."""
    from flashcast.cli.live import watch

    with held_interrupts() as interrupts:
        if session.run is not None:
            if not session.run.live:
                session.go()
            watch(session, interrupts)
        if interactive():
            err.print("writing the report ...")
        document = session.finish()
    for fault in session.faults:
        tell(fault)
    return document


def exit_code(session: LaunchSession, document: dict[str, Any]) -> ExitCode:
    """What a finished launch ends with."""
    from flashcast.report import summary

    code = summary.exit_code(document)
    # The books balance by themselves, but a lane or the simulator died over them.
    return session.faults[0].exit_code if session.faults and code is ExitCode.OK else code


def tell_plan(session: LaunchSession, *, as_json: bool) -> None:
    """What `--dry-run` prints: everything but the sending."""
    assert session.run is not None and session.snapshot is not None
    plan = {
        "dry_run": True,
        "name": session.snapshot.name,
        "devices": session.snapshot.rows,
        "snapshot_digest": session.snapshot.digest,
        "dropped": dict(session.snapshot.manifest.counts.dropped),
        "seal_s": session.seal_s,
        "arm_s": session.arm_s,
        "providers": {
            provider.value: {
                "rows": session.run.to_send[provider],
                "endpoint": str(crew.target.address),
                "connections": crew.ready,
                "lanes": len(crew.lanes),
                "predicted_s": crew.plan.predicted_s,
            }
            for provider, crew in session.run.crews.items()
        },
    }
    if as_json:
        print_json(plan)
        return
    typer.echo(f"dry run of {plan['name']!r}: {session.snapshot.rows:,} rows sealed and armed, nothing was sent")
    for provider, crew in session.run.crews.items():
        typer.echo(
            f"  {provider.value}: {session.run.to_send[provider]:,} rows over {crew.ready} connections to "
            f"{crew.target.address}, about {crew.plan.predicted_s:.1f} s"
        )


class discarded_unless_live:  # noqa: N801 - used as a context manager
    """Leaves no trace of a launch that ended before GO: nothing was sent, so there is nothing to keep."""

    def __init__(self, session: LaunchSession) -> None:
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        live = self._session.run is not None and self._session.run.live
        if error is not None and not live and not self._session.resuming:
            with held_interrupts():
                self._session.discard()


def _say(text: str) -> None:
    err.print(text)


def _entered(session: LaunchSession) -> bool:
    """Whether the operator pressed ENTER at the prompt; what was typed before does not count."""
    import termios

    assert session.snapshot is not None and session.destination is not None
    question = f"Press ENTER to send to {session.snapshot.rows:,} devices at {session.destination.name}"
    with suppress(termios.error):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    try:
        err.print(question, style="bold", markup=False, soft_wrap=True, end=" (Ctrl-C: no) ")
        entered = sys.stdin.readline()
    except KeyboardInterrupt:
        entered = ""
    if not entered:  # Ctrl-C, or Ctrl-D: the end of input
        err.print("\nnothing was sent")
    return bool(entered)
