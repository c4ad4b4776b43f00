"""Ed25519 keys: made, loaded, named. A private key is written to a file of mode 0600 and shown nowhere."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flashcast.errors import CredentialError, InputError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_ID_CHARS: Final = 16
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y_OF_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
"""And its negative: the points whose double has y = 0. The other small orders have y of 0, 1 and -1."""
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8})
KEY_FILE_BYTES_MAX: Final = 10_000
"""An Ed25519 key in PEM has 119 bytes; comments are welcome, disks are not read whole."""


class PublicKey:
    """What a client trusts. ``raw`` are the 32 bytes of RFC 8032."""

    __slots__ = ("_key", "id", "raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise InputError(f"a public key has {KEY_BYTES} bytes, not {len(raw)}")
        if not _is_sound(raw):
            raise InputError(
                "this is no public key: no point of the curve, or one that anybody can sign for",
                remedy="Copy it again; `flashcast zombie keys show FILE` prints it.",
            )
        self.raw: Final = bytes(raw)
        self.id: Final = key_id(raw)
        self._key = Ed25519PublicKey.from_public_bytes(self.raw)

    def __repr__(self) -> str:
        return f"<PublicKey {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    @property
    def text(self) -> str:
        """The key as an app's configuration names it: 43 characters of base64url without padding."""
        return _encoded(self.raw)

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """A key from its `text`, from any base64 of its 32 bytes, or from PEM (SubjectPublicKeyInfo).

        Raises InputError for anything else; a private key is refused, and not repeated in the message.
        """
        if "PRIVATE KEY" in text:
            raise InputError("this is a private key; an app is given the public one")
        if "-----BEGIN" in text:
            try:
                key = serialization.load_pem_public_key(text.strip().encode())
            except (ValueError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise InputError("the PEM text holds no Ed25519 public key")
            return cls(key.public_bytes_raw())
        raw = _decoded(text)
        if raw is None or len(raw) != KEY_BYTES:
            raise InputError("a public key is 32 bytes in base64, or PEM")
        return cls(raw)

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """A key from a file that holds what `parse` takes."""
        return cls.parse(_read(path))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this key's over exactly ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """What an operator signs with."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise CredentialError(f"a private key has {KEY_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"<SigningKey {self.id}>"

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled, it would travel to other processes and into caches.
        raise TypeError("a signing key is not pickled")

    @property
    def id(self) -> str:
        """The public key's id."""
        return self.public.id

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the system's randomness."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """A key from PEM (PKCS #8, without a passphrase) or from base64 of its 32-byte seed.

        Raises CredentialError for anything else, without repeating any of it.
        """
        if "-----BEGIN" in text:
            try:
                key = serialization.load_pem_private_key(text.strip().encode(), password=None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                key = None
            if not isinstance(key, Ed25519PrivateKey):
                raise CredentialError(
                    "the PEM text holds no Ed25519 private key that can be read without a passphrase"
                ) from None
            return cls(key.private_bytes_raw())
        raw = _decoded(text)
        if raw is None or len(raw) != KEY_BYTES:
            raise CredentialError(
                "a private key is 32 bytes in base64, or PEM", remedy="`flashcast zombie keys` makes one."
            )
        return cls(raw)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """A key from a file that holds what `parse` takes.

        Raises CredentialError where the file is missing, or where others than its owner may read it.
        """
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise CredentialError(f"cannot read the key {path}: {error.strerror}") from None
        if mode & 0o077:
            raise CredentialError(
                f"{path} can be read by others than its owner (mode {mode & 0o777:04o})",
                remedy=f"chmod 600 {path}; if others could read it for long, make a new key and rotate.",
            )
        return cls.parse(_read(path))

    def save(self, path: Path) -> None:
        """Writes the key as PEM to a new file of mode 0600.

        Raises InputError where there is a file already: a key that is overwritten is gone for good.
        """
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise InputError(
                f"{path} is there already", remedy="Name another file; keys are not overwritten."
            ) from None
        except OSError as error:
            raise CredentialError(f"cannot write the key {path}: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature over exactly ``message``."""
        return self._key.sign(message)


Trusted = Mapping[str, PublicKey]
"""The keys a client believes, by id."""


def trusted(keys: Iterable[PublicKey | SigningKey | str]) -> Trusted:
    """The keys a client believes: objects, or texts as `PublicKey.parse` takes them.

    Raises InputError where there are none: a client that trusts nobody would never hear of anything.
    """
    found = [PublicKey.parse(k) if isinstance(k, str) else k.public if isinstance(k, SigningKey) else k for k in keys]
    if not found:
        raise InputError("no trusted key is given", remedy="Name at least one public key.")
    return {key.id: key for key in found}


def _is_sound(raw: bytes) -> bool:
    """Whether 32 bytes are the canonical form of a point (RFC 8032 section 5.1.3), and one of no small order.

    OpenSSL takes any bytes. For a point of small order, such as a placeholder of zeros, anybody can sign; what is no
    point is a slip of whoever copied a key, and better noticed before an app is released than never.
    """
    y = int.from_bytes(raw, "little") & ~(1 << 255)  # the topmost bit is the sign of x
    if y >= _P or y in _SMALL_ORDER_Y:
        return False
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    # Euler's criterion; x = 0, whose sign would be ambiguous, has y of 1 or -1 and is of small order.
    return pow(x_squared, (_P - 1) // 2, _P) == 1


def key_id(raw: bytes) -> str:
    """The name of a public key: the first 8 bytes of its SHA-256, as 16 lower-case hexadecimal digits."""
    return sha256(raw).digest()[: KEY_ID_CHARS // 2].hex()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes | None:
    """What any base64 (either alphabet, padded or not) stands for."""
    plain = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/]*", plain):
        return None
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(KEY_FILE_BYTES_MAX + 1)
        if len(data) > KEY_FILE_BYTES_MAX:
            raise CredentialError(f"{path} is no key: it has more than {KEY_FILE_BYTES_MAX} bytes")
        return data.decode("ascii")
    except OSError as error:
        raise CredentialError(f"cannot read the key {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{path} is no key: it is not ASCII text") from None
