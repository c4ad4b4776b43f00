"""Places: the same promises on a disk and on object storage, and snapshots copied to either."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audience_data import campaign, devices, write
from s3_server import Bucket, bucket

from flashcast.audience.manifest import MANIFEST
from flashcast.audience.places import Found, LocalPlace, MissingFileError, Place, StorePlace, place
from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.snapshot import open_snapshot
from flashcast.audience.upload import upload_snapshot
from flashcast.errors import EnvironmentFault, InputError, SnapshotError

pytest.importorskip("obstore", reason="obstore is an extra: flashcast[objectstore]")
__all__ = ["bucket"]  # a fixture


def memory_place(path: str = "folder/snap") -> StorePlace:
    from obstore.store import MemoryStore

    return StorePlace(MemoryStore(), "memory://", path)


@pytest.fixture(params=["disk", "memory", "s3"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind, with nothing in it."""
    if request.param == "s3":
        request.getfixturevalue("bucket")
        return place("s3://bucket/folder/snap")
    return memory_place() if request.param == "memory" else place(tmp_path / "folder" / "snap")


def test_what_was_put_is_there_under_its_name(here: Place, tmp_path: Path) -> None:
    here.put("a.bin", b"one")
    (tmp_path / "file").write_bytes(b"two!")
    here.put("b.bin", tmp_path / "file")
    assert [here.get("a.bin"), here.get("b.bin")] == [b"one", b"two!"]
    assert here.list() == [Found("a.bin", 3), Found("b.bin", 4)]
    assert here.list("b") == [Found("b.bin", 4)]
    assert here.exists("a.bin")
    here.fetch("b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"two!"


def test_putting_again_replaces(here: Place) -> None:
    here.put("a.bin", b"one")
    here.put("a.bin", b"another")
    assert here.get("a.bin") == b"another"
    assert here.list() == [Found("a.bin", 7)]


def test_what_was_deleted_is_gone_and_deleting_it_again_is_no_error(here: Place) -> None:
    here.put("a.bin", b"one")
    here.delete("a.bin")
    here.delete("a.bin")
    assert here.list() == []
    assert not here.exists("a.bin")


def test_a_file_that_is_not_there_is_missing(here: Place, tmp_path: Path) -> None:
    for ask in (lambda: here.get("no.bin"), lambda: here.fetch("no.bin", tmp_path / "copy")):
        with pytest.raises(MissingFileError, match=r"folder/snap/no\.bin is missing"):
            ask()
    assert not here.exists("no.bin")
    assert here.child("nowhere").list() == []


def test_a_child_and_a_neighbour_are_places_of_their_own(here: Place) -> None:
    here.put("a.bin", b"0")
    here.child("sub").put("a.bin", b"11")
    here.beside(".outcomes").child("launch-1").put("a.bin", b"222")
    assert here.list() == [Found("a.bin", 1)]
    assert here.child("sub").list() == [Found("a.bin", 2)]
    assert here.beside(".outcomes").child("launch-1").list() == [Found("a.bin", 3)]
    assert here.child("sub").url == f"{here.url}/sub"
    assert here.beside(".outcomes").url == f"{here.url}.outcomes"


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", ".hidden", "-x", "a b", "a\n"])
def test_a_name_that_could_lead_out_of_a_place_is_refused(here: Place, name: str) -> None:
    for use in (here.get, here.exists, here.delete, here.child, lambda n: here.put(n, b"")):
        with pytest.raises(InputError, match="is no name for a file"):
            use(name)


def test_the_bottom_of_a_bucket_is_a_place_too(bucket: Bucket) -> None:
    root = place("s3://bucket")
    root.put("a.bin", b"1")
    assert bucket.objects == {"a.bin": b"1"}
    assert root.child("sub").url == "s3://bucket/sub"
    assert root.list() == [Found("a.bin", 1)]


def test_a_large_file_goes_in_parts_and_comes_back_whole(bucket: Bucket, tmp_path: Path) -> None:
    whole = bytes(range(256)) * (12 << 12)  # 12 MiB: more than one part
    (tmp_path / "large").write_bytes(whole)
    there = place("s3://bucket/x")
    there.put("large.bin", tmp_path / "large")
    assert len(bucket.uploads) == 1
    there.fetch("large.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == whole


# --- a disk -----------------------------------------------------------------------------------------------


def test_a_reader_of_a_folder_sees_whole_files_only(tmp_path: Path) -> None:
    there = place(tmp_path / "place")
    contents = [bytes([n]) * 100_000 for n in range(40)]
    there.put("a.bin", contents[0])
    writer = threading.Thread(target=lambda: [there.put("a.bin", content) for content in contents])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(there.get("a.bin"))
        assert [found.name for found in there.list()] == ["a.bin"]
    writer.join()
    assert seen <= set(contents)


def test_files_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    there = place(tmp_path / "place")
    there.put("a.bin", b"x")
    assert (tmp_path / "place").stat().st_mode & 0o077 == 0
    assert (tmp_path / "place" / "a.bin").stat().st_mode & 0o777 == 0o600


def test_what_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    there = place(tmp_path / "place")
    there.put("a.bin", b"old")
    with pytest.raises(MissingFileError):
        there.put("a.bin", tmp_path / "no such file")
    assert list((tmp_path / "place").iterdir()) == [tmp_path / "place" / "a.bin"]
    assert there.get("a.bin") == b"old"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match=r"cannot write .*file/place/a\.bin"):
        place(tmp_path / "file" / "place").put("a.bin", b"")


def test_a_local_place_has_an_absolute_path_and_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("my snapshots/one").local == tmp_path / "my snapshots" / "one"
    assert place("my snapshots/one").beside(".outcomes").url == f"{tmp_path}/my snapshots/one.outcomes"
    assert place(f"file://{tmp_path}/a%20b").local == tmp_path / "a b"
    assert place("s3://bucket/x").local is None


# --- addresses and faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["https://user:hush@host/x", "https://host/x?sig=hush", "s3://bucket/x?X-Amz-Signature=hush", "gs://b/x#hush"],
)
def test_an_address_with_a_secret_in_it_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InputError, match="has no user, password, query or signature") as caught:
        place(url)
    assert "hush" not in str(caught.value)


