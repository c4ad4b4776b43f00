"""A launch's shield over the product: real commands, documents in a directory, judged as an app would."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path

import pytest
from processes import Running, campaign, devices, flashcast

from flashcast.campaign.lifecycle import Input
from flashcast.campaign.records import SnapshotRef
from flashcast.campaign.store import Operator, Store
from flashcast.engine.embedded import EmbeddedEngine
from flashcast.errors import ExitCode
from flashcast.model import Provider
from flashcast.simulator.process import SimulatorProcess
from flashcast.zombie.document import Document, Level
from flashcast.zombie.keys import SigningKey, trusted
from flashcast.zombie.orders import in_force
from flashcast.zombie.publish import read_published
from flashcast.zombie.shield import raised_by

SHIELD = """
[shield]
app = "shop"
at = "{at}"
minutes = 10
features = ["feed", "ads"]
"""


class Apps:
    """What apps are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target, key = folder / "public", folder / "key.pem"
        self.target.mkdir()
        done = flashcast("zombie", "keys", "new", key)
        assert done.code == 0, done.told
        self._trusted = trusted([SigningKey.load(key)])
        monkeypatch.setenv("FLASHCAST_ZOMBIE_TARGET", str(self.target))
        monkeypatch.setenv("FLASHCAST_ZOMBIE_KEY", str(key))

    def document(self) -> Document | None:
        return in_force(read_published(self.target, "shop", self._trusted).document, time.time())

    def shielded_by(self) -> str | None:
        """The launch whose shield is up."""
        document = self.document()
        if document is None or document.level is Level.NORMAL:
            return None
        assert (document.level, document.off, document.buckets) == (Level.SHIELDED, ("feed", "ads"), 1_000)
        return raised_by(document, time.time())


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apps:
    return Apps(tmp_path, monkeypatch)


def with_shield(path: Path, at: str) -> Path:
    """A campaign with a shield."""
    path.write_text(campaign(path).read_text(encoding="utf-8") + SHIELD.format(at=at), encoding="utf-8")
    return path


def sealed(state: Path, path: Path, *, armed: bool = False) -> None:
    """A launch of the campaign file that is sealed or armed, and has no worker."""
    flashcast("campaign", "create", "cup", path)
    snapshot = SnapshotRef(url="/nowhere", digest="d" * 64, sealed_at=0.0, rows={Provider.APNS: 1_000}, shards=1)

    async def work() -> None:
        from flashcast.campaign.load import load_campaign
        from flashcast.campaign.terms import launch_terms

        terms = {"snapshot": snapshot, **launch_terms(load_campaign(path))}
        async with EmbeddedEngine(state / "engine") as engine:
            store = Store(engine, Operator("worker-1", "rack"))
            await store.transition("cup", Input.SEAL, lambda record: record.model_copy(update=terms))
            if armed:
                await store.transition("cup", Input.ARM)
                await store.transition("cup", Input.READY)

    asyncio.run(work())


def test_a_shield_that_begins_at_arm_is_up_until_the_launch_is_called_off(
    state: Path, tmp_path: Path, apps: Apps
) -> None:
    sealed(state, with_shield(tmp_path / "campaign.toml", "arm"))
    assert apps.shielded_by() is None
    done = flashcast("arm", "cup", "--no-wait", "--to", "sandbox")
    assert done.code == 0
    assert "shield of cup-1 for 10 min: feed, ads off, 100 % of users" in done.told
    assert apps.shielded_by() == "cup-1"
    assert "the shield of cup-1 is down" in flashcast("disarm", "cup").told
    assert apps.shielded_by() is None
    flashcast("arm", "cup", "--no-wait", "--to", "sandbox")
    assert apps.shielded_by() == "cup-1"
    assert flashcast("abort", "cup").code == 0
    assert apps.shielded_by() is None


def test_of_two_who_press_go_the_one_who_launches_raises_the_shield(state: Path, tmp_path: Path, apps: Apps) -> None:
    sealed(state, with_shield(tmp_path / "campaign.toml", "go"), armed=True)
    assert apps.shielded_by() is None
    pressing = [Running("go", "cup", "--yes", "--no-watch", "--operator", name) for name in ("ada", "kim")]
    done = sorted((one.wait() for one in pressing), key=lambda one: one.code)
    assert [one.code for one in done] == [0, 5]
    assert ["shield of cup-1 for 10 min" in one.told for one in done] == [True, False]
    assert apps.shielded_by() == "cup-1"
    assert flashcast("abort", "cup", "--no-wait").code == 0
    assert apps.shielded_by() is None


@pytest.mark.parametrize(
    ("at", "command"), [("arm", ("arm", "--no-wait")), ("go", ("go", "--yes", "--no-watch"))], ids=["arm", "go"]
)
def test_a_shield_that_cannot_be_raised_stops_no_launch_and_is_told(
    state: Path, tmp_path: Path, apps: Apps, monkeypatch: pytest.MonkeyPatch, at: str, command: tuple[str, ...]
) -> None:
    sealed(state, with_shield(tmp_path / "campaign.toml", at), armed=at == "go")
    with monkeypatch.context() as patch:
        patch.delenv("FLASHCAST_ZOMBIE_TARGET")
        verdict = flashcast("preflight", "cup", "--json").document
        check = next(one for one in verdict["checks"] if one["name"] == "shield")
        assert check["level"] == "fail" and "FLASHCAST_ZOMBIE_TARGET" in check["remedy"]
        done = flashcast(command[0], "cup", *command[1:])
        assert done.code == ExitCode.ENVIRONMENT
        assert "the shield of cup-1 could not be published: --target is missing" in done.told
        assert "flashcast shield cup" in done.told
    status = flashcast("status", "cup", "--json").document
    assert status["state"] == {"arm": "arming", "go": "live"}[at]
    assert apps.shielded_by() is None
    assert flashcast("shield", "cup").code == 0
    assert apps.shielded_by() == "cup-1"
    assert flashcast("shield", "cup", "--down").code == 0
    assert apps.shielded_by() is None


