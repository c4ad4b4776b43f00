"""`flashcast zombie`: zombie mode by hand and by rule, with the bucket's credentials and a key alone."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli import zombie_keys as keys
from flashcast.cli import zombie_reports as reports
from flashcast.cli import zombie_show as show
from flashcast.cli.common import JsonOption, err, failures, print_json, print_text
from flashcast.cli.fleet_options import Leaving, StateOption, answer, check_can_ask, entered, say
from flashcast.cli.zombie_demo import demo
from flashcast.cli.zombie_options import (
    AppOption,
    ByOption,
    KeyOption,
    NoteOption,
    ReplaceOption,
    RulesOption,
    TargetOption,
    TrustOption,
    UrlOption,
    moment,
    operator_label,
    seconds_of,
    share_of,
)
from flashcast.cli.zombie_repair import app as repair
from flashcast.cli.zombie_servers import envoy, nginx
from flashcast.errors import ExitCode, InputError
from flashcast.zombie.place import Place, variable

if TYPE_CHECKING:
    from flashcast.zombie.document import Document
    from flashcast.zombie.orders import Act
    from flashcast.zombie.publish import Published
    from flashcast.zombie.rule_parts import Look
    from flashcast.zombie.rules import Rules

app = typer.Typer(
    name="zombie", help="Keep apps working on what they have while the back end recovers.", no_args_is_help=True
)
app.add_typer(keys.app)
app.add_typer(reports.app)
app.add_typer(repair)
app.command()(demo)
app.command()(nginx)
app.command()(envoy)


class On(StrEnum):
    """The levels that can be switched on."""

    SHIELDED = "shielded"
    ZOMBIE = "zombie"


class WritesWay(StrEnum):
    """What becomes of writes of features that are off."""

    SEND = "send"
    QUEUE = "queue"


@app.command()
def on(
    target: TargetOption = None,
    app_name: AppOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    rules: RulesOption = None,
    for_: Annotated[str, typer.Option("--for", help="How long it holds: 90s, 30m, 2h, 1h30m.")] = "30m",
    level: Annotated[
        On | None,
        typer.Option("--level", help="By default zombie, or shielded where --feature is given.", show_default=False),
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Share of the users, 0 to 1; by default what the rules say, else 1.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            "--feature", "-f", help="A feature that is off; again for more; by default what the rules say, else all."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A feature that stays on where all are off; again for more.")
    ] = None,
    writes: Annotated[
        WritesWay | None,
        typer.Option("--writes", help="Whether writes of what is off are sent or wait.", show_default=False),
    ] = None,
    message: Annotated[str, typer.Option("--message", help="What apps show to users in it.", show_default=False)] = "",
    incident: Annotated[
        str, typer.Option("--incident", help="What this belongs to, for repair later.", show_default=False)
    ] = "",
    note: NoteOption = "",
    operator: ByOption = None,
    public_url: UrlOption = None,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Switch zombie mode on by hand. Asks nothing. Until its time is over no controller changes it.

    Published again it takes the place of the one before. When its time is over a controller goes on from there; without
    one, apps are on their own shortly after, all at once: `flashcast zombie recover` lets users back in by steps.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.document import Level, new_salt
        from flashcast.zombie.orders import switch_on

        place, by = Place(target, app_name, key, trust, rules), operator_label(operator)
        chosen = Level(level.value) if level else Level.SHIELDED if feature else Level.ZOMBIE
        found = place.published()
        act = switch_on(
            found.document, time.time(), app=place.app, level=chosen, look=_look(place.rules, chosen, feature, writes),
            for_s=seconds_of(for_, "--for"), by=by, salt=new_salt(), expect=found.version,
            incident=incident, share=share, off=feature or (), keep=keep or (),
            message={"*": message} if message else None,
        )  # fmt: skip
        _publish(place, act, by, public_url, note, replace=replace, as_json=as_json)


@app.command()
def off(
    target: TargetOption = None,
    app_name: AppOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    rules: RulesOption = None,
    for_: Annotated[
        str,
        typer.Option("--for", help="How long no controller may raise it again; 0 leaves that to the rules at once."),
    ] = "30m",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    note: NoteOption = "",
    operator: ByOption = None,
    public_url: UrlOption = None,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Switch everything on again for every user at once. `flashcast zombie recover` does it by steps."""
    with failures(as_json=as_json):
        from flashcast.zombie.orders import switch_off

        place, by = Place(target, app_name, key, trust, rules), operator_label(operator)
        found = place.published()
        _confirm(found.document, yes=yes)
        act = switch_off(
            found.document, time.time(), app=place.app, for_s=seconds_of(for_, "--for"), by=by,
            expect=found.version,
        )  # fmt: skip
        _publish(place, act, by, public_url, note, replace=replace, as_json=as_json)


