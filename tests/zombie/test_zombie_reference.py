"""The reference of zombie mode says what the code does, and its examples run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import duckdb
import pytest

from flashcast.errors import InputError
from flashcast.zombie.buckets import bucket
from flashcast.zombie.document import Refusal
from flashcast.zombie.envelope import SIGNED_PREFIX
from flashcast.zombie.keys import PublicKey
from flashcast.zombie.targets import CACHE_CONTROL

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENT = (REFERENCE / "zombie-document.md").read_text(encoding="utf-8")
CLIENT = (REFERENCE / "zombie-client.md").read_text(encoding="utf-8")
USERS = ["42", "J\u00f6rg", "", "\U0001f9df"]


def _script() -> ModuleType:
    folder = str(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("zombie_reference", ROOT / "scripts" / "zombie_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


script = _script()


@pytest.mark.parametrize("name", script.TABLES)
def test_each_table_is_what_the_code_says(name: str) -> None:
    file, table = script.TABLES[name]
    page = (REFERENCE / file).read_text(encoding="utf-8")
    assert script.filled(page, name, table()) == page, "run .venv/bin/python scripts/zombie_reference.py"


@pytest.mark.parametrize("name", script.FILES)
def test_each_file_is_what_the_code_says(name: str) -> None:
    whole = (REFERENCE / name).read_text(encoding="utf-8")
    assert whole == script.FILES[name](), "run .venv/bin/python scripts/zombie_reference.py"
    json.loads(whole)


def _formula(language: str) -> str:
    found = re.search(rf"^    {language} +(.+)$", DOCUMENT, re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_the_bucket_in_python_is_the_bucket() -> None:
    for user in USERS:
        assert eval(_formula("Python"), {"sha256": sha256, "salt": "s1", "user": user}) == bucket("s1", user)


def test_the_bucket_in_duckdb_is_the_bucket() -> None:
    for user in USERS:
        row = duckdb.execute(f"select {_formula('DuckDB')} from (select 's1' as salt, ? as user)", [user]).fetchone()
        assert row == (bucket("s1", user),)


def test_the_bucket_in_node_is_the_bucket(require_command: Callable[[str], str]) -> None:
    code = f"""
        const {{createHash}} = require("crypto"), salt = "s1"
        console.log(JSON.stringify({json.dumps(USERS)}.map(user => {_formula("Node")})))"""
    told = subprocess.run([require_command("node"), "-e", code], check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == [bucket("s1", user) for user in USERS]


def test_every_reason_has_its_place_in_the_order_of_asking() -> None:
    order = DOCUMENT.partition("<!-- end zombie refusals -->")[2].partition("\n## ")[0]
    assert [reason for reason in Refusal if f"`{reason.value}`" not in order] == []


def test_the_page_says_what_caches_are_told_and_what_is_signed() -> None:
    assert f"    Cache-Control: {CACHE_CONTROL}\n" in DOCUMENT
    assert f'add_header Cache-Control "{CACHE_CONTROL}";' in DOCUMENT
    name, end = SIGNED_PREFIX[:-1].decode(), SIGNED_PREFIX[-1]
    assert f"{len(SIGNED_PREFIX)} bytes `{name}` 0x{end:02x}" in DOCUMENT


def test_the_example_in_python_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", CLIENT, re.DOTALL | re.MULTILINE)
    exec(code, {})


def test_every_file_of_vectors_is_told_of() -> None:
    names = {path.name for path in (ROOT / "clients" / "conformance").glob("*.json")}
    told = CLIENT.partition("## Conformance")[2]
    assert names == set(re.findall(r"^\| `([a-z0-9_]+\.json)` \|", told, re.MULTILINE))


def test_the_keys_that_anybody_can_sign_for_are_all_listed() -> None:
    listed = CLIENT.partition("<!-- begin small orders -->")[2].partition("<!-- end small orders -->")[0].split()
    # For a point P of small order 8 * P is the neutral element, whose y is 1. There are eight, most of them in pairs.
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    assert len(set(listed)) == 5
    for text in listed:
        y = int.from_bytes(bytes.fromhex(text), "little")
        xx = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        for _ in range(3):
            # Doubling on x^2 and y alone: y' = (y^2 + x^2) / (2 + x^2 - y^2), x'^2 from the curve.
            y = (y * y + xx) * pow(2 + xx - y * y, -1, p) % p
            xx = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        assert y == 1, text
        for sign in (0, 0x80):
            raw = bytearray.fromhex(text)
            raw[31] |= sign
            with pytest.raises(InputError, match="anybody can sign"):
                PublicKey(bytes(raw))
