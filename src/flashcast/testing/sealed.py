"""Small snapshots for simulations, sealed by the real code; and their tokens, read back by a parser of our own."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from flashcast.audience.seal import SealOptions, seal
from flashcast.audience.synthetic import write_synthetic
from flashcast.campaign.load import parse_campaign
from flashcast.campaign.records import SnapshotRef
from flashcast.testing.evidence import ShardFacts
from flashcast.testing.virtual_time import EPOCH_S

CAMPAIGN: Final = """\
name = "simulated"
window_s = 60
[apns]
topic = "com.example.app"
push_type = "alert"
priority = 10
alert = { title = "Goal", body = "It is one to nil." }
[fcm]
notification = { title = "Goal", body = "It is one to nil." }
"""
_SHAPES: Final = ((160, 1.0, 40), (150, 0.6, 30), (90, 0.0, 30), (130, 0.7, 65), (60, 0.5, 11))
"""Devices, the share of APNs among them, rows of a shard. Some hundred rows: a run takes a fifth of a second."""


@dataclass(frozen=True)
class Sealed:
    """A snapshot and what is in it."""

    ref: SnapshotRef
    shards: tuple[ShardFacts, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(len(shard.tokens) for shard in self.shards)


def seal_small(folder: Path) -> list[Sealed]:
    """Seals the shapes a simulation chooses from into ``folder``. The same every time."""
    made = []
    for number, (devices, apns_share, shard_rows) in enumerate(_SHAPES):
        table, out = folder / f"devices-{number}.parquet", folder / f"snapshot-{number}"
        write_synthetic(table, devices, apns_share, seed=number)
        campaign = parse_campaign(CAMPAIGN.encode(), "campaign.toml")
        with seal(campaign, str(table), out, SealOptions(shard_rows=shard_rows)) as snapshot:
            ref = SnapshotRef(
                url=str(out), digest=snapshot.digest, sealed_at=EPOCH_S,
                rows={provider: rows for provider, rows in snapshot.rows_by_provider.items() if rows},
                shards=len(snapshot.shards),
            )  # fmt: skip
        made.append(Sealed(ref, tuple(read_tokens(out))))
    return made


def read_tokens(snapshot: Path) -> list[ShardFacts]:
    """The tokens of every shard, in the manifest's order; parsed as docs/reference/snapshot.md describes the files."""
    manifest = json.loads((snapshot / "manifest.json").read_bytes())
    found = []
    for facts in manifest["shards"]:
        data = (snapshot / facts["file"]).read_bytes()
        _, _, length = struct.unpack_from("<8sII", data)
        header = json.loads(data[16 : 16 + length])
        sections = {section["name"]: section for section in header["sections"]}
        where = sections["tokens.offsets"]
        offsets = np.frombuffer(data, "<u4", where["length"], where["offset"]).tolist()
        start = sections["tokens.data"]["offset"]
        tokens = [data[start + a : start + b].decode() for a, b in pairwise(offsets)]
        found.append(ShardFacts(header["provider"], tokens))
    return found
