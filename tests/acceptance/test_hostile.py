"""Everything a network and a provider can do to a sender at once, and still every row has one outcome.

FLASHCAST_HOSTILE_DEVICES=200000 FLASHCAST_HOSTILE_SEEDS=10 is the full size; the defaults are small and quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from processes import balanced, flashcast

DEVICES = int(os.environ.get("FLASHCAST_HOSTILE_DEVICES", "4000"))
SEEDS = range(1, 1 + int(os.environ.get("FLASHCAST_HOSTILE_SEEDS", "2")))


def demo(seed: int) -> dict[str, Any]:
    done = flashcast("demo", "--devices", DEVICES, "--profile", "hostile", "--seed", seed, "--json")
    assert done.code == 0, done.told
    return done.document


@pytest.fixture(scope="module")
def seen() -> dict[int, dict[str, Any]]:
    """The report of each seed so far."""
    return {}


def once(seen: dict[int, dict[str, Any]], seed: int) -> dict[str, Any]:
    if seed not in seen:
        seen[seed] = demo(seed)
    return seen[seed]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_row_is_lost_and_no_token_is_received_twice(seed: int, seen: dict[int, dict[str, Any]], state: Path) -> None:
    document = once(seen, seed)
    assert document["unknown_policy"] == "drop"
    assert balanced(document)
    assert document["devices"] == DEVICES
    simulator = document["simulator"]
    assert simulator["duplicates"] == simulator["received_twice"] == simulator["taken_twice"] == 0
    assert simulator["accepted_not_taken"] == 0, "every accepted row was received"
    assert simulator["settled_but_taken"] == simulator["strangers"] == simulator["malformed"] == 0
    assert document["outcomes"]["accepted"] > 0.9 * DEVICES
    assert document["outcomes"]["rejected"] > 0
    assert document["outcomes"]["unknown"] > 0, "the profile has faults after which nobody can know"


def test_the_same_seed_gives_the_same_reasons(seen: dict[int, dict[str, Any]], state: Path) -> None:
    first, again, other = once(seen, 1), demo(1), once(seen, 2)
    assert again["reasons"] == first["reasons"]
    assert again["outcomes"] == first["outcomes"]
    assert other["reasons"] != first["reasons"]