def test_the_container_of_an_azure_address_is_no_secret() -> None:
    assert place("abfss://container@account.dfs.core.windows.net/x").url.endswith("/x")


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(InputError, match="unknown scheme ftp://"):
        place("ftp://host/x")


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("obstore"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="obstore is not installed") as caught:
        place("s3://bucket/x")
    assert 'pip install "flashcast[objectstore]"' in caught.value.remedy


def test_a_store_that_refuses_is_a_fault_of_the_environment_without_secrets(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAHUSH")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    bucket.refuse.add("x/a.bin")
    there = place("s3://bucket/x")
    asked: list[Callable[[], Any]] = [lambda: there.get("a.bin"), lambda: there.put("a.bin", b"1")]
    for ask in asked:
        with pytest.raises(EnvironmentFault, match=r"cannot (read|write) s3://bucket/x/a\.bin") as caught:
            ask()
        assert "hush" not in str(caught.value).lower()
        assert "credentials" in caught.value.remedy


# --- snapshots ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A snapshot of three APNs shards and three FCM shards."""
    audience = write(tmp_path / "a.parquet", devices(60))
    seal(campaign(), audience, tmp_path / "sealed", SealOptions(shard_rows=10)).close()
    return tmp_path / "sealed"


class Recording(LocalPlace):
    """A folder that remembers the order of what was written, and loses what it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.puts: list[str] = []
        self.cut: str | None = None
        self.broken: str | None = None

    def put(self, name: str, data: bytes | Path) -> None:
        if name == self.broken:
            raise EnvironmentFault("the line is cut")
        self.puts.append(name)
        super().put(name, b"" if name == self.cut else data)


def test_an_uploaded_snapshot_is_the_one_that_was_sealed(folder: Path, tmp_path: Path, bucket: Bucket) -> None:
    arrived: list[tuple[int, int | None]] = []
    there = upload_snapshot(folder, "s3://bucket/day/snap", progress=lambda done, all_: arrived.append((done, all_)))
    for found in there.list():
        there.fetch(found.name, _in(tmp_path / "back") / found.name)
    with open_snapshot(folder) as sealed, open_snapshot(tmp_path / "back") as back:
        assert back.digest == sealed.digest
    assert bucket.puts[-1] == "day/snap/manifest.json"
    assert arrived[-1][0] == arrived[-1][1]


def test_an_upload_that_breaks_off_leaves_no_snapshot(folder: Path, tmp_path: Path) -> None:
    there = Recording(tmp_path / "there")
    there.broken = "fcm-00001.shard"
    with pytest.raises(EnvironmentFault, match="the line is cut"):
        upload_snapshot(folder, there)
    assert not there.exists(MANIFEST)
    there.broken = None
    upload_snapshot(folder, there)
    open_snapshot(tmp_path / "there").close()


def test_a_file_that_arrives_cut_short_is_found_before_the_manifest_goes(folder: Path, tmp_path: Path) -> None:
    there = Recording(tmp_path / "there")
    there.cut = "apns-00001.shard"
    with pytest.raises(EnvironmentFault, match=r"apns-00001\.shard did not arrive whole"):
        upload_snapshot(folder, there)
    assert not there.exists(MANIFEST)


def test_the_same_snapshot_is_not_uploaded_twice(folder: Path, tmp_path: Path) -> None:
    there = Recording(tmp_path / "there")
    upload_snapshot(folder, there)
    there.puts.clear()
    upload_snapshot(folder, there)
    assert there.puts == []
    (tmp_path / "there" / "apns-00000.shard").unlink()
    upload_snapshot(folder, there)
    open_snapshot(tmp_path / "there").close()


def test_another_snapshot_is_replaced_only_when_told(folder: Path, tmp_path: Path) -> None:
    there = Recording(tmp_path / "there")
    upload_snapshot(folder, there)
    seal(campaign(), write(tmp_path / "b.parquet", devices(20)), tmp_path / "other", SealOptions(shard_rows=10)).close()
    with pytest.raises(InputError, match="another snapshot is at"):
        upload_snapshot(tmp_path / "other", there)
    there.broken = "apns-00000.shard"
    with pytest.raises(EnvironmentFault):
        upload_snapshot(tmp_path / "other", there, replace=True)
    assert not there.exists(MANIFEST), "the old one lost files, so it is no snapshot any more"
    there.broken = None
    upload_snapshot(tmp_path / "other", there, replace=True)
    with open_snapshot(tmp_path / "other") as other:
        assert there.get(MANIFEST) == other.manifest.to_bytes()


def test_a_damaged_snapshot_is_not_uploaded(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "fcm-00000.shard").read_bytes()
    (folder / "fcm-00000.shard").write_bytes(whole[:-1] + b"?")
    with pytest.raises(SnapshotError, match=r"fcm-00000\.shard"):
        upload_snapshot(folder, Recording(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def _in(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
