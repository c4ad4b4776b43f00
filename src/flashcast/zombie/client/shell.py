"""What the two shells share: everything an app asks that neither waits nor touches the disk."""

from __future__ import annotations

from flashcast.zombie.client.core import Action, Decision, Standing
from flashcast.zombie.client.http import HttpRequest
from flashcast.zombie.client.options import Statistics
from flashcast.zombie.client.session import Session, Step
from flashcast.zombie.client.writes import Write


class Shell:
    """A client but for its loop. Every method may be called from any thread."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session!r}>"

    @property
    def user(self) -> str:
        """Whose bucket decides, and whose writes are sent."""
        return self.session.user

    def standing(self) -> Standing:
        """How things stand for the user: level, whether they are in it, what is off, what to show."""
        return self.session.standing()

    def decide(self, feature: str, *, write: bool = False) -> Decision:
        """What to do with a call of ``feature`` now."""
        return self.session.decide(feature, write=write)

    def is_off(self, feature: str) -> bool:
        """Whether a feature is off for the user, or its server has asked to be left alone."""
        return self.decide(feature).action is not Action.SEND

    def message(self, locale: str) -> str | None:
        """What to show the user, None for nothing."""
        return self.standing().message(locale)

    def pending(self) -> list[Write]:
        """The writes that are kept, the oldest first: those that wait and those that were refused for good."""
        return self.session.pending()

    def statistics(self) -> Statistics:
        """Counts since the client was made."""
        return self.session.statistics()

    def _prepared(self, step: Step) -> HttpRequest:
        """The request to carry: a poll as it is, a write with what must not be kept on disk."""
        assert step.request is not None
        return self.session.options.prepare(step.request) if step.write_id else step.request
