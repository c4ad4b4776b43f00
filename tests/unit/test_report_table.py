"""A row per device, and the list of devices that are gone."""

from __future__ import annotations

import csv
import hashlib
import itertools
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_data import NO_REPLY, STARTED_AT, Snapshot, accepted, rows, snapshot, strings

from flashcast.errors import EnvironmentFault
from flashcast.outcomes import Outcome, Reason
from flashcast.report.files import replacing, write_text
from flashcast.report.table import OUTCOME_SCHEMA, write_outcomes, write_prune

ENDS = rows(
    (Outcome.ACCEPTED, Reason.NONE),
    (Outcome.REJECTED, Reason.UNREGISTERED),
    (Outcome.IN_FLIGHT, Reason.NONE),
    (Outcome.REJECTED, Reason.PAYLOAD_TOO_LARGE),
    (Outcome.REJECTED, Reason.BAD_DEVICE_TOKEN),
    (Outcome.REJECTED, Reason.FCM_UNREGISTERED),
    (Outcome.EXPIRED, Reason.WINDOW_CLOSED),
    (Outcome.ACCEPTED, Reason.NONE),
    reply_ms=[0, 1500, NO_REPLY, 40, 50, 60, NO_REPLY, 2**31],
)


def _tokens(of: Snapshot) -> list[str]:
    out = []
    for shard in of.shards:
        edges = shard.tokens.offsets.tolist()
        text = shard.tokens.data.tobytes().decode()
        out += [text[a:b] for a, b in itertools.pairwise(edges)]
    return out


def _read(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


def test_every_device_has_its_row_in_the_order_of_the_snapshot(tmp_path: Path) -> None:
    of = snapshot()
    write_outcomes(tmp_path / "o.parquet", of, ENDS, STARTED_AT)
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.schema.names == OUTCOME_SCHEMA.names
    found = table.to_pylist()
    assert [row["user_id"] for row in found] == [f"user-{n}" for n in range(8)]
    assert [row["provider"] for row in found] == ["apns"] * 5 + ["fcm"] * 3
    assert [row["variant"] for row in found] == ["en", "de", "en", "de", "en", "en", "de", "en"]
    assert [row["outcome"] for row in found][:4] == ["accepted", "rejected", "unknown", "rejected"]
    assert [row["reason"] for row in found][:3] == [None, "Unregistered", "ProcessDied"]


def test_a_token_is_shown_as_the_first_16_digits_of_its_sha256_and_never_itself(tmp_path: Path) -> None:
    of = snapshot()
    write_outcomes(tmp_path / "o.parquet", of, ENDS, STARTED_AT)
    expected = [hashlib.sha256(token.encode()).hexdigest()[:16] for token in _tokens(of)]
    assert [row["token_digest"] for row in _read(tmp_path / "o.parquet")] == expected
    assert not any(token.encode() in (tmp_path / "o.parquet").read_bytes() for token in _tokens(of))


def test_the_time_of_a_reply_counts_from_go_and_is_null_where_none_came(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "o.parquet", snapshot(), ENDS, STARTED_AT)
    times = [row["replied_at"] for row in _read(tmp_path / "o.parquet")]
    go = datetime.fromtimestamp(STARTED_AT, UTC)
    assert times[0] == go
    assert times[1] == go + timedelta(seconds=1.5)
    assert times[2] is None
    assert times[7] == go + timedelta(milliseconds=2**31)


def test_a_user_without_an_id_is_null(tmp_path: Path) -> None:
    of = snapshot(apns=3, fcm=0)
    of.shards[0].user_ids = strings(["first", "", "größe"])
    write_outcomes(tmp_path / "o.parquet", of, accepted(3), STARTED_AT)
    assert [row["user_id"] for row in _read(tmp_path / "o.parquet")] == ["first", None, "größe"]


def test_a_snapshot_without_user_ids_gives_nulls(tmp_path: Path) -> None:
    of = snapshot(apns=3, fcm=0)
    of.shards[0].user_ids = strings([])._replace(offsets=np.zeros(0, np.uint32))
    write_outcomes(tmp_path / "o.parquet", of, accepted(3), STARTED_AT)
    assert [row["user_id"] for row in _read(tmp_path / "o.parquet")] == [None] * 3


def test_a_snapshot_without_rows_gives_a_table_without_rows(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "o.parquet", snapshot(0, 0), accepted(0), STARTED_AT)
    assert pq.read_table(tmp_path / "o.parquet").schema.names == OUTCOME_SCHEMA.names


def test_the_prune_list_holds_the_tokens_of_the_devices_that_are_gone_and_no_other(tmp_path: Path) -> None:
    of = snapshot()
    assert write_prune(tmp_path / "prune.csv", of, ENDS) == 3
    with (tmp_path / "prune.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    tokens = _tokens(of)
    assert found == [
        {"user_id": "user-1", "provider": "apns", "token": tokens[1], "reason": "Unregistered"},
        {"user_id": "user-4", "provider": "apns", "token": tokens[4], "reason": "BadDeviceToken"},
        {"user_id": "user-5", "provider": "fcm", "token": tokens[5], "reason": "UNREGISTERED"},
    ]


def test_the_prune_list_as_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    assert write_prune(tmp_path / "prune.parquet", snapshot(), ENDS) == 3
    assert [row["user_id"] for row in _read(tmp_path / "prune.parquet")] == ["user-1", "user-4", "user-5"]


def test_a_prune_list_without_rows_has_its_heading(tmp_path: Path) -> None:
    assert write_prune(tmp_path / "prune.csv", snapshot(), accepted(8)) == 0
    assert (tmp_path / "prune.csv").read_text() == '"user_id","provider","token","reason"\n'


@pytest.mark.parametrize("name", ["o.parquet", "prune.csv"])
def test_files_about_users_are_for_their_owner_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "o.parquet":
        write_outcomes(path, snapshot(), ENDS, STARTED_AT)
    else:
        write_prune(path, snapshot(), ENDS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_whose_writing_fails_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentFault, match=r"report\.json: No space left on device"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="nowhere"):
        write_prune(tmp_path / "nowhere" / "prune.csv", snapshot(), ENDS)