@app.command()
def recover(
    target: TargetOption = None,
    app_name: AppOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    rules: RulesOption = None,
    share: Annotated[
        float | None,
        typer.Option(
            "--share", help="Share of all users that are back, 0 to 1; by default the next step of the rules."
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", help="How long this step is held; by default a controller goes on from it.", show_default=False
        ),
    ] = None,
    note: NoteOption = "",
    operator: ByOption = None,
    public_url: UrlOption = None,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let the next users back in. Again for the step after, until every user is back.

    A controller that watches goes on from there by its rules, on or back; without one, wait after each step until apps
    have heard of it and the back end has shown that it copes.
    """
    with failures(as_json=as_json):
        from flashcast.zombie import orders

        place, by = Place(target, app_name, key, trust, rules), operator_label(operator)
        found, said = place.published(), place.rules
        act = orders.recover(
            found.document, time.time(), by=by, expect=found.version, share=share,
            steps=said.recovery.steps if said else orders.STEPS, for_s=seconds_of(for_, "--for") if for_ else None,
        )  # fmt: skip
        _publish(place, act, by, public_url, note, replace=replace, as_json=as_json)


@app.command()
def status(
    target: TargetOption = None,
    app_name: AppOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    rules: RulesOption = None,
    public_url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what is published: version, level, whose decision, until when. A public key is enough (--trust)."""
    with failures(as_json=as_json):
        place = Place(target, app_name, key, trust, rules)
        found = place.published()
        if found.main.stored is not None and found.document is None:
            raise InputError(
                f"{place.target.url}/{found.main.name} is not genuine: {found.main.fault}. Apps refuse it, and go on "
                "with the last one they had",
                remedy="Name the key that signed it with --trust; or publish again with --replace.",
            )
        public = _seen_by_apps(place, found, public_url or variable("URL"))
        if as_json:
            print_json(show.status_json(place, found, public))
        else:
            print_text(show.status_text(place, found, public))


@app.command()
def watch(
    target: TargetOption = None,
    key: KeyOption = None,
    trust: TrustOption = None,
    rules: RulesOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and tell, and publish nothing.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="File to append observations and decisions to; by default in the state folder."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="PORT or HOST:PORT where values are pushed with POST /signals/NAME and FLASHCAST_ZOMBIE_PUSH_TOKEN; "
            "on loopback where no host is named.",
            show_default=False,
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the controller: read signals, decide by the rules, publish. Runs until Ctrl-C or SIGTERM.

    It obeys what people publish with `on`, `off` and `recover` from anywhere, and goes on from there when their time is
    over. What it has published stays in force until it expires.
    """
    with failures(as_json=as_json):
        import asyncio

        from flashcast.cli.zombie_watch import watch_until_told

        place = Place(target, None, key, trust, rules)
        asyncio.run(watch_until_told(place, trace, state, dry_run=dry_run, as_json=as_json, listen=listen))


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="What `watch` has recorded, or another tool.", show_default=False)],
    rules: RulesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide anew what a trace tells, and compare. Other rules show what they would have done.

    By the rules of the recording every decision must come out the same; if not, the exit code is 1.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.trace import replay_file

        said = Place(rules_file=rules).rules
        found = replay_file(trace, said.table if said is not None else None)
        if as_json:
            print_json(show.replay_json(found))
        else:
            print_text(show.replay_text(found))
        if found.different and found.same_rules:
            raise typer.Exit(int(ExitCode.UNBALANCED))


def _look(rules: Rules | None, level: Any, features: list[str] | None, writes: WritesWay | None) -> Look:
    """What a level means: the rules' word, else that everything is off and writes wait."""
    from flashcast.zombie.document import Level, Writes
    from flashcast.zombie.rule_parts import ZOMBIE_LOOK, Look

    if rules is not None and (level is Level.ZOMBIE or rules.levels.shielded is not None):
        found = rules.look(level)
    elif level is Level.ZOMBIE:
        found = ZOMBIE_LOOK
    elif features:
        found = ZOMBIE_LOOK.model_copy(update={"writes": Writes.SEND})
    else:
        raise InputError("shielded: which features are off?", remedy="Name them with --feature, or give --rules.")
    return found if writes is None else Look(**{**dict(found), "writes": Writes(writes.value)})


def _confirm(document: Document | None, *, yes: bool) -> None:
    """Asks before everybody is let in at once."""
    import asyncio

    from flashcast.zombie.orders import in_force

    held = in_force(document, time.time())
    if yes or held is None or not held.buckets:
        return
    check_can_ask(yes=yes, remedy="Add --yes; or let users in by steps with `flashcast zombie recover`.")
    with Leaving() as leaving:
        leaving.text = "nothing was changed"
        asyncio.run(entered(f"This lets {share_of(held.buckets)} back in at once. Press ENTER"))


def _publish(place: Place, act: Act, by: str, url: str | None, note: str, *, replace: bool, as_json: bool) -> None:
    done = place.publish(act, url, replace=replace)
    document = done.document
    _log(place.app, act, document, by, note)
    if as_json:
        print_json(show.publication_json(done, place.target.url, act, note))
        return
    answer(f"version {document.version}: {act.told}")
    if document.manual is not None:
        say(f"{document.manual.by} decides until {moment(document.manual.until)}; the document holds until "
            f"{moment(document.expires_at)}.")  # fmt: skip
    else:
        say(f"A controller goes on from here; without one it holds until {moment(document.expires_at)}.")
    if not done.compared:
        say("warning: the store cannot tell whether somebody else published at the same moment; look again.")
    if done.kept is False:
        say("warning: no copy of it could be kept beside it; keep the file yourself if you will repair later.")
    if done.public is not None:
        warning = "" if done.public.seen == "new" else "warning: apps do not get this version yet: "
        say(f"{warning}{done.public.url} shows {done.public.seen.value} after {done.public.waited_s:g} s")
        for advice in done.public.advice:
            say(f"  {advice}")


def _log(app_name: str, act: Act, document: Document, by: str, note: str) -> None:
    """One line into the log of orders. That it cannot be written is told, and no reason to fail: it is published."""
    from flashcast.state import default_state_path

    path = default_state_path() / "zombie" / f"{app_name}.orders.jsonl"
    line = {
        "at": document.issued_at, "app": app_name, "version": document.version, "level": document.level.value,
        "buckets": document.buckets, "by": by, "told": act.told, "note": note,
    }  # fmt: skip
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        err.print(f"warning: {path} cannot be written: {error.strerror}", markup=False, soft_wrap=True)


def _seen_by_apps(place: Place, found: Published, url: str | None) -> dict[str, Any] | None:
    if url is None:
        return None
    from flashcast.zombie.client.http import urllib_transport
    from flashcast.zombie.public import check_public

    check = check_public(
        url, found.main.name, max(1, found.main.version), place.trusted(), transport=urllib_transport, wait_s=0.0
    )
    return {**check._asdict(), "seen": check.seen.value, "advice": list(check.advice)}
