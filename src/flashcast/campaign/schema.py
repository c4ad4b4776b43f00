"""The JSON Schema of a campaign file."""

from __future__ import annotations

from typing import Any

from flashcast.campaign.file import Campaign


def campaign_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a campaign file, for editors and other tools."""
    schema = Campaign.model_json_schema()
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Flashcast campaign",
        **schema,
    }


def _tidy(node: Any) -> None:
    """TOML has no null: an optional key is absent, so ``null`` is neither a default nor a type.

    pydantic's titles repeat the keys; they go too.
    """
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str):
        del node["title"]
    if "default" in node and node["default"] is None:
        del node["default"]
    kept = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if len(kept) == 1 and len(node["anyOf"]) == 2:
        del node["anyOf"]
        node.update({key: value for key, value in kept[0].items() if key not in node})
    elif "anyOf" in node:
        node["anyOf"] = kept
    for value in list(node.values()):
        _tidy(value)
