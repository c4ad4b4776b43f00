"""`flashcast zombie reports`: what users complain about, counted and watched for spikes."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_json, print_rich, print_text
from flashcast.cli.zombie_options import moment
from flashcast.errors import ExitCode, InputError
from flashcast.zombie.place import VARIABLE, variable

if TYPE_CHECKING:
    from rich.console import Console

    from flashcast.zombie.reports.config import Profile, ReportsConfig
    from flashcast.zombie.reports.importing import Imported
    from flashcast.zombie.reports.watching import Watched

app = typer.Typer(
    name="reports", help="Count what users complain about, and tell when it is too much.", no_args_is_help=True
)

PORT: Final = 8_421

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The file of complaints: sources, features, alarm; by default FLASHCAST_ZOMBIE_REPORTS.",
        show_default=False,
    ),
]
FeatureOption = Annotated[
    str | None, typer.Option("--feature", "-f", help="Complaints about this feature alone.", show_default=False)
]


class Form(StrEnum):
    """What a file is."""

    CSV = "csv"
    JSON = "json"


class By(StrEnum):
    """What counts are told by."""

    FEATURE = "feature"
    SOURCE = "source"
    PLATFORM = "platform"
    VERSION = "version"
    LOCALE = "locale"


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A CSV or JSON-lines file, also gzipped, in UTF-8 or UTF-16.", show_default=False)
    ],
    config: ConfigOption = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Which source it is; by default what the profile says.", show_default=False),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            "--profile", help="What its columns are called: plain, google-play, app-store, zendesk, or yours."
        ),
    ] = "plain",
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", help="A column that is called otherwise: COLUMN=field; again for more."),
    ] = None,
    covers: Annotated[
        str | None,
        typer.Option(
            "--covers",
            help="FROM/TO: when the source was heard by this file; by default from its first complaint to its last.",
            show_default=False,
        ),
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option("--zone", help="Time zone of times that have none, such as Europe/Berlin.", show_default=False),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="By default UTF-8 or UTF-16, as the file begins.", show_default=False),
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="By default by the file's name.", show_default=False)
    ] = None,
    malformed: Annotated[
        int, typer.Option("--malformed", min=0, help="With more malformed rows nothing is imported.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, check and count, and import nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Import complaints from a file. The same again adds nothing; one that was killed goes on where it was.

    A row without an id is identified by what it says: two that say the same count once.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.reports.complaint import Intake
        from flashcast.zombie.reports.importing import import_file
        from flashcast.zombie.reports.store import Store

        said = _config(config)
        chosen = _profile(said, profile, mapped or [])
        name = source or chosen.source
        if name is None:
            raise InputError("--source is missing", remedy=f"There is: {', '.join(said.sources)}.")
        if zone is not None:
            _check_zone(zone)
        span = _span(covers) if covers else None
        with Store(Path(said.store)) as store:
            done = import_file(
                file, store, Intake(said, _secret("USER_KEY", said)), chosen, source=name, now=time.time(),
                malformed_max=malformed, covers=span, form=form.value if form else None, encoding=encoding, zone=zone,
                named=[one.rpartition("=")[0] for one in mapped or []], dry_run=dry_run, tell=_progress,
            )  # fmt: skip
        if as_json:
            print_json({**vars(done), "dry_run": dry_run})
        else:
            _tell_import(done, dry_run=dry_run)


@app.command()
def serve(
    config: ConfigOption = None,
    listen: Annotated[
        str, typer.Option("--listen", help="PORT or HOST:PORT; on loopback where no host is named; 0 is any free port.")
    ] = str(PORT),
    proxy: Annotated[
        str,
        typer.Option(
            "--proxy", help="Addresses of proxies, by commas, whose X-Forwarded-For is believed.", show_default=False
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Run the endpoint that takes complaints. Until Ctrl-C or SIGTERM.

    Trusted senders and readers show FLASHCAST_ZOMBIE_REPORTS_TOKEN; apps send to open sources without it.
    """
    with failures(as_json=as_json):
        import asyncio

        from flashcast.zombie.serving import listen as listening
        from flashcast.zombie.serving import require_uvicorn

        require_uvicorn()
        said = _config(config)
        token = _secret("TOKEN")
        if token is None and not any(one.open for one in said.sources.values()):
            raise InputError(
                f"{VARIABLE}REPORTS_TOKEN is not set, and no source is open: nobody could send",
                remedy="Make a token with `openssl rand -hex 32`.",
            )
        if token is None:
            _say(f"{VARIABLE}REPORTS_TOKEN is not set: only open sources are taken, and nobody can read counts.")
        made = listening(listen)
        asyncio.run(_serve(said, token, made, proxy, as_json=as_json))


