"""What the controller knows of publishing: one look at what is published, one publication. Blocking; for a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flashcast.clock import Clock
from flashcast.zombie import keys as keyring
from flashcast.zombie.document import Document, RefusedError, Terms, file_name
from flashcast.zombie.envelope import open_sealed
from flashcast.zombie.keys import SigningKey, Trusted
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.targets import Target


class Seen(NamedTuple):
    """What is published.

    ``document``   the app's document; None where there is none, or none that is genuine
    ``expect``     the version that the next publication expects to find
    ``fault``      why what is there is not genuine
    """

    document: Document | None
    expect: int
    fault: str = ""


class Post:
    """Where one app's document is published, and by whose keys."""

    def __init__(
        self, target: Target, app: str, keys: Sequence[SigningKey], clock: Clock, trusted: Trusted | None = None
    ) -> None:
        self._target, self._app, self._keys, self._clock = target, app, keys, clock
        self._trusted = keyring.trusted(keys) if trusted is None else trusted

    def __repr__(self) -> str:
        return f"<Post {self.url} app={self._app}>"

    @property
    def url(self) -> str:
        """The place's path or address."""
        return self._target.url

    def look(self, *, whole: bool = False) -> Seen:
        """What is published; with ``whole`` the cohorts' files are read too. Raises EnvironmentFault.

        A look at the document alone costs one request; what cohorts' files say matters only after a conflict.
        """
        if whole:
            found = read_published(self._target, self._app, self._trusted)
            return Seen(found.document, found.version, found.main.fault)
        stored = self._target.read(file_name(self._app))
        if stored is None:
            return Seen(None, 0)
        try:
            document = open_sealed(stored.data, self._trusted).document
        except RefusedError as error:
            return Seen(None, 0, error.message)
        if file_name(document.app, document.cohort) != file_name(self._app):
            return Seen(None, 0, "it is another app's or another cohort's")
        return Seen(document, document.version)

    def publish(self, terms: Terms, lasts_s: int, expect: int) -> Document:
        """Publishes over version ``expect``, and returns the document. Raises what `publish` raises."""
        return publish(
            self._target, terms, self._keys, lasts_s=lasts_s, trusted=self._trusted, expect=expect, history=True,
            clock=self._clock,
        ).document  # fmt: skip
