"""The flashcast.toml that points a sender at a simulator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from flashcast.errors import EnvironmentFault
from flashcast.model import Provider
from flashcast.simulator.credentials import KEY_ID, PROJECT_ID, TEAM_ID, Credentials
from flashcast.simulator.profile import ProviderProfile
from flashcast.simulator.server import Addresses, Options

CONFIG_NAME: Final = "flashcast.toml"
_LATENCY_MS_LEAST: Final = 1.0
"""What a sender should plan with when there is no latency at all."""


def _section(own: ProviderProfile, deadline_s: float, settings: dict[str, str | float | int]) -> list[str]:
    common: dict[str, str | float | int] = {
        "reply_latency_ms": max(round(own.latency.mean_ms, 3), _LATENCY_MS_LEAST),
        "streams": own.streams,
        "reply_deadline_s": deadline_s,
    }
    # JSON's strings and numbers are TOML's, for these values.
    return [f"{key} = {json.dumps(value)}" for key, value in {**settings, **common}.items()]


def _quota_per_minute(own: ProviderProfile) -> int:
    """What the sender's settings should say of the quota: 0 for none."""
    return max(1, int(own.quota * 60 / own.quota_window_s)) if own.quota else 0


def write_config(options: Options, addresses: Addresses, made: Credentials) -> Path:
    """Writes the file into the simulator's folder; paths in it are relative to it. Raises EnvironmentFault."""
    profile = options.profile
    lines = [f"# The simulator of profile {profile.name}; written anew at each start."]
    apns, fcm = addresses.url(addresses.apns), addresses.url(addresses.fcm)
    if apns is not None and Provider.APNS in options.providers:
        lines += ["", "[apns]"]
        lines += _section(profile.apns, profile.reply_deadline_s, {
            "endpoint": apns, "ca_file": made.ca_file.name,
            "key_file": made.apns_key.name, "key_id": KEY_ID, "team_id": TEAM_ID,
        })  # fmt: skip
    if fcm is not None and Provider.FCM in options.providers:
        lines += ["", "[fcm]"]
        lines += _section(profile.fcm, profile.reply_deadline_s, {
            "endpoint": fcm, "ca_file": made.ca_file.name,
            "service_account_file": made.service_account.name, "project_id": PROJECT_ID,
            "quota_per_minute": _quota_per_minute(profile.fcm),
        })  # fmt: skip
    path = options.folder / CONFIG_NAME
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {path}: {error.strerror}", remedy="Give another folder with --dir."
        ) from error
    return path
