"""What the commands of zombie mode share: where documents are published, by which keys, who acts, and for how long."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flashcast.errors import InputError

if TYPE_CHECKING:
    from flashcast.zombie.keys import SigningKey, Trusted
    from flashcast.zombie.orders import Act
    from flashcast.zombie.publish import Publication, Published
    from flashcast.zombie.rules import Rules
    from flashcast.zombie.targets import Target

VARIABLE: Final = "FLASHCAST_ZOMBIE_"
"""Before TARGET, APP, KEY, TRUST, RULES and URL: what an option says where it is not given."""

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


def variable(name: str) -> str | None:
    """A variable of zombie mode; None where it is not set or empty."""
    return os.environ.get(f"{VARIABLE}{name}") or None


@dataclass(frozen=True)
class Place:
    """Which app's document, where, and by whose keys."""

    target_url: str | None = None
    app_name: str | None = None
    key_files: Sequence[Path] | None = None
    trust: Sequence[str] | None = None
    rules_file: Path | None = None

    @property
    def app(self) -> str:
        """The app. Raises InputError where nobody says which."""
        rules = self.rules
        found = self.app_name or variable("APP") or (rules.app if rules else None)
        if found is None:
            raise InputError("--app is missing", remedy=f"Name the app, or set {VARIABLE}APP.")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", found):
            raise InputError(f"--app {found!r}: only a-z, 0-9 and - are possible, at most 40")
        if rules is not None and rules.app != found:
            raise InputError(f"--app {found}: the rules are for {rules.app}", remedy="Give one of them.")
        return found

    @cached_property
    def target(self) -> Target:
        """Where it is published."""
        from flashcast.zombie.targets import open_target

        url = self.target_url or variable("TARGET")
        if url is None:
            raise InputError("--target is missing", remedy=f"Name a directory or a bucket, or set {VARIABLE}TARGET.")
        return open_target(url)

    @cached_property
    def rules(self) -> Rules | None:
        """The rules, where a file is named."""
        from flashcast.zombie.rules import load_rules

        path = self.rules_file or (Path(named) if (named := variable("RULES")) else None)
        return None if path is None else load_rules(path)

    @cached_property
    def keys(self) -> list[SigningKey]:
        """The keys to sign with. Raises InputError where none is named, CredentialError where one cannot be used."""
        from flashcast.zombie.keys import SigningKey

        found = [SigningKey.load(path) for path in self._key_paths()]
        if not found:
            raise InputError(
                "--key is missing",
                remedy=f"Name the file of a private key, or set {VARIABLE}KEY; `flashcast zombie keys new` makes one.",
            )
        return found

    def trusted(self) -> Trusted:
        """Whom to believe: --trust, and the keys to sign with."""
        from flashcast.zombie.keys import PublicKey, SigningKey, trusted

        said = list(self.trust or (variable("TRUST") or "").split())
        believed = [
            PublicKey.load(Path(one)) if len(one) < 4_096 and Path(one).is_file() else PublicKey.parse(one)
            for one in said
        ]
        believed += [SigningKey.load(path).public for path in self._key_paths()]
        if not believed:
            raise InputError(
                "no key is named, so nobody can tell whether the document is genuine",
                remedy=f"Give --trust with the public key, or set {VARIABLE}TRUST.",
            )
        return trusted(believed)

    def published(self) -> Published:
        """What is published now."""
        from flashcast.zombie.publish import read_published

        return read_published(self.target, self.app, self.trusted())

    def publish(self, act: Act, url: str | None, *, replace: bool) -> Publication:
        """Publishes an order over the version that was looked at."""
        from flashcast.zombie.publish import publish

        rules = self.rules
        said = act.terms.changed(cohorts=rules.cohorts) if rules is not None else act.terms
        return publish(
            self.target, said, self.keys, lasts_s=act.lasts_s, trusted=self.trusted(), expect=act.expect,
            replace=replace, public_url=url or variable("URL"),
        )  # fmt: skip

    def _key_paths(self) -> list[Path]:
        named = variable("KEY")
        return list(self.key_files or ([Path(part) for part in named.split(os.pathsep)] if named else []))


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
