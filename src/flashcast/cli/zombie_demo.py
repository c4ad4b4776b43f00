"""`flashcast zombie demo`: the proof by experiment. A module of its own: `zombie.py` has the commands for real use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flashcast.cli.common import JsonOption, err, failures, interactive, print_json, print_text
from flashcast.cli.herd import takes_blocks
from flashcast.errors import ExitCode

if TYPE_CHECKING:
    from flashcast.zombie.experiment.conductor import Progress

LATE_S_MAX: Final = 1.0
"""A machine on which apps ask so much later than they mean to is too busy for its figures to be about the service."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the picture, the figures and the traces.")] = Path(
        "zombie-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Another herd of the same size.")] = 1,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="Other rules for the controller; see rules.toml in the folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what zombie mode does: a real service under a herd, once without it and once with it.

    Five processes on this machine, for two runs of 47 s: a small service with a database and a limited capacity, its
    monitoring, a web server for the document, a herd of apps with Flashcast's client, and the controller of `flashcast
    zombie watch`. Ends with 0 if everything was shown that should be: the collapse without, and with it goodput,
    recovery, and no write lost or applied twice. The traces are for `flashcast zombie replay`.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.experiment import show
        from flashcast.zombie.experiment.control import RULES
        from flashcast.zombie.experiment.demo import demo as run_demo
        from flashcast.zombie.experiment.parameters import DEFAULT

        with _watched() as begun:
            done = run_demo(DEFAULT.changed(seed=seed), out, begun, rules=rules or RULES)
        if as_json:
            print_json(done.document | {"files": [str(file) for file in done.files]})
        else:
            unicode = takes_blocks()
            print_text(f"{show.parameters_text(done.with_zombie)}\n{show.text(*done.records, unicode=unicode)}")
            err.print(f"written: {', '.join(str(file) for file in done.files)}", markup=False, soft_wrap=True)
        if not done.document["holds"]:
            late_s = max(done.document[run]["late_s"] for run in ("without", "with"))
            if late_s > LATE_S_MAX:
                err.print(f"This machine was busy: apps came up to {late_s:.1f} s late. Try again when it is not.")
            raise typer.Exit(int(ExitCode.UNBALANCED))


@contextmanager
def _watched() -> Iterator[Any]:
    """Gives what tells a person how far the runs are; nothing is told where nobody watches."""
    if not interactive():
        yield lambda zombie: None
        return
    with err.status("starting") as status:

        def begun(zombie: bool) -> Progress:
            name = "with zombie mode" if zombie else "without zombie mode"

            def told(now_s: float, standing: str) -> None:
                status.update(f"{name}: {max(now_s, 0):.0f} s{', ' if standing else ''}{standing}")

            return told

        yield begun
