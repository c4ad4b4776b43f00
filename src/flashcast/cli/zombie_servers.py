"""`flashcast zombie nginx` and `envoy`: configuration by which proxies shed for old apps."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, err, failures, print_json, print_text
from flashcast.errors import InputError
from flashcast.zombie.place import VARIABLE, Place, variable

if TYPE_CHECKING:
    from flashcast.zombie.document import Document
    from flashcast.zombie.servers.routing import Routing

DocumentOption = Annotated[
    str | None,
    typer.Option(
        "--document",
        "-d",
        help="Where the document is published: a directory, a bucket, an address as apps see it, or the file itself; "
        "by default FLASHCAST_ZOMBIE_TARGET.",
        show_default=False,
    ),
]
RoutingOption = Annotated[
    Path | None,
    typer.Option(
        "--routing",
        "-r",
        help="Which requests are which feature, and whose; by default FLASHCAST_ZOMBIE_ROUTING.",
        show_default=False,
    ),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="A public key, or a file with one, that may have signed the document; by default FLASHCAST_ZOMBIE_TRUST.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File to write, as a whole and only where something changes; prints `changed` or `unchanged`. Without it, "
        "standard output.",
        show_default=False,
    ),
]


class NginxPart(StrEnum):
    """Which of nginx's two files."""

    HTTP = "http"
    SERVER = "server"


class EnvoyForm(StrEnum):
    """As what Envoy is given the script."""

    FILTER = "filter"
    FILE = "file"
    LUA = "lua"


def nginx(
    routing: RoutingOption = None,
    document: DocumentOption = None,
    trust: TrustOption = None,
    part: Annotated[
        NginxPart,
        typer.Option(help="`http`: variables, made anew for each document. `server`: what uses them, once."),
    ] = NginxPart.HTTP,
    share_others: Annotated[
        bool,
        typer.Option("--share-others", help="Sort requests that carry no number by nginx's own hash of who they are."),
    ] = False,
    prefix: Annotated[str, typer.Option(help="Of the variables, where one nginx serves several apps.")] = "zombie",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write configuration by which nginx sheds as the document says, until the document ends.

    nginx cannot compute buckets. It decides by paths alone while everybody is in it; else by a cohort or bucket that
    requests carry, or, with --share-others, by a hash of its own.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.servers import nginx as made

        if part is NginxPart.SERVER:
            _give(made.server_part(prefix=prefix), out, as_json=as_json)
            return
        chosen = _routing(routing)
        found = _document(document, chosen, trust)
        if chosen.carried is None and not share_others and found is not None and 0 < found.buckets < 1_000:
            err.print(
                "not everybody is in it, and the routing says nothing of what requests carry: nobody is shed",
                markup=False, soft_wrap=True,
            )  # fmt: skip
        _give(made.http_part(found, chosen, share_others=share_others, prefix=prefix), out, found, as_json=as_json)


def envoy(
    routing: RoutingOption = None,
    document: DocumentOption = None,
    trust: TrustOption = None,
    form: Annotated[
        EnvoyForm,
        typer.Option(
            help="`filter`: an item of http_filters. `file`: what Envoy watches (see --watched). `lua`: the script."
        ),
    ] = EnvoyForm.FILTER,
    watched: Annotated[
        Path | None,
        typer.Option(
            "--watched",
            help="Print the item of http_filters that watches this file instead; written once, needs no document.",
            show_default=False,
        ),
    ] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a Lua filter by which Envoy sheds as the document says, until the document ends.

    It computes the clients' own buckets, so it decides for each user as their apps would.
    """
    with failures(as_json=as_json):
        from flashcast.zombie.servers import envoy as made

        if watched is not None:
            _give(made.discovery_filter(watched), out, as_json=as_json)
            return
        chosen = _routing(routing)
        found = _document(document, chosen, trust)
        forms = {
            EnvoyForm.FILTER: made.http_filter, EnvoyForm.FILE: made.discovery_file, EnvoyForm.LUA: made.lua_source,
        }  # fmt: skip
        _give(forms[form](found, chosen), out, found, as_json=as_json)


def _routing(given: Path | None) -> Routing:
    from flashcast.zombie.servers.routing import load_routing

    named = variable("ROUTING")
    path = given or (Path(named) if named else None)
    if path is None:
        raise InputError("--routing is missing", remedy=f"Name the file, or set {VARIABLE}ROUTING.")
    found = load_routing(path)
    for problem in found.problems():
        err.print(f"{path}: {problem}", markup=False, soft_wrap=True)
    return found


def _document(source: str | None, routing: Routing, trust: list[str] | None) -> Document | None:
    from flashcast.zombie.servers.sources import read_document

    at = source or variable("TARGET")
    if at is None:
        raise InputError("--document is missing", remedy=f"Say where it is published, or set {VARIABLE}TARGET.")
    return read_document(at, routing.app, list(Place(trust=trust).trusted().values()))


def _give(text: str, out: Path | None, document: Document | None = None, *, as_json: bool) -> None:
    from flashcast.zombie.servers.sources import write_if_changed

    changed = out is not None and write_if_changed(out, text)
    if as_json:
        said = (
            {"version": document.version, "level": document.level.value, "buckets": document.buckets}
            if document
            else None
        )
        where = {"text": text} if out is None else {"out": str(out), "changed": changed}
        print_json({"document": said} | where)
    elif out is None:
        print_text(text)
    else:
        print_text(f"{'changed' if changed else 'unchanged'} {out}\n")
