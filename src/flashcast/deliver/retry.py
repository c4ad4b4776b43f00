"""What to do with a row whose request ended: one pure decision, the whole of the retry policy.

| action            | `drop`                              | `resend`                     |
| ----------------- | ----------------------------------- | ---------------------------- |
| accept            | accepted                            | accepted                     |
| reject, prune     | rejected                            | rejected                     |
| stop              | rejected, and stop the provider     | the same                     |
| retry safe        | again; failed after the last try    | the same                     |
| refresh           | new credentials once, then again    | the same                     |
| retry doubtful    | unknown                             | again; unknown after the last try |
"""

from __future__ import annotations

from dataclasses import dataclass

from flashcast.limits import ATTEMPTS_MAX, BACKOFF_S_FIRST, BACKOFF_S_MAX
from flashcast.model import UnknownPolicy
from flashcast.outcomes import ACTIONS, Action, Outcome, Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """Either ``outcome`` settles the row, or it is sent again after ``delay_s``."""

    outcome: Outcome | None
    delay_s: float = 0.0
    stop: bool = False
    doubtful: bool = False
    """The row may have been taken already: if it is never sent again it ends unknown, not unsent."""


def decide(
    reason: Reason,
    policy: UnknownPolicy,
    attempts: int,
    *,
    retry_after_s: float | None = None,
    refreshed: bool = False,
    jitter: float = 0.0,
) -> Decision:
    """The fate of a row after its ``attempts``-th request ended with ``reason``.

    ``refreshed`` tells whether newer credentials are to be had; ``jitter`` in [0, 1) spreads the back-off.
    """
    if reason is Reason.NONE:
        return Decision(Outcome.ACCEPTED)
    action = ACTIONS[reason]
    again = attempts < ATTEMPTS_MAX
    delay_s = retry_after_s if retry_after_s is not None else backoff_s(attempts, jitter)
    if action is Action.REFRESH:
        if not refreshed:
            return Decision(Outcome.REJECTED, stop=True)
        return Decision(None, delay_s) if again else Decision(Outcome.FAILED)
    if action is Action.RETRY_SAFE:
        return Decision(None, delay_s) if again else Decision(Outcome.FAILED)
    if action is Action.RETRY_DOUBTFUL:
        if policy is UnknownPolicy.RESEND and again:
            return Decision(None, delay_s, doubtful=True)
        return Decision(Outcome.UNKNOWN)
    return Decision(Outcome.REJECTED, stop=action is Action.STOP)


def backoff_s(attempts: int, jitter: float) -> float:
    """Seconds before the next try: doubling from BACKOFF_S_FIRST to BACKOFF_S_MAX, the upper half jittered."""
    whole = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0 ** max(0, attempts - 1))
    return whole * (0.5 + 0.5 * jitter)
