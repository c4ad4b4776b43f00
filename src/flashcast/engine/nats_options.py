"""Where the NATS servers are, and how to prove who we are. No connection is made here, and no secret is ever shown."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from flashcast.errors import ConfigError, CredentialError, EnvironmentFault

PORT_DEFAULT: Final = 4222
REPLICAS_MAX: Final = 5
"""JetStream's own bound."""
SERVERS_MAX: Final = 32
TIMEOUT_S_MAX: Final = 60.0
_PREFIX: Final = "FLASHCAST_NATS_"
_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NKEY: Final = re.compile(r"\A\s*SU[A-Z2-7]{56}\s*\Z")
_CREDENTIALS: Final = re.compile(
    r"-BEGIN NATS USER JWT-+\s+\S+\s.*-BEGIN USER NKEY SEED-+\s+SU[A-Z2-7]{56}\s", re.DOTALL
)
_NUMBERS: Final = {"replicas": int, "timeout_s": float}
_FILES: Final = ("credentials_file", "nkey_file", "ca_file", "certificate_file", "certificate_key_file")
_VARIABLES: Final = {
    "replicas": "REPLICAS",
    "bucket": "BUCKET",
    "user": "USER",
    "password": "PASSWORD",
    "credentials_file": "CREDENTIALS",
    "nkey_file": "NKEY",
    "ca_file": "CA_FILE",
    "certificate_file": "CERTIFICATE_FILE",
    "certificate_key_file": "CERTIFICATE_KEY_FILE",
    "monitor": "MONITOR",
    "timeout_s": "TIMEOUT_S",
}


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to use NATS. `from_environment` reads the variable that is named behind each field.

    Raises ConfigError for a value out of bounds, and for two ways of authenticating at once.
    """

    replicas: int = 1
    """FLASHCAST_NATS_REPLICAS: on how many servers each bucket is kept; 3 in production."""
    bucket: str = "flashcast"
    """FLASHCAST_NATS_BUCKET: what the two buckets' names begin with. Fleets that differ in it are strangers."""
    user: str | None = None
    """FLASHCAST_NATS_USER, or nats://user:password@host."""
    password: str | None = field(default=None, repr=False)
    """FLASHCAST_NATS_PASSWORD, or the first line of FLASHCAST_NATS_PASSWORD_FILE."""
    credentials_file: Path | None = None
    """FLASHCAST_NATS_CREDENTIALS: a .creds file, with JWT and seed."""
    nkey_file: Path | None = None
    """FLASHCAST_NATS_NKEY: a file with an nkey's seed."""
    ca_file: Path | None = None
    """FLASHCAST_NATS_CA_FILE: PEM file of the authorities to trust instead of the system's. Demands TLS."""
    certificate_file: Path | None = None
    """FLASHCAST_NATS_CERTIFICATE_FILE: PEM client certificate. Demands TLS."""
    certificate_key_file: Path | None = None
    """FLASHCAST_NATS_CERTIFICATE_KEY_FILE: its private key, where it is not in the same file."""
    monitor: str | None = None
    """FLASHCAST_NATS_MONITOR: http://host:8222, the servers' monitoring addresses, joined by commas: with it the engine
    can look up what a plain client cannot, above all `sync_interval`."""
    timeout_s: float = 2.0
    """FLASHCAST_NATS_TIMEOUT_S: longest wait for one answer."""

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= REPLICAS_MAX:
            raise _wrong("replicas", f"{self.replicas}: must be 1 to {REPLICAS_MAX}", "Use 3; or 1 for one server.")
        if not _BUCKET.fullmatch(self.bucket):
            raise _wrong("bucket", f"{self.bucket!r}: letters, digits, _ and - only, at most 64")
        if not 0 < self.timeout_s <= TIMEOUT_S_MAX:
            raise _wrong("timeout_s", f"{self.timeout_s:g}: must be above 0 and at most {TIMEOUT_S_MAX:g} s")
        if (self.user is None) != (self.password is None):
            missing = "password" if self.password is None else "user"
            raise _wrong(missing, "missing: user and password go together")
        if self.certificate_key_file is not None and self.certificate_file is None:
            raise _wrong("certificate_file", "missing: its key alone is given")
        ways = [name for name in ("user", "credentials_file", "nkey_file") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise _wrong(ways[0], f"and {_variable(ways[1])} are both set", "Keep one way of authenticating.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> NatsOptions:
        """Reads the FLASHCAST_NATS_ variables; one that is empty counts as absent. Raises ConfigError."""
        given = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for name, variable in _VARIABLES.items():
            text = given.get(_PREFIX + variable, "")
            if not text:
                continue
            try:
                values[name] = Path(text).expanduser() if name in _FILES else _NUMBERS.get(name, str)(text)
            except ValueError:
                raise _wrong(name, f"{text!r}: not a number") from None
        secret = given.get(f"{_PREFIX}PASSWORD_FILE", "")
        if secret:
            if "password" in values:
                raise _wrong("password", f"and {_PREFIX}PASSWORD_FILE are both set", "Keep one of them.")
            values["password"] = _first_line(Path(secret).expanduser())
        return cls(**values)  # type: ignore[arg-type]

    @property
    def demands_tls(self) -> bool:
        """Whether these options make sense over TLS only."""
        return self.ca_file is not None or self.certificate_file is not None

    def check_secrets(self) -> None:
        """Looks into the file to authenticate with. nats-py never returns from one that is cut off.

        Raises CredentialError.
        """
        for name, form, what in (
            ("credentials_file", _CREDENTIALS, "a .creds file with a user's JWT and seed (nsc generate creds)"),
            ("nkey_file", _NKEY, "a user's nkey seed, which begins with SU"),
        ):
            path = getattr(self, name)
            if path is None:
                continue
            try:
                found = form.search(path.read_text(encoding="ascii"))
            except (OSError, UnicodeDecodeError) as error:
                raise CredentialError(f"{_variable(name)}: cannot read {path}: {_reason(error)}") from None
            if found is None:
                raise CredentialError(f"{_variable(name)}: {path} is not {what}")

    def tls_context(self) -> ssl.SSLContext:
        """TLS as configured. Raises EnvironmentFault or CredentialError for a file that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise EnvironmentFault(
                f"{_variable('ca_file')}: cannot read authorities from {self.ca_file}: {_reason(error)}",
                remedy="Give a PEM file with the certificate of the authority that signed the server's.",
            ) from None
        if self.certificate_file is not None:
            try:
                context.load_cert_chain(self.certificate_file, self.certificate_key_file)
            except (OSError, ssl.SSLError) as error:
                raise CredentialError(
                    f"{_variable('certificate_file')}: cannot use {self.certificate_file}: {_reason(error)}",
                    remedy=f"Give a PEM certificate and its unencrypted key ({_variable('certificate_key_file')}).",
                ) from None
        return context


@dataclass(frozen=True, slots=True)
class Server:
    """One server to dial."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    tls_name: str | None = None
    """The name to look for in its certificate, where that is not the host."""

    @property
    def address(self) -> str:
        """Its address without secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


def parse_servers(addresses: str) -> tuple[Server, ...]:
    """``nats://host:port[,nats://host:port...]``; tls:// demands TLS. Raises ConfigError, which shows no secret."""
    servers = tuple(_server(address.strip()) for address in addresses.split(",") if address.strip())
    if not servers:
        raise ConfigError("the NATS address names no server", remedy="Write nats://host:4222.")
    if len(servers) > SERVERS_MAX:
        raise ConfigError(f"the NATS address names {len(servers)} servers; at most {SERVERS_MAX} are allowed")
    return servers


def _server(address: str) -> Server:
    if "://" not in address:
        address = f"nats://{address}"
    # What stands before the @ may be a secret even where the rest is no address.
    shown = re.sub(r"//.*@", "//", address)
    try:
        parts = urlsplit(address)
        port = parts.port or PORT_DEFAULT
        if parts.scheme not in ("nats", "tls") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{shown!r} is no NATS address",
            remedy="Write nats://host:4222, or tls://host:4222; several are joined by commas.",
        ) from None
    user, password, token = _userinfo(parts)
    return Server(parts.hostname, port, parts.scheme == "tls", user, password, token)


def _userinfo(parts: SplitResult) -> tuple[str | None, str | None, str | None]:
    """User, password and token: a name alone is a token, as in every NATS client."""
    if parts.username is None:
        return None, None, None
    if parts.password is None:
        return None, None, unquote(parts.username)
    return unquote(parts.username), unquote(parts.password), None


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_PREFIX}PASSWORD_FILE: cannot read {path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _variable(name: str) -> str:
    return _PREFIX + _VARIABLES[name]


def _wrong(name: str, what: str, remedy: str = "") -> ConfigError:
    return ConfigError(f"{_variable(name)} {what}", remedy=remedy)
