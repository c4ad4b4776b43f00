"""`flashcast launch`: seal, arm, wait for ENTER, send, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_json, show, tell
from flashcast.cli.interrupts import held_interrupts
from flashcast.cli.progress import progress_bar
from flashcast.cli.prompt import tell_who_launched, until_entered
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
from flashcast.errors import ExitCode, FlashcastError, InputError

if TYPE_CHECKING:
    from flashcast.cli.interrupts import Interrupts
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
            arm_with_bar(session, rehearsal=dry_run)
            if dry_run:
                tell_plan(session, as_json=as_json)
                raise typer.Exit(ExitCode.OK)
            if not yes:
                until_entered(session)
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


def arm_with_bar(session: LaunchSession, *, rehearsal: bool = False) -> None:
    """Arms, and says what is ready."""
    with progress_bar("connecting") as progress:
        run = session.arm(progress, rehearsal=rehearsal)
    _tell_shield(session)
    for fault in session.shielding.faults:
        tell(fault)
    if interactive():
        for provider, crew in run.crews.items():
            err.print(
                f"armed {provider}: {run.to_send[provider]:,} rows, {crew.ready} connections in {len(crew.lanes)} "
                f"lanes to {crew.target.address}, about {crew.plan.predicted_s:.1f} s after GO"
            )


def send_and_report(session: LaunchSession) -> dict[str, Any]:
    """GO, the live display, the report's files. From GO on, no interrupt keeps the report from being written."""
    with held_interrupts() as interrupts:
        if session.run is not None and not session.live:
            theirs = session.go()
            if theirs is not None:
                tell_who_launched(theirs, then="this process sends")
        return _followed(session, interrupts)


def _followed(session: LaunchSession, interrupts: Interrupts) -> dict[str, Any]:
    """The report of a launch that is live, when it has ended."""
    from flashcast.cli.live import watch

    if session.run is not None:
        watch(session, interrupts)
    if interactive():
        err.print("writing the report ...")
    document = session.finish()
    _tell_shield(session)
    for fault in session.faults:
        tell(fault)
    return document


def _tell_shield(session: LaunchSession) -> None:
    """Says what became of the shield, once."""
    while session.shielding.told:
        err.print(session.shielding.told.pop(0), markup=False)


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
    """Leaves no trace of a launch that ended before GO: nothing was sent, so there is nothing to keep.

    Whether GO came first the engine decides: another terminal may have pressed it in the very moment. Then the launch
    is aborted as any that is live, and its report is written.
    """

    def __init__(self, session: LaunchSession) -> None:
        self._session = session

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        session = self._session
        if error is None or session.live or session.resuming:
            return
        with held_interrupts() as interrupts:
            known = len(session.shielding.faults)
            theirs = session.call_off()
            if theirs is None:
                session.shielding.wait()
                _tell_shield(session)
                for fault in session.shielding.faults[known:]:
                    tell(fault)
                session.discard()
                return
            if isinstance(error, FlashcastError):
                tell(error)
            tell_who_launched(theirs, then="it is called off")
            _followed(session, interrupts)
            err.print(f"see `flashcast report {session.id}`", markup=False)
        raise typer.Exit(ExitCode.ABORTED)


def _say(text: str) -> None:
    err.print(text)
