"""A campaign made ready for sealing: every variant a template, every field numbered."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from flashcast.campaign.faults import CampaignFileError, Fault, Key
from flashcast.campaign.file import ApnsMessage, Campaign
from flashcast.campaign.payload import apns_headers, apns_payload, fcm_message
from flashcast.campaign.rules import message_faults
from flashcast.campaign.template import (
    apns_body,
    fcm_body,
    longest_body_bytes,
    payload_bytes_max,
    uncounted_bytes,
)
from flashcast.campaign.terms import terms_faults
from flashcast.campaign.variants import Variant, VariantChooser, chooser_of, variant_faults, variants_of
from flashcast.limits import FIELDS_MAX
from flashcast.model import Field, Provider, RequestTemplate, UnknownPolicy

_FCM_HEADERS = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True)
class CompiledMessages:
    """What the seal needs of a campaign.

    ``fields`` are distinct (column, fallback) pairs; `Hole.field` indexes them. ``templates`` of a provider
    are indexed by the row's variant number, which ``choosers`` gives. ``pace`` is in messages per second;
    an absent provider is unlimited.
    """

    name: str
    fields: tuple[Field, ...]
    templates: dict[Provider, tuple[RequestTemplate, ...]]
    choosers: dict[Provider, VariantChooser]
    window_s: float
    unknown_policy: UnknownPolicy
    pace: dict[Provider, float]


def compile_messages(campaign: Campaign) -> CompiledMessages:
    """Compiles ``campaign``; the same campaign always compiles to the same. Raises `CampaignFileError`."""
    faults = tuple(dict.fromkeys(compile_faults(campaign)))
    if faults:
        raise CampaignFileError(f"campaign {campaign.name!r}", faults)
    fields: dict[Field, int] = {}
    sections = campaign.sections()
    return CompiledMessages(
        name=campaign.name,
        templates={
            provider: tuple(_template(variant, fields) for variant in variants_of(provider, section))
            for provider, section in sections.items()
        },
        fields=tuple(fields),
        choosers={provider: chooser_of(provider, section, campaign.name) for provider, section in sections.items()},
        window_s=campaign.window_s,
        unknown_policy=campaign.policy,
        pace=campaign.pace.by_provider(),
    )


def _template(variant: Variant, fields: dict[Field, int]) -> RequestTemplate:
    message = variant.message
    if isinstance(message, ApnsMessage):
        return RequestTemplate(
            variant.provider, variant.name, apns_headers(message), apns_body(apns_payload(message), fields)
        )
    return RequestTemplate(variant.provider, variant.name, _FCM_HEADERS, fcm_body(fcm_message(message), fields))


def compile_faults(campaign: Campaign, unsure: Collection[Provider] = ()) -> Iterator[Fault]:
    """Every fault of a campaign whose types are right. A fault that variants share may come more than once.

    Of the providers in ``unsure`` the choice of variants is not judged: part of what it depends on is not known.
    """
    if not campaign.sections():
        yield Fault((), "no message: write an [apns] table, an [fcm] table, or both")
    yield from terms_faults(campaign)
    fields: dict[Field, int] = {}
    for provider, section in campaign.sections().items():
        yield from variant_faults(provider, section) if provider not in unsure else ()
        faults = {
            variant: list(message_faults(variant.message, campaign.policy))
            for variant in variants_of(provider, section)
        }
        common = _common(faults)
        for variant, own in faults.items():
            yield from (Fault(_place(variant, fault, common), fault.message) for fault in own)
            if not own:
                yield from _size_faults(variant, fields)
    if len(fields) > FIELDS_MAX:
        told = f"{len(fields)} different fields; at most {FIELDS_MAX} pairs of column and fallback are possible"
        yield Fault((), told)


def _common(faults: Mapping[Variant, list[Fault]]) -> frozenset[Fault]:
    """The faults that are the base message's: those it has itself, or, if no row gets it, those all share."""
    first, *rest = faults
    if not first.is_base:
        return frozenset(faults[first]).intersection(*(faults[variant] for variant in rest))
    return frozenset(faults[first])


def _place(variant: Variant, fault: Fault, common: frozenset[Fault]) -> Key:
    """Where to tell a fault whose key is relative to the merged message: in the variant, or in the base."""
    if _written(variant.own, fault.key):
        return (*variant.place, *fault.key)
    if fault in common or _written(variant.message.model_dump(exclude_none=True), fault.key):
        return (variant.provider.value, *fault.key)
    return (*variant.place, *fault.key)


def _written(table: object, key: Key) -> bool:
    for part in key:
        if isinstance(table, dict):
            if part not in table:
                return False
            table = table[part]
        else:
            # An element of a list is written wherever the list is: lists are replaced whole.
            return isinstance(table, list)
    return True


def _size_faults(variant: Variant, fields: dict[Field, int]) -> Iterator[Fault]:
    """Too long even with every field empty: no row could be sent."""
    template = _template(variant, fields)
    least = longest_body_bytes(template, [0] * len(fields)) - uncounted_bytes(template)
    most = payload_bytes_max(template)
    if least > most:
        yield Fault(
            variant.place,
            f"the message has {least:,} bytes before its fields are filled; {variant.provider} takes {most:,}",
        )
