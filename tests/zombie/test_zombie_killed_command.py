"""`flashcast zombie on`, the command itself, killed at each of its steps while apps read through nginx and from S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from zombie_data import KEY, TRUSTED, zombie
from zombie_moto import Phase, Proxy, Stop, moto, proxied
from zombie_nginx import nginx
from zombie_readers import readers
from zombie_s3 import aws_environment

from flashcast.errors import ExitCode
from flashcast.zombie.client.http import HttpRequest, urllib_transport
from flashcast.zombie.document import Cohort
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.targets import CACHE_CONTROL, LOCK_NAME

COHORTS = [Cohort(index=index, of=2) for index in range(2)]
NAMES = ["shop.json", "shop.0-of-2.json", "shop.1-of-2.json"]
LASTS_S = 6 * 86_400
"""Readers' clocks run ahead."""

AT_STEP = """
import os, signal, sys
step, site, what = int(os.environ["TEST_STEP"]), os.environ["TEST_SITE"], os.environ["TEST_SIGNAL"]
seen = 0
def hook(event, arguments):
    # What is asked of the system about the site is an audit event; chmod, utime and flock name a descriptor. Reading
    # changes nothing, so to be killed there is to be killed at the next step.
    global seen
    if event == "open" and arguments[1] == "r":
        return
    if event in ("os.chmod", "os.utime", "fcntl.flock") or (
        event.split(".")[0] in ("open", "os", "tempfile") and any(site in str(one) for one in arguments)
    ):
        seen += 1
        if seen == step:
            os.kill(os.getpid(), int(what))
sys.addaudithook(hook)
"""
"""A `sitecustomize`: Python runs it before anything of the command."""


