"""flashcast.toml and the FLASHCAST_ variables: what was agreed with a provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashcast.config import FcmConfig, load_config
from flashcast.errors import ConfigError
from flashcast.limits import FCM_QUOTA_PER_MINUTE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flashcast.toml"


def fcm(path: Path, *lines: str) -> FcmConfig:
    path.write_text("\n".join(["[fcm]", 'service_account_file = "account.json"', *lines]))
    section = load_config(path).fcm
    assert section is not None
    return section


def test_the_quota_is_googles_default_until_another_is_agreed(path: Path) -> None:
    assert fcm(path).quota_per_minute == FCM_QUOTA_PER_MINUTE
    assert fcm(path, "quota_per_minute = 3_000_000").quota_per_minute == 3_000_000
    assert fcm(path, "quota_per_minute = 0").quota_per_minute == 0


def test_the_environment_wins_over_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHCAST_FCM__QUOTA_PER_MINUTE", "1200000")
    assert fcm(path, "quota_per_minute = 700_000").quota_per_minute == 1_200_000


def test_a_quota_below_nothing_is_told_by_name(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fcm\.quota_per_minute"):
        fcm(path, "quota_per_minute = -1")
