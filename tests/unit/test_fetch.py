"""Shards of a snapshot, fetched and checked: in place, from a store, through a cache that workers share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from audience_data import campaign, devices, write
from s3_server import Bucket, bucket

from flashcast.audience.cache import CACHE_SNAPSHOTS_MAX, remove_oldest
from flashcast.audience.fetch import SnapshotSource
from flashcast.audience.manifest import MANIFEST, read_manifest
from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import open_snapshot
from flashcast.audience.upload import upload_snapshot
from flashcast.errors import EnvironmentFault, FlashcastError, SnapshotError
from flashcast.model import Provider

pytest.importorskip("obstore", reason="obstore is an extra: flashcast[objectstore]")
__all__ = ["bucket"]  # a fixture

URL = "s3://bucket/day/snap"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A snapshot of three APNs shards and three FCM shards."""
    audience = write(tmp_path / "a.parquet", devices(60))
    seal(campaign(), audience, tmp_path / "sealed", SealOptions(shard_rows=10)).close()
    return tmp_path / "sealed"


@pytest.fixture
def digest(folder: Path) -> str:
    return read_manifest(folder).digest


@pytest.fixture
def stored(folder: Path, bucket: Bucket) -> Bucket:
    """The bucket with the snapshot in it."""
    upload_snapshot(folder, URL)
    bucket.gets.clear()
    return bucket


