"""Which app's document, where, and by whose keys: from what is given, and from variables where nothing is.

Nothing is read before it is asked for, and no key is held longer than that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flashcast.errors import InputError

if TYPE_CHECKING:
    from flashcast.zombie.keys import SigningKey, Trusted
    from flashcast.zombie.orders import Act
    from flashcast.zombie.publish import Publication, Published
    from flashcast.zombie.rules import Rules
    from flashcast.zombie.targets import Target

VARIABLE: Final = "FLASHCAST_ZOMBIE_"
"""Before TARGET, APP, KEY, TRUST, RULES and URL: what a command goes by where its option is not given."""


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

    def publish(self, act: Act, url: str | None = None, *, replace: bool = False) -> Publication:
        """Publishes an order over the version that was looked at."""
        from flashcast.zombie.publish import publish

        rules = self.rules
        said = act.terms.changed(cohorts=rules.cohorts) if rules is not None else act.terms
        return publish(
            self.target, said, self.keys, lasts_s=act.lasts_s, trusted=self.trusted(), expect=act.expect,
            replace=replace, public_url=url or variable("URL"), history=True,
        )  # fmt: skip

    def _key_paths(self) -> list[Path]:
        named = variable("KEY")
        return list(self.key_files or ([Path(part) for part in named.split(os.pathsep)] if named else []))
