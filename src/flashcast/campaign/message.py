"""The campaign's doors for the rest of Flashcast: load, compile, escape, choose, size, store.

`flashcast.campaign.load` and `flashcast.campaign.compile` can be had without numpy and numba; this module
gathers everything, the compiled kernels included.
"""

from __future__ import annotations

from flashcast.campaign.columns import choose_variants, escape_column
from flashcast.campaign.compile import CompiledMessages, compile_messages
from flashcast.campaign.faults import CampaignFileError, Fault
from flashcast.campaign.file import Campaign
from flashcast.campaign.load import Examination, examine, load_campaign, parse_campaign
from flashcast.campaign.schema import campaign_schema
from flashcast.campaign.template import (
    body_lengths,
    json_escape,
    longest_body_bytes,
    payload_bytes_max,
    payload_lengths,
    render,
    template_from_json,
    template_to_json,
    too_long,
    uncounted_bytes,
)
from flashcast.campaign.variants import VariantChooser

__all__ = [
    "Campaign",
    "CampaignFileError",
    "CompiledMessages",
    "Examination",
    "Fault",
    "VariantChooser",
    "body_lengths",
    "campaign_schema",
    "choose_variants",
    "compile_messages",
    "escape_column",
    "examine",
    "json_escape",
    "load_campaign",
    "longest_body_bytes",
    "parse_campaign",
    "payload_bytes_max",
    "payload_lengths",
    "render",
    "template_from_json",
    "template_to_json",
    "too_long",
    "uncounted_bytes",
]
