"""A publisher that is killed at any moment leaves the old document or the new, and never a broken one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from zombie_data import KEY, NOW, TRUSTED, normal, zombie
from zombie_moto import moto
from zombie_nginx import nginx
from zombie_s3 import aws_environment, s3

from flashcast.clock import FixedClock
from flashcast.errors import BusyError
from flashcast.zombie.bounds import ENVELOPE_BYTES_MAX
from flashcast.zombie.client.http import HttpRequest, TransportError, urllib_transport
from flashcast.zombie.document import Cohort, file_name
from flashcast.zombie.envelope import open_sealed
from flashcast.zombie.publish import publish, read_published
from flashcast.zombie.targets import LOCK_NAME

COHORTS = 3
NAMES = [file_name("shop"), *(file_name("shop", Cohort(index=index, of=COHORTS)) for index in range(COHORTS))]

KILLED_AT_EACH_STEP = """
import os, signal, sys
from pathlib import Path
from zombie_data import KEY, NOW, normal, zombie
from flashcast.clock import FixedClock
from flashcast.zombie.publish import publish

def killed_at(step, target):
    # Everything that a publisher asks of the system is an audit event: the process ends at the one of this number.
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event.split(".")[0] in ("open", "os", "fcntl", "tempfile", "shutil"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    publish(target, normal(cohorts=[COHORTS]), [KEY], clock=FixedClock(NOW))
    os._exit(0)

target, step = Path(sys.argv[1]), 0
while True:
    step += 1
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    child = os.fork()
    if child == 0:
        killed_at(step, target)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(step, ended, flush=True)
    if sys.stdin.readline() != "on\\n" or ended == 0:
        break
"""


def _environment() -> dict[str, str]:
    """What a process needs to find these tests' data."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def judged(data: bytes) -> int:
    """The version of a file, which must be whole and genuine."""
    assert len(data) <= ENVELOPE_BYTES_MAX
    return open_sealed(data, TRUSTED).document.version


def test_killed_at_every_step_a_directory_shows_the_old_or_the_new(tmp_path: Path) -> None:
    site = tmp_path / "site"
    old = publish(site, zombie(cohorts=[COHORTS]), [KEY], clock=FixedClock(NOW)).document.version
    shutil.copytree(site, tmp_path / "before")
    code = f"COHORTS = {COHORTS}\n{KILLED_AT_EACH_STEP}"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(site)]
    environment = _environment()
    seen = set()
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in process.stdout:
            step, ended = map(int, line.split())
            versions = [judged((site / name).read_bytes()) for name in NAMES]
            assert set(versions) <= {old, old + 1}, f"at step {step}"
            # The app's document is the first, and files follow in their order.
            assert versions == sorted(versions, reverse=True), f"at step {step}"
            seen.add(tuple(versions))
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            assert publish(site, normal(), [KEY], clock=FixedClock(NOW)).document.version > max(versions)
            assert {path.name for path in site.iterdir()} == {*NAMES, LOCK_NAME}
            _put_back(tmp_path / "before", site)
            process.stdin.write("on\n")
            process.stdin.flush()
        process.stdin.close()
    # Every state that there can be was met, so the steps were fine enough.
    assert len(seen) == len(NAMES) + 1


def _put_back(before: Path, site: Path) -> None:
    shutil.rmtree(site)
    shutil.copytree(before, site)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, len(NAMES) + 1))
def test_killed_at_every_put_a_bucket_shows_the_old_or_the_new(number: int, after: bool) -> None:
    with s3() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_environment(bucket.url).items():
            patch.setenv(name, value)
        old = publish("s3://bucket", zombie(cohorts=[COHORTS]), [KEY], clock=FixedClock(NOW)).document.version
        puts = 0

        def kill(key: str) -> None:
            nonlocal puts
            puts += 1
            if puts == number:
                process.kill()
                process.wait()

        if after:
            bucket.after_put = kill
        else:
            bucket.before_put = kill
        process = _publisher("s3://bucket", once=True)
        process.wait()
        bucket.before_put = bucket.after_put = lambda key: None
        assert process.returncode == -signal.SIGKILL
        assert {judged(bucket.objects[name].data) for name in NAMES} <= {old, old + 1}
        publish("s3://bucket", normal(), [KEY], clock=FixedClock(NOW))
        assert read_published("s3://bucket", "shop", TRUSTED).is_whole


