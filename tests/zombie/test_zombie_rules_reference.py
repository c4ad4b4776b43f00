"""The reference of the rules says what the code does; the runbook's commands and variables are real."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flashcast.cli.main import COMMANDS
from flashcast.zombie.place import VARIABLE
from flashcast.zombie.rules import parse_rules

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
RUNBOOK = (ROOT / "docs" / "guides" / "zombie-runbook.md").read_text(encoding="utf-8")


def _script() -> ModuleType:
    folder = str(ROOT / "scripts")
    path = ROOT / "scripts" / "zombie_rules_reference.py"
    spec = importlib.util.spec_from_file_location("zombie_rules_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


script = _script()
REMEDY = "run .venv/bin/python scripts/zombie_rules_reference.py"


@pytest.mark.parametrize("name", script.TABLES)
def test_each_table_is_what_the_code_says(name: str) -> None:
    file, table = script.TABLES[name]
    page = (REFERENCE / file).read_text(encoding="utf-8")
    assert script.filled(page, name, table()) == page, REMEDY


@pytest.mark.parametrize("name", script.FILES)
def test_each_file_is_what_the_code_says(name: str) -> None:
    whole = (REFERENCE / name).read_text(encoding="utf-8")
    assert whole == script.FILES[name](), REMEDY
    json.loads(whole)


def test_every_key_is_described_and_unknown_ones_are_refused() -> None:
    schema = json.loads(script.schema())
    for table in (schema, *(one for one in schema["$defs"].values() if one["type"] == "object")):
        assert table["additionalProperties"] is False
        for key, value in table["properties"].items():
            assert value.get("description"), key


def test_the_example_of_the_page_is_without_fault() -> None:
    page = (REFERENCE / "zombie-rules.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert parse_rules(block.encode()).app == "shop"


def test_the_runbooks_commands_and_variables_exist() -> None:
    named = set(re.findall(r"flashcast (zombie [a-z]+(?: (?:new|show))?)", RUNBOOK))
    assert named
    assert named <= set(COMMANDS) | {"zombie keys"}
    source = (ROOT / "src" / "flashcast" / "zombie" / "place.py").read_text(encoding="utf-8")
    for name in re.findall(rf"{VARIABLE}([A-Z]+)", RUNBOOK):
        assert f'"{name}"' in source