class Commands:
    """Runs `flashcast zombie on` as an operator does, with a target in the environment."""

    def __init__(self, folder: Path, target: str, **environment: str) -> None:
        KEY.save(folder / "key.pem")
        self.environment = os.environ | environment
        self.environment |= {
            "FLASHCAST_ZOMBIE_TARGET": target, "FLASHCAST_ZOMBIE_APP": "shop",
            "FLASHCAST_ZOMBIE_KEY": str(folder / "key.pem"), "FLASHCAST_HOME": str(folder / "home"),
        }  # fmt: skip

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("flashcast")), "zombie", *words]
        return subprocess.Popen(
            command, env=self.environment | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def on(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return self.start("on", "--for", "144h", "--json", *words, **environment)

    def status(self, **environment: str) -> dict[str, object]:
        told, _ = ended(self.start("status", "--json", **environment))
        return dict(json.loads(told))


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What it printed, on both outputs."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err + out
    return out, err


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# --- A directory behind nginx ------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a document and two cohorts' files."""
    publish(tmp_path / "site", zombie(cohorts=[2]), [KEY], lasts_s=LASTS_S)
    return tmp_path / "site"


@pytest.fixture
def at_step(tmp_path: Path, site: Path) -> Callable[..., dict[str, str]]:
    """The environment by which a command gets a signal at its step of that number."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(AT_STEP, encoding="utf-8")

    def environment(step: int, what: signal.Signals) -> dict[str, str]:
        paths = [str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(paths), "TEST_STEP": str(step), "TEST_SITE": str(site),
            "TEST_SIGNAL": str(int(what)),
        }  # fmt: skip

    return environment


@pytest.mark.slow
def test_killed_at_every_step_apps_behind_nginx_notice_nothing(
    tmp_path: Path, site: Path, at_step: Callable[..., dict[str, str]], require_command: Callable[[str], str]
) -> None:
    commands = Commands(tmp_path, str(site))
    states, kept = set(), set()
    with (
        nginx(require_command("nginx"), site, tmp_path / "nginx") as url,
        readers(url, KEY.public, [None, *COHORTS]) as apps,
    ):
        for step in count(1):
            before = read_published(site, "shop", TRUSTED)
            assert before.is_whole
            process = commands.on(**at_step(step, signal.SIGKILL))
            _, err = process.communicate(timeout=120)
            for app in apps:
                app.polls(2)
            found = read_published(site, "shop", TRUSTED)
            versions = [file.version for file in (found.main, *found.cohorts)]
            # The app's document is the first, and its cohorts' files follow in their order.
            assert versions == sorted(versions, reverse=True)
            new = {version for version in versions if version != before.version}
            assert len(new) <= 1 and all(version > before.version for version in new)
            states.add(tuple(version != before.version for version in versions))
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            if new and not found.is_whole:
                assert commands.status()["whole"] is False
            assert publish(site, zombie(), [KEY], lasts_s=LASTS_S).document.version > max(versions)
            assert read_published(site, "shop", TRUSTED).is_whole
            kept = {path.name for path in site.iterdir()}
            assert not {name for name in kept if name.endswith(".tmp")}
    # Every state that there can be was met: nothing new, the document, the document and one file, everything.
    assert len(states) == len(NAMES) + 1
    assert {*NAMES, LOCK_NAME} <= kept
    assert all(len(app.versions) > step // 2 for app in apps)


def test_of_two_commands_on_one_directory_the_second_is_told(
    tmp_path: Path, site: Path, at_step: Callable[..., dict[str, str]]
) -> None:
    commands = Commands(tmp_path, str(site))
    first = commands.on(**at_step(8, signal.SIGSTOP))
    # Stopped in the middle of its work, with the lock in its hands.
    assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
    before = read_published(site, "shop", TRUSTED).version
    told, _ = ended(commands.on(), ExitCode.BUSY)
    assert "somebody else is publishing" in told
    os.kill(first.pid, signal.SIGCONT)
    out, _ = ended(first)
    assert json.loads(out)["version"] > before
    assert read_published(site, "shop", TRUSTED).is_whole


# --- S3 ----------------------------------------------------------------------------------------------


@contextmanager
def s3(tmp_path: Path) -> Iterator[tuple[str, Proxy, Commands]]:
    """moto's server, a proxy before it, and commands that go through the proxy."""
    with moto(tmp_path) as url, proxied(url) as proxy, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        commands = Commands(tmp_path, "s3://bucket/zombie", **aws_environment(proxy.url))
        for name, value in aws_environment(url).items():
            patch.setenv(name, value)
        publish("s3://bucket/zombie", zombie(cohorts=[2]), [KEY], lasts_s=LASTS_S)
        yield url, proxy, commands


def _stops(asked: list[str]) -> Iterator[tuple[int, Phase]]:
    """Where to kill: after each question, and before, within and after each write, and within its answer."""
    for number, request in enumerate(asked, start=1):
        if request.startswith("PUT "):
            yield from ((number, phase) for phase in Phase)
        else:
            yield number, Phase.DONE


@pytest.mark.slow
def test_killed_within_and_after_every_request_apps_of_a_bucket_notice_nothing(tmp_path: Path) -> None:
    with s3(tmp_path) as (url, proxy, commands):
        ended(commands.on())
        asked = list(proxy.asked)
        puts = [request.rpartition("/")[2] for request in asked if request.startswith("PUT ")]
        assert puts[0] == "shop.json"
        assert set(NAMES) <= set(puts)
        torn = 0
        with readers(f"{url}/bucket/zombie", KEY.public, [None, *COHORTS]) as apps:
            for number, phase in _stops(asked):
                before = read_published("s3://bucket/zombie", "shop", TRUSTED)
                assert before.is_whole
                stop = Stop(number, phase)
                proxy.begin(stop)
                process = commands.on()
                assert stop.wait(process), (number, phase, process.communicate())
                killed(process)
                stop.released.set()
                for app in apps:
                    app.polls(2)
                found = read_published("s3://bucket/zombie", "shop", TRUSTED)
                versions = [file.version for file in (found.main, *found.cohorts)]
                new = {version for version in versions if version != before.version}
                assert len(new) <= 1 and all(version > before.version for version in new)
                # No cohort hears of what the app's document does not say.
                assert found.main.version == max(versions)
                torn += not found.is_whole
                done = publish("s3://bucket/zombie", zombie(), [KEY], lasts_s=LASTS_S)
                assert done.compared and done.document.version > max(versions)
                assert read_published("s3://bucket/zombie", "shop", TRUSTED).is_whole
        assert torn > 2
        assert all(len(app.versions) > 10 for app in apps)


def test_what_a_bucket_serves_carries_the_headers_for_caches(tmp_path: Path) -> None:
    with s3(tmp_path) as (url, _, commands):
        told, _ = ended(commands.start("on", "--json", "--public-url", f"{url}/bucket/zombie"))
        said = json.loads(told)
        assert (said["compared"], said["public"]["seen"], said["public"]["advice"]) == (True, "new", [])
        for name in NAMES:
            answer = urllib_transport(HttpRequest("GET", f"{url}/bucket/zombie/{name}"))
            assert answer.headers["cache-control"] == CACHE_CONTROL
            assert answer.headers["content-type"] == "application/json"
            asked_again = HttpRequest("GET", f"{url}/bucket/zombie/{name}", {"If-None-Match": answer.headers["etag"]})
            assert urllib_transport(asked_again).status == 304


def test_of_two_commands_on_one_bucket_the_slower_is_told_and_changes_nothing(tmp_path: Path) -> None:
    with s3(tmp_path) as (url, proxy, commands):
        # The first is held where it has looked, decided and signed, and is about to write.
        ended(commands.on())
        held = next(n for n, request in enumerate(proxy.asked, start=1) if request.startswith("PUT "))
        stop = Stop(held, Phase.NOTHING, goes_on=True)
        proxy.begin(stop)
        first = commands.on("--incident", "first")
        assert stop.wait(first)
        second = json.loads(ended(commands.on("--incident", "second", AWS_ENDPOINT=url))[0])
        stop.released.set()
        told, _ = ended(first, ExitCode.BUSY)
        assert f"somebody else has published shop.json meanwhile (version {second['version']})" in told
        found = read_published("s3://bucket/zombie", "shop", TRUSTED)
        assert (found.version, found.is_whole) == (second["version"], True)
