"""APNs: token authentication with an ES256 JWT, or a client certificate; the shape of its requests.

Source: Apple, "Establishing a token-based connection to APNs" and "Sending notification requests to APNs".

A provider token may be renewed at most once in 20 minutes and must be renewed within 60, counted per team and not
per machine. So `iat` is rounded down to the half hour and the signature is deterministic (RFC 6979): every process
of a fleet presents the same bytes, without talking to another.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.utils import base64url_encode, der_to_raw_signature

from flashcast.clock import Clock
from flashcast.errors import CredentialError
from flashcast.limits import JWT_ROUND_S

PATH_PREFIX: Final = b"/3/device/"


def request_head(authority: str) -> tuple[tuple[str, str], ...]:
    """The pseudo-headers before the path, which carries the device token."""
    return ((":method", "POST"), (":scheme", "https"), (":authority", authority))


class TokenSigner:
    """Token authentication: signs, and re-signs when the half hour changes."""

    def __init__(self, key_file: Path, key_id: str, team_id: str, clock: Clock) -> None:
        """Loads the key. Raises CredentialError naming the setting at fault; the key itself is never shown."""
        self._key = _load_key(key_file)
        self._key_id = _ten_characters("apns.key_id", key_id)
        self._team_id = _ten_characters("apns.team_id", team_id)
        self._clock = clock
        self._lock = threading.Lock()
        self._issued_at = 0
        self._exact = False
        self._authorization = ""
        self.keep_fresh()

    def __repr__(self) -> str:
        return f"<TokenSigner key {self._key_id} team {self._team_id} issued at {self._issued_at}>"

    def authorization(self) -> str:
        return self._authorization

    def keep_fresh(self) -> None:
        now = int(self._clock.time())
        with self._lock:
            if now - now % JWT_ROUND_S > self._issued_at or not self._authorization:
                self._exact = False
                self._sign(now - now % JWT_ROUND_S)

    def refused(self, authorization: str | None) -> bool:
        """Once in a half hour a token with the exact time is tried: our clock may be that much behind."""
        with self._lock:
            if authorization != self._authorization:
                return True
            if self._exact:
                return False
            self._exact = True
            self._sign(int(self._clock.time()))
            return self._authorization != authorization

    def _sign(self, issued_at: int) -> None:
        head = json.dumps({"alg": "ES256", "kid": self._key_id}, separators=(",", ":"))
        claims = json.dumps({"iss": self._team_id, "iat": issued_at}, separators=(",", ":"))
        signed = base64url_encode(head.encode()) + b"." + base64url_encode(claims.encode())
        der = self._key.sign(signed, _signature_algorithm())
        signature = base64url_encode(der_to_raw_signature(der, self._key.curve))
        self._issued_at = issued_at
        self._authorization = "bearer " + (signed + b"." + signature).decode()


class ClientCertificate:
    """Certificate authentication: TLS says who we are, so there is no header."""

    def __init__(self, certificate_file: Path, clock: Clock) -> None:
        """Checks that the certificate can be read and is valid now. Raises CredentialError."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except OSError as error:
            raise CredentialError(f"apns.certificate_file: cannot read {certificate_file}: {error.strerror}") from None
        except ValueError:
            raise CredentialError(
                f"apns.certificate_file: {certificate_file} is not a PEM certificate",
                remedy="Convert it: openssl pkcs12 -in push.p12 -out push.pem -nodes.",
            ) from None
        now = datetime.fromtimestamp(clock.time(), UTC)
        if now >= certificate.not_valid_after_utc:
            raise CredentialError(
                f"apns.certificate_file: {certificate_file} expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
                remedy="Create a new certificate on Apple's developer site, or use token authentication.",
            )
        if now < certificate.not_valid_before_utc:
            raise CredentialError(
                f"apns.certificate_file: {certificate_file} is valid only from {certificate.not_valid_before_utc}",
                remedy="Check this machine's clock.",
            )
        self.valid_until = certificate.not_valid_after_utc.timestamp()
        """Unix time after which TLS refuses it."""

    def authorization(self) -> None:
        return None

    def keep_fresh(self) -> None:
        """A certificate is not renewed while we run."""

    def refused(self, authorization: str | None) -> bool:
        return False


def _signature_algorithm() -> ec.ECDSA:
    try:
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm as error:
        raise CredentialError(
            "this OpenSSL cannot sign deterministically", remedy="Install cryptography from its wheel (pip)."
        ) from error


def _load_key(key_file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        pem = key_file.read_bytes()
    except OSError as error:
        raise CredentialError(f"apns.key_file: cannot read {key_file}: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CredentialError(
            f"apns.key_file: {key_file} is not an unencrypted PEM private key",
            remedy="Use the AuthKey_XXXXXXXXXX.p8 file as Apple's developer site gave it.",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialError(
            f"apns.key_file: {key_file} is not a P-256 key, and APNs wants ES256",
            remedy="Use the AuthKey_XXXXXXXXXX.p8 file as Apple's developer site gave it.",
        )
    return key


def _ten_characters(setting: str, value: str) -> str:
    if len(value) != 10 or not value.isascii() or not value.isalnum():
        raise CredentialError(
            f"{setting}: {value!r} is not ten letters and digits",
            remedy="Copy it from the developer site: Keys for the key id, Membership for the team id.",
        )
    return value
