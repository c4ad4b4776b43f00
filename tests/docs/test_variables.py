"""Every variable of the environment that a command goes by stands in the reference."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
PAGES = ("docs/reference/config.md", "docs/guides/operating.md")


def test_every_variable_is_in_the_reference() -> None:
    # Two underscores make a setting of flashcast.toml; an underscore at the end the beginning of several names.
    named = {name for text in SOURCES for name in re.findall(r"\bFLASHCAST(?:_[A-Z]+)+\b", text)}
    # Those of zombie mode are asked for by what comes after their common beginning.
    named |= {f"FLASHCAST_ZOMBIE_{name}" for text in SOURCES for name in re.findall(r'variable\("([A-Z_]+)"\)', text)}
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert "FLASHCAST_ZOMBIE_ROUTING" in named
    assert sorted(named - set(re.findall(r"\bFLASHCAST(?:_[A-Z]+)+\b", pages))) == []


def test_the_reference_names_no_variable_that_is_gone() -> None:
    page = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    said = set(re.findall(r"`FLASHCAST_ZOMBIE_([A-Z_]+)`", page))
    assert sorted(name for name in said if not any(name in text for text in SOURCES)) == []
