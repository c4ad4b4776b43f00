"""The guide tells every key and priority, and its examples work."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from flashcast.zombie.servers import table
from flashcast.zombie.servers.routing import Priority, Route, Routing, routing_of

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "zombie-servers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*Routing.model_fields, *Route.model_fields, *Priority])
def test_every_key_and_priority_stands_in_the_guide(name: str) -> None:
    assert f"| `{name}` |" in GUIDE


@pytest.mark.parametrize("name", [table.LEVEL, table.VERSION, table.FEATURE, "retry-after", "cache-control"])
def test_every_header_stands_in_the_guide(name: str) -> None:
    assert f"    {name}: " in GUIDE.lower()


def test_the_guide_s_routing_is_sound_and_changed_as_it_says_still_is() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    routing = routing_of(tomllib.loads(blocks[0]))
    assert routing.problems() == []
    assert len(routing.routes) == 6
    routing_of(tomllib.loads(blocks[0]) | tomllib.loads(blocks[1]))


def test_every_option_in_the_guide_is_one_of_the_commands() -> None:
    import typer

    from flashcast.cli.zombie_servers import envoy, nginx

    app = typer.Typer()
    app.command()(nginx)
    app.command()(envoy)
    for command in ("nginx", "envoy"):
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        for block in re.findall(rf"flashcast zombie {command}((?:[^\n`]|\\\n)*)", GUIDE):
            assert [option for option in re.findall(r"--[a-z-]+", block) if option not in told] == []


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zombie_middleware", ROOT / "benchmarks" / "zombie_middleware.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zombie_middleware"] = module
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_measures_what_it_says() -> None:
    """It checks each answer's status itself, and ends the process where one is wrong."""
    import asyncio

    benchmark = _benchmark()
    found = asyncio.run(benchmark.measured(rounds=2, requests=2))
    assert set(found) == set(benchmark.cases())
    assert all(len(times) == 2 for times in found.values())
    for name in found:
        assert re.search(rf"^    {re.escape(name)} ", benchmark.__doc__ or "", re.MULTILINE), name