PUBLISHER = """
import sys
from zombie_data import KEY, normal, zombie
from flashcast.zombie.publish import publish
target, once = sys.argv[1], sys.argv[2] == "once"
while True:
    for terms in (zombie(cohorts=[COHORTS]), normal(cohorts=[COHORTS], message={}, incident="x" * 64)):
        publish(target, terms, [KEY])
    if once:
        break
"""


def _publisher(target: str, *, once: bool = False) -> subprocess.Popen[bytes]:
    code = f"COHORTS = {COHORTS}\n{textwrap.dedent(PUBLISHER)}"
    environment = _environment()
    return subprocess.Popen([sys.executable, "-c", code, target, "once" if once else "on"], env=environment)


@contextmanager
def _directory(tmp_path: Path, require: Callable[[str], str]) -> Iterator[tuple[str, Callable[[str], bytes | None]]]:
    site = tmp_path / "site"

    def read(name: str) -> bytes | None:
        try:
            return (site / name).read_bytes()
        except FileNotFoundError:
            return None

    yield str(site), read


@contextmanager
def _nginx(tmp_path: Path, require: Callable[[str], str]) -> Iterator[tuple[str, Callable[[str], bytes | None]]]:
    with nginx(require("nginx"), tmp_path / "site", tmp_path / "nginx") as url:
        yield str(tmp_path / "site"), lambda name: _fetched(f"{url}/{name}")


@contextmanager
def _local_s3(tmp_path: Path, require: Callable[[str], str]) -> Iterator[tuple[str, Callable[[str], bytes | None]]]:
    with s3() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_environment(bucket.url).items():
            patch.setenv(name, value)
        yield "s3://bucket", lambda name: _fetched(f"{bucket.url}/bucket/{name}")


@contextmanager
def _moto(tmp_path: Path, require: Callable[[str], str]) -> Iterator[tuple[str, Callable[[str], bytes | None]]]:
    with moto(tmp_path) as url, pytest.MonkeyPatch.context() as patch:
        for name, value in aws_environment(url).items():
            patch.setenv(name, value)
        yield "s3://bucket", lambda name: _fetched(f"{url}/bucket/{name}")


def _fetched(url: str) -> bytes | None:
    try:
        answer = urllib_transport(HttpRequest("GET", url))
    except TransportError:
        pytest.fail("the store does not answer")
    assert answer.status in (200, 404), answer
    return answer.body if answer.status == 200 else None


@pytest.mark.parametrize("kind", [_directory, _nginx, _local_s3, _moto], ids=["directory", "nginx", "bucket", "moto"])
def test_readers_of_publishers_that_are_killed_at_random_see_versions_that_only_grow(
    tmp_path: Path, kind: Callable[..., Any], require_command: Callable[[str], str]
) -> None:
    chance = random.Random(20270207)
    with kind(tmp_path, require_command) as (target, read):
        highest = dict.fromkeys(NAMES, 0)

        def look() -> int:
            """Reads every file once; returns how many had changed."""
            changed = 0
            for name in NAMES:
                data = read(name)
                if data is None:
                    assert highest[name] == 0, f"{name} is gone"
                    continue
                version = judged(data)
                assert version >= highest[name], f"{name} went back"
                changed += version > highest[name]
                highest[name] = version
            return changed

        for _ in range(4):
            process, left = _publisher(target), chance.randint(1, 12)
            while left > 0:
                assert process.poll() is None, "the publisher ended by itself"
                left -= look()
            process.kill()
            process.wait()
            for _ in range(2):
                look()
        done = _published_again(target)
        assert done > max(highest.values())
        assert read_published(target, "shop", TRUSTED).is_whole


def _published_again(target: str) -> int:
    try:
        return publish(target, zombie(), [KEY]).document.version
    except BusyError:
        pytest.fail("a dead publisher's lock outlives it")
