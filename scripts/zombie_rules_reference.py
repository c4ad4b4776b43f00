"""Writes the schema and the tables of docs/reference/zombie-rules.md from the code.

    .venv/bin/python scripts/zombie_rules_reference.py

As in reference.py, each table stands between two marks, and a test fails when one is not what this would write.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from reference import _cell, _doc, _documented, _table, write
from reference import filled as filled

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
PAGE: Final = "zombie-rules.md"


def keys(model: type[BaseModel], schema_name: str | None = None) -> Callable[[], str]:
    """The keys of a table of the file."""

    def table() -> str:
        schema = _schema()
        described = schema if schema_name is None else schema["$defs"][schema_name]
        rows = [
            (f"`{name}`", _kind(described["properties"][name], schema), _default(field), _cell(field.description or ""))
            for name, field in model.model_fields.items()
        ]
        return _table(("key", "value", "default", "what it says"), rows)

    return table


def _kind(said: dict[str, Any], schema: dict[str, Any]) -> str:
    """A value's type and bounds in words."""
    if "$ref" in said:
        name = said["$ref"].rpartition("/")[2]
        target = schema["$defs"][name]
        return _kind(target, schema) if "enum" in target else "table"
    if "const" in said or "enum" in said:
        return " or ".join(f'`"{value}"`' for value in said.get("enum", [said.get("const")]))
    match said.get("type"):
        case "integer" | "number":
            words = "whole number" if said["type"] == "integer" else "number"
            return f"{words}{_bounds(said)}"
        case "array":
            least, most = said.get("minItems", 0), said.get("maxItems")
            count = f"{least} to {most}" if least else f"up to {most}"
            return f"list of {count}: {_kind(said['items'], schema)}"
        case "object":
            texts = all(inner.get("type") == "string" for inner in said.get("patternProperties", {"": {}}).values())
            return f"up to {said['maxProperties']} texts by locale" if texts else "tables by name"
        case "string":
            return f"`{said['pattern'].strip('^$')}`" if "pattern" in said else "text"
    return "a table by its `kind`"


def _bounds(said: dict[str, Any]) -> str:
    low, high = said.get("minimum"), said.get("maximum")
    if said.get("exclusiveMinimum") is not None:
        return f" above {said['exclusiveMinimum']:g}, at most {high:,g}"
    if low is None and high is None:
        return ""
    return f" {low:,g} to {high:,g}"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else None
    if value is None or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def transitions() -> str:
    """What leads from which level to which, and what it waits for."""
    from flashcast.zombie.document import Level
    from flashcast.zombie.levels import DWELL, TRANSITIONS, Input

    def cell(level: Level, what: Input) -> str:
        after = TRANSITIONS.get((level, what))
        if after is None:
            return ""
        wait = DWELL.get((level, what))
        return after.value + (f", after `{wait}`" if wait else "")

    rows = [
        (f"**{what.value}**: {_cell(doc)}", *(cell(level, what) for level in Level)) for what, doc in _documented(Input)
    ]
    return _table(("", *(level.value for level in Level)), rows)


def whys() -> str:
    """Why a decision is what it is."""
    from flashcast.zombie.levels import Why

    return _table(("why", "what it means"), [(f"`{why.value}`", _cell(doc)) for why, doc in _documented(Why)])


def verdicts() -> str:
    """What a reading means to a rule."""
    from flashcast.zombie.judging import Verdict

    return _table(("verdict", "what it means"), [(f"`{one.value}`", _cell(doc)) for one, doc in _documented(Verdict)])


def bounds() -> str:
    """Every maximum of rules, signals, controller and traces."""
    from flashcast.zombie import controller, measures, memory, orders, rule_parts, rules, shield, signals, trace

    modules = (rules, rule_parts, signals, measures, controller, memory, trace, orders, shield)
    return _table(("bound", "value", "why"), [row for module in modules for row in _constants(module)])


def _constants(module: ModuleType) -> Iterable[tuple[str, str, str]]:
    tree = ast.parse(inspect.getsource(module))
    for at, node in enumerate(tree.body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and re.search(r"_MAX|_S\b|_S_", node.target.id)
        ):
            value = getattr(module, node.target.id)
            following = tree.body[at + 1] if at + 1 < len(tree.body) else None
            yield f"`{node.target.id}`", f"{value:,}" if isinstance(value, int) else f"{value:g}", _doc(following)


def example() -> str:
    """The example file."""
    text = (REFERENCE.parent.parent / "examples" / "zombie" / "rules.toml").read_text(encoding="utf-8")
    return f"```toml\n{text}```"


def _schema() -> dict[str, Any]:
    from flashcast.zombie.rules import json_schema

    return json_schema()


def schema() -> str:
    """The JSON Schema, as a whole file."""
    return json.dumps(_schema(), indent=2) + "\n"


def _tables() -> dict[str, tuple[str, Callable[[], str]]]:
    from flashcast.zombie import rule_parts, rules

    models = {
        "rules top": keys(rules.Rules),
        "rules signals http": keys(rule_parts.HttpSignal, "HttpSignal"),
        "rules signals prometheus": keys(rule_parts.PrometheusSignal, "PrometheusSignal"),
        "rules signals pushed": keys(rule_parts.PushedSignal, "PushedSignal"),
        "rules signals reports": keys(rule_parts.ReportsSignal, "ReportsSignal"),
        "rules rules": keys(rule_parts.RuleOf, "RuleOf"),
        "rules levels normal": keys(rule_parts.NormalLook, "NormalLook"),
        "rules levels": keys(rule_parts.Look, "Look"),
        "rules recovery": keys(rule_parts.Recovery, "Recovery"),
        "rules verdicts": verdicts,
        "rules transitions": transitions,
        "rules whys": whys,
        "rules bounds": bounds,
        "rules example": example,
    }
    return {name: (PAGE, table) for name, table in models.items()}


TABLES: Final = _tables()
FILES: Final[dict[str, Callable[[], str]]] = {"zombie-rules.schema.json": schema}
"""Whole files."""


if __name__ == "__main__":
    sys.exit(write(TABLES, FILES))
