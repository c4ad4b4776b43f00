"""flashcast.toml: where the providers are and how to prove who we are.

Every setting can also come from the environment: ``FLASHCAST_APNS__KEY_FILE`` is ``[apns] key_file``.
The environment wins over the file. Relative paths in the file are relative to the file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flashcast.errors import ConfigError
from flashcast.limits import CONNECTIONS_MAX, FCM_QUOTA_PER_MINUTE, HANDSHAKE_DEADLINE_S, REPLY_DEADLINE_S
from flashcast.model import Provider

APNS_PRODUCTION = "https://api.push.apple.com:443"
APNS_SANDBOX = "https://api.sandbox.push.apple.com:443"
FCM_PRODUCTION = "https://fcm.googleapis.com:443"


class _Endpoint(BaseModel):
    """What every provider needs: an address, a way to trust it, and how hard to push."""

    model_config = ConfigDict(extra="forbid")

    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authorities to trust instead of the system's."
    )
    proxy: str | None = Field(None, description="HTTP proxy for this provider, as http://host:port; CONNECT is used.")
    connections: int | None = Field(
        None, ge=1, le=CONNECTIONS_MAX, description="Connections to open; by default the plan decides."
    )
    streams: int | None = Field(
        None,
        ge=1,
        description="Streams to expect per connection when planning; by default what the provider documents.",
    )
    reply_latency_ms: float | None = Field(
        None, gt=0, description="Reply latency to expect when planning; default 40 for APNs, 100 for FCM."
    )
    reply_deadline_s: float = Field(
        REPLY_DEADLINE_S, gt=0, description="Silence after which a request's outcome is unknown."
    )
    handshake_deadline_s: float = Field(
        HANDSHAKE_DEADLINE_S, gt=0, description="Longest wait for a connection to open."
    )


class ApnsConfig(_Endpoint):
    """`[apns]`: token authentication (key_file, key_id, team_id) or a certificate."""

    endpoint: str = Field(APNS_PRODUCTION, description="Base URL of the APNs server.")
    key_file: Path | None = Field(None, description="The .p8 signing key from Apple's developer site.")
    key_id: str | None = Field(None, description="The ten-character id of that key.")
    team_id: str | None = Field(None, description="The ten-character id of the developer team.")
    certificate_file: Path | None = Field(None, description="PEM client certificate, instead of a signing key.")
    certificate_key_file: Path | None = Field(None, description="PEM private key of the certificate.")

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> ApnsConfig:
        token = (self.key_file, self.key_id, self.team_id)
        if self.certificate_file is not None:
            if any(part is not None for part in token):
                raise ValueError("set either key_file, key_id and team_id, or certificate_file, not both")
            return self
        missing = [n for n, part in zip(("key_file", "key_id", "team_id"), token, strict=True) if part is None]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} missing: token authentication needs key_file, key_id and team_id; "
                "or set certificate_file and certificate_key_file"
            )
        return self


class FcmConfig(_Endpoint):
    """`[fcm]`: a service account whose token is fetched from its own `token_uri`."""

    endpoint: str = Field(FCM_PRODUCTION, description="Base URL of the FCM server.")
    service_account_file: Path = Field(description="Service account JSON from the Google Cloud console.")
    project_id: str | None = Field(None, description="Firebase project; by default the service account's.")
    quota_per_minute: int = Field(
        FCM_QUOTA_PER_MINUTE,
        ge=0,
        description="Messages a minute that Google takes from the project, as agreed; preflight goes by it. "
        "0 for an endpoint without a quota, such as a simulator.",
    )


class Config(BaseSettings):
    """The whole of flashcast.toml. A provider that is absent cannot be sent to."""

    model_config = SettingsConfigDict(env_prefix="FLASHCAST_", env_nested_delimiter="__", extra="ignore")

    apns: ApnsConfig | None = None
    fcm: FcmConfig | None = None
    proxy: str | None = Field(None, description="HTTP proxy for every provider that names none of its own.")
    lanes: int | None = Field(
        None, ge=1, le=32, description="Sending threads per provider; by default the plan decides."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file comes in through init; the environment must win over it.
        return env_settings, init_settings

    def endpoint(self, provider: Provider) -> ApnsConfig | FcmConfig:
        """The provider's section. Raises ConfigError where there is none."""
        section = self.apns if provider is Provider.APNS else self.fcm
        if section is None:
            raise ConfigError(
                f"the audience has {provider} devices, but the configuration has no [{provider}] section",
                remedy=f"Add [{provider}] to flashcast.toml; docs/reference/config.md lists its settings.",
            )
        return section


_PATHS = {
    "apns": ("ca_file", "key_file", "certificate_file", "certificate_key_file"),
    "fcm": ("ca_file", "service_account_file"),
}


def load_config(path: Path | None) -> Config:
    """Reads flashcast.toml and the FLASHCAST_ variables. ``None`` reads the variables alone.

    Raises ConfigError naming the file, the field, its value's fault and the remedy.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"no configuration at {path}",
                remedy="Give --to simulator, sandbox, production, or the path of a flashcast.toml.",
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        known = set(Config.model_fields)
        for key in raw:
            if key not in known:
                raise ConfigError(f"{path}: unknown setting {key!r}", remedy=f"Known: {', '.join(sorted(known))}.")
        for section, names in _PATHS.items():
            table = raw.get(section)
            if isinstance(table, dict):
                for name in names:
                    if isinstance(table.get(name), str):
                        table[name] = str(path.parent / Path(table[name]).expanduser())
    try:
        return Config(**raw)
    except ValidationError as error:
        faults = "\n".join(
            f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        where = path if path is not None else "the FLASHCAST_ variables"
        raise ConfigError(
            f"{where} is wrong:\n{faults}", remedy="docs/reference/config.md lists every setting."
        ) from None


Destination = Literal["simulator", "sandbox", "production"]
