"""docs/reference/campaign.md and campaign.schema.json say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from flashcast.campaign import file as models
from flashcast.campaign import rules
from flashcast.campaign.compile import compile_messages
from flashcast.campaign.load import parse_campaign
from flashcast.campaign.schema import campaign_schema
from flashcast.limits import FIELDS_MAX, VARIANTS_MAX
from flashcast.zombie.shield import Shield

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
TEXT = (REFERENCE / "campaign.md").read_text(encoding="utf-8")

SECTIONS: dict[str, tuple[type[BaseModel], set[str]]] = {
    "## Top level": (models.Campaign, set()),
    "### `[pace]`": (models.Pace, set()),
    "### `[[stages]]`": (models.StagePart, set()),
    "### `[guard]`": (models.Guard, set()),
    "### `[shield]`": (Shield, set()),
    "## `[apns]`": (models.ApnsSection, set()),
    "### `[apns.alert]`": (models.ApnsAlert, set()),
    "## `[fcm]`": (models.FcmSection, set()),
    "### `[fcm.notification]`": (models.FcmNotification, set()),
    "## Variants": (models.ApnsVariant, set(models.ApnsMessage.model_fields)),
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_tables_list_exactly_the_keys_there_are(heading: str) -> None:
    model, elsewhere = SECTIONS[heading]
    section = TEXT.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(set(model.model_fields) - elsewhere)


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_the_examples_compile(block: str) -> None:
    assert compile_messages(parse_campaign(block.encode())).templates


def test_the_push_types_suffixes_and_bounds_are_the_codes() -> None:
    schema = campaign_schema()["$defs"]["ApnsSection"]["properties"]
    for push_type in schema["push_type"]["enum"]:
        assert f"`{push_type}`" in TEXT
    for suffix in rules.TOPIC_SUFFIX.values():
        assert f"`{suffix}`" in TEXT
    assert f"at most {FIELDS_MAX} different fields" in TEXT
    assert f"at most {VARIANTS_MAX} messages" in TEXT
    assert f"at most {models.STAGES_MAX} stages" in TEXT


def test_the_published_schema_is_current() -> None:
    published = json.loads((REFERENCE / "campaign.schema.json").read_text(encoding="utf-8"))
    assert published == campaign_schema(), "run: flashcast schema --out docs/reference/campaign.schema.json"


def test_every_key_of_the_schema_is_described_and_unknown_ones_are_refused() -> None:
    schema = campaign_schema()
    for table in (schema, *(one for one in schema["$defs"].values() if one["type"] == "object")):
        assert table["additionalProperties"] is False
        for key, value in table["properties"].items():
            assert value.get("description"), key
            assert {"type": "null"} not in value.get("anyOf", [])
