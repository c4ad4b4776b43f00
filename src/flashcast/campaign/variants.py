"""Variants: how each is laid over the base message, and how a row finds its own.

The table of variants is judged here; the values of a merged message in rules.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from hashlib import blake2b
from typing import Any, Final

from pydantic import BaseModel

from flashcast.campaign.faults import Fault, Key
from flashcast.campaign.file import ApnsMessage, ApnsSection, FcmMessage, FcmSection
from flashcast.campaign.template import FieldSyntaxError, parse_text
from flashcast.limits import VARIANTS_MAX
from flashcast.model import Field, Provider

Section = ApnsSection | FcmSection
Message = ApnsMessage | FcmMessage

LOCALE_COLUMNS: Final = ("locale", "language", "lang")
CHOOSING: Final = frozenset({"when", "arm", "weight", "variant_by", "variant_match", "variants"})
"""Keys that choose a message rather than make it."""


@dataclass(frozen=True, slots=True)
class VariantChooser:
    """How a row's variant follows from its columns.

    ``by_value`` maps a value of ``column`` to arms (template indices); a row that matches none gets
    ``default``. With ``match_locale``, a value is compared without regard to case and to ``-`` or ``_``,
    and shortened from the right until it matches, as RFC 4647 section 3.4 looks up a language:
    ``zh-Hant-TW``, ``zh-Hant``, ``zh``. Among several arms, ``weights`` (by template index) share the rows
    out by a hash of the row's id and ``salt``, so that sealing twice agrees.
    """

    column: str | None
    by_value: Mapping[str, tuple[int, ...]]
    default: tuple[int, ...]
    weights: Mapping[int, float]
    match_locale: bool = False
    salt: int = 0

    def arms(self, value: str | None) -> tuple[int, ...]:
        """The arms of a row whose ``column`` has ``value``."""
        return self.arms_of([value])[0]

    def arms_of(self, values: Iterable[str | None]) -> list[tuple[int, ...]]:
        """The arms for each of many values."""
        known = {self._folded(key): arms for key, arms in self.by_value.items()}
        return [self.default if value is None else self._found(known, self._folded(value)) for value in values]

    def _folded(self, value: str) -> str:
        return normal_locale(value) if self.match_locale else value

    def _found(self, known: Mapping[str, tuple[int, ...]], wanted: str) -> tuple[int, ...]:
        while wanted not in known and self.match_locale and "-" in wanted:
            wanted = wanted.rpartition("-")[0]
        return known.get(wanted, self.default)


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One merged message: what a template is compiled from.

    ``place`` is the table it is written in; ``own`` holds the keys that this table sets, where the
    message also has those of the base. Compared by identity.
    """

    provider: Provider
    name: str
    message: Message
    place: Key
    when: tuple[str, ...] = ()
    arm: str | None = None
    weight: float = 1.0
    own: Mapping[str, Any] = dataclass_field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether this is the provider's base message, with nothing laid over it."""
        return len(self.place) == 1


def normal_locale(value: str) -> str:
    """``de_AT.UTF-8`` and ``DE-at`` are both ``de-at``."""
    return value.strip().partition(".")[0].partition("@")[0].replace("_", "-").lower()


def salt_of(campaign_name: str) -> int:
    """64 bits that set one campaign's A/B split apart from every other's."""
    return int.from_bytes(blake2b(campaign_name.encode(), digest_size=8).digest(), "little")


def variants_of(provider: Provider, section: Section) -> tuple[Variant, ...]:
    """Every merged message of a provider, in the order of template indices.

    The base message is a variant of its own, the first, unless some variant has no ``when``.
    """
    base = _set_keys(section)
    merged = [
        _variant(provider, base, _set_keys(variant), index, variant.when, variant.arm, variant.weight)
        for index, variant in enumerate(section.variants)
    ]
    if any(not variant.when for variant in merged):
        return tuple(merged)
    return (Variant(provider, "default", _message(provider, base), (provider.value,)), *merged)


def _variant(
    provider: Provider,
    base: Mapping[str, Any],
    own: Mapping[str, Any],
    index: int,
    when: list[str] | None,
    arm: str | None,
    weight: float | None,
) -> Variant:
    name = ",".join(when) if when else "default"
    return Variant(
        provider,
        f"{name}/{arm}" if arm else name,
        _message(provider, laid_over(base, own)),
        (provider.value, "variants", index),
        tuple(when or ()),
        arm,
        1.0 if weight is None else weight,
        own,
    )


def _set_keys(table: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in table.model_dump(exclude_none=True).items() if key not in CHOOSING}


