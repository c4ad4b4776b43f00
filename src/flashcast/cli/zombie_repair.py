"""`flashcast zombie repair`: who was in zombie mode, and what they get for it, once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashcast.cli.common import JsonOption, failures, print_json, print_text
from flashcast.cli.interrupts import held_interrupts
from flashcast.cli.progress import progress_bar
from flashcast.cli.zombie_options import TrustOption
from flashcast.errors import ExitCode, InputError
from flashcast.zombie.place import Place, variable

if TYPE_CHECKING:
    from flashcast.zombie.repair.deliver import Delivered
    from flashcast.zombie.repair.grants import Grants
    from flashcast.zombie.repair.rules import RepairRules
    from flashcast.zombie.repair.spans import Found

app = typer.Typer(
    name="repair", help="Find who was in zombie mode, and grant them what they lost, once.", no_args_is_help=True
)
RulesArgument = Annotated[Path, typer.Argument(help="The rules of repair, TOML.", show_default=False)]


class InDoubt(StrEnum):
    """What becomes of grants whose call may have worked."""

    AGAIN = "again"
    SKIP = "skip"


@app.command()
def spans(
    rules: RulesArgument,
    log: Annotated[
        list[str],
        typer.Option(
            "--log", "-l", help="NAME=PATH: a log by its name in the rules; a file, folder or glob; again for more."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write, .parquet or .csv.")],
    history: Annotated[
        list[str] | None,
        typer.Option(
            "--history",
            help="Where documents are published or kept: a directory, a bucket, a file with one a line; again for "
            "more; by default FLASHCAST_ZOMBIE_TARGET.",
            show_default=False,
        ),
    ] = None,
    trust: TrustOption = None,
    max_bad_lines: Annotated[
        float, typer.Option("--max-bad-lines", min=0, max=1, help="Share of the lines that may be unreadable.")
    ] = 0.001,
    as_json: JsonOption = False,
) -> None:
    """Find who was in zombie mode and when, from logs and replayed queues: one row per user and span."""
    with failures(as_json=as_json):
        from flashcast.zombie.repair.history import read_history
        from flashcast.zombie.repair.rules import load_repair_rules
        from flashcast.zombie.repair.spans import find_spans

        said = load_repair_rules(rules)
        target = variable("TARGET")
        places = history or ([target] if target else [])
        versions = read_history(places, said.app, Place(trust=trust).trusted())
        with progress_bar("reading logs") as bar:
            found = find_spans(
                said, _logs(log), versions, out, bad_share_max=max_bad_lines,
                tell=lambda lines: bar(lines, None) if bar else None,
            )  # fmt: skip
        if as_json:
            print_json(_found_json(found))
        else:
            print_text(_found_text(found))


@app.command()
def grants(
    rules: RulesArgument,
    spans: Annotated[Path, typer.Argument(help="The table of spans.", show_default=False)],
    to: Annotated[
        str | None, typer.Option("--to", help="`webhook`, or a file ending in .jsonl or .csv.", show_default=False)
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger", help="The file that knows what was done: the same one for every run.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and call nobody.")] = False,
    doubt: Annotated[
        InDoubt,
        typer.Option(help="Grants whose call may have worked: `again` with the same key, or `skip`."),
    ] = InDoubt.AGAIN,
    refused_again: Annotated[
        bool, typer.Option("--refused-again", help="Call again for those that the receiver has refused.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Grant users what the rules say, each once per grant and incident. Run again to go on where it was.

    Without --dry-run it calls the webhook or writes the file, and asks nothing.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.repair.deliver import INTERRUPTED
        from flashcast.zombie.repair.grants import grants_of
        from flashcast.zombie.repair.rules import load_repair_rules

        said = load_repair_rules(rules)
        if not dry_run and (to is None or ledger is None):
            missing = "--to" if to is None else "--ledger"
            raise InputError(f"{missing} is missing", remedy="Or look first, with --dry-run.")
        with grants_of(said, spans) as found:
            if dry_run:
                document = _dry_json(said, found, to, ledger, doubt, refused_again=refused_again)
                print_json(document) if as_json else print_text(_dry_text(document))
                return
            assert to is not None and ledger is not None
            done = _deliver(said, found, to, ledger, doubt, refused_again=refused_again)
        if as_json:
            print_json(vars(done))
        else:
            print_text(_done_text(done))
        if done.stopped == INTERRUPTED:
            raise typer.Exit(int(ExitCode.ABORTED))
        if done.open:
            raise typer.Exit(int(ExitCode.ENVIRONMENT))
        if done.refused:
            raise typer.Exit(int(ExitCode.UNBALANCED))


def _logs(given: Sequence[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--log {one!r}: which log of the rules is it?", remedy="Write NAME=PATH.")
        named.setdefault(name, []).append(path)
    return named


def _deliver(
    rules: RepairRules, grants: Grants, to: str, path: Path, doubt: InDoubt, *, refused_again: bool
) -> Delivered:
    from flashcast.zombie.repair.deliver import Doubt, receiver_of, to_file, to_webhook
    from flashcast.zombie.repair.ledger import Ledger

    receiver_of(rules, to)  # what is wrong with it is told before there is a ledger
    with Ledger(path) as ledger, progress_bar("granting") as bar, held_interrupts() as interrupts:
        tell = bar or (lambda done, total: None)

        def stop() -> bool:
            return interrupts.count > 0

        if to != "webhook":
            return to_file(rules, grants, ledger, Path(to), tell=tell, stop=stop)
        return to_webhook(
            rules, grants, ledger, doubt=Doubt(doubt.value), refused_again=refused_again, tell=tell, stop=stop
        )


def _found_json(found: Found) -> dict[str, Any]:
    return found._asdict() | {
        "logs": [vars(log) for log in found.logs],
        "incidents": [incident._asdict() for incident in found.incidents],
    }


def _found_text(found: Found) -> str:
    lines = []
    for log in found.logs:
        lines.append(
            f"{log.name}: {log.lines:,} lines in {log.files:,} files, {log.events:,} of them evidence; "
            f"{log.other:,} other, {log.outside:,} outside the incidents, {log.nobody:,} without a user, "
            f"{log.bad:,} bad"
        )
        lines += [f"  bad: {at}" for at in log.bad_at]
    lines.append(f"{found.events:,} events, each counted once; {found.versions:,} versions of the document")
    if found.unmatched:
        lines.append(f"{found.unmatched:,} events that no version explains: is the history whole?")
    for one in found.incidents:
        lines.append(f"{one.incident}: {one.users:,} users, {one.spans:,} spans, {_utc(one.first)} to {_utc(one.last)}")
    lines.append(f"{found.users:,} users, {found.spans:,} spans in {found.out}")
    return "\n".join([*lines, ""])


def _dry_json(
    rules: RepairRules, grants: Grants, to: str | None, path: Path | None, doubt: InDoubt, *, refused_again: bool
) -> dict[str, Any]:
    """What a run would do. A ledger that is not there is not made."""
    from flashcast.zombie.repair.deliver import receiver_of
    from flashcast.zombie.repair.ledger import Ledger, State

    receiver = receiver_of(rules, to) if to is not None else None
    states = dict.fromkeys([*(state.value for state in State), "new"], 0)
    with Ledger(path) if path is not None and path.exists() else nullcontext() as ledger:
        if ledger is not None and receiver is not None:
            ledger.check_belongs_to(rules.app, receiver)
        for page in grants.pages():
            known = ledger.entries([grant.key for grant in page]) if ledger is not None else {}
            for grant in page:
                entry = known.get(grant.key)
                states[entry.state.value if entry else "new"] += 1
    called = states["new"] + states["sent"] * (doubt is InDoubt.AGAIN) + states["refused"] * refused_again
    batch = rules.webhook.batch if to == "webhook" and rules.webhook else 1
    return {
        "grants": [one._asdict() for one in grants.counts()], "total": len(grants), "states": states,
        "receiver": receiver, "called": called, "calls": -(-called // batch) if to == "webhook" else 0,
    }  # fmt: skip


def _dry_text(said: dict[str, Any]) -> str:
    lines = [
        f"{one['grant']} for {one['incident']}: {one['users']:,} users, {one['spans']:,} spans, {one['minutes']:,.0f} "
        f"minutes, {_utc(one['first'])} to {_utc(one['last'])}; such as {', '.join(one['sample'])}"
        for one in said["grants"]
    ]
    states = said["states"]
    lines.append(
        f"{said['total']:,} grants: {states['new']:,} new, {states['done']:,} done, {states['sent']:,} in doubt, "
        f"{states['refused']:,} refused"
    )
    calls = f" in {said['calls']:,} calls" if said["calls"] else ""
    lines.append(f"dry run: {said['called']:,} would be granted{calls}; nobody was called")
    return "\n".join([*lines, ""])


def _done_text(done: Delivered) -> str:
    lines = [
        f"{done.grants:,} grants: {done.done:,} done now, {done.before:,} before, {done.refused:,} refused, "
        f"{done.open:,} still to do ({done.doubt:,} in doubt)" + (f"; {done.calls:,} calls" if done.calls else "")
    ]
    if done.stopped:
        lines.append(f"stopped: {done.stopped}")
    if done.open:
        lines.append("Run the same command again to go on.")
    return "\n".join([*lines, ""])


def _utc(at: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
