"""What the simulator hands out: a certificate authority, certificates, an APNs key, a service account.

All of it is made on first use and kept in one folder, so that a sender configured once goes on working.
Private keys are readable by their owner alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flashcast.errors import EnvironmentFault

TEAM_ID: Final = "SIMTEAM001"
KEY_ID: Final = "SIMKEY0001"
PROJECT_ID: Final = "flashcast-simulator"
CLIENT_EMAIL: Final = "sender@flashcast-simulator.iam.gserviceaccount.com"
_VALID_DAYS: Final = 365
_MARGIN: Final = timedelta(days=7)

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Credentials:
    """The folder's files, and the public halves the simulator checks against."""

    folder: Path
    ca_file: Path
    server_certificate: Path
    server_key: Path
    apns_key: Path
    client_certificate: Path
    client_key: Path
    service_account: Path
    apns_public: ec.EllipticCurvePublicKey
    account_public: rsa.RSAPublicKey
    account_key_id: str

    def write_service_account(self, token_uri: str) -> None:
        """Points the service account at this run's OAuth endpoint."""
        document = json.loads(self.service_account.read_text(encoding="utf-8"))
        if document["token_uri"] != token_uri:
            document["token_uri"] = token_uri
            _write(self.service_account, json.dumps(document, indent=2).encode())


def _write(path: Path, data: bytes) -> None:
    # Replaced as a whole, so that a sender that starts meanwhile never reads half a file.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    fresh.replace(path)


def _private_pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(path: Path) -> Any:
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def _certificate(
    name: str, public: ec.EllipticCurvePublicKey, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None,
    key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...], usage: x509.ObjectIdentifier | None,
) -> x509.Certificate:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signer = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0] if issuer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_key_usage(authority=issuer is None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _fits(path: Path, hosts: tuple[str, ...]) -> bool:
    """Whether a certificate is there, is valid for a while and names every host."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        if certificate.not_valid_after_utc < datetime.now(UTC) + _MARGIN:
            return False
        if not hosts:
            return True
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return all(_general_name(host) in list(names) for host in hosts)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False


def _authority(folder: Path) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    """The certificate authority; a new one takes every certificate it signed with it."""
    certificate, key = folder / "ca.pem", folder / "ca-key.pem"
    if not (_fits(certificate, ()) and key.exists()):
        private = ec.generate_private_key(ec.SECP256R1())
        made = _certificate("Flashcast simulator CA", private.public_key(), None, private, (), None)
        _write(key, _private_pem(private))
        _write(certificate, made.public_bytes(serialization.Encoding.PEM))
        for name in ("server.pem", "client.pem"):
            (folder / name).unlink(missing_ok=True)
    return x509.load_pem_x509_certificate(certificate.read_bytes()).subject, _load(key)


def _signed(folder: Path, stem: str, name: str, hosts: tuple[str, ...], usage: x509.ObjectIdentifier) -> None:
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}-key.pem"
    if _fits(certificate, hosts) and key.exists():
        return
    private = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(name, private.public_key(), _authority(folder), private, hosts, usage)
    _write(key, _private_pem(private))
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _service_account(path: Path) -> None:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    digest = hashes.Hash(hashes.SHA1())
    digest.update(_private_pem(private))
    document = {
        "type": "service_account",
        "project_id": PROJECT_ID,
        "private_key_id": digest.finalize().hex(),
        "private_key": _private_pem(private).decode(),
        "client_email": CLIENT_EMAIL,
        "client_id": "100000000000000000001",
        "token_uri": "",
    }
    _write(path, json.dumps(document, indent=2).encode())


def prepare_credentials(folder: Path, host: str = "127.0.0.1") -> Credentials:
    """Makes in ``folder`` what is missing or about to expire, and reads the rest.

    Raises EnvironmentFault where the folder cannot be written, or holds files that are no keys.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hosts = tuple(
            dict.fromkeys(("localhost", "127.0.0.1", "::1", *(() if host in ("0.0.0.0", "::") else (host,))))
        )
        _authority(folder)
        _signed(folder, "server", "Flashcast simulator", hosts, ExtendedKeyUsageOID.SERVER_AUTH)
        _signed(folder, "client", "Apple Push Services: simulated", (), ExtendedKeyUsageOID.CLIENT_AUTH)
        apns_key, account = folder / f"AuthKey_{KEY_ID}.p8", folder / "service-account.json"
        if not apns_key.exists():
            _write(apns_key, _private_pem(ec.generate_private_key(ec.SECP256R1())))
        if not account.exists():
            _service_account(account)
        document = json.loads(account.read_text(encoding="utf-8"))
        account_key = serialization.load_pem_private_key(document["private_key"].encode(), password=None)
        if not isinstance(account_key, rsa.RSAPrivateKey):
            raise ValueError("service-account.json holds no RSA key")
        return Credentials(
            folder, folder / "ca.pem", folder / "server.pem", folder / "server-key.pem", apns_key,
            folder / "client.pem", folder / "client-key.pem", account,
            _load(apns_key).public_key(), account_key.public_key(), document["private_key_id"],
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentFault(
            f"cannot keep the simulator's credentials in {folder}: {error.strerror}",
            remedy="Give another folder with --dir.",
        ) from error
    except (ValueError, KeyError) as error:
        raise EnvironmentFault(
            f"the credentials in {folder} are damaged: {error}", remedy="Delete the folder; it is made anew."
        ) from error