def _message(provider: Provider, values: Mapping[str, Any]) -> Message:
    return ApnsMessage(**values) if provider is Provider.APNS else FcmMessage(**values)


def laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``top``'s keys: tables are merged key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both_tables = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = laid_over(below, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def chooser_of(provider: Provider, section: Section, campaign_name: str) -> VariantChooser:
    """How a row finds its variant. The section must be free of `variant_faults`."""
    variants = variants_of(provider, section)
    by_value: dict[str, tuple[int, ...]] = {}
    for index, variant in enumerate(variants):
        for value in variant.when:
            by_value[value] = (*by_value.get(value, ()), index)
    return VariantChooser(
        column=section.variant_by,
        by_value=by_value,
        default=tuple(index for index, variant in enumerate(variants) if not variant.when),
        weights={index: variant.weight for index, variant in enumerate(variants)},
        match_locale=_matches_locale(section),
        salt=salt_of(campaign_name),
    )


def _matches_locale(section: Section) -> bool:
    if section.variant_match is not None:
        return section.variant_match == "locale"
    return section.variant_by is not None and section.variant_by.lower() in LOCALE_COLUMNS


def variant_faults(provider: Provider, section: Section) -> Iterator[Fault]:
    """What is wrong with the choosing: columns, names, weights."""
    place: Key = (provider.value,)
    variants = variants_of(provider, section)
    chosen = any(variant.when for variant in variants)
    if len(variants) > VARIANTS_MAX:
        told = f"{len(variants)} messages with the base message; at most {VARIANTS_MAX} are possible"
        yield Fault((*place, "variants"), told)
    if section.variant_by is not None and not chosen:
        yield Fault((*place, "variant_by"), "no variant says 'when', so no column is needed; remove it")
    for variant in variants:
        if variant.when and section.variant_by is None:
            yield Fault((*variant.place, "when"), f"needs {provider}.variant_by, the column to compare with")
        for value in variant.when:
            if not value.strip():
                told = "an empty value matches no row; leave 'when' out for every other row"
                yield Fault((*variant.place, "when"), told)
    yield from _name_faults(variants)
    yield from _arm_faults(section, variants)


def _name_faults(variants: tuple[Variant, ...]) -> Iterator[Fault]:
    seen: dict[str, Variant] = {}
    for variant in variants:
        if variant.name in seen:
            told = f"a second variant named {variant.name!r}; tell them apart by 'when' or 'arm'"
            yield Fault(variant.place, told)
        seen.setdefault(variant.name, variant)


def _arm_faults(section: Section, variants: tuple[Variant, ...]) -> Iterator[Fault]:
    fold = normal_locale if _matches_locale(section) else str
    groups: dict[str | None, list[Variant]] = {}
    for variant in variants:
        folded: set[str | None] = {fold(value) for value in variant.when}
        for value in folded or {None}:
            groups.setdefault(value, []).append(variant)
    for shared, group in sorted(groups.items(), key=lambda item: item[0] or ""):
        told = "no 'when'" if shared is None else f"when = {shared!r}"
        spellings = {spelling for variant in group for spelling in variant.when if fold(spelling) == shared}
        if len(spellings) > 1:
            alike = " and ".join(sorted(map(repr, spellings)))
            yield Fault((*group[-1].place, "when"), f"{alike} are the same locale; write it one way")
        if len(group) > 1 and sum(variant.weight for variant in group) <= 0:
            yield Fault((*group[0].place, "weight"), f"the arms with {told} weigh nothing together")
        elif len(group) == 1 and group[0].weight <= 0:
            yield Fault((*group[0].place, "weight"), f"the only arm with {told} weighs nothing; remove it")
        for variant in group if len(group) > 1 else ():
            if variant.arm is None:
                yield Fault(variant.place, f"shares {told} with another variant and needs an 'arm'")


def strings_of(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Every string value inside ``value``, with its place. Keys of tables are no values."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from strings_of(item, (*key, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings_of(item, (*key, index))


def column_uses(provider: Provider, section: Section) -> Iterator[tuple[Key, str]]:
    """Every place that uses a column, and the column. Strings that cannot be read count for nothing."""
    if section.variant_by is not None:
        yield (provider.value, "variant_by"), section.variant_by
    for variant in variants_of(provider, section):
        own = {key for key, _ in strings_of(variant.own)}
        for key, text in strings_of(variant.message.model_dump(exclude_none=True)):
            place = variant.place if key in own else (provider.value,)
            try:
                fields = [part for part in parse_text(text) if isinstance(part, Field)]
            except FieldSyntaxError:
                continue
            yield from (((*place, *key), field.column) for field in fields)
