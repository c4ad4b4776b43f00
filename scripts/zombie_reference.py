"""Writes the schema and the tables of zombie mode's reference from the code.

    .venv/bin/python scripts/zombie_reference.py

As in reference.py, each table stands between two marks, and a test fails when one is not what this would write.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import types
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final

from conformance.said import OLD, said, signed
from reference import _cell, _doc, _documented, _table, write
from reference import filled as filled

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"


def example() -> str:
    """A document, and the file in which it is published."""
    from flashcast.zombie.document import Document

    document = said(message={"*": "Back soon", "de": "Gleich wieder da"})
    shown = json.dumps(json.loads(Document.parse(json.dumps(document).encode()).payload), indent=2)
    outer = json.loads(signed(document))
    cut = {"payload": outer["payload"][:60] + "...", "signatures": outer["signatures"]}
    return f"```json\n{shown}\n```\n\n```json\n{json.dumps(cut, indent=2)}\n```"


def fields() -> str:
    """Every field of a document."""
    from flashcast.zombie.document import Document

    schema = _schema()
    order = ["format", "app", "version", "issued_at", "not_before", "expires_at"]
    names = [*order, *(name for name in Document.model_fields if name not in order)]
    rows = []
    for name in names:
        described = schema["properties"][name]
        default = described.get("default")
        shown = "required" if name in schema["required"] else "" if default is None else f"`{json.dumps(default)}`"
        rows.append((f"`{name}`", _kind(described, schema), shown, _cell(described["description"])))
    return _table(("field", "value", "where it is absent", "what it says"), rows)


def _kind(described: dict[str, Any], schema: dict[str, Any]) -> str:
    """A field's type and bounds in words."""
    if "const" in described:
        return str(described["const"])
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        target = schema["$defs"][name]
        if "enum" in target:
            return " or ".join(f'`"{value}"`' for value in target["enum"])
        return "{" + ", ".join(f"`{key}`: {_kind(value, schema)}" for key, value in target["properties"].items()) + "}"
    match described.get("type"):
        case "integer":
            low = described.get("minimum")
            high = described.get("maximum", described.get("exclusiveMaximum", 1) - 1)
            return f"integer {low:,} to {high:,}"
        case "array":
            return f"list of up to {described['maxItems']}: {_kind(described['items'], schema)}"
        case "object":
            return f"up to {described['maxProperties']} texts by locale"
    return f"`{described['pattern'].strip('^$')}`"


def refusals() -> str:
    """Why a document is refused, in the order in which a reader asks."""
    from flashcast.zombie.document import Refusal

    return _enum(Refusal, "reason")


def levels() -> str:
    """The levels."""
    from flashcast.zombie.document import Level

    return _enum(Level, "level")


def writes() -> str:
    """What becomes of writes."""
    from flashcast.zombie.document import Writes

    return _enum(Writes, "writes")


def news() -> str:
    """What a poll can bring."""
    from flashcast.zombie.client.core import News

    return _enum(News, "news")


def fates() -> str:
    """What becomes of a write after an attempt."""
    from flashcast.zombie.client.writes import Fate

    return _enum(Fate, "fate")


def _enum(kind: type[Enum], head: str) -> str:
    return _table((head, "what it means"), [(f"`{member.value}`", _cell(doc)) for member, doc in _documented(kind)])


def bounds() -> str:
    """Every maximum of document and clients."""
    from flashcast.zombie import bounds as module

    return _constants(module)


def _constants(module: types.ModuleType) -> str:
    tree = ast.parse(inspect.getsource(module))
    rows = []
    for at, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = getattr(module, node.target.id)
            following = tree.body[at + 1] if at + 1 < len(tree.body) else None
            rows.append(
                (f"`{node.target.id}`", f"{value:,}" if isinstance(value, int) else f"{value:g}", _doc(following))
            )
    return _table(("bound", "value", "why"), rows)


def bucket_vectors() -> str:
    """A few buckets; clients/conformance/buckets.json has more."""
    from flashcast.zombie.buckets import bucket

    users = ["42", "user-1", "user-2", "J\u00f6rg", ""]
    rows = [
        (f"`{salt}`", f"`{user}`" if user else "(empty)", str(bucket(salt, user)))
        for salt in ("0", "s1")
        for user in users
    ]
    return _table(("salt", "user", "bucket"), rows)


def key_example() -> str:
    """A public key in its forms."""
    return _table(("public key", "key id"), [(f"`{OLD.public.text}`", f"`{OLD.id}`")])


def _schema() -> dict[str, Any]:
    from flashcast.zombie.document import json_schema

    return json_schema()


def schema() -> str:
    """The JSON Schema, as a whole file."""
    return json.dumps(_schema(), indent=2) + "\n"


TABLES: Final[dict[str, tuple[str, Callable[[], str]]]] = {
    "zombie example": ("zombie-document.md", example),
    "zombie fields": ("zombie-document.md", fields),
    "zombie levels": ("zombie-document.md", levels),
    "zombie writes": ("zombie-document.md", writes),
    "zombie refusals": ("zombie-document.md", refusals),
    "zombie buckets": ("zombie-document.md", bucket_vectors),
    "zombie keys": ("zombie-document.md", key_example),
    "zombie bounds": ("zombie-document.md", bounds),
    "zombie news": ("zombie-client.md", news),
    "zombie fates": ("zombie-client.md", fates),
}
FILES: Final[dict[str, Callable[[], str]]] = {"zombie-document.schema.json": schema}
"""Whole files."""


if __name__ == "__main__":
    sys.exit(write(TABLES, FILES))
