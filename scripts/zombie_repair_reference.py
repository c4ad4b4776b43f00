"""Writes the schema and the tables of docs/reference/zombie-repair.md from the code.

    .venv/bin/python scripts/zombie_repair_reference.py

As in reference.py, each table stands between two marks, and a test fails when one is not what this would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from reference import _cell, _documented, _table, write
from reference import filled as filled
from zombie_rules_reference import _constants, _default

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"
PAGE: Final = "zombie-repair.md"


def keys(model: type[BaseModel]) -> Callable[[], str]:
    """The keys of a table of the file."""

    def table() -> str:
        rows = [
            (f"`{name}`", _default(field), _cell(field.description or "")) for name, field in model.model_fields.items()
        ]
        return _table(("key", "default", "what it says"), rows)

    return table


def bounds() -> str:
    """Every maximum of repair."""
    from flashcast.zombie.repair import database, deliver, events, history, lines, rules, webhook

    modules = (rules, history, lines, events, database, webhook, deliver)
    return _table(("bound", "value", "why"), [row for module in modules for row in _constants(module)])


def states() -> str:
    """What the ledger knows of a grant."""
    from flashcast.zombie.repair.deliver import Doubt

    return _table(("`--doubt`", "what it means"), [(f"`{one.value}`", _cell(doc)) for one, doc in _documented(Doubt)])


def example() -> str:
    """The example file."""
    return f"```toml\n{(ROOT / 'examples' / 'zombie' / 'repair.toml').read_text(encoding='utf-8')}```"


def schema() -> str:
    """The JSON Schema, as a whole file."""
    from flashcast.zombie.repair.rules import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"


def _tables() -> dict[str, tuple[str, Callable[[], str]]]:
    from flashcast.zombie.repair import rules

    made = {
        "repair top": keys(rules.RepairRules),
        "repair spans": keys(rules.SpanRules),
        "repair logs": keys(rules.LogRules),
        "repair columns": keys(rules.Columns),
        "repair users": keys(rules.UsersRules),
        "repair grants": keys(rules.GrantRules),
        "repair webhook": keys(rules.WebhookRules),
        "repair doubt": states,
        "repair bounds": bounds,
        "repair example": example,
    }
    return {name: (PAGE, table) for name, table in made.items()}


TABLES: Final = _tables()
FILES: Final[dict[str, Callable[[], str]]] = {"zombie-repair.schema.json": schema}
"""Whole files."""


if __name__ == "__main__":
    sys.exit(write(TABLES, FILES))
