"""The layer rule: who may import whom. What is not listed here fails, so a new package must find its place.

    doors -> service -> flow -> (wire, providers, transport, engine) -> root modules
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "flashcast"

ROOT, LOWER, FLOW, SERVICE, DOOR = range(5)
RANKS = {
    # Doors: each turns the outside's words into calls of the layers below.
    "__init__": DOOR,
    "__main__": DOOR,
    "api": DOOR,
    "cli": DOOR,
    "console": DOOR,
    "sender": DOOR,
    # Ships for those who write engines and workers of their own; nothing of ours but tests imports it.
    "testing": DOOR,
    "service": SERVICE,
    "launch_control": SERVICE,
    "arm": FLOW,
    "audience": FLOW,
    "campaign": FLOW,
    "deliver": FLOW,
    "go": FLOW,
    "report": FLOW,
    "worker": FLOW,
    "engine": LOWER,
    # Of use without the rest: it meets a launch only through values.
    "zombie": LOWER,
    "providers": LOWER,
    "transport": LOWER,
    "wire": LOWER,
    "certainty": ROOT,
    "clock": ROOT,
    "config": ROOT,
    "digest": ROOT,
    "errors": ROOT,
    "limits": ROOT,
    "model": ROOT,
    "outcomes": ROOT,
    "state": ROOT,
    # The histogram is plain arithmetic that the reply kernel fills; the report only reads it.
    "latency": ROOT,
    # A peer of the providers themselves: it uses root modules alone, and few may use it (see below).
    "simulator": LOWER,
}
PURE = (
    "wire", "arm.plan", "arm.preflight", "arm.readiness", "arm.share", "campaign.lifecycle", "deliver.pacing",
    "deliver.retry", "go.guard", "certainty", "latency", "model", "outcomes", "limits", "worker.members",
    "zombie.bounds", "zombie.buckets", "zombie.client.core", "zombie.client.writes", "zombie.document",
    "zombie.envelope", "zombie.herd.curves", "zombie.herd.forecast", "zombie.herd.storm", "zombie.judging",
    "zombie.levels", "zombie.measures", "zombie.orders", "zombie.servers.table", "zombie.shield",
)  # fmt: skip
"""Protocol and decisions: bytes and times come in as arguments."""
IO = {
    "asyncio", "fcntl", "fileinput", "http", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "requests",
    "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib", "duckdb", "obstore", "pyarrow",
}  # fmt: skip
SIMULATOR_USERS = ("cli", "service", "simulator", "testing")
NOT_FOR_THE_SIMULATOR = ("wire", "providers", "transport", "engine")
"""A simulator that shared the sender's parser would share its bugs, and find none of them."""

FILES = sorted(SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    """``src/flashcast/wire/frames.py`` is ``wire.frames``; a package is its own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _rank(module: str) -> int | None:
    """The rank of the longest listed name that ``module`` begins with; None where there is none."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((RANKS[name] for name in names if name in RANKS), None)


def _imports(path: Path) -> set[str]:
    """Every module that a file imports at any place, as absolute dotted names, also for type checking alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the package"
            assert node.module is not None
            found.add(node.module)
            # `from flashcast import limits` names a module, `from flashcast.limits import X` does not.
            found |= {f"{node.module}.{alias.name}" for alias in node.names if _is_module(node.module, alias.name)}
    return found


def _is_module(package: str, name: str) -> bool:
    if package != "flashcast" and not package.startswith("flashcast."):
        return False
    place = SOURCE.joinpath(*package.split(".")[1:], name)
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def _own(path: Path) -> set[str]:
    """The modules of this project that a file imports, without the leading ``flashcast``."""
    names = {name.removeprefix("flashcast.") for name in _imports(path) if name.startswith("flashcast.")}
    # A package named beside the module that was taken from it is not a dependency of its own.
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def _begins(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_module_has_its_layer(path: Path) -> None:
    assert _rank(_name(path)) is not None, f"{_name(path)} is in no layer: place it in RANKS, or elsewhere"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_module_imports_its_own_layer_or_lower_ones(path: Path) -> None:
    module = _name(path)
    rank = _rank(module)
    assert rank is not None
    upward = []
    for imported in sorted(_own(path)):
        other = _rank(imported)
        assert other is not None, f"{module} imports flashcast.{imported}, which is in no layer"
        if other > rank:
            upward.append(imported)
    assert upward == [], f"{module} imports from a layer above it"


@pytest.mark.parametrize("path", [p for p in FILES if _begins(_name(p), PURE)], ids=_name)
def test_protocol_and_decisions_import_no_io(path: Path) -> None:
    assert {name.split(".")[0] for name in _imports(path)} & IO == set()


@pytest.mark.parametrize("path", [p for p in FILES if _begins(_name(p), ("simulator",))], ids=_name)
def test_the_simulator_shares_no_parser_with_the_sender(path: Path) -> None:
    assert [name for name in sorted(_own(path)) if _begins(name, NOT_FOR_THE_SIMULATOR)] == []


@pytest.mark.parametrize("path", [p for p in FILES if not _begins(_name(p), ("testing",))], ids=_name)
def test_nothing_that_ships_to_users_needs_the_testing_package(path: Path) -> None:
    assert [name for name in sorted(_own(path)) if _begins(name, ("testing",))] == []


@pytest.mark.parametrize("path", [p for p in FILES if not _begins(_name(p), SIMULATOR_USERS)], ids=_name)
def test_only_doors_and_the_service_start_a_simulator(path: Path) -> None:
    assert [name for name in sorted(_own(path)) if _begins(name, ("simulator",))] == []


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    """`flashcast --help` answers at once: what is heavy is imported inside the command."""
    heavy = ("numpy", "numba", "duckdb", "pyarrow", "cryptography", "requests", "google.auth")
    code = f"import sys, flashcast.cli.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout == "[]\n"


def test_the_rule_names_no_pure_module_that_is_gone() -> None:
    modules = {_name(path) for path in FILES}
    assert [name for name in PURE if not any(_begins(module, (name,)) for module in modules)] == []
