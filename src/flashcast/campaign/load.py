"""Reads a campaign file and tells everything that is wrong with it at once."""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flashcast.campaign import file as models
from flashcast.campaign.compile import compile_faults
from flashcast.campaign.faults import CampaignFileError, Fault, Key
from flashcast.campaign.file import Campaign
from flashcast.campaign.rules import CONTENT_KEYS
from flashcast.campaign.toml_lines import TomlLines, toml_lines
from flashcast.campaign.variants import CHOOSING
from flashcast.errors import CampaignError
from flashcast.model import Provider
from flashcast.zombie.shield import Shield

_EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}

_BOUNDS = {
    "greater_than": "is not more than {gt:g}",
    "greater_than_equal": "is less than {ge:g}",
    "less_than": "is not less than {lt:g}",
    "less_than_equal": "is more than {le:.0f}",
    "finite_number": "is not a finite number",
    "string_too_short": "is too short; at least {min_length} character is needed",
    "string_too_long": "is too long; at most {max_length} characters are possible",
    "too_short": "is empty",
    "too_long": "has {actual_length} entries; at most {max_length} are possible",
    "string_pattern_mismatch": "does not match {pattern}",
}

_ARRAYS_OF_TABLES = ("stages", "variants")
_WHOLE = ("shield",)
"""Tables with keys that they cannot do without: where one is wrong, all of it is cut out."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a file turned out to be: a campaign as far as it could be understood, and its faults.

    ``campaign`` is None where the file is no TOML at all; what has a fault of type is left out of it.
    """

    file: str
    campaign: Campaign | None
    faults: tuple[Fault, ...]
    lines: TomlLines | None = None

    def with_faults(self, more: Iterable[Fault]) -> Examination:
        """The same, with faults found later; they get their lines."""
        located = (fault if self.lines is None else _with_line(fault, self.lines) for fault in more)
        return replace(self, faults=_in_order((*self.faults, *located)))

    def sound(self) -> Campaign:
        """The campaign, if nothing is wrong with it. Raises `CampaignFileError`."""
        if self.faults or self.campaign is None:
            raise CampaignFileError(self.file, self.faults)
        return self.campaign


def load_campaign(path: Path) -> Campaign:
    """The campaign in ``path``.

    Raises `CampaignFileError` with every fault and its line; CampaignError if the file cannot be read.
    """
    return examine(path).sound()


def parse_campaign(data: bytes, file: str = "campaign.toml") -> Campaign:
    """The campaign in ``data``, the bytes of a TOML file called ``file``. Raises `CampaignFileError`."""
    return examine_bytes(data, file).sound()


