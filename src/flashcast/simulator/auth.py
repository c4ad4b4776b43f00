"""Whether a request may send: Apple's provider token, Google's access token.

Sources: Apple, "Establishing a token-based connection to APNs"; RFC 6750 for bearer tokens.
"""

from __future__ import annotations

import base64
import secrets
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flashcast.limits import JWT_AGE_S_MAX
from flashcast.outcomes import Reason

JWT_AHEAD_S_MAX: Final = 60.0
"""How far ahead of our clock an `iat` may be."""
REMEMBERED_MAX: Final = 1_024
"""Judged tokens kept; verifying one again costs 0.1 ms."""
ACCESS_TOKEN_CHARS: Final = 1_024
"""Google's access tokens have about this many characters; header blocks must carry them."""
ASSERTION_S_MAX: Final = 3_600 + 60
SCOPES: Final = {
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
}
GOOGLE_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
"""The audience google-auth writes into an assertion, whatever the account's token_uri."""
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def bearer(value: str | None) -> str | None:
    """The token of an Authorization header, None where there is none or another scheme."""
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


@dataclass(frozen=True, slots=True)
class Pass:
    """The verdict on a credential: `Reason.NONE` is good, until ``good_until_s`` (Unix seconds)."""

    reason: Reason
    good_until_s: float = 0.0


class ApnsGate:
    """Judges provider tokens of one team.

    ``updates_max`` different tokens within ``updates_window_s`` seconds are taken; the next is
    429 TooManyProviderTokenUpdates, for the team and not for the connection.
    """

    def __init__(
        self,
        key: ec.EllipticCurvePublicKey,
        key_id: str,
        team_id: str,
        updates_max: int,
        updates_window_s: float,
    ) -> None:
        self._key, self._key_id, self._team_id = key, key_id, team_id
        self._updates_max, self._updates_window_s = updates_max, updates_window_s
        self._judged: dict[str, tuple[Reason, float]] = {}
        self._taken: dict[str, None] = {}
        self._updates: deque[float] = deque()

    def check(self, authorization: str | None, now_s: float) -> Pass:
        """Judges the value of an Authorization header at Unix time ``now_s``."""
        token = bearer(authorization)
        if token is None:
            return Pass(
                Reason.MISSING_PROVIDER_TOKEN if authorization is None else Reason.INVALID_PROVIDER_TOKEN
            )
        if token not in self._judged:
            if len(self._judged) >= REMEMBERED_MAX:
                self._judged.clear()
            self._judged[token] = self._verify(token)
        reason, issued_s = self._judged[token]
        if reason is not Reason.NONE:
            return Pass(reason)
        if issued_s > now_s + JWT_AHEAD_S_MAX:
            return Pass(Reason.INVALID_PROVIDER_TOKEN)
        if issued_s < now_s - JWT_AGE_S_MAX:
            return Pass(Reason.EXPIRED_PROVIDER_TOKEN)
        if not self._may_update(token, now_s):
            return Pass(Reason.TOO_MANY_PROVIDER_TOKEN_UPDATES)
        return Pass(Reason.NONE, issued_s + JWT_AGE_S_MAX)

    def _verify(self, token: str) -> tuple[Reason, float]:
        try:
            header: dict[str, Any] = jwt.get_unverified_header(token)
            if header.get("alg") != "ES256" or header.get("kid") != self._key_id:
                return Reason.INVALID_PROVIDER_TOKEN, 0.0
            # The age is judged against the simulator's clock, not the library's.
            claims: dict[str, Any] = jwt.decode(
                token, self._key, algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError):
            return Reason.INVALID_PROVIDER_TOKEN, 0.0
        issued = claims.get("iat")
        if (
            claims.get("iss") != self._team_id
            or isinstance(issued, bool)
            or not isinstance(issued, int | float)
        ):
            return Reason.INVALID_PROVIDER_TOKEN, 0.0
        return Reason.NONE, float(issued)

    def _may_update(self, token: str, now_s: float) -> bool:
        if token in self._taken:
            return True
        while self._updates and self._updates[0] <= now_s - self._updates_window_s:
            self._updates.popleft()
        if len(self._updates) >= self._updates_max:
            return False
        self._updates.append(now_s)
        self._taken[token] = None
        if len(self._taken) > REMEMBERED_MAX:
            del self._taken[next(iter(self._taken))]
        return True


@dataclass(frozen=True, slots=True)
class Grant:
    """An OAuth answer: HTTP status and JSON document."""

    status: int
    document: dict[str, Any]


class FcmGate:
    """Issues access tokens for the service account's assertions, and judges them later."""

    def __init__(self, key: rsa.RSAPublicKey, key_id: str, client_email: str, lifetime_s: int) -> None:
        self._key, self._key_id, self._client_email, self._lifetime_s = key, key_id, client_email, lifetime_s
        self._issued: dict[str, float] = {}
        self.token_uri = ""

    def check(self, authorization: str | None, now_s: float) -> Pass:
        """Judges the value of an Authorization header at Unix time ``now_s``."""
        until = self._issued.get(bearer(authorization) or "")
        if until is None or until <= now_s:
            return Pass(Reason.FCM_UNAUTHENTICATED)
        return Pass(Reason.NONE, until)

    def issue(self, grant_type: str, assertion: str, now_s: float) -> Grant:
        """Answers a token request (RFC 7523) at Unix time ``now_s``."""
        if grant_type != GRANT:
            return _refusal("unsupported_grant_type", f"Invalid grant_type: {grant_type[:40]}")
        try:
            header: dict[str, Any] = jwt.get_unverified_header(assertion)
            claims: dict[str, Any] = jwt.decode(
                assertion, self._key, algorithms=["RS256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError):
            return _refusal("invalid_grant", "Invalid JWT Signature.")
        fault = self._claims_fault(header, claims, now_s)
        if fault is not None:
            return fault
        token = "ya29.c." + base64.urlsafe_b64encode(secrets.token_bytes(ACCESS_TOKEN_CHARS)).decode()
        token = token[:ACCESS_TOKEN_CHARS]
        if len(self._issued) >= REMEMBERED_MAX:
            del self._issued[next(iter(self._issued))]
        self._issued[token] = now_s + self._lifetime_s
        return Grant(200, {"access_token": token, "expires_in": self._lifetime_s, "token_type": "Bearer"})

    def _claims_fault(self, header: dict[str, Any], claims: dict[str, Any], now_s: float) -> Grant | None:
        issued, expires = claims.get("iat"), claims.get("exp")
        if header.get("kid") not in (None, self._key_id) or claims.get("iss") != self._client_email:
            return _refusal("invalid_grant", "Invalid grant: account not found")
        if claims.get("aud") not in (self.token_uri, GOOGLE_TOKEN_URI):
            return _refusal("invalid_grant", "Invalid JWT: Failed audience check.")
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            return _refusal("invalid_grant", "Invalid JWT: iat and exp are required.")
        if expires <= now_s or issued > now_s + JWT_AHEAD_S_MAX or expires - issued > ASSERTION_S_MAX:
            return _refusal("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes).")
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return _refusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return None


def _refusal(error: str, description: str) -> Grant:
    return Grant(400, {"error": error, "error_description": description})