def flip(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_a_snapshot_on_a_disk_is_used_where_it_is(folder: Path, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(str(folder), digest, tmp_path / "cache") as source:
        shard = source.shard(4)
        assert shard.path == folder / "fcm-00001.shard"
        assert (shard.index, shard.base, shard.rows, shard.provider) == (4, 40, 10, Provider.FCM)
        shard.close()
    assert not (tmp_path / "cache").exists()


def test_a_source_tells_what_the_opened_snapshot_tells(folder: Path, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(str(folder), digest, tmp_path) as source, open_snapshot(folder) as opened:
        names = ("name", "digest", "rows", "window_s", "unknown_policy", "pace", "fields", "templates")
        for name in (*names, "rows_by_provider"):
            assert getattr(source, name) == getattr(opened, name), name
        for late, shard in zip(source.shards, opened.shards, strict=True):
            assert (late.index, late.provider, late.rows, late.base) == (
                shard.index, shard.provider, shard.rows, shard.base,
            )  # fmt: skip
            assert late.tokens.bytes(3) == shard.tokens.bytes(3)
            assert late.user_ids.bytes(3) == shard.user_ids.bytes(3)
            assert late.variants.tolist() == shard.variants.tolist()


def test_a_snapshot_on_a_store_is_fetched_shard_by_shard_and_once(stored: Bucket, digest: str, tmp_path: Path) -> None:
    for _ in range(2):
        with SnapshotSource(URL, digest, tmp_path / "cache") as source:
            source.shard(1).close()
            source.shard(1).close()
    assert stored.gets == ["day/snap/manifest.json", "day/snap/apns-00001.shard"]


def test_looking_at_numbers_alone_fetches_no_shard(stored: Bucket, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        assert sum(late.rows for late in source.shards) == source.rows == 60
        assert stored.gets == ["day/snap/manifest.json"]
        assert source.shards[5].user_ids.text(0).startswith("user-")
    assert stored.gets == ["day/snap/manifest.json", "day/snap/fcm-00002.shard"]


def test_everything_can_be_fetched_at_once(stored: Bucket, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        source.fetch_all()
        assert len(stored.gets) == 7
        for index in range(6):
            source.shard(index).close()
    assert len(stored.gets) == 7


def test_only_the_owner_can_read_the_cache(stored: Bucket, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        shard = source.shard(0)
        assert shard.path.stat().st_mode & 0o077 == 0
        assert shard.path.parent.stat().st_mode & 0o077 == 0
        shard.close()


def test_another_snapshot_in_its_place_is_refused(folder: Path, digest: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    seal(campaign(), write(tmp_path / "b.parquet", devices(20)), other, SealOptions(shard_rows=10)).close()
    with pytest.raises(SnapshotError, match=rf"other/{MANIFEST} has the digest .*the launch was sealed with") as caught:
        SnapshotSource(str(other), digest, tmp_path / "cache").manifest()
    assert digest[:16] in caught.value.message


def test_a_manifest_that_is_missing_or_changed_is_refused(stored: Bucket, digest: str, tmp_path: Path) -> None:
    whole = stored.objects["day/snap/manifest.json"]
    stored.objects["day/snap/manifest.json"] = whole.replace(b"Derby", b"Dirby")
    with pytest.raises(SnapshotError, match=r"manifest\.json does not match its digest"):
        SnapshotSource(URL, digest, tmp_path / "cache").manifest()
    del stored.objects["day/snap/manifest.json"]
    with pytest.raises(SnapshotError, match=r"is not a snapshot: it has no manifest\.json"):
        SnapshotSource(URL, digest, tmp_path / "cache").manifest()


@pytest.mark.parametrize("change", [flip, lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_shard_that_is_not_what_was_sealed_is_refused_by_name(
    stored: Bucket, folder: Path, digest: str, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    stored.objects["day/snap/fcm-00000.shard"] = change(stored.objects["day/snap/fcm-00000.shard"])
    (folder / "fcm-00000.shard").write_bytes(change((folder / "fcm-00000.shard").read_bytes()))
    for ref in (URL, str(folder)):
        with SnapshotSource(ref, digest, tmp_path / "cache") as source:
            with pytest.raises(SnapshotError, match=r"fcm-00000\.shard"):
                source.shard(3)
            source.shard(2).close()
    assert not (tmp_path / "cache" / digest / "fcm-00000.shard").exists()


def test_a_shard_that_is_missing_is_told_by_name(stored: Bucket, folder: Path, digest: str, tmp_path: Path) -> None:
    del stored.objects["day/snap/fcm-00000.shard"]
    (folder / "fcm-00000.shard").unlink()
    for ref in (URL, str(folder)):
        with pytest.raises(SnapshotError, match=r"fcm-00000\.shard is missing"):
            SnapshotSource(ref, digest, tmp_path / "cache").shard(3)


def test_a_shard_that_there_is_not_is_told(folder: Path, digest: str, tmp_path: Path) -> None:
    for index in (-1, 6):
        with pytest.raises(SnapshotError, match=f"has 6 shards, not one numbered {index}"):
            SnapshotSource(str(folder), digest, tmp_path).shard(index)


def test_a_cached_file_that_was_damaged_since_is_fetched_again(stored: Bucket, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        source.shard(0).close()
        path = tmp_path / "cache" / digest / "apns-00000.shard"
        told = path.stat()
        path.write_bytes(flip(path.read_bytes()))
        os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
        source.shard(0).close()
        assert stored.gets.count("day/snap/apns-00000.shard") == 2
        (path.parent / MANIFEST).write_bytes(b"{}")
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        assert source.rows == 60
    assert stored.gets.count("day/snap/manifest.json") == 2


def test_a_cached_snapshot_needs_no_store(stored: Bucket, digest: str, tmp_path: Path) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        source.fetch_all()
    stored.objects.clear()
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        assert source.shard(5).rows == 10


def test_workers_that_fetch_at_the_same_time_do_each_other_no_harm(
    stored: Bucket, digest: str, tmp_path: Path
) -> None:
    def work(number: int) -> list[bytes]:
        with SnapshotSource(URL, digest, tmp_path / "cache") as source:
            found = []
            for index in range(6):
                shard = source.shard((index + number) % 6)
                found.append(shard.tokens.bytes(0))
                shard.close()
            return sorted(found)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert all(tokens == found[0] for tokens in found)
    names = {path.name for path in (tmp_path / "cache" / digest).iterdir()}
    assert len(names) == 8, "six shards, the manifest and the lock; nothing half fetched"


def test_the_cache_keeps_what_was_used_last_and_what_is_in_use(tmp_path: Path) -> None:
    for age in range(CACHE_SNAPSHOTS_MAX + 3):
        folder = tmp_path / f"{age:064x}"
        folder.mkdir()
        (folder / ".used").touch()
        os.utime(folder / ".used", (time.time() - 1_000 * age,) * 2)
    oldest = tmp_path / f"{CACHE_SNAPSHOTS_MAX + 2:064x}"
    with (oldest / ".used").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        remove_oldest(tmp_path)
    kept = {*(f"{age:064x}" for age in range(CACHE_SNAPSHOTS_MAX)), oldest.name}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_opening_one_more_snapshot_removes_the_oldest(stored: Bucket, digest: str, tmp_path: Path) -> None:
    for age in range(CACHE_SNAPSHOTS_MAX):
        folder = tmp_path / "cache" / f"{age:064x}"
        folder.mkdir(parents=True)
        (folder / ".used").touch()
        os.utime(folder / ".used", (time.time() - 1_000 * (age + 1),) * 2)
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        source.manifest()
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {digest, *(f"{age:064x}" for age in range(CACHE_SNAPSHOTS_MAX - 1))}


def test_an_open_source_keeps_its_folder_and_a_closed_one_does_not(
    stored: Bucket, digest: str, tmp_path: Path
) -> None:
    with SnapshotSource(URL, digest, tmp_path / "cache") as source:
        source.manifest()
        remove_oldest(tmp_path / "cache", keep=0)
        assert (tmp_path / "cache" / digest).exists()
    remove_oldest(tmp_path / "cache", keep=0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_is_removed_again_and_again_does_not_stop_a_worker(
    stored: Bucket, digest: str, tmp_path: Path
) -> None:
    def remove(_: int) -> None:
        if (tmp_path / "cache").exists():
            remove_oldest(tmp_path / "cache", keep=0)

    def open_one(_: int) -> int:
        with SnapshotSource(URL, digest, tmp_path / "cache") as source:
            shard = source.shard(0)
            shard.close()
            return source.rows

    with ThreadPoolExecutor(4) as pool:
        removals = pool.map(remove, range(60))
        assert set(pool.map(open_one, range(30))) == {60}
        list(removals)


def test_a_cache_that_cannot_be_made_is_told(stored: Bucket, digest: str, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(EnvironmentFault, match="cannot use the cache") as caught:
        SnapshotSource(URL, digest, tmp_path / "cache").manifest()
    assert isinstance(caught.value, FlashcastError)
