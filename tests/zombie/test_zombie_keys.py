"""Keys: made, kept from others, and read in every form people have them in."""

from __future__ import annotations

import base64
import os
import pickle
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from zombie_data import KEY, OTHER

from flashcast.errors import CredentialError, FlashcastError, InputError
from flashcast.zombie.keys import PublicKey, SigningKey, key_id, trusted

SEED = bytes(range(32))
PEM = (
    Ed25519PrivateKey.from_private_bytes(SEED)
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
PUBLIC_PEM = (
    Ed25519PrivateKey.from_private_bytes(SEED)
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
CURVE_PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)


def test_a_saved_key_is_its_owners_alone_and_comes_back(tmp_path: Path) -> None:
    made = SigningKey.generate()
    made.save(tmp_path / "zombie.key")
    assert stat.S_IMODE((tmp_path / "zombie.key").stat().st_mode) == 0o600
    assert SigningKey.load(tmp_path / "zombie.key").public == made.public


def test_a_saved_key_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        KEY.save(tmp_path / "zombie.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "zombie.key").stat().st_mode) == 0o600


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    KEY.save(tmp_path / "zombie.key")
    with pytest.raises(InputError, match="is there already"):
        OTHER.save(tmp_path / "zombie.key")
    assert SigningKey.load(tmp_path / "zombie.key").id == KEY.id


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    KEY.save(tmp_path / "zombie.key")
    (tmp_path / "zombie.key").chmod(mode)
    with pytest.raises(CredentialError, match="can be read by others"):
        SigningKey.load(tmp_path / "zombie.key")


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="cannot read the key"):
        SigningKey.load(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        base64.b64encode(SEED).decode(),
        base64.urlsafe_b64encode(SEED).decode().rstrip("="),
        f"  {base64.b64encode(SEED).decode()}\n",
    ],
)
def test_a_private_key_is_read_from_pem_and_any_base64(text: str) -> None:
    assert SigningKey.parse(text).public.text == PublicKey.parse(PUBLIC_PEM).text


@pytest.mark.parametrize("text", ["", "undead", PUBLIC_PEM, CURVE_PEM, base64.b64encode(SEED[:31]).decode(), PEM[:60]])
def test_what_is_no_private_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(CredentialError) as caught:
        SigningKey.parse(text)
    assert not text or text.strip() not in str(caught.value)


@pytest.mark.parametrize("text", ["", "zombie", PEM, "-----BEGIN PUBLIC KEY-----", "A" * 42])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        PublicKey.parse(text)


@given(st.text(max_size=300))
def test_any_text_is_a_key_or_an_error_of_ours(text: str) -> None:
    for parse in (PublicKey.parse, SigningKey.parse):
        try:
            parse(text)
        except FlashcastError:
            pass


def test_a_public_key_comes_back_from_its_text() -> None:
    assert len(KEY.public.text) == 43
    assert PublicKey.parse(KEY.public.text) == KEY.public
    assert KEY.public.id == key_id(KEY.public.raw)


def test_a_public_key_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "zombie.pub").write_text(PUBLIC_PEM)
    assert PublicKey.load(tmp_path / "zombie.pub") == PublicKey.parse(PUBLIC_PEM)


@pytest.mark.parametrize("data", [b"x" * 10_001, b"\xff\xfe"])
def test_a_file_that_is_no_key_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "x").chmod(0o600)
    with pytest.raises(CredentialError, match="is no key"):
        SigningKey.load(tmp_path / "x")


def test_a_private_key_is_shown_nowhere() -> None:
    made = SigningKey(SEED)
    shown = f"{made!r} {made} {vars(type(made))}"
    assert SEED.hex() not in shown
    assert base64.b64encode(SEED).decode() not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)


def test_a_reader_trusts_somebody() -> None:
    with pytest.raises(InputError, match="no trusted key"):
        trusted([])
    assert set(trusted([KEY, OTHER.public, KEY.public.text])) == {KEY.id, OTHER.id}


@pytest.mark.parametrize(
    "raw",
    [
        bytes(32),
        b"\x01" + bytes(31),
        (2**255 - 20).to_bytes(32, "little"),
        b"\xff" * 32,
        (2**255 - 18).to_bytes(32, "little"),
    ],
    ids=["zeros", "the neutral element", "its negative", "no canonical form", "the neutral element in another form"],
)
def test_a_key_that_anybody_can_sign_for_or_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError, match="no public key"):
        PublicKey(raw)
