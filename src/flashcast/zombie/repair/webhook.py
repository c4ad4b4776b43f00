"""One call of the receiver, with its attempts. What became of it is one of three: yes, no, or nobody knows."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from flashcast.errors import CredentialError
from flashcast.zombie.bounds import RETRY_AFTER_S_MAX
from flashcast.zombie.client.http import (
    HttpRequest,
    HttpResponse,
    Transport,
    TransportError,
    retry_after_s,
    urllib_transport,
)
from flashcast.zombie.client.writes import IDEMPOTENCY_KEY, Fate, fate_of
from flashcast.zombie.repair.grants import KEY_CHARS, Grant
from flashcast.zombie.repair.rules import WebhookRules

BACKOFF_S_MAX: Final = 300.0
ANSWER_BYTES_MAX: Final = 64 << 10
_NOT_TAKEN: Final = (408, 425, 429, 503)
"""Answers by which a receiver says that it has done nothing (RFC 9110 sections 15.5.9 and
15.6.4, RFC 6585, RFC 8470)."""


class Called(NamedTuple):
    """What became of a call. ``doubt``: some attempt may have worked, and no answer said so."""

    fate: Fate
    status: int
    attempts: int
    doubt: bool


class Webhook:
    """The receiver. ``call`` may run in several threads; ``pause`` waits, and returns whether to give up.

    Raises CredentialError where the secret is not in the environment.
    """

    def __init__(
        self,
        rules: WebhookRules,
        *,
        random: Callable[[], float],
        now: Callable[[], float],
        pause: Callable[[float], bool],
        transport: Transport = urllib_transport,
        send_again: bool = True,
    ) -> None:
        self._rules, self._random, self._now, self._pause = rules, random, now, pause
        self._transport, self._send_again = transport, send_again
        self._headers = {"Content-Type": "application/json"}
        if rules.secret_env is not None:
            secret = os.environ.get(rules.secret_env)
            if not secret:
                raise CredentialError(f"webhook.secret_env: {rules.secret_env} is not set in the environment")
            self._headers[rules.header] = secret
            if HttpRequest("POST", rules.url, self._headers).fault:
                raise CredentialError(f"webhook.secret_env: {rules.secret_env} cannot be sent as a header")

    def __repr__(self) -> str:
        return "<Webhook>"  # its address may tell too much, its headers do

    def call(self, name: str, grants: Sequence[Grant]) -> Called:
        """Sends a call until there is an answer that means something, or no attempt is left."""
        request = self._request(name, grants)
        doubt = False
        for attempt in range(1, self._rules.attempts + 1):
            response, unsent = self._sent(request)
            fate = fate_of(response)
            status = response.status if response is not None else 0
            if fate is not Fate.AGAIN:
                return Called(fate, status, attempt, doubt and fate is not Fate.APPLIED)
            # What is answered with 500 may have been done before that.
            doubt = doubt or (not unsent if response is None else response.status not in _NOT_TAKEN)
            if doubt and not self._send_again:
                break
            if attempt == self._rules.attempts or self._pause(self._wait_s(attempt, response)):
                break
        return Called(Fate.AGAIN, status, attempt, doubt)

    def _request(self, name: str, grants: Sequence[Grant]) -> HttpRequest:
        told = (
            grants[0].told
            if self._rules.batch == 1 == len(grants)
            else {"key": name, "grants": [one.told for one in grants]}
        )
        body = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {**self._headers, IDEMPOTENCY_KEY: name}
        return HttpRequest(
            "POST", self._rules.url, headers, body, timeout_s=self._rules.timeout_s, response_bytes_max=ANSWER_BYTES_MAX
        )

    def _sent(self, request: HttpRequest) -> tuple[HttpResponse | None, bool]:
        """The answer, and where there is none whether the request surely never left."""
        try:
            return self._transport(request), False
        except TransportError as error:
            reason = getattr(error.__context__, "reason", error.__context__)
            return None, isinstance(reason, ConnectionRefusedError | socket.gaierror)
        except OSError:
            return None, False

    def _wait_s(self, attempt: int, response: HttpResponse | None) -> float:
        """Doubled each time, of which at least half; and no less than Retry-After, plus up to half of that."""
        drawn = self._random()
        most = min(self._rules.backoff_s * 2.0 ** (attempt - 1), BACKOFF_S_MAX)
        asked = retry_after_s(response.headers, self._now()) if response is not None else None
        return max(most * (1 + drawn) / 2, min(asked or 0.0, float(RETRY_AFTER_S_MAX)) * (1 + drawn / 2))


def call_name(grants: Sequence[Grant]) -> str:
    """The idempotency key of a call: a single grant's own, and of several a hash over theirs."""
    if len(grants) == 1:
        return grants[0].key
    return sha256("\n".join(sorted(one.key for one in grants)).encode()).hexdigest()[:KEY_CHARS]