def examine(path: Path) -> Examination:
    """Reads ``path`` without judging it. Raises CampaignError if the file cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CampaignError(
            f"no campaign file at {path}", remedy="Give the path of a TOML file; see examples/minimal.toml."
        ) from None
    except OSError as error:
        raise CampaignError(f"cannot read {path}: {error.strerror}") from error
    return examine_bytes(data, str(path))


def examine_bytes(data: bytes, file: str) -> Examination:
    """As `examine`, of the bytes of a file called ``file``."""
    try:
        text = data.decode()
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Examination(file, None, (Fault((), f"not UTF-8: {error.reason}", line),))
    except tomllib.TOMLDecodeError as error:
        return Examination(file, None, (_syntax_fault(error, text),))
    except RecursionError:
        return Examination(file, None, (Fault((), "arrays or tables nested too deeply to read", 1),))
    campaign, faults = _validated(raw)
    return Examination(file, campaign, (), toml_lines(text)).with_faults(faults)


def _in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """By line, each once: a fault of the base message comes again with every variant."""
    return tuple(dict.fromkeys(sorted(faults, key=lambda fault: fault.line or 0)))


def _syntax_fault(error: tomllib.TOMLDecodeError, text: str) -> Fault:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
    if found is None:
        return Fault((), f"not valid TOML: {str(error).removesuffix(' (at end of document)')}", text.count("\n") + 1)
    return Fault((), f"not valid TOML: {str(error)[: found.start()]} (column {found[2]})", int(found[1]))


def _with_line(fault: Fault, lines: TomlLines) -> Fault:
    return Fault(fault.key, fault.message, lines.nearest(fault.key))


def _validated(raw: dict[str, Any]) -> tuple[Campaign, list[Fault]]:
    """The campaign as far as it can be understood, and every fault.

    pydantic stops before the rules when a type is wrong. So what has a wrong type is told, cut out, and
    the rest is judged by the rules; a rule has no say about a key that was cut out.
    """
    try:
        campaign, faults = Campaign(**raw), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        faults = [_type_fault(detail, raw) for detail in details]
        campaign = Campaign(**_without(raw, details))
    cut = {fault.key for fault in faults}
    # A variant whose `when` is not known would be taken for one without.
    unsure = [provider for provider in Provider if any(gone[0] == provider and _chooses(gone) for gone in cut)]
    rest = compile_faults(campaign, unsure)
    if not campaign.sections() and cut & {("apns",), ("fcm",)}:
        rest = iter(())
    return campaign, [*faults, *(fault for fault in rest if not _concerns(fault.key, cut))]


def _chooses(key: Key) -> bool:
    """Whether the choice of variants depends on ``key``, such as ``apns.variants[0].when[1]``."""
    return len(key) > 1 and key[1] in CHOOSING and (len(key) < 4 or key[3] in CHOOSING)


def _concerns(key: Key, cut: Iterable[Key]) -> bool:
    """Whether ``key`` is, holds or lies in something that was cut out, or is missed because of it."""
    if not key:
        return False
    content = CONTENT_KEYS.get(str(key[-1]), frozenset())
    if any(gone[0] == key[0] and content & {*gone} for gone in cut):
        return True
    return any(gone[: len(key)] == key or key[: len(gone)] == gone for gone in cut)


def _without(raw: dict[str, Any], details: Iterable[ErrorDetails]) -> dict[str, Any]:
    kept = copy.deepcopy(raw)
    for detail in details:
        *parents, last = detail["loc"]
        if detail["loc"][0] in _WHOLE:
            kept.pop(str(detail["loc"][0]), None)
            continue
        table: Any = kept
        for part in parents:
            table = table[part]
        if isinstance(table, list):
            # An element must not move its successors: their lines follow from their indices.
            table[int(last)] = {} if parents[-1] in _ARRAYS_OF_TABLES else ""
        else:
            table.pop(last, None)
    kept.setdefault("name", "unnamed")
    return kept


def _type_fault(detail: ErrorDetails, raw: dict[str, Any]) -> Fault:
    key: Key = tuple(detail["loc"])
    return Fault(key, _told(detail, key, raw))


def _told(detail: ErrorDetails, key: Key, raw: dict[str, Any]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return _unknown_key(str(key[-1]), _model_at(key[:-1]))
    if kind in ("literal_error", "enum"):
        # pydantic writes "'a', 'b' or 'c'".
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{_shown(value)} is not one of {allowed}"
    if kind in _EXPECTED:
        return _wrong_type(kind, value, key)
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch" and isinstance(value, str) and "{{" in value:
        return f"{value!r} has a field, but this value is the same for every row"
    if kind in _BOUNDS:
        return f"{_shown(value)} {_BOUNDS[kind].format(**context)}"
    return f"{_shown(value)}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _wrong_type(kind: str, value: Any, key: Key) -> str:
    expected = _EXPECTED[kind]
    if isinstance(value, str) and "{{" in value:
        return f"{_shown(value)} has a field, which can only stand in a text; here stands {expected}"
    if kind == "string_type" and "data" in key:
        return f'{_shown(value)} is not a text, and FCM takes nothing else here; write "{_shown(value)}"'
    return f"{_shown(value)} is not {expected}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:60]}..."'
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else str(value)


def _unknown_key(name: str, model: type[BaseModel]) -> str:
    known = list(model.model_fields)
    close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1, cutoff=0.6)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}"


def _model_at(key: Key) -> type[BaseModel]:
    """The model of the table at ``key``: the innermost one that its path reaches."""
    model: type[BaseModel] = Campaign
    for part in _steps(key):
        model = part
    return model


def _steps(key: Key) -> Iterator[type[BaseModel]]:
    tables: dict[Key, type[BaseModel]] = {
        ("pace",): models.Pace,
        ("stages",): models.StagePart,
        ("guard",): models.Guard,
        ("shield",): Shield,
        ("apns",): models.ApnsSection,
        ("fcm",): models.FcmSection,
        ("apns", "alert"): models.ApnsAlert,
        ("fcm", "notification"): models.FcmNotification,
        ("apns", "variants"): models.ApnsVariant,
        ("fcm", "variants"): models.FcmVariant,
        ("apns", "variants", "alert"): models.ApnsAlert,
        ("fcm", "variants", "notification"): models.FcmNotification,
    }
    names: Key = tuple(part for part in key if isinstance(part, str))
    for length in range(1, len(names) + 1):
        if names[:length] in tables:
            yield tables[names[:length]]
