"""Audiences on object storage: listed, fetched once, and refused clearly where they cannot be had."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from audience_data import campaign, devices, write
from s3_server import Bucket, bucket

from flashcast.audience.objects import fetch
from flashcast.audience.seal import seal
from flashcast.audience.source import AudienceSource
from flashcast.audience.stores import split_url
from flashcast.errors import AudienceError, EnvironmentFault

obstore = pytest.importorskip("obstore", reason="obstore is an extra: flashcast[objectstore]")
__all__ = ["bucket"]  # a fixture


def memory_store(**objects: bytes) -> Any:
    from obstore.store import MemoryStore

    store = MemoryStore()
    for name, content in objects.items():
        obstore.put(store, name.replace("__", "/"), content)
    return store


def test_one_object_is_fetched_and_kept(tmp_path: Path) -> None:
    store = memory_store(**{"a__b.csv": b"token\n1\n"})
    (path,) = fetch(store, "memory://", "a/b.csv", tmp_path)
    assert path.name == "b.csv"
    assert path.read_bytes() == b"token\n1\n"
    inode = path.stat().st_ino
    assert fetch(store, "memory://", "a/b.csv", tmp_path) == [path]
    assert path.stat().st_ino == inode


def test_an_object_that_changed_is_fetched_again_and_replaces_what_it_was(tmp_path: Path) -> None:
    store = memory_store(**{"b.csv": b"old"})
    (old,) = fetch(store, "memory://", "b.csv", tmp_path)
    obstore.put(store, "b.csv", b"new")
    (new,) = fetch(store, "memory://", "b.csv", tmp_path)
    assert new.read_bytes() == b"new"
    assert not old.exists()


def test_a_pattern_and_a_folder_fetch_what_matches_in_order(tmp_path: Path) -> None:
    store = memory_store(
        **{"d__p-2.csv": b"2", "d__p-1.csv": b"1", "d__q.csv": b"q", "e__p-3.csv": b"3", "d__empty": b""}
    )
    names = [path.read_bytes() for path in fetch(store, "memory://", "d/p-*.csv", tmp_path)]
    assert names == [b"1", b"2"]
    assert [path.read_bytes() for path in fetch(store, "memory://", "d/", tmp_path)] == [b"1", b"2", b"q"]
    assert [path.read_bytes() for path in fetch(store, "memory://", "*/p-[23].csv", tmp_path)] == [b"2", b"3"]


def test_nothing_found_is_told(tmp_path: Path) -> None:
    for pattern in ("nothing.csv", "nothing/*.csv", "nothing/"):
        with pytest.raises(AudienceError, match="no object at"):
            fetch(memory_store(), "memory://", pattern, tmp_path)


def test_only_the_owner_can_read_the_cache(tmp_path: Path) -> None:
    (path,) = fetch(memory_store(**{"b.csv": b"x"}), "memory://", "b.csv", tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket/a/b.parquet", ("s3://bucket", "a/b.parquet")),
        ("gs://bucket/*", ("gs://bucket", "*")),
        ("az://account/container/x", ("az://account", "container/x")),
        ("s3://bucket", ("s3://bucket", "")),
    ],
)
def test_a_url_is_a_store_and_a_pattern(url: str, parts: tuple[str, str]) -> None:
    assert split_url(url) == parts


def test_an_unknown_scheme_is_told(tmp_path: Path) -> None:
    with pytest.raises(AudienceError, match="unknown scheme ftp://"):
        seal(campaign(), "ftp://host/a.csv", tmp_path / "out")


def test_without_obstore_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AudienceError, match="obstore is not installed") as caught:
        seal(campaign(), "s3://bucket/a.parquet", tmp_path / "out")
    assert 'pip install "flashcast[objectstore]"' in caught.value.remedy


def test_an_audience_on_s3_seals_to_the_same_snapshot_as_on_disk(tmp_path: Path, bucket: Bucket) -> None:
    write(tmp_path / "0.parquet", devices(40)[:20])
    write(tmp_path / "1.parquet", devices(40)[20:])
    for part in "01":
        bucket.objects[f"day/part-{part}.parquet"] = (tmp_path / f"{part}.parquet").read_bytes()
    bucket.objects["day/other.csv"] = b"x"
    expected = seal(campaign(), write(tmp_path / "whole.parquet", devices(40)), tmp_path / "expected").digest
    for number in range(2):
        source = AudienceSource("s3://bucket/day/part-*.parquet", cache=tmp_path / "cache")
        assert seal(campaign(), source, tmp_path / f"out{number}").digest == expected
    assert sorted(bucket.gets) == ["day/part-0.parquet", "day/part-1.parquet"]


def test_an_object_that_is_not_on_s3_is_told(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises(AudienceError, match=r"no object at s3://bucket/nothing\.parquet"):
        seal(campaign(), AudienceSource("s3://bucket/nothing.parquet", cache=tmp_path / "cache"), tmp_path / "out")


def test_a_disk_that_cannot_hold_the_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(EnvironmentFault, match=r"cannot fetch memory:///b\.csv: .*cache"):
        fetch(memory_store(**{"b.csv": b"x"}), "memory://", "b.csv", tmp_path / "cache")
