"""APNs: a token every process of a fleet signs alike, and the faults of keys and certificates."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certificates import private_pem, self_signed
from flashcast.clock import FixedClock
from flashcast.errors import CredentialError, ExitCode
from flashcast.providers.apns import ClientCertificate, TokenSigner, request_head

HALF_HOUR = 1_800
ROUND = 1_790_000_000 - 1_790_000_000 % HALF_HOUR
KEY_ID, TEAM_ID = "ABC123DEFG", "TEAM567890"


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def key_file(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path = tmp_path / "AuthKey_ABC123DEFG.p8"
    path.write_bytes(private_pem(key))
    return path


def signer(key_file: Path, clock: FixedClock) -> TokenSigner:
    return TokenSigner(key_file, KEY_ID, TEAM_ID, clock)


def claims(authorization: str, key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
    """The claims of a token, its signature verified."""
    scheme, token = authorization.split(" ")
    assert scheme == "bearer"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": KEY_ID}
    options = {"verify_iat": False}
    return dict(jwt.decode(token, key.public_key(), algorithms=["ES256"], options=options))


def test_the_token_is_what_apple_asks_for(key_file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    made = signer(key_file, FixedClock(ROUND + 777))
    assert claims(made.authorization(), key) == {"iss": TEAM_ID, "iat": ROUND}


def test_two_processes_in_one_half_hour_present_the_same_bytes(key_file: Path) -> None:
    first, second = signer(key_file, FixedClock(ROUND)), signer(key_file, FixedClock(ROUND + HALF_HOUR - 1))
    assert first.authorization() == second.authorization()
    assert signer(key_file, FixedClock(ROUND + HALF_HOUR)).authorization() != first.authorization()


def test_the_token_changes_with_the_half_hour_and_not_before(key_file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    clock = FixedClock(ROUND + 10)
    made = signer(key_file, clock)
    first = made.authorization()
    clock.advance(HALF_HOUR - 11)
    made.keep_fresh()
    assert made.authorization() == first
    clock.advance(1)
    made.keep_fresh()
    assert claims(made.authorization(), key)["iat"] == ROUND + HALF_HOUR


def test_a_token_called_expired_is_tried_with_the_exact_time(key_file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    clock = FixedClock(ROUND + 600)
    made = signer(key_file, clock)
    first = made.authorization()
    assert made.refused(first)
    second = made.authorization()
    assert claims(second, key)["iat"] == ROUND + 600
    assert made.refused(first), "the answers to the first token's requests go on coming"
    assert made.authorization() == second
    clock.advance(60)
    assert not made.refused(second)
    clock.advance(HALF_HOUR)
    made.keep_fresh()
    assert claims(made.authorization(), key)["iat"] == ROUND + HALF_HOUR
    assert made.refused(made.authorization()), "a new half hour, a new try"


def test_nothing_about_a_signer_shows_its_key(key_file: Path) -> None:
    made = signer(key_file, FixedClock(ROUND))
    assert made.authorization().split(".")[-1] not in repr(made)
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize(("setting", "key_id", "team_id"), [
    ("apns.key_id", "short", TEAM_ID), ("apns.key_id", "ABC123DEF-", TEAM_ID), ("apns.team_id", KEY_ID, "TEAM5678901"),
    ("apns.team_id", KEY_ID, "TEAM56789é"), ("apns.team_id", KEY_ID, ""),
])  # fmt: skip
def test_ids_have_ten_letters_and_digits(key_file: Path, setting: str, key_id: str, team_id: str) -> None:
    with pytest.raises(CredentialError, match=f"{setting}: .* is not ten letters and digits"):
        TokenSigner(key_file, key_id, team_id, FixedClock())


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=r"apns.key_file: cannot read .*none.p8: No such file") as fault:
        signer(tmp_path / "none.p8", FixedClock())
    assert fault.value.exit_code is ExitCode.CREDENTIALS


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


@pytest.mark.parametrize("content", [
    b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", os.urandom(300),
    pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
], ids=["empty", "words", "cut short", "noise", "encrypted", "a public key"])  # fmt: skip
def test_a_file_that_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.p8"
    path.write_bytes(content)
    with pytest.raises(CredentialError, match="is not an unencrypted PEM private key") as fault:
        signer(path, FixedClock())
    assert "AAAA" not in str(fault.value)


@pytest.mark.parametrize("wrong", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)])
def test_a_key_of_another_kind_is_refused(
    tmp_path: Path, wrong: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "key.p8"
    path.write_bytes(pem(wrong))
    with pytest.raises(CredentialError, match="is not a P-256 key, and APNs wants ES256"):
        signer(path, FixedClock())


# --- certificates -------------------------------------------------------------------------------------

STARTS = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = STARTS + timedelta(days=365)


@pytest.fixture
def certificate_file(tmp_path: Path) -> Path:
    path = tmp_path / "push.pem"
    path.write_bytes(self_signed(STARTS, ENDS))
    return path


def at(moment: datetime) -> FixedClock:
    return FixedClock(moment.timestamp())


def test_a_certificate_speaks_for_us_without_a_header(certificate_file: Path) -> None:
    for moment in (STARTS, ENDS - timedelta(seconds=1)):
        held = ClientCertificate(certificate_file, at(moment))
        assert held.authorization() is None
        assert not held.refused(None)


def test_an_expired_certificate_is_refused_with_its_date(certificate_file: Path) -> None:
    with pytest.raises(CredentialError, match=r"apns.certificate_file: .*push.pem expired on 2027-01-01"):
        ClientCertificate(certificate_file, at(ENDS))


def test_a_certificate_not_yet_valid_hints_at_the_clock(certificate_file: Path) -> None:
    with pytest.raises(CredentialError, match="valid only from 2026-01-01") as fault:
        ClientCertificate(certificate_file, at(STARTS - timedelta(seconds=1)))
    assert "clock" in fault.value.remedy


def test_what_is_no_certificate_is_refused(tmp_path: Path, key_file: Path) -> None:
    with pytest.raises(CredentialError, match="is not a PEM certificate"):
        ClientCertificate(key_file, FixedClock())
    with pytest.raises(CredentialError, match="cannot read"):
        ClientCertificate(tmp_path / "none.pem", FixedClock())


def test_the_head_of_a_request_leaves_the_path_to_the_token() -> None:
    assert request_head("api.push.apple.com") == (
        (":method", "POST"), (":scheme", "https"), (":authority", "api.push.apple.com"),
    )  # fmt: skip
