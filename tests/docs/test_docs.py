"""The documentation tells everything there is, nothing that is gone, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flashcast import limits
from flashcast.config import ApnsConfig, Config, FcmConfig
from flashcast.errors import ExitCode
from flashcast.outcomes import REPORTED, Action, Reason
from flashcast.report.meanings import ADVICE, MEANINGS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/*.md")}
)


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


reference = _script()


def _page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def _section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next of its level."""
    level = heading.split(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^{level} |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no heading {heading!r}"
    return found.group(1)


def _help(command: str) -> str:
    code = "from flashcast.cli.main import run; run()"
    arguments = [sys.executable, "-c", code, *command.split(), "--help"]
    environment = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.mark.parametrize("name", reference.TABLES)
def test_each_table_of_the_reference_is_what_the_code_says(name: str) -> None:
    file, table = reference.TABLES[name]
    page = _page(file)
    assert reference.filled(page, name, table()) == page, "run .venv/bin/python scripts/reference.py"


@pytest.mark.parametrize("name", reference.PICTURES)
def test_each_picture_of_the_reference_is_what_the_code_draws(name: str) -> None:
    assert _page(name) == reference.PICTURES[name](), "run .venv/bin/python scripts/reference.py"


def test_every_command_and_option_stands_in_the_reference() -> None:
    """Held against what ``--help`` prints, so that an option the script overlooks is found too."""
    from flashcast.cli.main import COMMANDS

    page = _page("cli.md")
    assert set(reference.all_commands()) == set(COMMANDS)
    for command in COMMANDS:
        section = _section(page, f"## flashcast {command}")
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _help(command))) - {"--help"}
        missing = {option for option in options if f"`{option}`" not in section and option not in section}
        assert missing == set(), f"flashcast {command}"


@pytest.mark.parametrize(
    ("model", "heading"), [(Config, "At the top"), (ApnsConfig, "`[apns]`"), (FcmConfig, "`[fcm]`")]
)
def test_every_setting_stands_in_the_reference(model: type[Config | ApnsConfig | FcmConfig], heading: str) -> None:
    section = _section(_page("config.md"), f"## {heading}")
    sections = {"apns", "fcm"}
    assert [name for name in model.model_fields if name not in sections and f"`{name}`" not in section] == []


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NONE])
def test_every_reason_stands_in_the_reference(reason: Reason) -> None:
    assert f"| `{reason.value}` |" in _page("reasons.md")


def test_every_reason_and_action_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Reason)
    assert set(ADVICE) == set(Action)


def test_every_outcome_stands_in_the_reference() -> None:
    assert [o for o in REPORTED if f"| `{o.name.lower()}` |" not in _page("reasons.md")] == []


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_stands_in_the_reference(code: ExitCode) -> None:
    assert f"| {int(code)} | `{code.name}` |" in _page("errors.md")


def test_every_limit_stands_in_the_reference() -> None:
    names = [name for name in vars(limits) if name.isupper()]
    assert [name for name in names if f"`{name}`" not in _page("limits.md")] == []


def test_every_key_of_a_report_stands_in_the_reference() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    try:
        from report_data import accepted, facts, simulator_ledger, snapshot
    finally:
        sys.path.pop(0)
    from flashcast.report.summary import report_document
    from flashcast.report.table import OUTCOME_SCHEMA, PRUNE_SCHEMA

    of = snapshot()
    document = report_document(of, accepted(8), facts(), simulator_ledger(of, [1] * 8))
    page = _page("report.md")
    keys = {*document, *document["simulator"], *document["providers"]["apns"], *document["reply_latency_ms"]}
    columns = {*OUTCOME_SCHEMA.names, *PRUNE_SCHEMA.names}
    assert [name for name in sorted(keys | columns) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    # Code is no prose: what looks like a link there is none.
    text = re.sub(
        r"```.*?```|^    .*?$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]* src=\"([^\"]+)\"", text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_documentation_can_be_reached_from_its_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_first_campaign_of_the_start_page_can_be_sealed(tmp_path: Path) -> None:
    from flashcast.audience.seal import seal
    from flashcast.campaign.load import load_campaign

    start = ROOT / "docs" / "start.md"
    (tmp_path / "hello.toml").write_text(*_blocks(start, "toml"))
    (tmp_path / "devices.csv").write_text(*_blocks(start, "csv"))
    with seal(
        load_campaign(tmp_path / "hello.toml"), tmp_path / "devices.csv", tmp_path / "hello.snapshot"
    ) as snapshot:
        assert snapshot.rows == 2
