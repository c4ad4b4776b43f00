"""FCM HTTP v1: a service account's OAuth token, and the shape of its requests.

Source: Google, "Send messages using FCM HTTP v1" (firebase.google.com/docs/cloud-messaging/send/v1-api). The token is
fetched from the `token_uri` inside the service account, so that any server can stand in.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import google.auth.exceptions
import google.auth.transport.requests
import requests
from google.oauth2 import service_account

from flashcast.clock import Clock
from flashcast.errors import ConfigError, CredentialError, EnvironmentFault, FlashcastError

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_RENEW_BEFORE_S: Final = 300.0
_RETRY_RENEWAL_S: Final = 5.0
_TIMEOUT_S: Final = 10


def request_head(authority: str, project_id: str) -> tuple[tuple[str, str], ...]:
    """The pseudo-headers; the device token is in the body."""
    return (
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", f"/v1/projects/{project_id}/messages:send"),
    )


class ServiceAccount:
    """Fetches OAuth tokens and renews them five minutes before they end."""

    def __init__(
        self,
        file: Path,
        clock: Clock,
        *,
        project_id: str | None = None,
        ca_file: Path | None = None,
        proxy: str | None = None,
    ) -> None:
        """Reads the file; the first token is fetched by `keep_fresh`. Raises CredentialError, ConfigError."""
        info = _load(file)
        self.project_id = project_id or info.get("project_id", "")
        if not self.project_id:
            raise ConfigError(f"fcm.project_id is not set, and {file} names none", remedy="Set fcm.project_id.")
        try:
            self._credentials = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
        except (ValueError, google.auth.exceptions.GoogleAuthError) as error:
            raise CredentialError(
                f"fcm.service_account_file: {file} is not a usable service account ({type(error).__name__})",
                remedy="Download a new private key for the service account from the Google Cloud console.",
            ) from None
        self._token_uri = str(info.get("token_uri"))
        self._clock = clock
        self._session = requests.Session()
        self._session.trust_env = proxy is None
        self._ca_file = ca_file
        if proxy is not None:
            self._session.proxies = {"https": proxy, "http": proxy}
        self._lock = threading.Lock()
        self._authorization = ""
        self._renew_at = 0.0
        self._refused = ""
        self._refusals = 0

    def __repr__(self) -> str:
        return f"<ServiceAccount project {self.project_id}, renews at {self._renew_at:.0f}>"

    def authorization(self) -> str:
        return self._authorization

    def keep_fresh(self) -> None:
        """Raises CredentialError or EnvironmentFault only while there is no token at all."""
        if self._clock.time() < self._renew_at:
            return
        with self._lock:
            if self._clock.time() < self._renew_at:
                return
            try:
                self._renew()
            except FlashcastError:
                # The token in hand may still be good for minutes: try again soon, and let the provider judge it.
                self._renew_at = self._clock.time() + _RETRY_RENEWAL_S
                if not self._authorization:
                    raise

    def refused(self, authorization: str | None) -> bool:
        """Marks the token for renewal by the next `keep_fresh`; two tokens refused one after the other are final.

        A token is refused once for every request in flight, which counts as one.
        """
        with self._lock:
            if authorization != self._authorization:
                return True
            if authorization != self._refused:
                self._refused = self._authorization
                self._refusals += 1
                self._renew_at = 0.0
            return self._refusals < 2

    def _renew(self) -> None:
        try:
            request = google.auth.transport.requests.Request(self._session)
            self._credentials.refresh(_Impatient(request, self._ca_file))
        except google.auth.exceptions.TransportError as error:
            raise EnvironmentFault(
                f"cannot reach the token server {self._token_uri}: {_cause(error)}",
                remedy="Check token_uri in the service account file, fcm.ca_file and fcm.proxy.",
                retryable=True,
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            told = str(error.args[0]) if error.args else type(error).__name__
            raise CredentialError(
                f"the token server {self._token_uri} refused the service account: {told[:200]}",
                remedy="The key may be expired, disabled or deleted: create a new one in the Google Cloud console, "
                "and check this machine's clock.",
            ) from None
        now = self._clock.time()
        expiry = self._credentials.expiry
        # google-auth gives a naive time in UTC.
        lifetime_s = expiry.replace(tzinfo=UTC).timestamp() - time.time() if expiry is not None else 3600.0
        fresh = f"Bearer {self._credentials.token}"
        if self._authorization != self._refused:
            self._refusals = 0  # the token that is replaced was good
        elif fresh == self._refused:
            self._refusals += 1  # the token server has no better one
        self._renew_at = now + max(lifetime_s - _RENEW_BEFORE_S, lifetime_s / 2)
        self._authorization = fresh


class _Impatient:
    """Wraps google-auth's request: it would wait two minutes, and the environment's CA bundle would beat ours."""

    def __init__(self, request: google.auth.transport.requests.Request, ca_file: Path | None) -> None:
        self._request = request
        self._options: dict[str, Any] = {"timeout": _TIMEOUT_S}
        if ca_file is not None:
            self._options["verify"] = str(ca_file)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._request(*args, **{**kwargs, **self._options})


def _load(file: Path) -> dict[str, str]:
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CredentialError(f"fcm.service_account_file: cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise CredentialError(f"fcm.service_account_file: {file} is not JSON") from None
    missing = [
        key for key in ("client_email", "private_key", "token_uri") if not isinstance(info, dict) or key not in info
    ]
    if missing:
        raise CredentialError(
            f"fcm.service_account_file: {file} lacks {', '.join(missing)}",
            remedy="Download the service account's private key as JSON from the Google Cloud console.",
        )
    return {str(key): value for key, value in info.items()}


def _cause(error: Exception) -> str:
    """The innermost words of a chain of connection errors, without addresses of objects."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__  # type: ignore[assignment]
    return str(inner)[:200] or type(inner).__name__
