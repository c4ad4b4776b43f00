"""What `--engine` may say, and what it is told when it says something else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from flashcast.engine.embedded import EmbeddedEngine
from flashcast.engine.open import ENGINE_VARIABLE, open_engine
from flashcast.errors import InputError


def folder_of(address: str | None, state: Path) -> Path:
    engine = open_engine(address, state=state)
    assert isinstance(engine, EmbeddedEngine)
    return engine.folder


def test_by_default_the_engine_is_a_folder_of_the_state_folder(tmp_path: Path) -> None:
    assert folder_of(None, tmp_path) == tmp_path / "engine"
    assert folder_of("embedded", tmp_path) == tmp_path / "engine"


def test_an_embedded_engine_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert folder_of("embedded:/srv/flashcast engine", tmp_path) == Path("/srv/flashcast engine")
    assert folder_of("embedded:~/engine", tmp_path) == tmp_path / "me" / "engine"
    assert folder_of("embedded:here", tmp_path) == tmp_path / "here"


def test_the_environment_is_asked_where_no_option_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "embedded:/from/the/environment")
    assert folder_of(None, tmp_path) == Path("/from/the/environment")
    assert folder_of("embedded:/from/the/option", tmp_path) == Path("/from/the/option")
    monkeypatch.setenv(ENGINE_VARIABLE, "")
    assert folder_of(None, tmp_path) == tmp_path / "engine"


def test_nothing_is_made_before_the_engine_is_entered(tmp_path: Path) -> None:
    open_engine(None, state=tmp_path)
    assert list(tmp_path.iterdir()) == []

    async def enter() -> str:
        async with open_engine(None, state=tmp_path / "deep" / "state") as engine:
            return engine.address

    assert asyncio.run(enter()) == f"embedded:{tmp_path}/deep/state/engine"
    assert (tmp_path / "deep" / "state" / "engine").stat().st_mode & 0o777 == 0o700


WRONG = ("", "sqlite:x", "redis://host", "embedded:", "nats:host", "nats", "embeded", "/tmp/x")
SECRET = (
    "http://me:hunter2@host",
    "nats:/me:hunter2@host",
    "me:hunter2@host",
    "x://hunter2@host",
    "x://u:a/hunter2@host",
)


@pytest.mark.parametrize("address", WRONG)
def test_what_is_no_engine_is_named_with_what_may_be_written(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        open_engine(address, state=tmp_path)
    assert f"--engine {address!r}" in told.value.message
    assert "embedded:DIR" in told.value.remedy and "nats://" in told.value.remedy


def test_a_wrong_variable_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "kafka://host")
    with pytest.raises(InputError, match="FLASHCAST_ENGINE 'kafka://host'"):
        open_engine(None, state=tmp_path)


@pytest.mark.parametrize("address", SECRET)
def test_a_password_in_a_wrong_address_is_not_shown(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        open_engine(address, state=tmp_path)
    assert "hunter2" not in str(told.value) and "@host" in told.value.message


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(InputError, match="pip install nats-py") as told:
        open_engine("nats://me:hunter2@host:4222", state=tmp_path)
    assert "hunter2" not in str(told.value)


def test_nats_and_sqlite_are_loaded_only_where_they_are_used() -> None:
    code = "import sys, flashcast.engine.open; print([n for n in ('nats', 'sqlite3') if n in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout == "[]\n"
