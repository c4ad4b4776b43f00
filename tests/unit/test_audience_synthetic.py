"""The synthetic device table: like a real one, unique, and the same for the same seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from audience_data import BOTH, campaign

from flashcast.audience.seal import seal
from flashcast.audience.synthetic import FIRST_NAMES, ROWS_PER_GROUP, write_synthetic


def table(tmp_path: Path, devices: int, share: float, seed: int = 1) -> Any:
    write_synthetic(tmp_path / "a.parquet", devices, share, seed)
    return pq.read_table(tmp_path / "a.parquet")


def test_tokens_look_like_the_providers_and_are_unique(tmp_path: Path) -> None:
    rows = table(tmp_path, ROWS_PER_GROUP + 50_000, 0.5)
    assert rows.num_rows == ROWS_PER_GROUP + 50_000
    assert pc.count_distinct(rows["token"]).as_py() == rows.num_rows
    assert pc.count_distinct(rows["user_id"]).as_py() == rows.num_rows
    apns = re.compile(r"[0-9a-f]{64}")
    fcm = re.compile(r"[c-f][A-Za-z0-9_-]{21}:APA91b[A-Za-z0-9_-]{113,134}")
    for row in rows.slice(0, 2_000).to_pylist():
        assert (apns if row["platform"] == "ios" else fcm).fullmatch(row["token"]), row["token"]
        assert row["platform"] == "android" or row["token"] == row["token"].lower()


@pytest.mark.parametrize(
    ("devices", "share", "apple"), [(10, 0.5, 5), (10, 0, 0), (10, 1, 10), (1_000, 0.3, 300), (1, 1, 1)]
)
def test_the_share_is_exact_and_providers_are_interleaved(
    tmp_path: Path, devices: int, share: float, apple: int
) -> None:
    platforms = table(tmp_path, devices, share)["platform"].to_pylist()
    assert platforms.count("ios") == apple
    if share == 0.5:
        assert set(platforms[:2]) == {"ios", "android"}


def test_the_same_arguments_give_the_same_file_and_another_seed_other_tokens(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a", 3_000, 0.5, 7)
    write_synthetic(tmp_path / "b", 3_000, 0.5, 7)
    write_synthetic(tmp_path / "c", 3_000, 0.5, 8)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    one, other = (set(pq.read_table(tmp_path / name)["token"].to_pylist()) for name in "ac")
    assert not one & other


def test_names_are_of_many_scripts(tmp_path: Path) -> None:
    assert set(table(tmp_path, 3_000, 0.5)["first_name"].to_pylist()) == set(FIRST_NAMES)


def test_every_synthetic_row_can_be_sealed(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a.parquet", 20_000, 0.5, 3)
    with seal(campaign(BOTH), tmp_path / "a.parquet", tmp_path / "out") as snapshot:
        assert snapshot.rows == 20_000
        assert snapshot.manifest.counts.dropped == {}


def test_progress_is_told_by_row_group(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    write_synthetic(tmp_path / "a", ROWS_PER_GROUP + 1, 1, 1, lambda *at: told.append(at))
    assert told == [(ROWS_PER_GROUP, ROWS_PER_GROUP + 1), (ROWS_PER_GROUP + 1, ROWS_PER_GROUP + 1)]


@pytest.mark.parametrize(("devices", "share"), [(0, 0.5), (10, -0.1), (10, 1.1)])
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, devices: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"devices is 0|apns_share is"):
        write_synthetic(tmp_path / "a", devices, share, 1)
