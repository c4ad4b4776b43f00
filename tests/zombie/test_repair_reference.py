"""The reference of repair says what the code does; its example and the guide's commands are real."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flashcast.cli.main import COMMANDS
from flashcast.zombie.repair.rules import load_repair_rules

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def _script() -> ModuleType:
    path = ROOT / "scripts" / "zombie_repair_reference.py"
    spec = importlib.util.spec_from_file_location("zombie_repair_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


script = _script()


@pytest.mark.parametrize("name", script.TABLES)
def test_each_table_is_what_the_code_says(name: str) -> None:
    file, table = script.TABLES[name]
    page = (REFERENCE / file).read_text(encoding="utf-8")
    assert script.filled(page, name, table()) == page, "run .venv/bin/python scripts/zombie_repair_reference.py"


def test_the_schema_describes_every_key_and_takes_no_other() -> None:
    text = (REFERENCE / "zombie-repair.schema.json").read_text(encoding="utf-8")
    assert text == script.schema(), "run .venv/bin/python scripts/zombie_repair_reference.py"
    schema = json.loads(text)
    for table in (schema, *(one for one in schema["$defs"].values() if one["type"] == "object")):
        assert table["additionalProperties"] is False
        for key, value in table["properties"].items():
            assert value.get("description"), key


def test_the_example_is_without_fault_and_the_guides_commands_exist() -> None:
    assert load_repair_rules(ROOT / "examples" / "zombie" / "repair.toml").app == "shop"
    guide = (ROOT / "docs" / "guides" / "zombie-repair.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^    flashcast (zombie repair [a-z]+)", guide, re.MULTILINE))
    assert named == {"zombie repair spans", "zombie repair grants"}
    assert named <= set(COMMANDS)
