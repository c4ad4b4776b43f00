"""The simulator's reference tells every key of a profile with its default, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flashcast.simulator.ledger import Ledger
from flashcast.simulator.profile import (
    BUILT_IN,
    REPLY_STYLES,
    WIRE_FAULTS,
    IdleClose,
    Latency,
    Profile,
    ProviderProfile,
    Reply,
    StreamChange,
    TableChange,
)

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "simulator.md").read_text(encoding="utf-8")
TABLES: dict[str, type[BaseModel]] = {
    "Top level": Profile,
    "`[apns]` and `[fcm]`": ProviderProfile,
    "`latency`": Latency,
    "`replies`": Reply,
    "`idle_close`": IdleClose,
    "`stream_changes`": StreamChange,
    "`header_table_changes`": TableChange,
}


def table(model: type[BaseModel]) -> str:
    """The Markdown table of a model's keys, as the page must have it."""
    lines = ["| key | default | what it does |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if field.default is PydanticUndefined and field.default_factory is None:
            default = "required"
        elif field.default_factory is not None:
            default = "see below"
        elif field.default in ((), None):
            default = "none"
        else:
            default = f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


@pytest.mark.parametrize("heading", TABLES)
def test_each_table_of_the_page_is_what_the_model_says(heading: str) -> None:
    found = re.search(rf"^### {re.escape(heading)}$\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no heading {heading!r}"
    assert table(TABLES[heading]) in found.group(1)


def test_every_fault_style_and_built_in_profile_is_named() -> None:
    for word in (*WIRE_FAULTS, *REPLY_STYLES, *BUILT_IN):
        assert f"`{word}`" in PAGE


def test_every_count_of_the_ledger_is_defined() -> None:
    summary = Ledger().summary()
    for word in (*summary, *summary["by_provider"]["apns"]):
        assert f"`{word}`" in PAGE


def test_the_example_profile_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert Profile.model_validate(tomllib.loads(example)).apns.replies[0].reason == "Unregistered"


if __name__ == "__main__":
    print("\n\n".join(f"### {heading}\n\n{table(model)}" for heading, model in TABLES.items()))