def test_preflight_says_whether_the_shield_is_up(state: Path, tmp_path: Path, apps: Apps) -> None:
    def check() -> tuple[str, str]:
        checks = flashcast("preflight", "cup", "--json").document["checks"]
        return next((one["level"], one["text"]) for one in checks if one["name"] == "shield")

    sealed(state, with_shield(tmp_path / "campaign.toml", "arm"))
    assert check() == ("fail", "should be up since the launch was armed, and is not")
    flashcast("arm", "cup", "--no-wait", "--to", "sandbox")
    assert check() == ("ok", "up for 10 min more: feed, ads off")
    flashcast("zombie", "on", "--app", "shop", "--for", "20m", "--operator", "kim")
    assert check() == ("warn", "no shield: kim has decided zombie by hand")


def test_a_launch_without_a_shield_has_none_to_raise(state: Path, tmp_path: Path, apps: Apps) -> None:
    sealed(state, campaign(tmp_path / "campaign.toml"))
    done = flashcast("shield", "cup")
    assert done.code == ExitCode.USAGE
    assert "launch cup-1 has no shield" in done.told
    assert all(one["name"] != "shield" for one in flashcast("preflight", "cup", "--json").document["checks"])


@pytest.mark.parametrize("at", ["arm", "go"])
def test_a_launch_on_one_machine_raises_it_too(
    state: Path, tmp_path: Path, apps: Apps, simulator: SimulatorProcess, at: str
) -> None:
    path, table = with_shield(tmp_path / "campaign.toml", at), tmp_path / "devices.parquet"
    devices(table, 100)
    done = flashcast("launch", path, "--audience", table, "--to", simulator.config_path, "--yes")
    assert done.code == 0, done.told
    assert "for 10 min: feed, ads off" in done.told
    launch = apps.shielded_by()
    assert launch is not None and launch in done.told


@pytest.mark.parametrize("rehearsal", [("--dry-run",), ("--to", "simulator", "--yes")], ids=["dry-run", "simulator"])
def test_a_rehearsal_switches_nothing_off(
    state: Path, tmp_path: Path, apps: Apps, simulator: SimulatorProcess, rehearsal: tuple[str, ...]
) -> None:
    path, table = with_shield(tmp_path / "campaign.toml", "arm"), tmp_path / "devices.parquet"
    devices(table, 100)
    where = () if "--to" in rehearsal else ("--to", simulator.config_path)
    done = flashcast("launch", path, "--audience", table, *where, *rehearsal)
    assert done.code == 0, done.told
    assert apps.document() is None


def test_whatever_goes_wrong_with_the_shield_the_launch_goes_on(
    state: Path, tmp_path: Path, apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(state, with_shield(tmp_path / "campaign.toml", "go"), armed=True)
    # No fault that anybody has foreseen: nobody has this home.
    monkeypatch.setenv("FLASHCAST_ZOMBIE_TARGET", "~nobody-has-this-name/public")
    checks = flashcast("preflight", "cup", "--json").document["checks"]
    assert next(one["level"] for one in checks if one["name"] == "shield") == "fail"
    done = flashcast("go", "cup", "--yes", "--no-watch")
    assert done.code == ExitCode.ENVIRONMENT
    assert "the shield of cup-1 could not be published" in done.told and "Traceback" not in done.told
    assert flashcast("status", "cup", "--json").document["state"] == "live"


def unreachable(simulator: SimulatorProcess, path: Path) -> Path:
    """The simulator's file with ports at which nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        path.write_text(re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", simulator.config_path.read_text()))
    return path


def test_a_launch_that_cannot_be_armed_takes_its_shield_back_and_says_so(
    state: Path, tmp_path: Path, apps: Apps, simulator: SimulatorProcess
) -> None:
    path, table = with_shield(tmp_path / "campaign.toml", "arm"), tmp_path / "devices.parquet"
    devices(table, 100)
    to = unreachable(simulator, simulator.config_path.with_name("nobody.toml"))
    done = flashcast("launch", path, "--audience", table, "--to", to, "--yes")
    assert done.code != 0
    assert "for 10 min: feed, ads off" in done.told and "is down (version" in done.told
    assert apps.shielded_by() is None


@pytest.mark.parametrize("command", ["abort", "disarm"])
def test_a_shield_that_cannot_be_taken_back_stops_no_one_from_calling_off_and_is_told(
    state: Path, tmp_path: Path, apps: Apps, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    sealed(state, with_shield(tmp_path / "campaign.toml", "arm"))
    assert flashcast("arm", "cup", "--no-wait", "--to", "sandbox").code == 0
    with monkeypatch.context() as patch:
        patch.delenv("FLASHCAST_ZOMBIE_KEY")
        done = flashcast(command, "cup")
    assert done.code == ExitCode.ENVIRONMENT
    assert "the shield of cup-1 could not be published" in done.told and "--down takes it back" in done.told
    assert flashcast("status", "cup", "--json").document["state"] == {"abort": "aborted", "disarm": "sealed"}[command]
    assert apps.shielded_by() == "cup-1"
    assert flashcast("shield", "cup", "--down").code == 0
    assert apps.shielded_by() is None
