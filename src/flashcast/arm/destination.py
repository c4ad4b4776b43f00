"""Where a launch goes: the words of `--to`, turned into settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flashcast.config import APNS_SANDBOX, Config, load_config
from flashcast.errors import ConfigError
from flashcast.model import Provider, RequestTemplate

CONFIG_VARIABLE: Final = "FLASHCAST_CONFIG"
DEFAULT_CONFIG: Final = "flashcast.toml"


@dataclass(frozen=True)
class Destination:
    """What `--to` said. ``rehearsal``: FCM only validates, for it has no sandbox."""

    name: str
    config: Config
    rehearsal: bool = False


def destination(to: str) -> Destination:
    """The settings for ``sandbox``, ``production`` or the path of a flashcast.toml.

    The first two read flashcast.toml in the working folder, or what FLASHCAST_CONFIG names, and the FLASHCAST_
    variables. Raises ConfigError.
    """
    if to not in ("sandbox", "production"):
        return Destination(str(Path(to)), load_config(Path(to)))
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else Path(DEFAULT_CONFIG)
    config = load_config(path if named or path.exists() else None)
    if config.apns is None and config.fcm is None:
        raise ConfigError(
            f"--to {to}: no {DEFAULT_CONFIG} here and no FLASHCAST_ variables, so no credentials",
            remedy=f"Write {DEFAULT_CONFIG} (docs/reference/config.md), or name one in {CONFIG_VARIABLE}.",
        )
    if to == "sandbox" and config.apns is not None:
        config = config.model_copy(update={"apns": config.apns.model_copy(update={"endpoint": APNS_SANDBOX})})
    return Destination(to, config, rehearsal=to == "sandbox")


def rehearsed(templates: tuple[RequestTemplate, ...]) -> tuple[RequestTemplate, ...]:
    """FCM templates that ask Google to validate and not to deliver (`validate_only`)."""
    changed = []
    for template in templates:
        end = template.body[-1]
        if template.provider is Provider.FCM and isinstance(end, bytes) and end.endswith(b"}"):
            body = (*template.body[:-1], end[:-1] + b',"validate_only":true}')
            template = RequestTemplate(template.provider, template.variant, template.headers, body)
        changed.append(template)
    return tuple(changed)
