"""A provider made ready to connect to: address, TLS, credential, the shape of a request. Built from settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from flashcast.clock import Clock
from flashcast.config import ApnsConfig, Config, FcmConfig
from flashcast.model import Provider
from flashcast.providers import apns, fcm
from flashcast.providers.credentials import Credential
from flashcast.transport.tls import Address, client_context, parse_address


@dataclass(frozen=True)
class Target:
    """Everything the lanes need to know of one provider."""

    provider: Provider
    address: Address
    context: ssl.SSLContext
    credential: Credential
    head: tuple[tuple[str, str], ...]
    path_prefix: bytes | None
    settings: ApnsConfig | FcmConfig


def target_for(provider: Provider, config: Config, clock: Clock) -> Target:
    """Loads credentials and certificates; FCM fetches its first token here.

    Raises ConfigError, CredentialError or EnvironmentFault, each naming the setting.
    """
    section = config.endpoint(provider)
    proxy = section.proxy or config.proxy
    address = parse_address(section.endpoint, proxy, f"{provider}.endpoint")
    credential: Credential
    if isinstance(section, ApnsConfig):
        if section.certificate_file is not None:
            credential = apns.ClientCertificate(section.certificate_file, clock)
        else:
            assert section.key_file is not None and section.key_id is not None and section.team_id is not None
            credential = apns.TokenSigner(section.key_file, section.key_id, section.team_id, clock)
        context = client_context(section.ca_file, section.certificate_file, section.certificate_key_file)
        head = apns.request_head(address.authority)
        return Target(provider, address, context, credential, head, apns.PATH_PREFIX, section)
    account = fcm.ServiceAccount(
        section.service_account_file, clock, project_id=section.project_id, ca_file=section.ca_file, proxy=proxy
    )
    account.keep_fresh()
    head = fcm.request_head(address.authority, account.project_id)
    return Target(provider, address, client_context(section.ca_file), account, head, None, section)
