"""The snapshot's files: what is written is what is mapped, and what was changed is refused."""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audience_data import campaign, devices, write

from flashcast.audience.arrays import NOTHING, VarBytes
from flashcast.audience.manifest import read_manifest
from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.shards import COLD_ALIGNMENT, MAGIC, Columns, Shard, file_sha256, write_shard
from flashcast.audience.snapshot import open_snapshot
from flashcast.errors import SnapshotError
from flashcast.model import Provider


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A snapshot of three APNs shards and three FCM shards, and some dropped rows."""
    rows = [*devices(60), *devices(5)]
    seal(campaign(), write(tmp_path / "a.parquet", rows), tmp_path / "snapshot", SealOptions(shard_rows=10)).close()
    return tmp_path / "snapshot"


def strings(*values: bytes) -> VarBytes:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.uint32)
    return VarBytes(np.frombuffer(b"".join(values), np.uint8), offsets)


def columns() -> Columns:
    return Columns(
        strings(b"aa", b"bbbb", b""),
        np.array([0, 3, 249], np.uint8),
        (strings(b"x", b"", b"yz"), NOTHING),
        strings(b"u1", b"u2", b"u3"),
    )


def test_a_shard_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "s", Provider.FCM, columns())
    assert written == file_sha256(tmp_path / "s")
    assert written.bytes == (tmp_path / "s").stat().st_size
    shard = Shard(tmp_path / "s", index=4, base=100)
    assert (shard.provider, shard.rows, shard.index, shard.base) == (Provider.FCM, 3, 4, 100)
    assert [shard.tokens.bytes(row) for row in range(3)] == [b"aa", b"bbbb", b""]
    assert [shard.fields[0].bytes(row) for row in range(3)] == [b"x", b"", b"yz"]
    assert shard.fields[1].offsets.size == 0
    assert shard.variants.tolist() == [0, 3, 249]
    assert [shard.user_ids.text(row) for row in range(3)] == ["u1", "u2", "u3"]


def test_a_shard_is_laid_out_as_documented(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", Provider.APNS, columns())
    raw = (tmp_path / "s").read_bytes()
    magic, version, length = struct.unpack_from("<8sII", raw)
    assert (magic, version) == (MAGIC, 1)
    header = json.loads(raw[16 : 16 + length])
    sections = {section["name"]: section for section in header["sections"]}
    assert list(sections) == [
        "tokens.offsets", "tokens.data", "variants",
        "field.0.offsets", "field.0.data", "field.1.offsets", "field.1.data", "user_ids.offsets", "user_ids.data",
    ]  # fmt: skip
    assert all(section["offset"] % 64 == 0 for section in sections.values())
    assert sections["user_ids.offsets"]["offset"] % COLD_ALIGNMENT == 0
    offsets = np.frombuffer(
        raw, "<u4", count=sections["tokens.offsets"]["length"], offset=sections["tokens.offsets"]["offset"]
    )
    assert offsets.tolist() == [0, 2, 6, 6]
    assert raw[sections["tokens.data"]["offset"] :][:6] == b"aabbbb"


def test_a_mapped_shard_cannot_be_written(folder: Path) -> None:
    with open_snapshot(folder) as snapshot:
        assert not snapshot.shards[0].tokens.data.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            snapshot.shards[0].variants[0] = 1


def test_closing_a_snapshot_unmaps_its_shards(folder: Path) -> None:
    snapshot = open_snapshot(folder)
    shard = snapshot.shards[0]
    snapshot.close()
    assert shard.tokens.rows == 0
    mapping: mmap.mmap = shard._map
    assert mapping.closed


def test_closing_waits_for_views_that_are_still_held(folder: Path) -> None:
    snapshot = open_snapshot(folder)
    held = snapshot.shards[0].tokens
    snapshot.close()
    assert len(held.bytes(0)) == 64


def test_an_opened_snapshot_says_what_was_sealed(folder: Path) -> None:
    with open_snapshot(folder) as snapshot:
        assert snapshot.name == "Derby day"
        assert snapshot.window_s == 30
        assert snapshot.digest == snapshot.manifest.digest
        assert [shard.index for shard in snapshot.shards] == list(range(6))
        assert [shard.base for shard in snapshot.shards] == [0, 10, 20, 30, 40, 50]
        assert {p: len(t) for p, t in snapshot.templates.items()} == {Provider.APNS: 2, Provider.FCM: 1}
        assert "30 apns, 30 fcm" in repr(snapshot)


@pytest.mark.parametrize("name", ["apns-00001.shard", "fcm-00002.shard", "dropped.parquet", "manifest.json"])
def test_a_flipped_byte_anywhere_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for at in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SnapshotError):
            open_snapshot(folder)
    (folder / name).write_bytes(whole)
    open_snapshot(folder).close()


@pytest.mark.parametrize("name", ["apns-00000.shard", "fcm-00001.shard", "dropped.parquet", "manifest.json"])
def test_a_file_that_is_cut_short_longer_or_missing_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for changed in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n"):
        (folder / name).write_bytes(changed)
        with pytest.raises(SnapshotError):
            open_snapshot(folder)
    (folder / name).unlink()
    with pytest.raises(SnapshotError, match=r"missing|not a snapshot"):
        open_snapshot(folder)


def _edits() -> dict[str, Any]:
    def first_shard(document: dict[str, Any]) -> None:
        document["shards"].pop()

    def message(document: dict[str, Any]) -> None:
        body = document["templates"]["apns"][0]["body"]
        body[0] = body[0].replace("Hello", "Buy!!")

    return {
        "digest": lambda d: d.update(digest="0" * 64),
        "no digest": lambda d: d.update(digest=""),
        "window": lambda d: d.update(window_s=31.0),
        "counts": lambda d: d["counts"].update(read=7),
        "a shard less": first_shard,
        "the message": message,
        "an unknown key": lambda d: d.update(note="hello"),
        "a path out of the folder": lambda d: d["shards"][0].update(file="../a.parquet"),
    }


@pytest.mark.parametrize("edit", _edits())
def test_an_edited_manifest_is_refused(folder: Path, edit: str) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    _edits()[edit](document)
    path.write_text(json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n")
    with pytest.raises(SnapshotError) as caught:
        open_snapshot(folder, verify=False)
    assert "Seal the audience again" in caught.value.remedy


def test_a_key_given_twice_in_the_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('  "window_s"', '  "window_s": 1.0,\n  "window_s"'))
    with pytest.raises(SnapshotError, match="does not match its digest"):
        read_manifest(folder)


def test_a_shard_in_the_place_of_another_is_refused(folder: Path) -> None:
    first, second = (folder / "apns-00000.shard"), (folder / "fcm-00000.shard")
    other = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(other)
    with pytest.raises(SnapshotError):
        open_snapshot(folder)
    with pytest.raises(SnapshotError, match="not the shard"):
        open_snapshot(folder, verify=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"NOTSHARD" + raw[8:],
        lambda raw: raw[:8] + struct.pack("<I", 2) + raw[12:],
        lambda raw: raw[:12] + struct.pack("<I", 2**31) + raw[16:],
        lambda raw: raw.replace(b'"uint32"', b'"uint99"'),
        lambda raw: raw.replace(b'"length":4', b'"length":9', 1),
        lambda raw: raw[:4_100],
        lambda raw: raw[:10],
        lambda raw: b"",
    ],
)
def test_a_damaged_shard_is_refused_even_unverified(tmp_path: Path, change: Any) -> None:
    write_shard(tmp_path / "s", Provider.APNS, columns())
    (tmp_path / "s").write_bytes(change((tmp_path / "s").read_bytes()))
    with pytest.raises(SnapshotError):
        Shard(tmp_path / "s")


def test_a_folder_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        open_snapshot(tmp_path)
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        open_snapshot(tmp_path / "nowhere")
