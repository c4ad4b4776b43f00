"""Writes the tables of docs/reference/ from the code: `.venv/bin/python scripts/reference.py`.

Each table stands between two marks, `<!-- begin NAME -->` and `<!-- end NAME -->`; the prose around them is
written by hand. A test fails when a table is not what this script would write.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


def commands() -> str:
    """Every command with its usage, arguments and options."""
    parts = []
    for name, function in sorted(all_commands().items()):
        parameters = list(parameters_of(function))
        usage = [f"flashcast {name}", "[OPTIONS]"]
        usage += [p.names[0] if p.required else f"[{p.names[0]}]" for p in parameters if p.is_argument]
        rows = [(_named(p), _shown(p), p.help) for p in parameters]
        text = inspect.cleandoc(function.__doc__ or "")
        table = _table(("argument or option", "default", "what it does"), rows) if rows else ""
        parts.append(f"## flashcast {name}\n\n    {' '.join(usage)}\n\n{text}\n\n{table}".rstrip())
    return "\n\n".join(parts)


def all_commands() -> dict[str, Callable[..., Any]]:
    """The functions behind the commands, by name; those of a group have its name before theirs."""
    from flashcast.cli.main import app

    return _registered(app, "")


def _registered(app: Any, prefix: str) -> dict[str, Callable[..., Any]]:
    named = ((f"{prefix}{c.name or c.callback.__name__}", c) for c in app.registered_commands if not c.hidden)
    found = {name: c.callback for name, c in named}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= _registered(group.typer_instance, f"{prefix}{group.typer_instance.info.name} ")
    return found


@dataclass(frozen=True)
class Parameter:
    """An argument or option as its function declares it; typer's own objects differ from release to release."""

    names: tuple[str, ...]
    is_argument: bool
    kind: str
    required: bool
    default: Any
    help: str


def parameters_of(function: Callable[..., Any]) -> Iterable[Parameter]:
    import typer.models

    hints = typing.get_type_hints(function, include_extras=True)
    for name, declared in inspect.signature(function).parameters.items():
        hint, *extras = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        default = declared.default
        if isinstance(default, typer.models.ParameterInfo):
            extras, default = [default], default.default
        info = next((e for e in extras if isinstance(e, typer.models.ParameterInfo)), None)
        if info is not None and info.hidden:
            continue
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        # Inside Annotated, typer takes the first name for a default.
        first = getattr(info, "default", None)
        given = (*((first,) if isinstance(first, str) else ()), *(getattr(info, "param_decls", None) or ()))
        names = (name.upper(),) if is_argument else given or (f"--{name.replace('_', '-')}",)
        required = default in (inspect.Parameter.empty, ...)
        yield Parameter(names, is_argument, _kind(hint), required, default, _cell(getattr(info, "help", None) or ""))


def _kind(hint: Any) -> str:
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(str(part) for part in parts)
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return " or ".join(str(member.value) for member in hint)
    if typing.get_origin(hint) in (list, tuple):
        return f"{_kind(parts[0])}, any number of times"
    if parts:
        return _kind(parts[0])
    return {str: "text", int: "number", float: "number", Path: "path", bool: ""}.get(hint, str(hint))


def _named(parameter: Parameter) -> str:
    names = ", ".join(f"`{name}`" for each in parameter.names for name in each.split("/"))
    return f"{names} {parameter.kind}".rstrip()


