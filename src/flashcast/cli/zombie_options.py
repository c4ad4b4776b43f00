"""What the commands of zombie mode share: where documents are published, by which keys, who acts, and for how long."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flashcast.errors import InputError

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="Where the document is published: a directory, or s3://, gs:// or az:// with a prefix; by default "
        "FLASHCAST_ZOMBIE_TARGET.",
        show_default=False,
    ),
]
AppOption = Annotated[
    str | None,
    typer.Option(
        "--app", help="Which app; by default FLASHCAST_ZOMBIE_APP, else what the rules say.", show_default=False
    ),
]
KeyOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        "-k",
        help="File of a private key to sign with; twice while keys are changed; by default FLASHCAST_ZOMBIE_KEY.",
        show_default=False,
    ),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="A public key, or a file with one, that may have signed what is published; by default "
        "FLASHCAST_ZOMBIE_TRUST. The keys of --key are trusted anyway.",
        show_default=False,
    ),
]
RulesOption = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        "-r",
        help="The rules file: what levels mean, and the steps of recovery; by default FLASHCAST_ZOMBIE_RULES.",
        show_default=False,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        help="Where apps find what is published: it is fetched from there as well; by default FLASHCAST_ZOMBIE_URL.",
        show_default=False,
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--operator",
        help="Who acts, as everybody can read it in the document; by default FLASHCAST_OPERATOR or your user name.",
        show_default=False,
    ),
]
NoteOption = Annotated[
    str, typer.Option("--note", help="Why, for the log of orders in the state folder.", show_default=False)
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Go on where a file is there that is not genuine; it is lost.")
]


def operator_label(given: str | None) -> str:
    """Who acts, in the letters that a document takes."""
    import getpass

    name = given or os.environ.get("FLASHCAST_OPERATOR")
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError):  # a user without a name, as in containers
            name = str(os.getuid())
    return re.sub(r"[^A-Za-z0-9._:@+-]+", "-", name)[:64] or "unknown"


def seconds_of(text: str, option: str) -> float:
    """A duration such as 90s, 30m, 2h or 1h30m, in seconds; 0 is 0. Raises InputError."""
    found = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", text.strip())
    if text.strip() == "0":
        return 0.0
    if found is None or not text.strip():
        raise InputError(f"{option} {text!r} is no duration", remedy="Write 90s, 30m, 2h or 1h30m.")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(hours * 3_600 + minutes * 60 + seconds)


def share_of(buckets: int) -> str:
    """Users as a person reads them."""
    return f"{buckets / 10:g} % of users"


def moment(at: float) -> str:
    """A time as the clock on the wall shows it, with the date where it is not today's."""
    local = datetime.fromtimestamp(at, UTC).astimezone()
    today = datetime.now(UTC).astimezone().date() == local.date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"
