"""The TypeScript client builds, passes its own tests, in a browser too, and judges all as the Python one does."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest
from typescript_cases import FEATURES, KINDS, LOCALES, documents, poll_sequence, queue_sequence
from zombie_data import KEY, sealed, zombie

from flashcast.errors import InputError
from flashcast.zombie import bounds
from flashcast.zombie.client.core import Core
from flashcast.zombie.document import Cohort, RefusedError
from flashcast.zombie.envelope import admit, open_sealed
from flashcast.zombie.keys import PublicKey, trusted

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
SOURCE = CLIENTS / "typescript"
DOCUMENTS = 2_600
SEQUENCES = 150
BROWSER_S_MAX = 120
_NO_NETWORK = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, require_command: Callable[[str], str]) -> Path:
    """The package in a copy beside the vectors, built. Nothing is left in the repository."""
    npm = require_command("npm")
    clients = tmp_path_factory.mktemp("clients")
    shutil.copytree(SOURCE, clients / "typescript", ignore=shutil.ignore_patterns("node_modules", "dist"))
    shutil.copytree(CLIENTS / "conformance", clients / "conformance")
    folder = clients / "typescript"
    got = _run([npm, "ci", "--prefer-offline", "--no-audit", "--no-fund"], folder)
    if got.returncode != 0 and _NO_NETWORK.search(got.stderr) and not os.environ.get("CI"):
        pytest.skip("npm's registry cannot be reached")
    assert got.returncode == 0, got.stderr
    built = _run([npm, "run", "build"], folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def _run(command: list[str], folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, **more)


def _node(package: Path, require_command: Callable[[str], str], script: str, given: str) -> str:
    done = _run([require_command("node"), f"test/{script}"], package, input=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_own_tests_pass(package: Path, require_command: Callable[[str], str]) -> None:
    guide = ROOT / "docs" / "guides" / "zombie-mobile.md"
    done = _run([require_command("npm"), "test"], package, env=os.environ | {"ZOMBIE_GUIDE": str(guide)})
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    totals = dict(re.findall(r"^. (pass|fail|skipped|todo|cancelled) (\d+)$", done.stdout, re.MULTILINE))
    assert {name: count for name, count in totals.items() if name != "pass"} == dict.fromkeys(
        ("fail", "skipped", "todo", "cancelled"), "0"
    )
    assert int(totals["pass"]) > 60


def _judged(case: dict[str, Any]) -> dict[str, Any]:
    keys, file = trusted(case["trusted"]), base64.b64decode(case["file"])
    cohort = Cohort(**case["cohort"]) if case["cohort"] else None
    try:
        last = open_sealed(base64.b64decode(case["last"]), keys) if case["last"] else None
        opened = open_sealed(file, keys)
        admit(opened, app=case["app"], cohort=cohort, last=last, now=case["now"])
    except RefusedError as error:
        return {"refused": error.reason.value}
    core = Core(app=case["app"], url="", trusted=keys, random=lambda: 0.0, now=0, cohort=cohort)
    core.restore(file, "")
    return {"version": opened.document.version, "users": [_decided(core, user, case["now"]) for user in case["users"]]}


def _decided(core: Core, user: str, now: float) -> list[Any]:
    standing = core.standing(user, now)
    decisions = [list(core.decide(user, feature, now, write=write)) for feature in FEATURES for write in (False, True)]
    return [standing.bucket, standing.level.value, decisions, [standing.message(locale) for locale in LOCALES]]


def test_both_clients_judge_thousands_of_documents_alike(
    package: Path, require_command: Callable[[str], str], record_property: Callable[[str, object], None]
) -> None:
    cases = list(documents(DOCUMENTS, seed=20_27))
    given = "".join(json.dumps(case) + "\n" for case in cases)
    theirs = [json.loads(line) for line in _node(package, require_command, "judge.mjs", given).splitlines()]
    ours = json.loads(json.dumps([_judged(case) for case in cases]))
    assert len(theirs) == len(cases)
    for case, our, their in zip(cases, ours, theirs, strict=True):
        told = f"{case['kind']}: {base64.b64decode(case['file'])[:300]!r}"
        assert our == their, told
    # It proves nothing unless there is something of everything.
    verdicts = Counter(each.get("refused", "accepted") for each in ours)
    record_property("verdicts", dict(verdicts))
    print(dict(verdicts))
    assert set(verdicts) >= {
        "accepted", "oversized", "malformed", "unknown_key", "bad_signature", "unsupported", "invalid", "wrong_app",
        "wrong_cohort", "replayed", "conflict", "expired", "too_early",
    }  # fmt: skip
    assert verdicts["accepted"] > DOCUMENTS / 20
    accepted = {case["kind"] for case, our in zip(cases, ours, strict=True) if "version" in our}
    assert accepted >= set(KINDS) - {"another's", "forged", "cut off", "noise", "scribbled upon"}


def test_both_clients_poll_and_queue_alike_whatever_happens(
    package: Path, require_command: Callable[[str], str]
) -> None:
    polls = {
        "app": "shop",
        "url": "",
        "trusted": [KEY.public.text],
        "sequences": [*map(poll_sequence, range(SEQUENCES))],
    }
    queue = {"drain_s": 600, "sequences": [*map(queue_sequence, range(SEQUENCES))]}
    found = json.loads(_node(package, require_command, "run.mjs", json.dumps({"polls": polls, "queue": queue})))
    assert found == {"run": 2 * SEQUENCES, "wrong": []}
    ops = Counter(op["op"] for sequence in queue["sequences"] for op in sequence["ops"])  # type: ignore[index,attr-defined]
    assert min(ops[name] for name in ("add", "plan", "take", "next_at", "answered", "again", "log_in")) > 20


def test_both_clients_take_the_same_bytes_for_keys(package: Path, require_command: Callable[[str], str]) -> None:
    p, sign, y8 = 2**255 - 19, 1 << 255, 2707385501144840649318225287225658788936804267575313519463743609750303402022
    edges = [y | bit for y in (0, 1, p - 1, y8, p - y8, p, p + 1, p + 2, 2**255 - 1) for bit in (0, sign)]
    chance = random.Random(3)
    raws = [edge.to_bytes(32, "little") for edge in edges] + [chance.randbytes(32) for _ in range(300)]
    script = (
        'import { VerifyingKey } from "./dist/esm/index.js"; import { readFileSync } from "node:fs";'
        'const keys = readFileSync(0, "utf8").split(",").map((hex) => VerifyingKey.of(Buffer.from(hex, "hex")));'
        'console.log(keys.map((key) => (key === null ? 0 : 1)).join(""));'
    )
    given = ",".join(raw.hex() for raw in raws)
    done = _run([require_command("node"), "--input-type=module", "-e", script], package, input=given)
    ours = "".join(str(int(_is_key(raw))) for raw in raws)
    assert done.stdout.strip() == ours
    assert "1" not in ours[: len(edges)]
    assert 100 < ours.count("1") < 200


def _is_key(raw: bytes) -> bool:
    try:
        PublicKey(raw)
    except InputError:
        return False
    return True


class _Site(SimpleHTTPRequestHandler):
    """Package and vectors as files, a document of now, what a live client should find there, and what a page found."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".js": "text/javascript"}
    results: SimpleQueue[str]

    def do_GET(self) -> None:
        if self.path == "/zombie/shop.json":
            return self._say(sealed(zombie(), now=time.time()))
        if self.path == "/live.json":
            told = {"trusted": [KEY.public.text], "decisions": [True, False, "queued", True, "w-1"]}
            return self._say(json.dumps(told).encode())
        return super().do_GET()

    def do_POST(self) -> None:
        self.results.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._say(b"{}")

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(package: Path) -> Iterator[tuple[str, SimpleQueue[str]]]:
    """Its address, and what pages post there."""
    results: SimpleQueue[str] = SimpleQueue()
    handler = type("Site", (_Site,), {"results": results})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=package.parent))
    thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", results
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_passes_all_vectors_in_a_browser_and_keeps_what_it_should(
    site: tuple[str, SimpleQueue[str]], require_command: Callable[[str], str], tmp_path: Path
) -> None:
    address, results = site
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    page = f"{address}/typescript/test/browser.html"
    browser = subprocess.Popen(
        [require_command("chromium"), *flags, f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", page],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found = results.get(timeout=BROWSER_S_MAX)
    finally:
        browser.terminate()
        browser.wait()
    print(found)
    assert found.endswith("ALL PASSED")
    totals = re.findall(r"^(\w+): (\d+) of (\d+)$", found, re.MULTILINE)
    assert {name for name, _, _ in totals} == {path.stem for path in (CLIENTS / "conformance").glob("*.json")}
    assert all(passed == of for _, passed, of in totals)


def test_it_has_the_specification_s_bounds() -> None:
    text = (SOURCE / "src" / "bounds.ts").read_text()
    theirs = dict(re.findall(r"^export const (\w+) = (.+);$", text, re.MULTILINE))
    ours = {name: value for name, value in vars(bounds).items() if name.isupper()}
    assert theirs.pop("VERSION_MAX") == "Number.MAX_SAFE_INTEGER"
    assert ours.pop("VERSION_MAX") == 2**53 - 1
    assert {name: eval(value) for name, value in theirs.items()} == ours


def test_it_depends_on_nothing_and_says_what_it_is() -> None:
    said = json.loads((SOURCE / "package.json").read_text())
    locked = json.loads((SOURCE / "package-lock.json").read_text())
    assert (said["name"], said["license"], said["private"]) == ("@flashcast/zombie", "Apache-2.0", False)
    assert not {"dependencies", "peerDependencies", "optionalDependencies"} & said.keys()
    assert set(locked["packages"]) == {"", "node_modules/typescript"}
    assert locked["packages"][""]["devDependencies"] == said["devDependencies"]
    assert (SOURCE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