@app.command()
def show(
    config: ConfigOption = None,
    since: Annotated[str, typer.Option("--since", help="7d, 24h, 90m, or a time.")] = "24h",
    every: Annotated[str, typer.Option("--every", help="The step: 1d, 1h, 10m.")] = "1h",
    by: Annotated[By, typer.Option("--by", help="What counts are told by.")] = By.FEATURE,
    feature: FeatureOption = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Complaints of this source alone.", show_default=False)
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="File to draw the counts into.", show_default=False)] = None,
    texts: Annotated[int, typer.Option("--texts", min=0, max=200, help="Latest texts to show, where kept.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show counts over time. The last step is not over."""
    with failures(as_json=as_json):
        from flashcast.zombie.reports import series
        from flashcast.zombie.reports.store import Store

        said = _config(config)
        only = {name: value for name, value in (("feature", feature), ("source", source)) if value is not None}
        _check_known(said, feature, source)
        asked = series.Asked.of({"since": since, "every": every, "by": by.value, **only}, time.time())
        with Store(Path(said.store), create=False) as store:
            found = series.series_document(store, asked, said.watched)
            kept = store.texts(asked.since, asked.until, feature, texts) if texts else []
        if svg is not None:
            svg.write_text(series.picture(found, said.app, said.time_zone), encoding="utf-8")
        if as_json:
            print_json({**found, "texts": [{"at": at, "source": where, "feature": what, "text": text}
                                           for at, where, what, text in kept]})  # fmt: skip
            return
        rows = series.table(found, said.time_zone)
        print_rich(lambda console: _render(console, rows))
        for at, where, what, text in kept:
            print_text(f"{moment(at)} {where}, {what}: {_one_line(text)}\n")


@app.command()
def alarm(
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether there are too many complaints, and why. The exit code is 1 where there are."""
    with failures(as_json=as_json):
        from flashcast.zombie.reports.spikes import Verdict
        from flashcast.zombie.reports.store import Store
        from flashcast.zombie.reports.watching import document, watch

        said = _config(config)
        with Store(Path(said.store), create=False) as store:
            found = watch(store, said, time.time())
        if as_json:
            print_json(document(found))
        else:
            _tell_alarm(found)
        if found.verdict is Verdict.ALARM:
            raise typer.Exit(int(ExitCode.UNBALANCED))


async def _serve(said: ReportsConfig, token: bytes | None, made: Any, proxy: str, *, as_json: bool) -> None:
    import asyncio
    import signal

    from flashcast.cli.common import print_line
    from flashcast.zombie.reports.bounds import CONNECTIONS_MAX
    from flashcast.zombie.reports.endpoint import Endpoint
    from flashcast.zombie.serving import address_of, serving

    def tell(text: str) -> None:
        if as_json:
            print_line({"event": "fault", "at": time.time(), "text": text})
        else:
            _say(f"{moment(time.time())} {text}")

    endpoint = Endpoint(said, token=token, user_key=_secret("USER_KEY", said), tell=tell)
    await endpoint.start()
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    url = address_of(made)
    try:
        async with serving(endpoint, made, connections=CONNECTIONS_MAX, proxies=proxy):
            if as_json:
                print_line({"event": "listening", "app": said.app, "url": url, "store": said.store})
            else:
                _say(f"{said.app} listening: {url}, store {said.store}")
            await ended.wait()
    finally:
        await endpoint.close()
    total = endpoint.received.total()
    if as_json:
        print_line({"event": "ended", "app": said.app, "new": total})
    else:
        _say(f"{said.app} ended: {total:,} new complaints")


def _config(given: Path | None) -> ReportsConfig:
    from flashcast.zombie.reports.config import load_config

    path = given or (Path(named) if (named := variable("REPORTS")) else None)
    if path is None:
        raise InputError("--config is missing", remedy=f"Name the file, or set {VARIABLE}REPORTS.")
    return load_config(path)


def _secret(name: str, said: ReportsConfig | None = None) -> bytes | None:
    """A secret of the environment. Raises InputError where users are to be hashed without a key."""
    from flashcast.zombie.reports.config import secret

    found = secret(f"{VARIABLE}REPORTS_{name}", variable(f"REPORTS_{name}"))
    if said is not None and said.users == "hash" and found is None:
        raise InputError(
            f'users = "hash" needs {VARIABLE}REPORTS_{name}', remedy="Make a key with `openssl rand -hex 32`; keep it."
        )
    return found


def _profile(said: ReportsConfig, name: str, mapped: list[str]) -> Profile:
    from flashcast.zombie.reports.profiles import FIELDS, PROFILES, with_map

    known = {**PROFILES, **said.profiles}
    if name not in known:
        raise InputError(f"--profile {name}: there is: {', '.join(known)}")
    given = {}
    for one in mapped:
        column, equals, to = one.rpartition("=")
        if not equals or not column or to not in FIELDS:
            raise InputError(f"--map {one!r} is not COLUMN=field", remedy=f"A field is one of {', '.join(FIELDS)}.")
        given[to] = column
    return with_map(known[name], given)


def _check_zone(name: str) -> None:
    from flashcast.zombie.reports.config import zone_of

    try:
        zone_of(name)
    except ValueError as error:
        raise InputError(f"--zone {name!r} {error}") from None


def _span(text: str) -> tuple[float, float]:
    from flashcast.zombie.reports.complaint import seconds_of_time

    since, slash, until = text.partition("/")
    try:
        found = seconds_of_time(since), seconds_of_time(until)
    except ValueError as error:
        found = (0.0, 0.0)
        told = str(error)
    else:
        told = "it ends before it begins"
    if not slash or found[1] <= found[0]:
        raise InputError(
            f"--covers {text!r}: {told}", remedy="Write FROM/TO, such as 2026-11-22T10:00:00Z/2026-11-22T11:00:00Z."
        )
    return found


def _check_known(said: ReportsConfig, feature: str | None, source: str | None) -> None:
    from flashcast.zombie.reports.config import OTHER

    if feature is not None and feature not in (*said.features, OTHER):
        raise InputError(f"--feature {feature}: there is: {', '.join((*said.features, OTHER))}")
    if source is not None and source not in said.sources:
        raise InputError(f"--source {source}: there is: {', '.join(said.sources)}")


def _progress(done: Imported) -> None:
    if interactive():
        err.print(f"{done.rows:,} rows read", end="\r")


def _tell_import(done: Imported, *, dry_run: bool) -> None:
    for line, what in done.faults:
        _say(f"line {line}: {what}")
    fine = done.rows - done.praise - done.old - done.malformed
    parts = [f"{done.rows:,} rows"]
    parts += [f"{fine:,} complaints, nothing imported"] if dry_run else [f"{done.added:,} new", f"{done.known:,} known"]
    others = ((done.praise, "praise"), (done.old, "older than what is kept"), (done.malformed, "malformed"))
    parts += [f"{count:,} {name}" for count, name in others if count]
    print_text(f"{', '.join(parts)}\n")


def _tell_alarm(found: Watched) -> None:
    if found.gap:
        _say(f"not known: {found.gap}")
    for one in found.findings:
        print_text(f"{one.text}\n")


def _render(console: Console, rows: list[list[str]]) -> None:
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for i, name in enumerate(rows[0]):
        made.add_column(name, justify="left" if i in (0, len(rows[0]) - 1) else "right", no_wrap=True)
    for row in rows[1:]:
        made.add_row(*row)
    console.print(made, markup=False)


def _one_line(text: str) -> str:
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)
