"""`flashcast demo`: from nothing to a balanced report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from processes import balanced, flashcast, launches

FIXED: dict[str, type | tuple[type, ...]] = {
    "launch": str,
    "devices": int,
    "outcomes.accepted": int,
    "outcomes.rejected": int,
    "outcomes.failed": int,
    "outcomes.unknown": int,
    "outcomes.expired": int,
    "outcomes.unsent": int,
    "reasons": dict,
    "go_to_first_request_ms": (int, float),
    "go_to_last_reply_s": (int, float),
    "reply_latency_ms.p50": (int, float),
    "reply_latency_ms.p95": (int, float),
    "reply_latency_ms.p99": (int, float),
    "sender_cpu_us_per_notification": (int, float),
    "peak_rss_mib": (int, float),
    "seal_s": (int, float),
    "arm_s": (int, float),
    "simulator.received": int,
    "simulator.distinct": int,
    "simulator.duplicates": int,
    "simulator.malformed": int,
}
"""The keys that scripts rely on."""


def at(document: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        document = document[part]
    return document


@pytest.mark.parametrize(("share", "profile"), [(0.0, "ideal"), (1.0, "ideal"), (0.5, "realistic")])
def test_the_books_of_a_small_demo_balance(share: float, profile: str, state: Path) -> None:
    done = flashcast("demo", "--devices", 20_000, "--apns-share", share, "--profile", profile, "--seed", 3, "--json")
    assert done.code == 0, done.told
    document = done.document
    wrong = {key: at(document, key) for key, kind in FIXED.items() if not isinstance(at(document, key), kind)}
    assert not wrong
    assert list(document["outcomes"]) == ["accepted", "rejected", "failed", "unknown", "expired", "unsent"]
    assert balanced(document)
    assert document["devices"] == 20_000
    assert document["simulator"]["received"] == document["simulator"]["distinct"] == 20_000
    assert document["simulator"]["duplicates"] == document["simulator"]["malformed"] == 0
    assert sum(p["devices"] for p in document["providers"].values()) == 20_000
    gone = document["outcomes"]["rejected"]
    assert gone == sum(document["reasons"].values())
    assert (0 < gone < 1_000) if profile == "realistic" else gone == 0
    said = [line for line in done.err.splitlines() if not line.startswith("starting (the first time")]
    assert said == [], "no progress, no warnings where nobody watches"


def test_the_report_says_that_acceptance_is_not_delivery_and_is_kept(state: Path) -> None:
    done = flashcast("demo", "--devices", 1_000)
    assert done.code == 0, done.told
    assert "acceptance is not delivery" in done.out
    assert "The books balance" in done.out
    assert "\x1b" not in done.out, "no colours in a pipe"
    again = flashcast("report")
    assert again.code == 0
    assert again.out == done.out
    (folder,) = launches(state)
    assert sorted(file.name for file in folder.iterdir()) == [
        "charts.json", "launch.json", "outcomes.parquet", "prune.csv", "report.html", "report.json",
    ]  # fmt: skip
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir() if file.name != "launch.json")


def test_a_demo_can_be_as_small_as_one_device(state: Path) -> None:
    done = flashcast("demo", "--devices", 1, "--apns-share", 0.000001, "--json")
    assert done.code == 0, done.told
    assert balanced(done.document)
    assert done.document["outcomes"]["accepted"] == 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--devices", 0), ("--devices", "0")),
        (("--seed", -1), ("--seed", "-1")),
        (("--profile", "idael"), ("idael", "ideal, realistic, hostile")),
    ],
)
def test_a_wrong_option_is_named_and_leaves_nothing(
    options: tuple[object, ...], names: tuple[str, ...], state: Path
) -> None:
    done = flashcast("demo", *options)
    assert done.code == 2, done.told
    assert all(name in done.told for name in names), done.told
    assert "Traceback" not in done.told
    assert launches(state) == []


def test_a_reader_that_leaves_early_changes_neither_the_launch_nor_its_exit_code(state: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = flashcast("demo", "--devices", 100, before=lambda: os.dup2(writing, 1) and None)
    finally:
        os.close(writing)
    assert done.code == 0, done.told
    assert "Traceback" not in done.err
    assert flashcast("report", "--json").document["outcomes"]["accepted"] == 100


def test_a_report_that_cannot_be_printed_is_told_and_kept(state: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = flashcast("demo", "--devices", 100, "--json", before=lambda: os.dup2(full, 1) and None)
    finally:
        os.close(full)
    assert done.code == 3
    assert "standard output" in done.err
    assert "flashcast report" in done.err
    assert flashcast("report", "--json").document["outcomes"]["accepted"] == 100
