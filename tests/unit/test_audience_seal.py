"""Sealing: which rows get in, what is said of the others, and that the snapshot is the same each time."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audience_data import APNS_ONLY, BOTH, apns_token, campaign, device, devices, dropped, fcm_token, write

from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import Snapshot
from flashcast.audience.source import AudienceSource
from flashcast.campaign.template import json_escape, render
from flashcast.errors import AudienceError, CampaignError, InputError
from flashcast.model import Provider


def sealed(tmp_path: Path, rows: list[dict[str, Any]], text: str = BOTH, **options: Any) -> Snapshot:
    return seal(campaign(text), write(tmp_path / "audience.parquet", rows), tmp_path / "out", SealOptions(**options))


def tokens(snapshot: Snapshot) -> list[str]:
    return [shard.tokens.text(row) for shard in snapshot.shards for row in range(shard.rows)]


def users(snapshot: Snapshot) -> list[str]:
    return [shard.user_ids.text(row) for shard in snapshot.shards for row in range(shard.rows)]


def reasons(folder: Path) -> Counter[str]:
    return Counter(row["reason"] for row in dropped(folder))


def test_every_row_is_sent_what_the_campaign_says(tmp_path: Path) -> None:
    rows = devices(500)
    with sealed(tmp_path, rows, shard_rows=64) as snapshot:
        assert snapshot.rows == 500
        assert snapshot.rows_by_provider == {Provider.APNS: 250, Provider.FCM: 250}
        assert [shard.base for shard in snapshot.shards] == [0, 64, 128, 192, 250, 314, 378, 442]
        by_token = {row["token"]: row for row in rows}
        for shard in snapshot.shards:
            for row in range(shard.rows):
                source = by_token[shard.tokens.text(row)]
                assert shard.user_ids.text(row) == source["user_id"]
                template = snapshot.templates[shard.provider][shard.variants[row]]
                fields = [field.bytes(row) if field.offsets.size else b"" for field in shard.fields]
                body = json.loads(render(template, fields, shard.tokens.bytes(row)))
                german = shard.provider is Provider.APNS and source["locale"] == "de-AT"
                name = source["first_name"] or ("du" if german else "friend")
                said = f"Hallo {name}" if german else f"Hello {name}"
                if shard.provider is Provider.APNS:
                    assert body["aps"]["alert"]["title"] == said
                else:
                    assert body["message"]["notification"]["title"] == said
                    assert body["message"]["token"] == source["token"]


def test_rows_keep_the_order_of_the_file(tmp_path: Path) -> None:
    with sealed(tmp_path, devices(300), shard_rows=50) as snapshot:
        assert users(snapshot) == [f"user-{n}" for n in range(0, 300, 2)] + [f"user-{n}" for n in range(1, 300, 2)]


def test_a_field_that_a_provider_does_not_use_takes_no_room(tmp_path: Path) -> None:
    text = BOTH.replace(
        '[fcm]\nnotification = {title = "Hello {{first_name|friend}}"', '[fcm]\nnotification = {title = "Hello"'
    )
    with sealed(tmp_path, devices(10), text) as snapshot:
        apns, fcm = snapshot.shards
        assert all(field.rows == 5 for field in apns.fields)
        assert all(field.offsets.size == 0 for field in fcm.fields)


def test_apns_tokens_are_sealed_in_lower_case(tmp_path: Path) -> None:
    with sealed(tmp_path, [device(0, token=apns_token(0).upper())]) as snapshot:
        assert tokens(snapshot) == [apns_token(0)]


@pytest.mark.parametrize(
    ("number", "token"),
    [
        (0, apns_token(0)[:-1] + "g"),
        (0, apns_token(0)[:-1]),
        (0, apns_token(0)[:62]),
        (0, "ab" * 101),
        (0, ""),
        (0, None),
        (0, fcm_token(1)),
        (0, "AB" * 31 + "Xy"),
        (1, fcm_token(1) + "+"),
        (1, fcm_token(1)[:31]),
        (1, "a" * 4_097),
        (1, fcm_token(1) + " "),
        (1, fcm_token(1)[:-1] + "é"),
    ],
)
def test_a_malformed_token_is_dropped(tmp_path: Path, number: int, token: str | None) -> None:
    rows = [device(number, token=token), device(2), device(3)]
    with sealed(tmp_path, rows) as snapshot:
        assert snapshot.rows == 2
    row = dropped(tmp_path / "out")[0]
    provider = "apns" if number == 0 else "fcm"
    digest = hashlib.sha256(token.encode()).hexdigest()[:16] if token else None
    assert row == {
        "row": 1,
        "user_id": f"user-{number}",
        "token_digest": digest,
        "provider": provider,
        "reason": "bad_token",
    }


def test_no_file_of_the_snapshot_but_the_shards_holds_a_token(tmp_path: Path) -> None:
    rows = [*devices(20), device(0), device(1), device(40, token=apns_token(40)[:-1] + "x")]
    sealed(tmp_path, rows).close()
    for name in ("manifest.json", "dropped.parquet"):
        content = (tmp_path / "out" / name).read_bytes()
        assert not any(row["token"].encode() in content for row in rows)


def test_a_token_of_unusual_length_is_taken(tmp_path: Path) -> None:
    long_tokens = ["ab" * 100, "cd" * 50]
    with sealed(tmp_path, [device(2 * n, token=token) for n, token in enumerate(long_tokens)]) as snapshot:
        assert tokens(snapshot) == long_tokens


def test_the_first_of_several_rows_with_one_token_is_kept(tmp_path: Path) -> None:
    again = [device(n, user_id=f"again-{n}") for n in range(200)]
    upper = [device(0, user_id="upper", token=apns_token(0).upper())]
    with sealed(tmp_path, [*devices(200), *again, *upper], shard_rows=32) as snapshot:
        assert sorted(users(snapshot)) == sorted(f"user-{n}" for n in range(200))
    assert reasons(tmp_path / "out") == {"duplicate_token": 201}


def test_one_token_at_two_providers_is_two_devices(tmp_path: Path) -> None:
    with sealed(tmp_path, [device(0), device(1, token=apns_token(0))]) as snapshot:
        assert snapshot.rows == 2


def test_duplicates_are_found_across_many_shards_and_a_growing_table(tmp_path: Path) -> None:
    rows = [{"user_id": str(n), "token": apns_token(n % 3_000)} for n in range(6_000)]
    with sealed(tmp_path, rows, APNS_ONLY, shard_rows=100) as snapshot:
        assert snapshot.rows == 3_000
        assert len(snapshot.shards) == 30
        assert users(snapshot) == [str(n) for n in range(3_000)]


def test_one_device_per_user_keeps_the_first(tmp_path: Path) -> None:
    rows = [device(n, user_id=f"user-{n // 4}") for n in range(400)]
    with sealed(tmp_path, rows, one_device_per_user=True, shard_rows=30) as snapshot:
        assert users(snapshot) == [f"user-{n}" for n in range(100)]
        assert tokens(snapshot) == [apns_token(4 * n) for n in range(100)]
    assert reasons(tmp_path / "out") == {"second_device": 300}


def test_rows_without_a_user_id_are_devices_of_their_own(tmp_path: Path) -> None:
    rows = [device(0, user_id=None), device(2, user_id=None), device(4, user_id="")]
    with sealed(tmp_path, rows, one_device_per_user=True) as snapshot:
        assert snapshot.rows == 3


def test_a_user_whose_first_device_is_no_good_keeps_the_second(tmp_path: Path) -> None:
    rows = [
        device(0, user_id="a", token="zz"),
        device(2, user_id="a"),
        device(4, user_id="b"),
        device(4, user_id="c"),
        device(6, user_id="c"),
    ]
    with sealed(tmp_path, rows, one_device_per_user=True) as snapshot:
        assert tokens(snapshot) == [apns_token(2), apns_token(4), apns_token(6)]


def test_prefer_keeps_the_device_with_the_greatest_value(tmp_path: Path) -> None:
    rows = [
        device(0, user_id="a", seen=9), device(2, user_id="a", seen=10), device(4, user_id="a", seen=None),
        device(6, user_id="b", seen=None), device(8, user_id="c", seen=-1),
    ]  # fmt: skip
    with sealed(tmp_path, rows, one_device_per_user=True, prefer="seen") as snapshot:
        assert sorted(tokens(snapshot)) == sorted([apns_token(2), apns_token(6), apns_token(8)])


def test_prefer_compares_numbers_in_a_text_file_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"user_id,token,seen\na,{apns_token(0)},9\na,{apns_token(2)},10\n")
    options = SealOptions(one_device_per_user=True, prefer="seen")
    with seal(campaign(APNS_ONLY), path, tmp_path / "out", options) as snapshot:
        assert tokens(snapshot) == [apns_token(2)]


def test_the_suppression_list_removes_users_and_devices(tmp_path: Path) -> None:
    stop = tmp_path / "stop.csv"
    stop.write_text(f"uid,device_token\nuser-1,\n,{apns_token(4).upper()}\nuser-6,{fcm_token(7)}\nnobody,\n")
    with sealed(tmp_path, devices(10), suppress=str(stop)) as snapshot:
        assert sorted(users(snapshot)) == [f"user-{n}" for n in (0, 2, 3, 5, 8, 9)]
    assert sorted((r["user_id"], r["reason"]) for r in dropped(tmp_path / "out")) == [
        (f"user-{n}", "suppressed") for n in (1, 4, 6, 7)
    ]


def test_a_suppression_list_without_a_column_we_know_is_refused(tmp_path: Path) -> None:
    stop = tmp_path / "stop.csv"
    stop.write_text("name\nAda\n")
    with pytest.raises(AudienceError, match="no column of user ids or tokens") as caught:
        sealed(tmp_path, devices(2), suppress=str(stop))
    assert "The file has: name" in caught.value.remedy


def test_the_hold_out_is_the_same_users_every_time_and_about_its_share(tmp_path: Path) -> None:
    rows = devices(4_000)
    with sealed(tmp_path, rows, holdout=0.1) as snapshot:
        kept = set(users(snapshot))
    held = {row["user_id"] for row in dropped(tmp_path / "out")}
    assert kept | held == {row["user_id"] for row in rows}
    # 400 expected; six standard deviations are 114.
    assert 286 < len(held) < 514
    assert reasons(tmp_path / "out") == {"holdout": len(held)}
    other = seal(campaign(), write(tmp_path / "b.parquet", rows[::-1]), tmp_path / "b", SealOptions(holdout=0.1))
    assert set(users(other)) == kept
    renamed = campaign(BOTH.replace("Derby day", "Another day"))
    third = seal(renamed, tmp_path / "b.parquet", tmp_path / "c", SealOptions(holdout=0.1))
    assert set(users(third)) != kept


def test_every_device_of_a_held_out_user_is_held_out(tmp_path: Path) -> None:
    rows = [device(n, user_id=f"user-{n // 2}") for n in range(1_000)]
    sealed(tmp_path, rows, holdout=0.2).close()
    devices_held = Counter(row["user_id"] for row in dropped(tmp_path / "out"))
    assert devices_held
    assert set(devices_held.values()) == {2}


def test_unknown_platforms_and_providers_without_a_message_are_dropped(tmp_path: Path) -> None:
    rows = [device(0, platform="iPhone "), device(2, platform="windows"), device(4, platform=None), device(1)]
    text = 'name = "x"\n[apns]\ntopic = "t.t"\nalert = {title = "a", body = "b"}\n'
    with sealed(tmp_path, rows, text) as snapshot:
        assert tokens(snapshot) == [apns_token(0)]
    assert [(r["row"], r["provider"], r["reason"]) for r in dropped(tmp_path / "out")] == [
        (2, None, "unknown_platform"), (3, None, "unknown_platform"), (4, "fcm", "no_message"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "provider"),
    [(s, Provider.APNS) for s in ("ios", "iPhone", "IPAD", "apns", "Apple")]
    + [(s, Provider.FCM) for s in ("android", "FCM", " google ")],
)
def test_platforms_go_by_many_names(tmp_path: Path, said: str, provider: Provider) -> None:
    number = 0 if provider is Provider.APNS else 1
    with sealed(tmp_path, [device(number, platform=said)]) as snapshot:
        assert snapshot.rows_by_provider[provider] == 1


def test_the_platform_may_be_missing_where_there_is_one_provider(tmp_path: Path) -> None:
    rows = [{"token": apns_token(n)} for n in range(3)]
    with sealed(tmp_path, rows, APNS_ONLY) as snapshot:
        assert users(snapshot) == ["", "", ""]
    with pytest.raises(AudienceError, match="more than one provider"):
        sealed(tmp_path, rows, force=True)


def test_a_payload_too_large_is_told_with_its_row_and_sizes(tmp_path: Path) -> None:
    rows = [*devices(5), device(6, first_name="é" * 2_100)]
    with pytest.raises(CampaignError, match=r"row 6 of the audience.*apns.*4,[23]\d\d bytes.*4,096"):
        sealed(tmp_path, rows)
    assert not (tmp_path / "out").exists()
    with sealed(tmp_path, rows, drop_too_large=True) as snapshot:
        assert snapshot.rows == 5
    assert [(r["row"], r["reason"]) for r in dropped(tmp_path / "out")] == [(6, "payload_too_large")]


def test_a_payload_of_exactly_the_bound_is_sealed(tmp_path: Path) -> None:
    text = APNS_ONLY.replace('"Hi"', '"{{first_name}}"')
    compiled = seal(campaign(text), write(tmp_path / "p.parquet", [device(0, first_name="")]), tmp_path / "p")
    room = 4_096 - len(render(compiled.templates[Provider.APNS][0], [b""], b""))
    # A quotation mark takes two bytes: length counts after escaping.
    name = '"' * (room // 2) + "x" * (room % 2)
    with sealed(tmp_path, [device(0, first_name=name)], text) as snapshot:
        shard = snapshot.shards[0]
        assert shard.fields[0].bytes(0) == json_escape(name)
    with pytest.raises(CampaignError, match="4,097 bytes"):
        sealed(tmp_path, [device(0, first_name=name + "x")], text, force=True)


def test_limit_stops_after_so_many_devices(tmp_path: Path) -> None:
    rows = [device(0), device(0), *devices(50)[2:]]
    with sealed(tmp_path, rows, limit=10) as snapshot:
        assert snapshot.rows == 10
        assert snapshot.manifest.counts.read == 11
        assert snapshot.manifest.counts.dropped == {"duplicate_token": 1}


def test_the_books_of_sealing_balance(tmp_path: Path) -> None:
    rows = [*devices(300), *devices(50), *(device(n, platform="tv") for n in range(300, 320)), device(320, token="x")]
    with sealed(tmp_path, rows, holdout=0.1) as snapshot:
        counts = snapshot.manifest.counts
        assert counts.read == len(rows) == snapshot.rows + sum(counts.dropped.values())
        assert counts.dropped == reasons(tmp_path / "out")


def test_no_row_left_tells_the_counts(tmp_path: Path) -> None:
    with pytest.raises(AudienceError, match="no row is left of 3: unknown_platform 1, bad_token 2") as caught:
        sealed(tmp_path, [device(0, token="x"), device(2, token="y"), device(4, platform="tv")])
    assert "--map token" in caught.value.remedy
    assert list(tmp_path.iterdir()) == [tmp_path / "audience.parquet"]


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    table = pa.table(
        {name: pa.array([], pa.string()) for name in ("user_id", "platform", "token", "locale", "first_name")}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(AudienceError, match="has no rows"):
        seal(campaign(), tmp_path / "a.parquet", tmp_path / "out")


def test_sealing_twice_gives_the_same_digest_whatever_the_path_or_batching(tmp_path: Path) -> None:
    rows = [*devices(2_000), *devices(40)]
    first = sealed(tmp_path, rows, holdout=0.05)
    again = tmp_path / "elsewhere"
    again.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), again / "b.pq", row_group_size=77)
    second = seal(campaign(), again / "b.pq", again / "snapshot", SealOptions(holdout=0.05))
    assert first.digest == second.digest
    assert first.digest != sealed(tmp_path, rows, holdout=0.06, force=True).digest


def test_sealing_a_join_twice_gives_the_same_digest(tmp_path: Path) -> None:
    write(tmp_path / "devices.parquet", devices(5_000))
    (tmp_path / "users.csv").write_text("user_id\n" + "".join(f"user-{n}\n" for n in range(0, 5_000, 3)))
    (tmp_path / "backwards.csv").write_text(
        "user_id\n" + "".join(f"user-{n}\n" for n in reversed(range(0, 5_000, 3)))
    )
    digests = set()
    for number, name in enumerate(("users.csv", "users.csv", "backwards.csv")):
        source = AudienceSource(
            str(tmp_path / name),
            sql="SELECT d.* FROM audience JOIN devices d USING (user_id)",
            tables={"devices": str(tmp_path / "devices.parquet")},
        )
        with seal(campaign(), source, tmp_path / f"out{number}") as snapshot:
            assert snapshot.rows == 1_667
            digests.add(snapshot.digest)
    assert len(digests) == 1


def test_progress_tells_rows_done_and_the_total(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    seal(
        campaign(),
        write(tmp_path / "a.parquet", devices(100)),
        tmp_path / "out",
        progress=lambda *at: told.append(at),
    )
    assert told == [(100, 100)]


def test_the_same_snapshot_may_be_sealed_over_itself_and_another_only_by_force(tmp_path: Path) -> None:
    digest = sealed(tmp_path, devices(10)).digest
    made = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert sealed(tmp_path, devices(10)).digest == digest
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(InputError, match="another snapshot") as caught:
        sealed(tmp_path, devices(11))
    assert "--force" in caught.value.remedy
    assert sealed(tmp_path, devices(11), force=True).rows == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audience.parquet", "out"]


def test_a_damaged_snapshot_is_not_taken_for_the_same(tmp_path: Path) -> None:
    snapshot = sealed(tmp_path, devices(10))
    path = snapshot.shards[0].path
    snapshot.close()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="is damaged"):
        sealed(tmp_path, devices(10))
    sealed(tmp_path, devices(10), force=True).close()


def test_a_folder_that_is_no_snapshot_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not a snapshot"):
        sealed(tmp_path, devices(10))
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(campaign(), write(tmp_path / "a.parquet", devices(100)), tmp_path / "out", progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_only_the_owner_can_look_into_a_snapshot(tmp_path: Path) -> None:
    sealed(tmp_path, devices(4)).close()
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"holdout": 1.0}, "--holdout 1.0"),
        ({"holdout": -0.1}, "--holdout -0.1"),
        ({"limit": 0}, "--limit 0"),
        ({"prefer": "seen"}, "--prefer"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        sealed(tmp_path, devices(2), **options)