def _shown(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    if default is True:
        return f"`{parameter.names[0].split('/')[0]}`"
    return "" if default is None or default is False or default in ((), [], "") else f"`{default}`"


def settings() -> str:
    """Every setting of flashcast.toml, by section."""
    from flashcast.config import ApnsConfig, Config, FcmConfig

    parts = []
    for title, model, prefix in (
        ("At the top", Config, ""),
        ("`[apns]`", ApnsConfig, "APNS__"),
        ("`[fcm]`", FcmConfig, "FCM__"),
    ):
        rows = [
            (f"`{name}`", _type(field.annotation), _default(field), _cell(field.description or ""))
            for name, field in model.model_fields.items()
            if field.description
        ]
        example = f"`FLASHCAST_{prefix}{rows[0][0].strip('`').upper()}`"
        table = _table(("setting", "value", "default", "what it is"), rows)
        parts.append(f"## {title}\n\nFrom the environment: {example} and so on.\n\n{table}")
    return "\n\n".join(parts)


def _type(annotation: Any) -> str:
    names = {str: "text", int: "whole number", float: "number", Path: "path", bool: "true or false"}
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " or ".join(_type(part) for part in typing.get_args(annotation) if part is not type(None))
    return names.get(annotation, str(annotation))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    return "" if field.default is None else f"`{field.default}`"


def reasons() -> str:
    """Every reason, by who says it."""
    from flashcast.outcomes import ACTIONS, APNS_STATUS, FCM_STATUS, Reason
    from flashcast.report.meanings import MEANINGS

    def rows(chosen: Iterable[Reason], status: dict[Reason, int]) -> list[tuple[str, ...]]:
        return [
            (
                f"`{reason.value}`",
                str(status.get(reason, "")),
                ACTIONS[reason].value if reason in ACTIONS else "",
                MEANINGS[reason],
            )
            for reason in chosen
        ]

    own = [r for r in Reason if r not in APNS_STATUS and r not in FCM_STATUS and r is not Reason.NONE]
    head = ("reason", "HTTP status", "action", "what it means")
    parts = (
        ("APNs", rows(sorted(APNS_STATUS, key=lambda r: (APNS_STATUS[r], r.value)), APNS_STATUS)),
        ("FCM", rows(sorted(FCM_STATUS, key=lambda r: (FCM_STATUS[r], r.value)), FCM_STATUS)),
    )
    told = [f"## {title}\n\n{_table(head, table)}" for title, table in parts]
    bare = [(row[0], row[2], row[3]) for row in rows(own, {})]
    told.append(f"## What no provider said\n\n{_table((head[0], *head[2:]), bare)}")
    return "\n\n".join(told)


def actions() -> str:
    """What becomes of a row for each action."""
    from flashcast.outcomes import Action

    return _table(("action", "what it does"), [(a.value, _cell(doc)) for a, doc in _documented(Action)])


def outcomes() -> str:
    """The six outcomes."""
    from flashcast.outcomes import REPORTED
    from flashcast.report.meanings import OUTCOME_MEANINGS

    ordered = [*REPORTED[1:], REPORTED[0]]
    return _table(("outcome", "what it means"), [(f"`{o.name.lower()}`", OUTCOME_MEANINGS[o]) for o in ordered])


def exit_codes() -> str:
    """What a command ends with."""
    from flashcast.errors import ExitCode

    rows = [(str(int(code)), f"`{code.name}`", doc or "Done.") for code, doc in _documented(ExitCode)]
    return _table(("exit code", "name", "when"), rows)


def errors() -> str:
    """Every class of error, with the exit code it leads to."""
    from flashcast import errors as module

    kinds = [
        kind for kind in vars(module).values() if inspect.isclass(kind) and issubclass(kind, module.FlashcastError)
    ]
    rows = [
        (f"`{kind.__name__}`", str(int(kind.exit_code)), (inspect.getdoc(kind) or "").splitlines()[0]) for kind in kinds
    ]
    return _table(("kind", "exit code", "what is wrong"), rows)


def limits() -> str:
    """Every named maximum."""
    from flashcast import limits as module

    tree = ast.parse(inspect.getsource(module))
    rows = []
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            following = tree.body[i + 1] if i + 1 < len(tree.body) else None
            value = getattr(module, node.target.id)
            shown = f"{value:,}" if isinstance(value, int) else f"{value:g}"
            rows.append((f"`{node.target.id}`", shown, _doc(following)))
    return _table(("limit", "value", "why"), rows)


def states() -> str:
    """The states of a launch."""
    from flashcast.campaign.lifecycle import State

    return _table(("state", "what it means"), [(f"`{state.value}`", doc) for state, doc in _documented(State)])


def transitions() -> str:
    """The lifecycle's table."""
    from flashcast.campaign.lifecycle import Input, State, following

    def cell(state: State, what: Input) -> str:
        after = following(state, what)
        return "" if after is None else after.value

    rows = [(f"**{what.value}**", *(cell(state, what) for state in State)) for what in Input]
    return _table(("", *(state.value for state in State)), rows)


def lifecycle_picture() -> str:
    """The lifecycle's diagram."""
    spec = importlib.util.spec_from_file_location("lifecycle_diagram", ROOT / "scripts" / "lifecycle_diagram.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.diagram())


def herd_keys() -> str:
    """Every key of a herd scenario."""
    from flashcast.zombie.herd.scenario import Scenario

    rows = [
        (f"`{name}`", _default(field), _cell(field.description or "")) for name, field in Scenario.model_fields.items()
    ]
    return _table(("key", "default", "what it is"), rows)


def herd_figures() -> str:
    """Every parameter of the herd experiment."""
    from flashcast.zombie.experiment.parameters import DEFAULT

    rows = [(f"`{name}`", f"`{value}`") for name, value in DEFAULT.as_dict().items()]
    return _table(("parameter", "value"), rows)


def _documented(enum: Any) -> list[tuple[Any, str]]:
    """The members of an enum, each with the docstring that follows it in the source."""
    body = ast.parse(inspect.getsource(enum)).body[0]
    assert isinstance(body, ast.ClassDef)
    told = []
    for i, node in enumerate(body.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            following = body.body[i + 1] if i + 1 < len(body.body) else None
            told.append((enum[node.targets[0].id], _doc(following)))
    return told


def _doc(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("\\\\|", "\\|").split())


Tables = dict[str, tuple[str, Callable[[], str]]]
"""By name: the page it stands in, and what makes it."""
Files = dict[str, Callable[[], str]]
"""Whole files, by name."""

TABLES: Tables = {
    "commands": ("cli.md", commands),
    "settings": ("config.md", settings),
    "outcomes": ("reasons.md", outcomes),
    "actions": ("reasons.md", actions),
    "reasons": ("reasons.md", reasons),
    "exit codes": ("errors.md", exit_codes),
    "errors": ("errors.md", errors),
    "limits": ("limits.md", limits),
    "states": ("lifecycle.md", states),
    "transitions": ("lifecycle.md", transitions),
    "herd keys": ("herd.md", herd_keys),
    "herd figures": ("herd.md", herd_figures),
}
PICTURES: Files = {"lifecycle.svg": lifecycle_picture}


def filled(page: str, name: str, table: str) -> str:
    """The page with ``table`` between the marks of ``name``. Raises ValueError where it has no such marks."""
    marks = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    found = marks.search(page)
    if found is None:
        raise ValueError(f"the page has no marks for {name!r}")
    return f"{page[: found.end(1)]}\n{table}\n\n{page[found.start(2) :]}"


def write(tables: Tables, files: Files) -> int:
    """Brings the reference up to date: tables between their marks, and whole files. Returns 0."""
    for name, (file, table) in tables.items():
        path = REFERENCE / file
        page = path.read_text(encoding="utf-8")
        new = filled(page, name, table())
        if new != page:
            path.write_text(new, encoding="utf-8")
            sys.stderr.write(f"wrote {name} into {path.relative_to(ROOT)}\n")
    for name, whole in files.items():
        path, new = REFERENCE / name, whole()
        if not path.exists() or path.read_text(encoding="utf-8") != new:
            path.write_text(new, encoding="utf-8")
            sys.stderr.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(write(TABLES, PICTURES))
